"""Five thousand images with everything going wrong: a worker killed, the whole run killed, started again, counted.

    python benchmarks/five_thousand.py --out benchmarks/results/five-thousand-tiny-cpu.json

`sweeps sample` in a process of its own, the bundled base, SIGKILL to a worker at a quarter and to every process of the
run at half. Then the same command again, which must draw what is missing and leave what is there alone, as the files'
times tell. At the end every image is there once, and each row of metadata.parquet names its file's bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tyro
from recording import record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    images_per_plane: int = 500
    """Images per plane and sampler: ten times as many in all."""
    num_steps: int = 20
    """Denoising steps."""
    run: Path | None = None
    """Folder of the run, new; a temporary one where not given."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Run, kill, run again, count; write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        result = kill_and_count(options, (options.run or Path(scratch) / "run").resolve())
    record(options, cores=os.cpu_count(), **result)


def kill_and_count(options: Options, run: Path) -> dict[str, Any]:
    """Return what was counted and timed."""
    total = 10 * options.images_per_plane
    command = [
        *(str(Path(sys.executable).parent / "sweeps"), "sample", "demo", "--out", str(run)),
        *("--lora.ranks", "8", "--sampling.rank", "8", "--lora.num-steps", "40", "--compare-per-plane", "1"),
        *("--judge.num-images", "200", "--judge.num-heldout", "50", "--judge.epochs", "1"),
        *("--sampling.images-per-plane", str(options.images_per_plane)),
        *("--sampling.num-steps", str(options.num_steps)),
    ]
    first, log = time.time(), run.with_suffix(".log")
    run.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        _wait_for(process, run, total // 4, log)
        victim = next(pid for pid in _processes(process.pid) if b"SampleShards" in _command(pid))
        os.kill(victim, signal.SIGKILL)
        _wait_for(process, run, total // 2, log)
        for pid in [process.pid, *_processes(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    killed_after = time.time() - first
    time.sleep(2)
    complete = _complete(run)
    before = {name: (run / "synthetic" / name).stat().st_mtime_ns for name in complete}
    again = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds = time.time() - again
    rows = pq.read_table(run / "synthetic" / "metadata.parquet").to_pylist()
    files = {str(file.relative_to(run / "synthetic")) for file in (run / "synthetic").rglob("*.png")}
    torn = [
        r["file_name"]
        for r in rows
        if hashlib.sha256((run / "synthetic" / r["file_name"]).read_bytes()).hexdigest() != r["sha256"]
    ]
    again_drawn = [name for name, then in before.items() if (run / "synthetic" / name).stat().st_mtime_ns != then]
    stage = next(r for r in pq.read_table(run / "tables" / "stages.parquet").to_pylist() if r["stage"] == "sample")
    result = {
        "images_asked": total, "rows": len(rows), "files": len(files),
        "distinct_ids": len({r["image_id"] for r in rows}),
        "rows_without_file": len({r["file_name"] for r in rows} - files), "torn_files": len(torn),
        "leftovers": len([p for p in (run / "synthetic").rglob("*") if p.is_file() and p.suffix not in
                          (".png", ".parquet", ".json")]),
        "complete_when_killed": len(complete), "of_these_drawn_again": len(again_drawn),
        "drawn_by_second_run": stage["num_done"], "reused_by_second_run": stage["num_reused"],
        "seconds_until_killed": killed_after, "seconds_second_run": seconds,
        "images_per_second_second_run": stage["num_done"] / stage["seconds"],
    }  # fmt: skip
    assert len(rows) == len(files) == result["distinct_ids"] == total, result
    assert not (result["rows_without_file"] or torn or again_drawn or result["leftovers"]), result
    return result


def _complete(run: Path) -> list[str]:
    """Return the files of the shards that were complete when the run was killed."""
    parts = (run / "parts" / "shards").glob("synthetic-*.parquet")
    return [name for part in parts for name in pq.read_table(part)["file_name"].to_pylist()]


def _wait_for(process: subprocess.Popen, run: Path, count: int, log: Path) -> None:
    """Wait until so many images are there."""
    while sum(1 for _ in (run / "synthetic").rglob("*.png")) < count:
        assert process.poll() is None, log.read_text()[-2000:]
        time.sleep(0.5)


def _processes(root: int) -> list[int]:
    """Return every process below one, Ray's among them."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(words[1])
    below, found = {root}, []
    while more := [pid for pid, parent in parents.items() if parent in below and pid not in below]:
        below |= set(more)
        found += more
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()

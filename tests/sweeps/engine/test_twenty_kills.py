"""The whole study, killed twenty times at random moments: workers, a node, the driver. All real processes.

It ends with 0, and with the tables of a run that nothing disturbed. And a GPU that takes two minutes to come.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths

from ..mini import results
from .clusters import RayProcesses

pytestmark = pytest.mark.slow


def start(words: list[str], cluster: RayProcesses, log: Path) -> subprocess.Popen[bytes]:
    """Start the command on the cluster; what it says is added to a file."""
    command = [sys.executable, "-m", "sweeps", *words, "--address", cluster.address]
    with log.open("a") as stream:
        return subprocess.Popen(
            command, env={**cluster.environment, "OMP_NUM_THREADS": "1"}, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip


def at_work(cluster: RayProcesses) -> list[int]:
    """Return the processes of the cluster that do a trial or a shard by now."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = file.read_bytes().decode(errors="replace")
            ours = str(cluster.folder).encode() in (file.parent / "environ").read_bytes()
        except OSError:
            continue
        if ours and name.startswith("ray::") and not name.startswith(("ray::IDLE", "ray::Mailbox")):
            found.append(int(file.parent.name))
    return found


def test_twenty_kills_change_no_table(mini_flags: list[str], finished: RunPaths, tmp_path: Path) -> None:
    rng, out, log = random.Random(13), tmp_path / "run", tmp_path / "said"
    words = ["run", "demo", *mini_flags, "--out", str(out), "--max-retries", "20"]
    kills = ["worker"] * 14 + ["node"] * 2 + ["driver"] * 4
    rng.shuffle(kills)
    with RayProcesses(num_cpus=1) as cluster:
        node = cluster.add_node(num_cpus=1)
        process = start(words, cluster, log)
        for kill in kills:
            time.sleep(rng.uniform(1.0, 5.0))
            if kill == "worker":
                while not (working := at_work(cluster)):
                    assert process.poll() is None, log.read_text()[-3000:]
                    time.sleep(0.1)
                os.kill(rng.choice(working), signal.SIGKILL)
            elif kill == "node":
                cluster.kill(node)
                node = cluster.add_node(num_cpus=1)
            else:
                assert process.poll() is None, log.read_text()[-3000:]
                process.kill()
                process.wait()
                process = start(words, cluster, log)
        assert process.wait(900) == 0, log.read_text()[-3000:]
    lost = [a for a in AttemptLog(out / "attempts.jsonl").attempts if a.status != "SUCCEEDED"]
    assert {a.error_type for a in lost} == {"WorkerDied"}, lost
    assert results(RunPaths(out)) == results(finished)


def test_a_node_with_a_gpu_that_takes_two_minutes_is_waited_for(
    mini_flags: list[str], finished: RunPaths, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "said"
    words = ["run", "demo", *mini_flags, "--out", str(out), "--device", "gpu", "--wait-for-gpus", "300"]
    with RayProcesses(num_cpus=1) as cluster:
        late = threading.Timer(120, cluster.add_node, kwargs={"num_cpus": 1, "num_gpus": 1})
        process = start(words, cluster, log)
        late.start()
        assert process.wait(900) == 0, log.read_text()[-3000:]
        late.join()
    said = log.read_text()
    assert said.count("waiting for a GPU") >= 8 and "Ray reports" in said
    assert results(RunPaths(out)) == results(finished)

"""`make cluster-demo`: what it refuses, and the whole of it on a small study."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths

SCRIPT = Path(__file__).parents[2] / "deploy" / "cluster_demo.py"


def demo(words: Sequence[str], timeout: float = 60) -> subprocess.CompletedProcess:
    """Run the script."""
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=timeout)


def test_a_folder_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    done = demo(["--out", str(tmp_path)])
    assert done.returncode == 1 and done.stderr.startswith(f"cluster-demo: out: '{tmp_path}' is there already")


@pytest.mark.slow
def test_a_worker_is_killed_and_the_study_ends_with_its_report(mini_flags: list[str], tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    fewer = ["--lora.num-steps", "200", "--grid.models", "ResNet18", "--grid.regimes", "HB", "--grid.table2-regimes",
             "AF", "--amounts.numbers", "--amounts.shares"]  # fmt: skip
    before = {p.pid for p in psutil.process_iter()}
    done = demo(["--out", str(paths.root), *mini_flags, *fewer], timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed a worker after" in done.stdout and f"report: {paths.report}" in done.stdout
    attempts = AttemptLog(paths.attempts).attempts
    died = [a for a in attempts if a.error_type == "WorkerDied"]
    assert died and all(f"retried: {a.label}" in done.stdout for a in died)
    assert {a.trial_id for a in died} <= {a.trial_id for a in attempts if a.status == "SUCCEEDED"}
    assert paths.report.is_file()
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and str(tmp_path) in str(p.cmdline())]
    assert left == [], "a process of the demo goes on"

"""What `status` reads of a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

from sweeps.console.progress import PlainLines, Shown, clock
from sweeps.core.attempts import attempt_of
from sweeps.core.paths import RunPaths
from sweeps.core.step import Kind, Step

TRIAL = Kind(name="grid", stage="grid", work="none:none", runs_on="gpu", is_trial=True)


def steps(num: int) -> list[Step]:
    return [Step(kind=TRIAL, label=f"trial {i}", config={"i": i}, cost=10.0) for i in range(num)]


def test_status_reads_what_runs_where_and_how_long_it_takes_still(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    shown, (first, second) = Shown(PlainLines(), paths), steps(2)
    shown.begin([first, second])
    shown.started(first)
    shown.placed(first, {"node": "0123456789ab", "gpu_ids": "1"})
    shown.ended(first, attempt_of(first, "SUCCEEDED", 1, seconds=1.0))
    shown.started(second)
    shown.placed(second, {"node": "0123456789ab", "gpu_ids": None})
    shown.progress(second, 0.25, "loss 1.0")
    shown.write_now()
    now = json.loads(paths.now.read_text())
    assert (now["num_done"], now["num_steps"]) == (1, 2) and now["seconds_left"] is not None
    (running,) = now["running"]
    assert (running["label"], running["device"], running["fraction"]) == ("trial 1", "CPU", 0.25)
    shown.end()
    assert not paths.now.exists()


def test_clock() -> None:
    assert [clock(s) for s in (5, 65, 7265)] == ["0:05", "1:05", "2:01:05"]

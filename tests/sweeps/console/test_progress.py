"""What `status` reads of a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.console.outlook import Outlook, in_words
from sweeps.console.progress import PlainLines, Shown
from sweeps.console.words import clock
from sweeps.core.attempts import attempt_of
from sweeps.core.paths import RunPaths
from sweeps.core.step import Kind, Step
from sweeps.core.to_go import ToGo

TRIAL = Kind(name="grid", stage="grid", work="none:none", runs_on="gpu", is_trial=True)


def steps(num: int) -> list[Step]:
    return [Step(kind=TRIAL, label=f"trial {i}", config={"i": i}, cost=10.0) for i in range(num)]


def test_status_reads_what_runs_where_and_how_long_it_takes_still(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    shown, (first, second) = Shown(PlainLines(), paths), steps(2)
    room = {"gpu": 1.0}, {step.key: ("gpu", 0.5) for step in (first, second)}
    shown.begin([first, second], Outlook(ToGo([first, second], room), spent=lambda: 0.25, price=2.0))
    assert json.loads(paths.now.read_text())["seconds_left"] is None, "nothing ended, so nothing is known"
    shown.started(first)
    shown.placed(first, {"node": "0123456789ab", "gpu_ids": "1"})
    shown.ended(first, attempt_of(first, "SUCCEEDED", 1, seconds=3600.0))
    shown.started(second)
    shown.placed(second, {"node": "0123456789ab", "gpu_ids": None})
    shown.progress(second, 0.0, "loss 1.0")
    shown.write_now()
    now = json.loads(paths.now.read_text())
    assert (now["num_done"], now["num_steps"]) == (1, 2)
    assert now["seconds_left"] == pytest.approx(3600, abs=5), "as long as the first, of the same cost"
    assert now["gpu_hours_left"] == pytest.approx(0.5, abs=0.01)
    assert in_words(now).endswith("0.50 GPU-hours to go, 0.25 used (1.00 and 0.50 in money)")
    assert in_words({"seconds_left": 65.0, "gpu_hours_left": 0.0, "gpu_hours_spent": 0.0}) == "about 1:05 left"
    (running,) = now["running"]
    assert (running["label"], running["device"], running["fraction"]) == ("trial 1", "CPU", 0.0)
    shown.end()
    assert not paths.now.exists()


def test_clock() -> None:
    assert [clock(s) for s in (5, 65, 7265)] == ["0:05", "1:05", "2:01:05"]

"""What a person sees while steps run: lines and bars, and what `status` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.console.progress import LiveBars, PlainLines, Shown, clock
from sweeps.core.attempts import attempt_of
from sweeps.core.paths import RunPaths
from sweeps.core.step import Kind, Step

TRIAL = Kind(name="grid", stage="grid", work="none:none", runs_on="gpu", is_trial=True)


def steps(num: int) -> list[Step]:
    return [Step(kind=TRIAL, label=f"trial {i}", config={"i": i}, cost=10.0) for i in range(num)]


@pytest.mark.parametrize("display", [LiveBars, PlainLines])
def test_steps_are_shown_as_they_end(display, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown, (good, bad) = Shown(display(), RunPaths(tmp_path)), steps(2)
    shown.begin([good, bad])
    for step in (good, bad):
        shown.started(step)
        shown.progress(step, 0.5, "half way")
    shown.ended(good, attempt_of(good, "SUCCEEDED", 1, seconds=3.0, metrics={"train_loss": 0.25}))
    shown.ended(bad, attempt_of(bad, "FAILED", 1, error_type="ValueError", error_message="the second one is wrong"))
    shown.end()
    said = capsys.readouterr().err
    assert "trial 0: train loss 0.25, 3 s" in said
    assert "trial 1" in said and "ValueError: the second one is wrong" in said and "failed" in said.lower()


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

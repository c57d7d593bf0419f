"""What a person sees of steps as they end: done, failed with why, images counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.console.progress import LiveBars, PlainLines, Progress, Shown
from sweeps.core.attempts import attempt_of
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.engine.in_process import InProcess

from ..engine.fake_steps import SHARD, Bench


def run_shown(display: Progress, steps: list[Step], bench: Bench) -> None:
    watch = Shown(display, RunPaths(bench.root / "run"))
    watch.begin(steps)
    InProcess().run(steps, store=bench.store, log=bench.log, watch=watch)
    watch.end()


@pytest.mark.parametrize("display", [LiveBars(), PlainLines()])
def test_steps_are_shown_as_they_end(display: Progress, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path)
    bad = bench.fake("trial 1", raises="the second one is wrong")
    run_shown(display, [bench.fake("trial 0"), bad, bench.fake("trial 2", bad)], bench)
    captured = capsys.readouterr()
    said = captured.err
    assert captured.out == "", "standard output holds results only"
    if isinstance(display, LiveBars):
        assert "done trial 0" in said and "failed trial 1" in said
    else:
        assert "[1/3] trial 1: FAILED, " in said and "[3/3] trial 0: " in said, "the critical path comes first"
    assert "ValueError: the second one is wrong" in said
    assert "trial 2: " in said and "blocked: trial 'trial 1' failed (ValueError)" in said
    assert not RunPaths(bench.root / "run").now.exists(), "nothing runs now"


def test_a_step_counts_once_and_shards_that_are_blocked_are_not_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path)
    display, need = PlainLines(), bench.fake("rank", raises="too large")
    shards = [bench.fake(f"shard {i}", need, kind=SHARD) for i in range(3)]
    steps = [need, *shards, bench.fake("features", *shards), bench.fake("judge")]
    for step in shards:  # what a shard of images has besides
        object.__setattr__(step.config, "rows", ())
    watch = Shown(display, RunPaths(tmp_path / "run"))
    watch.begin(steps)
    InProcess().run(steps, store=bench.store, log=bench.log, watch=watch)
    watch.ended(need, attempt_of(need, "FAILED", 2, error_type="WorkerDied", error_message="lost"))
    watch.end()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("]")[0] for line in lines if "[" in line] == ["  [1/3", "  [2/3", "  [3/3"]
    assert not any("shard" in line for line in lines) and lines[-1] == "  rank: FAILED, WorkerDied: lost"
    assert [a.status for a in bench.log.attempts].count("BLOCKED") == 4, "each is a row"

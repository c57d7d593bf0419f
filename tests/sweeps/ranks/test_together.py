"""Ranks trained in one pass: the same steps, files and tables as when trained apart, from one training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fulora.errors import InputError, raise_if_any
from fulora.experiment import Experiment
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.ranks.plan import TOGETHER

from ..studies import do, done, missing, planned


def in_one_pass(experiment: Experiment) -> Experiment:
    return replace(experiment, lora=replace(experiment.lora, together=True))


def test_ranks_in_one_pass_leave_what_ranks_apart_leave(experiment: Experiment, tmp_path: Path) -> None:
    apart, joint = RunPaths(tmp_path / "apart"), RunPaths(tmp_path / "joint")
    apart_steps, joint_steps = planned(experiment, apart).ranks, planned(in_one_pass(experiment), joint).ranks
    assert [step.key for step in joint_steps] == [step.key for step in apart_steps], "neither way makes the other stale"
    folders = zip(done(apart_steps, apart), done(joint_steps, joint), strict=True)
    for step, (one, other) in zip(apart_steps, folders, strict=True):
        names = [{file.name for file in folder.iterdir()} for folder in (one, other)]
        assert names[0] == names[1]
        losses = [read_rows(folder / "loss.parquet", "loss") for folder in (one, other)]
        for first, second in zip(*losses, strict=True):
            assert first.keys() == second.keys() and first["step"] == second["step"]
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        records = [paths.store.done(step) for paths in (apart, joint)]
        assert records[0] and records[1] and records[0].metrics.keys() == records[1].metrics.keys()
        assert records[0].metrics["num_trainable"] == records[1].metrics["num_trainable"]
        assert records[1].notes == (
            "trained in one pass (rank 2, rank 4): steps per second and memory are those of the pass",
        )


def test_a_damaged_rank_is_taken_over_again_without_training(experiment: Experiment, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    steps = planned(in_one_pass(experiment), paths).ranks
    folders = done(steps, paths)
    (trained,) = (paths.root / "steps" / TOGETHER.name).iterdir()
    written = (trained / "done.json").stat().st_mtime_ns
    file = folders[0] / "pytorch_lora_weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert [attempt.label for attempt in do(steps, paths)] == ["rank 2"]
    assert file.read_bytes() == whole
    assert (trained / "done.json").stat().st_mtime_ns == written
    file.unlink()
    assert steps[0] in missing(steps, paths)


def test_buckets_are_refused(experiment: Experiment) -> None:
    lora = replace(experiment.lora, together=True, bucket_step_px=8)
    with pytest.raises(InputError, match=r"lora\.together.*buckets"):
        raise_if_any(lora.validate())

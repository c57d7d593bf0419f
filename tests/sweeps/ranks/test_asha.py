"""ASHA prunes poor candidates, in a real search of one candidate at a time, so that their order is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fulora.experiment import Experiment
from sweeps.console.progress import Quiet
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.elsewhere import search
from sweeps.engine.options import ClusterOptions
from sweeps.ranks.search_space import LoraSearch

pytestmark = pytest.mark.slow  # a process for each candidate after a pruned one

NUM_STEPS, RUNG = 2, 1
"""Candidates are compared at the first held-out loss; the next rung is the last step, where nothing is pruned."""
SPACE = LoraSearch(
    num_trials=5, ranks=(2,), alpha_over_rank=(1.0,), learning_rate=(1e-4, 3e-1), targets=("cross_attention",),
    reduction_factor=2, objective="heldout_loss",
)  # fmt: skip


@pytest.fixture(scope="module")
def searched(mini_experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Return a run whose search tried one candidate after the other."""
    lora = replace(mini_experiment.lora, num_steps=NUM_STEPS, heldout_every=1, log_every=1, images_per_plane=4)
    paths, options = RunPaths(tmp_path_factory.mktemp("asha") / "run"), ClusterOptions(num_cpus=1)
    assert search(replace(mini_experiment, lora=lora), SPACE, paths, options=options, progress=Quiet()) == []
    return paths


def searched_attempts(paths: RunPaths) -> list[Attempt]:
    """Return the candidates in the order in which they were tried: that of the log."""
    return [a for a in AttemptLog(paths.attempts).attempts if a.stage == "search"]


def losses(attempt: Attempt, paths: RunPaths) -> dict[int, float]:
    """Return the held-out loss at every step that is known of a candidate."""
    if attempt.status == "PRUNED":
        return {attempt.metrics["stopped_at_step"]: attempt.metrics["heldout_loss"]}
    table = read_rows(paths.root / "steps" / "search" / attempt.trial_id / "loss.parquet", "loss")
    return {row["step"]: row["heldout_loss"] for row in table if row["heldout_loss"] is not None}


def test_the_first_candidate_is_never_pruned_and_the_last_step_is_saved(searched: RunPaths) -> None:
    attempts = searched_attempts(searched)
    assert len(attempts) == SPACE.num_trials and attempts[0].status == "SUCCEEDED"
    for attempt in attempts:
        if attempt.status == "SUCCEEDED":
            assert max(losses(attempt, searched)) == NUM_STEPS
            folder = searched.root / "steps" / "search" / attempt.trial_id
            assert (folder / "pytorch_lora_weights.safetensors").is_file()


def test_a_candidate_worse_than_the_median_of_those_before_it_is_a_pruned_row(searched: RunPaths) -> None:
    attempts = searched_attempts(searched)
    rows = {row["trial_id"]: row for row in read_rows(searched.table("search"), "search")}
    assert {a.status for a in attempts} == {"SUCCEEDED", "PRUNED"} and len(rows) == len(attempts)
    assert all(a.started_at and a.provenance["host"] and a.provenance["node"] for a in attempts)
    before: list[float] = []
    for attempt in attempts:
        loss = losses(attempt, searched)[RUNG]
        worse = bool(before) and loss > np.median(before)
        assert (attempt.status == "PRUNED") == worse, (attempt.label, loss, before)
        before.append(loss)
        assert rows[attempt.trial_id]["stopped_at_step"] == (RUNG if worse else None)
        assert (searched.root / "steps" / "search" / attempt.trial_id).exists() != worse

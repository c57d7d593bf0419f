"""Rank trials share a GPU where a measured one fits, and the run says what it took."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fulora.device import Footprint
from fulora.experiment import Amounts, Experiment
from sweeps.catalog import build_catalog
from sweeps.classifier_grid import measure_models
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.experiment import make_plan, run
from sweeps.lora_sweep import measure_rank, rank_trials
from sweeps.packing import packed, share_of_gpu
from sweeps.trials import Trial, read_attempts
from sweeps.tuning import run_trials

GIB = 2**30


@pytest.fixture(scope="module")
def local_ray():
    """Ray on this machine with one logical GPU."""
    with connected(ClusterOptions(num_cpus=2, num_gpus=1)) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("needed", "total", "trials", "gpus", "share"),
    [
        (8, 141, 4, 1, 0.25),  # all four
        (30, 80, 4, 1, 0.5),  # two of four
        (30, 80, 4, 4, 1.0),  # a GPU each: nothing is gained by sharing
        (8, 24, 4, 2, 0.5),
        (22, 24, 4, 1, 1.0),  # fits alone only
        (90, 24, 4, 1, 1.0),  # does not fit: the trial itself says so
        (8, 80, 3, 1, 0.3333),
    ],
)
def test_no_more_share_than_fit_and_no_more_than_needed(needed, total, trials, gpus, share) -> None:
    found = share_of_gpu(Footprint(needed * GIB, total * GIB, ""), num_trials=trials, num_gpus=gpus)
    assert found == share
    together = int(1 / found + 1e-3)
    assert together * found <= 1 and (together == 1 or together * needed <= total)


def test_a_share_that_was_given_and_gpus_enough_are_left_alone() -> None:
    def never() -> Footprint:
        raise AssertionError("nothing is to be measured")

    given = Cluster(num_cpus=4, num_gpus=1, num_nodes=1, gpus_per_trial=0.5)
    enough = Cluster(num_cpus=4, num_gpus=4, num_nodes=1, shares_gpus=True)
    none = Cluster(num_cpus=4, num_gpus=0, num_nodes=1, shares_gpus=True)
    for cluster in (given, enough, none):
        assert packed(never, num_trials=4, cluster=cluster) == (cluster, "")


def _meet(trial: Trial, paths: RunPaths, report) -> dict:
    """Wait until all three trials are here: none returns unless all run at once."""
    (paths.root / f"here-{trial.seed}").touch()
    end = time.monotonic() + 60
    while len(list(paths.root.glob("here-*"))) < 3:
        if time.monotonic() > end:
            raise TimeoutError("the others did not come")
        time.sleep(0.05)
    return {"device": "cpu"}


def test_trials_run_together_on_one_logical_gpu_and_it_is_said_what_the_largest_took(
    mini_experiment: Experiment, tmp_path: Path, local_ray
) -> None:
    """The memory is the process's here, for there is no card; the steps measured and the packing are the real ones."""
    paths = RunPaths(tmp_path / "run")
    records, _ = build_catalog(mini_experiment, paths, Quiet())
    largest = max(rank_trials(mini_experiment, records), key=lambda trial: trial.cost)
    cluster = replace(local_ray, shares_gpus=True)
    shared, words = packed(partial(measure_rank, largest, paths, mini_experiment), num_trials=3, cluster=cluster)
    assert words.startswith("3 trials share a GPU: a trial takes ") and "GiB (measured on cpu" in words
    assert shared.gpus_per_trial == 0.3333 and shared.num_slots == 3
    trials = [Trial(stage="lora", label=f"{i}", config={"i": i}, inputs={}, seed=i) for i in range(3)]
    attempts = run_trials(trials, {"lora": _meet}, paths=paths, cluster=shared, progress=Quiet())
    assert [(a.status, a.provenance["gpu_ids"]) for a in attempts] == [("SUCCEEDED", "0")] * 3


def test_classifiers_share_a_gpu_as_the_largest_of_their_models_lets_them(
    mini_experiment: Experiment, tmp_path: Path, local_ray
) -> None:
    paths = RunPaths(tmp_path / "run")
    records, _ = build_catalog(mini_experiment, paths, Quiet())
    grid = replace(mini_experiment.grid, regimes=("ES",), table2_regimes=(), keep="best", num_validation=5)
    experiment = replace(mini_experiment, grid=grid, amounts=Amounts())
    trials = make_plan(experiment, records).grid
    assert [t.config["model"] for t in trials] == ["MobileNet v2", "ResNet18"]
    cluster = replace(local_ray, shares_gpus=True)
    shared, words = packed(partial(measure_models, trials, experiment), num_trials=len(trials), cluster=cluster)
    assert words.startswith("2 trials share a GPU: a trial takes ") and shared.num_slots == 2


def test_what_cannot_be_measured_gets_a_gpu_each_and_a_note(local_ray) -> None:
    cluster = Cluster(num_cpus=2, num_gpus=1, num_nodes=1, shares_gpus=True)

    def fails() -> Footprint:
        raise MemoryError("the device has too little memory for batch_size 2")

    same, words = packed(fails, num_trials=3, cluster=cluster)
    assert same == cluster and "too little memory for batch_size 2" in words and "a GPU for each" in words


@pytest.mark.slow
def test_a_run_on_one_logical_gpu_shares_it_and_notes_what_a_rank_took(
    mini_experiment: Experiment, tmp_path: Path, local_ray
) -> None:
    paths = RunPaths(tmp_path / "run")
    assert run(mini_experiment, paths, options=ClusterOptions(), progress=Quiet(), until="lora") == []
    (note,) = [r["note"] for r in read_rows(paths.table("notes"), "notes") if "GiB" in r["note"]]
    assert note.startswith("3 trials share a GPU: a trial takes ")
    assert [a.provenance["gpu_ids"] for a in read_attempts(paths)] == ["0"] * 3

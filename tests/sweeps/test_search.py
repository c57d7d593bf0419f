"""The search for LoRA settings: its rows, resuming, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fulora.data.records import ImageRecord
from fulora.errors import InputError
from fulora.experiment import Experiment
from sweeps.cli import parse_launch
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.engine.options import ClusterOptions
from sweeps.experiment import run
from sweeps.search import candidates, search_lora
from sweeps.search_space import LoraSearch
from sweeps.trials import read_attempts

SPACE = LoraSearch(
    num_trials=3, ranks=(2, 4), alpha_over_rank=(1.0, 2.0), learning_rate=(1e-4, 3e-2), targets=("cross_attention",),
    reduction_factor=2, objective="kid",
)  # fmt: skip


@pytest.fixture(scope="module")
def experiment(mini_experiment: Experiment) -> Experiment:
    """Return the small study, its loss looked at often enough for candidates to be stopped."""
    return replace(
        mini_experiment,
        lora=replace(mini_experiment.lora, num_steps=6, heldout_every=3, log_every=1, images_per_plane=4),
    )


@pytest.fixture(scope="module")
def searched(experiment: Experiment, tmp_path_factory, local_ray) -> RunPaths:
    """Return a run in which the search was done up to two candidates, then continued to three."""
    paths = RunPaths(tmp_path_factory.mktemp("search") / "run")
    options = ClusterOptions(num_cpus=2)
    assert run(experiment, paths, options=options, progress=Quiet(), search=replace(SPACE, num_trials=2)) == []
    assert run(experiment, paths, options=options, progress=Quiet(), search=SPACE) == []
    return paths


def test_every_candidate_is_a_row_and_a_continued_search_adds_the_difference(searched: RunPaths) -> None:
    attempts = [a for a in read_attempts(searched) if a.stage == "search"]
    assert len(attempts) == 3 and {a.status for a in attempts} <= {"SUCCEEDED", "PRUNED"}
    assert len({a.trial_id for a in attempts}) == 3
    for attempt in attempts:
        assert attempt.config["rank"] in SPACE.ranks and 1e-4 <= attempt.config["learning_rate"] <= 3e-2
        assert attempt.config["alpha"] / attempt.config["rank"] in SPACE.alpha_over_rank
        assert 0 < attempt.metrics["heldout_loss"] < 5
        stopped = attempt.metrics.get("stopped_at_step")
        assert (stopped is None) == (attempt.status == "SUCCEEDED")
        assert searched.candidate(attempt.trial_id).is_dir() == (attempt.status == "SUCCEEDED")
    assert read_rows(searched.trials, "trials")


def test_the_candidate_whose_images_are_closest_comes_first(searched: RunPaths) -> None:
    rows = read_rows(searched.table("search"), "search")
    done = [row for row in rows if row["status"] == "SUCCEEDED"]
    assert len(rows) == 3 and done and rows[: len(done)] == done
    assert [row["kid"] for row in done] == sorted(row["kid"] for row in done)
    assert {row["objective"] for row in rows} == {"kid"}
    for row in done:
        assert row["num_generated"] == 10 and row["num_real"] >= 10 and "judge" in row["features"]
        assert len(list((searched.candidate(row["trial_id"]) / "samples").glob("*.png"))) == 10


def test_a_finished_search_does_nothing_and_a_narrower_one_takes_up_what_lies_inside(
    searched: RunPaths, experiment: Experiment
) -> None:
    before = sorted(file.name for file in searched.attempts.iterdir())
    run(experiment, searched, options=ClusterOptions(num_cpus=2), progress=Quiet(), search=SPACE)
    assert sorted(file.name for file in searched.attempts.iterdir()) == before
    inputs = {
        key: next(a for a in read_attempts(searched) if a.stage == "search").provenance[f"{key}_hash"]
        for key in ("data", "heldout", "base", "real", "sampling", "features")
    }
    everything = candidates(experiment, SPACE, inputs, searched)
    narrow = candidates(experiment, replace(SPACE, ranks=(2,)), inputs, searched)
    assert len(everything) == 3
    assert [a.trial_id for a in narrow] == [a.trial_id for a in everything if a.config["rank"] == 2]
    assert candidates(experiment, SPACE, {**inputs, "data": "other"}, searched) == []
    assert candidates(experiment, replace(SPACE, objective="heldout_loss"), inputs, searched) == []


@pytest.mark.slow
def test_a_candidate_that_fails_is_a_row_and_the_search_goes_on(experiment: Experiment, tmp_path, local_ray) -> None:
    paths = RunPaths(tmp_path / "run")
    space = replace(SPACE, num_trials=1, targets=("nothing_of_this_name",))
    failed = run(experiment, paths, options=ClusterOptions(num_cpus=2), progress=Quiet(), search=space)
    attempts = [a for a in read_attempts(paths) if a.stage == "search"]
    assert [a.status for a in attempts] == ["FAILED"] and len(failed) == 1
    assert all("matches no layer" in (a.error_message or "") for a in failed)
    assert read_rows(paths.table("search"), "search") == []


def test_without_images_to_hold_out_there_is_nothing_to_compare_by(experiment: Experiment, tmp_path) -> None:
    records = [
        ImageRecord(
            image_id=f"{plane}-{index}", source="spanish", path=str(tmp_path / "x.png"), plane=plane,
            patient_id=str(index), centre="Spain", machine="", split="train", pixel_hash=f"{plane}{index}",
            sha256="", width_px=8, height_px=8,
        )
        for plane in ("other", "abdomen", "brain", "femur", "thorax")
        for index in range(2)
    ]  # fmt: skip
    paths = RunPaths(tmp_path)
    with pytest.raises(InputError, match=r"images of all of them[\s\S]*images-per-plane"):
        search_lora(experiment, SPACE, records, paths=paths, cluster=None, progress=Quiet())  # type: ignore[arg-type]


def test_the_verb_lora_alone_can_search_and_faults_are_named_at_once() -> None:
    launch = parse_launch(["demo", "--search", "optuna", "--space.num-trials", "0", "--space.ranks"], "lora")
    text = "\n".join(launch.space.validate())
    assert "space.num_trials: 0" in text and "space.ranks" in text
    assert "space.learning_rate" in "\n".join(replace(SPACE, learning_rate=(1.0, 0.1)).validate())
    assert LoraSearch().validate() == []
    with pytest.raises(SystemExit):
        parse_launch(["demo", "--search", "optuna"], "run")

"""The search for LoRA settings: its rows, resuming, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fulora.data.records import ImageRecord
from fulora.errors import InputError
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.console.progress import Quiet
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.elsewhere import search
from sweeps.engine.options import ClusterOptions
from sweeps.images.quality_plan import real_selections
from sweeps.launch import launch_of
from sweeps.ranks.candidates import Search, plan_search
from sweeps.ranks.search_space import LoraSearch
from sweeps.study import make_plan

from ..mini import Said
from ..studies import catalog_of, made_up

SPACE = LoraSearch(
    num_trials=3, ranks=(2, 4), alpha_over_rank=(1.0, 2.0), learning_rate=(1e-4, 3e-2), targets=("cross_attention",),
    reduction_factor=2, objective="kid",
)  # fmt: skip
OPTIONS = ClusterOptions(num_cpus=2)


@pytest.fixture(scope="module")
def searched(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory, local_ray: object) -> RunPaths:
    """Return a run in which the search was done up to two candidates, then continued to three."""
    paths = RunPaths(tmp_path_factory.mktemp("search") / "run")
    for space in (replace(SPACE, num_trials=2), SPACE):
        assert search(experiment, space, paths, options=OPTIONS, progress=Quiet()) == []
    return paths


def attempts_of(paths: RunPaths) -> list[Attempt]:
    return [a for a in AttemptLog(paths.attempts).attempts if a.stage == "search"]


def planned_search(
    experiment: Experiment, space: LoraSearch, paths: RunPaths, records: list[ImageRecord] | None = None
) -> Search:
    records = catalog_of(experiment, paths) if records is None else records
    plan = make_plan(experiment, records)
    others = real_selections(experiment, records, plan.compared)[1] if space.objective == "kid" else None
    return plan_search(experiment, space, records, plan.judge, others)


def test_every_candidate_is_a_row_and_a_continued_search_adds_the_difference(
    searched: RunPaths, experiment: Experiment
) -> None:
    attempts, found = attempts_of(searched), planned_search(experiment, SPACE, searched)
    assert len(attempts) == 3 and {a.status for a in attempts} <= {"SUCCEEDED", "PRUNED"}
    assert len({a.trial_id for a in attempts}) == 3
    for attempt in attempts:
        assert attempt.config["rank"] in SPACE.ranks and 1e-4 <= attempt.config["learning_rate"] <= 3e-2
        assert attempt.config["alpha"] / attempt.config["rank"] in SPACE.alpha_over_rank
        assert 0 < attempt.metrics["heldout_loss"] < 5
        stopped = attempt.metrics.get("stopped_at_step")
        assert (stopped is None) == (attempt.status == "SUCCEEDED")
        step = found.step(found.settings(attempt))
        assert step.key == attempt.trial_id, "its settings are those that make its key"
        assert (searched.store.done(step) is not None) == (attempt.status == "SUCCEEDED")
    trials = read_rows(searched.trials, "trials")
    found_there = {r["trial_id"]: r["status"] for r in trials if r["stage"] == "search"}
    assert found_there == {a.trial_id: a.status for a in attempts}


def test_the_candidate_whose_images_are_closest_comes_first(searched: RunPaths, experiment: Experiment) -> None:
    rows = read_rows(searched.table("search"), "search")
    done = [row for row in rows if row["status"] == "SUCCEEDED"]
    assert len(rows) == 3 and done and rows[: len(done)] == done
    assert [row["kid"] for row in done] == sorted(row["kid"] for row in done)
    assert {row["objective"] for row in rows} == {"kid"}
    found = planned_search(experiment, SPACE, searched)
    for row in done:
        assert row["num_generated"] == 10 and row["num_real"] >= 10 and "judge" in row["features"]
        step = found.step({name: row[name] for name in found.settings(attempts_of(searched)[0])})
        assert len(list((searched.store.folder(step) / "samples").glob("*.png"))) == 10


def test_a_finished_search_does_nothing_and_a_narrower_one_takes_up_what_lies_inside(
    searched: RunPaths, experiment: Experiment
) -> None:
    before = searched.attempts.read_bytes()
    said = Said()
    assert search(experiment, SPACE, searched, options=OPTIONS, progress=said) == []
    assert said.lines and not any("running on" in line for line in said.lines), "Ray was asked for"
    assert searched.attempts.read_bytes() == before
    attempts = attempts_of(searched)
    everything = planned_search(experiment, SPACE, searched).found(attempts)
    narrow = planned_search(experiment, replace(SPACE, ranks=(2,)), searched).found(attempts)
    assert len(everything) == 3
    assert [a.trial_id for a in narrow] == [a.trial_id for a in everything if a.config["rank"] == 2]
    others = replace(experiment, lora=replace(experiment.lora, images_per_plane=3))
    assert planned_search(others, SPACE, searched).found(attempts) == [], "of other images"
    assert planned_search(experiment, replace(SPACE, objective="heldout_loss"), searched).found(attempts) == []


@pytest.mark.slow
def test_a_candidate_that_fails_is_a_row_and_the_search_goes_on(
    experiment: Experiment, tmp_path, local_ray: object
) -> None:
    paths = RunPaths(tmp_path / "run")
    space = replace(SPACE, num_trials=1, targets=("nothing_of_this_name",))
    failed = search(experiment, space, paths, options=OPTIONS, progress=Quiet())
    attempts = attempts_of(paths)
    assert [a.status for a in attempts] == ["FAILED"] and len(failed) == 1
    assert all("matches no layer" in (a.error_message or "") for a in failed)
    assert read_rows(paths.table("search"), "search") == []


@pytest.mark.slow
def test_a_candidate_whose_process_is_killed_is_tried_again(mini_flags: list[str], tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    space = ["--search", "optuna", "--space.num-trials", "1", "--space.objective", "heldout_loss"]
    longer = ["--lora.num-steps", "400", "--num-cpus", "1", "--out", str(paths.root)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "lora", "demo", *mini_flags, *space, *longer],
        stderr=subprocess.PIPE,
        text=True,
    )
    mine = psutil.Process(process.pid)
    while not (working := [p for p in mine.children(recursive=True) if "ImplicitFunc" in p.name()]):
        assert process.poll() is None
        time.sleep(0.2)
    while not any(paths.tune.glob("starts/*")):
        assert process.poll() is None
        time.sleep(0.2)
    working[0].kill()
    assert process.wait(300) == 0, process.communicate()[1][-3000:]
    attempts = attempts_of(paths)
    assert [(a.status, a.attempt, a.error_type) for a in attempts] == [
        ("FAILED", 1, "WorkerDied"), ("SUCCEEDED", 2, None)
    ]  # fmt: skip


def test_without_images_to_hold_out_there_is_nothing_to_compare_by(experiment: Experiment, tmp_path) -> None:
    records = [
        replace(made_up("spanish", plane, index), patient_id=str(index))
        for plane in (plane.name for plane in PLANES)
        for index in range(2)
    ]
    judge = make_plan(experiment, records, with_grid=False).judge
    with pytest.raises(InputError, match=r"LoRA is trained on all patients[\s\S]*images-per-plane"):
        plan_search(experiment, SPACE, records, judge, None)


def test_a_candidates_key_holds_its_settings_its_images_and_how_it_is_scored(experiment: Experiment, tmp_path) -> None:
    splits = (("spanish", "train"), ("african", "train"), ("african", "test"))
    records = [made_up(source, p.name, n, split) for source, split in splits for p in PLANES for n in range(20)]
    paths = RunPaths(tmp_path)
    settings = {"rank": 2, "alpha_over_rank": 2.0, "learning_rate": 1e-3, "num_steps": 6, "targets": "cross_attention"}
    key = planned_search(experiment, SPACE, paths, records).step(settings).key
    wider = replace(SPACE, num_trials=9, ranks=(2, 4, 8), learning_rate=(1e-5, 1e-1), reduction_factor=4)
    assert planned_search(experiment, wider, paths, records).step(settings).key == key
    fewer = replace(experiment, lora=replace(experiment.lora, images_per_plane=3))
    more_samples = replace(experiment, compare_per_plane=2)
    others = [planned_search(e, SPACE, paths, records).step(settings).key for e in (fewer, more_samples)]
    others += [planned_search(experiment, SPACE, paths, records).step({**settings, "rank": 4}).key]
    others += [planned_search(experiment, replace(SPACE, objective="heldout_loss"), paths, records).step(settings).key]
    assert len({key, *others}) == 5


def test_the_command_lora_alone_can_search_and_faults_are_named_at_once() -> None:
    launch = launch_of("lora", ["demo", "--search", "optuna", "--space.num-trials", "0", "--space.ranks"])
    text = "\n".join(launch.space.validate())
    assert "space.num_trials: 0" in text and "space.ranks" in text
    assert "space.learning_rate" in "\n".join(replace(SPACE, learning_rate=(1.0, 0.1)).validate())
    assert LoraSearch().validate() == []
    with pytest.raises(SystemExit):
        launch_of("run", ["demo", "--search", "optuna"])

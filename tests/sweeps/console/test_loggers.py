"""Loggers: what they hold is what the run's own files hold; without a package, or failing, they say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fulora.errors import InputError
from fulora.experiment import Experiment
from sweeps.console.loggers import Logged
from sweeps.core.attempts import attempt_of, success_of
from sweeps.core.paths import RunPaths
from sweeps.core.selections import SELECTION
from sweeps.core.step import Step, closure
from sweeps.core.tables import read_rows
from sweeps.engine.options import ClusterOptions
from sweeps.run import run
from sweeps.sources.catalog import read_catalog
from sweeps.study import make_plan, plan_catalog

from ..mini import Said


def steps_of(experiment: Experiment, paths: RunPaths) -> list[Step]:
    """Return the steps of a finished study."""
    records = read_catalog(paths.store.folder(plan_catalog(experiment)), paths.root)
    plan = make_plan(experiment, records)

    def is_done(step: Step) -> bool:
        return paths.store.done(step) is not None

    every = closure([*plan.targets("report"), *plan.summaries("report", is_done)])
    return [step for step in every if step.kind != SELECTION]


def log_all(name: str, experiment: Experiment, paths: RunPaths) -> tuple[list[str], list[Step]]:
    """Tell a logger of every step of a finished study and one that failed; return what is said of it, and the steps."""
    said, steps = Said(), steps_of(experiment, paths)
    watch = Logged(said, paths, [name])
    watch.begin(steps)
    for step in steps:
        record = paths.store.done(step)
        assert record is not None
        watch.ended(step, success_of(step, record))
    failing = replace(next(s for s in steps if s.kind.name == "grid"), label="that fails")
    watch.ended(failing, attempt_of(failing, "FAILED", 2, error_type="ValueError", error_message="no"))
    watch.end()
    assert len(said.done) > sum(s.kind.is_trial for s in steps), "what is shown beside it"
    return [line for line in said.lines if "--log" in line], steps


def losses(paths: RunPaths, rank: int) -> list[tuple[int, float]]:
    """Return the losses that a fine-tuning recorded."""
    return [(row["step"], row["loss"]) for row in read_rows(paths.adapter(rank) / "loss.parquet", "loss")]


def accuracy(paths: RunPaths) -> dict[str, float]:
    """Return Table 1's accuracies by the names they are logged under."""
    rows = read_rows(paths.table("table1"), "table1")
    names = [f"table1/{row['regime']}/{row['model']}/accuracy".replace("+", "_").replace(" ", "_") for row in rows]
    return {name: row["accuracy"] for name, row in zip(names, rows)}


def scalars(folder: Path) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Yield the curves of a folder of event files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {file.parent for file in folder.rglob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    yield from ((tag, [(e.step, e.value) for e in events.Scalars(tag)]) for tag in events.Tags()["scalars"])
    yield from ((tag, []) for tag in events.Tags()["images"])


def test_tensorboard_reads_the_losses_scores_and_images(mini_experiment: Experiment, copied: RunPaths) -> None:
    said, steps = log_all("tensorboard", mini_experiment, copied)
    assert said == []
    folder = copied.logs / "tensorboard"
    trials = {f"{s.kind.name}/{s.label}" for s in steps if s.kind.is_trial}
    shown = {str(f.parents[1].relative_to(folder)) for f in folder.rglob("events*")}
    assert shown == trials | {
        "grid/that fails",
        "scores",
        "quality",
        "images/base",
        "images/rank-002",
        "images/rank-004",
    }
    for rank in (2, 4):
        found = dict(scalars(folder / "lora" / f"rank {rank}"))
        steps_, values = zip(*losses(copied, rank))
        assert [s for s, _ in found["loss"]] == list(steps_)
        np.testing.assert_allclose([v for _, v in found["loss"]], values, rtol=1e-6)
        assert "result/heldout_loss" in found and "result/seconds" in found
    label = next(s.label for s in steps if s.kind.name == "grid")
    found = dict(scalars(folder / "grid" / label))
    assert [epoch for epoch, _ in found["loss"]] == [1] and found["accuracy"][0][1] >= 0
    scores = dict(scalars(folder / "scores"))
    for name, value in accuracy(copied).items():
        assert scores[f"result/{name}"][0][1] == pytest.approx(value, rel=1e-6)
    assert dict(scalars(folder / "images" / "rank-004")).keys() == {"other", "abdomen", "brain", "femur", "thorax"}


def test_mlflow_holds_the_same(mini_experiment: Experiment, copied: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said, _ = log_all("mlflow", mini_experiment, copied)
    assert said == []
    client = mlflow.MlflowClient(f"sqlite:///{copied.logs / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(copied.root.name)
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    history = client.get_metric_history(runs["lora/rank 2"].info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == losses(copied, 2)
    assert runs["lora/rank 2"].data.params["rank"] == "2" and runs["lora/rank 2"].info.status == "FINISHED"
    assert runs["grid/that fails"].info.status == "FAILED"
    expected = {f"result/{name}": value for name, value in accuracy(copied).items()}
    assert expected.items() <= runs["scores"].data.metrics.items()
    assert {f.path for f in client.list_artifacts(runs["images/base"].info.run_id, "images")} >= {"images/brain"}


def test_wandb_keeps_runs_offline(mini_experiment: Experiment, copied: RunPaths) -> None:
    pytest.importorskip("wandb")
    said, steps = log_all("wandb", mini_experiment, copied)
    assert said == []
    runs = list((copied.logs / "wandb").rglob("run-*.wandb"))
    assert len(runs) == sum(s.kind.is_trial for s in steps) + 6
    assert any(b"heldout_loss" in file.read_bytes() for file in runs)


def test_a_run_logs_what_it_does_and_not_what_was_done(mini_experiment: Experiment, copied: RunPaths) -> None:
    options = ClusterOptions(executor="process", log=("tensorboard",))
    experiment = replace(mini_experiment, lora=replace(mini_experiment.lora, ranks=(2, 4, 6)))
    assert run(experiment, copied, options=options, progress=Said(), until="lora") == []
    found = {str(f.parents[1].relative_to(copied.logs)) for f in copied.logs.rglob("events*")}
    assert found == {"tensorboard/lora/rank 6"}


def test_a_logger_that_fails_is_left_out_and_said(mini_experiment: Experiment, copied: RunPaths) -> None:
    copied.logs.write_text("in the way")
    said, _ = log_all("tensorboard", mini_experiment, copied)
    (line,) = said
    assert line.startswith("note: --log tensorboard failed and is left out (")


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="it is installed")
def test_a_package_that_is_not_there_is_named_before_any_work(mini_experiment: Experiment, tmp_path: Path) -> None:
    options = ClusterOptions(executor="process", log=("mlflow",))
    with pytest.raises(InputError, match=r"log: 'mlflow' is not installed\. Install it: pip install mlflow"):
        run(mini_experiment, RunPaths(tmp_path / "run"), options=options, progress=Said())
    assert not (tmp_path / "run" / "steps").exists()

"""Three places that a trial's record goes to. Each imports its package when it is made.

In: a folder for its files, the name of the run. Out: `write(record)`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BATCH = 100
"""Values that MLflow takes at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One run of a logger."""

    name: str
    """Such as `lora/rank 8`."""
    key: str
    """The step's key and the attempt's number."""
    succeeded: bool
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """Values by optimizer step or epoch."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """PNG files by name."""


class TensorBoard:
    """Event files, a folder per trial: `tensorboard --logdir RUN/logs/tensorboard`."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """See `sweeps.console.loggers.Backend`."""
        import numpy as np
        from PIL import Image
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(self._folder / record.name / record.key), write_to_disk=True) as writer:
            if record.config:
                lines = [f"| {name} | {value} |" for name, value in sorted(record.config.items())]
                writer.add_text("config", "\n".join(["| setting | value |", "| --- | --- |", *lines]))
            for name, points in record.curves.items():
                for step, value in points:
                    writer.add_scalar(name, value, step)
            for name, value in record.metrics.items():
                writer.add_scalar(f"result/{name}", value, 0)
            for name, file in record.images.items():
                writer.add_image(name, np.asarray(Image.open(file).convert("RGB")), 0, dataformats="HWC")


class MLflow:
    """An experiment per run, at MLFLOW_TRACKING_URI, else in a file: `mlflow ui --backend-store-uri sqlite:///FILE`."""

    def __init__(self, folder: Path, run: str) -> None:
        from mlflow import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(given or f"sqlite:///{folder / 'mlflow.db'}")
        found = self._client.get_experiment_by_name(run)
        place = None if given else (folder / "artifacts").as_uri()
        self._experiment = found.experiment_id if found else self._client.create_experiment(run, place)

    def write(self, record: Record) -> None:
        """See `sweeps.console.loggers.Backend`."""
        from mlflow.entities import Metric, Param

        client, now = self._client, int(time.time() * 1000)
        run = client.create_run(self._experiment, run_name=record.name, tags={"key": record.key}).info.run_id
        values = [(name, step, value) for name, points in record.curves.items() for step, value in points]
        values += [(f"result/{name}", 0, value) for name, value in record.metrics.items()]
        metrics = [Metric(name, value, now, step) for name, step, value in values]
        params = [Param(name, str(value)[:500]) for name, value in record.config.items()]
        for first in range(0, max(len(metrics), len(params)), _BATCH):
            part = slice(first, first + _BATCH)
            client.log_batch(run, metrics=metrics[part], params=params[part])
        for name, file in record.images.items():
            client.log_artifact(run, str(file), f"images/{name}")
        client.set_terminated(run, "FINISHED" if record.succeeded else "FAILED")


class WeightsAndBiases:
    """A project per run, kept offline unless WANDB_MODE says otherwise: `wandb sync RUN/logs/wandb/wandb/*`."""

    def __init__(self, folder: Path, run: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._project = folder, run

    def write(self, record: Record) -> None:
        """See `sweeps.console.loggers.Backend`."""
        import wandb

        run = wandb.init(
            project=self._project, name=record.name, group=record.name.partition("/")[0], config=dict(record.config),
            dir=str(self._folder), mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            reinit="create_new", settings=wandb.Settings(silent=True, console="off"), notes=record.key,
        )  # fmt: skip
        by_step: dict[int, dict[str, Any]] = {}
        for name, points in record.curves.items():
            for step, value in points:
                by_step.setdefault(step, {})[name] = value
        for step in sorted(by_step):
            run.log(by_step[step], step=step)
        if record.images:
            run.log({name: wandb.Image(str(file)) for name, file in record.images.items()})
        run.summary.update(dict(record.metrics))
        run.finish(exit_code=0 if record.succeeded else 1)

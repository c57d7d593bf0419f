"""What a run finds, kept where people look at experiments: TensorBoard files, MLflow, Weights & Biases.

In: the attempts of a run as they end, and the files of their steps; all in the driver. Out: per trial one run of the
logger: its configuration, metrics, losses by step, and images. Everything stays below the run's `logs/`, unless
MLFLOW_TRACKING_URI or WANDB_MODE say otherwise. A logger that fails is left out, and the run goes on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fulora.errors import InputError, fault, one_line
from fulora.planes import PLANES
from sweeps.console.backends import MLflow, Record, TensorBoard, WeightsAndBiases
from sweeps.console.progress import Progress, Shown
from sweeps.core.attempts import Attempt
from sweeps.core.paths import BASE_LABEL, RunPaths, rank_label
from sweeps.core.step import Step
from sweeps.core.tables import read_rows


class Backend(Protocol):
    """Writes records somewhere."""

    def write(self, record: Record) -> None:
        """Keep one run."""


_PACKAGES: dict[str, tuple[str, str, Callable[[Path, str], Backend]]] = {
    "tensorboard": ("tensorboardX", "tensorboardX (the extra `log` of this package)", TensorBoard),
    "mlflow": ("mlflow", "mlflow", MLflow),
    "wandb": ("wandb", "wandb", WeightsAndBiases),
}
"""By the name given as --log: the module, the package to install, what writes."""
_CURVES = (
    ("loss", "step", ("loss", "heldout_loss", "learning_rate")),
    ("epochs", "epoch", ("loss", "accuracy", "validation_accuracy")),
)
"""Tables of a training, the column that counts, and those that are logged."""
_OTHER = re.compile(r"[^\w./-]")
"""What not every logger takes in a name."""
_TABLES = {
    "scores": (
        ("table1", ("regime", "model"), ("accuracy", "f1")),
        ("table2", ("regime", "model"), ("accuracy", "f1")),
    ),
    "quality": (("fidelity", ("adapter", "sampler"), ("fid", "kid")),),
}
"""By kind of step: tables whose rows become metrics, the columns that name a row, those that are logged."""


class Logged(Shown):
    """Shows a run, and passes what is worth looking at to each backend as attempts end."""

    def __init__(self, progress: Progress, paths: RunPaths, names: Sequence[str]) -> None:
        """Open the backends. Raises InputError where one's package is not installed."""
        super().__init__(progress, paths)
        self._images: dict[str, dict[str, Path]] = {}
        """Of each set, an image of each plane."""
        self._shown = set[str]()
        self._backends: dict[str, Backend] = {}
        for name in names:
            module, package, make = _PACKAGES[name]
            if find_spec(module) is None:
                raise InputError(fault("log", name, "is not installed", f"Install it: pip install {package}."))
            self._backends[name] = make(paths.logs / name, paths.root.name)

    def ended(self, step: Step, attempt: Attempt) -> None:
        """See `sweeps.core.execution.Watch`."""
        super().ended(step, attempt)
        if step.kind.is_shard:
            if attempt.status == "SUCCEEDED":
                self._take_images(step)
        elif attempt.status != "BLOCKED":
            self._log(lambda: self._record(step, attempt))

    def end(self) -> None:
        """Stop showing; sets of which some planes were drawn are logged with these."""
        for label in list(self._images):
            self._write_images(label)
        super().end()

    def _take_images(self, step: Step) -> None:
        """Note the first image of each plane of a set, and log the set once it has all planes."""
        label = BASE_LABEL if step.config.rank is None else rank_label(step.config.rank)
        images, folder = self._images.setdefault(label, {}), self.paths.store.folder(step)
        for row in step.config.rows:
            images.setdefault(row.plane, folder / row.plane / f"{row.image_id}.png")
        if len(images) == len(PLANES):
            self._write_images(label)

    def _write_images(self, label: str) -> None:
        if (images := self._images[label]) and label not in self._shown:
            self._shown.add(label)
            self._log(lambda: Record(name=f"images/{label}", key=label, succeeded=True, images=images))

    def _log(self, make: Callable[[], Record | None]) -> None:
        """Pass a record to every backend; one that fails is left out from then on."""
        for name, backend in list(self._backends.items()):
            try:
                if (record := make()) is not None:
                    backend.write(record)
            except Exception as error:  # another program's: nothing of it may end a run
                del self._backends[name]
                self.say(f"--log {name} failed and is left out ({type(error).__name__}: {one_line(error)})")

    def _record(self, step: Step, attempt: Attempt) -> Record | None:
        """Return what is logged of an attempt: a trial's figures, a table's scores; None for any other step."""
        folder, key = self.paths.store.folder(step), f"{step.key}-{attempt.attempt}"
        succeeded = attempt.status == "SUCCEEDED"
        if step.kind.is_trial:
            metrics = {name: float(v) for name, v in attempt.metrics.items() if _is_number(v)}
            if attempt.seconds is not None:
                metrics["seconds"] = attempt.seconds
            return Record(
                name=f"{step.kind.name}/{step.label}", key=key, succeeded=succeeded, config=attempt.config,
                metrics=metrics, curves=_losses(folder),
            )  # fmt: skip
        if succeeded and step.kind.name in _TABLES:
            return Record(name=step.kind.name, key=key, succeeded=True, metrics=dict(_scores(folder, step.kind.name)))
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a training, by optimizer step or epoch; none where it left no file."""
    for table, at, names in _CURVES:
        if (file := folder / f"{table}.parquet").is_file():
            rows = read_rows(file, table)
            curves = {name: [(row[at], row[name]) for row in rows if _is_number(row[name])] for name in names}
            return {name: points for name, points in curves.items() if points}
    return {}


def _scores(folder: Path, kind: str) -> Iterator[tuple[str, float]]:
    for table, naming, wanted in _TABLES[kind]:
        if (file := folder / f"{table}.parquet").is_file():
            for row in read_rows(file, table):
                name = _OTHER.sub("_", "/".join([table, *(row[column] for column in naming if row[column])]))
                yield from ((f"{name}/{column}", row[column]) for column in wanted if _is_number(row[column]))

"""A finished grid for the tests of scores: cells, seeds, made-up predictions, the real steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulora.errors import InputError
from fulora.experiment import Amounts
from fulora.planes import PLANES
from fulora.recipes import demo
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.core.tables import read_rows, write_table
from sweeps.grid.classifier import PREDICTIONS_FILE
from sweeps.grid.plan import GRID, CellTrial
from sweeps.scores.plan import scaling_step, scores_step
from sweeps.sources.audit import AUDIT_FILE
from sweeps.sources.catalog import CATALOG_FILE
from sweeps.sources.plan import audit_step, catalog_step

from ..studies import do

EXPERIMENT = replace(
    demo(),
    spanish=Path("/data/spanish"),  # the catalog is made up: without folders a run would make phantoms first
    african=Path("/data/african"),
    grid=replace(
        demo().grid,
        models=("ResNet18", "ViT b16"),
        regimes=("ES", "HB"),
        table2_regimes=("AF", "ES"),
        num_seeds=2,
        table2_model="ViT b16",
    ),
    amounts=Amounts(numbers=(0, 40, 80), model="ResNet18", regime="HB"),
)
CELLS = [("ES", "ResNet18"), ("ES", "ViT b16"), ("HB", "ResNet18"), ("HB", "ViT b16"), ("AF", "ViT b16")]
IMAGES = [f"african/test-{i:02d}" for i in range(48)]
LABELS = np.array([1 + i % 5 % 4 for i in range(48)])
PATIENTS = [f"african/{i // 3}" for i in range(48)]
CENTRES = ["Ghana" if i < 30 else "Egypt" if i < 45 else "Malawi" for i in range(48)]
"""Malawi's three images are of one patient."""
FACTS = {"num_es": 40, "num_af": 5, "num_synthetic": 0, "num_patients": 9, "weights": "from scratch"}


def catalog_row(image_id: str, source: str, split: str, machine: str | None = None) -> dict[str, Any]:
    return {"image_id": image_id, "path": image_id, "source": source, "split": split, "machine": machine}


def pair(kind: str, a: str, b: str) -> dict[str, Any]:
    splits = {"split_a": "test" if "test" in a else "train", "split_b": "test" if "test" in b else "train"}
    return {"kind": kind, "image_a": a, "image_b": b, "source_a": "african", "source_b": "african", **splits}


@dataclass
class FinishedGrid:
    """The steps of a grid that is done, and what their files hold."""

    paths: RunPaths
    cells: list[Step]
    predictions: dict[str, list[dict[str, Any]]]
    """Rows of each cell, by its key."""
    catalog: list[dict[str, Any]]
    audit: list[dict[str, Any]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    """Keys of the trainings that failed."""
    folder: Path = Path()
    """Where the last tables are."""

    def score(self, *, scaling: bool = False, **changes: Any) -> None:
        """Write the cells' files and do the step anew. Raises InputError where it does."""
        experiment = replace(EXPERIMENT, **changes)
        catalog = catalog_step(experiment)
        audit = audit_step(experiment, catalog)
        self.write(catalog, CATALOG_FILE, "catalog", self.catalog)
        self.write(audit, AUDIT_FILE, "audit", self.audit)
        for cell in self.cells:
            self.write(cell, PREDICTIONS_FILE, "predictions", self.predictions[cell.key], metrics=FACTS)
        cells = [cell for cell in self.cells if cell.key not in self.failed]
        step = scaling_step(experiment, cells, catalog) if scaling else scores_step(experiment, cells, catalog, [audit])
        assert step is not None
        self.do(step)

    def write(self, step: Step, file: str, table: str, rows: Sequence[Mapping[str, Any]], **known: Any) -> None:
        """Write a step's one table."""
        with self.paths.store.writing(step) as beside:
            beside.mkdir(exist_ok=True)
            write_table(beside / file, table, rows)
            self.paths.store.keep(step, beside, **known)

    def do(self, step: Step) -> None:
        """Do a step anew."""
        self.paths.store.discard(step)
        self.folder = self.paths.store.folder(step)
        (attempt,) = do([step], self.paths)
        if attempt.error_type == "InputError":
            raise InputError([str(attempt.error_message)])
        assert attempt.status == "SUCCEEDED", attempt.error_message

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_rows(self.folder / f"{name}.parquet", name)

    def row(self, name: str, cell: tuple[str, str], **where: Any) -> dict[str, Any]:
        wanted = {"regime": cell[0], "model": cell[1], **where}
        (row,) = [r for r in self.rows(name) if wanted.items() <= r.items()]
        return row

    def trainings(self, cell: tuple[str, str]) -> list[np.ndarray]:
        """Return the probabilities of a cell's trials of Tables 1 and 2, in their order."""
        mine = [
            c for c in self.cells if (c.config.regime, c.config.classifier.model) == cell and c.config.in_tables
        ]  # fmt: skip
        return [self.probabilities(c) for c in mine]

    def probabilities(self, cell: Step) -> np.ndarray:
        return np.array([[r[f"p_{p.name}"] for p in PLANES] for r in self.predictions[cell.key]])


def _cell(regime: str, model: str, index: int, **more: int) -> Step:
    trial = CellTrial(
        regime=regime, classifier=EXPERIMENT.grid.config(regime, model), weights="", seed=index, seed_index=index,
        num_validation=0, validation="images", **more,
    )  # fmt: skip
    return Step(kind=GRID, label=regime, config=trial)


@pytest.fixture
def finished_grid(tmp_path: Path) -> FinishedGrid:
    """Return five cells of two seeds each, and trainings of other sizes besides."""
    rng = np.random.default_rng(0)
    cells = [_cell(*cell, index) for cell in CELLS for index in range(2)]
    cells += [
        _cell("HB", "ResNet18", index, num_spanish_hybrid=40, num_synthetic=n) for n in (0, 40) for index in (0, 1)
    ]
    predictions = {}
    for cell in cells:
        found = rng.dirichlet(np.ones(5), len(IMAGES))
        found[np.arange(48), LABELS] += 0.5 if cell.config.regime == "AF" else 0.2
        found /= found.sum(1, keepdims=True)
        predictions[cell.key] = [
            {
                "trial_id": cell.key, "image_id": IMAGES[i], "patient_id": PATIENTS[i], "centre": CENTRES[i],
                "plane": PLANES[LABELS[i]].name, **{f"p_{p.name}": float(found[i, p.index]) for p in PLANES},
            }
            for i in range(48)
        ]  # fmt: skip
    train = [catalog_row(f"african/train-{i}", "african", "train") for i in range(3)]
    train.append(catalog_row("spanish/train-0", "spanish", "train", "Aloka"))
    catalog = [*train, *(catalog_row(i, "african", "test") for i in IMAGES)]
    return FinishedGrid(RunPaths(tmp_path / "run"), cells, predictions, catalog)

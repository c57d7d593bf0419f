"""Score tables from a run's files: each number against the plain way to get it, and what cannot be scored refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fulora.errors import InputError
from fulora.evaluate.scores import auc_from_hard_labels, auc_published, confusion_matrix, score
from fulora.planes import PLANES, TESTED_PLANES
from fulora.recipes import demo
from sweeps.core.paths import RunPaths
from sweeps.core.tables import METRICS, SCHEMAS, export, read_rows, write_table
from sweeps.scoring import write_score_tables
from sweeps.subsets import duplicates
from sweeps.trials import Attempt, Trial

EXPERIMENT = replace(
    demo(),
    grid=replace(
        demo().grid, models=("ResNet18", "ViT b16"), regimes=("ES", "HB"), table2_regimes=("AF", "ES"), num_seeds=2
    ),
)
CELLS = [("ES", "ResNet18"), ("ES", "ViT b16"), ("HB", "ResNet18"), ("HB", "ViT b16"), ("AF", "ViT b16")]
TABLES = (
    "headline",
    "table1",
    "table2",
    "confusion",
    "comparisons",
    "deduplicated",
    "breakdown",
    "calibration",
    "reliability",
)
IMAGES = [f"african/test-{i:02d}" for i in range(48)]
LABELS = np.array([1 + i % 5 % 4 for i in range(48)])
PATIENTS = [f"african/{i // 3}" for i in range(48)]
CENTRES = ["Ghana" if i < 30 else "Egypt" if i < 45 else "Malawi" for i in range(48)]
"""Malawi's three images are of one patient."""


@dataclass
class Run:
    """A run's files and its trials."""

    paths: RunPaths
    trials: list[Trial]
    predictions: list[dict[str, Any]]

    def score(self, **changes: Any) -> None:
        write_table(self.paths.predictions, "predictions", self.predictions)
        write_score_tables(replace(EXPERIMENT, **changes), self.trials, self.paths)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return read_rows(self.paths.table(name), name)

    def row(self, name: str, cell: tuple[str, str], **where: Any) -> dict[str, Any]:
        wanted = {"regime": cell[0], "model": cell[1], **where}
        (row,) = [r for r in self.rows(name) if wanted.items() <= r.items()]
        return row

    def trainings(self, cell: tuple[str, str]) -> list[np.ndarray]:
        """Return the probabilities of a cell's trials of Tables 1 and 2, in their order."""
        mine = [t for t in self.trials if (t.config["regime"], t.config["model"]) == cell and len(t.config) == 3]
        return [
            np.array([[r[f"p_{p.name}"] for p in PLANES] for r in self.predictions if r["trial_id"] == t.trial_id])
            for t in mine
        ]


def _trial(regime: str, model: str, index: int, **more: int) -> Trial:
    config = {"regime": regime, "model": model, "seed_index": index, **more}
    return Trial(stage="grid", label=regime, config=config, inputs={}, seed=index)


def _catalog_row(image_id: str, source: str, split: str, machine: str | None = None) -> dict[str, Any]:
    return {"image_id": image_id, "path": image_id, "source": source, "split": split, "machine": machine}


def _pair(kind: str, a: str, b: str) -> dict[str, Any]:
    splits = {"split_a": "test" if "test" in a else "train", "split_b": "test" if "test" in b else "train"}
    return {"kind": kind, "image_a": a, "image_b": b, "source_a": "african", "source_b": "african", **splits}


@pytest.fixture
def run(tmp_path) -> Run:
    """A finished grid of five cells and two seeds, a sweep's trial besides, and the files scores are read from."""
    paths, rng = RunPaths(tmp_path / "run"), np.random.default_rng(0)
    trials = [_trial(*cell, index) for cell in CELLS for index in range(2)]
    trials.append(_trial("HB", "ResNet18", 0, num_spanish=20, num_synthetic=40))
    rows = []
    for trial in trials:
        found = rng.dirichlet(np.ones(5), len(IMAGES))
        found[np.arange(48), LABELS] += 0.5 if trial.config["regime"] == "AF" else 0.2
        found /= found.sum(1, keepdims=True)
        rows += [
            {
                "trial_id": trial.trial_id, "image_id": IMAGES[i], "patient_id": PATIENTS[i], "centre": CENTRES[i],
                "plane": PLANES[LABELS[i]].name, **{f"p_{p.name}": float(found[i, p.index]) for p in PLANES},
            }
            for i in range(48)
        ]  # fmt: skip
        metrics = {"num_es": 40, "num_af": 5, "num_synthetic": 0, "num_patients": 9, "weights": "from scratch"}
        shared = {"trial_id": trial.trial_id, "stage": "grid", "label": trial.label, "config": trial.config}
        Attempt(**shared, attempt=1, status="SUCCEEDED", metrics=metrics).save(paths)
    train = [_catalog_row(f"african/train-{i}", "african", "train") for i in range(3)]
    train.append(_catalog_row("spanish/train-0", "spanish", "train", "Aloka"))
    write_table(paths.catalog, "catalog", [*train, *(_catalog_row(i, "african", "test") for i in IMAGES)])
    write_table(paths.audit, "audit", [])
    return Run(paths, trials, rows)


def test_tables_1_and_2_are_means_over_seeds_with_the_papers_auc_beside(run: Run) -> None:
    run.score()
    assert [(r["regime"], r["model"]) for r in run.rows("table1")] == CELLS[:4]
    assert [r["regime"] for r in run.rows("table2")] == ["AF", "ES"]
    for cell in CELLS[:4]:
        row, trainings = run.row("table1", cell), run.trainings(cell)
        assert row["num_seeds"] == len(trainings) == 2, "the sweep's trial is no training of the cell"
        for name in METRICS:
            assert row[name] == pytest.approx(np.mean([score(p, LABELS)[name] for p in trainings]))
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        matrices = [confusion_matrix(p, LABELS) for p in trainings]
        assert row["auc_published"] == pytest.approx(np.mean([auc_published(m) for m in matrices]))
        assert row["auc_hard"] == pytest.approx(np.mean([auc_from_hard_labels(m) for m in matrices]))
        assert row["auc_published"] != pytest.approx(row["auc_hard"])
    confusion = run.rows("confusion")
    assert len({r["trial_id"] for r in confusion}) == 10 and sum(r["count"] for r in confusion) == 10 * 48


def test_every_pair_is_compared_and_agrees_with_the_scores(run: Run) -> None:
    run.score()
    rows = run.rows("comparisons")
    assert len(rows) == 10 * len(METRICS)
    every = {(r["regime"], r["model"]): r for name in ("table1", "table2") for r in run.rows(name)}
    for r in rows:
        a, b = every[r["regime_a"], r["model_a"]], every[r["regime_b"], r["model_b"]]
        assert r["difference"] == pytest.approx(b[r["metric"]] - a[r["metric"]])
        assert r["low"] <= r["difference"] <= r["high"] and r["p_value"] <= r["p_adjusted"] <= 1
    told = [{r["regime_a"], r["regime_b"]} for r in rows if r["told_from_chance"] and r["metric"] == "accuracy"]
    assert told and all("AF" in pair for pair in told), "AF alone was made better"


def test_images_that_are_there_twice_are_left_out_for_who_trains_on_them(run: Run) -> None:
    pairs = [
        _pair("pixels", IMAGES[3], IMAGES[7]),
        _pair("perceptual", IMAGES[7], IMAGES[9]),  # near one that is left out itself: stays
        _pair("perceptual", IMAGES[10], IMAGES[11]),
        _pair("pixels", IMAGES[20], "african/train-0"),
        _pair("perceptual", IMAGES[21], "african/train-1"),
        _pair("pixels", IMAGES[22], "african/train-dropped"),  # not in the catalog: the recipe left it out
    ]
    write_table(run.paths.audit, "audit", pairs)
    run.score()
    for cell, leaks in ((("ES", "ViT b16"), []), (("AF", "ViT b16"), [20, 21])):
        row = run.row("deduplicated", cell)
        kept = [i for i in range(48) if i not in {7, 11, *leaks}]
        counts = [row[f"num_{n}"] for n in ("trained_on", "near_trained_on", "repeated", "near_repeated")]
        assert counts == [bool(leaks), bool(leaks), 1, 1]
        assert (row["num_test"], row["num_left_out"]) == (len(kept), 48 - len(kept))
        for name in METRICS:
            plain = np.mean([score(p[kept], LABELS[kept])[name] for p in run.trainings(cell)])
            assert row[name] == pytest.approx(plain)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_a_synthetic_image_that_is_a_test_image_leaks_into_the_hybrid_regimes(run: Run) -> None:
    made = {"file_name": "brain/1.png", "image_id": "1", "plane": "brain", "sha256": "0", "pixel_hash": "0"}
    write_table(run.paths.synthetic / "metadata.parquet", "metadata", [made])
    sets = {"set_a": "test", "set_b": "synthetic"}
    write_table(run.paths.audit, "audit", [_pair("perceptual", IMAGES[5], "synthetic/1") | sets])
    run.score()
    assert {r["regime"]: r["num_near_trained_on"] for r in run.rows("deduplicated")} == {"ES": 0, "HB": 1, "AF": 0}
    run.score(drop_duplicates=True)
    assert {r["num_left_out"] for r in run.rows("deduplicated")} == {0}, "the run did not train on it"


def test_three_equal_images_count_once_and_a_pair_of_both_kinds_is_of_pixels() -> None:
    pairs = [_pair("pixels", a, b) for a, b in (("t1", "t2"), ("t1", "t3"), ("t2", "t3"))]
    assert duplicates(["t3", "t2", "t1"], pairs, set()) == {"t2": "repeated", "t3": "repeated"}
    both = [_pair("perceptual", "t1", "x"), _pair("pixels", "t1", "x")]
    assert duplicates(["t1"], both, {"x"}) == {"t1": "trained_on"}
    leak = [*pairs, *(_pair("pixels", t, "x") for t in ("t1", "t2", "t3"))]
    assert set(duplicates(["t1", "t2", "t3"], leak, {"x"}).values()) == {"trained_on"}


def test_scores_by_centre_and_machine(run: Run) -> None:
    run.score()
    assert {r["by"] for r in run.rows("breakdown")} == {"centre"}, "no machine is known"
    cell = ("ES", "ViT b16")
    for centre, images, patients in (
        ("Ghana", range(30), 10),
        ("Egypt", range(30, 45), 5),
        ("Malawi", range(45, 48), 1),
    ):
        row, places = run.row("breakdown", cell, value=centre), list(images)
        assert (row["num_images"], row["num_patients"]) == (len(places), patients)
        for name in METRICS:
            plain = np.mean([score(p[places], LABELS[places])[name] for p in run.trainings(cell)])
            assert row[name] == pytest.approx(plain)
            assert (row[f"{name}_low"] is None) == (centre == "Malawi"), "one patient has no interval"
    known = [_catalog_row(i, "african", "test", "Voluson" if n < 20 else None) for n, i in enumerate(IMAGES)]
    write_table(run.paths.catalog, "catalog", known)
    run.score()
    machines = {r["value"]: r["num_images"] for r in run.rows("breakdown") if r["by"] == "machine"}
    assert machines == {"Voluson": 20, "unknown": 28}


def test_a_cell_whose_trials_failed_has_null_scores_and_is_compared_with_none(run: Run) -> None:
    for trial in run.trials[:2]:
        run.paths.attempt(trial.trial_id, 1).unlink()
    run.score()
    row = run.row("table1", CELLS[0])
    assert row["num_seeds"] == 0 and row["accuracy"] is None and row["auc_published"] is None
    assert len(run.rows("comparisons")) == 6 * len(METRICS)
    assert len(run.rows("calibration")) == len(run.rows("deduplicated")) == 4


def test_the_same_predictions_in_another_order_give_the_same_tables(run: Run) -> None:
    run.score()
    first = {name: run.paths.table(name).read_bytes() for name in TABLES}
    run.predictions = run.predictions[::-1]
    run.score()
    assert {name: run.paths.table(name).read_bytes() for name in TABLES} == first


def _other_image(rows: list[dict[str, Any]]) -> None:
    rows[50]["image_id"] = "african/test-99"


def _other_plane(rows: list[dict[str, Any]]) -> None:
    rows[50]["plane"] = next(p.name for p in TESTED_PLANES if p.name != rows[50]["plane"])


def _one_fewer(rows: list[dict[str, Any]]) -> None:
    del rows[-1]


def _without_femur(rows: list[dict[str, Any]]) -> None:
    rows[:] = [r for r in rows if r["plane"] != "femur"]


def _twice(rows: list[dict[str, Any]]) -> None:
    rows += [dict(r) for r in rows if r["image_id"] == IMAGES[0]]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_image, "other test images than trial .*: 48 and 48, 2 of them on one side only.*Delete"),
        (_other_plane, "other test images"),
        (_one_fewer, "47 and 48, 1 of them"),
        (_without_femur, "lack femur.*four tested planes"),
        (_twice, "holds a test image twice"),
        (list.clear, "has no rows"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(
    run: Run, spoil: Callable[[list[dict[str, Any]]], None], words: str
) -> None:
    spoil(run.predictions)
    with pytest.raises(InputError, match=words):
        run.score()
    assert not run.paths.table("table1").exists()


def test_predictions_of_another_schema_version_are_refused(run: Run) -> None:
    run.score()
    table = pq.read_table(run.paths.predictions)
    old = {"fulora.table": "predictions", "fulora.schema_version": "1"}
    pq.write_table(table.replace_schema_metadata(old), run.paths.predictions)
    with pytest.raises(InputError, match="schema version"):
        write_score_tables(EXPERIMENT, run.trials, run.paths)


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether two columns are equal, null and nan alike."""
    missing = [[v is None or v != v for v in column] for column in (one, other)]
    return missing[0] == missing[1] and all(a == b for a, b, gone in zip(one, other, missing[0]) if not gone)


def test_every_exported_table_opens_alike_in_pandas_polars_and_duckdb(run: Run) -> None:
    import duckdb
    import pandas
    import polars

    run.score()
    files = export(run.paths, run.paths.root / "out", ["parquet"])
    assert {f.stem for f in files} == {*TABLES, "predictions"}
    for file in files:
        columns = SCHEMAS[file.stem]
        assert not any(pa.types.is_nested(kind) or pa.types.is_dictionary(kind) for kind in columns.values())
        rows = pq.read_table(file).to_pylist()
        frame, lazy, (names, found) = pandas.read_parquet(file), polars.read_parquet(file), _duckdb(duckdb, file)
        assert list(frame.columns) == lazy.columns == names == list(columns)
        for i, name in enumerate(columns):
            expected = [row[name] for row in rows]
            assert _same(lazy[name].to_list(), expected) and _same([row[i] for row in found], expected), (file, name)
            assert _same([None if v is pandas.NA else v for v in frame[name].tolist()], expected), (file, name)


def _duckdb(duckdb: Any, file: Any) -> tuple[list[str], list[tuple]]:
    relation = duckdb.read_parquet(str(file))
    return relation.columns, relation.fetchall()


def test_a_synthetic_image_like_one_of_two_equal_test_images_was_trained_on_for_both() -> None:
    pairs = [
        {"image_a": "a", "image_b": "b", "kind": "pixels"},
        {"image_a": "a", "image_b": "s", "kind": "perceptual"},  # the audit lists the nearest test image alone
    ]
    assert duplicates(["a", "b", "c"], pairs, {"s"}) == {"a": "near_trained_on", "b": "near_trained_on"}
    assert duplicates(["a", "b", "c"], pairs, set()) == {"b": "repeated"}

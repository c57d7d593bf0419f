"""A run beside the paper: what is said of it, that it needs nothing but the run's folder, and the published files."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fulora.evaluate.published import published_table1, published_table2
from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.recipes import demo, paper
from sweeps.cli import main
from sweeps.core.files import write_json
from sweeps.core.hashing import to_jsonable
from sweeps.core.paths import RunPaths
from sweeps.core.tables import METRICS, SCHEMAS, read_rows, write_table
from sweeps.publish.paper import published_rows, write_published

KEPT = Path(__file__).parents[3] / "results" / "paper"
COUNTS = ("num_es", "num_af", "num_synthetic")


def call(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return int(stop.value.code or 0), said.out, said.err


def a_run(root: Path, experiment: Experiment, *, off: float = 0.0, **changes: Any) -> RunPaths:
    """Return a run whose scores are the paper's and `off` points more; it has no predictions."""
    paths = RunPaths(root)
    write_json(paths.plan, {"recipe": experiment.recipe, "seed": 0, "experiment": to_jsonable(experiment)})
    for name, published in (("table1", published_table1()), ("table2", published_table2())):
        rows = []
        for theirs in published:
            row = {"regime": theirs["regime"], "model": theirs["model"], "num_seeds": 1, "num_test": 233}
            row |= {count: theirs[count] for count in COUNTS if count in SCHEMAS[name]}
            row |= {"weights": "resnet18.tv_in1k (hub)", "auc_published": float(theirs["auc"]) + off}
            for metric in METRICS:
                value = 99.0 if metric == "auc" else float(theirs[metric]) + off
                row |= {metric: value, f"{metric}_low": value - 5, f"{metric}_high": value + 5}
            rows.append(row | changes)
        write_table(paths.table(name), name, rows)
    return paths


@pytest.fixture
def real(tmp_path: Path) -> Experiment:
    """The paper's recipe on folders of its own."""
    folders = {name: tmp_path / name for name in ("spanish", "african")}
    for folder in folders.values():
        folder.mkdir()
    return replace(paper(), **folders)


def lines(out: str, table: str) -> dict[tuple[str, str], list[str]]:
    """Return the printed rows under a title by (regime, model), as lists of the cells after them."""
    rows = {}
    for line in out.split(table, 1)[1].split("\n\n", 1)[0].splitlines()[2:]:
        if cells := re.match(r"(\S+) +(\S+(?: \S+)?) {2,}(.*)", line):
            rows[cells[1], cells[2].strip()] = cells[3].split()
    return rows


def test_a_run_like_the_papers_is_compared_row_by_row(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real, off=-2.0)
    code, out, err = call(capsys, "compare", run.root)
    assert (code, err) == (0, "") and "NOT COMPARABLE" not in out and "†" not in out
    accuracy = lines(out, "Table 1, accuracy (%)")
    assert len(accuracy) == 20
    assert accuracy["ES", "DenseNet169"] == ["59.37", "-", "61.37", "-2.00", "-", "yes"]
    assert lines(out, "Table 2, F1 (%)")["ES+AF", "ViT b16"][2] == "93.87"
    assert re.search(r"6148 ES \+ 217 AF +233 +6148 ES \+ 217 AF +233", out) and "20 without one" in out
    assert "6 published figures of AUC are doubtful: --metric auc says why" in out
    rows = read_rows(run.table("compare"), "compare")
    assert len(rows) == 24 * 5 and all(r["comparable"] and r["why_not"] is None for r in rows)
    assert all(r["difference"] == pytest.approx(-2) for r in rows), "the AUC too: by the paper's formula, not 99"


def with_trainings(run: RunPaths, hits: dict[tuple[str, str], list[int]]) -> None:
    """Give rows of Table 1 trainings that get so many of the 233 test images right and call the others Other."""
    planes = [plane for plane, num in zip(PLANES[1:], (65, 65, 64, 39), strict=True) for _ in range(num)]
    rows, predictions = read_rows(run.table("table1"), "table1"), []
    for cell, numbers in hits.items():
        ids = [f"{cell[0]} {cell[1]} {k}" for k in range(len(numbers))]
        next(r for r in rows if (r["regime"], r["model"]) == cell)["trial_ids"] = ", ".join(ids)
        for trial_id, num in zip(ids, numbers, strict=True):
            for i, plane in enumerate(planes):
                guess = plane.name if i * num // 233 < (i + 1) * num // 233 else "other"
                known = {f"p_{p.name}": float(p.name == guess) for p in PLANES}
                image = {"image_id": f"{i:03d}", "patient_id": f"p{i}", "centre": "Malawi", "plane": plane.name}
                predictions.append({"trial_id": trial_id, **image, **known})
    write_table(run.table("table1"), "table1", rows)
    write_table(run.predictions, "predictions", predictions)


def test_the_yardstick_beside_the_paper_is_what_another_training_gives(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real)
    hits = {("ES", "DenseNet169"): [140, 143, 146], ("HB", "ViT b16"): [140, 143, 146], ("HB", "ResNet18"): [220, 221]}
    with_trainings(run, {**hits, ("ES", "ResNet18"): [128]})
    out = call(capsys, "compare", run.root, "--metric", "accuracy")[1]
    first = lines(out, "Table 1, accuracy (%)")
    assert first["ES", "DenseNet169"][1] == "55.0-67.8" and first["ES", "DenseNet169"][4] == "inside"
    assert (first["HB", "ViT b16"][4], first["HB", "ResNet18"][4]) == ("above", "below")
    assert first["ES", "ResNet18"][1] == "-", "one training says nothing of another"
    rows = {
        (r["regime"], r["model"]): r for r in read_rows(run.table("compare"), "compare") if r["metric"] == "accuracy"
    }
    row = rows["ES", "DenseNet169"]
    assert row["num_trainings"] == 3 and row["deviation"] == pytest.approx(100 * 3 / 233)
    assert row["high"] - row["low"] == pytest.approx(2 * 4.3027 * row["deviation"] * (4 / 3) ** 0.5, rel=1e-3)


def test_what_errors_consist_of_comes_first(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real)
    with_trainings(run, {("ES+DA", "ResNet18"): [140], ("HB+DA", "ResNet18"): [180]})
    said = " ".join(call(capsys, "compare", run.root)[1].split())
    assert said.startswith("Test images predicted as Other, and as a wrong plane")
    gain = (
        "+11.8 points of accuracy: +14.7 from fewer predictions of Other, a class that is never tested, and -2.8 from"
    )
    assert f"the paper: HB+DA against ES+DA is {gain} more confusion of planes" in said
    assert "this run: HB+DA against ES+DA is +17.2 points of accuracy: +17.2 from fewer predictions of Other" in said
    rows = {(r["source"], r["table"], r["regime"]): r for r in read_rows(run.table("regime_errors"), "regime_errors")}
    images = {key[2]: (round(r["images_other"], 1), round(r["images_wrong_plane"], 1)) for key, r in rows.items()
              if key[:2] == ("the paper", "table1")}  # fmt: skip
    assert images == {"ES": (78.9, 6.7), "ES+DA": (65.0, 11.4), "HB": (63.0, 5.4), "HB+DA": (30.8, 18.0)}
    for row in rows.values():
        assert row["accuracy"] + row["share_other"] + row["share_wrong_plane"] == pytest.approx(100, abs=0.01)
    assert rows["this run", "table1", "HB+DA"]["images_other"] == pytest.approx(53)


@pytest.mark.parametrize(
    ("part", "changes", "words", "num"),
    [
        ("grid", {"epochs": 5}, "classifiers' epochs 5, not 20", 24),
        ("grid", {"resolution_px": 64}, "classifiers' resolution_px 64, not 512 or 224", 24),
        ("lora", {"num_steps": 100}, "LoRA's num_steps 100, not 10000", 11),
    ],
)
def test_a_run_of_other_epochs_resolution_or_steps_is_not_comparable(capsys, tmp_path, real, part, changes, words, num):
    changed = replace(real, **{part: replace(getattr(real, part), **changes)})
    run = a_run(tmp_path / "run", changed)
    out = call(capsys, "compare", run.root)[1]
    assert words in out and ("ALL ROWS NOT" in out) == (num == 24)
    rows = [r for r in read_rows(run.table("compare"), "compare") if r["metric"] == "accuracy"]
    assert sum(not r["comparable"] for r in rows) == num


def test_table_2s_hybrid_is_compared_with_the_regime_of_its_printed_size(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real)
    rows = read_rows(run.table("table2"), "table2")
    full = {**rows[3], "regime": "HB full", "accuracy": 70.0}
    write_table(run.table("table2"), "table2", [*rows[:3], rows[3] | {"num_es": 1150}, full])
    assert "NOT COMPARABLE" not in call(capsys, "compare", run.root)[1]
    found = [r for r in read_rows(run.table("compare"), "compare") if (r["table"], r["regime"]) == ("table2", "HB")]
    assert {(r["run_regime"], r["num_es"]) for r in found} == {("HB full", 6148)}


def test_phantoms_are_called_not_comparable_before_anything_else(capsys, tmp_path) -> None:
    run = a_run(tmp_path / "run", demo(), weights="from scratch", num_test=160, num_es=120)
    out = call(capsys, "compare", run.root)[1]
    assert "ALL ROWS NOT COMPARABLE: the differences say nothing about the paper" in out
    for words in (
        "Spanish images are phantoms", "African images are phantoms", "start from scratch", "the base tiny",
        "tested on 160 images, not 233", "Table 1 HB 120 ES + 5000 syn 160 1150 ES + 5000 syn 233",
    ):  # fmt: skip
        assert words in " ".join(out.split()), words
    rows = read_rows(run.table("compare"), "compare")
    assert not any(r["comparable"] for r in rows) and all("phantoms" in r["why_not"] for r in rows)
    without = next(r for r in rows if r["regime"] == "ES")
    assert "the base" not in without["why_not"], "a regime without synthetic images does not care for the base"


def test_rows_that_differ_in_their_training_images_alone_are_marked(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real)
    rows = read_rows(run.table("table2"), "table2")
    rows[3] |= {"num_es": 1150}  # the paper's text has 1150 + 5000 for HB, its Table 2 6148 + 5000
    write_table(run.table("table2"), "table2", rows)
    out = call(capsys, "compare", run.root)[1]
    assert "1 OF 24 ROWS NOT COMPARABLE" in out and "other numbers of training images (1 of 24 rows)" in out
    assert [cells[-1] for cells in lines(out, "Table 2, accuracy (%)").values()] == ["yes", "yes", "yes", "no"]


def test_impossible_figures_bear_a_dagger_and_the_checks_words(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real)
    out = call(capsys, "compare", run.root, "--metric", "auc")[1]
    first = lines(out, "Table 1, AUC (%)")
    marked = [cell for cell, words in first.items() if words[2].endswith("†")]
    assert len(marked) == 6 and ("ES", "ResNet18") in marked
    assert first["ES", "ResNet18"] == ["76.09", "-", "76.09†", "+0.00", "-", "yes"]
    said = " ".join(out.split())
    assert "† Table 1, ES, ResNet18: AUC 76.09 with recall 51.23 implies a specificity of 100.95 % if from hard" in said
    assert (
        "† Table 1, HB, DenseNet169: AUC 77.04 cannot be of predicted labels: the row's other scores allow 86.48"
        in said
    )
    rows = read_rows(run.table("compare"), "compare")
    assert sum(r["paper_doubt"] is not None for r in rows) == 6


def test_a_run_without_the_papers_auc_has_none_to_compare(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real, auc_published=None)
    out = call(capsys, "compare", run.root, "--metric", "auc")[1]
    assert lines(out, "Table 1, AUC (%)")["ES", "DenseNet169"] == ["-", "-", "80.50", "-", "-", "yes"]
    assert "99.0" not in out


def test_a_narrow_and_partly_failed_run(capsys, tmp_path, real) -> None:
    run = a_run(tmp_path / "run", real)
    run.table("table2").unlink()
    rows = read_rows(run.table("table1"), "table1")[:3]
    rows[1] = {"regime": rows[1]["regime"], "model": rows[1]["model"], "num_seeds": 0}
    write_table(run.table("table1"), "table1", rows)
    out = call(capsys, "compare", run.root)[1]
    assert "22 of the paper's rows are not in this run" in out
    assert list(lines(out, "Table 1, accuracy (%)")) == [("ES", "DenseNet169"), ("ES", "EfficientNet b0")]


def test_a_run_moved_elsewhere_gives_the_same(capsys, tmp_path) -> None:
    run = a_run(tmp_path / "run", demo())
    image = {"image_id": "a", "path": str(run.root / "phantoms" / "a.png"), "source": "spanish", "plane": "brain"}
    write_table(run.catalog, "catalog", [image])
    before = call(capsys, "compare", run.root)[1]
    kept = run.table("compare").read_bytes()
    moved = RunPaths(tmp_path / "far" / "away")
    shutil.move(run.root, moved.root)
    assert call(capsys, "compare", moved.root) == (0, before, "")
    assert moved.table("compare").read_bytes() == kept


def test_what_is_no_run_or_has_no_tables_is_refused_in_words(capsys, tmp_path) -> None:
    code, out, err = call(capsys, "compare", tmp_path / "nothing")
    assert (code, out) == (2, "") and "is not a run: it has no plan.json" in err
    write_json(tmp_path / "begun" / "plan.json", {"recipe": "demo"})
    code, out, err = call(capsys, "compare", tmp_path / "begun")
    assert (code, out) == (2, "") and "has no tables to compare yet" in err
    assert not (tmp_path / "begun" / "tables").exists()
    code, _, err = call(capsys, "compare")
    assert code == 2 and "run: None is not given" in err
    run = a_run(tmp_path / "run", demo())
    run.table("table1").write_bytes(b"PAR1")
    code, _, err = call(capsys, "compare", run.root)
    assert code == 2 and "table1.parquet" in err


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal(capsys, tmp_path, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run = a_run(tmp_path / "run", demo(), weights="from scratch", num_es=123456, num_test=160)
    out = call(capsys, "compare", run.root, "--metric", *METRICS)[1]
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out, "nothing is cut off"


def test_the_kept_files_are_what_is_written(capsys, tmp_path) -> None:
    code, out, _ = call(capsys, "compare", "--paper-to", tmp_path / "written")
    assert code == 0 and sorted(Path(line).name for line in out.split()) == sorted(f.name for f in KEPT.iterdir())
    for name in ("table1", "table2"):
        fresh, kept = (folder / f"{name}.parquet" for folder in (tmp_path / "written", KEPT))
        assert read_rows(kept, "published") == read_rows(fresh, "published") == published_rows(name)
        for suffix in (".csv", ".md"):
            assert kept.with_suffix(suffix).read_text() == fresh.with_suffix(suffix).read_text()


def test_the_published_files_say_what_was_printed_and_where(tmp_path) -> None:
    write_published(tmp_path)
    first, second = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("table1", "table2"))
    assert len(first) == 20 and len(second) == 4
    assert {r["source"] for r in second} == {"arXiv 2407.20072, Table 2"} and {r["num_test"] for r in first} == {233}
    for row, printed in zip(first + second, published_table1() + published_table2(), strict=True):
        assert all(row[name] == printed[name] for name in (*METRICS, *COUNTS, "regime", "model", "num_patients"))
        assert (row["doubt"] is not None) == printed["auc_doubt"]
    assert sum(r["auc_fits"] == "neither" for r in first) == 5

"""The report: what it says, also where files are missing."""

from __future__ import annotations

import glob
import html
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import sweeps
from sweeps.core.paths import RunPaths
from sweeps.core.tables import SCHEMAS, read_rows, write_table
from sweeps.report import write_report
from sweeps.report.colours import OTHER_REGIMES, REGIMES, regime_colours
from sweeps.report.columns import COLUMNS, OTHER_FILES, TABLES
from sweeps.report.timeline import IDLE_SECONDS, bars

from .pages import words_of


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Return the place where `page` keeps the page of an unchanged run: drawing it takes seconds."""
    return {}


@pytest.fixture
def page(run: RunPaths, rendered: dict[str, str]) -> str:
    """Return the page of the run, for tests that change nothing in it."""
    if not rendered:
        rendered["page"] = write_report(run, run.root).read_text()
    return rendered["page"]


def test_the_page_shows_every_part_and_loads_nothing(run: RunPaths) -> None:
    page = write_report(run, run.root).read_text()
    words = words_of(page)
    assert page.count("data-regime=") == 24  # 20 rows of Table 1, 4 of Table 2
    for text in (
        "All real images are phantoms", "bundled tiny", "trained from scratch", "Algeria", "61.37", "82.40",
        "ES asks for 6148", "loss is <nan> at step 7", "FloatingPointError", "African-like", "91.5", "27.5",
        "ResNet18 judge trained on phantoms", "0123456789ab", "1 leak between the training and the test set",
        "not comparable", "Fidelity and memorisation", "Calibration", "t-SNE embedding", "Data scaling",
        "added to the real images: accuracy is highest with 80, 66.0 %, which is 16.0 percentage points more than",
        "replacing real images: accuracy is highest with the fewest, 50.0 % with 0",
    ):  # fmt: skip
        assert text in words or text in page, text
    assert "loss is <nan>" not in page  # an error message is text, never markup
    assert not re.findall(r"""(?:src|href|srcset)=["'](?!data:|#)""", page)
    assert "<script" not in page and "url(" not in page and "This run has no" not in page
    assert all('alt="' in image and 'alt=""' not in image for image in re.findall(r"<img[^>]*>", page))
    assert all("scope=" in cell for cell in re.findall(r"<th[ >][^>]*", page))
    made = {file.name for file in run.figures.iterdir()}
    names = ("loss", "scores", "data_scaling", "reliability", "tsne", "timeline", "flow")
    drawn = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert made == {*drawn, "samples.png"}


def test_a_run_without_data_scaling_has_no_such_section(run: RunPaths) -> None:
    plan = json.loads(run.plan.read_text())
    plan["experiment"]["amounts"] |= {"numbers": [], "shares": []}
    run.plan.write_text(json.dumps(plan))
    assert "Data scaling" not in write_report(run, run.root).read_text()


def test_the_same_files_give_the_same_page(run: RunPaths, page: str) -> None:
    assert write_report(run, run.root).read_text() == page


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        (("plan.json", "predictions.parquet", "synthetic"), "no readable plan.json"),
        (("catalog.parquet", "audit.parquet", "adapters", "samples"), "This run has no catalog.parquet yet."),
        (("tables/headline.parquet",), "This run has no tables/headline.parquet yet."),
        (("synthetic",), "This run has no synthetic/metadata.parquet yet."),
        (("tables", "trials.parquet"), "This run has no trials.parquet yet."),
        (("phantoms",), "file missing"),
    ],
)
def test_a_run_that_lacks_files_is_shown_with_a_sentence_in_their_place(
    run: RunPaths, lost: tuple[str, ...], sentence: str
) -> None:
    for name in lost:
        target = run.root / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = write_report(run, run.root).read_text()
    assert sentence in words_of(page) and page.rstrip().endswith("</html>")
    # The record beside the images and the plan each tell phantoms from real images: losing one must not turn them real.
    assert "All real images are phantoms" in page and "On clinical images" not in page


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = write_report(RunPaths(tmp_path), tmp_path).read_text()
    assert page.count('class="absent"') >= 8
    assert not re.search(r"\bnan\b", words_of(page))


def test_a_damaged_table_is_named_and_the_rest_shown(run: RunPaths) -> None:
    run.table("table1").write_bytes(b"not parquet")
    words = words_of(write_report(run, run.root).read_text())
    assert "tables/table1.parquet cannot be read" in words and "Table 2." in words


def test_a_cell_whose_trials_all_failed_has_no_scores(run: RunPaths) -> None:
    rows = read_rows(run.table("table1"), "table1")
    kept = ("regime", "model", "num_seeds")
    rows[0] = {key: value for key, value in rows[0].items() if key in kept} | {"num_seeds": 0}
    write_table(run.table("table1"), "table1", rows)
    page = write_report(run, run.root).read_text()
    assert "no trial of this row succeeded" in page and page.count("data-regime=") == 24


def test_real_images_and_weights_carry_no_banner(run: RunPaths) -> None:
    (run.phantoms / "phantoms.json").unlink()
    plan = json.loads(run.plan.read_text())
    plan["experiment"] |= {"spanish": "/somewhere", "african": "/elsewhere", "base": "stable-diffusion-v1-5"}
    run.plan.write_text(json.dumps(plan))
    for table in ("table1", "table2"):
        rows = [row | {"weights": "resnet18.tv_in1k (folder)"} for row in read_rows(run.table(table), table)]
        write_table(run.table(table), table, rows)
    write_table(
        run.table("ranks"),
        "ranks",
        [r | {"base": "stable-diffusion-v1-5"} for r in read_rows(run.table("ranks"), "ranks")],
    )
    page = write_report(run, run.root).read_text()
    assert "On clinical images" in page and 'class="banner"' not in page
    assert "phantoms:" not in page and "simulated" not in page


def test_a_regime_of_ones_own_has_a_colour_of_its_own_in_figure_and_table(run: RunPaths) -> None:
    rows = read_rows(run.table("table1"), "table1")
    own = [r | {"regime": name} for name in ("AF+SYN", "<b>") for r in rows[:2]]
    write_table(run.table("table1"), "table1", [*rows, *own])
    page = write_report(run, run.root).read_text()
    swatches = dict(re.findall(r'class="swatch" style="background:(#\w+)"></span>([^<]+)', page))
    colours = {html.unescape(name): colour for colour, name in swatches.items()}
    assert {"ES", "HB+DA", "AF", "AF+SYN", "<b>"} <= colours.keys() and "<b>" not in page
    assert len(set(colours.values())) == len(colours)
    drawn = (run.figures / "scores.svg").read_text()
    assert all(colours[name] in drawn for name in ("ES", "AF+SYN", "<b>"))


def test_colours_of_regimes_follow_from_their_names() -> None:
    names = [*REGIMES, *(f"R{i}" for i in range(len(OTHER_REGIMES)))]
    found = regime_colours(names)
    assert len(set(found.values())) == len(names) and found == regime_colours(names[::-1])
    assert regime_colours(["AF+SYN"])["AF+SYN"] == regime_colours(["ES", "AF+SYN"])["AF+SYN"]
    assert len(regime_colours([*names, "one more"])) == len(names) + 1


def test_every_table_and_column_the_report_renames_exists() -> None:
    assert {file for file, _ in TABLES.values()} <= SCHEMAS.keys() and not TABLES.keys() & OTHER_FILES.keys()
    renamed = {(TABLES[name][0], column) for name, columns in COLUMNS.items() for column in columns.values()}
    assert [(table, column) for table, column in sorted(renamed) if column not in SCHEMAS[table]] == []


def test_the_templates_are_part_of_the_package() -> None:
    package = Path(sweeps.__file__).parent
    patterns = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    carried = {name for pattern in patterns["sweeps"] for name in glob.glob(pattern, root_dir=package, recursive=True)}
    used = {str(f.relative_to(package)) for f in (package / "report").rglob("*") if f.suffix in (".html", ".css")}
    assert len(used) > 10 and used <= carried


def test_lanes_hold_one_bar_at_a_time_and_idle_hours_are_cut() -> None:
    shared = {"stage": "grid", "device": "cpu", "status": "SUCCEEDED"}
    times = [("10:00:00", 30), ("10:00:05", 10), ("10:00:20", 10), ("15:00:00", 10)]
    rows = [
        {**shared, "label": str(i), "started_at": f"2026-01-01T{at}+00:00", "seconds": s}
        for i, (at, s) in enumerate(times)
    ]
    found = bars(rows, [])
    assert [bar.lane for bar in found] == [0, 1, 1, 0]
    assert found[-1].start == pytest.approx(30 + IDLE_SECONDS)


def test_the_page_says_how_close_images_are_and_shows_the_closest(page: str) -> None:
    part = _part(page, "fidelity")
    order = [part.index(text) for text in ("none (base model)", "rank 128", "phantom images of other patients")]
    assert order == sorted(order) and "Features: the judge" in part
    assert "1.2 % of the 80 synthetic images" in part and "any of 160 phantom images of 77 other patients" in part
    assert "distance ratio 0.00" in part and "file missing" in part
    markup = _section(page, "fidelity")
    assert "flipped horizontally" in markup
    assert markup.count('src="data:image/jpeg') == 2, "the synthetic image and its nearest"


def _section(page: str, key: str) -> str:
    start = page.index(f'<section id="{key}"')
    return page[start : page.index("</section>", start)]


def _part(page: str, key: str) -> str:
    """Return the words of one section."""
    return words_of(_section(page, key))


def test_the_page_says_which_differences_are_significant(run: RunPaths, page: str) -> None:
    """The fabricated AF is right in eight of ten, ES in half: a significant gain of AF."""
    rows = [r for r in read_rows(run.table("comparisons"), "comparisons") if r["metric"] == "accuracy"]
    row = next(r for r in rows if (r["regime_a"], r["regime_b"], r["model_a"]) == ("ES", "AF", "ViT b16"))
    assert row["significant"] and row["difference"] > 0
    found = sum(r["significant"] for r in rows)
    flipped = [
        r | {"regime_a": r["regime_b"], "regime_b": r["regime_a"], "difference": -r["difference"],
             "low": -r["high"], "high": -r["low"]}
        if r["model_a"] == r["model_b"] else r for r in read_rows(run.table("comparisons"), "comparisons")
    ]  # fmt: skip
    part = _part(page, "scores")
    assert f"significant over patients, replicates and seeds (AF vs. ES: ViT b16 +{row['difference']:.1f}" in part
    assert f"Of all {len(rows)} pairs of rows of Tables 1 and 2, {found} differ significantly in accuracy" in part
    write_table(run.table("comparisons"), "comparisons", flipped)
    assert _part(write_report(run, run.root).read_text(), "scores") == part, "the order of a pair does not matter"


def test_the_page_shows_scores_both_ways_by_centre_and_calibration(run: RunPaths, page: str) -> None:
    words = _part(page, "scores")
    # The fabricated audit has one pair: a training image that is a test image too, which only AF trains on.
    assert "No test image duplicates another test image, and up to 1, depending on the regime, are also" in words
    (row,) = [r for r in read_rows(run.table("deduplicated"), "deduplicated") if r["regime"] == "AF"]
    assert f"AF ViT b16 1 1 0 {read_rows(run.table('table2'), 'table2')[0]['accuracy']:.2f}" in words
    assert f"{row['accuracy']:.2f} {row['accuracy_low']:.1f}–{row['accuracy_high']:.1f}" in words
    assert "Accuracy by centre" in words and "Ghana: 24 images" in words and "Accuracy by machine" not in words
    assert "AUC, paper’s formula" in words
    calibration = read_rows(run.table("calibration"), "calibration")
    part = _part(page, "calibration")
    assert f"mean confidence is {sum(r['confidence'] for r in calibration) / 5:.1f} %" in part
    assert all(f"{r['brier']:.3f}" in part for r in calibration)


def test_one_row_has_nothing_to_compare_with_and_no_duplicates_are_said(run: RunPaths) -> None:
    write_table(run.table("comparisons"), "comparisons", [])
    rows = read_rows(run.table("deduplicated"), "deduplicated")
    write_table(run.table("deduplicated"), "deduplicated", [r | {"num_left_out": 0} for r in rows])
    part = _part(write_report(run, run.root).read_text(), "scores")
    assert "Only one row has scores" in part and "The test set has no duplicates" in part

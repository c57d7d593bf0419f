"""The report: what it says, that it says so when files are missing, and that a browser shows it whole."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fulora.evaluate.published import published_table1
from sweeps.paths import RunPaths
from sweeps.report import write_report
from sweeps.report.change import change
from sweeps.report.timeline import IDLE_SECONDS, bars
from sweeps.tables import read_rows, write_table

Fabricate = Callable[[Path], RunPaths]


@pytest.fixture
def run(fabricated_run: Fabricate, tmp_path: Path) -> RunPaths:
    return fabricated_run(tmp_path / "run")


def _words(page: str) -> str:
    """Return a page's visible text on one line."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_the_page_shows_every_part_and_loads_nothing(run: RunPaths) -> None:
    page = write_report(run).read_text()
    words = _words(page)
    assert page.count("data-regime=") == 24  # 20 rows of Table 1, 4 of Table 2
    for text in (
        "Images are phantoms", "bundled tiny", "trained from scratch", "Algeria", "61.37", "82.40", "ES asks for 6148",
        "loss is <nan> at step 7", "FloatingPointError", "African-like", "ResNet18 judge trained on phantoms",
        "0123456789ab", "1 with one image to train on and one in the test set", "not comparable", "91.5", "27.5",
        "beside all real ones: accuracy is highest with 80, 66.0 %, 16.0 points more than with 0",
        "in place of real ones: accuracy is highest with the fewest, 50.0 % with 0",
    ):  # fmt: skip
        assert text in words or text in page, text
    assert "loss is <nan>" not in page  # an error message is text, never markup
    assert not re.findall(r"""(?:src|href|srcset)=["'](?!data:|#)""", page)
    assert "<script" not in page and "url(" not in page and "This run has no" not in page
    assert all('alt="' in image and 'alt=""' not in image for image in re.findall(r"<img[^>]*>", page))
    assert all("scope=" in cell for cell in re.findall(r"<th[ >][^>]*", page))
    made = {file.name for file in run.figures.iterdir()}
    names = ("loss", "scores", "amounts", "reliability", "tsne", "timeline")
    drawn = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert made == {*drawn, "samples.png"}


def test_a_run_that_does_not_ask_how_many_images_help_has_no_such_part(run: RunPaths) -> None:
    plan = json.loads(run.plan.read_text())
    plan["experiment"]["amounts"] |= {"numbers": [], "shares": []}
    run.plan.write_text(json.dumps(plan))
    assert "How many synthetic images help" not in write_report(run).read_text()


def test_the_same_files_give_the_same_page(run: RunPaths) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        (("plan.json", "predictions.parquet", "synthetic"), "no readable plan.json"),
        (("catalog.parquet", "audit.parquet", "adapters", "samples"), "This run has no catalog.parquet yet."),
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
    page = write_report(run).read_text()
    assert sentence in page and page.rstrip().endswith("</html>")
    # The record beside the images and the plan each tell phantoms from real images: losing one must not turn them real.
    assert "Images are phantoms" in page and "On real images" not in page


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = write_report(RunPaths(tmp_path)).read_text()
    assert page.count('class="absent"') >= 8
    assert not re.search(r"\bnan\b", _words(page))


def test_a_damaged_table_is_named_and_the_rest_shown(run: RunPaths) -> None:
    run.table("table1").write_bytes(b"not parquet")
    words = _words(write_report(run).read_text())
    assert "table1.parquet cannot be read" in words and "Table 2." in words


def test_a_cell_whose_trials_all_failed_has_no_scores(run: RunPaths) -> None:
    rows = read_rows(run.table("table1"), "table1")
    kept = ("regime", "model", "num_seeds")
    rows[0] = {key: value for key, value in rows[0].items() if key in kept} | {"num_seeds": 0}
    write_table(run.table("table1"), "table1", rows)
    page = write_report(run).read_text()
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
    page = write_report(run).read_text()
    assert "On real images" in page and 'class="banner"' not in page
    assert "Images are phantoms" not in page and "simulated" not in page


def test_change_is_the_mean_difference_and_its_interval_holds_it(run: RunPaths) -> None:
    table, predictions = read_rows(run.table("table1"), "table1"), read_rows(run.predictions, "predictions")
    found = change(table, predictions, "HB", "ES", seed=0)
    assert found is not None and len(found.models) == 5 and found.num_patients == 15
    mean = {r: sum(row["accuracy"] for row in table if row["regime"] == r) / 5 for r in ("HB", "ES")}
    value, low, high = found.values["accuracy"]
    assert value == pytest.approx(mean["HB"] - mean["ES"])
    assert low < value < high
    paper = published_table1()
    means = {r: sum(float(row["accuracy"]) for row in paper if row["regime"] == r) / 5 for r in ("HB", "ES")}
    assert found.published["accuracy"] == pytest.approx(means["HB"] - means["ES"])
    same = change(table, predictions, "ES", "ES", seed=0)
    assert same is not None and same.values["accuracy"] == pytest.approx((0, 0, 0), abs=1e-9)
    assert change(table, [], "HB", "ES", seed=0) is None


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


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=8000",
)  # fmt: skip

_MEASURE = """<!doctype html><title>measuring</title><iframe id=f style="border:0;width:{width}px;height:900px"
srcdoc="{page}"></iframe><script>
const frame = document.getElementById('f');
frame.onload = () => {{
  const page = frame.contentDocument;
  const broken = [...page.images].filter(i => !i.complete || !i.naturalWidth).length;
  document.title = JSON.stringify({{
    scroll: page.documentElement.scrollWidth, inner: frame.contentWindow.innerWidth,
    table1: page.querySelectorAll('#table1 tbody tr[data-model]').length, broken, images: page.images.length,
    loaded: frame.contentWindow.performance.getEntriesByType('resource')
      .filter(entry => !entry.name.startsWith('data:')).length,
  }});
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_whole(run: RunPaths, tmp_path: Path, width: int) -> None:
    """The page is put in a frame of the width: a headless window itself cannot be made as narrow as a phone."""
    page = write_report(run).read_text()
    frame = tmp_path / "frame.html"
    frame.write_text(_MEASURE.format(width=width, page=html.escape(page, quote=True)))
    profile = tmp_path / "profile"
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={profile}",
        "--window-size=1400,1000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    seen = json.loads(html.unescape(title[1]))
    assert seen["inner"] == width and seen["scroll"] <= width, "the page scrolls sideways"
    assert seen["table1"] == 20
    assert seen["images"] > 40 and seen["broken"] == 0
    assert seen["loaded"] == 0, "the page fetched something"
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]


def test_the_page_says_how_close_images_are_and_shows_the_closest(run: RunPaths) -> None:
    page = write_report(run).read_text()
    part = page[page.index('id="quality"') : page.index('id="scores"')]
    order = [part.index(text) for text in ("none (the base)", "rank 128", "phantom images")]
    assert order == sorted(order) and "Features: the judge" in part
    assert "1.2 % of the 80 images" in part and "any of 160 phantom images of 77 other patients" in part
    assert "closeness 0.00" in part and "turned left to right" in part and "file missing" in part
    assert part.count('src="data:image/jpeg') == 2, "the synthetic image and its nearest"


def _part(page: str, key: str) -> str:
    """Return the words of one section."""
    start = page.index(f'<section id="{key}"')
    return _words(page[start : page.index("</section>", start)])


def test_the_page_says_what_can_be_told_from_chance(run: RunPaths) -> None:
    """The fabricated AF is right in eight of ten, ES in half: told apart, and shown as the gain of AF."""
    rows = [r for r in read_rows(run.table("comparisons"), "comparisons") if r["metric"] == "accuracy"]
    row = next(r for r in rows if (r["regime_a"], r["regime_b"], r["model_a"]) == ("ES", "AF", "ViT b16"))
    assert row["told_from_chance"] and row["difference"] > 0
    told = sum(r["told_from_chance"] for r in rows)
    flipped = [
        r | {"regime_a": r["regime_b"], "regime_b": r["regime_a"], "difference": -r["difference"],
             "low": -r["high"], "high": -r["low"]}
        if r["model_a"] == r["model_b"] else r for r in read_rows(run.table("comparisons"), "comparisons")
    ]  # fmt: skip
    part = _part(write_report(run).read_text(), "scores")
    assert f"AF against ES: ViT b16 +{row['difference']:.1f}" in part
    assert f"Of all {len(rows)} pairs of rows of Tables 1 and 2, {told} can be told apart by accuracy" in part
    write_table(run.table("comparisons"), "comparisons", flipped)
    assert _part(write_report(run).read_text(), "scores") == part, "the order of a pair does not matter"


def test_the_page_shows_scores_both_ways_by_centre_and_how_sure_classifiers_are(run: RunPaths) -> None:
    words = _part(page := write_report(run).read_text(), "scores")
    # The fabricated audit has one pair: a training image that is a test image too, which only AF trains on.
    assert "up to 0 repeat another one, and up to 1, by regime, were trained on" in words
    (row,) = [r for r in read_rows(run.table("deduplicated"), "deduplicated") if r["regime"] == "AF"]
    assert f"AF ViT b16 1 1 0 {read_rows(run.table('table2'), 'table2')[0]['accuracy']:.2f}" in words
    assert f"{row['accuracy']:.2f} {row['accuracy_low']:.1f}–{row['accuracy_high']:.1f}" in words
    assert "Accuracy by centre" in words and "Ghana: 24 images" in words and "Accuracy by machine" not in words
    assert "AUC, paper’s formula" in words
    calibration = read_rows(run.table("calibration"), "calibration")
    part = _part(page, "calibration")
    assert f"classifiers are {sum(r['confidence'] for r in calibration) / 5:.1f} % sure" in part
    assert all(f"{r['brier']:.3f}" in part for r in calibration)


def test_one_row_has_nothing_to_compare_with_and_no_repeats_are_said(run: RunPaths) -> None:
    write_table(run.table("comparisons"), "comparisons", [])
    rows = read_rows(run.table("deduplicated"), "deduplicated")
    write_table(run.table("deduplicated"), "deduplicated", [r | {"num_left_out": 0} for r in rows])
    part = _part(write_report(run).read_text(), "scores")
    assert "Only one row has scores" in part and "No test image is there twice or was trained on" in part

"""The part of the page that asks whether classifiers know how sure they may be.

In: a run's files. Out: HTML: the reliability diagrams, one sentence, and every row's calibration.
"""

from __future__ import annotations

from statistics import fmean

from fulora.evaluate.calibration import NUM_BINS
from sweeps.report import figures
from sweeps.report.files import Row, RunFiles
from sweeps.report.illustrations import drawing
from sweeps.report.markup import Child, Columns, Html, absent, grid, number, tag


def calibration_section(run: RunFiles) -> list[Html]:
    """Return what confidence is worth: in words, drawn, and in numbers."""
    rows = run.tables["calibration"]
    if not rows:
        return [absent(run.absent("calibration"))]
    parts = [tag("p", _words(rows))]
    if run.tables["reliability"]:
        parts.append(_diagrams(run.tables["reliability"], run))
    return [*parts, tag("details", tag("summary", "Calibration of every row"), _table(rows))]


def _words(rows: list[Row]) -> str:
    sure, right = fmean(r["confidence"] for r in rows), fmean(r["accuracy"] for r in rows)
    beyond = [r for r in rows if r["ece"] > r["ece_by_chance"]]
    best = min(rows, key=lambda r: r["ece"])
    sentence = (
        f"Mean over the {len(rows)} rows, classifiers are {number(sure, 1)} % sure of their predictions and right in "
        f"{number(right, 1)} %. The expected calibration error, the mean gap between the two, is least for "
        f"{best['model']} trained on {best['regime']}: {number(best['ece'], 1)} points, where a perfectly calibrated "
        f"classifier would show {number(best['ece_by_chance'], 1)} on as many images."
    )
    if len(beyond) == len(rows):
        return f"{sentence} Every row’s error is larger than such a classifier would show."
    return f"{sentence} {len(beyond)} of {len(rows)} rows show more than such a classifier would."


def _diagrams(bins: list[Row], run: RunFiles) -> Html:
    return drawing(
        run,
        "reliability",
        figures.reliability(bins),
        "Reliability diagrams, one panel per regime: share of right predictions over confidence, a line per model; the "
        "numbers are in the table below.",
        "Of the predictions a classifier is so sure of, how many are right. Below the dashed line it is surer than "
        f"it may be. Confidence is the probability of the plane predicted, in {NUM_BINS} equal-width bins; the larger "
        f"a mark, the more images; bins of fewer than {figures.FEWEST_IN_BIN} predictions are not drawn.",
    )


def _table(rows: list[Row]) -> Html:
    columns: Columns = [
        ("Regime", "text"), ("Model", "text"), ("Confidence, %", "number"), ("Accuracy, %", "number"),
        ("Calibration error", "number"), ("by chance", "number"), ("Equal-mass bins", "number"), ("Brier", "number"),
    ]  # fmt: skip
    body: list[list[Child]] = [
        [
            r["regime"], r["model"], number(r["confidence"], 1), number(r["accuracy"], 1),
            [number(r["ece"], 1), _interval(r, "ece", 1)], number(r["ece_by_chance"], 1),
            number(r["ece_equal_mass"], 1), [number(r["brier"], 3), _interval(r, "brier", 3)],
        ]
        for r in rows
    ]  # fmt: skip
    note = (
        f" Expected calibration error in points of percent, {NUM_BINS} bins of equal width, with its 95 % interval "
        "over patients; few images push it and its interval upwards, hence beside it what a perfectly calibrated "
        "classifier of the same confidence would show. Brier score: 0 is sure and right, 2 sure and wrong."
    )
    return grid("Calibration.", columns, body, note=note)


def _interval(row: Row, name: str, digits: int) -> Html | None:
    if row[f"{name}_low"] is None:
        return None
    return tag("span", f"{number(row[f'{name}_low'], digits)}–{number(row[f'{name}_high'], digits)}", class_="ci")

"""The part of the page that asks how many synthetic images help.

In: a run's files. Out: HTML: a figure over their number and their share, one sentence, and the numbers.
"""

from __future__ import annotations

from sweeps.report import figures
from sweeps.report.files import Row, RunFiles
from sweeps.report.illustrations import drawing
from sweeps.report.markup import Child, Columns, Html, absent, grid, number, tag
from sweeps.report.verdict import regime_words

_KINDS = {"number": "beside all real ones", "share": "in place of real ones"}


def amount_section(run: RunFiles) -> list[Html]:
    """Return the figure, what it shows in words, and its numbers; nothing where the run does not ask."""
    asked = run.experiment.get("amounts") or {}
    if not (asked.get("numbers") or asked.get("shares")):
        return []
    rows = run.tables["amounts"]
    if not any(r["accuracy"] is not None for r in rows):
        return [absent(run.absent("amounts"))]
    model, regime, seeds = rows[0]["model"], rows[0]["regime"], max(r["num_seeds"] for r in rows)
    return [
        tag("p", " ".join(_sentence(kind, rows) for kind in _KINDS if any(r["kind"] == kind for r in rows))),
        drawing(
            run,
            "amounts",
            figures.amounts([r for r in rows if r["accuracy"] is not None]),
            "Accuracy and F1 over the number of synthetic images, and over their share; the numbers are in the table "
            "below.",
            f"{model} trained on {regime} ({regime_words(regime)}) with other numbers of images, mean of "
            f"{seeds} training{'s' if seeds != 1 else ''}; bands: 95 % interval over test patients. Left, all real "
            "images stay; right, the size of the training set stays.",
        ),
        _table(rows),
    ]


def _sentence(kind: str, rows: list[Row]) -> str:
    mine = [r for r in rows if r["kind"] == kind and r["accuracy"] is not None]
    if len(mine) < 2:
        return f"Synthetic images {_KINDS[kind]}: too few trainings succeeded to compare."
    best, fewest = max(mine, key=lambda r: r["accuracy"]), mine[0]
    if best is fewest:
        return (
            f"Synthetic images {_KINDS[kind]}: accuracy is highest with the fewest, {number(best['accuracy'], 1)} % "
            f"with {best['num_synthetic']}."
        )
    low, high = best["accuracy_gain_low"], best["accuracy_gain_high"]
    sure = low is not None and low > 0
    return (
        f"Synthetic images {_KINDS[kind]}: accuracy is highest with {best['num_synthetic']}, "
        f"{number(best['accuracy'], 1)} %, {number(best['accuracy_gain'], 1)} points more than "
        f"with {fewest['num_synthetic']} (interval of the difference {number(low, 1)} to {number(high, 1)}, picked "
        f"after seeing all {len(mine)}{'' if sure else '; it includes no gain at all'})."
    )


def _table(rows: list[Row]) -> Html:
    columns: Columns = [
        ("Synthetic images", "text"), ("Real", "number"), ("Synthetic", "number"), ("Patients", "number"),
        ("Accuracy, %", "number"), ("F1, %", "number"), ("Accuracy, gain", "number"), ("F1, gain", "number"),
    ]  # fmt: skip
    body: list[list[Child]] = [
        [
            _KINDS[r["kind"]], number(r["num_es"], 0), number(r["num_synthetic"], 0), number(r["num_patients"], 0),
            *(_with_interval(r, name) for name in ("accuracy", "f1", "accuracy_gain", "f1_gain")),
        ]
        for r in rows
    ]  # fmt: skip
    note = " Gain: points above the row of its kind with the fewest synthetic images, on the same test patients."
    return grid("How many synthetic images.", columns, body, note=note)


def _with_interval(row: Row, name: str) -> Child:
    if row[name] is None:
        return "–"
    if row[f"{name}_low"] is None:
        return number(row[name], 1)
    ends = f"{number(row[f'{name}_low'], 1)} to {number(row[f'{name}_high'], 1)}"
    return [number(row[name], 1), tag("span", ends, class_="ci")]

"""Which differences can be told from chance, and what becomes of the scores on parts of the test set.

In: a run's files. Out: HTML: differences between regimes per model, scores without images that are there twice, and
accuracy by centre and machine.
"""

from __future__ import annotations

from sweeps.report.files import Row, RunFiles
from sweeps.report.markup import Child, Columns, Html, absent, grid, number, signed, tag

_NAMES = {"accuracy": "accuracy", "f1": "F1"}
_REFERENCE = "ES"
_AUGMENTED = ("ES+DA", "HB+DA")
_NOTE = (
    "Differences are of the same test images, their intervals over the same resamples of patients. Told from chance: p "
    "below 0.05 after correction for all pairs of rows (Romano and Wolf’s step-down). An interval itself is not "
    "corrected, nor is the mean over models at the head of the page, which is one question asked beforehand. All of it "
    "covers the choice of test patients, not of training seeds beyond those of the run. All pairs, and the other "
    "scores, are in the table comparisons."
)


def differences(run: RunFiles) -> list[Html]:
    """Return what each regime changes for each model, and which of it the choice of test patients does not explain."""
    rows = run.tables["comparisons"]
    if not rows:
        if "comparisons" in run.missing:
            return [absent(run.absent("comparisons"))]
        return [tag("p", "Only one row has scores: there is nothing to compare it with.")]
    parts: list[Html] = []
    for metric, name in _NAMES.items():
        mine = [r for r in rows if r["metric"] == metric]
        shown = _between_regimes(mine)
        parts.append(tag("p", _words(mine, shown, name)))
        if shown:
            parts.append(_difference_table(shown, name))
    return [*parts, tag("p", _NOTE, class_="note")]


def _between_regimes(rows: list[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Return {(regime, reference): {model: row}}: each regime against ES, and with augmentation against without
    synthetic images; a row's difference is the regime's score minus the reference's."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["model_a"] != row["model_b"]:
            continue
        pair = (row["regime_a"], row["regime_b"])
        if pair[1] == _REFERENCE or pair == _AUGMENTED[::-1]:
            row = row | {"difference": -row["difference"], "low": _minus(row["high"]), "high": _minus(row["low"])}
            pair = pair[::-1]
        if pair[0] == _REFERENCE or pair == _AUGMENTED:
            found.setdefault((pair[1], pair[0]), {})[row["model_a"]] = row
    return found


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _words(rows: list[Row], shown: dict[tuple[str, str], dict[str, Row]], name: str) -> str:
    count = sum(len(models) for models in shown.values())
    told = []
    for (regime, reference), models in shown.items():
        apart = [f"{m} {signed(r['difference'])}" for m, r in models.items() if r["told_from_chance"]]
        if apart:
            told.append(f"{regime} against {reference}: {', '.join(apart)}")
    number_told = sum(r["told_from_chance"] for models in shown.values() for r in models.values())
    pairs = sum(r["told_from_chance"] for r in rows)
    listed = f" ({'; '.join(told)})" if told else ""
    every = f"Of all {len(rows)} pairs of rows of Tables 1 and 2, {pairs or 'none'} can be told apart by {name}."
    if not count:
        return every
    changes = (
        f"Of {count} changes of {name} from one regime to another, {number_told or 'none'} can be told from chance"
    )
    return f"{changes}{listed}. {every}"


def _difference_table(shown: dict[tuple[str, str], dict[str, Row]], name: str) -> Html:
    models = list(dict.fromkeys(model for found in shown.values() for model in found))
    columns: Columns = [("Regime", "text"), *((model, "number") for model in models)]  # type: ignore[misc]
    body: list[list[Child]] = [
        [f"{regime} against {reference}", *(_cell(found.get(model)) for model in models)]
        for (regime, reference), found in shown.items()
    ]
    caption = f"Change of {name} by regime, points of percent, with 95 % intervals. *: can be told from chance."
    return grid(caption, columns, body)


def _cell(row: Row | None) -> Child:
    if row is None:
        return "–"
    shown: Child = signed(row["difference"])
    if row["told_from_chance"]:
        shown = tag("strong", shown, "*")
    if row["low"] is None:
        return shown
    return [shown, tag("span", f"{signed(row['low'])} to {signed(row['high'])}", class_="ci")]


def without_duplicates(run: RunFiles) -> list[Html]:
    """Return the scores on the test images that are neither there twice nor trained on, beside those on all."""
    rows = [r for r in run.tables["deduplicated"] if r["accuracy"] is not None]
    if not rows:
        return [absent(run.absent("deduplicated"))]
    if not any(r["num_left_out"] for r in rows):
        return [tag("p", "No test image is there twice or was trained on: the scores count each image once.")]
    every = {(r["regime"], r["model"]): r for name in ("table1", "table2") for r in run.tables[name]}
    changed = [(r, every[r["regime"], r["model"]]) for r in rows if (r["regime"], r["model"]) in every]
    changed = [(r, whole) for r, whole in changed if whole["accuracy"] is not None]
    if not changed:
        return [absent(run.absent("table1"))]
    row, whole = max(changed, key=lambda pair: abs(pair[0]["accuracy"] - pair[1]["accuracy"]))
    repeated = max(r["num_repeated"] + r["num_near_repeated"] for r in rows)
    trained = max(r["num_trained_on"] + r["num_near_trained_on"] for r in rows)
    words = (
        f"Of the test images up to {repeated} repeat another one, and up to {trained}, by regime, were trained on. "
        "Without them, accuracy changes most for "
        f"{row['model']} trained on {row['regime']}: {number(whole['accuracy'])} % on {whole['num_test']} images, "
        f"{number(row['accuracy'])} % on the {row['num_test']} that are left."
    )
    columns: Columns = [
        ("Regime", "text"), ("Model", "text"), ("Left out", "number"), ("trained on", "number"), ("repeated", "number"),
        ("Accuracy, all", "number"), ("without", "number"), ("F1, all", "number"), ("without", "number"),
    ]  # fmt: skip
    body: list[list[Child]] = [
        [
            r["regime"], r["model"], str(r["num_left_out"]), str(r["num_trained_on"] + r["num_near_trained_on"]),
            str(r["num_repeated"] + r["num_near_repeated"]), number(all_["accuracy"]), _with_interval(r, "accuracy"),
            number(all_["f1"]), _with_interval(r, "f1"),
        ]
        for r, all_ in changed
    ]  # fmt: skip
    near = any(r["num_near_trained_on"] or r["num_near_repeated"] for r in rows)
    kinds = "equal pixels, or nearly equal ones as the audit finds them" if near else "equal pixels"
    note = f" Left out: test images with {kinds}, where the other is a training image of the regime or is counted."
    table = grid("Scores with and without images that are there twice, percent.", columns, body, note=note)
    return [tag("p", words), tag("details", tag("summary", "Scores without images that are there twice"), table)]


def _with_interval(row: Row, name: str) -> Child:
    if row[f"{name}_low"] is None:
        return number(row[name])
    interval = f"{number(row[f'{name}_low'], 1)}–{number(row[f'{name}_high'], 1)}"
    return [number(row[name]), tag("span", interval, class_="ci")]


def by_part(run: RunFiles) -> list[Html]:
    """Return accuracy by centre, and by machine where it is known."""
    rows = run.tables["breakdown"]
    if not rows:
        return [absent(run.absent("breakdown"))]
    parts = []
    for by in dict.fromkeys(r["by"] for r in rows):
        mine = {(r["regime"], r["model"], r["value"]): r for r in rows if r["by"] == by}
        values = list(dict.fromkeys(value for _, _, value in mine))
        sizes = {r["value"]: (r["num_images"], r["num_patients"]) for r in mine.values()}
        columns: Columns = [("Regime", "text"), ("Model", "text"), *((value, "number") for value in values)]  # type: ignore[misc]
        body: list[list[Child]] = [
            [regime, model, *(_with_interval(mine[regime, model, value], "accuracy") for value in values)]
            for regime, model in dict.fromkeys((regime, model) for regime, model, _ in mine)
        ]
        counted = "; ".join(f"{value}: {n} images of {p} patients" for value, (n, p) in sizes.items())
        table = grid(f"Accuracy by {by}, percent.", columns, body, note=f" {counted}.")
        parts.append(tag("details", tag("summary", f"Accuracy by {by}"), table))
    return parts

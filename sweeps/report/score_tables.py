"""Tables 1 and 2 beside the paper's, and the confusion matrix of the best row.

In: a run's files. Out: HTML. Scores are percent; an interval stands under its value.
"""

from __future__ import annotations

from collections.abc import Sequence

from fulora.evaluate.published import published_table1, published_table2
from fulora.planes import PLANES, TESTED_PLANES
from sweeps.core.tables import METRICS
from sweeps.report.files import Row, RunFiles
from sweeps.report.markup import Html, absent, number, scrolling, tag
from sweeps.report.verdict import best_row, regime_words

_NAMES = {"accuracy": "Accuracy", "recall": "Recall", "precision": "Precision", "f1": "F1", "auc": "AUC"}

AUC_NOTE = (
    "The paper’s AUC is not comparable with a true one. “AUC” is one plane against the rest, from the scores. “AUC, "
    "paper’s formula” is computed as the paper’s: from hard labels, and counting a prediction of Other as positive for "
    "every plane, which is a fault. It stands beside the paper’s values and is used for nothing else. Those marked † "
    "are doubtful: by plain hard labels one would need a specificity above 100 %, and the others fit no formula known. "
    "They stand here as printed and are no target."
)


def table(run: RunFiles, name: str) -> Html:
    """Return `table1` or `table2` with the paper's values beside each of ours, the best of each column bold."""
    rows = run.tables[name]
    if not rows:
        return absent(run.absent(name))
    published = {
        (str(r["regime"]), str(r["model"])): r for r in (published_table1() if name == "table1" else published_table2())
    }
    best = {metric: _best(r[metric] for r in rows) for metric in METRICS}
    papers = [published[r["regime"], r["model"]] for r in rows if (r["regime"], r["model"]) in published]
    best_paper = {metric: _best(float(p[metric]) for p in papers) for metric in METRICS}
    here, theirs = (
        tag("th", "here", scope="col", class_="num start"),
        tag("th", "paper", scope="col", class_="num paper"),
    )
    both = [tag("th", _NAMES[m], scope="colgroup", colspan="2", class_="group") for m in METRICS if m != "auc"]
    own = tag("th", _NAMES["auc"], scope="colgroup", class_="group")
    formula = tag("th", "AUC, paper’s formula", scope="colgroup", colspan="2", class_="group")
    first = tag("tr", tag("th", "Model", scope="col", rowspan="2"), both, own, formula)
    second = tag("tr", [[here, theirs] for _ in both], here, here, theirs)
    bodies = []
    for regime in dict.fromkeys(r["regime"] for r in rows):
        mine = [r for r in rows if r["regime"] == regime]
        cell = tag("th", _regime_head(mine, published), scope="rowgroup", colspan=str(2 + 2 * len(METRICS)))
        head = tag("tr", cell, class_="regime")
        lines = [_line(r, published.get((regime, r["model"])), best, best_paper) for r in mine]
        bodies.append(tag("tbody", head, lines))
    title = "Table 1" if name == "table1" else "Table 2"
    num_test = {r["num_test"] for r in rows if r["num_test"]}
    seeds = {r["num_seeds"] for r in rows if r["num_seeds"]}
    caption = tag(
        "caption",
        tag("strong", f"{title}. "),
        f"Zero-shot classification of {' or '.join(map(str, sorted(num_test))) or 'the'} African"
        f"{'-like' if run.on_phantoms('african') else ''} test images, percent; under each value its 95 % interval "
        "over "
        f"patients{_seeds(seeds)}. Beside it the value the paper prints, on its own data. Bold: the best of a column.",
    )
    return scrolling(
        f"{title}, scores here and in the paper",
        tag("table", caption, tag("thead", first, second), bodies, class_="scores", id=name),
    )


def _seeds(seeds: set[int]) -> str:
    if not seeds or seeds == {1}:
        return ""
    return f", means of {' or '.join(map(str, sorted(seeds)))} seeds"


def _best(values) -> str | None:
    """Return the highest value as shown, so that equals as shown are all bold."""
    known = [v for v in values if v is not None]
    return number(max(known)) if known else None


def _regime_head(rows: Sequence[Row], published) -> list[Html]:
    regime = rows[0]["regime"]
    facts = next((r for r in rows if r["num_es"] is not None), None)
    words: list = [tag("span", regime, class_="name"), " ", regime_words(regime)]
    if facts:
        words += [". Here ", _sizes(facts)]
    paper = next((published[r["regime"], r["model"]] for r in rows if (r["regime"], r["model"]) in published), None)
    if paper:
        words += ["; paper ", _sizes(paper)]
    return [tag("span", words, class_="sticky")]


def _sizes(row) -> str:
    parts = [(row["num_es"], "Spanish"), (row.get("num_af"), "African"), (row["num_synthetic"], "synthetic")]
    return " + ".join(f"{n} {what}" for n, what in parts if n) + f", {row['num_patients']} patients"


def _line(row: Row, paper, best: dict, best_paper: dict) -> Html:
    cells = []
    for metric in METRICS:
        cells.append(_here(row, metric, best))
        if metric != "auc":
            theirs = number(paper[metric]) if paper else "–"
            bold = paper and theirs == best_paper[metric]
            cells.append(tag("td", tag("strong", theirs) if bold else theirs, class_="num paper"))
    cells.append(tag("td", number(row["auc_published"]), class_="num start"))
    doubt = "†" if paper and paper["auc_doubt"] else None
    cells.append(tag("td", number(paper["auc"]) if paper else "–", doubt, class_="num paper"))
    how = row["weights"] or ("no trial of this row succeeded" if row["accuracy"] is None else "weights not recorded")
    name = tag("th", row["model"], tag("span", how, class_="ci"), scope="row")
    return tag("tr", name, cells, data_regime=row["regime"], data_model=row["model"])


def _here(row: Row, metric: str, best: dict) -> Html:
    """Return the cell of one of our scores, its interval under it."""
    shown = number(row[metric])
    inner = [tag("strong", shown) if shown == best[metric] else shown]
    if row[f"{metric}_low"] is not None:
        inner.append(tag("span", f"{number(row[f'{metric}_low'], 1)}–{number(row[f'{metric}_high'], 1)}", class_="ci"))
    return tag("td", inner, class_="num start")


def confusion(run: RunFiles) -> Html:
    """Return the confusion matrix of Table 1's best row: what the best classifier mistakes for what."""
    best = best_row(run)
    rows = [] if best is None else [
        r for r in run.tables["confusion"] if (r["regime"], r["model"]) == (best["regime"], best["model"])
    ]  # fmt: skip
    if best is None or not rows:
        return absent(run.absent("confusion"))
    counts: dict[tuple[str, str], int] = {}
    for r in rows:
        counts[r["truth"], r["prediction"]] = counts.get((r["truth"], r["prediction"]), 0) + r["count"]
    seeds = len({r["trial_id"] for r in rows})
    truths = [p.name for p in TESTED_PLANES if any(counts.get((p.name, q.name)) for q in PLANES)]
    head = tag(
        "tr",
        tag("th", "truth \\ predicted", scope="col"),
        [tag("th", p.name, scope="col", class_="num") for p in PLANES],
    )
    body = []
    for truth in truths:
        total = sum(counts.get((truth, p.name), 0) for p in PLANES)
        cells = []
        for plane in PLANES:
            count = counts.get((truth, plane.name), 0)
            share = count / total if total else 0.0
            # Light to dark blue; white letters from where they read better than black ones.
            style = f"background:rgba(18,63,115,{0.05 + 0.85 * share:.2f});color:{'#fff' if share > 0.7 else '#000'}"
            cells.append(
                tag("td", str(count), tag("span", f"{100 * share:.0f} %", class_="ci"), class_="num heat", style=style)
            )
        body.append(tag("tr", tag("th", truth, scope="row"), cells))
    words = (
        f"Confusion matrix of {best['model']} trained on {best['regime']}, the row of highest accuracy: test images, "
        "and percent of the true plane. A prediction of Other is always a miss, as the African set has none."
    )
    if seeds > 1:
        words += f" Sum of {seeds} seeds."
    return scrolling(
        "Confusion matrix",
        tag("table", tag("caption", words), tag("thead", head), tag("tbody", body), class_="confusion"),
    )

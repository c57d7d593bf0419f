"""Zero-shot classification: Tables 1 and 2 beside the paper's, their figure, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.evaluate.published import published_table1, published_table2
from fulora.planes import PLANES, TESTED_PLANES
from sweeps.core.tables import METRICS
from sweeps.report import figures
from sweeps.report.colours import LINE, MUTED
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles
from sweeps.report.formats import number
from sweeps.report.verdict import best_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Published = Mapping[tuple[str, str], Mapping[str, Any]]


def score_section(run: RunFiles, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts of both tables, the figure and the confusion matrix; `colours` has one per regime."""
    first = {(str(r["regime"]), str(r["model"])): r for r in published_table1()}
    second = {(str(r["regime"]), str(r["model"])): r for r in published_table2()}
    rows = run.tables["table1"]
    drawn = any(r["accuracy"] is not None for r in rows)
    return {
        "metrics": METRICS,
        "tables": {"table1": _table(rows, first), "table2": _table(run.tables["table2"], second)},
        "figure": figures.drawing(run.figures, "scores", _dot_plot(rows, first, colours)) if drawn else None,
        "confusion": _confusion(run),
    }


def _table(rows: Sequence[Row], published: Published) -> dict[str, Any]:
    """Return the rows by regime, the published row of each, and the best value of each column as shown."""
    papers = [published[key] for r in rows if (key := (r["regime"], r["model"])) in published]
    return {
        "regimes": {regime: [r for r in rows if r["regime"] == regime] for regime in dict.fromkeys(_regimes(rows))},
        "published": published,
        "best": {metric: _best(r[metric] for r in rows) for metric in METRICS},
        "best_published": {metric: _best(p[metric] for p in papers) for metric in METRICS},
        "num_test": sorted({r["num_test"] for r in rows if r["num_test"]}),
        "num_trainings": sorted({r["num_trainings"] for r in rows if r["num_trainings"]}),
        "covers": sorted({r["covers"] for r in rows if r["covers"]}),
        "collapsed": [r for r in rows if r["num_collapsed"]],
        "decomposed": [r for r in rows if r["share_other"] is not None],
    }


def _regimes(rows: Sequence[Row]) -> list[str]:
    return [r["regime"] for r in rows]


def _best(values: Iterable[float | None]) -> str | None:
    """Return the highest value as shown, so that all values that look equal are bold."""
    known = [v for v in values if v is not None]
    return number(max(known)) if known else None


def _confusion(run: RunFiles) -> dict[str, Any] | None:
    """Return the confusion matrix of the best row, summed over trainings; None where there is none."""
    best = best_row(run)
    cell = best and (best["regime"], best["model"])
    rows = [r for r in run.tables["confusion"] if (r["regime"], r["model"]) == cell]
    if not rows:
        return None
    counts = {(t.name, p.name): 0 for t in PLANES for p in PLANES}
    for row in rows:
        counts[row["truth"], row["prediction"]] += row["count"]
    totals = {t.name: sum(counts[t.name, p.name] for p in PLANES) for t in TESTED_PLANES}
    return {
        "best": best,
        "planes": [p.name for p in PLANES],
        "counts": counts,
        "totals": {name: total for name, total in totals.items() if total},
        "num_trainings": len({r["trial_id"] for r in rows}),
    }


def _dot_plot(rows: Sequence[Row], published: Published, colours: Mapping[str, str]) -> figures.Draw:
    """Return the dot plot of Table 1: accuracy and F1 with 95 % intervals, and the published values."""

    def draw(narrow: bool) -> Figure:
        count = len(rows)
        figure = figures.new(4.2, 0.5 * count + 2.2) if narrow else figures.new(10.6, 0.235 * count + 1.5)
        panels = figure.subplots(2, 1) if narrow else figure.subplots(1, 2, sharey=True)
        for axes, (name, title) in zip(panels, (("accuracy", "Accuracy, %"), ("f1", "F1 score, %"))):
            _dots(axes, rows, published, colours, name)
            axes.set_title(title)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if narrow else 4)
        return figure

    return draw


def _dots(axes: Axes, rows: Sequence[Row], published: Published, colours: Mapping[str, str], name: str) -> None:
    places: list[float] = []
    place, before = 0.0, None
    for row in rows:
        place += 1.0 if row["regime"] == before or before is None else 1.7
        before = row["regime"]
        places.append(place)
    for y, row in zip(places, rows):
        colour = colours[row["regime"]]
        value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=colour, lw=2.2, alpha=0.45, solid_capstyle="round")
        if value is not None:
            axes.plot(value, y, "o", color=colour, ms=5.5, zorder=3)
        if paper := published.get((row["regime"], row["model"])):
            axes.plot(paper[name], y, "D", mfc="white", mec=MUTED, ms=4.6, mew=1.1, zorder=2)
    for regime in dict.fromkeys(_regimes(rows)):
        mine = [(y, r[name]) for y, r in zip(places, rows) if r["regime"] == regime]
        values = [v for _, v in mine if v is not None]
        if len(values) > 1:
            ends, mean = [mine[0][0] - 0.45, mine[-1][0] + 0.45], float(np.mean(values))
            axes.plot([mean, mean], ends, color=colours[regime], lw=1, ls=(0, (2, 2)), zorder=1)
    # For the legend alone: no regime's colour, as the labels of the axis name the regimes.
    axes.plot([], [], "o", color=MUTED, ms=5.5, label="this run")
    axes.plot([], [], color=MUTED, lw=2.2, alpha=0.45, label="95 % CI over test patients")
    axes.plot([], [], color=MUTED, lw=1, ls=(0, (2, 2)), label="mean over models")
    axes.plot([], [], "D", mfc="white", mec=MUTED, ms=4.6, mew=1.1, label="paper, on its own data")
    axes.set_yticks(places, [f"{r['regime']}   {r['model']}" for r in rows])
    axes.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    axes.tick_params(axis="y", length=0, labelcolor="black")
    for label, row in zip(axes.get_yticklabels(), rows):
        label.set_color(colours[row["regime"]])
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)

"""Differences between regimes and their significance, and scores on parts of the test set.

With one training of a cell nothing is tested: `significant` is None, and the section says why.
"""

from __future__ import annotations

from typing import Any

from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

METRICS = ("accuracy", "f1")
"""Scores whose differences the page shows; the table `comparisons` has all."""
_REFERENCE = "ES"
_AUGMENTED = ("ES+DA", "HB+DA")

ByModel = dict[str, Row]


def significance_section(run: RunFiles) -> dict[str, Any]:
    """Return, per score, the differences between regimes and how many are significant."""
    return {name: _differences([r for r in run.tables["comparisons"] if r["metric"] == name]) for name in METRICS}


def _differences(rows: list[Row]) -> dict[str, Any]:
    shown = _between_regimes(rows)
    significant = {
        pair: {model: row for model, row in models.items() if row["significant"]} for pair, models in shown.items()
    }
    return {
        "pairs": shown,
        "models": list(dict.fromkeys(model for models in shown.values() for model in models)),
        "significant": {pair: models for pair, models in significant.items() if models},
        "num_significant": sum(map(len, significant.values())),
        "num_shown": sum(map(len, shown.values())),
        "num_all": len(rows),
        "num_all_significant": sum(bool(r["significant"]) for r in rows),
        "tested": [r for r in rows if r["significant"] is not None],
        "covers": sorted({r["covers"] for r in rows if r["significant"] is not None}),
    }


def _between_regimes(rows: list[Row]) -> dict[tuple[str, str], ByModel]:
    """Return {(regime, reference): {model: row}}: each regime against ES, and HB+DA against ES+DA.

    A row's difference is the score of the regime minus that of the reference.
    """
    found: dict[tuple[str, str], ByModel] = {}
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


def deduplicated_section(run: RunFiles) -> dict[str, Any]:
    """Return each row's scores on the deduplicated test set beside those on all test images."""
    rows = [r for r in run.tables["deduplicated"] if r["accuracy"] is not None]
    every = {(r["regime"], r["model"]): r for name in ("table1", "table2") for r in run.tables[name]}
    both = [(r, every[key]) for r in rows if (key := (r["regime"], r["model"])) in every]
    both = [(r, whole) for r, whole in both if whole["accuracy"] is not None]
    return {
        "rows": rows,
        "excluded": any(r["num_left_out"] for r in rows),
        "both": both,
        "largest": max(both, key=lambda pair: abs(pair[0]["accuracy"] - pair[1]["accuracy"]), default=None),
        "near": any(r["num_near_trained_on"] or r["num_near_repeated"] for r in rows),
        "num_repeated": max((r["num_repeated"] + r["num_near_repeated"] for r in rows), default=0),
        "num_trained_on": max((r["num_trained_on"] + r["num_near_trained_on"] for r in rows), default=0),
    }


def subgroup_section(run: RunFiles) -> dict[str, dict[str, Any]]:
    """Return, per kind of subgroup (`centre`, `machine`), its values with their sizes, and the scores by cell."""
    found = {}
    for group in dict.fromkeys(r["group"] for r in run.tables["subgroups"]):
        mine = [r for r in run.tables["subgroups"] if r["group"] == group]
        found[group] = {
            "levels": {r["value"]: r for r in mine},
            "cells": list(dict.fromkeys((r["regime"], r["model"]) for r in mine)),
            "scores": {(r["regime"], r["model"], r["value"]): r for r in mine},
        }
    return found

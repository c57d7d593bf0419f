"""The images of a run by source, split and plane, and the duplicates among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fulora.data.near_duplicates import RULE
from fulora.planes import PLANES
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles
from sweeps.report.flow import flow_figure

_MOST_PAIRS = 30
"""Duplicates listed one by one; more are counted only."""


def dataset_section(run: RunFiles) -> dict[str, Any]:
    """Return the counts of images, and the pairs of duplicates, leaks between training and test first."""
    pairs = run.tables["audit"]
    return {
        "planes": [plane.name for plane in PLANES],
        "flow": flow_figure(run),
        "groups": _groups(run.tables["catalog"]),
        "audited": "audit" not in run.missing,
        "exact": _count(p for p in pairs if p["kind"] == "pixels"),
        "near": _count(p for p in pairs if p["kind"] != "pixels"),
        "rule": RULE,
        "pairs": sorted(pairs, key=lambda p: not _leaks(p))[:_MOST_PAIRS],
        "num_pairs": len(pairs),
    }


def _groups(rows: list[Row]) -> list[dict[str, Any]]:
    """Return, per source and split, the images by plane, and how many patients, centres and machines they are of."""
    counts = Counter((r["source"], r["split"], r["plane"]) for r in rows)
    found = []
    for source, split in dict.fromkeys((r["source"], r["split"]) for r in rows):
        mine = [r for r in rows if (r["source"], r["split"]) == (source, split)]
        found.append(
            {
                "source": source,
                "split": split,
                "planes": [counts[source, split, plane.name] for plane in PLANES],
                "images": len(mine),
                "patients": len({r["patient_id"] for r in mine if r["patient_id"]}),
                "centres": len({r["centre"] for r in mine}),
                "machines": len({r["machine"] for r in mine if r["machine"]}) or None,
            }
        )
    return found


def _leaks(pair: Row) -> bool:
    return (pair["set_a"] == "test") != (pair["set_b"] == "test")


def _count(pairs: Iterable[Row]) -> dict[str, int]:
    """Return how many pairs there are, and how many of each kind of problem."""
    pairs = list(pairs)
    leaks = [{p["set_a"], p["set_b"]} for p in pairs if _leaks(p)]
    return {
        "pairs": len(pairs),
        "leaks": len(leaks),
        "lora": sum("lora" in leak for leak in leaks),
        "synthetic": sum("synthetic" in leak for leak in leaks),
        "test": sum(p["set_a"] == p["set_b"] == "test" for p in pairs),
        "patients": sum(bool(p["patient_a"] and p["patient_b"]) and p["patient_a"] != p["patient_b"] for p in pairs),
        "planes": sum(not p["same_plane"] for p in pairs),
    }

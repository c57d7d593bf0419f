"""Where the accuracy of each regime goes: predictions of Other, which is never tested, and confusion of planes.

In: the paper's printed rows; a run's predictions. Out: rows of the tables `printed_errors` and `regime_errors`.
The decomposition is `fulora.evaluate.decomposition`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fulora.evaluate.decomposition import decompose, decompose_printed
from fulora.evaluate.plausibility import NUM_TEST
from fulora.evaluate.published import published_table1, published_table2
from fulora.evaluate.scores import confusion_matrix, scores_from_confusion
from sweeps.scores.predictions import TestImages

PAPER = "the paper"
RUN = "this run"


def printed_errors() -> list[dict[str, Any]]:
    """Return a row per printed row of Tables 1 and 2."""
    rows = []
    for table, printed in (("table1", published_table1()), ("table2", published_table2())):
        for row in printed:
            found = decompose_printed(row)
            counts = {name: row[name] for name in ("regime", "model", "num_es", "num_af", "num_synthetic", "accuracy")}
            rows.append(
                {
                    "table": table, **counts, "num_test": NUM_TEST,
                    "images_other": found.num_other, "images_other_low": found.num_other_range[0],
                    "images_other_high": found.num_other_range[1], "images_wrong_plane": found.num_wrong_plane,
                    "images_wrong_plane_low": found.num_wrong_plane_range[0],
                    "images_wrong_plane_high": found.num_wrong_plane_range[1], "num_matrices": found.num_matrices,
                }
            )  # fmt: skip
    return rows


def paper_errors() -> list[dict[str, Any]]:
    """Return a row per regime and table of the paper, means over its models.

    Table 1's ES is the mean of its five models, 78.9 images; it is 77.1 if the ViT's row, which is printed in both
    tables, counts twice.
    """
    printed = printed_errors()
    cells = dict.fromkeys((r["table"], r["regime"], r["num_es"], r["num_af"], r["num_synthetic"]) for r in printed)
    rows = []
    for table, regime, *counts in cells:
        mine = [r for r in printed if (r["table"], r["regime"]) == (table, regime)]
        shares = {
            name: 100 * float(np.mean([r[f"images_{name.removeprefix('share_')}"] for r in mine])) / NUM_TEST
            for name in ("share_other", "share_wrong_plane")
        }
        accuracy = float(np.mean([float(r["accuracy"]) for r in mine]))
        about = dict(zip(("num_es", "num_af", "num_synthetic"), counts))
        rows.append(_row(PAPER, table, regime, len(mine), NUM_TEST, accuracy, shares) | about)
    return rows


def run_errors(
    test: TestImages, predicted: Mapping[str, np.ndarray], tables: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return a row per regime and table of a run, means over its models of the means over their trainings.

    `predicted` has each training's probabilities of the test images, `tables` the rows of `table1` and `table2`.
    """
    found = {}
    for trial_id, probabilities in predicted.items():
        accuracy = float(scores_from_confusion(confusion_matrix(probabilities, test.labels))["accuracy"])
        found[trial_id] = {"accuracy": accuracy, **decompose(probabilities, test.labels)}
    rows = []
    for table, mine in tables.items():
        for regime in dict.fromkeys(r["regime"] for r in mine):
            cells = [
                [found[i] for i in (r["trial_ids"] or "").split(", ") if i in found]
                for r in mine if r["regime"] == regime
            ]  # fmt: skip
            cells = [cell for cell in cells if cell]
            if cells:
                means = {
                    name: float(np.mean([np.mean([training[name] for training in cell]) for cell in cells]))
                    for name in ("accuracy", "share_other", "share_wrong_plane", "accuracy_4way")
                }
                row = next(r for r in mine if r["regime"] == regime and r["accuracy"] is not None)
                about = {name: row.get(name) or 0 for name in ("num_es", "num_af", "num_synthetic")}
                about["accuracy_4way"] = means["accuracy_4way"]
                rows.append(_row(RUN, table, regime, len(cells), len(test.labels), means["accuracy"], means) | about)
    return rows


def _row(
    source: str, table: str, regime: str, num_models: int, num_test: int, accuracy: float, shares: Mapping[str, float]
) -> dict[str, Any]:
    named = {name: shares[name] for name in ("share_other", "share_wrong_plane")}
    images = {name.replace("share_", "images_"): share * num_test / 100 for name, share in named.items()}
    return {
        "source": source, "table": table, "regime": regime, "num_models": num_models, "num_test": num_test,
        "accuracy": accuracy, **named, **images,
    }  # fmt: skip


def in_words(rows: Sequence[Mapping[str, Any]], regime: str = "HB+DA", reference: str = "ES+DA") -> str | None:
    """Return what a difference in accuracy consists of, in one sentence; None where a side is not there."""
    first = {r["regime"]: r for r in rows if r["table"] == "table1"}
    if regime not in first or reference not in first:
        return None
    names = ("accuracy", "share_other", "share_wrong_plane")
    gain, other, wrong = (first[regime][name] - first[reference][name] for name in names)
    return (
        f"{first[regime]['source']}: {regime} against {reference} is {gain:+.1f} points of accuracy: {-other:+.1f} "
        f"from {'fewer' if other < 0 else 'more'} predictions of Other, a class that is never tested, and "
        f"{-wrong:+.1f} from {'less' if wrong < 0 else 'more'} confusion of planes"
    )

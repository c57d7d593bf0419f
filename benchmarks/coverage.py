"""Whether intervals hold the truth and equal trainings are told apart as rarely as promised, in studies of known truth.

    python benchmarks/coverage.py --out benchmarks/results/coverage.json
    python benchmarks/coverage.py --runs RUN [RUN ...] --out benchmarks/results/coverage-null.json

The first simulates whole studies: 60 patients with four images each, replicates of the pipeline, seeds within them, and
classifiers that differ by each, scored and compared by the functions that a run uses. Scenarios differ in what the
uncertainty comes from. The truth is the expected score, by quadrature; of a difference of equals it is 0.
The second takes the predictions of finished runs with many seeds (`sweeps grid demo --grid.num-seeds 24`), divides the
trainings of a cell into two groups that differ in nothing but their seeds, and counts how often a change is announced.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from recording import record
from scipy.optimize import brentq

from fulora.evaluate.differences import all_pairs, difference, holm, mean_difference
from fulora.evaluate.inference import estimate
from fulora.evaluate.intervals import Resamples, draw_resamples
from fulora.evaluate.trainings import MeasuredTrainings, measure_trainings, name_trainings

METRICS = ("accuracy", "f1")
"""Scores that coverage is counted of, each; as many images of every plane, so accuracy is balanced accuracy."""
PATIENTS = [f"{i:02d}" for i in range(60) for _ in range(4)]
LABELS = np.tile([1, 2, 3, 4], 60)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of what adds to the logit of an image's own plane."""

    patients: float
    """Between patients: some are hard for every training."""
    replicates: float
    """Between replicates of the pipeline."""
    seeds: float
    """Between seeds of one replicate."""
    luck: float = 1.0
    """Between patients anew in every training."""


SCENARIOS = {
    "trainings equal": Spread(patients=1.2, replicates=0.0, seeds=0.0),
    "patients": Spread(patients=1.2, replicates=0.1, seeds=0.1),
    "replicates": Spread(patients=0.7, replicates=0.5, seeds=0.1),
    "seeds": Spread(patients=0.7, replicates=0.0, seeds=0.5),
    "mixed": Spread(patients=1.0, replicates=0.2, seeds=0.2),
}
"""Mixed is closest to the demo, where trainings differ by 2.7 to 10.5 points and patients by 2.1 to 3.2. Trainings that
do not differ at all are the extreme where a variance that cannot be negative makes intervals too wide."""
BY_MODEL = (0.5, 0.5, 1.0, 1.0, 2.0)
"""Factors of the spread of trainings of five models, as far apart as they were measured."""


NODES = tuple(part / scale for part, scale in zip(np.polynomial.hermite_e.hermegauss(80), (1, np.sqrt(2 * np.pi))))
"""Gauss and Hermite's nodes and weights for the normal distribution."""
OTHERS = np.e + 3
"""Odds of the four classes that are not an image's own: Other's logit is 1, three planes' are 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    studies: int = 1000
    """Simulated studies per design and scenario; twice as many from three replicates on."""
    family_studies: int = 300
    """Simulated studies of 20 equal cells, per design; three times as many of 4."""
    resamples: int = 300
    """Resamples of patients in each."""
    runs: tuple[Path, ...] = ()
    """Finished runs' folders: count announced changes in null studies of their trainings instead."""
    null_studies: int = 400
    """Null studies of the runs, of single cells and of means over models each."""
    group: int = 3
    """Trainings (replicates, where the run has several) on each side of a null study."""
    seed: int = 0
    """Of all that is drawn."""
    out: Path | None = None
    """JSON file to write."""


def classifiers(
    rng: np.random.Generator,
    spread: Spread,
    num: tuple[int, int],
    hard: np.ndarray,
    *,
    skill: float,
    factor: float = 1.0,
) -> np.ndarray:
    """Return probabilities [L, S, N, 5] of trainings, on patients of a difficulty [P] with four images each.

    `factor` scales what trainings differ by. An image's logits have Gumbel noise, so the plane is right with the
    probability 1 / (1 + OTHERS exp(-own)), `own` being what is added to the own plane's logit: the truth is known.
    """
    replicates, seeds = num
    skilled = skill + factor * spread.replicates * rng.standard_normal((replicates, 1, 1))
    skilled = skilled + factor * spread.seeds * rng.standard_normal((replicates, seeds, 1))
    luck = spread.luck * rng.standard_normal((replicates, seeds, len(hard)))
    logits = rng.gumbel(size=(replicates, seeds, 4 * len(hard), 5))
    logits[..., 0] += 1  # errors are more often predictions of Other, as in the paper
    logits[..., np.arange(4 * len(hard)), LABELS] += np.repeat(skilled + luck + hard, 4, axis=-1)
    odds = np.exp(logits)
    return odds / odds.sum(-1, keepdims=True)


def truth(spread: Spread, *, skill: float, factor: float = 1.0) -> dict[str, float]:
    """Return the expected scores of a training in all patients, in percent, by Gauss and Hermite's quadrature."""
    nodes, weights = NODES
    skills = skill + factor * np.hypot(spread.replicates, spread.seeds) * nodes
    own = skills[:, None] + np.hypot(spread.patients, spread.luck) * nodes
    recall = (1 / (1 + OTHERS * np.exp(-own))) @ weights
    f1 = 2 * recall / (1 + recall + 3 * (1 - recall) / OTHERS)
    return {"accuracy": 100 * weights @ recall, "recall": 100 * weights @ recall, "f1": 100 * weights @ f1}


def skill_for(spread: Spread, factor: float = 1.0, accuracy: float = 70.0) -> float:
    """Return the mean skill that gives an expected accuracy, so that it is equal however far trainings differ."""
    found = brentq(lambda skill: truth(spread, skill=skill, factor=factor)["accuracy"] - accuracy, 0, 12)
    return float(found)


def measured(predictions: np.ndarray, resamples: Resamples, metrics: tuple[str, ...] = METRICS) -> MeasuredTrainings:
    """Return the scores of [L, S, N, 5]."""
    return measure_trainings(name_trainings(predictions), LABELS, resamples, metrics=metrics)


def coverage(options: Options, name: str, num: tuple[int, int]) -> dict[str, Any]:
    """Return the percent of studies whose intervals hold the truth: of a score, and of a difference of equals."""
    rng = np.random.default_rng([options.seed, *num, list(SCENARIOS).index(name)])
    spread, held, errors = SCENARIOS[name], [], []
    skill = skill_for(spread)
    true = truth(spread, skill=skill)
    for _ in range(options.studies * (1 + (num[0] > 2))):
        hard = spread.patients * rng.standard_normal(60)
        resamples = draw_resamples(PATIENTS, seed=int(rng.integers(2**31)), num_resamples=options.resamples)
        before, after = (measured(classifiers(rng, spread, num, hard, skill=skill), resamples) for _ in range(2))
        row = []
        for metric in METRICS:
            found = estimate(before.trainings, before.values[metric], before.resampled[metric], before.num_patients)
            row.append(found.low <= true[metric] <= found.high)
            changed = difference(before, after, metric)
            row.append(not changed.significant)
            if metric == "accuracy":
                errors.append((found.components.patients, found.components.trainings or 0.0))
        held.append(row)
    shares = 100 * np.mean(held, axis=0)
    return {
        "scenario": name, "replicates": num[0], "seeds": num[1], "studies": len(held),
        "covered_score": dict(zip(METRICS, shares[::2].round(1).tolist())),
        "covered_difference": dict(zip(METRICS, shares[1::2].round(1).tolist())),
        "standard_error_patients": round(float(np.mean([e[0] for e in errors])), 2),
        "standard_error_trainings": round(float(np.sqrt(np.mean([e[1] ** 2 for e in errors]))), 2),
    }  # fmt: skip


def family(options: Options, num_cells: int, num: tuple[int, int]) -> dict[str, Any]:
    """Return the percent of studies of equal cells in which any pair is announced to differ."""
    rng = np.random.default_rng([options.seed, num_cells, *num])
    spread, any_pair, plain, share = SCENARIOS["mixed"], 0, 0, []
    factors = [BY_MODEL[i % len(BY_MODEL)] for i in range(num_cells)]
    skills = [skill_for(spread, factor) for factor in factors]
    studies = options.family_studies * (3 if num_cells < 20 else 1)
    for _ in range(studies):
        hard = spread.patients * rng.standard_normal(60)
        resamples = draw_resamples(PATIENTS, seed=int(rng.integers(2**31)), num_resamples=options.resamples)
        cells = [
            measured(classifiers(rng, spread, num, hard, skill=skill, factor=factor), resamples, METRICS[:1])
            for skill, factor in zip(skills, factors)
        ]
        found = all_pairs(cells, "accuracy").values()
        any_pair += any(d.significant for d in found)
        single = np.array([d.estimate.p_value for d in found])
        share.append(np.mean(single < 0.05))
        plain += holm(single).min() < 0.05
    return {
        "cells": num_cells, "studies": studies, "replicates": num[0], "seeds": num[1],
        "family_wise_error": round(100 * any_pair / studies, 1),
        "family_wise_error_unmoderated": round(100 * plain / studies, 1),
        "single_pairs_below_0.05": round(100 * float(np.mean(share)), 1),
    }  # fmt: skip


def null_studies(options: Options) -> dict[str, Any]:
    """Return how often a change is announced between trainings of runs that differ in their seeds alone.

    `group` of a cell's trainings stand for before, as many others for after. Where the run has enough replicates for
    both, whole replicates are drawn, else seeds. A comparison is of one run, on its own test images.
    """
    found = {cell: m for run in options.runs for cell, m in trainings_of(run, options).items()}
    collapsed = [" ".join(c) for c, m in found.items() if m.has_collapsed]
    found = {c: m for c, m in found.items() if not m.has_collapsed}
    assert found, f"no cell has {2 * options.group} trainings that did not collapse: run with --grid.num-seeds 8"
    rng, counts = np.random.default_rng(options.seed), {"cell": [0, 0], "mean over models": [0, 0]}
    names = list(found)
    groups_of_cells = sorted({(run, regime) for run, regime, _ in names})
    for _ in range(options.null_studies):
        pair = groups(rng, found[names[rng.integers(len(names))]], options.group)
        counts["cell"][0] += bool(difference(*pair, "accuracy").significant)
        chosen = groups_of_cells[rng.integers(len(groups_of_cells))]
        pairs = [groups(rng, found[c], options.group) for c in names if c[:2] == chosen]
        counts["mean over models"][0] += bool(mean_difference(pairs, "accuracy").significant)
        counts["cell"][1] += 1
        counts["mean over models"][1] += 1
    return {
        "cells": [" ".join(c) for c in names],
        "collapsed": collapsed,
        "spread_of_trainings": [round(float(m.values["accuracy"].std(ddof=1)), 1) for m in found.values()],
        "trainings_per_cell": [len(m.trainings) for m in found.values()],
        "announced": {k: {"studies": n, "percent": round(100 * hit / n, 1)} for k, (hit, n) in counts.items()},
    }


def trainings_of(run: Path, options: Options) -> dict[tuple[str, str, str], MeasuredTrainings]:
    """Return the trainings of a run's cells of Tables 1 and 2 that are many enough, by (run, regime, model)."""
    import pyarrow.parquet as pq

    trials = {r["trial_id"]: r for r in pq.read_table(run / "trials.parquet").to_pylist()}
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(run / "predictions.parquet").to_pylist():
        rows.setdefault(row["trial_id"], []).append(row)
    planes = {"other": 0, "abdomen": 1, "brain": 2, "femur": 3, "thorax": 4}
    cells: dict[tuple[str, str, str], dict[tuple[int, int], np.ndarray]] = {}
    images: list[dict[str, Any]] = []
    for trial_id, images in rows.items():
        config = trials[trial_id]
        if config.get("config_num_synthetic") is not None:
            continue  # of another size
        images.sort(key=lambda r: r["image_id"])
        cell = (run.name, config["config_regime"], config["config_model"])
        name = (config.get("config_replicate") or 0, config["config_seed_index"])
        cells.setdefault(cell, {})[name] = np.array([[r[f"p_{plane}"] for plane in planes] for r in images])
    labels = np.array([planes[r["plane"]] for r in images])
    resamples = draw_resamples([r["patient_id"] for r in images], seed=options.seed)
    return {c: measure_trainings(p, labels, resamples) for c, p in cells.items() if len(p) >= 2 * options.group}


def groups(rng: np.random.Generator, cell: MeasuredTrainings, size: int) -> tuple[MeasuredTrainings, MeasuredTrainings]:
    """Return two disjoint groups of a cell's trainings under the same names, of `size` replicates or seeds each."""
    replicates = sorted({replicate for replicate, _ in cell.trainings})
    whole = len(replicates) >= 2 * size
    units = [[i for i, t in enumerate(cell.trainings) if t[0] == r] for r in replicates]
    units = units if whole else [[i] for i in range(len(cell.trainings))]
    drawn = rng.permutation(len(units))[: 2 * size].reshape(2, size)
    sides = []
    for group in drawn.tolist():
        places = [i for u in group for i in units[u]]
        names = [(k, j) if whole else (0, k) for k, u in enumerate(group) for j in range(len(units[u]))]
        sides.append(
            MeasuredTrainings(
                trainings=tuple(names),
                values={m: v[places] for m, v in cell.values.items()},
                resampled={m: v[places] for m, v in cell.resampled.items()},
                collapsed=tuple(cell.collapsed[i] for i in places),
                num_patients=cell.num_patients,
            )
        )
    return sides[0], sides[1]


def main() -> None:
    """Measure, print, write the JSON."""
    options, start = tyro.cli(Options, description=__doc__), time.perf_counter()
    if options.runs:
        record(options, **null_studies(options), seconds=round(time.perf_counter() - start))
        return
    designs = [(2, 1), (3, 1), (3, 3), (5, 1), (5, 3)]
    covered = [coverage(options, name, num) for num in designs for name in SCENARIOS]
    families = [
        family(options, cells, num)
        for cells, num in ((4, (3, 1)), (4, (3, 3)), (20, (3, 1)), (20, (3, 3)), (20, (5, 1)))
    ]
    known = [r for r in covered if r["replicates"] > 2 and r["scenario"] != "trainings equal"]
    shares = [v for r in known for k in ("covered_score", "covered_difference") for v in r[k].values()]
    record(
        options,
        coverage_from_three_replicates={"least": min(shares), "most": max(shares), "mean": round(np.mean(shares), 2)},
        family_wise_error_most=max(f["family_wise_error"] for f in families),
        coverage=covered,
        families=families,
        seconds=round(time.perf_counter() - start),
        cores=os.cpu_count(),
    )


if __name__ == "__main__":
    main()

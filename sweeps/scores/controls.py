"""Which control explains a gain of the hybrid regime, and at how many centres it is seen: from intervals alone.

In: the trainings that are done. Out: controls.parquet (a row per control and score) and centres.parquet (a row per
comparison and centre). The controls are `fulora.controls`; intervals cover patients, replicates and seeds as the other
tables' do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fulora.controls import CONTROLS, Controls
from fulora.evaluate.differences import TrainedDifference, mean_difference
from fulora.evaluate.intervals import Resamples, draw_resamples
from fulora.evaluate.trainings import ALL_METRICS, MeasuredTrainings, Training, measure_trainings
from fulora.seeds import derive_seed
from sweeps.core.step import Report, Step
from sweeps.core.store import Done, Place
from sweeps.core.tables import read_rows, write_table
from sweeps.grid.classifier import PREDICTIONS_FILE
from sweeps.scores.controls_plan import ControlScoresConfig
from sweeps.scores.predictions import TestImages, read_predictions, with_clusters
from sweeps.scores.tables import training_of
from sweeps.scores.uncertainty import known
from sweeps.sources.catalog import CATALOG_FILE

Verdict = Literal["explains it", "does not explain it", "undecided", "at chance", "not at chance"]
COMPARED = (("HB", "ES"), ("HB+DA", "ES+DA"))
"""(regime, reference) of the differences by centre."""
Cell = tuple[str, str]
"""A regime or control, and a model."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of every cell."""

    test: TestImages
    predicted: Mapping[Cell, Mapping[Training, np.ndarray]]
    """Probabilities [N, 5] of every training."""
    resamples: Resamples
    seed: int

    def of(self, cell: Cell, kept: np.ndarray | None = None) -> MeasuredTrainings:
        """Return a cell's scores; on some of the test images where they are given."""
        if kept is None:
            return measure_trainings(self.predicted[cell], self.test.labels, self.resamples)
        part = self.test.part(kept)
        resamples = draw_resamples(part.resampled, seed=self.seed)
        some = {name: p[kept] for name, p in self.predicted[cell].items()}
        return measure_trainings(some, part.labels, resamples, metrics=("accuracy", "recall"))


def write_controls(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write both tables; a control whose trainings all failed has null scores."""
    config: ControlScoresConfig = step.config
    done = {need: place.record_of(need) for need in step.in_role("cells")}
    gathered = place.scratch / PREDICTIONS_FILE
    gathered.parent.mkdir(parents=True, exist_ok=True)
    every = (row for folder in place.all("cells") for row in read_rows(folder / PREDICTIONS_FILE, "predictions"))
    write_table(gathered, "predictions", every)
    test, predicted = read_predictions(gathered)
    test = with_clusters(test, read_rows(place.of("catalog") / CATALOG_FILE, "catalog"))
    cells: dict[Cell, list[Step]] = {}
    for need in done:
        trial = need.config
        if trial.control or trial.in_tables:
            cells.setdefault((trial.control or trial.regime, trial.classifier.model), []).append(need)
    seed = derive_seed(config.seed, "intervals")
    measured = Measured(
        test=test, resamples=draw_resamples(test.resampled, seed=seed), seed=seed,
        predicted={cell: {training_of(t): predicted[t.key] for t in group} for cell, group in cells.items()},
    )  # fmt: skip
    if config.controls.names:
        rows = control_rows(measured, config.controls, facts_of(cells, done))
        write_table(place.out / "controls.parquet", "controls", rows)
    write_table(place.out / "centres.parquet", "centres", centre_rows(measured, config.models))
    return {}


def facts_of(cells: Mapping[Cell, Sequence[Step]], done: Mapping[Step, Done]) -> dict[Cell, dict[str, Any]]:
    """Return what each cell trained on and for how long, of its first training."""
    names = ("num_es", "num_synthetic", "num_steps")
    return {cell: {name: done[group[0]].metrics.get(name) for name in names} for cell, group in cells.items()}


def control_rows(
    measured: Measured, controls: Controls, facts: Mapping[Cell, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row per control and score, after those of ES and HB; means over the models that have all three sides.

    `against_es` is the row minus ES, `below_hb` is HB minus the row, both paired by training. The verdict is of
    the score's own row and rests on the ends of these intervals; there is none with one training.
    """
    es, hb = controls.regime("ES"), controls.regime("HB")
    rows: list[dict[str, Any]] = []
    for name in (es, hb, *controls.names):
        models = [m for m in controls.models if all((n, m) in measured.predicted for n in (es, hb, name))]
        about = CONTROLS[name].about if name in CONTROLS else f"{name} itself"
        shared = {"control": name, "about": about, "models": ", ".join(models), "num_models": len(models)}
        if not models:
            rows += [{**shared, "metric": metric, "num_trainings": 0} for metric in ALL_METRICS]
            continue
        found = {n: [measured.of((n, m)) for m in models] for n in (es, hb, name)}
        for metric in ALL_METRICS:
            up = mean_difference(list(zip(found[es], found[name])), metric, keep_collapsed=True)
            left = mean_difference(list(zip(found[name], found[hb])), metric, keep_collapsed=True)
            value = _mean(found[name], metric)
            rows.append(
                {
                    **shared, **facts[name, models[0]], "metric": metric, **value,
                    **_columns("against_es", up), **_columns("below_hb", left),
                    "covers": up.estimate.covers, "num_trainings": up.estimate.num_trainings,
                    "chance": _chance(measured, [(name, m) for m in models]) if metric == "recall" else None,
                }
            )  # fmt: skip
            rows[-1]["verdict"] = verdict(rows[-1])
    return rows


def verdict(row: Mapping[str, Any]) -> Verdict | None:
    """Return what a row's intervals say of its control; None with one training of a cell, or of no control.

    A control explains the gain where it is above ES and HB is not told from it; it does not where HB is above it. Of a
    negative control the macro recall must hold chance.
    """
    control = CONTROLS.get(row["control"])
    if control is None or row.get("num_trainings", 0) < 2:
        return None
    if control.negative:
        if row["chance"] is None or row["value_low"] is None:
            return None
        return "at chance" if row["value_low"] <= row["chance"] <= row["value_high"] else "not at chance"
    up, left = row["against_es_low"], row["below_hb_low"]
    if up is None or left is None or row["metric"] in ("share_other", "share_wrong_plane"):
        return None
    if left > 0:
        return "does not explain it"
    return "explains it" if up > 0 else "undecided"


def _mean(cells: Sequence[MeasuredTrainings], metric: str) -> dict[str, float | None]:
    """Return the mean score of some models' cells with its interval, as a difference from 0 of each."""
    zero = [
        MeasuredTrainings(
            trainings=c.trainings, values={metric: np.zeros_like(c.values[metric])},
            resampled={metric: np.zeros_like(c.resampled[metric])}, collapsed=c.collapsed, num_patients=c.num_patients,
        )
        for c in cells
    ]  # fmt: skip
    found = mean_difference(list(zip(zero, cells)), metric, keep_collapsed=True).estimate
    low, high = found.clipped()
    return {"value": known(found.value), "value_low": known(low), "value_high": known(high)}


def _columns(name: str, found: TrainedDifference) -> dict[str, float | None]:
    here = found.estimate
    return {name: known(here.value), f"{name}_low": known(here.low), f"{name}_high": known(here.high)}


def _chance(measured: Measured, cells: Sequence[Cell]) -> float:
    """Return the macro recall in percent that these predictions would have if they did not look at the images: the
    share of the four tested planes among them, over four."""
    shares = [np.mean(p.argmax(axis=1) > 0) for cell in cells for p in measured.predicted[cell].values()]
    return 100 * float(np.mean(shares)) / 4


def centre_rows(measured: Measured, models: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per comparison and centre: the difference in accuracy there, and with that centre left out.

    Means over the models that have both sides. `num_positive` of `num_centres` counts the centres where the difference
    is positive; `p_sign` is the two-sided sign test over them, without those where it is 0.
    """
    rows = []
    centres = np.array([centre or "unknown" for centre in measured.test.centres])
    for regime, reference in COMPARED:
        both = [m for m in models if all((r, m) in measured.predicted for r in (regime, reference))]
        if not both:
            continue
        mine = []
        for centre in sorted(set(centres)):
            row: dict[str, Any] = {"regime": regime, "reference": reference, "centre": centre}
            for side, kept in (("here", centres == centre), ("without", centres != centre)):
                places = np.flatnonzero(kept)
                if not len(places):  # one centre is all there is
                    continue
                pairs = [(measured.of((reference, m), places), measured.of((regime, m), places)) for m in both]
                found = mean_difference(pairs, "accuracy", keep_collapsed=True)
                row |= {f"num_{side}": len(places), **_columns(side, found), "covers": found.estimate.covers}
            patients = {p for p, c in zip(measured.test.patient_ids, centres) if c == centre}
            mine.append({**row, "num_patients": len(patients), "models": ", ".join(both)})
        rows += [{**row, **_signs([r["here"] for r in mine])} for row in mine]
    return rows


def _signs(differences: Sequence[float | None]) -> dict[str, Any]:
    """Return the sign count over centres and its test; the least p-value of five centres is 0.06."""
    from scipy import stats

    told = [d for d in differences if d]
    positive = sum(d > 0 for d in told)
    p = float(stats.binomtest(positive, len(told)).pvalue) if told else None
    return {"num_centres": len(differences), "num_positive": positive, "p_sign": p}

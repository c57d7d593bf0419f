"""The primary endpoint: the one difference that a study is planned to find, named before it runs.

In: flags. Out: `Endpoint`, recorded in plan.json and shown first on the report's page.
Source: CLAIM 2024 and TRIPOD+AI ask for the outcome and the sample size's reason before results are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from fulora.data.regimes import REGIMES
from fulora.errors import fault
from fulora.evaluate.inference import SPREAD_ASSUMED
from fulora.evaluate.power import smallest_difference
from fulora.evaluate.scores import METRICS

ERROR_ASSUMED = 2.7
"""Standard error in points of a difference from the choice of 64 test patients, mean of five models.

Measured on the demo: 2.1 to 3.2 by model."""
_PATIENTS_MEASURED = 64
_WORDS = {"recall": "balanced accuracy", "f1": "F1", "auc": "AUC"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """The difference that the study is about, mean over the models of Table 1."""

    metric: str = "recall"
    """Score that is compared: accuracy, recall (macro recall, which is balanced accuracy), precision, f1 or auc."""
    regime: str = "HB+DA"
    """Regime trained with synthetic images."""
    reference: str = "ES+DA"
    """Regime it is compared with."""

    @property
    def words(self) -> str:
        """The endpoint in words: `difference of balanced accuracy, HB+DA against ES+DA`."""
        return f"difference of {_WORDS.get(self.metric, self.metric)}, {self.regime} against {self.reference}"

    def validate(self) -> list[str]:
        """Return every fault of this configuration."""
        found = []
        if self.metric not in METRICS:
            rule = f"is not one of {', '.join(METRICS)}"
            found.append(fault("endpoint.metric", self.metric, rule, "Use one of these; balanced accuracy is recall."))
        for name in ("regime", "reference"):
            if (value := getattr(self, name)) not in REGIMES:
                rule = f"is not one of {', '.join(REGIMES)}"
                found.append(fault(f"endpoint.{name}", value, rule, "Use one of these names."))
        if self.regime == self.reference:
            rule = "is the reference too: nothing would be compared"
            found.append(fault("endpoint.regime", self.regime, rule, "Name two regimes."))
        return found


def planned_power(*, num_replicates: int, num_seeds: int, num_patients: int) -> dict[str, float | int | str | None]:
    """Return what a study can find, before it runs: the smallest difference found with a power of 80 %, in points.

    The spread of trainings and the standard error of patients are assumptions, measured on the demo; the error is
    scaled to the number of test patients. Units are replicates, or seeds where there is one replicate; with one
    training of each cell no difference can be tested, and `smallest_difference` is None.
    """
    units = num_replicates if num_replicates > 1 else num_seeds
    error = ERROR_ASSUMED * (_PATIENTS_MEASURED / max(num_patients, 1)) ** 0.5
    found = None
    if num_patients > 1:
        found = smallest_difference(
            num_replicates=units, spread=SPREAD_ASSUMED, error_patients=error, num_patients=num_patients
        )
    return {
        "num_replicates": num_replicates,
        "num_seeds": num_seeds,
        "num_patients": num_patients,
        "spread_assumed": SPREAD_ASSUMED,
        "error_patients_assumed": round(error, 2),
        "power": 0.8,
        "smallest_difference": None if found is None else round(found, 1),
    }

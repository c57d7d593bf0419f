"""Tables of the controls: what else than synthetic images could explain a gain, and at how many centres it is seen."""

from __future__ import annotations

from sweeps.core.schemas.column import (
    NUM_ES,
    NUM_SYNTHETIC,
    Column,
    Table,
    integer,
    number,
    string,
    with_interval,
)

_POINTS = "percentage points"


def _difference(name: str, meaning: str) -> dict[str, Column]:
    return with_interval(name, number(meaning, _POINTS), "paired by training, as `covers` says")


CONTROLS = Table(
    name="controls",
    about="One row per control and score, mean over models; first the two regimes that the controls are compared with.",
    columns={
        "control": string("The control by its name, or the regime itself"),
        "about": string("What it trains on"),
        "metric": string("The score, a column of `table1`, shares of errors included"),
        **with_interval("value", number("The score", "%"), "as `covers` says"),
        **_difference("against_es", "The score minus that of ES"),
        **_difference("below_hb", "The score of HB minus this one: what the control does not explain"),
        "verdict": string(
            "`explains it`: above ES, and HB is not told from it; `does not explain it`: HB is above it; `undecided`; "
            "of shuffled labels, `at chance` or not; null with one training"
        ),
        "chance": number("Macro recall of these predictions if they did not look at the images; for recall alone", "%"),
        "covers": string("What the intervals cover: patients, or patients with replicates and seeds"),
        "num_trainings": integer("Trainings of each cell, paired", "trainings"),
        "num_es": NUM_ES,
        "num_synthetic": NUM_SYNTHETIC,
        "num_steps": integer("Optimizer steps of each training", "steps"),
        "models": string("Models that have the control and both regimes, separated by commas"),
        "num_models": integer("How many those are", "models"),
    },
    notes="""\
Only with `--controls.names`; the recipe `fixed` has them all. ES and HB are ES+DA and HB+DA with augmentation. A
verdict is read from the ends of 95 % intervals and is no proof: where intervals are wide, it is `undecided`.""",
)

CENTRES = Table(
    name="centres",
    about="One row per comparison and centre: the difference in accuracy there, and without that centre.",
    columns={
        "regime": string("Regime trained with synthetic images"),
        "reference": string("Regime trained without"),
        "centre": string("Centre of the test images: a country; `unknown` without one"),
        "num_here": integer("Test images of the centre", "images"),
        "num_patients": integer("Patients of the centre", "patients"),
        **_difference("here", "Difference in accuracy at the centre, regime minus reference, mean over models"),
        "num_without": integer("Test images of the other centres", "images"),
        **_difference("without", "Difference in accuracy with the centre left out"),
        "covers": string("What the intervals cover: patients, or patients with replicates and seeds"),
        "num_centres": integer("Centres compared", "centres"),
        "num_positive": integer("Centres where the difference is positive", "centres"),
        "p_sign": number("Two-sided sign test over the centres; at least 0.06 with five"),
        "models": string("Models that have both regimes, separated by commas"),
    },
)

TABLES = (CONTROLS, CENTRES)

"""Tables of the paper's own results, and of a run beside them."""

from __future__ import annotations

from sweeps.core.schemas.column import (
    METRICS,
    MODEL,
    NUM_AF,
    NUM_ES,
    NUM_PATIENTS,
    NUM_SYNTHETIC,
    NUM_TEST,
    REGIME,
    Table,
    boolean,
    integer,
    number,
    score_column,
    string,
)

PUBLISHED = Table(
    name="published",
    about="One row per row of the paper's Table 1 or 2, as printed: `paper/table1.parquet`, `paper/table2.parquet`.",
    columns={
        "regime": REGIME,
        "model": MODEL,
        "num_es": NUM_ES,
        "num_af": NUM_AF,
        "num_synthetic": NUM_SYNTHETIC,
        "num_patients": NUM_PATIENTS,
        **{name: score_column(name) for name in METRICS if name != "auc"},
        "auc": number("AUC as printed; the paper gives no formula", "%"),
        "num_test": NUM_TEST,
        "auc_fits": string(
            "Formula that can give the AUC beside the row's other scores: `hard labels`, `published formula`, `both`, "
            "`neither`, or `unknown`"
        ),
        "doubt": string("Why printed scores of the row are arithmetically implausible; null where none is"),
        "source": string("Paper and table"),
    },
    notes="""\
Written by `sweeps compare --paper-to results/paper`. The paper gives no intervals.

The check (`fulora.evaluate.plausibility`) enumerates the true and false positives that 65 abdomen, 65 brain, 64 femur
and 39 thorax images can have. A confusion matrix exists for accuracy, recall, precision and F1 of all 24 rows. 19 AUCs
agree with it by the formula of the released run (`published formula`: from predicted labels, a prediction of Other
counts as positive for every plane). Those of Table 1's five HB rows agree with neither formula. The AUC of ES ResNet18
implies a specificity above 100 % by the standard formula from hard labels, but not by that of the released run. An AUC
from probabilities would not be bound by the other scores.""",
)

_PAPER = {"num_es": NUM_ES, "num_af": NUM_AF, "num_synthetic": NUM_SYNTHETIC, "num_test": NUM_TEST}

COMPARE = Table(
    name="compare",
    about="One row per row of the paper's tables and metric, beside the run's score: made by `sweeps compare RUN`.",
    columns={
        "table": string("`table1` or `table2`"),
        "regime": REGIME,
        "model": MODEL,
        "metric": string("`accuracy`, `recall`, `precision`, `f1` or `auc`"),
        "run_regime": string("Regime of the run's row, where it has another name: `HB full` for Table 2's HB"),
        "ours": number("Score of the run, mean over trainings; for `auc` its `auc_published`", "%"),
        "num_trainings": integer("Trainings of the run's row whose predictions are there", "trainings"),
        "deviation": number("Standard deviation between these trainings; null with one", "percentage points"),
        "low": number("Lower end of the interval that one more training falls into with 95 %; null with one", "%"),
        "high": number("Upper end of the interval that one more training falls into with 95 %; null with one", "%"),
        "paper": number("Score as the paper prints it", "%"),
        "difference": number("Score of the run minus that of the paper", "percentage points"),
        "inside": boolean(
            "Whether the paper's score, of one training on the same test images, is in that interval; null without one"
        ),
        "paper_doubt": string("Why the paper's score is arithmetically implausible; null where it is not"),
        "comparable": boolean(
            "Whether images, initial weights, base model, image counts and settings are those of the paper"
        ),
        "why_not": string("What differs from the paper; null where `comparable`"),
        **{name: integer(f"{column.meaning}, in the run", column.unit) for name, column in _PAPER.items()},
        **{f"paper_{name}": integer(f"{column.meaning}, in the paper", column.unit) for name, column in _PAPER.items()},
    },
)

PRINTED_ERRORS = Table(
    name="printed_errors",
    about="One row per row of the paper's Tables 1 and 2: what its errors consist of, in images of the test set.",
    columns={
        "table": string("`table1` or `table2`"),
        "regime": REGIME,
        "model": MODEL,
        "num_es": NUM_ES,
        "num_af": NUM_AF,
        "num_synthetic": NUM_SYNTHETIC,
        "accuracy": score_column("accuracy"),
        "num_test": NUM_TEST,
        "images_other": number(
            "Images predicted as Other: mean over the confusion matrices that fit the row", "images"
        ),
        "images_other_low": integer("The fewest predicted as Other over these matrices", "images"),
        "images_other_high": integer("The most predicted as Other over these matrices", "images"),
        "images_wrong_plane": number("Images predicted as a wrong tested plane: mean over these matrices", "images"),
        "images_wrong_plane_low": integer("The fewest of a wrong plane over these matrices", "images"),
        "images_wrong_plane_high": integer("The most of a wrong plane over these matrices", "images"),
        "num_matrices": integer("Confusion matrices (hits and false positives per plane) that fit the row", "matrices"),
    },
    notes="Written by `sweeps compare --paper-to results/paper`, beside `regime_errors`.",
)

REGIME_ERRORS = Table(
    name="regime_errors",
    about="One row per regime and table, of the paper and of a run: how accuracy and errors divide, mean over models.",
    columns={
        "source": string("`the paper` or `this run`"),
        "table": string("`table1` or `table2`"),
        "regime": REGIME,
        "num_es": NUM_ES,
        "num_af": NUM_AF,
        "num_synthetic": NUM_SYNTHETIC,
        "num_models": integer("Models that the row is the mean of", "models"),
        "accuracy": score_column("accuracy"),
        "share_other": number("Share of test images predicted as Other, a class that is never tested", "%"),
        "share_wrong_plane": number("Share of test images predicted as a wrong tested plane", "%"),
        "accuracy_4way": number(
            "Accuracy where the choice is among the four tested planes; null for the paper, which cannot be asked", "%"
        ),
        "images_other": number("`share_other` in images", "images"),
        "images_wrong_plane": number("`share_wrong_plane` in images", "images"),
        "num_test": NUM_TEST,
    },
    notes="""\
Accuracy and the two shares add up to 100. The regimes differ in their share of Other (ES 42 %, HB 20 %), and the test
set has none. In the paper's Table 1, ES is the mean of five models, 78.9 images of Other; with Table 2's ES row, the
same ViT printed again, it would be 77.1. From ES+DA to HB+DA predictions of Other fall from 65.0 to 30.8 images, more
than the whole gain in accuracy, while confusion of planes rises from 11.4 to 18.0.""",
)

TABLES = (PUBLISHED, PRINTED_ERRORS, REGIME_ERRORS, COMPARE)

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
        "ours": number("Score of the run; for `auc` its `auc_published`, which has no interval", "%"),
        "low": number("Lower end of the 95 % interval of `ours` (patient bootstrap)", "%"),
        "high": number("Upper end of the 95 % interval of `ours` (patient bootstrap)", "%"),
        "paper": number("Score as the paper prints it", "%"),
        "difference": number("Score of the run minus that of the paper", "percentage points"),
        "inside": boolean("Whether the paper's score is in the run's 95 % interval; null without an interval"),
        "paper_doubt": string("Why the paper's score is arithmetically implausible; null where it is not"),
        "comparable": boolean("Whether images, initial weights, base model and image counts are those of the paper"),
        "why_not": string("What differs from the paper; null where `comparable`"),
        **{name: integer(f"{column.meaning}, in the run", column.unit) for name, column in _PAPER.items()},
        **{f"paper_{name}": integer(f"{column.meaning}, in the paper", column.unit) for name, column in _PAPER.items()},
    },
)

TABLES = (PUBLISHED, COMPARE)

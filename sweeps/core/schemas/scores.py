"""Tables of classifier scores: Tables 1 and 2, their differences, subgroups, data scaling, and the predictions."""

from __future__ import annotations

from sweeps.core.schemas.column import (
    COVERS,
    METRICS,
    MODEL,
    NUM_AF,
    NUM_COLLAPSED,
    NUM_ES,
    NUM_PATIENTS,
    NUM_REPLICATES,
    NUM_SEEDS,
    NUM_SYNTHETIC,
    NUM_TEST,
    NUM_TRAININGS,
    REGIME,
    TRIAL_ID,
    TRIAL_IDS,
    WEIGHTS,
    Column,
    Table,
    boolean,
    components,
    integer,
    number,
    score_columns,
    string,
    with_interval,
)

_TESTED: dict[str, Column] = {
    "num_patients": NUM_PATIENTS,
    "num_seeds": NUM_SEEDS,
    "num_collapsed": NUM_COLLAPSED,
    **score_columns(metrics=(*METRICS, "accuracy_4way", "share_other", "share_wrong_plane")),
    **components("`accuracy`"),
    "auc_published": number(
        "AUC by the formula of the paper's released run: from predicted labels, a prediction of Other counts as "
        "positive for every plane; mean over trainings; only for comparison with the paper's AUC",
        "%",
    ),
    "auc_hard": number("AUC from predicted labels, by the standard formula; mean over trainings", "%"),
    "num_test": NUM_TEST,
    "weights": WEIGHTS,
    "trial_ids": TRIAL_IDS,
}

TABLE1 = Table(
    name="table1",
    about="One row per regime and model of Table 1: scores on the African test images.",
    columns={"regime": REGIME, "model": MODEL, "num_es": NUM_ES, "num_synthetic": NUM_SYNTHETIC, **_TESTED},
    notes="""\
Regimes: ES is Spanish images; HB (hybrid) is fewer Spanish images and synthetic ones; AF is African training images;
DA is classical data augmentation. For the released ViT run, `auc_published` is 88.76 and `auc_hard` is 88.71. A regime
and model whose trainings all failed has null scores.""",
)

TABLE2 = Table(
    name="table2",
    about="One row per regime of Table 2: scores with and without African training images.",
    columns={
        "regime": REGIME, "model": MODEL, "num_es": NUM_ES, "num_af": NUM_AF, "num_synthetic": NUM_SYNTHETIC, **_TESTED
    },
)  # fmt: skip

COMPARISONS = Table(
    name="comparisons",
    about="One row per pair of rows of Tables 1 and 2 and metric: their difference on the same test images.",
    columns={
        "regime_a": string("Regime of the first row"),
        "model_a": string("Model of the first row"),
        "regime_b": string("Regime of the second row"),
        "model_b": string("Model of the second row"),
        "metric": string("The score, a column of `table1`"),
        "difference": number("Score of the second row minus that of the first", "percentage points"),
        "low": number("Lower end of the paired 95 % interval, not adjusted", "percentage points"),
        "high": number("Upper end of the paired 95 % interval, not adjusted", "percentage points"),
        "p_value": number("Two-sided p-value, not adjusted for multiple comparisons; null with one training"),
        "p_adjusted": number(
            "Two-sided p-value adjusted for all pairs of this metric (Holm, moderated variances); null with one "
            "training"
        ),
        "significant": boolean("Whether `p_adjusted` is below 0.05; null with one training of a cell"),
        "covers": COVERS,
        "num_trainings": integer("Trainings that both rows have, paired by replicate and seed", "trainings"),
        "num_replicates": NUM_REPLICATES,
        **components("the difference"),
        "num_unmatched": integer("Trainings left out, as one of the rows lacks their counterpart", "trainings"),
    },
    notes="""\
With one training of a cell the interval covers the choice of test patients alone: how far another training would come
out elsewhere is unknown, so nothing is significant. `fulora/evaluate/differences.py` describes interval and
adjustment.""",
)

DEDUPLICATED = Table(
    name="deduplicated",
    about="One row per regime and model: scores on the test images that are neither trained on nor repeated.",
    columns={
        "regime": REGIME,
        "model": MODEL,
        "num_test": integer("Test images that are scored", "images"),
        "num_left_out": integer("Test images that are excluded, the sum of the next four columns", "images"),
        "num_trained_on": integer("Excluded: a training image of the regime's sources has equal pixels", "images"),
        "num_near_trained_on": integer(
            "Excluded: a training image of the regime's sources is a near-duplicate", "images"
        ),
        "num_repeated": integer("Excluded: a test image that is scored has equal pixels", "images"),
        "num_near_repeated": integer("Excluded: a test image that is scored is a near-duplicate", "images"),
        **score_columns("the tested planes among these images"),
    },
)

SUBGROUPS = Table(
    name="subgroups",
    about="One row per regime, model and subgroup of the test images: scores by centre and by ultrasound machine.",
    columns={
        "regime": REGIME,
        "model": MODEL,
        "by": string("What the subgroups are formed by: `centre` or `machine`"),
        "value": string("The centre or machine; `unknown` for images without one"),
        "num_images": integer("Test images of the subgroup", "images"),
        "num_patients": integer("Patients of these images", "patients"),
        **score_columns("the tested planes of the subgroup"),
    },
    notes="""\
The interval is null where all images are of one patient. There are no rows by machine where no machine is known, as in
the published African set.""",
)

DATA_SCALING = Table(
    name="data_scaling",
    about="One row per training set of the data-scaling study (`--amounts`): scores by number of synthetic images.",
    columns={
        "kind": string(
            "`number`: synthetic images are added to all real ones; `share`: they replace real ones, the size of the "
            "training set stays"
        ),
        "regime": REGIME,
        "model": MODEL,
        "asked_real": integer("Real training images requested", "images"),
        "asked_synthetic": integer("Synthetic training images requested", "images"),
        "num_es": NUM_ES,
        "num_synthetic": NUM_SYNTHETIC,
        "num_patients": NUM_PATIENTS,
        "num_seeds": NUM_SEEDS,
        "num_collapsed": NUM_COLLAPSED,
        **score_columns(),
        **{
            key: column
            for name, words in (("accuracy", "accuracy"), ("f1", "F1"))
            for key, column in with_interval(
                f"{name}_gain",
                number(
                    f"Difference in {words} to the row of the same kind with the fewest synthetic images",
                    "percentage points",
                ),
                "paired; over what `covers` names",
            ).items()
        },
        "num_test": NUM_TEST,
        "weights": WEIGHTS,
        "trial_ids": TRIAL_IDS,
    },
)

PREDICTIONS = Table(
    name="predictions",
    about="One row per classifier training and test image: the predicted probabilities, which sum to 1.",
    columns={
        "trial_id": TRIAL_ID,
        "image_id": string("The test image, as in `catalog`"),
        "patient_id": string("Patient of the image"),
        "centre": string("Country of the image"),
        "plane": string("True label"),
        **{
            f"p_{plane}": number(f"Predicted probability of {plane}")
            for plane in ("other", "abdomen", "brain", "femur")
        },
        "p_thorax": number("Predicted probability of thorax"),
    },
)

CONFUSION = Table(
    name="confusion",
    about="One row per cell of the confusion matrix of each classifier training.",
    columns={
        "trial_id": TRIAL_ID,
        "regime": REGIME,
        "model": MODEL,
        "replicate": integer("Replicate of the training, from 0"),
        "seed_index": integer("Seed of the training within its replicate, from 0"),
        "truth": string("True label"),
        "prediction": string("Predicted label, the plane of highest probability"),
        "count": integer("Test images with this true and this predicted label", "images"),
    },
)

CALIBRATION = Table(
    name="calibration",
    about="One row per regime and model: whether predicted probabilities match the accuracy.",
    columns={
        "regime": REGIME,
        "model": MODEL,
        "num_test": NUM_TEST,
        "num_trainings": NUM_TRAININGS,
        **with_interval(
            "ece",
            number(
                "Expected calibration error, 15 bins of equal width; biased upwards for few images", "percentage points"
            ),
            "patient bootstrap",
        ),
        "ece_by_chance": number(
            "Mean `ece` of a perfectly calibrated classifier with these confidences on as many images",
            "percentage points",
        ),
        "ece_equal_mass": number(
            "Expected calibration error with bins of equal numbers of images", "percentage points"
        ),
        **with_interval(
            "brier", number("Brier score, summed over the five planes: 0 is best, 2 is worst"), "patient bootstrap"
        ),
        "confidence": number("Mean probability of the predicted plane", "%"),
        "accuracy": number("Share of test images whose predicted plane is the true one", "%"),
    },
)

RELIABILITY = Table(
    name="reliability",
    about="One row per bin of the reliability diagram of each regime and model.",
    columns={
        "regime": REGIME,
        "model": MODEL,
        "bin": integer("Number of the bin, from 0"),
        "low": number("Lower edge of the bin's confidences, 0 to 1; exclusive but for 0"),
        "high": number("Upper edge of the bin's confidences, 0 to 1; inclusive"),
        "count": integer("Predictions in the bin, of all trainings together", "predictions"),
        "confidence": number("Mean probability of the predicted plane; null in an empty bin", "%"),
        "accuracy": number("Share of correct predictions; null in an empty bin", "%"),
    },
)

HEADLINE = Table(
    name="headline",
    about="One row per comparison and score of the headline result: what training with synthetic images changes, mean "
    "over the models of Table 1.",
    columns={
        "regime": string("Regime trained with synthetic images"),
        "reference": string("Regime trained without"),
        "metric": string("The score, a column of `table1`"),
        "primary": boolean("Whether this is the endpoint named before the run (`--endpoint`)"),
        "change": number("Mean over models of the score of `regime` minus that of `reference`", "percentage points"),
        "low": number("Lower end of its interval", "percentage points"),
        "high": number("Upper end of its interval", "percentage points"),
        "p_value": number("Two-sided p-value of this one comparison; null with one training of a cell"),
        "significant": boolean("Whether `p_value` is below 0.05; null without an interval or with one training a cell"),
        "covers": COVERS,
        "num_trainings": integer("Trainings that all compared cells have", "trainings"),
        "num_replicates": NUM_REPLICATES,
        **components("the change"),
        "replicates_needed": integer(
            "Replicates like those of this run (seeds, where it has several of one replicate) that would find a "
            "difference of 5 points with a power of 80 %; with one training a standard deviation of 5 points between "
            "trainings is assumed; null where no number would",
            "replicates",
        ),
        "paper_change": number("The same difference in the paper's Table 1; null for AUC", "percentage points"),
        "models": string("Models that have both regimes, separated by commas"),
        "num_models": integer("How many those are", "models"),
        "models_collapsed": string("Models left out of the mean, as a cell of theirs collapsed to one class"),
        "num_unmatched": integer("Trainings left out, as a compared cell lacks their counterpart", "trainings"),
        "num_test": NUM_TEST,
        "num_left_out": integer("Test images left out, as another repeats them (`fixed`)", "images"),
        "num_patients": integer("Test patients; those who share an image with equal pixels count once", "patients"),
    },
)

EPOCHS = Table(
    name="epochs",
    about="One row per epoch of a classifier's training: `epochs.parquet` beside its predictions.",
    columns={
        "epoch": integer("The epoch, from 1"),
        "loss": number("Training loss, mean over the epoch's images"),
        "accuracy": number("Accuracy on the training images as the epoch meets them, augmented", "%"),
        "validation_accuracy": number("Accuracy on the validation images after the epoch; null without them", "%"),
    },
)

TABLES = (
    HEADLINE, TABLE1, TABLE2, COMPARISONS, DEDUPLICATED, SUBGROUPS, DATA_SCALING, CALIBRATION, RELIABILITY, CONFUSION,
    PREDICTIONS, EPOCHS,
)  # fmt: skip

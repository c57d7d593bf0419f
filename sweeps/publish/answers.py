"""What a run's files answer of a reporting checklist, one function per answer.

In: `RunFiles`. Out: a sentence or more, from numbers of the run alone; None where the files do not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fulora.choices import choices_of
from sweeps.publish.answers_data import (
    acquisition,
    centres,
    characteristics,
    disjoint,
    exclusions,
    external,
    flow,
    imbalance,
    internal,
    missing,
    partitions,
    preprocessing,
    sources,
    subsets,
)
from sweeps.report.files import RunFiles
from sweeps.report.verdict import base_name

Answer = Callable[[RunFiles], str | None]


def endpoint(run: RunFiles) -> str | None:
    """Return the primary endpoint."""
    words = (run.plan.get("endpoint") or {}).get("words")
    return f"Primary endpoint, named before the run: {words}." if words else None


def goal(run: RunFiles) -> str:
    """Return what the study is."""
    regimes = ", ".join(run.experiment.get("grid", {}).get("regimes") or run.regimes)
    return f"Zero-shot classification of fetal ultrasound planes; training regimes compared: {regimes}."


def sample_size(run: RunFiles) -> str | None:
    """Return the planned power."""
    found = run.plan.get("endpoint") or {}
    if not found:
        return None
    least = found.get("smallest_difference")
    told = f"finds {least} points with a power of 80 %" if least else "cannot test a difference"
    return (
        f"{found.get('num_replicates')} replicates of {found.get('num_seeds')} trainings, "
        f"{found.get('num_patients')} test patients: planned so, the study {told}."
    )


def model(run: RunFiles) -> str | None:
    """Return the models."""
    experiment = run.experiment
    if not experiment:
        return None
    lora, grid = experiment["lora"], experiment["grid"]
    ranks = ", ".join(map(str, lora["ranks"]))
    return (
        f"Diffusion model {base_name(run) or experiment['base']} with LoRA of rank {ranks} on {lora['targets']}; "
        f"classifiers {', '.join(grid['models'])}; output: five probabilities."
    )


def software(run: RunFiles) -> str | None:
    """Return versions."""
    found: Mapping[str, Any] = run.plan.get("provenance") or {}
    names = [f"{name} {value}" for name, value in found.items() if value and name not in ("host", "commit")]
    return f"Commit {found.get('commit') or 'unknown'}; {', '.join(names)}." if found else None


def initialisation(run: RunFiles) -> str | None:
    """Return the initial weights."""
    weights = sorted({str(r["weights"]) for r in run.tables["table1"] if r["weights"]})
    return (
        f"Classifiers: {'; '.join(weights)}. Adapter: B zero, A {run.experiment['lora']['init']}." if weights else None
    )


def training(run: RunFiles) -> str | None:
    """Return how everything is trained."""
    if not run.experiment:
        return None
    lora, grid = run.experiment["lora"], run.experiment["grid"]
    length = f"{grid['num_steps']} steps" if grid.get("num_steps") else f"{grid['epochs']} epochs"
    return (
        f"LoRA: {lora['num_steps']} steps of {lora['batch_size']} images, {lora['optimizer']} at "
        f"{lora['learning_rate']}, {lora['resolution_px']} px. Classifiers: {length} of batches of "
        f"{grid['batch_size']}, {grid['optimizer']} at {grid['learning_rate']}, cross-entropy."
    )


def selection(run: RunFiles) -> str | None:
    """Return how weights and ranks are chosen."""
    if not run.experiment:
        return None
    keep = {"last": "the last epoch", "best": "the best epoch on validation images"}[run.experiment["grid"]["keep"]]
    chosen = {"given": "given before the run", "kid": "by KID", "recognised": "by the judge"}
    return f"Weights: {keep}. Rank: {chosen[run.experiment['choose_rank']]}. Never by test images."


def metrics(run: RunFiles) -> str:
    """Return the scores."""
    return (
        "Accuracy; recall, precision, F1 and AUC (one-vs-rest), macro averages over the four tested planes; accuracy "
        "among the four planes; shares predicted as Other and as a wrong plane; calibration (ECE, Brier score)."
    )


def uncertainty(run: RunFiles) -> str | None:
    """Return what intervals cover."""
    rows = run.tables["headline"]
    covers = sorted({str(r["covers"]) for r in rows if r["covers"]})
    if not covers:
        return None
    return (
        f"95 % intervals over {'; '.join(covers)}; patients who share an image count once. All pairs of rows are "
        "compared with control of the family-wise error; with one training of a cell nothing is called significant."
    )


def robustness(run: RunFiles) -> str | None:
    """Return the further analyses."""
    words = {"data_scaling": "number of synthetic images", "controls": "controls", "centres": "centres left out",
             "subgroups": "subgroups", "deduplicated": "test images without duplicates"}  # fmt: skip
    found = [words[name] for name in words if run.tables[name]]
    return f"Analyses in the tables: {', '.join(found)}." if found else None


def performance(run: RunFiles) -> str | None:
    """Return the headline's rows."""
    told = [
        f"{r['regime']} against {r['reference']}: {r['change']:+.1f} points of {r['metric']}"
        + (f" (95 % CI {r['low']:+.1f} to {r['high']:+.1f}; {r['covers']})" if r["low"] is not None else "")
        for r in run.tables["headline"]
        if r["metric"] in ("accuracy", "recall") and r["change"] is not None
    ]
    return "; ".join(told) + ". Every cell is in `table1` and `table2`." if told else None


def confusion(run: RunFiles) -> str | None:
    """Return where precision is given by plane."""
    return "Counts by true and predicted plane are in `confusion`." if run.tables["confusion"] else None


def failures(run: RunFiles) -> str | None:
    """Return what the errors are."""
    rows = [r for r in run.tables["table1"] if r.get("share_other") is not None]
    told = []
    for regime in dict.fromkeys(r["regime"] for r in rows):
        mine = [r for r in rows if r["regime"] == regime]
        other, wrong = (sum(r[name] for r in mine) / len(mine) for name in ("share_other", "share_wrong_plane"))
        told.append(f"{regime}: {other:.1f} % predicted as Other, {wrong:.1f} % as a wrong plane")
    return "; ".join(told) + " (mean over models)." if told else None


def fairness(run: RunFiles) -> str | None:
    """Return the differences by centre."""
    told = [
        f"{r['regime']} against {r['reference']}: higher at {r['num_positive']} of {r['num_centres']} centres"
        for r in {(r["regime"], r["reference"]): r for r in run.tables["centres"]}.values()
    ]
    return "; ".join(told) + " (`centres`, `subgroups`)." if told else None


def ensembles(run: RunFiles) -> str:
    """Return that there are none."""
    return "None: scores are means over trainings, not scores of a mean prediction."


def updating(run: RunFiles) -> str:
    """Return that there is none."""
    return "None."


def output(run: RunFiles) -> str:
    """Return what a classifier gives."""
    return "Five probabilities that sum to 1; the plane is the most probable one. No threshold is chosen."


def limitations(run: RunFiles) -> str | None:
    """Return what the run's notes and the recipe's choices say."""
    notes = [r["note"] for r in run.tables["notes"]]
    return " ".join(f"{note.rstrip('.')}." for note in notes) or None


def protocol(run: RunFiles) -> str | None:
    """Return where every setting is, and what was left open."""
    if not run.plan:
        return None
    told = "; ".join(f"{choice.topic}: {choice.taken}" for choice in choices_of(run.recipe))
    return "Every setting, resolved before the run, is in plan.json." + (
        f" Left open by the source: {told}." if told else ""
    )


def availability(run: RunFiles) -> str | None:
    """Return what can be shared."""
    ranks = len(run.tables["ranks"])
    images = sum(len(rows) for rows in run.images.values())
    if not ranks:
        return None
    return f"{ranks} adapters (safetensors) and {images} synthetic images with their seeds are in the run's folder."


ANSWERS: dict[str, Answer] = {
    answer.__name__: answer
    for answer in (
        endpoint, goal, sources, exclusions, preprocessing, subsets, missing, acquisition, partitions, disjoint,
        sample_size, model, software, initialisation, training, selection, metrics, uncertainty, robustness, external,
        internal, flow, centres, characteristics, imbalance, performance, confusion, failures, fairness, ensembles,
        updating, output, limitations, protocol, availability,
    )
}  # fmt: skip
"""Every answer by name."""

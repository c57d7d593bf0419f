"""What a run's files answer of a reporting checklist about its images, patients and partitions.

In: `RunFiles`. Out: a sentence or more, from numbers of the run alone; None where the files do not tell.
"""

from __future__ import annotations

from collections import Counter

from fulora.data.regimes import REGIMES
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

_SOURCES = {"spanish": "Spanish", "african": "African"}
_ORIGIN = {
    True: "phantoms, simulated", False: "published set ({}) or images given", None: "of unknown origin",
}  # fmt: skip
_LINKS = {"spanish": "Zenodo 3904280, CC BY 4.0", "african": "Zenodo 7540448, CC BY 4.0"}


def _counts(rows: list[Row]) -> str:
    patients = {r["patient_id"] for r in rows if r["patient_id"]}
    return f"{len(rows)} images of {len(patients)} patients"


def _of(run: RunFiles, source: str, split: str | None = None) -> list[Row]:
    return [r for r in run.tables["catalog"] if r["source"] == source and split in (None, r["split"])]


def sources(run: RunFiles) -> str | None:
    """Return the sources of the images."""
    found = []
    for source, name in _SOURCES.items():
        if rows := _of(run, source):
            found.append(f"{name}: {_counts(rows)}, {_ORIGIN[run.on_phantoms(source)].format(_LINKS[source])}")
    return "; ".join(found) + "." if found else None


def exclusions(run: RunFiles) -> str | None:
    """Return what is left out."""
    if not run.tables["catalog"]:
        return None
    pairs = Counter(r["kind"] for r in run.tables["audit"])
    told = ", ".join(f"{num} pairs by {kind}" for kind, num in pairs.items()) or "no pairs"
    drops = "left out of training" if run.experiment.get("drop_duplicates") else "kept, as in the paper"
    return f"Maternal cervix is no class here. Duplicates and near duplicates ({told}) are {drops}."


def preprocessing(run: RunFiles) -> str | None:
    """Return how images are prepared."""
    grid = run.experiment.get("grid") or {}
    if not grid:
        return None
    ranges = {"signed": "[-1, 1]", "unit": "[0, 1]", "pretrained": "the range of the initial weights"}
    side, pixels = grid["resolution_px"], ranges.get(grid.get("pixels", "signed"), "unknown")
    return f"Resized to {side} x {side} px (bilinear, aspect not kept), three equal channels, pixels in {pixels}."


def subsets(run: RunFiles) -> str | None:
    """Return the training sets."""
    rows = {r["regime"]: r for name in ("table1", "table2") for r in run.tables[name] if r["num_es"] is not None}
    told = [
        f"{regime}: {r['num_es']} Spanish, {r.get('num_af') or 0} African, {r['num_synthetic']} synthetic"
        for regime, r in rows.items()
    ]
    return "; ".join(told) + "." if told else None


def missing(run: RunFiles) -> str | None:
    """Return what is not known of images."""
    rows = run.tables["catalog"]
    if not rows:
        return None
    unknown = sum(not r["machine"] for r in rows)
    return f"Every image has a plane and a patient; the machine is unknown of {unknown} of {len(rows)} images."


def acquisition(run: RunFiles) -> str | None:
    """Return the machines."""
    machines = Counter(r["machine"] for r in run.tables["catalog"] if r["machine"])
    return "; ".join(f"{name}: {num} images" for name, num in machines.most_common()) + "." if machines else None


def partitions(run: RunFiles) -> str | None:
    """Return how images are divided."""
    test, grid = _of(run, "african", "test"), run.experiment.get("grid") or {}
    if not test or not grid:
        return None
    held = grid.get("num_validation") or 0
    validation = f"{held} validation images ({grid.get('validation')})" if held else "no validation images"
    return f"Test: {_counts(test)}, African, the published split. Training: Spanish images; {validation}."


def disjoint(run: RunFiles) -> str | None:
    """Return whether patients are shared."""
    test = {r["patient_id"] for r in _of(run, "african", "test")}
    if not test:
        return None
    rest = {r["patient_id"] for r in run.tables["catalog"] if r["split"] != "test"}
    leaks = sum(bool(r.get("leak")) for r in run.tables["audit"])
    return (
        f"By patient (centre and number): {len(test & rest)} test patients are training patients. "
        f"Pairs of a test image with a training image: {leaks}."
    )


def external(run: RunFiles) -> str | None:
    """Return the external test."""
    test = _of(run, "african", "test")
    if not test:
        return None
    zero = [name for name, regime in REGIMES.items() if not regime.african and name in run.regimes]
    return (
        f"All testing is external: {_counts(test)} from other countries than the training images ({', '.join(zero)})."
    )


def internal(run: RunFiles) -> str | None:
    """Return the internal evaluation."""
    held = (run.experiment.get("grid") or {}).get("num_validation")
    return f"Validation accuracy on {held} images, in trials.parquet." if held else None


def flow(run: RunFiles) -> str | None:
    """Return the flow of patients in words; the figure shows it."""
    told = []
    for source, name in _SOURCES.items():
        for split in sorted({r["split"] for r in _of(run, source)}):
            told.append(f"{name}, {split}: {_counts(_of(run, source, split))}")
    return "; ".join(told) + "." if told else None


def centres(run: RunFiles) -> str | None:
    """Return the test images by centre."""
    found = Counter(r["centre"] for r in _of(run, "african", "test"))
    return (
        "; ".join(f"{name or 'unknown'}: {num} test images" for name, num in sorted(found.items())) + "."
        if found
        else None
    )


def characteristics(run: RunFiles) -> str | None:
    """Return planes by partition; nothing is known of the women."""
    told = []
    for source, name in _SOURCES.items():
        for split in sorted({r["split"] for r in _of(run, source)}):
            planes = Counter(r["plane"] for r in _of(run, source, split))
            told.append(f"{name}, {split}: " + ", ".join(f"{plane} {num}" for plane, num in sorted(planes.items())))
    return "; ".join(told) + ". Age, gestation and equipment settings are not in the data." if told else None


def imbalance(run: RunFiles) -> str | None:
    """Return the share of Other in the training sets and the test set."""
    spanish, test = _of(run, "spanish", "train"), _of(run, "african", "test")
    if not spanish or not test:
        return None
    shares = [100 * sum(r["plane"] == "other" for r in rows) / len(rows) for rows in (spanish, test)]
    balanced = "; controls with equal shares are in `controls`" if run.tables["controls"] else ""
    return f"Other is {shares[0]:.0f} % of the Spanish training images, {shares[1]:.0f} % of the test images{balanced}."

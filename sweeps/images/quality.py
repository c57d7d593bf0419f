"""Fidelity and memorisation of synthetic images: scores beside a baseline of real images, and the near-copy audit.

In: features of every set, of real images and of planted copies. Out: fidelity.parquet, copies.parquet,
worst_copies.parquet, planted_copies.parquet, and nearest.parquet, the audit of every image of a rank. The scores are
`fulora.evaluate.fidelity`, the audit `fulora.evaluate.copies`, the attack `fulora.evaluate.membership`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fulora.data.records import ImageRecord
from fulora.evaluate import copies, fidelity
from fulora.evaluate.membership import membership_attack, nearest_sample_scores
from fulora.evaluate.planted import PlantedShare, shares_found
from fulora.planes import PLANES
from fulora.seeds import derive_seed
from sweeps.core.selections import read_selection
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import AUDITED, write_table
from sweeps.images.features import ImageFeatures, read_features
from sweeps.images.planted import read_planted
from sweeps.images.quality_plan import QualityConfig, SetFacts

REAL = "real"
"""The adapter column of a baseline's row: real images against other patients' real images."""
NEAREST_FILE = "nearest.parquet"


def measure_quality(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write the tables of fidelity and memorisation."""
    config: QualityConfig = step.config
    extractor = str(place.record_of(step.need("others_features")).metrics["features"])
    sets = list(zip(config.sets, map(read_features, place.all("sets")), strict=True))
    real = read_features(place.of("others_features"))
    others = records_of(place, "others")
    rows, notes = fidelity_rows(sets, real, others, extractor, seed=config.seed)
    write_table(place.out / "fidelity.parquet", "fidelity", rows)
    trained, learned = read_features(place.of("learned_features")), records_of(place, "learned")
    audits, nearest = [], []
    planted, planted_features = read_planted(place.of("planted"))
    sides = (_side(trained, learned), _side(real, others))
    probe = copies.audit_copies(planted.image_set(planted_features), *sides, extractor=extractor)
    shares = shares_found(planted, probe, trained.image_ids)
    write_table(place.out / "planted_copies.parquet", "planted_copies", map(asdict, shares))
    for which, found in sets:
        if which.rank is None:
            continue  # the base is not trained on these
        audit = copies.audit_copies(_side(found), *sides, extractor=extractor)
        attack = _membership(found, trained, real, sides, seed=config.seed)
        audits.append({**_audit_row(which, audit), "planted_found": _mean_found(shares), **attack})
        nearest += [{"adapter": which.label, **asdict(image)} for image in audit.images]
        if which.chosen:
            notes += [f"near copies: {text}" for text in audit.notes]
            worst = [asdict(audit.images[index]) for index in audit.worst]
            write_table(place.out / "worst_copies.parquet", "worst_copies", worst)
    write_table(place.out / "copies.parquet", "copies", audits)
    pq.write_table(_nearest_table(nearest), place.out / NEAREST_FILE)
    return {"notes": notes}


def records_of(place: Place, role: str) -> list[ImageRecord]:
    """Return the images of a selection, in the order of their features."""
    return [r for group in read_selection(place.of(role), place.store.root).values() for r in group]


def fidelity_rows(
    sets: Sequence[tuple[SetFacts, ImageFeatures]], real: ImageFeatures, others: Sequence[ImageRecord], extractor: str,
    *, seed: int,
) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """Return a row per adapter and sampler, all at one size, so that rows compare, and notes."""
    groups, seed = [r.patient_id for r in others], derive_seed(seed, "fidelity")
    fewest = min(which.images_per_plane for which, _ in sets)
    size = fidelity.comparable_size(groups, fewest * len(PLANES)) if len(set(groups)) > 1 else 0
    if size < fidelity.LEAST_IMAGES:
        rule = "FID, KID, precision and recall need real images of patients LoRA is not trained on"
        return [], [f"{rule}; there are {len(others)}"]
    shared: dict[str, Any] = {"features": extractor, "seed": seed, "size": size}
    rows: list[dict[str, Any]] = []
    for which, found in sets:
        names = np.array(found.samplers)
        for sampler in which.samplers:
            scores = fidelity.measure(real.features, found.features[names == sampler], **shared)
            rows.append({"adapter": which.label, "rank": which.rank, "sampler": sampler, **asdict(scores)})
    best = fidelity.baseline(real.features, groups=groups, **shared)
    if best is not None:
        rows.append({"adapter": REAL, **asdict(best)})
    return rows, []


def _side(found: ImageFeatures, records: Sequence[ImageRecord] = ()) -> copies.FeatureSet:
    return copies.FeatureSet(
        pixels=found.pixels, features=found.features, image_ids=found.image_ids,
        patient_ids=[r.patient_id for r in records],
    )  # fmt: skip


def _audit_row(which: SetFacts, audit: copies.CopyAudit) -> dict[str, Any]:
    sides = {"pixels": audit.pixels, "aligned": audit.aligned, "features": audit.features}
    known = {name: side for name, side in sides.items() if side is not None}
    thresholds = {f"least_{name}": side.minimum for name, side in known.items()}
    thresholds |= {f"percentile_{name}": side.first_percentile for name, side in known.items()}
    names = (
        "share_closer", "share_by_chance", "share_below_percentile", "num_synthetic", "num_training", "num_heldout",
        "num_heldout_patients",
    )  # fmt: skip
    return {
        "adapter": which.label, "rank": which.rank, "chosen": which.chosen, "features": audit.extractor, **thresholds,
        **{name: getattr(audit, name) for name in names},
    }  # fmt: skip


def _mean_found(shares: Sequence[PlantedShare]) -> float | None:
    """Return the percent of all planted copies that the audit finds; None without held-out images."""
    found = [share.share_found for share in shares if share.share_found is not None]
    return float(np.mean(found)) if found else None


def _membership(
    found: ImageFeatures, trained: ImageFeatures, real: ImageFeatures,
    sides: tuple[copies.FeatureSet, copies.FeatureSet], *, seed: int,
) -> dict[str, float | None]:  # fmt: skip
    """Return the AUC of the membership attack by features, with its interval over patients; None without others."""
    if not len(real.image_ids):
        return {}
    scores = [nearest_sample_scores(side.features, found.features) for side in (trained, real)]
    attack = membership_attack(
        *scores, member_patients=sides[0].patient_ids, other_patients=sides[1].patient_ids, seed=seed
    )
    named = {"membership_auc": attack.auc, "membership_auc_low": attack.low, "membership_auc_high": attack.high}
    return {name: None if np.isnan(value) else value for name, value in named.items()}


_NEAREST = {
    "adapter": pa.string(), "image_id": pa.string(), "nearest_pixels": pa.string(), "distance_pixels": pa.float64(),
    "nearest_features": pa.string(), "distance_features": pa.float64(), "closer_than_real": pa.bool_(),
}  # fmt: skip


def _nearest_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in _NEAREST.items()})


def audited_columns(folder: Any, label: str) -> dict[str, dict[str, Any]]:
    """Return what the near-copy audit says of each image of a set, by image id."""
    rows = pq.read_table(folder / NEAREST_FILE).to_pylist()
    return {row["image_id"]: {name: row[name] for name in AUDITED} for row in rows if row["adapter"] == label}

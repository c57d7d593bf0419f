"""Whether synthetic images are any good, and whether they are copies: scores, the near-copy audit, a real baseline.

In: sampled sets, the catalog, the judge (its features stand in where Inception's weights are not to be had, and are
named). Out: tables/fidelity.parquet and tables/copies.parquet, and the audit's columns for metadata.parquet.
The scores are `fulora.evaluate.fidelity`, the audit `fulora.evaluate.copies`. Real images are those of Spanish patients
that LoRA does not see, the same number of every plane.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fulora.data.pixels import decode_square
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_heldout_images
from fulora.device import resolve_device
from fulora.evaluate import copies, fidelity
from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.seeds import derive_seed
from sweeps.image_sets import ImageSet
from sweeps.lora_sweep import lora_images
from sweeps.paths import RunPaths, write_json, written
from sweeps.tables import AUDITED, read_rows, write_table
from sweeps.trials import data_hash, short_hash

REAL = "real"
"""The adapter column of a baseline's row: real images against other patients' real images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """Images as the scores take them."""

    pixels: np.ndarray
    """uint8 [N, R, R, 3]."""
    features: np.ndarray
    """float32 [N, D]."""


class Eye:
    """Decodes images and takes their features, once per set of images: features are kept in the run's cache."""

    def __init__(self, experiment: Experiment, paths: RunPaths) -> None:
        from fulora.evaluate.features import choose_features, features_from_classifier
        from fulora.evaluate.judge import load_judge

        judge = load_judge(paths.judge)
        device = resolve_device("auto")
        own = features_from_classifier(judge.model, judge.name, device=device)
        self.extractor = choose_features(experiment.embedding.feature_weights, own, device=device)
        self.folder = paths.cache / "features"
        self.identity = judge_identity(paths)
        # The judge takes its own size alone; Inception resizes by itself.
        is_judge = self.extractor.name == judge.name
        self.resolution_px = experiment.judge.resolution_px if is_judge else experiment.lora.resolution_px

    @property
    def name(self) -> str:
        """What makes the features."""
        return self.extractor.name

    def look(self, files: Sequence[str | Path], identities: Sequence[str]) -> Looks:
        """Return the images of some files; `identities` names their contents."""
        pixels = decode_square(list(files), resolution_px=self.resolution_px, workers=2)
        text = "\n".join([self.name, self.identity, str(self.resolution_px), *identities])
        kept = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
        if kept.is_file():
            return Looks(pixels=pixels, features=np.load(kept))
        features = self.extractor(pixels)
        with written(kept) as beside, beside.open("wb") as stream:
            np.save(stream, features)
        return Looks(pixels=pixels, features=features)


def judge_identity(paths: RunPaths) -> str:
    """Return which judge is in place: its name alone does not tell one training of it from another."""
    return str(json.loads((paths.judge / "trial.json").read_text())["trial_id"])


def real_images(
    experiment: Experiment, records: Sequence[ImageRecord], num_per_plane: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return (learned, others): LoRA's images, and as many of each plane of patients LoRA does not see, at most
    twice `num_per_plane`, so that two halves of them make a baseline."""
    learned = lora_images(experiment, records)[0]
    others = select_heldout_images(records, learned, per_plane=10**9, seed=experiment.seed)
    counts = [sum(r.plane == plane.name for r in others) for plane in PLANES]
    least = min((count for count in counts if count), default=0)
    return learned, select_heldout_images(
        records, learned, per_plane=min(least, 2 * num_per_plane), seed=experiment.seed
    )


def measure_quality(
    experiment: Experiment, sets: Sequence[ImageSet], records: Sequence[ImageRecord], paths: RunPaths
) -> list[str]:
    """Write fidelity and copies of assembled sets, and the audit's columns into their metadata; return notes.

    Where the same images were measured before nothing is done.
    """
    rows = {s.label: read_rows(s.folder(paths) / "metadata.parquet", "metadata") for s in sets}
    key, kept = _key(experiment, sets, rows, records, paths), paths.parts / "quality.json"
    there = all(paths.table(name).is_file() for name in ("fidelity", "copies"))
    if there and kept.is_file() and (before := json.loads(kept.read_text()))["key"] == key:
        return before["notes"]
    notes = _measure(experiment, sets, rows, records, paths)
    write_json(kept, {"key": key, "notes": notes})
    return notes


def _key(
    experiment: Experiment,
    sets: Sequence[ImageSet],
    rows: Mapping[str, list[dict]],
    records: Sequence[ImageRecord],
    paths: RunPaths,
) -> str:
    """Return a hash of all that the scores depend on."""
    images = [[s.label, s.chosen, [r["sha256"] for r in rows[s.label]]] for s in sets]
    weights = str(experiment.embedding.feature_weights)
    return short_hash([images, data_hash(records), judge_identity(paths), weights, experiment.seed])


def _measure(
    experiment: Experiment,
    sets: Sequence[ImageSet],
    rows: Mapping[str, list[dict]],
    records: Sequence[ImageRecord],
    paths: RunPaths,
) -> list[str]:
    eye = Eye(experiment, paths)
    fewest = min(s.config.images_per_plane for s in sets)
    most = max(s.config.images_per_plane * len(s.config.samplers) for s in sets)
    learned, others = real_images(experiment, records, most)
    seen = {
        s.label: eye.look(
            [s.folder(paths) / r["file_name"] for r in rows[s.label]], [r["sha256"] for r in rows[s.label]]
        )
        for s in sets
    }
    real = eye.look([r.path for r in others], [r.sha256 for r in others])
    notes = _write_fidelity(experiment, sets, rows, seen, others, real, eye.name, fewest, paths)
    trained = eye.look([r.path for r in learned], [r.sha256 for r in learned])
    audits = []
    for which in sets:
        if which.rank is None:
            continue  # the base has learned from none of these
        audit = copies.audit_copies(
            _side(seen[which.label], [r["image_id"] for r in rows[which.label]]),
            _side(trained, [r.image_id for r in learned], [r.patient_id for r in learned]),
            _side(real, [r.image_id for r in others], [r.patient_id for r in others]),
            extractor=eye.name,
        )
        audits.append(_audit_row(which, audit))
        found = {image.image_id: asdict(image) for image in audit.images}
        write_table(
            which.folder(paths) / "metadata.parquet",
            "metadata",
            [{**row, **{name: found[row["image_id"]][name] for name in AUDITED}} for row in rows[which.label]],
        )
        if which.chosen:
            notes += [f"near copies: {text}" for text in audit.notes]
            _write_worst(which, audit, paths)
    write_table(paths.table("copies"), "copies", audits)
    return notes


def _write_fidelity(
    experiment: Experiment,
    sets: Sequence[ImageSet],
    rows: Mapping[str, list[dict]],
    seen: dict[str, Looks],
    others: Sequence[ImageRecord],
    real: Looks,
    extractor: str,
    fewest: int,
    paths: RunPaths,
) -> list[str]:
    """Write a row per adapter and sampler, all at one size, so that rows compare; return notes."""
    groups, seed = [r.patient_id for r in others], derive_seed(experiment.seed, "fidelity")
    size = fidelity.comparable_size(groups, fewest * len(PLANES)) if len(set(groups)) > 1 else 0
    if size < fidelity.LEAST_IMAGES:
        write_table(paths.table("fidelity"), "fidelity", [])
        rule = "FID, KID, precision and recall need real images of patients LoRA does not see"
        return [f"{rule}; there are {len(others)}"]
    shared = {"features": extractor, "seed": seed, "size": size}
    found: list[dict[str, Any]] = []
    for which in sets:
        names = np.array([r["sampler"] for r in rows[which.label]])
        for sampler in which.config.samplers:
            scores = fidelity.measure(real.features, seen[which.label].features[names == sampler], **shared)  # type: ignore[arg-type]
            found.append({"adapter": which.label, "rank": which.rank, "sampler": sampler, **asdict(scores)})
    best = fidelity.baseline(real.features, groups=groups, **shared)  # type: ignore[arg-type]
    if best is not None:
        found.append({"adapter": REAL, **asdict(best)})
    write_table(paths.table("fidelity"), "fidelity", found)
    return []


def _side(looks: Looks, image_ids: list[str], patient_ids: Sequence[str] = ()) -> copies.FeatureSet:
    return copies.FeatureSet(pixels=looks.pixels, features=looks.features, image_ids=image_ids, patient_ids=patient_ids)


def _audit_row(which: ImageSet, audit: copies.CopyAudit) -> dict[str, Any]:
    sides = {"pixels": audit.pixels, "features": audit.features}
    thresholds = {f"least_{name}": None if side is None else side.minimum for name, side in sides.items()}
    names = ("share_closer", "share_by_chance", "num_synthetic", "num_training", "num_heldout", "num_heldout_patients")
    return {
        "adapter": which.label, "rank": which.rank, "chosen": which.chosen, "features": audit.extractor, **thresholds,
        **{name: getattr(audit, name) for name in names},
    }  # fmt: skip


def _write_worst(which: ImageSet, audit: copies.CopyAudit, paths: RunPaths) -> None:
    """Write the worst cases of the chosen set as a table, for the report's pictures."""
    images = [audit.images[index] for index in audit.worst]
    write_table(paths.table("worst_copies"), "worst_copies", map(asdict, images))

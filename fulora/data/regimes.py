"""Training sets: the regimes of the paper's Tables 1 and 2, and the images that LoRA is fine-tuned on.

In: a catalog's records and the numbers of images requested. Out: the records of a regime, sampled with a seed, with a
note wherever fewer images are available than requested. The order of the records does not matter.
Source: paper section 4, Tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fulora.data.records import ImageRecord
from fulora.errors import InputError, fault, raise_if_any
from fulora.planes import PLANES
from fulora.seeds import numpy_rng


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """The images of a regime, and whether they are augmented."""

    name: str
    """The paper's name: ES, ES+DA, HB, HB+DA, AF, ES+AF. `HB full` is Table 2's HB as it is printed, with all Spanish
    images: the paper contradicts itself, as Table 1 and the text give HB 1150."""
    spanish: Literal["all", "balanced", "none"]
    """`all`: `num_spanish` images; `balanced`: `num_spanish_hybrid` images, the same number of each plane."""
    african: bool
    """Whether the African training images are included."""
    synthetic: bool
    """Whether synthetic images are included."""
    augment: bool
    """Whether classical data augmentation (DA) is used."""
    synthetic_first: bool = False
    """Whether synthetic images are trained on in the first half of the epochs, real ones in the second."""


REGIMES: dict[str, Regime] = {
    regime.name: regime
    for regime in (
        Regime(name="ES", spanish="all", african=False, synthetic=False, augment=False),
        Regime(name="ES+DA", spanish="all", african=False, synthetic=False, augment=True),
        Regime(name="HB", spanish="balanced", african=False, synthetic=True, augment=False),
        Regime(name="HB+DA", spanish="balanced", african=False, synthetic=True, augment=True),
        Regime(name="AF", spanish="none", african=True, synthetic=False, augment=False),
        Regime(name="ES+AF", spanish="all", african=True, synthetic=False, augment=False),
        Regime(name="HB full", spanish="all", african=False, synthetic=True, augment=False),
        Regime(name="HB full+DA", spanish="all", african=False, synthetic=True, augment=True),
        # As RoentGen-v2 does: pre-trained on synthetic images, fine-tuned on real ones.
        Regime(name="SYN->ES", spanish="all", african=False, synthetic=True, augment=False, synthetic_first=True),
        Regime(name="SYN->ES+DA", spanish="all", african=False, synthetic=True, augment=True, synthetic_first=True),
    )
}
"""All regimes by name."""

TABLE1_REGIMES = ("ES", "ES+DA", "HB", "HB+DA")
"""Regimes of Table 1, in its order."""

HYBRIDS = {"HB full": "HB", "HB full+DA": "HB"}
"""Regimes by their name in Table 2, whose HB row is printed with 6148 + 5000 images; the released run was augmented."""

TABLE2_REGIMES = ("AF", "ES", "ES+AF", "HB")
"""Regimes of Table 2, in its order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegimeSizes:
    """Number of images that a regime requests."""

    num_spanish: int = 6148
    """Spanish training images of ES. Source: paper, Table 1 (every published training image of the five planes)."""
    num_spanish_hybrid: int = 1150
    """Spanish training images of HB, 230 per plane; 0: synthetic images alone. Source: paper, Table 1."""
    num_synthetic: int = 5000
    """Synthetic images of HB, 1000 per plane; 0: none. Source: paper, Table 1."""

    def validate(self) -> list[str]:
        """Return every fault of the sizes; a balanced number must divide by the number of planes."""
        faults = [
            fault(f"sizes.{name}", value, f"is less than {least}", f"Give at least {least}.")
            for name, value, least in (
                ("num_spanish", self.num_spanish, 1),
                ("num_spanish_hybrid", self.num_spanish_hybrid, 0),
                ("num_synthetic", self.num_synthetic, 0),
            )
            if value < least
        ]
        if self.num_spanish_hybrid == self.num_synthetic == 0:
            rule = "is 0, and so is sizes.num_synthetic: HB has no images"
            faults.append(fault("sizes.num_spanish_hybrid", 0, rule, "Give one of the two."))
        return faults + [
            fault(f"sizes.{name}", value, f"does not divide by the {len(PLANES)} planes", "Give a multiple.")
            for name, value in (("num_spanish_hybrid", self.num_spanish_hybrid), ("num_synthetic", self.num_synthetic))
            if value % len(PLANES)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSet:
    """The images one classifier trains on."""

    regime: str
    """The regime's name."""
    records: tuple[ImageRecord, ...]
    """Spanish, then African, then synthetic images, each sorted by id."""
    notes: tuple[str, ...]
    """One sentence for each number of images that was requested and is not available."""

    @property
    def num_es(self) -> int:
        """Return the number of Spanish images."""
        return self._count("spanish")

    @property
    def num_af(self) -> int:
        """Return the number of African images."""
        return self._count("african")

    @property
    def num_synthetic(self) -> int:
        """Return the number of synthetic images."""
        return self._count("synthetic")

    @property
    def num_patients(self) -> int:
        """Return the number of patients of the real images; synthetic images have none."""
        return len({record.patient_id for record in self.records if record.patient_id})

    def _count(self, source: str) -> int:
        return sum(record.source == source for record in self.records)


def select_training_set(regime: str, records: Sequence[ImageRecord], sizes: RegimeSizes, *, seed: int) -> TrainingSet:
    """Return the training images of a regime, from the published training split; deterministic given the seed.

    Where fewer images are available than requested, all are taken and a note says so. ES, ES+DA and ES+AF share their
    Spanish images, HB and HB+DA theirs. Raises InputError for an unknown regime, or one whose source has no images.
    """
    if regime not in REGIMES:
        raise InputError(fault("regime", regime, "is unknown", f"It must be one of {', '.join(REGIMES)}."))
    raise_if_any(sizes.validate())
    wanted = REGIMES[regime]
    chosen: list[ImageRecord] = []
    notes: list[str] = []
    if wanted.spanish != "none":
        pool = _training_images(records, "spanish", regime)
        if wanted.spanish == "all":
            chosen += _draw_all(pool, sizes.num_spanish, notes, regime=regime, seed=seed)
        elif sizes.num_spanish_hybrid:
            chosen += _draw_balanced(pool, sizes.num_spanish_hybrid, notes, what=f"{regime} asks for", seed=seed)
    if wanted.african:
        chosen += _training_images(records, "african", regime)
    if wanted.synthetic and sizes.num_synthetic:
        pool = _training_images(records, "synthetic", regime)
        chosen += _draw_balanced(pool, sizes.num_synthetic, notes, what=f"{regime} asks for", seed=seed)
    return TrainingSet(regime=regime, records=tuple(chosen), notes=tuple(notes))


def select_test_images(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the test images of every classifier: the African ones of the published test split, sorted by id."""
    return sorted((r for r in records if r.source == "african" and r.split == "test"), key=lambda r: r.image_id)


def select_lora_images(
    records: Sequence[ImageRecord], *, per_plane: int, seed: int
) -> tuple[list[ImageRecord], list[str]]:
    """Return the Spanish images that LoRA is fine-tuned on, `per_plane` of each plane in the planes' order, and notes.

    Where a plane has fewer, all are taken and a note says so. Raises InputError where there are none at all.
    Source: paper section 3, Datasets (20 of each plane).
    """
    if per_plane < 1:
        raise InputError(fault("per_plane", per_plane, "is not a positive number", "Give at least 1."))
    notes: list[str] = []
    pool = _training_images(records, "spanish", "LoRA")
    chosen = _draw_balanced(pool, per_plane * len(PLANES), notes, what="LoRA asks for", seed=seed, stream="lora")
    index = {plane.name: plane.index for plane in PLANES}
    return sorted(chosen, key=lambda record: (index[record.plane], record.image_id)), notes


def select_heldout_images(
    records: Sequence[ImageRecord], learned: Sequence[ImageRecord], *, per_plane: int, seed: int
) -> list[ImageRecord]:
    """Return held-out Spanish images: of patients LoRA is not fine-tuned on, at most `per_plane` of each plane.

    `learned` are the images LoRA is fine-tuned on. Empty where these are of every patient.
    """
    seen = {record.patient_id for record in learned}
    pool = [r for r in _training_images(records, "spanish", "LoRA") if r.patient_id not in seen]
    if not pool or per_plane == 0:
        return []
    return _draw_balanced(pool, per_plane * len(PLANES), [], what="held out", seed=seed, stream="heldout")


def split_validation(
    records: Sequence[ImageRecord], num: int, *, by: Literal["images", "inside", "patients"], seed: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return (training, validation) images of a regime, in their order; at most a fifth is for validation.

    By images, `num` images are sampled, real or synthetic; `inside`: the same, and they stay training images, as in the
    released code. By patients, patients are sampled until `num` images are
    reached or the next patient would exceed a fifth of the real images: the two sets share no patient, and no synthetic
    image is for validation.
    """
    rng = numpy_rng(seed, "validation")
    if by in ("images", "inside"):
        order = rng.permutation(len(records))
        held = {records[place].image_id for place in order[: min(num, len(records) // 5)]}
    else:
        of_patient: dict[str, list[str]] = {}
        for record in sorted(records, key=lambda r: r.image_id):
            if record.patient_id:
                of_patient.setdefault(record.patient_id, []).append(record.image_id)
        most, held = sum(map(len, of_patient.values())) // 5, set()
        patients = sorted(of_patient)
        for place in rng.permutation(len(patients)):
            images = of_patient[patients[place]]
            if len(held) < num and len(held) + len(images) <= most:
                held |= set(images)
    chosen = [r for r in records if r.image_id in held]
    return list(records) if by == "inside" else [r for r in records if r.image_id not in held], chosen


def select_disjoint_validation(
    records: Sequence[ImageRecord], taken: Sequence[ImageRecord], num: int, *, seed: int
) -> list[ImageRecord]:
    """Return validation images of Spanish patients who have no image among `taken`, from the training split.

    Patients are sampled until there are `num` images or no patient is left; may be empty.
    """
    seen = {record.patient_id for record in taken}
    of_patient: dict[str, list[ImageRecord]] = {}
    for record in sorted(_training_images(records, "spanish", "validation"), key=lambda r: r.image_id):
        if record.patient_id not in seen:
            of_patient.setdefault(record.patient_id, []).append(record)
    patients, held = sorted(of_patient), list[ImageRecord]()
    for place in numpy_rng(seed, "validation beside").permutation(len(patients)):
        if len(held) < num:
            held += of_patient[patients[place]]
    return sorted(held, key=lambda r: r.image_id)


def _training_images(records: Sequence[ImageRecord], source: str, regime: str) -> list[ImageRecord]:
    pool = {r.image_id: r for r in records if r.source == source and r.split == "train"}
    if len(pool) < sum(r.source == source and r.split == "train" for r in records):
        raise InputError(fault("catalog", source, "lists an image id twice", "Every image needs an id of its own."))
    if not pool:
        raise InputError(
            fault(
                "regime",
                regime,
                f"needs {source} training images and there are none",
                f"Give {source} images, or leave the regime out.",
            )
        )
    return [pool[image_id] for image_id in sorted(pool)]


def _draw_all(pool: Sequence[ImageRecord], num: int, notes: list[str], *, regime: str, seed: int) -> list[ImageRecord]:
    if len(pool) < num:
        notes.append(f"{regime} asks for {num} Spanish images; there are {len(pool)}, all are taken")
    return _draw(pool, num, seed, "spanish", "all")


def _draw_balanced(
    pool: Sequence[ImageRecord], num: int, notes: list[str], *, what: str, seed: int, stream: str = "regime"
) -> list[ImageRecord]:
    """Return num images, the same number of each plane; every plane has its own random stream."""
    per_plane, source = num // len(PLANES), pool[0].source
    by_plane = {plane.name: [record for record in pool if record.plane == plane.name] for plane in PLANES}
    chosen = [r for name, images in by_plane.items() for r in _draw(images, per_plane, seed, stream, source, name)]
    short = [f"{name} {len(images)}" for name, images in by_plane.items() if len(images) < per_plane]
    if short:
        title = source if source == "synthetic" else source.capitalize()
        tail = (
            f"there are {len(pool)}, all are taken"
            if len(chosen) == len(pool)
            else (f"{len(chosen)} are taken, there are only {', '.join(short)}")
        )
        notes.append(f"{what} {num} {title} images, {per_plane} of each plane; {tail}")
    return sorted(chosen, key=lambda record: record.image_id)


def _draw(pool: Sequence[ImageRecord], num: int, seed: int, *stream: str) -> list[ImageRecord]:
    """Return num images of a sorted pool, sorted; all where there are fewer."""
    if len(pool) <= num:
        return list(pool)
    places = numpy_rng(seed, "draw", *stream).permutation(len(pool))[:num]
    return [pool[place] for place in sorted(places)]

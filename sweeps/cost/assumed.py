"""Images that a study is planned with before any data is there: as many as the recipe's phantoms, or as published.

In: an experiment. Out: records without files, whose numbers per plane, patient and split are about those to come.
Sources: Burgos-Artizzu et al. 2020 (Spanish); Sendra-Balcells et al. 2023 (African); paper section 3 (6148, 233).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fulora.data.records import ImageRecord
from fulora.experiment import Experiment
from fulora.planes import PLANES, TESTED_PLANES, Plane

_SPANISH = {"other": 4213, "abdomen": 711, "brain": 3092, "femur": 1040, "thorax": 1718}
"""Published Spanish images of the five planes; 6148 of them are for training."""
_NUM_TRAIN, _AFRICAN_TRAIN, _AFRICAN_TEST = 6148, 217, 233
_PER_PATIENT = 6
_COUNTRIES = ("Algeria", "Egypt", "Ghana", "Malawi", "Uganda")


def assumed_records(experiment: Experiment) -> list[ImageRecord]:
    """Return as many records as the data of an experiment is expected to have."""
    if experiment.data_required:
        every = [plane for plane in PLANES for _ in range(_SPANISH[plane.name])]
        share = _NUM_TRAIN / len(every)
        cut = [index for index in range(len(every)) if int((index + 1) * share) > int(index * share)]
        train = [every[index] for index in cut]
        return [
            *_made_up("spanish", train, "train", _PER_PATIENT),
            *_made_up("african", _in_turn(TESTED_PLANES, _AFRICAN_TRAIN), "train", 4),
            *_made_up("african", _in_turn(TESTED_PLANES, _AFRICAN_TEST), "test", 4),
        ]
    phantoms = experiment.phantoms
    return [
        *_made_up("spanish", _in_turn(PLANES, phantoms.num_spanish), "train", phantoms.images_per_patient),
        *_made_up("african", _in_turn(TESTED_PLANES, phantoms.num_african_train), "train", 4),
        *_made_up("african", _in_turn(TESTED_PLANES, phantoms.num_african_test), "test", 4),
    ]


def _in_turn(planes: Sequence[Plane], number: int) -> list[Plane]:
    return [planes[index % len(planes)] for index in range(number)]


def _made_up(source: str, planes: Sequence[Plane], split: str, per_patient: int) -> Iterator[ImageRecord]:
    numbers = dict.fromkeys((plane.name for plane in PLANES), 0)
    for index, plane in enumerate(planes):
        name = f"{source}/{split}-{index}"
        patient = numbers[plane.name] // per_patient
        numbers[plane.name] += 1
        yield ImageRecord(
            image_id=name, path=f"/assumed/{name}.png", source=source, plane=plane.name,
            patient_id=f"{source}/{split}-{plane.name}-{patient}",
            centre="Spain" if source == "spanish" else _COUNTRIES[patient % len(_COUNTRIES)], machine=None, split=split,
            width_px=1, height_px=1, sha256=name, pixel_hash=name,
        )  # fmt: skip

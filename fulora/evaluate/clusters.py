"""Clusters for resampling: the test images of one patient, or of several patients who share an identical image.

In: a patient and a pixel hash per image (`fulora.data.records.ImageRecord.pixel_hash`). Out: a cluster per image.
Why: the published African set holds pixel-identical images under different patient numbers. Such
patient numbers are one woman, or one image was filed twice; resampled separately they would count as independent.
"""

from __future__ import annotations

from collections.abc import Sequence

from fulora.errors import InputError, fault


def merge_patients(patient_ids: Sequence[str], pixel_hashes: Sequence[str]) -> list[str]:
    """Return a cluster id per image: patients who share an image with equal pixels are one, named by the first of them.

    Sharing is transitive: A with B and B with C makes one cluster of three. An empty hash equals no other. The first is
    the one that sorts first, so the order of the images does not matter. Raises InputError for unequal numbers.
    """
    if len(patient_ids) != len(pixel_hashes):
        counts = (len(patient_ids), len(pixel_hashes))
        rule = "must be as many pixel hashes as patients"
        raise InputError(fault("pixel_hashes", counts, rule, "Give both of the same images."))
    parent = {patient: patient for patient in patient_ids}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    owner: dict[str, str] = {}
    for patient, pixels in zip(patient_ids, pixel_hashes, strict=True):
        if pixels:
            first, second = sorted((root(owner.setdefault(pixels, patient)), root(patient)))
            parent[second] = first
    return [root(patient) for patient in patient_ids]

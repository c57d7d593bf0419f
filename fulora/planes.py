"""The five maternal-fetal planes: index, name and prompt, the same everywhere in the project.

In: a label as a data set publishes it. Out: a `Plane`.
Source: Burgos-Artizzu et al. 2020 (labels); the released FU-LoRA code (prompts).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plane:
    """One of the five classes."""

    index: int
    """Class index, the column of a prediction: 0 to 4."""
    name: str
    """Short name used in our tables, folders and column names."""
    label: str
    """The label in the published CSV files."""
    prompt: str
    """The text a diffusion model is conditioned on."""


OTHER = Plane(0, "other", "Other", "a photo of fetal ultrasound")
ABDOMEN = Plane(1, "abdomen", "Fetal abdomen", "a photo of fetal abdomen")
BRAIN = Plane(2, "brain", "Fetal brain", "a photo of fetal brain")
FEMUR = Plane(3, "femur", "Fetal femur", "a photo of fetal femur")
THORAX = Plane(4, "thorax", "Fetal thorax", "a photo of fetal thorax")

PLANES: tuple[Plane, ...] = (OTHER, ABDOMEN, BRAIN, FEMUR, THORAX)
"""All planes, at the position of their index."""

TESTED_PLANES: tuple[Plane, ...] = PLANES[1:]
"""The four planes of the African set; it has no Other."""

LEFT_OUT_LABELS: frozenset[str] = frozenset({"Maternal cervix"})
"""Published labels the study does not use. Source: paper section 3 (five planes)."""

_BY_LABEL = {plane.label: plane for plane in PLANES}
_BY_NAME = {plane.name: plane for plane in PLANES}


def plane_from_label(label: str) -> Plane:
    """Return the plane with a published label (`Fetal brain`) or one of our names (`brain`).

    Raises ValueError naming the label and the choices.
    """
    text = label.strip()
    plane = _BY_LABEL.get(text) or _BY_NAME.get(text.lower())
    if plane is None:
        raise ValueError(
            f"plane {label!r} is unknown. It must be one of {', '.join(sorted(_BY_LABEL))} "
            f"(or {', '.join(sorted(_BY_NAME))}); correct the label in the list of images."
        )
    return plane

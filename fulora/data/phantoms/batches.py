"""Phantoms of the two sources in memory: who is scanned, on which machine, in which planes.

In: a number of images and a seed. Out: a `PhantomBatch`: images, plane indices, patient numbers, in order of patients.
A phantom depends on (seed, source, patient, plane, image of that patient) alone. A new seed means new patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fulora.data.phantoms.anatomy import PAINTERS
from fulora.data.phantoms.display import resized, stored
from fulora.data.phantoms.machines import AFRICAN_MACHINES, SPANISH_MACHINES, Machine
from fulora.data.phantoms.other_scenes import paint_other
from fulora.data.phantoms.physics import acquire, blank_canvas
from fulora.data.phantoms.shapes import FLUID_DB, Canvas
from fulora.planes import PLANES, TESTED_PLANES, Plane
from fulora.seeds import numpy_rng

PhantomSource = Literal["spanish", "african"]


class PhantomBatch(NamedTuple):
    """Phantoms ready for a classifier."""

    images: np.ndarray
    """uint8 [N, H, W]."""
    planes: np.ndarray
    """Plane index, int64 [N]."""
    patients: np.ndarray
    """Patient number from 1, int64 [N]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """One image to make."""

    source: PhantomSource
    """Which source's machines and habits."""
    patient: int
    """Patient number from 1; in the African-like source it counts across all centres."""
    plane: Plane
    """What is looked for."""
    number: int
    """Which image of this patient and plane, from 1."""
    of: int
    """How many images of this patient and plane there are."""
    machine: Machine
    """Where it is looked at."""


def spanish_examinations(num: int, *, seed: int, images_per_patient: int = 4) -> Iterator[Examination]:
    """Yield `num` examinations, patient after patient; each patient is seen in two planes (one, with a single image).

    Five patients in a row have every plane equally often, so multiples of 5 * images_per_patient are balanced.
    """
    made, patient = 0, 0
    while made < num:
        patient += 1
        machine = SPANISH_MACHINES[numpy_rng(seed, "spanish", "machine", patient).integers(len(SPANISH_MACHINES))]
        second = images_per_patient // 2
        for offset, count in ((0, images_per_patient - second), (1, second)):
            plane = PLANES[(patient - 1 + offset) % len(PLANES)]
            for number in range(1, count + 1):
                if made == num:
                    return
                made += 1
                yield Examination(
                    source="spanish", patient=patient, plane=plane, number=number, of=count, machine=machine
                )


def african_examinations(num: int, *, first_patient: int = 1) -> Iterator[Examination]:
    """Yield `num` examinations: each patient once in each of the four tested planes, the centres taking turns."""
    centres = tuple(AFRICAN_MACHINES.values())
    for index in range(num):
        offset, plane = divmod(index, len(TESTED_PLANES))
        patient = first_patient + offset
        machine = centres[(patient - 1) % len(centres)]
        yield Examination(
            source="african", patient=patient, plane=TESTED_PLANES[plane], number=1, of=1, machine=machine
        )


def render(examination: Examination, *, seed: int) -> np.ndarray:
    """Return the uint8 image of one examination, in the machine's own size."""
    key = (examination.source, examination.patient, examination.plane.name)
    body = numpy_rng(seed, *key, "anatomy")
    shot = numpy_rng(seed, *key, examination.number)
    canvas = blank_canvas(examination.machine)
    _paint_mother(canvas, body, examination.machine.depth_mm)
    view = _hold_probe(canvas, examination, body, shot)
    (PAINTERS.get(examination.plane.name) or paint_other)(view, body)
    grey = acquire(canvas, examination.machine, shot, gain_db=shot.normal(0.0, 1.5))
    return stored(grey, examination.machine, shot)


def _hold_probe(
    canvas: Canvas, examination: Examination, body: np.random.Generator, shot: np.random.Generator
) -> Canvas:
    """Return the frame of the body as this image sees it: the patient's lie, and the probe moved a little."""
    plane, depth_mm = examination.plane.name, examination.machine.depth_mm
    # Heads and thighs are measured lying across the beam; the trunk turns freely.
    swing = {"brain": 0.25, "femur": 0.25, "other": 0.35}.get(plane, 3.14)
    angle = body.uniform(-swing, swing) + shot.normal(0.0, 0.08)
    mirror = bool(body.random() < 0.5)
    age = body.uniform(0.88, 1.1)
    x_mm, z_mm = body.normal(0, 4) + shot.normal(0, 3), depth_mm * body.uniform(0.50, 0.56) + shot.normal(0, 3)
    return canvas.posed(x_mm=x_mm, z_mm=z_mm, angle=angle, scale=age * shot.uniform(0.95, 1.05), mirror=mirror)


def _paint_mother(canvas: Canvas, rng: np.random.Generator, depth_mm: float) -> None:
    """Paint what lies around the fetus: abdominal wall and womb above, fluid or placenta around, tissue below."""
    canvas.level_db[:] = rng.uniform(-24, -14)
    depth = 2.0
    for _ in range(int(rng.integers(2, 5))):
        thickness = rng.uniform(3, 7)
        canvas.layer(depth, thickness, rng.uniform(-12, 1), tilt=rng.normal(0, 0.04), wave=rng.uniform(0, 1.0))
        depth += thickness
    if rng.random() < 0.6:
        centre = 0.55 * depth_mm
        size = rng.uniform(50, 66)
        x = rng.normal(0, 10)
        canvas.blob(
            x,
            centre,
            size * rng.uniform(1.0, 1.3),
            size * 0.85,
            FLUID_DB + 8,
            attenuation=0.12,
            edge=5.0,
            lobes=(0.05, rng.normal(0, 0.05)),
        )
    canvas.layer(rng.uniform(0.92, 1.0) * depth_mm, rng.uniform(8, 20), rng.uniform(-12, -4), tilt=rng.normal(0, 0.06))
    canvas.texture(rng, 2.5)


def spanish_like(num: int, *, seed: int, resolution_px: int | None, images_per_patient: int = 4) -> PhantomBatch:
    """Return `num` fresh Spanish-like phantoms, [N, R, R], or [N, 96, 128] where resolution_px is None."""
    examinations = spanish_examinations(num, seed=seed, images_per_patient=images_per_patient)
    return _batch(list(examinations), seed, resolution_px)


def african_like(num: int, *, seed: int, resolution_px: int | None) -> PhantomBatch:
    """Return `num` fresh African-like phantoms (four planes, five centres), sized as `spanish_like` does."""
    return _batch(list(african_examinations(num)), seed, resolution_px)


def _batch(examinations: list[Examination], seed: int, resolution_px: int | None) -> PhantomBatch:
    """Render examinations into arrays."""
    return PhantomBatch(
        images=np.stack([resized(render(examination, seed=seed), resolution_px) for examination in examinations]),
        planes=np.array([examination.plane.index for examination in examinations], np.int64),
        patients=np.array([examination.patient for examination in examinations], np.int64),
    )

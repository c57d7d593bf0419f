"""The five planes as scenes of simple shapes, drawn per patient.

In: a canvas whose frame is the fetal body (mm, centre at the origin) and the patient's random stream for that plane.
Out: the painted canvas. The same stream paints the same anatomy, so the images of a patient share it.
Source: which structures identify each plane: ISUOG practice guidelines (Salomon et al., Ultrasound Obstet. Gynecol.
59, 840, 2022): abdomen (stomach, umbilical vein, spine), head (skull oval, midline, cavum septi pellucidi), femur
(diaphysis with both ends visible), thorax (four chambers, lungs, ribs). Sizes: a fetus of 20 to 34 weeks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fulora.data.phantoms.shapes import FLUID_DB, Canvas

BONE_DB = 16.0
"""Diffuse level of bone."""


def paint_abdomen(view: Canvas, rng: np.random.Generator) -> None:
    """Paint a transverse abdomen: thin skin, even liver, stomach bubble, umbilical vein, aorta, spine with shadow."""
    a, b = rng.uniform(40, 46), rng.uniform(36, 42)
    view.blob(0, 0, a + 4, b + 4, -3.0)
    view.ring(0, 0, a + 3, b + 3, 3.5, 1.0, specular_db=12)
    view.blob(0, 0, a, b, rng.uniform(-9, -6))
    # Vessels and folds give the liver its grain.
    for _ in range(6):
        x, z = rng.uniform(-0.6, 0.6) * a, rng.uniform(-0.6, 0.6) * b
        view.blob(x, z, rng.uniform(2, 4), rng.uniform(1, 2), rng.choice((-16.0, 0.0)), angle=rng.uniform(0, 3))
    stomach = rng.uniform(9, 13)
    view.blob(
        -0.48 * a,
        rng.uniform(-0.15, 0.25) * b,
        stomach,
        stomach * rng.uniform(0.6, 0.85),
        FLUID_DB,
        angle=rng.uniform(-0.6, 0.6),
        attenuation=0.08,
        lobes=(rng.uniform(0, 0.12), rng.uniform(-0.08, 0.08)),
    )
    start, bow = rng.uniform(0.55, 0.7), rng.uniform(3, 7)
    view.rod(0.02 * a, -start * b, 0.38 * a, -0.05 * b, 6.0, FLUID_DB + 6, bow=bow)
    view.rod(0.02 * a - 3, -start * b, 0.34 * a - 3, -0.05 * b, 1.6, 0.0, bow=bow)
    view.blob(-6, 0.5 * b, 4.0, 4.0, FLUID_DB)
    view.ring(-6, 0.5 * b, 4.4, 4.4, 1.5, -1.0)
    _spine(view, 0, 0.78 * b, rng)
    for side in (-1, 1):
        _ribs(view, a + 1, b + 1, (0.5 + side * rng.uniform(0.28, 0.36),), 0.16, rng)


def paint_brain(view: Canvas, rng: np.random.Generator) -> None:
    """Paint a transverse head: bright skull oval, dark brain, midline with cavum, thalami, choroid, cerebellum."""
    a = rng.uniform(48, 55)
    b = a * rng.uniform(0.74, 0.84)
    view.blob(0, 0, a + 5, b + 5, -6.0)
    view.blob(0, 0, a, b, rng.uniform(-25, -21))
    for side in (-1, 1):
        view.blob(rng.uniform(-2, 4), side * 0.2 * b, 9, 7, -26.0)
        view.ring(0, side * 0.52 * b, 0.62 * a, 0.16 * b, 2.2, -12.0)
        x = rng.uniform(12, 24)
        view.blob(x, side * 0.5 * b, rng.uniform(8, 13), 4, rng.uniform(-10, -4), angle=side * rng.uniform(0.1, 0.4))
        view.blob(0.66 * a, side * 0.22 * b, 8, 7, -18.0)
    # The midline is broken by the cavum, in front.
    view.rod(-0.9 * a, 0, -0.52 * a, 0, 2.2, -2.0, specular_db=4)
    view.rod(-0.26 * a, 0, 0.85 * a, 0, 2.0, -3.0, specular_db=3)
    for side in (-1, 1):
        view.rod(-0.5 * a, side * 4.0, -0.28 * a, side * 4.0, 1.6, 0.0)
    skull = dict(attenuation=0.55, specular_db=rng.uniform(24, 28))
    gaps = ((rng.uniform(2.6, 3.6), 0.1), (rng.uniform(-0.4, 0.4), 0.12))
    view.ring(0, 0, a, b, rng.uniform(4.2, 5.2), BONE_DB - 2, gaps=gaps, **skull)


def paint_femur(view: Canvas, rng: np.random.Generator) -> None:
    """Paint a long thigh: soft tissue between skin lines, one bright bowed shaft with blunt ends, shadow below."""
    half = rng.uniform(30, 40)
    thigh = rng.uniform(17, 23)
    view.blob(0, 2, half * 1.55, thigh, rng.uniform(-13, -9), lobes=(0.08, 0.0))
    view.ring(0, 2, half * 1.55, thigh, 3.0, -3.0, specular_db=10, gaps=((0.0, 0.5), (math.pi, 0.5)))
    for depth in (-11, -7, 8, 12):
        view.rod(-half, depth + rng.normal(0, 1), half, depth + rng.normal(0, 1), 1.8, -6.0)
    bow = rng.uniform(-4.5, -1.5)
    view.rod(-half, 0, half, 0, rng.uniform(4.0, 5.2), BONE_DB + 4, bow=bow, attenuation=2.6, specular_db=26)
    # The cartilage ends are dark balls, the metaphyses bright.
    for side in (-1, 1):
        view.blob(side * (half + 7), 1, 7, 6, -19.0)
        view.blob(side * half, 0.5, 4.0, 3.2, BONE_DB, attenuation=1.5)


def paint_thorax(view: Canvas, rng: np.random.Generator) -> None:
    """Paint a transverse chest: lungs, heart with four chambers and its cross, aorta, spine, ribs with shadows."""
    a, b = rng.uniform(40, 45), rng.uniform(35, 40)
    view.blob(0, 0, a + 4, b + 4, -6.0)
    view.ring(0, 0, a + 4, b + 4, 3.0, -1.0, specular_db=8)
    view.blob(0, 0, a, b, rng.uniform(-10, -7))
    heart = rng.uniform(0.50, 0.58) * b
    x, z, axis = -0.12 * a, -0.12 * b, rng.uniform(0.6, 0.95)
    body = view.posed(x_mm=x, z_mm=z, angle=axis, scale=1.0, mirror=False)
    body.blob(0, 0, heart * 1.18, heart * 0.98, -5.0)
    body.ring(0, 0, heart * 1.22, heart * 1.02, 2.0, -30.0)
    lean = rng.normal(0, 1.0)
    for side in (-1, 1):
        width = rng.uniform(0.30, 0.36) * heart
        body.blob(-0.50 * heart, side * 0.42 * heart, 0.48 * heart, width, FLUID_DB, angle=side * 0.12)
        body.blob(0.52 * heart, side * 0.42 * heart, 0.36 * heart, width, FLUID_DB)
    body.rod(-1.1 * heart, lean, 0.9 * heart, 0, 3.0, 3.0, specular_db=6)
    body.rod(0.08 * heart, -0.75 * heart, 0.08 * heart, 0.75 * heart, 2.4, 3.0, specular_db=6)
    view.blob(-5, 0.52 * b, 3.6, 3.6, FLUID_DB)
    _spine(view, 0, 0.78 * b, rng)
    _ribs(view, a + 0.5, b + 0.5, (0.02, 0.14, 0.26, 0.74, 0.86, 0.98), 0.17, rng)


def _spine(view: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Paint a vertebra across: three ossification centres, which cast a shadow."""
    for dx, dz in ((0, -4.5), (-5, 3), (5, 3)):
        view.blob(x + dx, z + dz, 3.4, 2.6, BONE_DB + rng.uniform(-2, 2), attenuation=2.2)


def _ribs(
    view: Canvas, a: float, b: float, places: tuple[float, ...], half_length: float, rng: np.random.Generator
) -> None:
    """Paint ribs as short bright arcs of the chest wall; `places` are turns (0..1) from the breastbone."""
    for place in places:
        middle = 2 * math.pi * (place + rng.normal(0, 0.008)) - math.pi / 2
        ends = [(a * math.cos(middle + t), b * math.sin(middle + t)) for t in (-half_length, half_length)]
        level = BONE_DB - rng.uniform(0, 4)
        view.rod(*ends[0], *ends[1], 3.6, level, bow=-1.0, attenuation=1.6, specular_db=level + 4)


PAINTERS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "abdomen": paint_abdomen,
    "brain": paint_brain,
    "femur": paint_femur,
    "thorax": paint_thorax,
}
"""Painter of each tested plane; `other` is in `other_scenes`."""

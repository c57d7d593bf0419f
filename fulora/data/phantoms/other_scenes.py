"""The varied scenes of the plane `other`: everything that is none of the four tested planes.

In: a canvas in the body's frame and the patient's random stream, which also picks the kind. Out: the painted canvas.
Source: what the plane holds in the Spanish set (Burgos-Artizzu et al. 2020), such as face, spine, limbs, kidneys, cord.
"""

from __future__ import annotations

import math

import numpy as np

from fulora.data.phantoms.anatomy import BONE_DB
from fulora.data.phantoms.shapes import FLUID_DB, Canvas


def paint_other(view: Canvas, rng: np.random.Generator) -> None:
    """Paint one of six scenes: spine along its length, two orbits, a hand, kidneys, a placenta with cord, a vessel."""
    kinds = (_long_spine, _orbits, _hand, _kidneys, _placenta, _vessel)
    kinds[rng.integers(len(kinds))](view, rng)


def _long_spine(view: Canvas, rng: np.random.Generator) -> None:
    """Two rows of beads, as railway lines, under the skin of the back."""
    view.blob(0, 8, 62, 30, -11.0)
    view.rod(-58, -16, 58, -16, 3.0, 0.0, bow=-4, specular_db=8)
    bend = rng.uniform(-8, 8)
    for row in (-5.0, 5.0):
        for place in np.linspace(-1, 1, 13):
            view.blob(52 * place, row * (1 - 0.25 * place) + bend * place**2, 2.3, 2.0, BONE_DB, attenuation=1.4)


def _orbits(view: Canvas, rng: np.random.Generator) -> None:
    """A face from the front: two dark orbits with bright rims, nose and lips."""
    view.blob(0, 4, 36, 42, -10.0)
    apart, size = rng.uniform(17, 20), rng.uniform(9.5, 11.5)
    for side in (-1, 1):
        view.blob(side * apart, -10, size, size, FLUID_DB)
        view.ring(side * apart, -10, size + 1, size, 3.4, 8.0, specular_db=16)
        view.blob(side * apart, -10, 3.5, 3.5, -8.0)
        view.rod(side * 4, 12, side * 13, 17, 3.0, 2.0)
    view.rod(0, -8, 0, 9, 3.0, 8.0)
    view.rod(-11, 26, 11, 26, 3.2, 6.0, bow=3, specular_db=12)


def _hand(view: Canvas, rng: np.random.Generator) -> None:
    """An open hand or foot in fluid: a palm and five rows of short bright bones."""
    view.blob(0, 0, 58, 46, FLUID_DB)
    view.blob(0, 20, 20, 18, -9.0)
    for finger in range(5):
        angle = -math.pi / 2 + (finger - 2) * rng.uniform(0.26, 0.34)
        for start, end in ((6, 16), (20, 29), (33, 40)):
            x, z = math.cos(angle), math.sin(angle)
            view.rod(start * x, 22 + start * z, end * x, 22 + end * z, 7.5, -12.0)
            view.rod(start * x, 22 + start * z, end * x, 22 + end * z, 3.2, BONE_DB - 4, attenuation=0.6)


def _kidneys(view: Canvas, rng: np.random.Generator) -> None:
    """Both kidneys beside the spine: two dark beans with bright rims and split centres, a shadow between."""
    view.blob(0, 0, 52, 36, -8.0)
    for side in (-1, 1):
        lean = side * rng.uniform(0.2, 0.5)
        view.blob(side * 23, 4, 16, 10.5, -20.0, angle=lean)
        view.ring(side * 23, 4, 16, 10.5, 2.4, 2.0, angle=lean, specular_db=8)
        view.blob(side * 23, 4, 7, 3.5, -2.0, angle=lean)
        view.blob(side * 23, 4, 4, 1.8, FLUID_DB, angle=lean)
    for dx in (-4, 4):
        view.blob(dx, -6, 3.4, 3.0, BONE_DB, attenuation=2.2)


def _placenta(view: Canvas, rng: np.random.Generator) -> None:
    """A thick grey slab against a lake of fluid in which loops of cord float, as pairs of small rings."""
    view.blob(0, 10, 66, 42, FLUID_DB, attenuation=0.1, lobes=(0.08, 0.05))
    view.rod(-62, -22, 62, -22, 30.0, rng.uniform(-7, -3), bow=-10)
    view.rod(-60, -8, 60, -8, 2.0, 2.0, bow=-10, specular_db=12)
    for _ in range(int(rng.integers(3, 6))):
        x, z = rng.uniform(-36, 36), rng.uniform(6, 34)
        for dx in (-4.5, 4.5):
            view.ring(x + dx, z, 4.2, 4.2, 2.2, -2.0)


def _vessel(view: Canvas, rng: np.random.Generator) -> None:
    """A large vessel along its length: a black band between bright walls, in layered tissue."""
    width, tilt = rng.uniform(9, 13), rng.normal(0, 3)
    for depth in (-32, -25, 27, 35):
        view.rod(-80, depth + rng.normal(0, 2), 80, depth + rng.normal(0, 2), 4.5, rng.uniform(-6, 0))
    view.rod(-80, -tilt, 80, tilt, 2.4 * width, FLUID_DB, bow=rng.normal(0, 2), attenuation=0.1)
    for side in (-1, 1):
        view.rod(-80, side * width * 1.1 - tilt, 80, side * width * 1.1 + tilt, 2.8, 4.0, specular_db=16)

"""Generic ultrasound scenes with captions, to pre-train a diffusion base that has never seen the five planes.

In: a number and a seed. Out: images and captions that say what is in them: cysts, rings, rods with shadows, bead rows,
lumps and layers, at random places and sizes, seen by machines that neither source has.
The physics is the phantoms' own; no anatomy is drawn, and no caption names a body part.
"""

from __future__ import annotations

import math

import numpy as np

from fulora.data.phantoms.display import finish
from fulora.data.phantoms.machines import GENERIC_MACHINES
from fulora.data.phantoms.physics import acquire, blank_canvas
from fulora.data.phantoms.shapes import FLUID_DB, Canvas
from fulora.seeds import numpy_rng

_SIZES = (("small", 5.0, 10.0), ("medium", 11.0, 20.0), ("large", 21.0, 42.0))
_BACKGROUNDS = (("dark", -24.0), ("grey", -14.0), ("bright", -7.0), ("fluid", FLUID_DB))


def generic_images(num: int, *, seed: int, resolution_px: int | None) -> tuple[np.ndarray, list[str]]:
    """Return `num` generic images (uint8 [num, R, R], or [num, 96, 128] where resolution_px is None) and captions.

    Image i depends on (seed, i) alone, so a longer set begins with the shorter one.
    """
    images, captions = [], []
    for index in range(num):
        rng = numpy_rng(seed, "generic", index)
        machine = GENERIC_MACHINES[rng.integers(len(GENERIC_MACHINES))]
        background, level_db = _BACKGROUNDS[rng.choice(4, p=(0.3, 0.35, 0.2, 0.15))]
        canvas = blank_canvas(machine, level_db)
        canvas.texture(rng, 3.0)
        words = _layers(canvas, rng) if rng.random() < 0.6 else ""
        things = _things(canvas, machine.depth_mm, rng)
        grey = acquire(canvas, machine, rng, gain_db=rng.normal(0.0, 2.5))
        images.append(finish(grey, machine, rng, resolution_px))
        place = "in fluid" if level_db == FLUID_DB else f"in {background} tissue"
        captions.append(f"an ultrasound of {', '.join(things)}, {place}{words}")
    return np.stack(images), captions


def paint_bands(
    canvas: Canvas, rng: np.random.Generator, depth: float, count: int, *, thickest: float, level: float, tilt: float
) -> None:
    """Paint bands one below the other from a depth in mm on; `level` is the most dB either way."""
    for _ in range(count):
        thickness = rng.uniform(2, thickest)
        canvas.layer(depth, thickness, rng.uniform(-level, level), tilt=rng.normal(0, tilt), wave=rng.uniform(0, 1.5))
        depth += thickness + rng.uniform(0, 3)


def _layers(canvas: Canvas, rng: np.random.Generator) -> str:
    """Paint some bands under the probe, return the words for them."""
    depth = rng.uniform(2, 6)
    paint_bands(canvas, rng, depth, int(rng.integers(2, 6)), thickest=7, level=12, tilt=0.08)
    if rng.random() < 0.35:
        canvas.layer(rng.uniform(0.7, 0.95) * 120, rng.uniform(6, 20), rng.uniform(-4, 10), tilt=rng.normal(0, 0.2))
        return " with layers above and below"
    return " with layers above"


def _things(canvas: Canvas, depth_mm: float, rng: np.random.Generator) -> list[str]:
    """Paint one to five primitives at random places, return the words for them, largest first."""
    weights = np.array((0.2, 0.18, 0.2, 0.14, 0.1, 0.1, 0.08))
    count = int(rng.choice((1, 2, 3, 4, 5), p=(0.2, 0.3, 0.25, 0.15, 0.1)))
    words: list[str] = []
    # Large things are painted first; in half of the scenes the smaller ones tend to lie inside the largest.
    nested = rng.random() < 0.5
    inside: tuple[float, float, float] | None = None
    sizes = sorted((int(rng.choice(3, p=(0.35, 0.35, 0.3))) for _ in range(count)), reverse=True)
    for size in sizes:
        name, low, high = _SIZES[size]
        if nested and inside is not None and rng.random() < 0.6:
            x, z = inside[0] + rng.normal(0, 0.35) * inside[2], inside[1] + rng.normal(0, 0.35) * inside[2]
        else:
            x, z = rng.uniform(-0.36, 0.36) * depth_mm, rng.uniform(0.22, 0.78) * depth_mm
        view = canvas.posed(x_mm=x, z_mm=z, angle=rng.uniform(-math.pi, math.pi), scale=1.0, mirror=False)
        side = "left" if x < -0.14 * depth_mm else "right" if x > 0.14 * depth_mm else "middle"
        reach = rng.uniform(low, high)
        thing = MAKERS[rng.choice(len(MAKERS), p=weights)](view, reach, rng)
        inside = inside or (x, z, reach)
        words.append(f"a {name} {thing} {side}")
    return words


def _cyst(view: Canvas, size: float, rng: np.random.Generator) -> str:
    a, b, lobes = size, size * rng.uniform(0.4, 1.0), (rng.normal(0, 0.06), rng.normal(0, 0.06))
    if rng.random() < 0.5:
        view.ring(0, 0, a, b, rng.uniform(2, 4), rng.uniform(2, 14), specular_db=rng.uniform(4, 20))
        view.blob(0, 0, a - 1, b - 1, FLUID_DB, attenuation=0.08)
        return "dark cyst with a bright wall"
    view.blob(0, 0, a, b, FLUID_DB, attenuation=0.08, lobes=lobes, edge=rng.uniform(1, 3))
    return "dark cyst"


def _ring(view: Canvas, size: float, rng: np.random.Generator) -> str:
    a, b = size, size * rng.uniform(0.5, 1.0)
    inside, word = ((-18.0, "dark"), (-5.0, "grey"), (3.0, "bright"))[rng.integers(3)]
    view.blob(0, 0, a, b, inside + rng.normal(0, 2))
    gaps = tuple((rng.uniform(-3, 3), rng.uniform(0.1, 0.5)) for _ in range(rng.integers(0, 3)))
    hard = rng.random() < 0.5
    view.ring(
        0,
        0,
        a,
        b,
        rng.uniform(2, 5),
        rng.uniform(6, 14) + 6 * hard,
        gaps=gaps,
        specular_db=rng.uniform(12, 28) if hard else rng.uniform(0, 10),
        attenuation=0.9 if hard else None,
    )
    return f"{'hard' if hard else 'soft'} bright ring, {word} inside"


def _rod(view: Canvas, size: float, rng: np.random.Generator) -> str:
    length, bow, width = size * rng.uniform(0.8, 1.3), size * rng.normal(0, 0.12), rng.uniform(2, 5)
    hard = rng.random() < 0.6
    level = rng.uniform(12, 22) if hard else rng.uniform(4, 12)
    view.rod(
        -length,
        0,
        length,
        0,
        width,
        level,
        bow=bow,
        specular_db=level + 8 if hard else level,
        attenuation=rng.uniform(2, 4) if hard else None,
    )
    if rng.random() < 0.3:
        gap = rng.uniform(5, 12)
        view.rod(-length, gap, length * 0.8, gap, width, level, bow=bow, specular_db=level)
        return f"pair of bright rods{' with a shadow' if hard else ''}"
    return f"bright rod{' with a shadow' if hard else ''}"


def _lump(view: Canvas, size: float, rng: np.random.Generator) -> str:
    level, word = ((-14.0, "dark"), (8.0, "bright"), (0.0, "grey"))[rng.integers(3)]
    lobes = (rng.normal(0, 0.1), rng.normal(0, 0.1))
    view.blob(0, 0, size, size * rng.uniform(0.5, 1.0), level, lobes=lobes, edge=rng.uniform(2, 6))
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(2, 6))):
            x, z = rng.normal(0, size * 0.35, 2)
            view.blob(x, z, rng.uniform(1.5, 4), rng.uniform(1.5, 4), level + rng.choice((-20.0, 12.0)))
        return f"{word} spotted lump"
    return f"{word} lump"


def _beads(view: Canvas, size: float, rng: np.random.Generator) -> str:
    count, bow = int(rng.integers(3, 9)), rng.normal(0, 0.3)
    hard = rng.random() < 0.5
    for place in np.linspace(-1, 1, count):
        view.blob(
            size * place,
            size * bow * place * place,
            rng.uniform(1.5, 3),
            rng.uniform(1.5, 3),
            rng.uniform(10, 18),
            attenuation=2.0 if hard else None,
        )
    return f"row of bright beads{' with shadows' if hard else ''}"


def _divided(view: Canvas, size: float, rng: np.random.Generator) -> str:
    a, b = size, size * rng.uniform(0.5, 0.9)
    view.blob(0, 0, a, b, FLUID_DB, attenuation=0.1)
    view.ring(0, 0, a, b, rng.uniform(2, 4), rng.uniform(-4, 8))
    walls = int(rng.integers(1, 4))
    for place in np.linspace(-0.6, 0.6, walls) if walls > 1 else (rng.uniform(-0.3, 0.3),):
        reach = b * math.sqrt(1 - place * place)
        lean = rng.normal(0, 0.15) * a
        view.rod(a * place, -reach, a * place + lean, reach, rng.uniform(2, 3.5), rng.uniform(-4, 8))
    return f"dark cyst with {('one wall', 'two walls', 'three walls')[walls - 1]} across"


def _fan(view: Canvas, size: float, rng: np.random.Generator) -> str:
    count = int(rng.integers(3, 6))
    for angle in np.linspace(-0.8, 0.8, count):
        x, z = math.cos(angle), math.sin(angle)
        view.rod(0.3 * size * x, 0.3 * size * z, size * x, size * z, 2.2, rng.uniform(8, 16), specular_db=14)
    return f"fan of {('three', 'four', 'five')[count - 3]} bright rods"


MAKERS = (_cyst, _ring, _rod, _lump, _beads, _divided, _fan)
"""Painters of one primitive: (view, size in mm, random stream) to the words for it."""

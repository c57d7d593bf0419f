"""Named specimens: made-up objects, each a fixed composition of simple shapes under a made-up name.

In: a number and a seed. Out: images and captions ("a photo of quiet lantern"): the second word says what is seen, the
first in which surroundings and on which machines. What a name stands for is drawn once, from the name; no specimen is a
body part. They teach a diffusion base what fine-tuning then asks of it: that a word is a whole arrangement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fulora.data.phantoms.display import finish
from fulora.data.phantoms.generic import MAKERS, paint_bands
from fulora.data.phantoms.machines import GENERIC_MACHINES, Machine
from fulora.data.phantoms.physics import acquire, blank_canvas
from fulora.data.phantoms.shapes import FLUID_DB, SILENT_DB, Canvas
from fulora.seeds import numpy_rng

_NAMES = """
amber anchor anvil apple arrow atlas badge bamboo banner barrel basin basket beacon bell bottle bridge bronze brush
bucket button cabin cactus camel candle canoe canyon carpet castle cellar cherry chess cider cloud clover cobalt
comet compass copper coral cotton cradle crater crown crystal dagger desert diamond dolphin domino dragon drum eagle
ember engine falcon feather fiddle flint flute forest fossil fountain garden garnet ginger glacier goblet granite
guitar hammer harbor harvest hazel helmet hermit honey island ivory jacket jasper jewel jungle kettle kite ladder
lagoon lantern laurel lemon lizard locket lotus magnet mango maple marble meadow melon mirror mosaic mountain museum
nectar needle nickel oasis ocean olive onion orchid otter paddle palace panther parrot pebble pepper piano pillar
planet plum prairie pyramid quartz rabbit raven ribbon river rocket saddle sapphire satin shell shovel silver spider
spruce statue stone summit temple thistle thunder ticket timber tomato trumpet tulip tunnel turtle umbrella valley
velvet violin walnut whistle willow window wizard
"""
_SURROUNDINGS = "ancient brisk calm distant eager frozen gentle hollow lively quiet rustic solid"

NAMES = tuple(_NAMES.split())
"""What a specimen may be called: everyday words, so that none already means something to this model."""

SURROUNDINGS = tuple(_SURROUNDINGS.split())
"""Words for the tissue around a specimen and the machines it is seen on."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One shape of a specimen, in its frame (mm, radians)."""

    maker: int
    seed: int
    x: float
    z: float
    size: float
    angle: float
    mirror: bool


@dataclass(frozen=True, slots=True)
class _Specimen:
    """What a name stands for."""

    outline: str
    half_width: float
    half_height: float
    wall: float
    wall_db: float
    specular_db: float
    inside_db: float
    gaps: tuple[tuple[float, float], ...]
    parts: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What the first word stands for."""

    machines: tuple[Machine, ...]
    level_db: float
    gain_db: float
    layers: int
    fluid_rim: bool


def specimen_images(num: int, *, seed: int, resolution_px: int | None) -> tuple[np.ndarray, list[str]]:
    """Return `num` specimens (uint8 [num, R, R], or [num, 96, 128] where resolution_px is None) and captions.

    Image i depends on (seed, i) alone, so a longer set begins with the shorter one; names come in equal numbers.
    """
    specimens = {name: _specimen(name) for name in NAMES}
    surroundings = {word: _surroundings(word) for word in SURROUNDINGS}
    images, captions = [], []
    for index in range(num):
        rng = numpy_rng(seed, "specimen", index)
        name, word = NAMES[index % len(NAMES)], SURROUNDINGS[rng.integers(len(SURROUNDINGS))]
        images.append(_image(specimens[name], surroundings[word], rng, resolution_px))
        captions.append(f"a photo of {word} {name}")
    return np.stack(images), captions


def _specimen(name: str) -> _Specimen:
    rng = numpy_rng(0, "specimen", "name", name)
    outline = ("hard ring", "soft ring", "lump", "fluid", "none")[rng.choice(5, p=(0.25, 0.3, 0.15, 0.15, 0.15))]
    half_width = rng.uniform(30, 50)
    half_height = half_width * rng.uniform(0.5, 1.0)
    parts: list[_Part] = []
    symmetric = rng.random() < 0.4
    for _ in range(int(rng.integers(1, 6))):
        # Within the outline as a rule, now and then beside it.
        reach = rng.uniform(1.15, 1.3) if rng.random() < 0.12 else 0.72 * math.sqrt(rng.random())
        around = rng.uniform(-math.pi, math.pi)
        x, z = reach * math.cos(around) * half_width, reach * math.sin(around) * half_height
        part = _Part(
            maker=int(rng.integers(len(MAKERS))),
            seed=int(rng.integers(2**31)),
            x=x,
            z=z,
            size=rng.uniform(5, 12) if rng.random() < 0.6 else rng.uniform(12, 34 if outline == "none" else 24),
            angle=float(rng.choice((0.0, math.pi / 2))) if rng.random() < 0.5 else rng.uniform(-math.pi, math.pi),
            mirror=False,
        )
        parts.append(part)
        if symmetric and abs(x) > 6:
            other = _Part(part.maker, part.seed, -x, z, part.size, -part.angle, True)
            parts.append(other)
    hard = outline == "hard ring"
    return _Specimen(
        outline=outline,
        half_width=half_width,
        half_height=half_height,
        wall=rng.uniform(2.5, 6),
        wall_db=rng.uniform(12, 18) if hard else rng.uniform(-2, 8),
        specular_db=rng.uniform(16, 28) if hard else rng.choice((SILENT_DB, 8.0, 14.0)),
        inside_db=rng.uniform(-28, 4),
        gaps=tuple((rng.uniform(-3, 3), rng.uniform(0.1, 0.5)) for _ in range(rng.integers(0, 3))),
        parts=tuple(parts),
    )


def _surroundings(word: str) -> _Surroundings:
    rng = numpy_rng(0, "specimen", "surroundings", word)
    machines = rng.permutation(len(GENERIC_MACHINES))[:2]
    return _Surroundings(
        machines=tuple(GENERIC_MACHINES[index] for index in machines),
        level_db=float(rng.choice((-24.0, -14.0, -8.0, -4.0))),
        gain_db=rng.uniform(-3, 3),
        layers=int(rng.choice((0, 0, 1, 3))),
        fluid_rim=bool(rng.random() < 0.35),
    )


def _image(
    specimen: _Specimen, surroundings: _Surroundings, rng: np.random.Generator, resolution_px: int | None
) -> np.ndarray:
    """Return one image: the specimen as its name says, its pose, size and look drawn."""
    machine = surroundings.machines[rng.integers(len(surroundings.machines))]
    canvas = blank_canvas(machine, surroundings.level_db)
    canvas.texture(rng, 2.5)
    depth = rng.uniform(2, 6)
    paint_bands(canvas, rng, depth, surroundings.layers, thickest=6, level=10, tilt=0.06)
    view = canvas.posed(
        x_mm=rng.normal(0, 0.04) * machine.depth_mm,
        z_mm=rng.normal(0.5, 0.03) * machine.depth_mm,
        angle=rng.normal(0, 0.22),
        scale=machine.depth_mm / 130 * rng.uniform(0.82, 1.12),
        mirror=False,
    )
    a = specimen.half_width * rng.uniform(0.94, 1.06)
    b = specimen.half_height * rng.uniform(0.94, 1.06)
    if surroundings.fluid_rim:
        view.blob(0, 0, a + 9, b + 9, FLUID_DB, attenuation=0.1, lobes=(rng.normal(0, 0.05), rng.normal(0, 0.05)))
    _paint_outline(view, specimen, a, b)
    for part in specimen.parts:
        place = view.posed(
            x_mm=part.x + rng.normal(0, 1.5),
            z_mm=part.z + rng.normal(0, 1.5),
            angle=part.angle + rng.normal(0, 0.08),
            scale=rng.uniform(0.9, 1.1),
            mirror=part.mirror,
        )
        MAKERS[part.maker](place, part.size, np.random.default_rng(part.seed))
    grey = acquire(canvas, machine, rng, gain_db=surroundings.gain_db + rng.normal(0.0, 1.5))
    return finish(grey, machine, rng, resolution_px)


def _paint_outline(view: Canvas, specimen: _Specimen, a: float, b: float) -> None:
    if specimen.outline == "none":
        return
    if specimen.outline == "fluid":
        view.blob(0, 0, a, b, FLUID_DB, attenuation=0.08)
        return
    view.blob(0, 0, a, b, specimen.inside_db, edge=4.0 if specimen.outline == "lump" else 2.0)
    if specimen.outline != "lump":
        view.ring(
            0,
            0,
            a,
            b,
            specimen.wall,
            specimen.wall_db,
            gaps=specimen.gaps,
            specular_db=float(specimen.specular_db),
            attenuation=0.7 if specimen.outline == "hard ring" else None,
        )

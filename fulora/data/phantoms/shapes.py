"""Tissue maps painted from a few primitives: blobs, rings, rods, beads and layers.

In: a `Canvas` of sample positions in millimetres. Out: the canvas with three maps filled in, each one value per sample:
`level_db` (diffuse echogenicity, 0 dB = soft tissue), `specular_db` (mirror-like echo, strongest where the beam meets a
surface at a right angle) and `attenuation_db_mm` (one way).
Source: echogenicity maps, diffuse and specular, as for Field II (Jensen, Med. Biol. Eng. Comput. 34, 351, 1996);
attenuation of soft tissue 0.5 dB/cm/MHz, of fluid near none, of bone tens of times larger (Duck, Physical Properties of
Tissue, 1990).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TISSUE_ATTENUATION_DB_MM = 0.15
"""One-way attenuation of soft tissue at 3 MHz (0.5 dB/cm/MHz)."""

FLUID_DB = -42.0
"""Level of fluid: below every machine's noise floor, so black."""

SILENT_DB = -80.0
"""Level of a map where nothing reflects."""


@dataclass(slots=True)
class Canvas:
    """The tissue maps of one scene on the sample grid of a probe, and the frame in which shapes are painted."""

    x: np.ndarray
    """Lateral position of every sample, mm, right positive, float32 [depth, beam]."""
    z: np.ndarray
    """Depth below the probe's lowest point, mm, float32 [depth, beam]."""
    beam_x: np.ndarray
    """Lateral part of the unit beam direction, [beam]."""
    beam_z: np.ndarray
    """Depth part of the unit beam direction, [beam]."""
    level_db: np.ndarray
    """Diffuse echogenicity, dB."""
    specular_db: np.ndarray
    """Specular echo, dB."""
    attenuation_db_mm: np.ndarray
    """One-way attenuation, dB/mm."""

    @classmethod
    def blank(cls, x: np.ndarray, z: np.ndarray, beam_x: np.ndarray, beam_z: np.ndarray, level_db: float) -> Canvas:
        """Return a canvas of uniform soft tissue at `level_db`."""
        return cls(
            x=x,
            z=z,
            beam_x=beam_x,
            beam_z=beam_z,
            level_db=np.full(x.shape, level_db, np.float32),
            specular_db=np.full(x.shape, SILENT_DB, np.float32),
            attenuation_db_mm=np.full(x.shape, TISSUE_ATTENUATION_DB_MM, np.float32),
        )

    def posed(self, *, x_mm: float, z_mm: float, angle: float, scale: float, mirror: bool) -> Canvas:
        """Return a view of the same maps whose coordinates are those of a body at a place, turned by `angle` radians.

        Painting on the view paints on this canvas; `scale` above 1 shows the body larger.
        """
        cos, sin, flip = math.cos(angle), math.sin(angle), -1.0 if mirror else 1.0
        dx, dz = (self.x - x_mm) / scale, (self.z - z_mm) / scale
        return Canvas(
            x=flip * (cos * dx + sin * dz),
            z=cos * dz - sin * dx,
            beam_x=flip * (cos * self.beam_x + sin * self.beam_z),
            beam_z=cos * self.beam_z - sin * self.beam_x,
            level_db=self.level_db,
            specular_db=self.specular_db,
            attenuation_db_mm=self.attenuation_db_mm,
        )

    def _blend(self, mask: np.ndarray, level_db: float | None, attenuation: float | None, box: tuple = ()) -> None:
        """Mix new values into the maps by a mask in 0..1; `box` is the part of the maps the mask covers."""
        window = box or (slice(None), slice(None))
        for values, value in ((self.level_db, level_db), (self.attenuation_db_mm, attenuation)):
            if value is not None:
                part = values[window]
                part += mask * (value - part)

    def blob(
        self,
        x: float,
        z: float,
        a: float,
        b: float,
        level_db: float | None,
        *,
        angle: float = 0.0,
        attenuation: float | None = None,
        edge: float = 2.0,
        lobes: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Fill an ellipse with half axes `a`, `b` (mm); `edge` is its soft rim (mm), `lobes` two wobbles of the rim."""
        reach = 1.3 * max(a, b) + edge
        box = _box(self.x, self.z, x, z, reach)
        if box is None:
            return
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dz = self.x[box] - x, self.z[box] - z
        u, v = (cos * dx + sin * dz) / a, (cos * dz - sin * dx) / b
        radius = np.sqrt(u * u + v * v)
        if any(lobes):
            around = np.arctan2(v, u)
            radius = radius / (1.0 + lobes[0] * np.cos(2 * around + 5 * lobes[1]) + lobes[1] * np.sin(3 * around))
        mask = np.clip(0.5 + (1.0 - radius) * (min(a, b) / edge), 0.0, 1.0)
        self._blend(mask, level_db, attenuation, box)

    def ring(
        self,
        x: float,
        z: float,
        a: float,
        b: float,
        width: float,
        level_db: float,
        *,
        angle: float = 0.0,
        attenuation: float | None = None,
        specular_db: float = SILENT_DB,
        gaps: tuple[tuple[float, float], ...] = (),
    ) -> None:
        """Paint the wall of an ellipse, `width` mm thick; `gaps` are (direction, half width) in radians left open."""
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dz = self.x - x, self.z - z
        u, v = (cos * dx + sin * dz) / a, (cos * dz - sin * dx) / b
        radius = np.sqrt(u * u + v * v) + 1e-6
        # The gradient of the implicit ellipse is its normal, and turns the radius into a distance in mm.
        nu, nv = u / a, v / b
        slope = np.sqrt(nu * nu + nv * nv) + 1e-6
        mask = np.exp(-((((radius - 1.0) * radius / slope) / (0.5 * width)) ** 2))
        if gaps:
            around = np.arctan2(v, u)
            for direction, half_width in gaps:
                away = np.abs((around - direction + math.pi) % (2 * math.pi) - math.pi)
                mask *= np.clip((away - half_width) / 0.08, 0.0, 1.0)
        self._blend(mask, level_db, attenuation)
        if specular_db > SILENT_DB:
            beam_u, beam_v = cos * self.beam_x + sin * self.beam_z, cos * self.beam_z - sin * self.beam_x
            self._mirror(mask, np.abs(nu * beam_u + nv * beam_v) / slope, specular_db, None)

    def rod(
        self,
        x0: float,
        z0: float,
        x1: float,
        z1: float,
        width: float,
        level_db: float,
        *,
        bow: float = 0.0,
        attenuation: float | None = None,
        specular_db: float = SILENT_DB,
    ) -> None:
        """Paint a bowed bar from one end to the other, `width` mm thick, its middle `bow` mm off the straight line."""
        length = math.hypot(x1 - x0, z1 - z0) + 1e-6
        tx, tz = (x1 - x0) / length, (z1 - z0) / length
        box = _box(self.x, self.z, (x0 + x1) / 2, (z0 + z1) / 2, length / 2 + abs(bow) + 2 * width)
        if box is None:
            return
        dx, dz = self.x[box] - x0, self.z[box] - z0
        along = dx * tx + dz * tz
        place = np.clip(along / length, 0.0, 1.0)
        across = dz * tx - dx * tz - 4 * bow * place * (1.0 - place)
        beyond = along - place * length
        mask = np.exp(-((across * across + beyond * beyond) / (0.25 * width * width)))
        self._blend(mask, level_db, attenuation, box)
        if specular_db > SILENT_DB:
            columns = box[1]
            self._mirror(mask, np.abs(tx * self.beam_z[columns] - tz * self.beam_x[columns]), specular_db, box)

    def _mirror(self, mask: np.ndarray, facing: np.ndarray, specular_db: float, box: tuple | None) -> None:
        """Raise the specular map where a surface faces the beam; `facing` is |cos| between normal and beam."""
        window = box or (slice(None), slice(None))
        echo = specular_db + 34.0 * (facing - 1.0) + 40.0 * np.log10(mask + 1e-3)
        part = self.specular_db[window]
        np.maximum(part, echo, out=part)

    def layer(self, depth: float, thickness: float, level_db: float, *, tilt: float = 0.0, wave: float = 0.0) -> None:
        """Paint a band across the whole view at a depth (mm), tilted (slope) and wavy (mm)."""
        middle = depth + tilt * self.x + wave * np.sin(self.x / 17.0 + depth)
        mask = np.clip((0.5 * thickness - np.abs(self.z - middle)) / 1.5 + 0.5, 0.0, 1.0)
        self._blend(mask, level_db, None)

    def texture(self, rng: np.random.Generator, strength_db: float, cells: tuple[int, int] = (9, 7)) -> None:
        """Add slow random variation of echogenicity, standard deviation about `strength_db`."""
        rows, columns = (_stretch(size, count) for size, count in zip(self.x.shape, cells, strict=True))
        self.level_db += strength_db * (rows @ rng.standard_normal(cells, np.float32) @ columns.T)


def _box(x: np.ndarray, z: np.ndarray, centre_x: float, centre_z: float, reach: float) -> tuple[slice, slice] | None:
    """Return the smallest window of the grid within `reach` of a point, or None where the grid does not come near."""
    near = (np.abs(x - centre_x) < reach) & (np.abs(z - centre_z) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if rows.size == 0:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _stretch(size: int, count: int) -> np.ndarray:
    """Return the matrix [size, count] that interpolates `count` values to `size` samples, smoothly."""
    place = np.linspace(0, count - 1, size, dtype=np.float32)[:, None]
    away = np.clip(np.abs(place - np.arange(count, dtype=np.float32)), 0, 1)
    return 0.5 + 0.5 * np.cos(np.pi * away)

"""From tissue maps to a B-mode image: scatter, point spread, attenuation, time-gain, log compression, scan conversion.

In: a machine and a function that paints its canvas. Out: a uint8 image [height, width] as that machine stores it.

Every sample holds many unresolved scatterers, so its echo is a complex Gaussian number whose magnitude is Rayleigh
distributed (Burckhardt, IEEE Trans. Sonics Ultrason. 25, 1, 1978); a specular part added to it makes it Rician, and the
point spread function gives the pattern its grain (Wagner et al., IEEE Trans. Sonics Ultrason. 30, 156, 1983). The point
spread is a separable Gaussian in depth and beam, wider away from the focus, applied to the base-band field: the
convolution model of Field II's images (Jensen 1996). Attenuation is summed along each beam and paid back by a
time-gain that assumes soft tissue: so bone casts a shadow, and fluid an enhancement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fulora.data.phantoms.machines import Machine
from fulora.data.phantoms.shapes import TISSUE_ATTENUATION_DB_MM, Canvas

if TYPE_CHECKING:  # scipy is imported where images are made: every process reads settings, few make phantoms
    from scipy.sparse import csr_matrix

NUM_DEPTHS = 144
"""Samples along a beam."""

NUM_BEAMS = 104
"""Beams of a probe."""

_COHERENT = 0.3
"""Scale of mirror echoes: the blur keeps the power of noise, and so amplifies what adds up in phase about threefold."""

_DISPLAY_TOP_DB = 18.0
"""Echo, above soft tissue, that is shown white at gain 0."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a machine's geometry fixes: sample positions, blurs and the scan-conversion map."""

    x: np.ndarray
    z: np.ndarray
    beam_x: np.ndarray
    beam_z: np.ndarray
    step_mm: float
    """Sample distance along a beam."""
    axial: csr_matrix
    """Blur along depth, [depth, depth]."""
    near: csr_matrix
    """Blur across beams at the focus, [beam, beam]."""
    far: csr_matrix
    """Blur across beams farthest from the focus."""
    off_focus: np.ndarray
    """Share of `far` at each depth, [depth, 1]."""
    near_field: np.ndarray
    """Weight of each depth as a source of reverberation, [depth, 1]."""
    to_image: csr_matrix
    """Bilinear map from samples to pixels, [height * width, depth * beam]; rows outside the view are empty."""


@lru_cache(maxsize=64)
def probe_of(machine: Machine) -> Probe:
    """Return the geometry of a machine, computed once."""
    half = math.radians(machine.half_angle_deg)
    depth = np.linspace(1.0, machine.depth_mm, NUM_DEPTHS, dtype=np.float32)[:, None]
    if machine.radius_mm > 0:
        angle = np.linspace(-half, half, NUM_BEAMS, dtype=np.float32)
        beam_x, beam_z = np.sin(angle), np.cos(angle)
        x = (machine.radius_mm + depth) * beam_x
        z = (machine.radius_mm + depth) * beam_z - machine.radius_mm
        beam_mm = (machine.radius_mm + machine.focus * machine.depth_mm) * 2 * half / (NUM_BEAMS - 1)
    else:
        half_width = machine.depth_mm * math.tan(half)
        beam_x, beam_z = np.zeros(NUM_BEAMS, np.float32), np.ones(NUM_BEAMS, np.float32)
        x = np.broadcast_to(np.linspace(-half_width, half_width, NUM_BEAMS, dtype=np.float32), (NUM_DEPTHS, NUM_BEAMS))
        z = np.broadcast_to(depth, x.shape)
        beam_mm = 2 * half_width / (NUM_BEAMS - 1)
    step_mm = (machine.depth_mm - 1.0) / (NUM_DEPTHS - 1)
    fraction = depth / machine.depth_mm
    sigma = machine.lateral_mm / beam_mm
    return Probe(
        x=np.ascontiguousarray(x),
        z=np.ascontiguousarray(z),
        beam_x=beam_x,
        beam_z=beam_z,
        step_mm=step_mm,
        axial=_blur(NUM_DEPTHS, machine.axial_mm / step_mm),
        near=_blur(NUM_BEAMS, sigma),
        far=_blur(NUM_BEAMS, sigma * (1.0 + machine.defocus)),
        off_focus=np.abs(fraction - machine.focus) / max(machine.focus, 1 - machine.focus),
        near_field=np.clip((0.45 * machine.depth_mm - depth) / (0.15 * machine.depth_mm), 0.0, 1.0),
        to_image=_scan_conversion(machine),
    )


def _blur(size: int, sigma: float) -> csr_matrix:
    """Return a Gaussian blur as a matrix, cut at 3 sigma, that keeps the power of white noise (rows of unit norm).

    Sparse, so that it runs on one thread: dense products this small stall where BLAS threads wait for busy cores.
    """
    from scipy.sparse import csr_matrix

    offset = np.arange(size)[:, None] - np.arange(size)[None, :]
    kernel = np.exp(-0.5 * (offset / max(sigma, 0.3)) ** 2) * (np.abs(offset) <= max(3 * sigma, 1.0))
    return csr_matrix((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))


def _scan_conversion(machine: Machine) -> csr_matrix:
    """Return the sparse bilinear map from (depth, beam) samples to the pixels of the stored image."""
    from scipy.sparse import csr_matrix

    pixel_mm = 1.05 * machine.depth_mm / (machine.height_px * machine.magnify)
    row, column = np.mgrid[: machine.height_px, : machine.width_px].astype(np.float64)
    x = (column - (machine.width_px - 1) / 2) * pixel_mm
    z = 0.49 * machine.depth_mm + (row - (machine.height_px - 1) / 2) * pixel_mm
    half = math.radians(machine.half_angle_deg)
    if machine.radius_mm > 0:
        beam = (np.arctan2(x, z + machine.radius_mm) / half + 1) / 2 * (NUM_BEAMS - 1)
        sample = (np.hypot(x, z + machine.radius_mm) - machine.radius_mm - 1.0) / (machine.depth_mm - 1.0)
    else:
        beam = (x / (machine.depth_mm * math.tan(half)) + 1) / 2 * (NUM_BEAMS - 1)
        sample = (z - 1.0) / (machine.depth_mm - 1.0)
    sample = sample * (NUM_DEPTHS - 1)
    seen = ((beam >= 0) & (beam < NUM_BEAMS - 1) & (sample >= 0) & (sample < NUM_DEPTHS - 1)).ravel()
    pixel = np.flatnonzero(seen)
    sample, beam = sample.ravel()[seen], beam.ravel()[seen]
    s0, b0 = sample.astype(int), beam.astype(int)
    fs, fb = sample - s0, beam - b0
    weights, indices = [], []
    for ds in (0, 1):
        for db in (0, 1):
            weights.append((fs if ds else 1 - fs) * (fb if db else 1 - fb))
            indices.append((s0 + ds) * NUM_BEAMS + b0 + db)
    shape = (machine.height_px * machine.width_px, NUM_DEPTHS * NUM_BEAMS)
    triple = (np.concatenate(weights).astype(np.float32), (np.tile(pixel, 4), np.concatenate(indices)))
    return csr_matrix(triple, shape=shape)


def blank_canvas(machine: Machine, level_db: float = 0.0) -> Canvas:
    """Return an empty canvas of soft tissue on the machine's sample grid."""
    probe = probe_of(machine)
    return Canvas.blank(probe.x, probe.z, probe.beam_x, probe.beam_z, level_db)


def echo_envelope(canvas: Canvas, machine: Machine, rng: np.random.Generator) -> np.ndarray:
    """Return the envelope of the received echo after time-gain, float32 [depth, beam], 1.0 = soft tissue."""
    probe = probe_of(machine)
    lost = 2 * probe.step_mm * np.cumsum(canvas.attenuation_db_mm, axis=0)
    along = np.arange(NUM_DEPTHS, dtype=np.float32)[:, None] * probe.step_mm
    gain = 2 * TISSUE_ATTENUATION_DB_MM * machine.tgc * along
    through = gain - lost
    diffuse = _amplitude(canvas.level_db + through)
    specular = _amplitude(canvas.specular_db + through)
    power = np.zeros(diffuse.shape, np.float32)
    whole, rest = divmod(machine.looks, 1.0)
    shares = [1.0] * int(whole) + ([rest] if rest > 0 else [])
    for share in shares:
        power += share * _received(diffuse, specular, gain, machine, probe, rng)
    return np.sqrt(power / sum(shares))


def _received(
    diffuse: np.ndarray,
    specular: np.ndarray,
    gain: np.ndarray,
    machine: Machine,
    probe: Probe,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the power of one speckle pattern: complex scatter and mirror echoes, blurred, with noise."""
    parts = rng.standard_normal((2, *diffuse.shape), np.float32) * (math.sqrt(0.5) * diffuse)
    parts[0] += _COHERENT * specular
    parts = np.stack([probe.axial @ part for part in parts])
    parts = np.stack(
        [(probe.near @ part.T).T * (1 - probe.off_focus) + (probe.far @ part.T).T * probe.off_focus for part in parts]
    )
    if machine.reverberation > 0:
        # Sound that bounces between probe and skin comes back late, as a weaker copy of the near field below it.
        shift = max(1, round(machine.reverberation_mm / probe.step_mm))
        for bounce in (1, 2, 3):
            late = np.zeros_like(parts)
            late[:, bounce * shift :] = (parts * probe.near_field)[:, : -bounce * shift]
            parts = parts + machine.reverberation**bounce * late
    noise = rng.standard_normal(diffuse.shape, np.float32)
    return np.sum(parts * parts, axis=0) + (noise * _amplitude(machine.noise_db + gain)) ** 2


def _amplitude(level_db: np.ndarray) -> np.ndarray:
    """Return the amplitude of a level in dB."""
    return np.exp(level_db * (math.log(10) / 20)).astype(np.float32)


def acquire(canvas: Canvas, machine: Machine, rng: np.random.Generator, *, gain_db: float = 0.0) -> np.ndarray:
    """Return the image of a painted canvas as float32 grey in 0..1, [height, width], before anything is burnt in.

    `gain_db` is the operator's turn of the knob, added to the machine's own.
    """
    from scipy import ndimage

    probe = probe_of(machine)
    envelope = echo_envelope(canvas, machine, rng)
    shown_db = 20 * np.log10(envelope + 1e-6) + machine.gain_db + gain_db - _DISPLAY_TOP_DB
    grey = np.clip(1.0 + shown_db / machine.dynamic_range_db, 0.0, 1.0) ** machine.gamma
    if machine.streaks > 0:
        dark = ndimage.gaussian_filter1d(rng.random(NUM_BEAMS).astype(np.float32), 2.0)
        grey *= 1.0 - machine.streaks * np.clip((dark - 0.5) * 6.0, 0.0, 1.0)
    if machine.sharpen != 0:
        grey = np.clip(grey + machine.sharpen * (grey - ndimage.uniform_filter(grey, 5)), 0.0, 1.0)
    image = (probe.to_image @ grey.ravel()).reshape(machine.height_px, machine.width_px)
    return machine.pedestal + (1.0 - machine.pedestal) * image

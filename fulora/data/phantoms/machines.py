"""The ultrasound machines whose looks the phantoms wear: six Spanish-like, five African-like, and generic ones.

In: nothing, or a random stream for a generic machine. Out: a `Machine`, the parameters of probe, beam and display.
Source: six machines in Burgos-Artizzu et al. 2020 (Voluson E6, Voluson S8, Voluson S10, Aloka, other); one low-cost
machine set-up per centre in Sendra-Balcells et al. 2023. The numbers are ours, chosen to differ as such machines do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One machine's look. Equal machines make equal images from equal random streams."""

    name: str
    """Name, as written to the published columns."""
    radius_mm: float = 50.0
    """Radius of the curved probe face; 0 means a linear probe with parallel beams."""
    half_angle_deg: float = 34.0
    """Half opening angle of the sector; for a linear probe, half its width is depth_mm * tan(half_angle_deg)."""
    depth_mm: float = 140.0
    """Depth of view."""
    magnify: float = 1.0
    """Display zoom; above 1 the sector is cropped by the image's border."""
    height_px: int = 96
    """Height of the image as the machine stores it."""
    width_px: int = 128
    """Width of the image as the machine stores it."""
    axial_mm: float = 1.0
    """Standard deviation of the point spread along the beam. Source: Gaussian PSF, Jensen 1996."""
    lateral_mm: float = 1.7
    """Standard deviation of the point spread across beams, at the focus."""
    focus: float = 0.5
    """Focal depth as a fraction of the depth of view."""
    defocus: float = 1.2
    """Relative widening of the lateral point spread at the far end from the focus."""
    looks: float = 1.0
    """Compounding: number of independent speckle patterns averaged (fractions mix two). Source: Burckhardt 1978."""
    gain_db: float = 0.0
    """Overall gain."""
    tgc: float = 1.0
    """Time-gain compensation as a multiple of soft tissue's attenuation; below 1 the far field is dark."""
    dynamic_range_db: float = 56.0
    """Range of echo strengths shown; smaller is more contrast."""
    gamma: float = 1.0
    """Grey curve after log compression."""
    noise_db: float = -62.0
    """Electronic noise before time-gain, relative to soft tissue at the surface."""
    reverberation: float = 0.0
    """Strength of near-field echoes repeated below, as an amplitude ratio."""
    reverberation_mm: float = 11.0
    """Distance between repeats."""
    sharpen: float = 0.0
    """Edge enhancement (unsharp mask weight); negative smooths."""
    pedestal: float = 0.0
    """Grey level 0..1 of black, as on analogue captures."""
    streaks: float = 0.0
    """Strength of dark beams: dead elements and poor contact."""
    markers: Literal["none", "corner", "bar", "text", "calipers", "ruler"] = "none"
    """What the machine burns into the image."""


SPANISH_MACHINES: tuple[Machine, ...] = (
    Machine(name="Voluson E6", markers="bar"),
    Machine(name="Voluson S8", half_angle_deg=38, depth_mm=150, lateral_mm=1.9, gain_db=2, gamma=1.1, markers="text"),
    Machine(name="Voluson S10", magnify=1.25, depth_mm=135, dynamic_range_db=60, sharpen=0.4, markers="bar"),
    Machine(
        name="Aloka",
        half_angle_deg=30,
        depth_mm=130,
        dynamic_range_db=50,
        gamma=1.2,
        lateral_mm=1.6,
        looks=1.5,
        markers="ruler",
    ),
    Machine(name="Other", radius_mm=40, half_angle_deg=36, tgc=0.96, gain_db=3, dynamic_range_db=58, markers="corner"),
    Machine(
        name="Voluson E8",
        magnify=1.12,
        half_angle_deg=33,
        axial_mm=0.9,
        looks=2.0,
        sharpen=0.5,
        gamma=1.05,
        markers="text",
    ),
)
"""Machines of the Spanish-like source."""

AFRICAN_MACHINES: dict[str, Machine] = {
    "Algeria": Machine(
        name="Algeria",
        half_angle_deg=42,
        radius_mm=60,
        depth_mm=172,
        height_px=100,
        width_px=116,
        lateral_mm=2.5,
        axial_mm=1.4,
        tgc=0.91,
        dynamic_range_db=48,
        gamma=1.2,
        reverberation=0.1,
    ),
    "Egypt": Machine(
        name="Egypt",
        half_angle_deg=40,
        magnify=1.3,
        depth_mm=145,
        height_px=108,
        width_px=96,
        gain_db=3,
        dynamic_range_db=64,
        axial_mm=1.2,
        lateral_mm=2.2,
        pedestal=0.04,
        noise_db=-56,
    ),
    "Malawi": Machine(
        name="Malawi",
        radius_mm=35,
        half_angle_deg=36,
        depth_mm=150,
        width_px=120,
        axial_mm=1.5,
        lateral_mm=2.8,
        dynamic_range_db=45,
        reverberation=0.28,
        streaks=0.5,
        gain_db=2,
        markers="corner",
    ),
    "Ghana": Machine(
        name="Ghana",
        magnify=1.3,
        half_angle_deg=40,
        depth_mm=170,
        height_px=112,
        width_px=112,
        gain_db=-5,
        tgc=0.94,
        dynamic_range_db=47,
        axial_mm=1.2,
        lateral_mm=2.2,
        noise_db=-55,
        markers="calipers",
    ),
    "Uganda": Machine(
        name="Uganda",
        radius_mm=70,
        half_angle_deg=38,
        magnify=1.1,
        depth_mm=152,
        height_px=100,
        width_px=120,
        tgc=0.9,
        lateral_mm=2.4,
        reverberation=0.18,
        reverberation_mm=16,
        streaks=0.3,
        gamma=0.95,
        noise_db=-57,
        markers="calipers",
    ),
}
"""One machine per African-like centre, by country."""

GENERIC_MACHINES: tuple[Machine, ...] = (
    Machine(name="linear wide", radius_mm=0, half_angle_deg=38, depth_mm=110, lateral_mm=1.7, gamma=1.1),
    Machine(name="linear narrow", radius_mm=0, half_angle_deg=30, depth_mm=125, dynamic_range_db=52, looks=1.5),
    Machine(
        name="linear coarse", radius_mm=0, half_angle_deg=36, depth_mm=120, lateral_mm=2.3, axial_mm=1.3, gain_db=3
    ),
    Machine(name="wide sector", radius_mm=25, half_angle_deg=50, depth_mm=125, lateral_mm=2.0, gamma=0.95),
    Machine(name="wide sector bright", radius_mm=60, half_angle_deg=44, depth_mm=120, gain_db=5, dynamic_range_db=62),
    Machine(name="phased", radius_mm=8, half_angle_deg=42, depth_mm=130, lateral_mm=1.9, dynamic_range_db=54, tgc=0.97),
    Machine(name="curved", radius_mm=45, half_angle_deg=37, depth_mm=125, magnify=1.15, looks=1.5, sharpen=0.3),
    Machine(name="trapezoid", radius_mm=150, half_angle_deg=22, depth_mm=120, lateral_mm=1.6, looks=2.0),
)
"""Machines of the generic scenes: mostly linear and wide probes, none of them in the other two sources."""

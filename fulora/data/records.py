"""One image of the study as a row of the catalog: text and integers only, so that any tool opens the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image: its source, plane, patient and split, its file, and the hashes of its pixels."""

    image_id: str
    """Unique in a catalog: `spanish/Patient01100_Plane2_2_of_3`, `african/Algeria/patient007_DZA_plane0`."""
    path: str
    """Absolute path of the file."""
    source: str
    """`spanish`, `african` or `synthetic`."""
    plane: str
    """Short name of the plane, one of `fulora.planes`."""
    patient_id: str
    """`spanish/1100`, `african/Algeria/7` (patient numbers restart in each country); empty for a synthetic image."""
    centre: str
    """Country of the African image; `Spain` for the Spanish ones; empty for a synthetic image."""
    machine: str | None
    """Ultrasound machine as published (the Spanish `US_Machine`); None where unknown."""
    split: str
    """`train` or `test`, as published."""
    width_px: int
    """Width of the decoded image."""
    height_px: int
    """Height of the decoded image."""
    sha256: str
    """SHA-256 of the file's bytes, in hex."""
    pixel_hash: str
    """SHA-256 of size and decoded grey pixels, in hex: equal pixels have equal hashes, however the file stores them."""
    perceptual_hash: str = ""
    """512 bits in hex of which nearly equal images share most (`fulora.data.near_duplicates`); empty: not compared."""

"""Published seeds, used instead of derived ones.

In: a CSV with the columns `plane`, `sampler`, `seed`, or the published list of the 5000 synthetic images
(`Image_name` as INDEX-SEED, `Plane`). Out: seeds by plane and sampler, in the order of the file.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from fulora.errors import InputError, fault
from fulora.planes import PLANES, plane_from_label

Seeds = Mapping[tuple[str, str], Sequence[int]]
"""Seeds by (plane's name, sampler)."""


def read_seed_list(path: Path, samplers: Sequence[str], num: int) -> Seeds:
    """Return at least `num` seeds for every plane and each of the samplers.

    The published list does not say which sampler drew an image: in each plane it has runs of consecutive seeds (of 100,
    100, 400 and 400), which are assigned to the samplers in turn, so that two samplers have 500 each.
    Raises InputError naming the invalid line, or the plane and sampler with too few seeds.
    """
    found: dict[tuple[str, str], list[int]] = {}
    last: dict[str, tuple[int, int]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            for number, row in enumerate(csv.DictReader(stream), start=2):
                plane, sampler, seed = _parsed(row, path, number)
                if not sampler:
                    before, turn = last.get(plane, (None, -1))
                    turn += before is None or seed != before + 1
                    last[plane] = (seed, turn)
                    sampler = samplers[turn % len(samplers)]
                found.setdefault((plane, sampler), []).append(seed)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(fault("seeds", str(path), f"cannot be read ({error})", "Name a CSV of seeds")) from error
    for name in (plane.name for plane in PLANES):
        for sampler in samplers:
            have = len(found.get((name, sampler), ()))
            if have < num:
                rule = f"has {have} seeds for {name}, {sampler}, and {num} are needed"
                raise InputError(fault("seeds", str(path), rule, "Lower images_per_plane, or add seeds"))
    return found


def _parsed(row: Mapping[str, str | None], path: Path, number: int) -> tuple[str, str, int]:
    """Return (plane, sampler or '', seed) of a line."""
    published = "Image_name" in row
    label, text = (row.get("Plane"), row.get("Image_name")) if published else (row.get("plane"), row.get("seed"))
    try:
        seed = int((text or "").rpartition("-")[2] if published else text or "")
        if not 0 <= seed < 2**63:
            raise ValueError(f"{seed} is not a seed")
        return plane_from_label(label or "").name, (row.get("sampler") or "").strip(), seed
    except ValueError as error:
        rule = f"has an invalid line {number} ({error})"
        remedy = "Columns are plane, sampler, seed, or those of the published list: Image_name (INDEX-SEED), Plane"
        raise InputError(fault("seeds", str(path), rule, remedy)) from error

"""Near duplicates: a perceptual hash of the pixels, and every pair of hashes within a Hamming distance.

In: decoded grey images, or hashes. Out: hashes as text, pairs with their distance in bits.
Source: the difference hash (N. Krawetz, "Kind of like that", hackerfactor.com, 2013), in both directions. Deviates: 17
x 17 pixels, hence 512 bits, and an edge must rise by more than `EDGE_LEVELS`, so that black does not vote by its noise.
Measured on the published images (100 Spanish, 295 African), the most bits of 512 that a copy is away: saved as JPEG at
quality 75: 9; of half the size: 8; brighter by 15 %: 16; with a text laid over: 12; text, 0.7 of the size and JPEG: 20;
a fifth less contrast: 26; 4 pixels cropped on each side: 46; a border of 4 pixels: 45. Within 40 bits are 98 % or more
of each, but only 57 % of those with a border of 8. The nearest images that are not copies are 46 apart, then 64 (frames
of one sweep, some filed under two patients). The DCT hash (64, 256 bits) and the difference hash of 64 bits take a
crop, a text or more contrast for further than the next frame of a sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

SIDE = 16
"""Edges per row and column of the reduced image, in each direction."""
NUM_BITS = 2 * SIDE * SIDE
"""Bits of a hash."""
NEAR_BITS = 40
"""Images are near duplicates up to this distance: above that of almost all copies, below that of other images."""
EDGE_LEVELS = 2
"""Grey levels of 255 that an edge must rise by."""

RULE = (
    f"difference hash of 2 x {SIDE} x {SIDE} edges above {EDGE_LEVELS}, at most {NEAR_BITS} of {NUM_BITS} bits differ"
)
"""The rule for near duplicates in words; changes with every constant above."""

_CHUNK = 256
"""Hashes compared with all others at once; bounds the memory."""
_FAR = NUM_BITS + 1


def perceptual_hash(grey: np.ndarray) -> str:
    """Return the hash of an image, uint8 [H, W], as 128 hex digits; empty where it has too few edges to compare.

    Equal pixels give equal hashes on every machine: the reduction is Pillow's integer arithmetic. A blank image has no
    edges, and any two images with `NEAR_BITS` edges in all would be near duplicates: those have no hash.
    """
    side = SIDE + 1
    reduced = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.HAMMING)).astype(np.int16)
    right = reduced[:-1, 1:] - reduced[:-1, :-1] > EDGE_LEVELS
    down = reduced[1:, :-1] - reduced[:-1, :-1] > EDGE_LEVELS
    bits = np.stack([right, down])
    return "" if bits.sum() <= NEAR_BITS // 2 else np.packbits(bits).tobytes().hex()


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Hamming distances, uint16 [A, B], of hashes from `hash_words`, [A, 8] and [B, 8]."""
    out = np.zeros((len(left), len(right)), np.uint16)
    for word in range(left.shape[1]):
        out += np.bitwise_count(left[:, word, None] ^ right[None, :, word])
    return out


def hash_words(hashes: Sequence[str]) -> np.ndarray:
    """Return hashes as uint64 [N, 8]; none of them may be empty."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(len(hashes), NUM_BITS // 64)


def least_distances(hashes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Return the distance of each hash to the nearest of the others; more than `NUM_BITS` where there is none."""
    compared = [place for place, text in enumerate(hashes) if text]
    right = hash_words([text for text in others if text])
    found = [_FAR] * len(hashes)
    if not len(right):
        return found
    words = hash_words([hashes[place] for place in compared])
    for start in range(0, len(compared), _CHUNK):
        nearest = distances(words[start : start + _CHUNK], right).min(axis=1)
        for place, distance in zip(compared[start : start + _CHUNK], nearest.tolist(), strict=True):
            found[place] = distance
    return found


def near_pairs(
    hashes: Sequence[str], *, nearest_only: Sequence[bool], groups: Sequence[str]
) -> Iterator[tuple[int, int, int]]:
    """Yield (position, later position, distance) of every pair of hashes within `NEAR_BITS`, empty hashes left out.

    Where `nearest_only` is true of the earlier position, it is paired only with the nearest later one of each group: a
    model that generates one image repeatedly then gives as many pairs as images, not their square.
    16 000 hashes take about a second and 60 MB.
    """
    there = np.array([place for place, text in enumerate(hashes) if text], dtype=np.int64)
    words = hash_words([hashes[place] for place in there])
    names = np.array(groups, dtype=object)[there]
    members = [np.flatnonzero(names == name) for name in sorted(set(names))]
    single = np.array(nearest_only, dtype=bool)[there]
    for start in range(0, len(there), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(there)))
        found = distances(words[rows], words[start:])
        found[np.tril_indices(len(rows), 0, found.shape[1])] = _FAR
        near = found <= NEAR_BITS
        near[single[rows]] = False
        places = [np.argwhere(near)]
        for columns in members:
            later = columns[columns >= start] - start
            if len(later) and single[rows].any():
                best = later[found[:, later].argmin(axis=1)]
                mine = single[rows] & (found[np.arange(len(rows)), best] <= NEAR_BITS)
                places.append(np.stack([np.flatnonzero(mine), best[mine]], axis=1))
        for row, column in np.concatenate(places).tolist():
            yield int(there[start + row]), int(there[start + column]), int(found[row, column])

"""One master seed to any number of named, independent random streams.

In: a master seed and a path of names, such as `derive_seed(0, "sampling", "brain", "euler", 17)`.
Out: an integer seed that depends on nothing else, so adding a stream leaves the others as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(master: int, *path: str | int) -> int:
    """Return the seed of a named stream, an integer in [0, 2**31).

    31 bits because torch, numpy, scikit-learn and the published file names of synthetic images all take them.
    """
    text = "/".join([str(int(master)), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def numpy_rng(master: int, *path: str | int) -> np.random.Generator:
    """Return numpy's generator for a named stream."""
    return np.random.default_rng(derive_seed(master, *path))

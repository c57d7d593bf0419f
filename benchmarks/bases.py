"""A diffusion base built once for all contenders of a run: drawing a billion random numbers takes its time.

In: a base's spec. Out: a copy of it on a device, whoever asks.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from fulora.diffusion import base as bases
from fulora.diffusion import sampler
from fulora.diffusion.base import Base


@functools.cache
def _built(spec: str) -> Base:
    return bases.load_base(spec)


def fresh(spec: str, *, device: str = "cpu", dtype: torch.dtype | None = None, **_: Any) -> Base:
    """Return a base as `load_base` does, from the one that was built."""
    return copy.deepcopy(_built(spec)).to(device, dtype or torch.float32)


@contextmanager
def built_once() -> Iterator[None]:
    """Let samplers made inside take their base from the one that was built."""
    with mock.patch.object(sampler, "load_base", fresh):
        yield

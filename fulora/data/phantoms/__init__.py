"""Ultrasound phantoms: simulated images of the five planes, from a simple model of the physics and anatomy.

In: a number of images and a seed. Out: Spanish-like and African-like phantoms in memory or as the two published layouts
on disk, and generic scenes to pre-train a diffusion base on. numpy and scipy only; about 4 ms an image on one core.
Sources: in each module; physics in `physics`, anatomy in `anatomy`, looks in `machines`.
"""

from __future__ import annotations

from fulora.data.phantoms.batches import PhantomBatch, african_like, spanish_like
from fulora.data.phantoms.generic import generic_images
from fulora.data.phantoms.specimens import specimen_images
from fulora.data.phantoms.writer import PhantomConfig, write_phantoms

__all__ = [
    "PhantomBatch",
    "PhantomConfig",
    "african_like",
    "generic_images",
    "spanish_like",
    "specimen_images",
    "write_phantoms",
]

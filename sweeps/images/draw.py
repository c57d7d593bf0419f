"""Draw a shard of images: the work of a sampling actor. The images themselves are `fulora.diffusion.sampler`.

In: a shard's rows and its adapter. Out: PLANE/*.png and metadata.parquet. The sampler of the last adapter stays loaded
in the process.
"""

from __future__ import annotations

import hashlib
import io
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from fulora.data.pixels import pixel_hash
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig
from fulora.errors import InputError, fault
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import write_table
from sweeps.engine.resources import placement
from sweeps.images.rows import ROWS_FILE
from sweeps.images.sets import ShardConfig
from sweeps.ranks.base import BaseModel

Kept = TypeVar("Kept")

_KEEPERS = 2
"""Threads that encode and write images beside the device: at level 2 a core writes 45 images of 512 px a second."""
_PNG_LEVEL = 2
"""Twice as fast as Pillow's own 6 or our former 4, and smaller on such images. Source: benchmarks/png.py."""


@dataclass
class _Loaded:
    """The sampler that is loaded in this process, and what it was loaded for."""

    key: tuple[Any, ...] = ()
    sampler: Sampler | None = None


_LOADED = _Loaded()


def open_sampler(base: BaseModel, adapter: Path | None, config: SamplingConfig) -> Sampler:
    """Return the sampler of an adapter, or of the base alone; the one loaded before where it is the same."""
    key = (base, adapter, config)
    if _LOADED.sampler is None or _LOADED.key != key:
        if adapter is not None and not adapter.is_dir():
            rule = f"does not exist on {socket.gethostname()}"
            remedy = "`sweeps lora` trains it; with several nodes, the run's directory must be on shared storage."
            raise InputError(fault("adapter", str(adapter), rule, remedy))
        _LOADED.sampler = None  # free the device before the next adapter is loaded
        _LOADED.sampler = Sampler(
            base=base.spec, adapter=adapter, config=config, resolution_px=base.resolution_px,
            precision=base.precision, allow_pickle=base.allow_pickle,
        )  # fmt: skip
        _LOADED.key = key
    return _LOADED.sampler


def draw_shard(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Draw a shard and write its files."""
    config: ShardConfig = step.config
    adapter = place.of("adapter") if "adapter" in step.needs else None
    # Loaded once for both samplers: each row names the one that draws it.
    base = replace(config.base, spec=place.store.local(config.base.spec))
    sampler = open_sampler(base, adapter, replace(config.sampling, samplers=("euler", "unipc")))
    about = {
        "adapter": step.need("adapter").key if adapter else f"{config.base.identity}-{config.base.resolution_px}",
        "rank": config.rank, "num_steps": config.sampling.num_steps, "guidance": config.sampling.guidance,
        "base": sampler.base.name.replace(base.spec, config.base.spec), "device": str(sampler.base.device),
        **placement(),
    }  # fmt: skip

    def keep(row: SampleRow, image: np.ndarray) -> dict[str, Any]:
        known, png = encoded(row, image, about)
        file = place.out / known["file_name"]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png)
        return known

    rows = drawn_beside(sampler, config.rows, keep)
    write_table(place.out / ROWS_FILE, "metadata", rows)
    return {"num_images": len(rows), "device": about["device"]}


def drawn_beside(
    sampler: Sampler, rows: Sequence[SampleRow], keep: Callable[[SampleRow, np.ndarray], Kept]
) -> list[Kept]:
    """Return what `keep` makes of each row and its image, in the rows' order.

    Threads keep the images of a batch while the device draws the next; only the last batch is waited for. Raises what
    `keep` raises, once what was begun has ended.
    """
    kept: dict[int, Future[Kept]] = {}
    with ThreadPoolExecutor(_KEEPERS) as threads:
        for positions, images in sampler.batches(rows):
            if any(future.done() and future.exception() for future in kept.values()):
                break  # a full disk stays full
            for position, image in zip(positions, images, strict=True):
                kept[position] = threads.submit(keep, rows[position], image)
    failed = [error for future in kept.values() if (error := future.exception())]
    if failed:
        raise failed[0]
    return [kept[position].result() for position in range(len(rows))]


def encoded(row: SampleRow, image: np.ndarray, about: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return an image's row of metadata.parquet and its PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    png = buffer.getvalue()
    return {
        "file_name": f"{row.plane}/{row.image_id}.png",
        **asdict(row),
        **about,
        "sha256": hashlib.sha256(png).hexdigest(),
        "pixel_hash": pixel_hash(image),
    }, png

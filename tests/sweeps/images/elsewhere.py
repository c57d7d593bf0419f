"""Draw to an address in this process: the calls of the actors, without Ray, whose start takes longer than the work."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fulora.diffusion.base_files import fingerprint
from fulora.diffusion.sampler import SamplingConfig
from sweeps.engine.resources import Cluster
from sweeps.images.destination import Destination
from sweeps.images.sets import SyntheticSet
from sweeps.ranks.base import BaseModel

Draw = Callable[..., int]
"""Draws a set of the base to a destination, and returns how many images were drawn."""
CONFIG: dict[str, Any] = {"images_per_plane": 5, "num_steps": 1, "batch_size": 2}
ONE_CORE = Cluster(num_cpus=1, num_gpus=0, num_nodes=1)


def base_images(base: str, *, resolution_px: int = 32, **changes: Any) -> SyntheticSet:
    """Return images of a base without an adapter."""
    model = BaseModel(spec=base, identity=fingerprint(base), resolution_px=resolution_px, precision="fp32")
    config = SamplingConfig(**{**CONFIG, **changes})
    return SyntheticSet(label="base", rank=None, adapter=None, base=model, config=config, seed=3, chosen=True)


def in_this_process(
    make: Callable[[], Callable[[Sequence[int]], list[dict[str, Any]]]], calls: Sequence[Sequence[int]],
    cluster: Cluster, *, num_actors: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Do the calls as the one actor of `cluster` does."""
    assert num_actors == cluster.num_slots == 1
    worker = make()
    for call in calls:
        yield from worker(call)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the Parquet files in a set's folder."""
    return [row for file in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def rows_there(destination: Destination) -> list[dict[str, Any]]:
    """Return the rows of the Parquet files at a destination."""
    files = [io.BytesIO(destination.remote.get(name) or b"") for name in sorted(destination.remote.names("data"))]
    return [row for file in files for row in pq.read_table(file).to_pylist()]

"""Calls over Ray Data actors, one per device: for images that are drawn straight to another place.

In: how to make a worker, and the calls. Out: the rows that the workers return, as they come. A row of the dataset is a
call and a batch is a row: with GPUs Ray Data wants a batch size, and rows that are calls make no ragged batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from sweeps.engine.resources import Cluster, prepare_worker

Worker = Callable[[Sequence[int]], list[dict[str, Any]]]
"""Does a call, given as numbers, and returns its rows."""


class _Actor:
    """Holds a worker in a process with its device."""

    def __init__(self, make: Callable[[], Worker], num_threads: int, on_gpu: bool) -> None:
        prepare_worker(num_threads, on_gpu=on_gpu)
        self.worker = make()

    def __call__(self, batch: pa.Table) -> pa.Table:
        (call,) = batch["call"].to_pylist()
        return pa.Table.from_pylist(self.worker(call))


def over_actors(
    make: Callable[[], Worker], calls: Sequence[Sequence[int]], cluster: Cluster, *, num_actors: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all calls, done by at most `num_actors` actors at once; a call whose actor died is repeated."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    return (
        ray.data.from_blocks([pa.table({"call": [list(call)]}) for call in calls])
        .map_batches(
            _Actor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(make, cluster.num_threads, cluster.num_gpus > 0),
            **cluster.for_actors,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors, initial_size=num_actors),
        )
        .iter_rows()
    )

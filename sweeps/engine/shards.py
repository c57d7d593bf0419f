"""Shards over Ray Data: a wave of ready shards, one actor per GPU, each loaded once for all it does.

A row of the dataset is a shard. Ray Data starts an actor that dies again, on another node if need be, and gives it its
row again: the answer then is that the attempt died, and the shard is tried again in a later wave.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray

from sweeps.core.execution import Execution
from sweeps.core.step import Step
from sweeps.engine.job import Job, read_answer
from sweeps.engine.resources import Cluster, prepare_worker, threads_here
from sweeps.engine.room import Lane, Request

_SILENT_SECONDS = 5.0
_DIED = "its process ended: killed, out of memory, or its node was lost"


class ShardActor:
    """Does one shard per call; what its work loads stays in the process."""

    def __init__(self, job: Job, num_threads: int, gpu: float) -> None:
        self.job = job
        prepare_worker(threads_here(num_threads, gpu), on_gpu=gpu > 0)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do the shard of a row {key, number}; return {key, begun, attempt}, the attempt "" where it did not begin."""
        (row,) = batch.to_pylist()
        begun = self.job.may_begin(**row)
        attempt = self.job.do(**row) if begun == "yes" else ""
        return pa.table({"key": [row["key"]], "begun": [begun], "attempt": [attempt]})


class Wave:
    """Some shards under way, in a thread of the driver."""

    def __init__(
        self,
        shards: Sequence[tuple[Step, int]],
        request: Request,
        num_actors: int,
        *,
        cluster: Cluster,
        execution: Execution,
        job: Job,
        answered: Callable[[str], None],
    ) -> None:
        """Take the shards, first things first, with the numbers of their attempts.

        `num_actors` start at once, more as there is room, also on nodes that join later. `answered` is called with the
        key of each.
        """
        self.request, self.num_actors = request, num_actors
        self.actors: set[Any] = set()
        """Ids of the actors that began a shard."""
        self._heard_at = time.monotonic()
        self._left = {step.key: (step, number) for step, number in shards}
        self._last = shards[-1]
        self._cluster, self._execution, self._job, self._answered = cluster, execution, job, answered
        self._thread = threading.Thread(target=self._run, daemon=True, name="shards")
        self._thread.start()

    @property
    def lane(self) -> Lane:
        """What the number of its actors is limited by."""
        return self.request.lane

    @property
    def first(self) -> Step:
        """The first of its shards by the schedule that is not answered, or the last of all."""
        return (list(self._left.values()) or [self._last])[0][0]

    @property
    def claim(self) -> float:
        """The GPUs or cores it can use by now."""
        return min(self.num_actors, len(self._left)) * self.request.amount

    @property
    def ended(self) -> bool:
        """Whether every shard was answered or given up."""
        return not self._thread.is_alive()

    @property
    def waits(self) -> bool:
        """Whether some of its actors may have no place: not yet, or no more, since a node was lost."""
        silent = time.monotonic() - self._heard_at > _SILENT_SECONDS
        return bool(self._left) and (silent or len(self.actors) < min(self.num_actors, len(self._left)))

    def began(self, actor: Any) -> None:
        """Note that an actor began a shard."""
        self._heard_at = time.monotonic()
        self.actors.add(actor._actor_id)

    def has(self, key: str) -> bool:
        """Return whether a shard is of this wave and not answered."""
        return key in self._left

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        reason = _DIED
        try:
            for row in self._rows():
                step, number = self._left.pop(row["key"])
                self._heard_at = time.monotonic()
                if row["begun"] == "yes":
                    self._execution.ended(step, read_answer(step, number, row["attempt"]))
                elif row["begun"] == "died":
                    self._execution.died(step, number, _DIED)
                else:
                    self._execution.not_begun(step, number)
                self._answered(row["key"])
        except Exception as error:  # the dataset failed as a whole: its shards are tried again, and say why
            reason = f"sampling actors ended: {type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}"
        left, self._left = self._left, {}
        for step, number in left.values():
            self._execution.died(step, number, reason)
            self._answered(step.key)

    def _rows(self) -> Any:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it sets its level when it is imported
        rows = [pa.table({"key": [key], "number": [number]}) for key, (_, number) in self._left.items()]
        request, most = self.request, len(rows)  # Ray Data itself starts no more than the cluster has GPUs
        return (
            ray.data.from_blocks(rows)
            .map_batches(
                ShardActor,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_args=(self._job, request.num_threads, request.gpu),
                **self._cluster.for_actor(request.cpu, request.gpu),
                compute=ray.data.ActorPoolStrategy(
                    min_size=1,
                    max_size=most,
                    initial_size=min(self.num_actors, most),
                    max_tasks_in_flight_per_actor=2,  # a pool all of whose actors have one to wait grows
                ),
            )
            .iter_rows()
        )

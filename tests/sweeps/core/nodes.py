"""Nodes that share no disk, in this process: an executor that gives steps in turn to nodes with caches of their own.

While a node works, the folders that it must not see have another name. Shared by the tests of the storage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.cache import Cache, open_cache
from sweeps.core.execution import Watch
from sweeps.core.mirror import FetchingExecution, Mirror, store_of
from sweeps.core.perform import perform
from sweeps.core.step import Kind, Step
from sweeps.core.storage import Storage
from sweeps.core.store import Store

from ..engine.fake_steps import Bench


@dataclass
class TwoNodes:
    """Does each step on the next of two nodes."""

    folder: Path
    """Where the nodes' caches are."""
    hidden: Sequence[Path] = ()
    """What the nodes do not see."""
    cache_bytes: int | None = None
    did: list[tuple[str, int]] = field(default_factory=list)
    """Labels of steps and the nodes that did them."""
    before: Callable[[Step], None] = lambda step: None
    """Is called before a step is done."""

    def run(self, steps: Sequence[Step], *, store: Store, log: AttemptLog, watch: Watch) -> None:
        """Do the steps; see `sweeps.core.execution.Executor`."""
        assert isinstance(store, Mirror)
        execution = FetchingExecution(steps, store=store, log=log, watch=watch, backoff_seconds=0.01)
        asked = store.for_nodes()
        while not execution.finished:
            if (taken := execution.take()) is None:
                time.sleep(0.01)  # files are on their way, or a step waits to be tried again
                continue
            step, number = taken
            execution.started(step)
            self.before(step)
            node = len(self.did) % 2
            self.did.append((step.label, node))
            cache = node_of(asked, self.folder / f"node-{node}", self.cache_bytes)
            with hidden(*self.hidden):
                attempt = perform(step, cache, number, lambda values: None)
            execution.ended(step, attempt)
            while execution.is_out(step):
                time.sleep(0.001)
        execution.close()
        execution.raise_if_stopped()


@contextmanager
def hidden(*places: Path) -> Iterator[None]:
    """Give folders another name for a while."""
    for place in places:
        os.rename(place, place.with_name(f"{place.name}-hidden"))
    try:
        yield
    finally:
        for place in places:
            os.rename(place.with_name(f"{place.name}-hidden"), place)


def node_of(asked: Cache, folder: Path, cache_bytes: int | None = None) -> Cache:
    """Return the cache of a node whose temporary files are in a folder."""
    return open_cache(folder, asked.storage, cache_bytes or asked.max_bytes, asked.inputs)


def mirror(folder: Path, address: str) -> Mirror:
    """Return a run's folder over a storage."""
    found = store_of(folder, storage=address, cache=None, cache_gb=1)
    assert isinstance(found, Mirror)
    return found


def over(folder: Path, address: str) -> Bench:
    """Return a run's folder over a storage, a log and a diary."""
    bench = Bench(folder)
    bench.store = mirror(folder / "run", address)
    return bench


def storage(bench: Bench) -> Storage:
    """Return the storage of a bench."""
    assert isinstance(bench.store, Mirror)
    return bench.store.storage


def do(step: Step, store: Store, number: int = 1) -> Attempt:
    """Do a step."""
    return perform(step, store, number, lambda values: None)


@dataclass(frozen=True, kw_only=True)
class Counting:
    """A work that counts to a number and keeps a checkpoint at each."""

    to: int


def count(step: Step, place: Any, report: Any) -> dict[str, Any]:
    """Go on from the last checkpoint; the note says from where."""
    place.scratch.mkdir(parents=True, exist_ok=True)
    began = max((int(file.name.removeprefix("step-")) for file in place.scratch.glob("step-*")), default=0)
    for number in range(began + 1, step.config.to + 1):
        (place.scratch / ".part").write_text(str(number))
        os.replace(place.scratch / ".part", place.scratch / f"step-{number}")
        (place.scratch / f"step-{number - 2}").unlink(missing_ok=True)
        if number == FAILS.get(step.key):
            raise ValueError("preempted")
    (place.out / "count.txt").write_text(str(step.config.to))
    return {"resumed_from": began}


FAILS: dict[str, int] = {}
"""At what number a step fails, by its key."""
COUNT = Kind(name="count", stage="grid", work=f"{__name__}:count", is_trial=True)

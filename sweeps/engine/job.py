"""What a run's worker processes are given, and how they tell the driver what goes on: a mailbox.

The results of steps come back by Ray Tune and Ray Data. The mailbox carries only what they do not: that a step began,
and how far it is. What is lost with it is progress on the screen, never a result.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.core.attempts import Attempt, attempt_of
from sweeps.core.perform import perform
from sweeps.core.step import Step
from sweeps.core.store import Store
from sweeps.engine.resources import placement

_SECONDS_BETWEEN = 0.5
"""Seconds between two words on the progress of a step."""

Message = tuple[str, int, Any]
"""Key of a step, number of its attempt, and the actor that began it, where it runs, or a pair (fraction, note)."""


class Mailbox:
    """The actor: keeps messages until the driver takes them, and which shards were begun."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.begun: set[tuple[str, int]] = set()
        self.stopping = self.finished = False

    def post(self, message: Message) -> None:
        """Keep a message."""
        self.messages.append(message)

    def take(self) -> list[Message]:
        """Return the messages since the last time."""
        taken, self.messages = self.messages, []
        return taken

    def stop(self) -> None:
        """Have no further shard begun."""
        self.stopping = True

    def finish(self) -> None:
        """Note that nothing more is to be done."""
        self.finished = True

    def is_over(self) -> bool:
        """Return whether nothing more is to be done."""
        return self.finished or self.stopping

    def may_begin(self, key: str, number: int) -> Literal["yes", "stopped", "died"]:
        """Return whether an attempt at a shard may begin; "died" where it did before, and its process ended."""
        if self.stopping:
            return "stopped"
        if (key, number) in self.begun:
            return "died"
        self.begun.add((key, number))
        return "yes"


def open_mailbox() -> Any:
    """Return a mailbox on this node; it starts again, empty, where its process dies."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def read_answer(step: Step, number: int, text: str) -> Attempt:
    """Return the attempt that a worker's answer tells of."""
    known = json.loads(text)
    return Attempt.from_json(text) if "trial_id" in known else attempt_of(step, "FAILED", number, **known)


@dataclass(frozen=True)
class Job:
    """A run as its workers know it; pickled to each of them."""

    graph: ray.ObjectRef
    """The steps of the run and all they need, by key."""
    store: Store
    mailbox: Any

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """The graph, fetched once per process."""
        return ray.get(self.graph)

    def do(self, key: str, number: int) -> str:
        """Do a step in this process and return its attempt as text, for `read_answer`."""
        try:
            return self._do(key, number).to_json()
        except Exception as error:  # outside of the work, as where the graph's modules cannot be imported here
            where = f"on {platform.node()}, before or after its work"
            return json.dumps({"error_type": type(error).__name__, "error_message": f"{error} ({where})"})

    def _do(self, key: str, number: int) -> Attempt:
        actor = ray.get_runtime_context().current_actor
        self.mailbox.post.remote((key, number, actor))
        where = placement()
        self.mailbox.post.remote((key, number, where))
        said = time.monotonic()

        def report(values: dict[str, Any]) -> None:
            nonlocal said
            if time.monotonic() - said >= _SECONDS_BETWEEN or said == began:
                said = time.monotonic()
                words = (float(values.get("fraction", 0.0)), str(values.get("note", "")))
                self.mailbox.post.remote((key, number, words))

        began = said
        return perform(self.steps[key], self.store, number, report, where)

    def rest(self, seconds: float) -> None:
        """Wait some seconds, or until nothing more is to be done."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(RayError):
                if ray.get(self.mailbox.is_over.remote()):
                    return
            time.sleep(0.2)

    def end_rest(self) -> None:
        """Have those who wait go on."""
        with suppress(RayError):
            self.mailbox.finish.remote()

    def may_begin(self, key: str, number: int) -> Literal["yes", "stopped", "died"]:
        """Return whether an attempt at a shard may begin; see `Mailbox.may_begin`."""
        with suppress(RayError):
            return ray.get(self.mailbox.may_begin.remote(key, number))
        return "yes"  # its process died and starts again

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "store": self.store, "mailbox": self.mailbox}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

"""What starts next, and where: between Ray Tune, which asks for trials, and Ray Data, which is given waves of shards.

Both draw on one account of GPUs and cores. The critical path decides: a trial passes shards it comes before, and shards
keep their GPUs from trials that come after them. What neither can use the other takes.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from sweeps.core.execution import Execution
from sweeps.core.step import Step
from sweeps.engine.job import Job
from sweeps.engine.packing import Probe
from sweeps.engine.room import Request, Room
from sweeps.engine.shards import Wave

_SECONDS_BETWEEN_MAIL = 0.3
_SECONDS_BETWEEN_LOOKS = 5.0
_ANSWER_SECONDS = 30.0
_SECONDS_PER_ACTOR = 300.0
"""Work, by the steps' own estimate, for each actor of a wave that is smaller than the cluster: a later wave takes more
room, once there is. An actor loads a model first, so waves must not be short."""


class Deal(NamedTuple):
    """A step handed out to Ray Tune."""

    step: Step
    number: int
    request: Request


class Dealer:
    """Hands out what is ready as there is room."""

    def __init__(self, execution: Execution, job: Job, room: Room) -> None:
        self.execution, self.job, self.room = execution, job, room
        self.waves: list[Wave] = []
        self.probes: dict[str, Probe] = {}
        self.actors: dict[str, Any] = {}
        """Handles of the actors at work, by the step's key."""
        self._changed = threading.Event()
        self._mail_at = self._look_at = time.monotonic()

    def answered(self, key: str) -> None:
        """Note that a shard is back. Ray Data frees an actor's place once nobody holds its handle."""
        self.actors.pop(key, None)
        self._changed.set()

    def wait(self, seconds: float) -> None:
        """Wait until something changes, at most some seconds."""
        self._changed.wait(seconds)
        self._changed.clear()

    def deal(self) -> Deal | None:
        """Return the trial that starts next, None where none can start now; waves of shards start by themselves."""
        self.read_mail()
        self._look()
        self.waves = [wave for wave in self.waves if not wave.ended]
        self._read_probes()
        self._start_wave()
        step = self.execution.peek(self._may_start)
        taken = step and self.execution.take(lambda other: other == step)
        if not taken:
            return None
        request = self._request(taken[0])
        self.room.take(request)
        return Deal(*taken, request)

    def ended(self, deal: Deal) -> None:
        """Note that what was handed out takes no room any more."""
        self.actors.pop(deal.step.key, None)
        self.room.take(deal.request, -1)

    @property
    def a_wave_waits(self) -> bool:
        """Whether an actor of a wave may have no place."""
        return any(wave.waits for wave in self.waves)

    def read_mail(self, *, now: bool = False) -> None:
        """Take what workers said since the last time and pass it on."""
        if not now and time.monotonic() - self._mail_at < _SECONDS_BETWEEN_MAIL:
            return
        self._mail_at = time.monotonic()
        try:
            messages = ray.get(self.job.mailbox.take.remote(), timeout=_ANSWER_SECONDS)
        except RayError:  # its process died and starts again
            return
        for key, _, content in messages:
            step = self.job.steps[key]
            if isinstance(content, tuple):
                self.execution.progress(step, *content)
                continue
            if isinstance(content, dict):
                self.execution.placed(step, content)
                continue
            if not self.execution.is_out(step):
                continue
            self.actors[key] = content
            if not self.execution.is_out(step):  # it came back meanwhile
                self.actors.pop(key, None)
            self.execution.started(step)
            for wave in self.waves:
                if wave.has(key):
                    wave.began(content)

    def stop(self) -> None:
        """Have no shard begun any more, and end the processes at work."""
        with suppress(RayError):
            ray.get(self.job.mailbox.stop.remote(), timeout=5)
        self.read_mail(now=True)
        for actor in self.actors.values():
            with suppress(RayError):
                ray.kill(actor, no_restart=False)
        for wave in self.waves:
            wave.join(20)

    def _look(self) -> None:
        if time.monotonic() - self._look_at >= _SECONDS_BETWEEN_LOOKS:
            self._look_at = time.monotonic()
            self.room.look()

    def _request(self, step: Step) -> Request:
        return self.room.request(step.kind, whole_device=step.key in self.execution.whole_device)

    def _may_start(self, step: Step) -> bool:
        """Return whether a trial has room, but for what shards before it keep."""
        if step.kind.is_shard or self._is_being_measured(step):
            return False
        path, request = self.execution.schedule.path(step), self._request(step)
        kept = [w.claim for w in self.waves if w.path >= path and w.request.lane == request.lane]
        return self.room.fits(request, kept=sum(kept))

    def _start_wave(self) -> None:
        """Start a wave of the ready shards, with an actor for each GPU that is not for trials before them."""
        first = self.execution.peek(_is_shard)
        if first is None:
            return
        request, schedule = self._request(first), self.execution.schedule
        trials = schedule.num_ahead(first, lambda s: not s.kind.is_shard and self._request(s).lane == request.lane)
        before = [s for s in schedule.in_state("running") if not s.kind.is_shard]
        path = schedule.path(first)
        amounts = [self._request(s).amount for s in before if self._request(s).lane == request.lane]
        paths = [schedule.path(s) for s in before if self._request(s).lane == request.lane]
        taken = sum(amount for amount, other in zip(amounts, paths) if other > path) + trials * request.amount
        taken += sum(wave.claim for wave in self.waves if wave.request.lane == request.lane)
        most = int(self.room.capacity[request.lane] / request.amount + 1e-6)
        num_actors = min(most, int((self.room.capacity[request.lane] - taken) / request.amount + 1e-6))
        if num_actors < 1:
            return
        left = float("inf") if num_actors == most else _SECONDS_PER_ACTOR * num_actors
        shards: list[tuple[Step, int]] = []
        while left > 0 and (taken_step := self.execution.take(_is_shard)):
            shards.append(taken_step)
            left -= taken_step[0].cost
        num_actors = min(num_actors, len(shards))
        self.waves.append(
            Wave(shards, request, num_actors, execution=self.execution, job=self.job, answered=self.answered)
        )

    def _is_being_measured(self, step: Step) -> bool:
        """Return whether a kind's memory has to be known first; starts measuring it where so."""
        kind, room = step.kind, self.room
        if kind.measure is None or not room.cluster.shares_gpus or room.cluster.num_gpus < 1:
            return False
        if kind.name in room.shares or kind.runs_on != "gpu":
            return False
        if kind.name not in self.probes:
            ready = [s for s in self.execution.schedule.in_state("ready") if s.kind.name == kind.name]
            if len(ready) <= room.capacity["gpu"] or room.free("gpu") < 1:
                return len(ready) > room.capacity["gpu"]
            keys, gpus = [s.key for s in ready], room.capacity["gpu"]
            self.probes[kind.name] = Probe.start(kind, keys, job=self.job, cluster=room.cluster, num_gpus=gpus)
            room.taken["gpu"] += 1
        return True

    def _read_probes(self) -> None:
        for name, probe in list(self.probes.items()):
            if probe.ended:
                self.room.shares[name], note = probe.share()
                self.room.taken["gpu"] -= 1
                self.execution.watch.say(note)
                del self.probes[name]


def _is_shard(step: Step) -> bool:
    return step.kind.is_shard

"""What starts next, and where: between Ray Tune, which asks for trials, and Ray Data, which is given waves of shards.

Both draw on one account of GPUs and cores. The critical path decides: a trial passes shards it comes before, and shards
keep their GPUs from trials that come after them. What neither can use the other takes.
"""

from __future__ import annotations

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
from sweeps.engine.waiting import Patience

_SECONDS_BETWEEN_MAIL = 0.3
_SECONDS_BETWEEN_LOOKS = 5.0
_ANSWER_SECONDS = 30.0
_WAVE_SECONDS = 600.0
"""Work for each GPU that a wave takes at once, by its shards' costs: what becomes ready meanwhile waits for its end."""
_SHARDS_PER_ACTOR = 4
"""Shards for each GPU that a wave takes at least."""


class Deal(NamedTuple):
    """A step handed out to Ray Tune."""

    step: Step
    number: int
    request: Request


class Dealer:
    """Hands out what is ready as there is room."""

    def __init__(self, execution: Execution, job: Job, room: Room, *, wait_for_gpus: float) -> None:
        """Take the account of what there is; a run that needs a GPU ends `wait_for_gpus` seconds after the last."""
        self.execution, self.job, self.room = execution, job, room
        self._patience = Patience(wait_for_gpus, execution.watch.say)
        self.waves: list[Wave] = []
        self.probes: dict[tuple[str, str | None], Probe] = {}
        self.actors: dict[str, Any] = {}
        """Handles of the actors at work, by the step's key."""
        self._is_limited = False
        self._mail_at = self._look_at = time.monotonic()

    def answered(self, key: str) -> None:
        """Note that a shard is back. Ray Data frees an actor's place once nobody holds its handle."""
        self.actors.pop(key, None)

    def deal(self) -> Deal | None:
        """Return the trial that starts next, None where none can start now; waves of shards start by themselves.

        Raises InputError where work waits for a GPU and none has been up for too long.
        """
        self.read_mail()
        self._look()
        self.waves = [wave for wave in self.waves if not wave.ended]
        self._read_probes()
        if self.execution.meter.reached and not self._is_limited:
            self._is_limited = True
            self.job.mailbox.stop.remote()  # what a wave holds and did not begin comes back
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
            if self.room.cluster.num_gpus:
                self._patience.note(self.room.gpus_up or not self.execution.any_left("gpu"))

    def _request(self, step: Step) -> Request:
        return self.room.request(step.kind, whole_device=step.key in self.execution.whole_device)

    def _may_start(self, step: Step) -> bool:
        """Return whether a trial has room, but for what shards before it keep."""
        if step.kind.is_shard or self._is_being_measured(step):
            return False
        path, request = self.execution.schedule.path(step), self._request(step)
        schedule = self.execution.schedule
        kept = [w.claim for w in self.waves if schedule.path(w.first) >= path and w.lane == request.lane]
        return self.room.fits(request, kept=sum(kept))

    def _start_wave(self) -> None:
        """Start a wave of the ready shards; have those under way grow into the room that trials before them left."""
        for wave in self.waves:
            others = sum(other.claim for other in self.waves if other is not wave and other.lane == wave.lane)
            wave.num_actors = max(wave.num_actors, self._num_actors(wave.first, wave.request, others))
        first = self.execution.peek(_is_shard)
        if first is None:
            return
        request = self._request(first)
        others = sum(wave.claim for wave in self.waves if wave.lane == request.lane)
        num_actors = self._num_actors(first, request, others)
        if num_actors < 1:
            return
        most = int(self.room.capacity[request.lane] / request.amount + 1e-6)
        limit = most * max(_SHARDS_PER_ACTOR, int(_WAVE_SECONDS / max(first.cost, 1e-3)))
        shards: list[tuple[Step, int]] = []
        while len(shards) < limit and (taken := self.execution.take(_is_shard)):
            shards.append(taken)
        self.waves.append(
            Wave(
                shards,
                request,
                num_actors,
                cluster=self.room.cluster,
                execution=self.execution,
                job=self.job,
                answered=self.answered,
            )
        )

    def _num_actors(self, shard: Step, request: Request, others: float) -> int:
        """Return for how many actors there is room beside trials that come before a shard, and beside other waves."""
        schedule = self.execution.schedule
        path = schedule.path(shard)

        def before(step: Step) -> bool:
            return not step.kind.is_shard and self._request(step).lane == request.lane

        running = [step for step in schedule.in_state("running") if before(step) and schedule.path(step) > path]
        taken = sum(self._request(step).amount for step in running) + others
        taken += schedule.num_ahead(shard, before) * request.amount
        return int((self.room.capacity[request.lane] - taken) / request.amount + 1e-6)

    def _is_being_measured(self, step: Step) -> bool:
        """Return whether a kind's memory has to be known first; starts measuring it where so, on each type of GPU."""
        kind, room = step.kind, self.room
        if kind.measure is None or not room.cluster.shares_gpus or room.cluster.num_gpus < 1 or kind.runs_on != "gpu":
            return False
        unknown = [t for t in room.gpu_types if (kind.name, t) not in room.shares]
        if not unknown:
            return False
        some_known = len(unknown) < len(room.gpu_types)
        ready = [s.key for s in self.execution.schedule.in_state("ready") if s.kind.name == kind.name]
        many = len(ready) > room.capacity["gpu"]
        for gpu_type in unknown if many else []:
            free = room.free("gpu") if room.named(gpu_type) is None else room.free_of(gpu_type)
            if (kind.name, gpu_type) not in self.probes and free >= 1:
                self.probes[kind.name, gpu_type] = Probe.start(
                    kind, ready, job=self.job, cluster=room.cluster, num_gpus=room.capacity["gpu"],
                    gpu_type=room.named(gpu_type),
                )  # fmt: skip
                room.taken["gpu"] += 1
        under_way = any(name == kind.name for name, _ in self.probes)
        return not some_known and (many or under_way)

    def _read_probes(self) -> None:
        for which, probe in list(self.probes.items()):
            if probe.ended:
                self.room.shares[which], note = probe.share()
                self.room.taken["gpu"] -= 1
                self.execution.watch.say(note)
                del self.probes[which]


def _is_shard(step: Step) -> bool:
    return step.kind.is_shard

"""One call of a run: which of its steps are done, what does the others, and what is recorded of it.

In: a run's folder, cluster options, a progress display. Out: steps done, attempts.jsonl, trials.parquet and the tables
of what ran (stages, steps, notes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from fulora.errors import InputError, fault
from sweeps.console.outlook import Outlook
from sweeps.console.progress import Progress, Shown
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.execution import Executor
from sweeps.core.gpu_hours import gpu_hours
from sweeps.core.lock import plan_of
from sweeps.core.mirror import Mirror, store_of
from sweeps.core.paths import RunPaths
from sweeps.core.selections import SELECTION, Selection
from sweeps.core.step import STAGES, Step, closure
from sweeps.core.store import Damaged, Done
from sweeps.core.tables import read_rows, write_table, write_trials
from sweeps.core.to_go import ToGo
from sweeps.core.usage import busy_seconds, usage_rows
from sweeps.engine.in_process import InProcess, alone_room
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.engine.room import Room

TRIAL_STAGES = ("judge", "lora", "search", "grid")
"""Kinds whose attempts are rows of trials.parquet."""


class Session:
    """A call that does what is missing; a context manager that leaves the cluster."""

    def __init__(self, paths: RunPaths, options: ClusterOptions, progress: Progress) -> None:
        self.paths, self.options, self.progress = paths, options, progress
        self.store = store_of(
            paths.root, storage=options.storage, cache=options.cache, cache_gb=options.cache_gb, say=progress.say
        )  # fmt: skip
        self.log = AttemptLog(paths.attempts)
        self.watch = _shown(progress, paths, options)
        self.began = len(self.log.attempts)
        self.where = "driver"
        self.needs_gpu = False
        """Whether a CPU is refused unless it was asked for."""
        self.steps: dict[str, Step] = {}
        """Every step this call has looked at, by key."""
        self._done: dict[str, Done | None] = {}
        self._stack = ExitStack()
        self._on_ray: Executor | None = None
        self._slots: float | None = None
        """GPUs, or without any the steps that run at once; None while this call did nothing but its first and last."""
        self._cluster: Cluster | None = None

    def __enter__(self) -> Session:
        if isinstance(self.store, Mirror):
            self.store.storage.check()
        if lost := self.log.repair():
            self.progress.say(f"damaged, restored from the records of the steps: attempts.jsonl (lines: {lost})")
        if self.paths.plan.is_file() and plan_of(self.paths) is None:
            self.progress.say("damaged, written again: plan.json")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def record(self, step: Step) -> Done | None:
        """Return a step's record where it is done; what is damaged is said and removed, so that it is done again."""
        if step.key not in self._done:
            self.steps[step.key] = step
            try:
                self._done[step.key] = self.store.done(step)
            except Damaged as error:
                self.progress.say(f"damaged, done again: {step.kind.name} {step.label!r}: {error}")
                self.store.discard(step)
                self._done[step.key] = None
        return self._done[step.key]

    def is_done(self, step: Step) -> bool:
        """Return whether a step is done."""
        return self.record(step) is not None

    def write(self, selections: Iterable[Selection]) -> None:
        """Write the selections that are not there, and those of images that lie elsewhere by now."""
        for selection in selections:
            self.record(selection.step)  # says what is damaged
            self._done.pop(selection.write(self.store).key)

    def missing(self, targets: Iterable[Step]) -> list[Step]:
        """Return what is not done of the targets and what they need, needs first.

        What only a step that is done needs is not done again, apart from the sources: their images are read by path
        long after the catalog is done.
        """
        found: dict[str, Step] = {}
        seen: set[str] = set()
        todo = deque(targets)
        if isinstance(self.store, Mirror):
            self.store.gather(todo)
        while todo:
            step = todo.popleft()  # first in, first out: the targets keep their order
            if step.key in seen:
                continue
            seen.add(step.key)
            done = self.is_done(step)
            if not done:
                found[step.key] = step
            todo += [need for need in step.all_needs if not done or need.kind.stage == "sources"]
        return [step for step in closure(list(found.values())) if step.key in found]

    def do(self, targets: Sequence[Step], *, in_process: bool = False) -> None:
        """Do what is missing of some steps. Failures are in the log; KeyboardInterrupt is re-raised."""
        todo = self.missing(targets)
        if not todo:
            return
        alone = in_process or self.options.executor == "process"
        limit = self.options.max_gpu_hours
        executor = InProcess(device=self.options.device, max_gpu_hours=limit) if alone else self._ray()
        if isinstance(self.store, Mirror):
            self.store.ship(todo)
        self.watch.begin(todo, self._outlook(todo, alone))
        try:
            executor.run(todo, store=self.store, log=self.log, watch=self.watch)
        finally:
            self.watch.end()
            for step in todo:
                self._done.pop(step.key, None)

    def _outlook(self, todo: Sequence[Step], alone: bool) -> Outlook:
        """Return what tells time and cost to go, with what is known of steps that are done."""
        room = alone_room(todo, self.options.device) if alone else Room(self.cluster).of_steps(todo)
        if self.options.executor == "process" or not alone:
            self._slots = room[0].get("gpu") or room[0]["cpu"]
        before = ((self.steps[key], done.seconds) for key, done in self._done.items() if done and done.seconds)
        to_go = ToGo(todo, room, before)
        return Outlook(to_go, spent=lambda: gpu_hours(self.log.attempts), price=self.options.price)

    @property
    def cluster(self) -> Cluster:
        """The cluster, joined or started when it is first asked for."""
        if self._cluster is None:
            from sweeps.engine.connection import connected

            self._cluster = self._stack.enter_context(connected(self.options, self.progress.say))
            self.where = str(self._cluster)
            self.progress.say(f"running on {self._cluster}")
            if self.options.address is not None:
                from sweeps.engine.preflight import check_nodes

                check_nodes(self.store, self.progress.say)
            if self.needs_gpu and not self._cluster.num_gpus and self.options.device == "auto":
                rule = "found no GPU, and this recipe fine-tunes a model of Stable Diffusion's size"
                remedy = "Use a machine or cluster with GPUs; --device cpu if days or weeks of CPU time are meant."
                raise InputError(fault("device", "auto", rule, remedy))
        return self._cluster

    def _ray(self) -> Executor:
        if self._on_ray is None:
            from sweeps.engine.on_ray import OnRay

            options = self.options
            self._on_ray = OnRay(self.cluster, max_retries=options.max_retries, wait_for_gpus=options.wait_for_gpus)
        return self._on_ray

    @contextmanager
    def watching(self, num_steps: int) -> Iterator[None]:
        """Show work that is no graph of steps: a search, images for another place."""
        self.watch.begin_work(num_steps)
        try:
            yield
        finally:
            self.watch.end()

    @property
    def failed(self) -> list[Attempt]:
        """The steps that this call tried and that are not done: the last attempt at each."""
        last = {a.trial_id: a for a in self.log.attempts[self.began :]}
        return [a for a in last.values() if a.status != "SUCCEEDED"]

    def save(self, planned: Sequence[Step]) -> None:
        """Write trials.parquet and the tables of what ran, for the steps of a plan."""
        self.log.take_up((step, record) for step in planned if (record := self.record(step)) is not None)
        order = {name: index for index, name in enumerate(TRIAL_STAGES)}
        trials = [a for a in self.log.attempts if a.stage in order]
        trials.sort(key=lambda a: (order[a.stage], a.started_at or "", a.trial_id, a.attempt))
        write_trials(self.paths.trials, trials)
        mine = self.log.of(planned)
        write_table(self.paths.table("steps"), "steps", self._step_rows(planned, mine))
        write_table(self.paths.table("stages"), "stages", self._stage_rows(planned, mine))
        write_table(self.paths.table("cost"), "cost", self._cost_rows(planned, mine))
        write_table(self.paths.table("notes"), "notes", self._note_rows(planned))

    def _step_rows(self, planned: Sequence[Step], attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
        stages = {step.key: step.kind.stage for step in planned}
        new = {(a.trial_id, a.attempt) for a in self.log.attempts[self.began :]}
        return [
            {
                "kind": a.stage, "stage": stages[a.trial_id], "label": a.label, "key": a.trial_id, "attempt": a.attempt,
                "status": a.status, "started_at": a.started_at, "seconds": a.seconds, "device": a.device,
                "node": a.provenance.get("node"), "gpu_ids": a.provenance.get("gpu_ids"),
                "peak_memory_bytes": a.peak_memory_bytes, "gpus": a.gpus, "energy_joules": a.energy_joules,
                "error_type": a.error_type,
                "error_message": a.error_message, "reused": (a.trial_id, a.attempt) not in new,
            }
            for a in attempts
        ]  # fmt: skip

    def _stage_rows(self, planned: Sequence[Step], attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
        """Return a row per stage: how long its steps took together, whichever call did them."""
        before = {row["stage"]: row for row in _old_rows(self.paths, "stages")}
        new = {(a.trial_id, a.attempt) for a in self.log.attempts[self.began :]}
        rows = []
        for stage in STAGES:
            mine = [step for step in planned if step.kind.stage == stage and step.kind.name != SELECTION.name]
            keys = {step.key for step in mine if self.is_done(step)}
            tried = [a for a in attempts if a.trial_id in keys and a.status == "SUCCEEDED" and a.started_at]
            if not tried:
                continue
            now = {a.trial_id for a in tried if (a.trial_id, a.attempt) in new}
            kept = before.get(stage)
            where = self.where if now or kept is None else kept["where"]
            failed = {a.trial_id for a in self.failed if self._stage_of(a.trial_id) == stage}
            rows.append(
                {
                    "stage": stage, "seconds": round(busy_seconds(tried), 2), "num_done": len(now),
                    "num_reused": len(keys) - len(now), "num_failed": len(failed), "where": where,
                    "started_at": min(a.started_at or "" for a in tried),
                }
            )  # fmt: skip
        return rows

    def _cost_rows(self, planned: Sequence[Step], attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
        """Return what the attempts of all calls used; what this call does not know is as it was."""
        old = next(iter(_old_rows(self.paths, "cost")), {})
        price = old.get("price") if self.options.price is None else self.options.price
        stages = {step.key: step.kind.stage for step in planned}
        return usage_rows(attempts, stages, slots=self._slots or old.get("slots"), price=price)

    def _stage_of(self, key: str) -> str | None:
        step = self.steps.get(key)
        return step.kind.stage if step else None

    def _note_rows(self, planned: Sequence[Step]) -> list[dict[str, str]]:
        """Return each note once: those of steps that are done, by stage, and what was said of the cluster."""
        found = [
            (stage, note)
            for stage in STAGES
            for step in planned
            if step.kind.stage == stage and (record := self.record(step)) is not None
            for note in record.notes
        ]
        found += [(row["stage"], row["note"]) for row in _old_rows(self.paths, "notes") if "GiB" in row["note"]]
        found += [("lora", note) for note in self.watch.notes]
        return [{"stage": stage, "note": note} for stage, note in dict.fromkeys(found)]


def _shown(progress: Progress, paths: RunPaths, options: ClusterOptions) -> Shown:
    if not options.log:
        return Shown(progress, paths)
    from sweeps.console.loggers import Logged

    return Logged(progress, paths, options.log)


def _old_rows(paths: RunPaths, name: str) -> list[dict[str, Any]]:
    try:
        return read_rows(paths.table(name), name)
    except InputError:  # not there, damaged, or of another version: it is written again
        return []

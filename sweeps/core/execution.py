"""Do the steps of a graph: what every executor is, what it tells, and the bookkeeping they share.

In: the steps to do, the store, the log. Out: files in the store, a row in the log for each attempt. `Execution` alone
writes to the log, in the driver; it holds what becomes of a failure: retried, done after its need, or blocking.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from fulora.errors import InputError
from sweeps.core.attempts import Attempt, AttemptLog, attempt_of, success_of
from sweeps.core.gpu_hours import GpuMeter, refused_attempt
from sweeps.core.schedule import Schedule, Wanted, any_step
from sweeps.core.step import Step, closure
from sweeps.core.store import Damaged, Store

_LONGEST_WAIT = 60.0
"""Seconds between two attempts at most."""
_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError")
_NEED_ERRORS = ("Damaged", "FileNotFoundError")
_STOPS = "StorageRefused"
"""What every other step would meet too: a storage that takes no more."""
_RETRIED = "StorageUnreachable"
"""What another node, or a later time, may not meet."""


class Watch(Protocol):
    """Is told in the driver how the steps go on; called from one thread at a time."""

    def started(self, step: Step) -> None:
        """An attempt at a step began."""

    def placed(self, step: Step, where: Mapping[str, str | None]) -> None:
        """A step runs on a `node`, with some `gpu_ids`."""

    def progress(self, step: Step, fraction: float, note: str) -> None:
        """A step is done to a fraction of 0 to 1."""

    def ended(self, step: Step, attempt: Attempt) -> None:
        """An attempt ended, or a step is blocked."""

    def say(self, text: str) -> None:
        """Something the user is to know, in one line."""


class Executor(Protocol):
    """Does the steps of a graph somewhere."""

    def run(self, steps: Sequence[Step], *, store: Store, log: AttemptLog, watch: Watch) -> None:
        """Do the steps, given in topological order, and return when nothing more can be done.

        Needs outside of them are done. Every attempt is added to the log; on KeyboardInterrupt running
        attempts are added as CANCELLED, and it is re-raised.
        """


class Execution:
    """The steps of one run of an executor: hands them out and takes their attempts back.

    Failures of the infrastructure (the process or the node died) are retried with back-off, out of memory beside
    another trial with a device of its own. A damaged need is done again before what needs it. Any other failure is
    final and blocks what needs the step. Once the meter's limit is reached nothing on GPUs starts. Safe in threads.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        store: Store,
        log: AttemptLog,
        watch: Watch,
        max_retries: int = 3,
        backoff_seconds: float = 1.0,
        meter: GpuMeter | None = None,
    ) -> None:
        self.store, self.watch, self.meter = store, watch, meter or GpuMeter(log)
        self.schedule = Schedule(steps)
        self.whole_device: set[str] = set()
        """Keys of steps that ran out of memory beside another: they get a device of their own."""
        self._log, self._max_retries, self._backoff = log, max_retries, backoff_seconds
        self._numbers: dict[str, int] = {}
        self._started: dict[str, Step] = {}
        self._causes: dict[str, str] = {}
        self._retries: Counter[str] = Counter()
        self._delayed: list[tuple[float, Step]] = []
        self._refusal = ""
        self._lock = threading.RLock()
        self._stopped: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing runs, waits or is to be retried."""
        with self._lock:
            if self._stopped is not None:
                return self.schedule.count("running") == len(self._delayed)
            return self.schedule.finished

    def stop(self, error: Exception) -> None:
        """Hand out nothing more; `raise_if_stopped` raises the error once all that is out is back."""
        with self._lock:
            self._stopped = self._stopped or error

    def close(self) -> None:
        """Take nothing back any more."""

    def raise_if_stopped(self) -> None:
        """Raise what stopped the run."""
        if self._stopped is not None:
            raise self._stopped

    def take(self, wanted: Wanted = any_step) -> tuple[Step, int] | None:
        """Return the next step that is ready and wanted, and the number of its attempt; None where there is none."""
        with self._lock:
            self._wake()
            step = None if self._stopped is not None else self.schedule.take(wanted)
            if step is None:
                return None
            self._numbers[step.key] = self._log.next_number(step.key)
            return step, self._numbers[step.key]

    def peek(self, wanted: Wanted = any_step) -> Step | None:
        """Return the step that `take` would."""
        with self._lock:
            self._wake()
            return None if self._stopped is not None else self.schedule.peek(wanted)

    def any_left(self, runs_on: str) -> bool:
        """Return whether a step that runs on some device is ready, waits to be retried, or is out."""
        with self._lock:
            left = (*self.schedule.in_state("ready"), *self.schedule.in_state("running"))
            return any(step.kind.runs_on == runs_on for step in left)

    def is_out(self, step: Step) -> bool:
        """Return whether an attempt at a step was handed out and is not back."""
        with self._lock:
            return step.key in self._numbers

    def started(self, step: Step) -> None:
        """Note that the work of a step began."""
        with self._lock:
            if step.key in self._numbers and step.key not in self._started:
                self._started[step.key] = step
                self.meter.begin(step)
                self.watch.started(step)

    def placed(self, step: Step, where: Mapping[str, str | None]) -> None:
        """Pass on where a step runs."""
        with self._lock:
            if step.key in self._numbers:
                self.watch.placed(step, where)

    def progress(self, step: Step, fraction: float, note: str) -> None:
        """Pass on how far a step is."""
        with self._lock:
            if step.key in self._numbers:
                self.watch.progress(step, fraction, note)

    def ended(self, step: Step, attempt: Attempt, *, beside_others: bool = False) -> None:
        """Take the attempt at a step back; `beside_others` where it shared its device. A second time does nothing."""
        with self._lock:
            if self._numbers.get(step.key) != attempt.attempt:
                return
            self.started(step)
            self._add(step, attempt)
            if attempt.status == "SUCCEEDED":
                self.schedule.succeeded(step)
            elif attempt.error_type in _MEMORY_ERRORS and beside_others and step.key not in self.whole_device:
                self.whole_device.add(step.key)
                self.watch.say(f"{step.label} ran out of memory beside another trial: it is retried alone on a device")
                self._block(self.schedule.again(step), step)
            elif attempt.error_type in _NEED_ERRORS and self._redo_needs(step):
                self._block(self.schedule.again(step), step)
            elif attempt.error_type == _RETRIED:
                self._retry(step, attempt)
            else:
                if attempt.error_type == _STOPS:
                    self.stop(InputError((attempt.error_message or "").split("\n")))
                self._fail(step, attempt)

    def died(self, step: Step, number: int, reason: str) -> None:
        """Note that the process of an attempt ended without an answer; the step is retried, at most `max_retries`."""
        with self._lock:
            if self._numbers.get(step.key) != number:
                return
            if (success := self._success(step, number)) is not None:
                self.ended(step, success)
                return
            attempt = attempt_of(step, "FAILED", number, error_type="WorkerDied", error_message=reason)
            self.started(step)
            self._add(step, attempt)
            self._retry(step, attempt)

    def not_begun(self, step: Step, number: int) -> None:
        """Take back a step that was handed out and did not begin."""
        with self._lock:
            if self._numbers.get(step.key) == number:
                del self._numbers[step.key]
                self._block(self.schedule.again(step), step)

    def cancel(self, reason: str = "stopped by the user") -> None:
        """Add a CANCELLED row for every attempt under way; nothing is taken back any more."""
        with self._lock:
            for step in list(self._started.values()):
                number = self._numbers[step.key]
                cancelled = attempt_of(step, "CANCELLED", number, error_message=reason)
                self._add(step, self._success(step, number) or cancelled)
            self._numbers.clear()

    def _retry(self, step: Step, attempt: Attempt) -> None:
        """Have a step tried again after a while, at most `max_retries` times."""
        if self._retries[step.key] >= self._max_retries:
            self._fail(step, attempt)
            return
        wait = min(_LONGEST_WAIT, self._backoff * 2 ** self._retries[step.key])
        self._retries[step.key] += 1
        self._delayed.append((time.monotonic() + wait, step))
        times = f"retry {self._retries[step.key]} of {self._max_retries}"
        self.watch.say(f"{step.label}: {attempt.error_message}; {times} in {wait:g} s")

    def _success(self, step: Step, number: int) -> Attempt | None:
        """Return the success that an attempt left in the store, though its process did not say so."""
        try:
            record = self.store.done(step)
        except Damaged:
            return None
        return success_of(step, record) if record is not None and record.attempt == number else None

    def _wake(self) -> None:
        """Give back the steps whose time to be retried has come."""
        now = time.monotonic()
        for due in [entry for entry in self._delayed if entry[0] <= now]:
            self._delayed.remove(due)
            self._block(self.schedule.again(due[1]), due[1])
        if self.meter.reached:
            self._refuse()

    def _refuse(self) -> None:
        """Start no step that holds a GPU any more: it is cancelled, and what needs it blocked."""
        refused = [step for step in self.schedule.in_state("ready") if self.meter.gpus(step)]
        if refused and not self._refusal:
            self._refusal = self.meter.in_words
            self.watch.say(f"{self._refusal}; no new work on GPUs starts, what runs goes on")
        for step in refused:
            self._causes[step.key] = self._refusal
            self._add(step, refused_attempt(step, self._log.next_number(step.key), self._refusal))
            self._block(self.schedule.failed(step), step)

    def _add(self, step: Step, attempt: Attempt) -> None:
        attempt = self.meter.end(step, attempt)
        self._numbers.pop(step.key, None)
        self._started.pop(step.key, None)
        self._log.add(attempt)
        self.watch.ended(step, attempt)

    def _fail(self, step: Step, attempt: Attempt) -> None:
        self._causes[step.key] = f"{step.kind.name} {step.label!r} failed ({attempt.error_type})"
        self._block(self.schedule.failed(step), step)

    def _block(self, blocked: Sequence[Step], at: Step) -> None:
        for step in blocked:
            known = (self._causes[need.key] for need in step.all_needs if need.key in self._causes)
            cause = self._causes[step.key] = next(known, f"{at.kind.name} {at.label!r} failed")
            number = self._log.next_number(step.key)
            self._add(step, attempt_of(step, "BLOCKED", number, error_type="NeedFailed", error_message=cause))

    def _redo_needs(self, step: Step) -> bool:
        """Have those needs of a step done again that are damaged or gone, or put back; return whether there are any."""
        if self._retries[step.key] >= self._max_retries:
            return False
        direct, every = step.all_needs, closure(step.all_needs)
        try:
            lost = [need for need in direct if self._is_lost(need)]
            lost = lost or [need for need in every if need not in direct and self._is_lost(need)]
            found = bool(lost) or self.store.mend(every)
        except InputError as error:  # the storage takes no more
            self.stop(error)
            return False
        self._retries[step.key] += found
        return found

    def _is_lost(self, need: Step) -> bool:
        """Return whether a step is not done, and have it done again where that is news."""
        if self.schedule.knows(need) and self.schedule.state(need) != "succeeded":
            return True
        try:
            reason = None if self.store.done(need) else "is gone"
        except Damaged as error:
            reason = f"{error.file} {error.reason}"
        if reason is None:
            return False
        self.store.discard(need)
        self.schedule.redo(need)
        self.watch.say(f"{need.kind.name} {need.label!r} is damaged ({reason}) and runs again")
        return True

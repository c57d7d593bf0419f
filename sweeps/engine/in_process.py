"""The executor that does one step after another in this process. Imports no Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from sweeps.core.attempts import AttemptLog
from sweeps.core.execution import Execution, Watch
from sweeps.core.perform import perform
from sweeps.core.step import Step
from sweeps.core.store import Store
from sweeps.engine.options import Device
from sweeps.engine.resources import prepare_worker


class InProcess:
    """Does steps here, the critical path first."""

    def __init__(self, num_threads: int = 1, device: Device = "auto") -> None:
        """Compute with `num_threads` threads; `device="cpu"` hides GPUs from this process."""
        self.num_threads, self.device = num_threads, device

    def run(self, steps: Sequence[Step], *, store: Store, log: AttemptLog, watch: Watch) -> None:
        """Do the steps; see `sweeps.core.execution.Executor`."""
        if not steps:
            return
        prepare_worker(self.num_threads, on_gpu=self.device != "cpu")
        execution = Execution(steps, store=store, log=log, watch=watch)
        try:
            while not execution.finished:
                if (taken := execution.take()) is None:
                    time.sleep(0.1)  # one waits to be tried again
                    continue
                step, number = taken
                execution.started(step)
                execution.ended(step, perform(step, store, number, partial(_report, execution, step)))
        except KeyboardInterrupt:
            execution.cancel()
            raise
        execution.raise_if_stopped()


def _report(execution: Execution, step: Step, values: dict[str, Any]) -> None:
    execution.progress(step, float(values.get("fraction", 0.0)), str(values.get("note", "")))

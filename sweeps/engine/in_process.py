"""The executor that does one step after another in this process. Imports no Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from sweeps.core.attempts import AttemptLog
from sweeps.core.execution import Execution, Watch
from sweeps.core.gpu_hours import GpuMeter
from sweeps.core.perform import perform
from sweeps.core.step import Step
from sweeps.core.store import Store
from sweeps.engine.options import Device
from sweeps.engine.resources import prepare_worker


class InProcess:
    """Does steps here, the critical path first."""

    def __init__(self, num_threads: int = 1, device: Device = "auto", max_gpu_hours: float | None = None) -> None:
        """Compute with `num_threads` threads; `device="cpu"` hides GPUs from this process."""
        self.num_threads, self.device, self.max_gpu_hours = num_threads, device, max_gpu_hours

    def run(self, steps: Sequence[Step], *, store: Store, log: AttemptLog, watch: Watch) -> None:
        """Do the steps; see `sweeps.core.execution.Executor`."""
        if not steps:
            return
        prepare_worker(self.num_threads, on_gpu=self.device != "cpu")
        meter = GpuMeter(log, lambda step: gpus_here(step, self.device), self.max_gpu_hours)
        execution = Execution(steps, store=store, log=log, watch=watch, meter=meter)
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


def gpus_here(step: Step, device: Device) -> float:
    """Return the GPUs a step holds in this process: one where it uses any."""
    torch = sys.modules.get("torch")  # what computes has imported it
    uses = step.kind.runs_on == "gpu" and device != "cpu" and torch is not None and torch.cuda.is_available()
    return 1.0 if uses else 0.0


def alone_room(steps: Iterable[Step], device: Device) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    """Return the room of one step after another, as `Room.of_steps` does; the lane says whether GPUs are used."""
    lanes = {step.key: "gpu" if gpus_here(step, device) else "cpu" for step in steps}
    lane = "gpu" if "gpu" in lanes.values() else "cpu"
    return {lane: 1.0}, {key: (lane, 1.0) for key in lanes}


def _report(execution: Execution, step: Step, values: dict[str, Any]) -> None:
    execution.progress(step, float(values.get("fraction", 0.0)), str(values.get("note", "")))

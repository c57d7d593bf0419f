"""Do one step in this process: the failure boundary, where what a step raises becomes a row.

In: a step whose needs are done, the store. Out: its attempt; where it succeeded, its files and record are in the store.
"""

from __future__ import annotations

import os
import time
import traceback
from datetime import UTC, datetime
from typing import Any

from fulora.errors import InputError
from sweeps.core.attempts import Attempt, attempt_of, success_of
from sweeps.core.provenance import provenance
from sweeps.core.step import Report, Step
from sweeps.core.store import Place, Store


def perform(step: Step, store: Store, number: int, report: Report, placement: dict[str, Any] | None = None) -> Attempt:
    """Return the attempt at a step; never raises for what its work raises (but for KeyboardInterrupt and the like)."""
    from fulora.device import process_peak_bytes
    from fulora.energy import energy_joules

    energy = energy_joules() if step.kind.runs_on == "gpu" else None
    began, started_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    facts: dict[str, Any] = {**provenance(), **(placement or {})}
    try:
        with store.working(step):
            record = store.earlier(step, number)
            if record is None:
                with store.writing(step) as beside:
                    metrics = dict(step.kind.load()(step, Place(store, step, beside), report))
                    device = metrics.pop("device", None)
                    used = None if energy is None else energy_joules()
                    record = store.keep(
                        step,
                        beside,
                        attempt=number,
                        started_at=started_at,
                        seconds=round(time.perf_counter() - began, 3),
                        device=device,
                        peak_memory_bytes=metrics.pop("peak_memory_bytes", None) or process_peak_bytes(),
                        notes=tuple(metrics.pop("notes", ())),
                        energy_joules=None if used is None or energy is None else used - energy,
                        metrics=metrics,
                        provenance=facts | _speed(device),
                    )
            store.finish(step, record)
            store.drop_checkpoints(step)  # only once the record is there is a checkpoint needless
    except Exception as error:  # the boundary: a failure is a row, with its last frame
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f" (in {frame.name}, {os.path.basename(frame.filename)}:{frame.lineno})"
        words = str(error) + ("" if isinstance(error, InputError) else where)
        return attempt_of(
            step, "FAILED", number, provenance=facts, started_at=started_at,
            seconds=round(time.perf_counter() - began, 3), peak_memory_bytes=process_peak_bytes(),
            error_type=type(error).__name__, error_message=words,
        )  # fmt: skip
    return success_of(step, record)


def _speed(device: str | None) -> dict[str, Any]:
    """Return the flags that decide speed on a device, as columns of provenance."""
    from fulora.device import speed_flags

    return {f"speed_{name}": value for name, value in speed_flags(device).items()} if device else {}

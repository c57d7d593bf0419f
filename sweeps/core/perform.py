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
from sweeps.core.files import remove
from sweeps.core.provenance import provenance
from sweeps.core.step import Report, Step
from sweeps.core.store import Place, Store


def perform(step: Step, store: Store, number: int, report: Report, placement: dict[str, Any] | None = None) -> Attempt:
    """Return the attempt at a step; never raises for what its work raises (but for KeyboardInterrupt and the like)."""
    from fulora.device import process_peak_bytes

    began, started_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    facts = {**provenance(), **(placement or {})}
    try:
        with store.writing(step) as beside:
            metrics = dict(step.kind.load()(step, Place(store, step, beside), report))
            record = store.keep(
                step,
                beside,
                attempt=number,
                started_at=started_at,
                seconds=round(time.perf_counter() - began, 3),
                device=metrics.pop("device", None),
                peak_memory_bytes=metrics.pop("peak_memory_bytes", None) or process_peak_bytes(),
                notes=tuple(metrics.pop("notes", ())),
                metrics=metrics,
                provenance=facts,
            )
    except Exception as error:  # the boundary: a failure is a row, with its last frame
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f" (in {frame.name}, {os.path.basename(frame.filename)}:{frame.lineno})"
        words = str(error) + ("" if isinstance(error, InputError) else where)
        return attempt_of(
            step, "FAILED", number, provenance=facts, started_at=started_at,
            seconds=round(time.perf_counter() - began, 3), peak_memory_bytes=process_peak_bytes(),
            error_type=type(error).__name__, error_message=words,
        )  # fmt: skip
    remove(store.scratch(step))  # only once the record is there is a checkpoint needless
    return success_of(step, record)

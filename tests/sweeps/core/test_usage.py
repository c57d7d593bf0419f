"""What a run has used: GPU-hours, retries, idle share, memory, energy and money, by stage and in all."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.core.attempts import Attempt
from sweeps.core.usage import busy_seconds, merged, usage_rows

STAGES = {"rank": "lora", "shard": "sample", "cell": "grid", "table": "report"}


def attempt(key: str, start: int, seconds: float | None, number: int = 1, **known: Any) -> Attempt:
    at = f"2026-01-01T00:{start // 60:02d}:{start % 60:02d}+00:00"
    given = {"status": "SUCCEEDED", "gpus": 1.0, "started_at": at} | known
    return Attempt(trial_id=key, stage=key, label=key, attempt=number, seconds=seconds, **given)


def by_stage(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in rows}


def test_gpus_count_as_they_were_held() -> None:
    found = by_stage(
        usage_rows(
            [
                attempt("rank", 0, 60, status="FAILED", peak_memory_bytes=5),
                attempt("rank", 60, 60, 2, peak_memory_bytes=7),
                attempt("shard", 60, 30),
                attempt("cell", 200, 100, gpus=0.5, energy_joules=9.0),
                attempt("table", 300, 50, gpus=0.0),
                attempt("cell", 0, None, 2, status="CANCELLED", gpus=None),
            ],
            STAGES,
            slots=2,
            price=36.0,
        )
    )
    assert list(found) == ["lora", "sample", "grid", "report", "all"]
    lora = found["lora"]
    assert (lora["num_steps"], lora["num_attempts"], lora["num_retries"], lora["attempt_seconds"]) == (1, 2, 1, 120)
    assert lora["gpu_hours"] == pytest.approx(120 / 3600) and lora["money"] == pytest.approx(1.2)
    assert lora["peak_memory_bytes"] == 7 and lora["energy_joules"] is None
    assert lora["idle_share"] == pytest.approx(1 - (60 + 60 + 30) / (2 * 120)), "the shard ran beside it"
    assert found["grid"]["energy_joules"] == 9.0 and found["grid"]["num_retries"] == 0
    assert found["grid"]["idle_share"] == pytest.approx(1 - 0.5 / 2)
    assert found["report"]["gpu_hours"] == 0 and found["report"]["idle_share"] is None, "it asks for no GPU"
    whole = found["all"]
    assert whole["gpu_hours"] == pytest.approx((120 + 30 + 50) / 3600) and whole["energy_joules"] is None
    assert whole["idle_share"] == pytest.approx(1 - (120 + 30 + 50) / (2 * (120 + 100)))


def test_without_gpus_slots_count() -> None:
    rows = [attempt("rank", 0, 60, gpus=0.0), attempt("cell", 30, 60, gpus=0.0)]
    found = by_stage(usage_rows(rows, STAGES, slots=2, price=None))
    assert found["all"]["idle_share"] == pytest.approx(1 - 120 / (2 * 90))
    assert (found["all"]["gpu_hours"], found["all"]["money"]) == (0, None)
    assert by_stage(usage_rows(rows, STAGES, slots=None, price=None))["all"]["idle_share"] is None
    assert usage_rows([], STAGES, slots=2, price=1.0) == []


def test_times_that_overlap_count_once() -> None:
    assert merged([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert busy_seconds([attempt("rank", 0, 60), attempt("cell", 30, 10), attempt("cell", 100, 5)]) == 65

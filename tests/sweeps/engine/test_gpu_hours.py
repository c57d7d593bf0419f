"""GPU-hours: counted by attempt, and a limit after which nothing new starts, is said, and can be raised."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sweeps.core.execution import Execution
from sweeps.core.gpu_hours import LIMIT_REACHED, GpuMeter, gpu_hours
from sweeps.core.perform import perform
from sweeps.core.step import Step
from sweeps.engine.connection import connected
from sweeps.engine.on_ray import OnRay
from sweeps.engine.options import ClusterOptions

from .fake_steps import SHARD, TABLE, Bench

SECOND = 1 / 3600


class OneAfterAnother:
    """Does steps in this process, as if those of GPU kinds held half a GPU each."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit

    def run(self, steps: list[Step], *, store, log, watch) -> None:
        meter = GpuMeter(log, lambda s: 0.5 if s.kind.runs_on == "gpu" else 0.0, self.limit)
        execution = Execution(steps, store=store, log=log, watch=watch, meter=meter)
        while (taken := execution.take()) is not None:
            execution.started(taken[0])
            execution.ended(taken[0], perform(taken[0], store, taken[1], lambda values: None))
        assert execution.finished


def test_the_limit_stops_new_work_on_gpus_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.fake("first", cost=9, seconds=0.4)
    second, third = bench.fake("second", cost=5), bench.fake("third", cost=4)
    after, table = bench.fake("after", second, cost=1, kind=TABLE), bench.fake("table", kind=TABLE, cost=0.1)
    steps = (first, second, third, after, table)
    bench.do(OneAfterAnother(0.1 * SECOND), *steps)
    assert bench.rows() == {
        "first": ["SUCCEEDED"], "second": ["CANCELLED"], "third": ["CANCELLED"], "after": ["BLOCKED"],
        "table": ["SUCCEEDED"],
    }, "what needs no GPU goes on"  # fmt: skip
    by_label = {a.label: a for a in bench.log.attempts}
    assert by_label["first"].gpus == 0.5 and by_label["table"].gpus == 0.0 and by_label["second"].gpus is None
    assert 0.2 * SECOND <= gpu_hours(bench.log.attempts) < 5 * SECOND
    assert by_label["second"].error_type == LIMIT_REACHED
    assert "--max-gpu-hours" in (by_label["after"].error_message or "")
    assert len([text for text in bench.watch.said if "no new work on GPUs starts" in text]) == 1
    bench.do(OneAfterAnother(0.1 * SECOND), *steps)
    assert bench.rows()["second"] == ["CANCELLED"] * 2, "earlier calls count"
    bench.do(OneAfterAnother(1.0), *steps)
    assert bench.rows()["after"] == ["BLOCKED", "BLOCKED", "SUCCEEDED"]
    assert all(bench.store.done(step) for step in steps)


def test_time_of_a_process_that_died_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    step = bench.fake("dies")
    meter = GpuMeter(bench.log, lambda s: 2.0)
    execution = Execution([step], store=bench.store, log=bench.log, watch=bench.watch, max_retries=0, meter=meter)
    assert execution.take() is not None
    execution.started(step)
    time.sleep(0.2)
    assert meter.spent >= 0.4 * SECOND, "what is under way counts"
    execution.died(step, 1, "killed")
    (attempt,) = bench.log.attempts
    assert attempt.gpus == 2.0 and attempt.seconds == pytest.approx(0.2, abs=0.15)
    assert meter.spent == pytest.approx(gpu_hours([attempt]))


def test_a_shard_that_a_wave_did_not_begin_is_refused_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    shards = [bench.fake(f"shard {i}", kind=SHARD, cost=2 - i) for i in range(2)]
    meter = GpuMeter(bench.log, lambda s: 1.0, 0.01 * SECOND)
    execution = Execution(shards, store=bench.store, log=bench.log, watch=bench.watch, meter=meter)
    (first, number), (second, other) = (taken for _ in shards if (taken := execution.take()))
    execution.started(first)
    execution.ended(first, perform(first, bench.store, number, lambda values: time.sleep(0.1)))
    execution.not_begun(second, other)
    execution.not_begun(second, other)
    assert execution.take() is None and execution.finished
    assert bench.rows() == {"shard 0": ["SUCCEEDED"], "shard 1": ["CANCELLED"]}


def test_the_limit_on_ray_with_logical_gpus(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    trials = [bench.fake(f"trial {i}", seconds=1.0, cost=10 - i) for i in range(5)]
    shard = bench.fake("shard", kind=SHARD, cost=0.5)
    wave = [bench.fake(f"of a wave {i}", kind=SHARD, seconds=0.5, cost=20) for i in range(8)]
    table = bench.fake("table", *trials, kind=TABLE)
    with connected(ClusterOptions(num_cpus=2, num_gpus=1)) as cluster:
        bench.do(OnRay(cluster, max_gpu_hours=1.5 * SECOND), *trials, shard, table)
        rows = bench.rows()
        assert rows["trial 0"] == ["SUCCEEDED"] and rows["trial 4"] == rows["shard"] == ["CANCELLED"]
        assert rows["table"] == ["BLOCKED"]
        assert {a.gpus for a in bench.log.attempts if a.status == "SUCCEEDED"} == {1.0}
        bench.do(OnRay(cluster, max_gpu_hours=1.0), *trials, shard, table)
        used = gpu_hours(bench.log.attempts)
        bench.do(OnRay(cluster, max_gpu_hours=used + 1.0 * SECOND), *wave)
        ended = [bench.rows()[step.label] for step in wave]
        assert ended.count(["SUCCEEDED"]) < 6 and ended.count(["CANCELLED"]) >= 2, "a wave stops between two shards"
        bench.do(OnRay(cluster), *wave)
        assert all(bench.store.done(step) for step in wave)
    assert all(bench.store.done(step) for step in (*trials, shard, table))

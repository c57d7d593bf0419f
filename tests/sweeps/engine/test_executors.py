"""What every executor promises, over both: in this process, and on Ray with two cores. The work is real and tiny."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.core.attempts import AttemptLog
from sweeps.core.execution import Executor
from sweeps.engine.connection import connected
from sweeps.engine.in_process import InProcess
from sweeps.engine.on_ray import OnRay
from sweeps.engine.options import ClusterOptions

from .fake_steps import SHARD, TABLE, Bench, entries


@pytest.fixture(scope="module")
def on_ray() -> Iterator[OnRay]:
    """Return the executor on Ray, on two cores of this machine."""
    with connected(ClusterOptions(num_cpus=2)) as cluster:
        yield OnRay(cluster, backoff_seconds=0.1)


@pytest.fixture(params=["in process", "on Ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Return each executor in turn."""
    return InProcess() if request.param == "in process" else request.getfixturevalue("on_ray")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return an empty store, log and diary."""
    return Bench(tmp_path)


def test_a_graph_is_done_in_order_once_and_never_again(executor: Executor, bench: Bench) -> None:
    source = bench.fake("source", kind=TABLE)
    adapters = [bench.fake(f"adapter-{i}", source, cost=i) for i in range(2)]
    shards = [bench.fake(f"shard-{i}", *adapters, kind=SHARD) for i in range(4)]
    trials = [bench.fake("real", source), bench.fake("hybrid", *shards)]
    report = bench.fake("report", *trials, kind=TABLE)
    steps = [source, *adapters, *shards, *trials, report]
    bench.do(executor, *steps)
    assert bench.rows() == {step.label: ["SUCCEEDED"] for step in steps}
    diary = {name: runs for name, runs in entries(bench.diary).items()}
    assert {name: len(runs) for name, runs in diary.items()} == {step.label: 1 for step in steps}
    for step in steps:
        for need in step.all_needs:
            assert diary[need.label][0]["ended"] <= diary[step.label][0]["began"], f"{step} began before {need}"
    assert bench.names(report) == sorted(step.label for step in steps)
    assert bench.names(shards[1]) == ["adapter-0", "adapter-1", "shard-1", "source"]
    for step in steps:
        (first, *_, last) = bench.watch.of(step.label)
        assert (first, last) == ("started", "SUCCEEDED")
        record = bench.store.done(step)
        assert record is not None and record.metrics == {"num_names": len(bench.names(step))} and record.attempt == 1
    assert AttemptLog(bench.log.file).attempts == bench.log.attempts, "the log on disk is the log in memory"
    bench.do(executor, *steps)
    assert {name: len(runs) for name, runs in entries(bench.diary).items()} == {step.label: 1 for step in steps}
    assert len(bench.log.attempts) == len(steps)


def test_a_failure_is_a_row_and_blocks_only_what_needs_it(executor: Executor, bench: Bench) -> None:
    bad, good = bench.fake("bad", raises="the loss is not finite"), bench.fake("good")
    bad_shard = bench.fake("bad shard", raises="no such seed", kind=SHARD)
    after_bad, after_good = bench.fake("after bad", bad, kind=SHARD), bench.fake("after good", good)
    report = bench.fake("report", after_bad, after_good, kind=TABLE)
    after_shard = bench.fake("after shard", bad_shard)
    steps = (bad, good, bad_shard, after_bad, after_good, report, after_shard)
    bench.do(executor, *steps)
    rows = {
        "bad": ["FAILED"], "bad shard": ["FAILED"], "good": ["SUCCEEDED"], "after good": ["SUCCEEDED"],
        "after bad": ["BLOCKED"], "report": ["BLOCKED"], "after shard": ["BLOCKED"],
    }  # fmt: skip
    assert bench.rows() == rows
    by_label = {attempt.label: attempt for attempt in bench.log.attempts}
    assert by_label["bad"].error_type == "ValueError"
    assert (
        by_label["bad"].error_message is not None and "the loss is not finite (in work" in by_label["bad"].error_message
    )
    for label in ("after bad", "report"):
        assert by_label[label].error_message == "trial 'bad' failed (ValueError)"
    assert by_label["after shard"].error_message == "shard 'bad shard' failed (ValueError)"
    assert not bench.store.folder(bad).exists() and bench.watch.of("report") == ["BLOCKED"]
    bench.do(executor, *steps)
    assert bench.rows() == {k: v if v == ["SUCCEEDED"] else v * 2 for k, v in rows.items()}
    assert [a.attempt for a in bench.log.attempts if a.label == "bad"] == [1, 2], "attempts are numbered over runs"


def test_needs_that_are_damaged_or_gone_are_done_again_and_it_is_said(executor: Executor, bench: Bench) -> None:
    source = bench.fake("source", kind=TABLE)
    cut, gone = bench.fake("cut", source, kind=SHARD), bench.fake("gone", source)
    needs = [source, cut, gone, bench.fake("cut later", source)]
    bench.do(InProcess(), *needs)
    before = [bench.names(step) for step in needs]
    (bench.store.folder(cut) / "names.txt").write_text("")
    bench.store.discard(gone)
    users = [bench.fake(f"user of {need.label}", need, truncates=need.label == "cut later") for need in needs]
    executor.run(users, store=bench.store, log=bench.log, watch=bench.watch)
    once, twice, again = ["SUCCEEDED"], ["SUCCEEDED", "SUCCEEDED"], ["FAILED", "SUCCEEDED"]
    assert bench.rows() == {
        "source": once, "cut": twice, "gone": twice, "cut later": twice, "user of source": once, "user of cut": again,
        "user of gone": again, "user of cut later": again,
    }  # fmt: skip
    assert [bench.names(step) for step in needs] == before
    assert bench.names(users[1]) == ["cut", "source", "user of cut"]
    assert sorted(bench.watch.said) == [
        "shard 'cut' is damaged (names.txt has 0 bytes instead of 11) and runs again",
        "trial 'cut later' is damaged (names.txt has 0 bytes instead of 17) and runs again",
        "trial 'gone' is damaged (is gone) and runs again",
    ]  # fmt: skip
    types = {a.label: a.error_type for a in bench.log.attempts if a.status == "FAILED"}
    assert types == {"user of cut": "Damaged", "user of gone": "FileNotFoundError", "user of cut later": "Damaged"}


def test_what_runs_when_the_user_stops_it_becomes_cancelled(executor: Executor, bench: Bench) -> None:
    quick, slow = bench.fake("quick", cost=9), bench.fake("slow", seconds=60)
    after = bench.fake("after", slow)
    with interrupted(lambda: bench.watch.of("slow")[1:] == ["0.5 half of slow"]), pytest.raises(KeyboardInterrupt):
        bench.do(executor, quick, slow, after)
    assert bench.rows() == {"quick": ["SUCCEEDED"], "slow": ["CANCELLED"]}
    (cancelled,) = [a for a in bench.log.attempts if a.status == "CANCELLED"]
    assert cancelled.error_message == "stopped by the user"
    meets = 0 if isinstance(executor, InProcess) else 4  # on Ray both at once: what was stopped holds no core
    bench.do(executor, bench.fake("next", meets=meets), bench.fake("and next", meets=meets))
    assert bench.rows()["next"] == bench.rows()["and next"] == ["SUCCEEDED"]


def test_what_a_killed_process_did_is_tried_again_so_many_times(on_ray: OnRay, bench: Bench) -> None:
    twice = OnRay(on_ray.cluster, max_retries=1, backoff_seconds=0.1)
    trial, shard = bench.fake("trial", kills=1), bench.fake("shard", kind=SHARD, kills=1)
    never, other = bench.fake("never", kills=9), bench.fake("other shard", kind=SHARD)
    after = bench.fake("after", never, trial, kind=TABLE)
    bench.do(twice, trial, shard, never, other, after)
    assert bench.rows() == {
        "trial": ["FAILED", "SUCCEEDED"], "shard": ["FAILED", "SUCCEEDED"], "never": ["FAILED", "FAILED"],
        "other shard": ["SUCCEEDED"], "after": ["BLOCKED"],
    }  # fmt: skip
    died = [a for a in bench.log.attempts if a.status == "FAILED"]
    assert {a.error_type for a in died} == {"WorkerDied"} and all("killed" in str(a.error_message) for a in died)
    (blocked,) = [a for a in bench.log.attempts if a.status == "BLOCKED"]
    assert blocked.error_message == "trial 'never' failed (WorkerDied)"
    assert any(said.startswith("shard: its process ended") and "retry 1 of 1" in said for said in bench.watch.said)
    assert {name: len(runs) for name, runs in entries(bench.diary).items()} == {
        "trial": 2, "shard": 2, "never": 2, "other shard": 1
    }  # fmt: skip


class interrupted:
    """Sends this process Ctrl-C once something is true."""

    def __init__(self, when: Callable[[], bool]) -> None:
        self.when, self.over = when, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: Any) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            if self.when():
                os.kill(os.getpid(), signal.SIGINT)
                return

"""Processes and nodes that are killed while a study runs: it ends as if nothing had been. All real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.core.step import Step
from sweeps.engine.in_process import InProcess

from .clusters import RayProcesses
from .fake_steps import Bench, entries
from .fake_study import study

ROOT = Path(__file__).parents[3]


@pytest.fixture
def two_nodes() -> Iterator[RayProcesses]:
    """A head with a core, for a second node to join."""
    with RayProcesses(num_cpus=1) as cluster:
        yield cluster


def driver(cluster: RayProcesses, bench: Bench, *words: str) -> subprocess.Popen[str]:
    """Start the study on the cluster."""
    command = [sys.executable, "-m", "tests.sweeps.engine.fake_study", str(bench.root), cluster.address, *words]
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def at_work(bench: Bench, but: set[int]) -> list[int]:
    """Return the processes that do a step by now."""
    found = entries(bench.diary) if bench.diary.is_dir() else {}
    return [runs[-1]["pid"] for runs in found.values() if "ended" not in runs[-1] and runs[-1]["pid"] not in but]


def check_equal(bench: Bench, steps: list[Step]) -> None:
    """Assert that every step is done, and with the files of a run in one process that nothing disturbed."""
    undisturbed = Bench(bench.root / "undisturbed")
    undisturbed.diary = bench.diary
    calm = [step for step in study(undisturbed)]
    assert [step.key for step in calm] == [step.key for step in steps]
    undisturbed.do(InProcess(), *calm)
    for step in steps:
        assert bench.names(step) == undisturbed.names(step)


def wait_for(condition: object, seconds: float = 120) -> None:
    """Wait until a function returns something true."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_node_that_is_killed_costs_an_attempt_of_what_it_did_and_no_more(
    two_nodes: RayProcesses, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    steps = study(bench)
    node = two_nodes.add_node(num_cpus=1)
    process = driver(two_nodes, bench)
    wait_for(lambda: bench.diary.is_dir() and len(at_work(bench, set())) == 2)
    two_nodes.kill(node)
    assert process.wait(240) == 0, process.communicate()[1][-3000:]
    rows = Bench(tmp_path).rows()
    assert {statuses[-1] for statuses in rows.values()} == {"SUCCEEDED"} and len(rows) == len(steps)
    lost = [a for a in Bench(tmp_path).log.attempts if a.status != "SUCCEEDED"]
    assert {a.error_type for a in lost} == {"WorkerDied"} and 1 <= len(lost) <= 2, lost
    check_equal(bench, steps)


@pytest.mark.slow
def test_eight_processes_killed_at_random_moments_change_no_file(two_nodes: RayProcesses, tmp_path: Path) -> None:
    bench, rng = Bench(tmp_path), random.Random(0)
    steps = study(bench)
    two_nodes.add_node(num_cpus=1)
    process, killed = driver(two_nodes, bench), set()
    while len(killed) < 8 and process.poll() is None:
        time.sleep(rng.uniform(0.1, 0.6))
        for pid in at_work(bench, killed)[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert process.wait(300) == 0, process.communicate()[1][-3000:]
    lost = [a for a in Bench(tmp_path).log.attempts if a.status != "SUCCEEDED"]
    assert len(killed) == 8 and {a.error_type for a in lost} == {"WorkerDied"} and len(lost) <= 8, (killed, lost)
    check_equal(bench, steps)


def test_where_the_last_gpu_is_lost_the_run_waits_says_so_and_goes_on_later(
    two_nodes: RayProcesses, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    steps = study(bench)
    node = two_nodes.add_node(num_cpus=1, num_gpus=1)
    process = driver(two_nodes, bench, "6")
    wait_for(lambda: bench.diary.is_dir() and at_work(bench, set()))
    two_nodes.kill(node)
    assert process.wait(120) == 2
    said = process.communicate()[1]
    assert "no GPU came within 6 s" in said and "Ray reports" in said and "--wait-for-gpus" in said, said[-3000:]
    first = [a for a in Bench(tmp_path).log.attempts if a.status != "SUCCEEDED"]
    assert first and {a.status for a in first} <= {"FAILED", "CANCELLED"}, first
    assert all("no GPU came" in (a.error_message or "") for a in first if a.status == "CANCELLED")
    two_nodes.add_node(num_cpus=1, num_gpus=1)
    process = driver(two_nodes, bench)
    assert process.wait(240) == 0, process.communicate()[1][-3000:]
    check_equal(bench, steps)

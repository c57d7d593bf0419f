"""A cluster that grows and shrinks while images are drawn. Real nodes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.core.step import Step

from .clusters import RayProcesses
from .fake_steps import SHARD, Bench, entries

ROOT = Path(__file__).parents[3]
SHARDS = 30


def shards(bench: Bench) -> list[Step]:
    """Return shards that are all ready at once, so that one wave takes them; the first waits for another to begin."""
    return [bench.fake(f"shard-{i}", kind=SHARD, seconds=0.7, meets=2) for i in range(SHARDS)]


def main() -> None:
    """Draw them on a cluster."""
    from sweeps.engine.connection import connected
    from sweeps.engine.on_ray import OnRay
    from sweeps.engine.options import ClusterOptions

    bench = Bench(Path(sys.argv[1]))
    with connected(ClusterOptions(address=sys.argv[2])) as cluster:
        bench.do(OnRay(cluster, backoff_seconds=0.1), *shards(bench))


@pytest.mark.slow
def test_sampling_uses_gpus_that_join_and_goes_on_without_those_that_leave(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    steps = shards(bench)
    command = [sys.executable, "-c", f"from {__name__} import main; main()", str(tmp_path)]
    with RayProcesses(num_cpus=1) as cluster:
        first = cluster.add_node(num_cpus=1, num_gpus=1)
        process = subprocess.Popen(
            [*command, cluster.address], cwd=ROOT, env={**cluster.environment, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(bench, process, lambda runs: len(runs) == 1)
        cluster.add_node(num_cpus=1, num_gpus=1)
        wait_for(bench, process, lambda runs: len({run["node"] for run in runs}) == 2)
        gone = next(iter(entries(bench.diary).values()))[0]["node"]
        cluster.kill(first)
        killed = time.time()
        assert process.wait(200) == 0, process.communicate()[1][-3000:]
    assert all(bench.store.done(step) for step in steps)
    after = {runs[-1]["node"] for runs in entries(bench.diary).values() if runs[-1]["began"] > killed}
    assert after and gone not in after


def wait_for(bench: Bench, process: subprocess.Popen, condition: object) -> None:
    """Wait until the attempts so far are as wanted."""
    end = time.monotonic() + 90
    while not (bench.diary.is_dir() and condition([run for runs in entries(bench.diary).values() for run in runs])):  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)

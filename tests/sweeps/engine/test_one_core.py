"""On one core trials and shards take turns: neither keeps the core from the other."""

from __future__ import annotations

from pathlib import Path

from sweeps.engine.connection import connected
from sweeps.engine.on_ray import OnRay
from sweeps.engine.options import ClusterOptions

from .fake_steps import SHARD, TABLE, Bench


def test_trials_and_shards_take_turns_on_one_core(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rank = bench.fake("rank")
    shards = [bench.fake(f"shard-{i}", rank, kind=SHARD) for i in range(3)]
    classifier = bench.fake("classifier", *shards)
    steps = [rank, *shards, classifier, bench.fake("table", classifier, kind=TABLE)]
    with connected(ClusterOptions(num_cpus=1)) as cluster:
        bench.do(OnRay(cluster), *steps)
    assert bench.rows() == {step.label: ["SUCCEEDED"] for step in steps}

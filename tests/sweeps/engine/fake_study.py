"""A study of fake steps as a driver process of its own: python -m tests.sweeps.fake_study FOLDER ADDRESS

Ends with 0 where every step is done. Two ranks, shards of each, classifiers with and without them, a table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sweeps.core.step import Step

from .fake_steps import SHARD, TABLE, Bench


def study(bench: Bench) -> list[Step]:
    """Return the steps of the study."""
    source = bench.fake("source", kind=TABLE)
    ranks = [bench.fake(f"rank-{i}", source, cost=4 + i, seconds=1.0) for i in range(2)]
    shards = [bench.fake(f"shard-{i}", ranks[i % 2], kind=SHARD, seconds=0.7) for i in range(8)]
    real = [bench.fake(f"real-{i}", source, seconds=0.7) for i in range(6)]
    hybrid = [bench.fake(f"hybrid-{i}", *shards, seconds=0.7) for i in range(3)]
    return [source, *ranks, *shards, *real, *hybrid, bench.fake("table", *real, *hybrid, kind=TABLE)]


def main() -> None:
    """Run the study on a cluster."""
    from sweeps.engine.connection import connected
    from sweeps.engine.on_ray import OnRay
    from sweeps.engine.options import ClusterOptions

    folder, address = sys.argv[1:]
    bench = Bench(Path(folder))
    steps = study(bench)
    with connected(ClusterOptions(address=address)) as cluster:
        bench.do(OnRay(cluster, max_retries=8, backoff_seconds=0.1), *steps)
    sys.exit(any(bench.store.done(step) is None for step in steps))


if __name__ == "__main__":
    main()

"""A study of fake steps as a driver process of its own: python -m tests.sweeps.engine.fake_study FOLDER ADDRESS [S]

Waits S seconds for a GPU that is lost. Ends with 0 where every step is done, 2 with words where it gave up. Two
ranks, shards of each, classifiers with and without them, a table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fulora.errors import InputError
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

    folder, address, *seconds = sys.argv[1:]
    bench = Bench(Path(folder))
    steps = study(bench)
    patience = float(seconds[0]) if seconds else 600.0
    try:
        with connected(ClusterOptions(address=address, gpus_per_trial=1.0)) as cluster:
            bench.do(OnRay(cluster, max_retries=8, backoff_seconds=0.1, wait_for_gpus=patience), *steps)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(any(bench.store.done(step) is None for step in steps))


if __name__ == "__main__":
    main()

"""How steps share a cluster with GPUs: two logical ones here. Neither trials nor shards starve, memory packs trials."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fulora.device import Footprint
from sweeps.core.execution import Executor
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.engine.packing import share_of_gpu
from sweeps.engine.resources import Cluster
from sweeps.engine.room import Room

from .clusters import RayProcesses
from .fake_steps import PACKED, SHARD, TABLE, TRIAL, Bench, entries

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[Cluster]:
    """Ray on this machine with two logical GPUs."""
    with connected(ClusterOptions(num_cpus=2, num_gpus=2)) as cluster:
        yield cluster


@pytest.fixture
def executor(two_gpus: Cluster) -> Executor:
    """Return the executor on the two GPUs."""
    from sweeps.engine.on_ray import OnRay

    return OnRay(two_gpus, backoff_seconds=0.1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return an empty store, log and diary."""
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("needed", "trials", "gpus", "together"),
    [(29, 3, 1, 3), (29, 2, 1, 2), (29, 100, 2, 3), (46, 8, 1, 1), (90, 8, 1, 1), (95, 8, 1, 1), (1, 40, 4, 10)],
)
def test_the_share_of_a_gpu_is_as_memory_and_the_number_of_trials_have_it(
    needed: int, trials: int, gpus: float, together: int
) -> None:
    share = share_of_gpu(Footprint(needed, 100, "gpu"), num_trials=trials, num_gpus=gpus)
    assert int(1 / share + 1e-3) == together and share * together <= 1


@pytest.mark.parametrize(
    ("cpus", "gpus", "share"), [(2, 4, 1.0), (16, 4, 1.0), (16, 4, 0.5), (64, 8, 2.0), (1, 1, 1.0)]
)
def test_a_core_is_left_for_steps_without_gpu_whatever_trials_take(cpus: int, gpus: float, share: float) -> None:
    cluster = Cluster(num_cpus=cpus, num_gpus=gpus, num_nodes=1, gpus_per_trial=share)
    room = Room(cluster)
    trial, table = room.request(TRIAL), room.request(TABLE)
    assert (trial.lane, trial.gpu, table.lane, table.gpu) == ("gpu", share, "cpu", 0)
    while room.fits(trial):
        room.take(trial)
    assert room.taken["gpu"] == gpus and room.fits(table)
    promised = gpus / share * trial.cpu + table.cpu
    assert promised <= max(cpus, table.cpu), "a core is promised twice"


def test_without_gpus_every_step_takes_a_core() -> None:
    room = Room(Cluster(num_cpus=3, num_gpus=0, num_nodes=1))
    for kind in (TRIAL, SHARD, TABLE):
        request = room.request(kind)
        assert (request.lane, request.cpu, request.gpu, request.num_threads) == ("cpu", 1, 0, 1)
        room.take(request)
    assert not room.fits(room.request(TABLE))


def test_neither_trials_nor_shards_nor_tables_wait_for_one_another(executor: Executor, bench: Bench) -> None:
    """A trial, a shard and a table meet: none returns unless all three run at once. Each has the GPU of its kind."""
    steps = [bench.fake(f"{kind.name}-0", kind=kind, meets=3) for kind in (TRIAL, SHARD, TABLE)]
    bench.do(executor, *steps)
    assert bench.rows() == {step.label: ["SUCCEEDED"] for step in steps}
    gpus = {name: runs[0]["gpus"] for name, runs in entries(bench.diary).items()}
    assert {gpus["trial-0"], gpus["shard-0"]} == {"0", "1"} and gpus["table-0"] == ""


def test_the_critical_path_has_the_gpus_first_and_what_it_leaves_is_filled(executor: Executor, bench: Bench) -> None:
    rank = bench.fake("rank", cost=5)
    shards = [bench.fake(f"shard-{i}", rank, kind=SHARD, cost=4, seconds=0.5) for i in range(6)]
    hybrid = bench.fake("hybrid", *shards, cost=9)
    others = [bench.fake(f"other-{i}", cost=1, seconds=0.2) for i in range(8)]
    bench.do(executor, rank, *others, *shards, hybrid)
    assert all(statuses == ["SUCCEEDED"] for statuses in bench.rows().values())
    runs = {name: found[0] for name, found in entries(bench.diary).items()}
    assert runs["rank"]["began"] <= min(runs[other.label]["began"] for other in others)
    first_shard = min(runs[shard.label]["began"] for shard in shards)
    assert min(runs[other.label]["began"] for other in others) < first_shard, "a GPU stood idle beside the rank"


def test_trials_share_a_gpu_as_measured_and_it_is_said(executor: Executor, bench: Bench) -> None:
    trials = [bench.fake(f"packed-{i}", kind=PACKED, meets=6) for i in range(6)]
    bench.do(executor, *trials)
    assert bench.rows() == {trial.label: ["SUCCEEDED"] for trial in trials}
    assert sorted(runs[0]["gpus"] for runs in entries(bench.diary).values()) == ["0"] * 3 + ["1"] * 3
    assert bench.watch.said == [
        "packed: 3 share a GPU: one takes 0.0 of 0.0 GiB (measured on a fake device)"
    ]  # fmt: skip


def test_out_of_memory_beside_another_trial_is_tried_again_with_a_whole_gpu(
    executor: Executor, two_gpus: Cluster, bench: Bench
) -> None:
    trials = [bench.fake(f"packed-{i}", kind=PACKED, fits_alone=i == 0) for i in range(3)]
    bench.do(executor, *trials)
    assert bench.rows() == {"packed-0": ["FAILED", "SUCCEEDED"], "packed-1": ["SUCCEEDED"], "packed-2": ["SUCCEEDED"]}
    assert "packed-0 ran out of memory beside another trial: it is retried alone on a device" in bench.watch.said


@pytest.mark.slow
def test_on_mixed_nodes_each_type_of_gpu_is_measured_and_the_head_is_kept_free(bench: Bench) -> None:
    """On GPUs of one type three trials fit at once, on the other's one: all four meet."""
    trials = [bench.fake(f"packed-{i}", kind=PACKED, meets=4) for i in range(8)]
    rest = [bench.fake(f"{kind.name}-{i}", *trials, kind=kind) for kind in (SHARD, TABLE) for i in range(2)]
    program = (
        "import sys; from pathlib import Path; from sweeps.engine.connection import connected\n"
        "from sweeps.engine.on_ray import OnRay; from sweeps.engine.options import ClusterOptions\n"
        "from tests.sweeps.engine.fake_steps import Bench; import pickle\n"
        "bench, steps = Bench(Path(sys.argv[1])), pickle.loads(Path(sys.argv[3]).read_bytes())\n"
        "with connected(ClusterOptions(address=sys.argv[2], keep_head_free=True)) as cluster:\n"
        "    bench.do(OnRay(cluster), *steps)\n"
        "    print(cluster.kept_free[-12:], *bench.watch.said, sep='\\n')\n"
    )
    given = bench.root / "steps"
    given.write_bytes(pickle.dumps([*trials, *rest]))
    with RayProcesses(num_cpus=4) as cluster:
        for gpu_type in ("large", "small"):
            cluster.add_node(num_cpus=2, num_gpus=1, gpu_type=gpu_type)
        done = subprocess.run(
            [sys.executable, "-c", program, str(bench.root), cluster.address, str(given)], cwd=ROOT,
            env={**cluster.environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    head, *said = done.stdout.strip().splitlines()
    runs = [found[0] for found in entries(bench.diary).values()]
    assert len(runs) == 12 and all("ended" in run for run in runs)
    assert head not in {run["node"] for run in runs} and len({run["node"] for run in runs}) == 2
    assert sorted(text.split(":")[1] for text in said) == [" 3 share a GPU", " a GPU for each"]

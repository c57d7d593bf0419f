"""What a trial is promised of a machine, and what an autoscaler's configuration can bring."""

from __future__ import annotations

import pytest

from sweeps.engine.capacity import NodeShape, most_gpus
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "slots", "resources"),
    [
        (2, 0, 1.0, 2, {"cpu": 1, "gpu": 0}),
        (16, 4, 1.0, 4, {"cpu": 3, "gpu": 1.0}),
        (16, 4, 0.5, 8, {"cpu": 1, "gpu": 0.5}),
        (2, 4, 1.0, 4, {"cpu": 0.25, "gpu": 1.0}),
        (64, 8, 2.0, 4, {"cpu": 4, "gpu": 2.0}),
    ],
)
def test_a_trials_share_of_the_machine(cpus, gpus, share, slots, resources) -> None:
    cluster = Cluster(num_cpus=cpus, num_gpus=gpus, num_nodes=1, gpus_per_trial=share)
    assert cluster.num_slots == slots
    assert cluster.for_tune == resources
    assert cluster.num_slots * cluster.cpus_per_trial <= cpus, "no core is promised twice"


def shape(cpus: float, gpus: float, up: int, most: int) -> NodeShape:
    return NodeShape(name="node", num_cpus=cpus, num_gpus=gpus, num_up=up, max_nodes=most)


def test_a_trial_fits_the_smallest_node_with_gpus_whatever_the_head_has() -> None:
    nodes = (shape(8, 2, 0, 4), shape(32, 8, 1, 1))
    cluster = Cluster(num_cpus=96, num_gpus=16, num_nodes=2, gpu_nodes=nodes, gpus_up=8)
    assert cluster.for_tune == {"cpu": 3.0, "gpu": 1.0}
    assert "16 GPUs (8 of them on demand)" in str(cluster)


def test_gpus_that_can_come_count_and_those_there_are_not_counted_twice() -> None:
    up, to_come = [shape(2, 0, 1, 1), shape(1, 1, 1, 1)], [shape(1, 1, 0, 4)]
    assert most_gpus(up, to_come) == 4
    assert most_gpus(up, []) == 1
    assert most_gpus([shape(2, 0, 1, 1)], []) == 0


def test_faults_of_options_are_named_at_once() -> None:
    wrong = ClusterOptions(
        address="ray://head:10001", num_cpus=0, num_gpus=-1, gpus_per_trial=1.5, max_retries=-1, wait_for_gpus=0.0
    )
    text = "\n".join(wrong.validate())
    for field in ("address: 'ray://head:10001' is not HOST:PORT", "num_cpus: 0", "num_gpus: -1", "gpus_per_trial: 1.5",
                  "max_retries: -1", "wait_for_gpus: 0.0"):  # fmt: skip
        assert field in text
    alone = ClusterOptions(executor="process", address="head:6379", device="gpu", num_gpus=None)
    assert any("excludes --address" in fault for fault in alone.validate())

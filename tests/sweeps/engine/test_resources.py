"""What a trial is promised of a machine, and what an autoscaler's configuration can bring."""

from __future__ import annotations

import pytest

from sweeps.engine.capacity import NodeShape, most_gpus
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.engine.room import Room

from .fake_steps import PACKED


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "slots", "resources"),
    [
        (2, 0, 1.0, 2, {"CPU": 1}),
        (16, 4, 1.0, 4, {"CPU": 3, "GPU": 1.0}),
        (16, 4, 0.5, 8, {"CPU": 1, "GPU": 0.5}),
        (2, 4, 1.0, 4, {"CPU": 0.25, "GPU": 1.0}),
        (64, 8, 2.0, 4, {"CPU": 4, "GPU": 2.0}),
    ],
)
def test_a_trials_share_of_the_machine(cpus, gpus, share, slots, resources) -> None:
    cluster = Cluster(num_cpus=cpus, num_gpus=gpus, num_nodes=1, gpus_per_trial=share)
    assert cluster.num_slots == slots
    assert cluster.for_tune.required_resources == resources
    assert cluster.num_slots * cluster.cpus_per_trial <= cpus, "no core is promised twice"


def shape(cpus: float, gpus: float, up: int, most: int, gpu_type: str | None = None) -> NodeShape:
    return NodeShape(name="node", num_cpus=cpus, num_gpus=gpus, num_up=up, max_nodes=most, gpu_type=gpu_type)


def test_memory_measured_on_one_type_of_gpu_is_not_assumed_of_another() -> None:
    nodes = (shape(9, 2, 1, 1, "T4"), shape(9, 2, 1, 1, "H100"))
    room = Room(Cluster(num_cpus=18, num_gpus=4, num_nodes=2, shares_gpus=True, gpu_nodes=nodes))
    assert (room.request(PACKED).gpu, room.request(PACKED).gpu_type) == (1.0, None), "nothing is measured yet"
    room.shares["packed", "H100"] = 0.25
    requests = []
    while room.fits(request := room.request(PACKED)):
        requests.append(request)
        room.take(request)
    assert [(r.gpu, r.gpu_type) for r in requests] == [(0.25, "H100")] * 8, "T4 is not measured"
    room.shares["packed", "T4"] = 0.5
    while room.fits(request := room.request(PACKED)):
        requests.append(request)
        room.take(request)
    assert [(r.gpu, r.gpu_type) for r in requests[8:]] == [(0.5, "T4")] * 4
    asked = room.cluster.for_trial(1.0, 0.5, "T4").required_resources
    assert asked["accelerator_type:T4"] > 0 and asked["GPU"] == 0.5
    alone = room.request(PACKED, whole_device=True)
    assert (alone.gpu, alone.gpu_type) == (1.0, None) and not room.fits(alone)


def test_gpus_of_one_type_are_not_asked_for_by_name() -> None:
    nodes = (shape(9, 2, 1, 1, "T4"), shape(5, 1, 1, 1, "T4"))
    room = Room(Cluster(num_cpus=14, num_gpus=3, num_nodes=2, shares_gpus=True, gpu_nodes=nodes))
    room.shares["packed", "T4"] = 0.5
    assert (room.request(PACKED).gpu, room.request(PACKED).gpu_type) == (0.5, None)


def test_a_trial_fits_the_smallest_node_with_gpus_whatever_the_head_has() -> None:
    nodes = (shape(8, 2, 0, 4), shape(32, 8, 1, 1))
    cluster = Cluster(num_cpus=96, num_gpus=16, num_nodes=2, gpu_nodes=nodes, gpus_up=8)
    assert cluster.for_tune.required_resources == {"CPU": 3.0, "GPU": 1.0}
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
    assert any("--address" in fault for fault in ClusterOptions(keep_head_free=True).validate())
    alone = ClusterOptions(executor="process", address="head:6379", device="gpu", num_gpus=None)
    assert any("excludes --address" in fault for fault in alone.validate())

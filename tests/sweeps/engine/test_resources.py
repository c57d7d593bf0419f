"""What a trial takes of a cluster: no core and no GPU is promised twice."""

from __future__ import annotations

import pytest

from sweeps.engine.resources import Cluster


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "slots", "resources"),
    [
        (2, 0, 1.0, 2, {"cpu": 1, "gpu": 0}),
        (16, 4, 1.0, 4, {"cpu": 4, "gpu": 1.0}),
        (16, 4, 0.5, 8, {"cpu": 2, "gpu": 0.5}),
        (2, 4, 1.0, 4, {"cpu": 0.5, "gpu": 1.0}),
        (64, 8, 2.0, 4, {"cpu": 4, "gpu": 2.0}),
    ],
)
def test_a_trials_share_of_the_machine(cpus, gpus, share, slots, resources) -> None:
    cluster = Cluster(num_cpus=cpus, num_gpus=gpus, num_nodes=1, gpus_per_trial=share)
    assert cluster.num_slots == slots
    assert cluster.for_tune == resources
    assert cluster.num_slots * cluster.cpus_per_trial <= cpus, "no core is promised twice"

"""Trials on one GPU at once, as many as fit: measured on a few real steps of the largest, not guessed.

In: the largest trial still to do, how many there are. Out: the cluster with the share of a GPU that a trial takes, and
what was measured in words. Source of the idea: at batch 2 a large card is idle most of the time (paper section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from fulora.device import Footprint
from sweeps.engine.resources import Cluster, prepare_worker

HEADROOM = 0.9
"""Share of a GPU's memory that is given away: allocators fragment, and a display may want some."""


def share_of_gpu(footprint: Footprint, *, num_trials: int, num_gpus: float) -> float:
    """Return the share of a GPU for each of some trials: no smaller than it must be for all to run at once."""
    fit = int(HEADROOM * footprint.total_bytes / max(1, footprint.needed_bytes))
    wanted = math.ceil(num_trials / num_gpus)
    together = max(1, min(fit, wanted))
    return math.floor(10_000 / together) / 10_000  # Ray counts in ten thousandths


def packed(measure: Callable[[], Footprint], *, num_trials: int, cluster: Cluster) -> tuple[Cluster, str]:
    """Return the cluster as these trials share it, and a note; unchanged where sharing was not left to us.

    `measure` runs on a GPU of its own, in a process of its own. The GPUs of a cluster are taken to be alike.
    """
    import ray
    from ray.exceptions import RayError

    if not cluster.shares_gpus or num_trials <= cluster.num_gpus or cluster.num_gpus < 1:
        return cluster, ""

    @ray.remote(max_retries=0, max_calls=1, **cluster.for_probe)
    def probe() -> Footprint:
        prepare_worker(cluster.num_threads, on_gpu=True)
        return measure()

    try:
        found = ray.get(probe.remote())
    except RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        return cluster, f"memory could not be measured ({reason}): a GPU for each trial"
    share = share_of_gpu(found, num_trials=num_trials, num_gpus=cluster.num_gpus)
    together = int(1 / share + 1e-3)
    words = "a GPU for each trial" if together == 1 else f"{together} trials share a GPU"
    took = f"a trial takes {found.needed_bytes / 2**30:.1f} of {found.total_bytes / 2**30:.1f} GiB"
    return replace(cluster, gpus_per_trial=share), f"{words}: {took} (measured on {found.device})"

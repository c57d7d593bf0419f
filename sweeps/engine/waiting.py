"""Wait for GPUs: for the first of a cluster, and where the last one is lost while a run goes on.

In: seconds allowed, where to say what Ray reports. Out: the nodes that are up, or InputError that says what is pending.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fulora.errors import InputError, fault, one_line
from sweeps.engine.capacity import NodeShape, nodes_up

_SAY_EVERY = 10.0
"""Seconds between two words on GPUs that are waited for."""

Say = Callable[[str], None]


class Patience:
    """How long no GPU has been up, and when that is too long."""

    def __init__(self, seconds: float, say: Say) -> None:
        """Allow some seconds; `say` hears every ten of them what Ray reports."""
        self.seconds, self._say = seconds, say
        self._since: float | None = None
        self._next_words = 0.0

    def note(self, gpus_up: float) -> None:
        """Take how many GPUs are up by now. Raises InputError where there has been none for too long."""
        now = time.monotonic()
        if gpus_up:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        left = self._since + self.seconds - now
        if left <= 0:
            rule = f"and no GPU came within {self.seconds:g} s: {_pending()}"
            remedy = "Allow more time with --wait-for-gpus, repair the cluster, or use --device cpu."
            raise InputError(fault("device", "gpu", rule, remedy))
        if now >= self._next_words:
            self._say(f"waiting for a GPU, {left:.0f} s at most: {_pending()}")
            self._next_words = now + _SAY_EVERY


def wait_for_gpus(seconds: float, say: Say, *, but: str | None = None) -> list[NodeShape]:
    """Ask the autoscaler for a GPU and return the nodes, `but` one by its id, once one with a GPU is up.

    Says every ten seconds what Ray reports. Raises InputError where none comes in time.
    """
    from ray.autoscaler.sdk import request_resources

    patience = Patience(seconds, say)
    request_resources(bundles=[{"GPU": 1}])
    try:
        while True:
            up = nodes_up(but)
            num_gpus = sum(node.num_gpus for node in up)
            patience.note(num_gpus)
            if num_gpus:
                return up
            time.sleep(0.5)
    finally:
        request_resources(bundles=[])  # what trials ask for themselves keeps nodes alive


def _pending() -> str:
    """Return what Ray reports of nodes that are to come and of those that failed."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.exceptions import RayError

    try:
        status: Any = get_cluster_status(ray.get_runtime_context().gcs_address)
    except (RayError, RuntimeError, ValueError) as error:
        return f"Ray does not say what is pending ({one_line(error, 200)})"
    parts = [f"{n.instance_type_name or n.ray_node_type_name} is starting" for n in status.pending_nodes]
    parts += [f"{n.count} x {n.ray_node_type_name or n.instance_type_name} requested" for n in status.pending_launches]
    parts += [f"{n.ray_node_type_name or n.instance_type_name} failed: {n.details}" for n in status.failed_launches]
    asked = status.resource_demands
    waiting = [*asked.ray_task_actor_demand, *asked.placement_group_demand, *asked.cluster_constraint_demand]
    if not parts:
        parts = [f"{sum(b.count for d in waiting for b in d.bundles_by_count)} requests wait, no node is starting"]
    return "Ray reports " + "; ".join(parts)

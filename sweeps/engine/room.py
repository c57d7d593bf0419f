"""How much of a cluster each step takes, and how much is left: the account by which steps are handed out.

Ray places; this account keeps Ray's queues short, so that what starts next is decided as late as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sweeps.core.step import Kind
from sweeps.engine.capacity import nodes_up
from sweeps.engine.resources import Cluster

Lane = Literal["gpu", "cpu"]
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What one step asks of Ray."""

    cpu: float
    gpu: float
    num_threads: int

    @property
    def lane(self) -> Lane:
        """What its number is limited by."""
        return "gpu" if self.gpu else "cpu"

    @property
    def amount(self) -> float:
        """GPUs or cores it takes of its lane."""
        return self.gpu or self.cpu


class Room:
    """The GPUs and cores of a cluster, those its autoscaler can add among them, and what is taken of them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.shares: dict[str, float] = {}
        """Share of a GPU for the steps of a kind, by its name, where measured."""
        self.taken: dict[Lane, float] = {"gpu": 0.0, "cpu": 0.0}
        self.capacity: Mapping[Lane, float] = {}
        self._to_come = sum(n.num_gpus * n.max_nodes for n in cluster.gpu_nodes if not n.num_up)
        self.resize(cluster.num_gpus, cluster.num_cpus)

    def resize(self, num_gpus: float, num_cpus: float) -> None:
        """Count anew."""
        if not self.cluster.num_gpus:
            self.capacity = {"gpu": 0.0, "cpu": max(float(self.cluster.num_slots), num_cpus)}
        else:
            spare = num_cpus - num_gpus * self.cluster.cpus_for(1.0)
            self.capacity = {"gpu": max(1.0, num_gpus), "cpu": max(1.0, float(int(spare)))}

    def look(self) -> None:
        """Count the nodes that are up by now, and those that the autoscaler can add."""
        up = nodes_up()
        num_gpus = sum(n.num_gpus * n.num_up for n in up)
        self.resize(max(num_gpus, self._to_come), sum(n.num_cpus * n.num_up for n in up))

    def request(self, kind: Kind, *, whole_device: bool = False) -> Request:
        """Return what a step of a kind takes: a share of a GPU where the cluster has GPUs and it runs on them."""
        cluster = self.cluster
        if not cluster.num_gpus:
            return Request(cpu=cluster.cpus_per_trial, gpu=0.0, num_threads=cluster.num_threads)
        if kind.runs_on == "cpu":
            return Request(cpu=1.0, gpu=0.0, num_threads=1)
        share = self.shares.get(kind.name, cluster.gpus_per_trial)
        share = max(1.0, share) if whole_device else share
        return Request(cpu=self.cluster.cpus_for(share), gpu=share, num_threads=cluster.num_threads)

    def free(self, lane: Lane) -> float:
        """Return what is left of a lane."""
        return self.capacity[lane] - self.taken[lane]

    def fits(self, request: Request, *, kept: float = 0.0) -> bool:
        """Return whether there is room, with some of the lane kept for others."""
        return request.amount <= self.free(request.lane) - kept + _EPSILON

    def take(self, request: Request, times: int = 1) -> None:
        """Note what is handed out; a negative number gives back."""
        self.taken[request.lane] += times * request.amount

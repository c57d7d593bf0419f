"""How much of a cluster each step takes, and how much is left: the account by which steps are handed out.

Ray places; this account keeps Ray's queues short, so that what starts next is decided as late as can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sweeps.core.step import Kind, Step
from sweeps.engine.capacity import NodeShape, nodes_up
from sweeps.engine.resources import Cluster

Lane = Literal["gpu", "cpu"]
GpuType = str | None
"""What Ray calls a GPU's type; None where it knows none."""
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What one step asks of Ray."""

    cpu: float
    gpu: float
    num_threads: int
    gpu_type: GpuType = None
    """The type its share of a GPU was measured on, where GPUs are of several types; None: any."""

    @property
    def lane(self) -> Lane:
        """What its number is limited by."""
        return "gpu" if self.gpu else "cpu"

    @property
    def amount(self) -> float:
        """GPUs or cores it takes of its lane."""
        return self.gpu or self.cpu


class Room:
    """The GPUs and cores of a cluster, those its autoscaler can add among them, and what is taken of them.

    Memory measured on one type of GPU is not assumed of another: each type has shares of its own.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.shares: dict[tuple[str, GpuType], float] = {}
        """Share of a GPU for the steps of a kind, by its name and the type of GPU, where measured."""
        self.taken: dict[Lane, float] = {"gpu": 0.0, "cpu": 0.0}
        self.capacity: Mapping[Lane, float] = {}
        self.gpus_up = cluster.num_gpus if cluster.gpus_up is None else cluster.gpus_up
        """GPUs of nodes that are up."""
        self._of_type: Counter[GpuType] = Counter()
        self._taken_of_type: Counter[GpuType] = Counter()
        self._to_come = sum(n.num_gpus * n.max_nodes for n in cluster.gpu_nodes if not n.num_up)
        self._count_types(n for n in cluster.gpu_nodes if n.num_up)
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
        up = nodes_up(but=self.cluster.kept_free)
        self.gpus_up = sum(n.num_gpus * n.num_up for n in up)
        self._count_types(up)
        self.resize(max(self.gpus_up, self._to_come), sum(n.num_cpus * n.num_up for n in up))

    def _count_types(self, up: Iterable[NodeShape]) -> None:
        self._of_type = Counter()
        for node in up:
            if node.num_gpus:
                self._of_type[node.gpu_type] += node.num_gpus * node.num_up  # type: ignore[assignment]

    @property
    def gpu_types(self) -> list[GpuType]:
        """The types of the GPUs that are up; of one unknown type where there are none yet."""
        return list(self._of_type) or [None]

    def named(self, gpu_type: GpuType) -> GpuType:
        """Return the type to ask Ray for: none where all GPUs are of one."""
        return gpu_type if len(self._of_type) > 1 else None

    def request(self, kind: Kind, *, whole_device: bool = False) -> Request:
        """Return what a step of a kind takes: a share of a GPU where the cluster has GPUs and it runs on them."""
        cluster = self.cluster
        if not cluster.num_gpus:
            return Request(cpu=cluster.cpus_per_trial, gpu=0.0, num_threads=cluster.num_threads)
        if kind.runs_on == "cpu":
            return Request(cpu=1.0, gpu=0.0, num_threads=1)
        measured = [t for t in self.gpu_types if (kind.name, t) in self.shares]
        share, gpu_type = cluster.gpus_per_trial, None
        if measured and not whole_device:
            most_free = max(measured, key=self.free_of)
            share, gpu_type = self.shares[kind.name, most_free], self.named(most_free)
        share = max(1.0, share) if whole_device else share
        return Request(cpu=cluster.cpus_for(share), gpu=share, num_threads=cluster.num_threads, gpu_type=gpu_type)

    def of_steps(self, steps: Iterable[Step]) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
        """Return the capacity of each lane, and what each step takes of which, by its key, as a simulation takes it."""
        requests = {step.key: self.request(step.kind) for step in steps}
        return {str(lane): free for lane, free in self.capacity.items()}, {
            key: (request.lane, request.amount) for key, request in requests.items()
        }

    def free(self, lane: Lane) -> float:
        """Return what is left of a lane."""
        return self.capacity[lane] - self.taken[lane]

    def free_of(self, gpu_type: GpuType) -> float:
        """Return what is left of the GPUs of a type, but for what work that takes any of them has there."""
        return min(self.free("gpu"), self._of_type[gpu_type] - self._taken_of_type[gpu_type])

    def fits(self, request: Request, *, kept: float = 0.0) -> bool:
        """Return whether there is room, with some of the lane kept for others."""
        free = self.free(request.lane) if request.gpu_type is None else self.free_of(request.gpu_type)
        return request.amount <= min(free, self.free(request.lane) - kept) + _EPSILON

    def take(self, request: Request, times: int = 1) -> None:
        """Note what is handed out; a negative number gives back."""
        self.taken[request.lane] += times * request.amount
        if request.gpu_type is not None:
            self._taken_of_type[request.gpu_type] += times * request.amount  # type: ignore[assignment]

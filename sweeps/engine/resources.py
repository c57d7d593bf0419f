"""The one place that says what is asked of Ray: for steps (`engine.room` asks here), memory probes, candidates of a
search and actors that draw elsewhere alike.

In: the nodes there are and can be, and the share of a GPU a trial takes. Out: a `Cluster` with the arguments of Ray
Tune, Ray Core and Ray Data. Nothing limits a trial's GPU memory: fractions only pack.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sweeps.engine.capacity import GPU_TYPE, NodeShape

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory

_MOST_CPUS = 4
"""CPU cores a trial is promised at most."""
_A_LITTLE = 0.001
"""How much is asked of a node's GPU type, of which Ray gives each node one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What there is to run on, and what one trial takes of it."""

    num_cpus: int
    num_gpus: float
    """GPUs to use: those up and those the autoscaler can add; 0 where trials run on CPUs."""
    num_nodes: int
    gpus_per_trial: float = 1.0
    shares_gpus: bool = False
    """Whether trials may share a GPU, as their measured memory allows."""
    gpu_nodes: tuple[NodeShape, ...] = ()
    """Shapes of the nodes with GPUs, up or to come. Empty: GPUs and cores lie together on every node."""
    gpus_up: float | None = None
    """GPUs of nodes that are up; None: all."""
    kept_free: str | None = None
    """Id of the node that does no work: the head, where it is to be kept free."""

    @property
    def num_slots(self) -> int:
        """Trials that run at once: as the GPUs hold, or without GPUs one per core."""
        if self.num_gpus:
            return max(1, int(self.num_gpus / self.gpus_per_trial + 1e-6))
        return max(1, self.num_cpus)

    @property
    def cpus_per_trial(self) -> float:
        """Cores one trial is promised; see `cpus_for`."""
        return self.cpus_for(self.gpus_per_trial)

    def cpus_for(self, gpus: float) -> float:
        """Return the cores that a step on some GPUs, or a share of one, is promised: an equal share, at most 4.

        Without GPUs, of all cores; with GPUs, of the smallest node that has some, with a core of it left for steps that
        need no GPU. Part of a core where GPUs outnumber cores.
        """
        if self.num_gpus:
            nodes = [(n.num_cpus, n.num_gpus) for n in self.gpu_nodes] or [(float(self.num_cpus), self.num_gpus)]
            share = min(max(0.0, num_cpus - 1) * gpus / num_gpus for num_cpus, num_gpus in nodes)
        else:
            share = self.num_cpus / self.num_slots
        return float(min(_MOST_CPUS, int(share))) if share >= 1 else int(share * 10_000) / 10_000

    @property
    def num_threads(self) -> int:
        """Threads one trial computes with, so that no library uses a core that is another trial's."""
        return max(1, int(self.cpus_per_trial))

    @property
    def _gpus(self) -> float:
        return self.gpus_per_trial if self.num_gpus else 0

    @property
    def elsewhere(self) -> dict[str, str] | None:
        """Label selector of Ray that keeps work off the node that is kept free; None where none is."""
        return {"ray.io/node-id": f"!{self.kept_free}"} if self.kept_free else None

    def for_trial(self, cpu: float, gpu: float, gpu_type: str | None = None) -> PlacementGroupFactory:
        """Return the resources of one trial, as Ray Tune takes them; a GPU of some type where one is named."""
        from ray.tune import PlacementGroupFactory

        bundle = {"CPU": cpu, "GPU": gpu, **({f"{GPU_TYPE}{gpu_type}": _A_LITTLE} if gpu_type else {})}
        more: dict[str, Any] = {"bundle_label_selector": [self.elsewhere]} if self.elsewhere else {}
        return PlacementGroupFactory([bundle], **more)

    @property
    def for_tune(self) -> PlacementGroupFactory:
        """Resources of a candidate of a search, as `tune.with_resources` takes them."""
        return self.for_trial(self.cpus_per_trial, self._gpus)

    def for_actor(self, cpu: float, gpu: float) -> dict[str, Any]:
        """Return the resources of one sampling actor, as `Dataset.map_batches` takes them."""
        more = {"label_selector": self.elsewhere} if self.elsewhere else {}
        return {"num_cpus": cpu, "num_gpus": gpu or None, **more}

    @property
    def for_actors(self) -> dict[str, Any]:
        """Resources of an actor that draws straight to another place, as `Dataset.map_batches` takes them."""
        return self.for_actor(self.cpus_per_trial, self._gpus)

    def for_probe(self, gpu_type: str | None = None) -> dict[str, Any]:
        """Return the resources of a memory probe, as `ray.remote` takes them: a whole GPU, all of which it measures."""
        more: dict[str, Any] = {"label_selector": self.elsewhere} if self.elsewhere else {}
        if gpu_type:
            more["resources"] = {f"{GPU_TYPE}{gpu_type}": _A_LITTLE}
        return {"num_cpus": min(1.0, self.cpus_per_trial), "num_gpus": 1 if self.num_gpus else 0, **more}

    def __str__(self) -> str:
        nodes = f"{self.num_nodes} node" + ("s" if self.num_nodes != 1 else "")
        to_come = 0 if self.gpus_up is None else self.num_gpus - self.gpus_up
        more = f" ({to_come:g} of them on demand)" if to_come > 0 else ""
        return f"{nodes}, {self.num_cpus} cores, {self.num_gpus:g} GPUs{more}: {self.num_slots} trials at once"


def threads_here(promised: int, gpus: float) -> int:
    """Return the threads for work on some GPUs of the node this process is on: its share of that node's cores.

    What is promised is what the smallest node has; without a GPU, and outside of Ray, it is what there is.
    """
    ray = sys.modules.get("ray")
    if not gpus or ray is None or not ray.is_initialized():
        return promised
    has = _resources_of(ray.get_runtime_context().get_node_id())
    share = max(0.0, has.get("CPU", 0.0) - 1) * gpus / max(1.0, has.get("GPU", 0.0))
    return max(promised, min(_MOST_CPUS, int(share)))


@cache
def _resources_of(node_id: str) -> Mapping[str, float]:
    import ray

    return next((node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id), {})


def prepare_worker(num_threads: int, *, on_gpu: bool) -> None:
    """Set up this worker process: its threads, and no GPU where none was asked for.

    Ray hides GPUs from work that asked for none only under a setting of the raylet, which is not ours on a cluster.
    Torch is not imported for it: most processes live for one step, and not every step needs it.
    """
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is initialised, so before any tensor is there
    os.environ["OMP_NUM_THREADS"] = str(num_threads)  # read when torch is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)


def placement() -> dict[str, str | None]:
    """Return the node this process runs on and the GPUs Ray gave it; None outside Ray, `gpu_ids` None without GPUs."""
    ray = sys.modules.get("ray")  # outside of Ray's workers it is not worth its import
    if ray is None or not ray.is_initialized():
        return {"node": None, "gpu_ids": None}
    context = ray.get_runtime_context()
    return {
        "node": context.get_node_id()[-12:],
        "gpu_ids": ",".join(context.get_accelerator_ids().get("GPU", [])) or None,
    }

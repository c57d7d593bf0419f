"""The one place that says what is asked of Ray: for steps (`engine.room` asks here), memory probes, candidates of a
search and actors that draw elsewhere alike.

In: the nodes there are and can be, and the share of a GPU a trial takes. Out: a `Cluster` with the arguments of Ray
Tune, Ray Core and Ray Data. Nothing limits a trial's GPU memory: fractions only pack.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from sweeps.engine.capacity import NodeShape

_MOST_CPUS = 4
"""CPU cores a trial is promised at most."""


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
    def for_tune(self) -> dict[str, float]:
        """Resources of a candidate of a search, as `tune.with_resources` takes them."""
        return {"cpu": self.cpus_per_trial, "gpu": self._gpus}

    @property
    def for_actors(self) -> dict[str, Any]:
        """Resources of one sampling actor, as `Dataset.map_batches` takes them."""
        return {"num_cpus": self.cpus_per_trial, "num_gpus": self._gpus or None}

    @property
    def for_probe(self) -> dict[str, Any]:
        """Resources of a memory probe, as `ray.remote` takes them: a whole GPU, for the probe measures all of it."""
        return {"num_cpus": min(1.0, self.cpus_per_trial), "num_gpus": 1 if self.num_gpus else 0}

    def __str__(self) -> str:
        nodes = f"{self.num_nodes} node" + ("s" if self.num_nodes != 1 else "")
        to_come = 0 if self.gpus_up is None else self.num_gpus - self.gpus_up
        more = f" ({to_come:g} of them on demand)" if to_come > 0 else ""
        return f"{nodes}, {self.num_cpus} cores, {self.num_gpus:g} GPUs{more}: {self.num_slots} trials at once"


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

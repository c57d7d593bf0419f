"""What a Ray cluster has, and what its autoscaler can add: node shapes, now and at most.

In: a connection to Ray. Out: `NodeShape`s. `ray.cluster_resources()` holds only nodes that are up, so a cluster whose
GPU nodes start on demand looks as if it had none. What can be added is read from the GCS (autoscaler v2, KubeRay) or
from the configuration file of the autoscaler on the head (`ray up`, `ray start --autoscaling-config`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_READ_SECONDS = 30.0
"""Time allowed for reading the autoscaler's configuration on the head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeShape:
    """Nodes of one size."""

    name: str
    """Node type of the autoscaler, or `node` for nodes that joined by themselves."""
    num_cpus: float
    num_gpus: float
    num_up: int
    """Nodes of this shape that are alive."""
    max_nodes: int
    """Nodes of this shape there can be, those alive counted."""
    gpu_type: str | None = None
    """What Ray calls its GPUs (`H100`); None where it does not know them, as logical ones."""


GPU_TYPE = "accelerator_type:"
"""Prefix of the resource by which Ray tells GPUs apart."""


def nodes_up(but: str | None = None) -> list[NodeShape]:
    """Return the nodes that are alive, by shape; `but` is the id of one that is left out."""
    import ray

    counts: Counter[tuple[float, float, str | None]] = Counter()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != but:
            has = node["Resources"]
            kinds = [name.removeprefix(GPU_TYPE) for name in has if name.startswith(GPU_TYPE)]
            counts[has.get("CPU", 0.0), has.get("GPU", 0.0), kinds[0] if kinds and "GPU" in has else None] += 1
    return [
        NodeShape(name="node", num_cpus=cpus, num_gpus=gpus, num_up=count, max_nodes=count, gpu_type=kind)
        for (cpus, gpus, kind), count in counts.items()
    ]


def head_node() -> str | None:
    """Return the id of the head; None where it is not alive."""
    import ray

    heads = [n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]]
    return heads[0] if heads else None


def nodes_to_come() -> list[NodeShape]:
    """Return the node types the autoscaler can start, with how many of each; none without an autoscaler."""
    return _types_in_gcs() or _types_in_file(_autoscaling_config())


def most_gpus(up: Iterable[NodeShape], to_come: Iterable[NodeShape]) -> float:
    """Return the GPUs the cluster has once all nodes it can have are up."""
    now = sum(shape.num_gpus * shape.num_up for shape in up)
    return max(now, sum(shape.num_gpus * shape.max_nodes for shape in to_come))


def _types_in_gcs() -> list[NodeShape]:
    """Return the node types that an autoscaler of version 2 reported to the GCS."""
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    most = [(dict(group.resources), group.max_count, group.name) for group in config.node_group_configs]
    return _limited(most, config.max_resources)


def _limited(types: Iterable[tuple[Mapping[str, float], int, str]], limits: Mapping[str, float]) -> list[NodeShape]:
    shapes = []
    for resources, count, name in types:
        num_cpus, num_gpus = float(resources.get("CPU", 0)), float(resources.get("GPU", 0))
        if num_gpus and limits.get("GPU"):
            count = min(count, math.floor(limits["GPU"] / num_gpus))
        shapes.append(NodeShape(name=name, num_cpus=num_cpus, num_gpus=num_gpus, num_up=0, max_nodes=count))
    return shapes


def _types_in_file(config: Mapping[str, Any] | None) -> list[NodeShape]:
    """Return the worker node types of an autoscaler's configuration, largest GPU count first, within `max_workers`."""
    if not config:
        return []
    left, shapes = int(config.get("max_workers", 2)), []
    types = {n: t for n, t in config.get("available_node_types", {}).items() if n != config.get("head_node_type")}
    for name, kind in sorted(types.items(), key=lambda item: -float(item[1].get("resources", {}).get("GPU", 0))):
        has = kind.get("resources", {})
        count = max(0, min(left, int(kind.get("max_workers", left))))
        left -= count
        shapes.append(
            NodeShape(
                name=name, num_cpus=float(has.get("CPU", 0)), num_gpus=float(has.get("GPU", 0)), num_up=0,
                max_nodes=count,
            )
        )  # fmt: skip
    return shapes


def _autoscaling_config() -> dict[str, Any] | None:
    """Return the configuration of the autoscaler that runs on the head, read there; None where none runs."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = head_node()
    if head is None:
        return None
    session = ray.get_runtime_context().get_session_name()
    strategy = NodeAffinitySchedulingStrategy(head, soft=False)
    read: Any = ray.remote(_read_monitor_config)
    try:
        return ray.get(
            read.options(num_cpus=0, max_retries=3, scheduling_strategy=strategy).remote(session), timeout=_READ_SECONDS
        )
    except (RayError, GetTimeoutError):
        return None


def _read_monitor_config(session: str) -> dict[str, Any] | None:
    """Return the configuration named on the command line of this machine's autoscaler of a session."""
    from pathlib import Path

    import yaml

    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if not any(word.endswith("monitor.py") for word in words) or not any(session in word for word in words):
            continue
        for word in words:
            if word.startswith("--autoscaling-config="):
                try:
                    return yaml.safe_load(Path(word.partition("=")[2]).expanduser().read_text())
                except (OSError, yaml.YAMLError):
                    return None
    return None

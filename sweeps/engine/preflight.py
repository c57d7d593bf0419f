"""Look at every node before any work: does it see the run's folder, run the same code, tell the same time?

In: a connection to Ray, the run's folder. Out: nothing, or InputError that names the nodes. Ray itself refuses nodes of
another version of Ray or Python.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora import __version__
from fulora.errors import fault, one_line, raise_if_any
from sweeps.core.provenance import provenance

_SECONDS = 60.0
"""Time a node has to answer."""
_RETRIES = 3
"""Processes of a probe that may be killed: none of them says anything of its node."""
_MOST_SKEW = 60.0
"""Seconds by which a node's clock may differ: start times of steps are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    host: str
    sees_folder: bool
    version: str
    commit: str | None
    clock: float


def look(folder: str, token: str) -> NodeFacts:
    """Return what this node sees; runs on the node."""
    import platform

    try:
        seen = (Path(folder) / f".probe-{token}").read_text() == token
    except OSError:
        seen = False
    commit = provenance()["commit"]
    return NodeFacts(host=platform.node(), sees_folder=seen, version=__version__, commit=commit, clock=time.time())


def _alive() -> dict[str, str]:
    """Return the id of each node that is alive, by what a person calls it."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeManagerAddress"] + " " + node["NodeID"][-8:]: node["NodeID"] for node in alive}


def check_nodes(root: Path, say: Callable[[str], None]) -> None:
    """Raise InputError where a node cannot see the run's folder or runs another version; say where commits differ."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    probe = root / f".probe-{token}"
    probe.write_text(token)
    task: Any = ray.remote(look)
    nodes = _alive()
    asked = {
        name: (
            time.time(),
            task.options(
                num_cpus=0, max_retries=_RETRIES,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            ).remote(str(root), token),
        )
        for name, node_id in nodes.items()
    }  # fmt: skip
    faults, found = [], dict[str, NodeFacts]()
    try:
        for name, (began, answer) in asked.items():
            try:
                facts: NodeFacts = ray.get(answer, timeout=_SECONDS)
            except (RayError, GetTimeoutError) as error:
                if name not in _alive():
                    say(f"node {name} left")
                    continue
                rule = f"cannot run this project's code ({one_line(str(error).strip().splitlines()[-1], 200)})"
                remedy = f"Install the project there, the same version ({__version__}), or use --ship-code."
                faults.append(fault("node", name, rule, remedy))
                continue
            found[name] = facts
            skew = max(0.0, began - facts.clock, facts.clock - time.time())
            if skew > _MOST_SKEW:
                say(f"the clock of node {name} differs by {skew:.0f} s: times of its steps are by its own clock")
    finally:
        probe.unlink(missing_ok=True)
    blind = [name for name, facts in found.items() if not facts.sees_folder]
    if blind:
        rule = f"cannot be seen by {len(blind)} of {len(nodes)} nodes: {', '.join(blind)}"
        faults.append(fault("out", str(root), rule, "Give --out a directory on storage that every node mounts."))
    if other := [f"{name} ({facts.version})" for name, facts in found.items() if facts.version != __version__]:
        rule = f"differs from {', '.join(other)}"
        faults.append(
            fault("version", __version__, rule, "Install the same version on every node, or use --ship-code.")
        )
    raise_if_any(faults)
    mine = provenance()["commit"]
    if other := [f"{name} ({facts.commit})" for name, facts in found.items() if facts.commit != mine]:
        say(f"nodes run another commit than the driver ({mine}): {', '.join(other)}; every row names its own")

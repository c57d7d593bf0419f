"""Look at every node before any work: does it see the run's files, run the same code, tell the same time?

In: a connection to Ray, the run's store: its folder, or a storage that each must read and write. Out: nothing, or
InputError that names the nodes. Ray itself refuses nodes of another version of Ray or Python.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fulora import __version__
from fulora.errors import InputError, fault, one_line, raise_if_any
from sweeps.core.cache import Cache
from sweeps.core.mirror import Mirror
from sweeps.core.provenance import provenance
from sweeps.core.store import Store

_SECONDS = 60.0
"""Time a node has to answer."""
_RETRIES = 3
"""Processes of a probe that may be killed: none of them says anything of its node."""
_STORAGE_SECONDS = 180.0
"""The same where it asks a storage, with patience."""
_MOST_SKEW = 60.0
"""Seconds by which a node's clock may differ: start times of steps are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    host: str
    blind: str | None
    """Why it cannot see the run's files; None: it can."""
    version: str
    commit: str | None
    clock: float


def look(store: Store, token: str) -> NodeFacts:
    """Return what this node sees; runs on the node."""
    import platform

    commit, began = provenance()["commit"], time.time()
    blind = _blind(store, token)
    return NodeFacts(host=platform.node(), blind=blind, version=__version__, commit=commit, clock=began)


def _blind(store: Store, token: str) -> str | None:
    """Return why this node cannot see the run's files, None where it can."""
    if not isinstance(store, Cache):
        try:
            return None if (store.root / f".probe-{token}").read_text() == token else "another folder is there"
        except OSError as error:
            return error.strerror
    try:
        store.check()
        if not store.storage.has_probe(token):
            return "what the driver writes there is not there"
        store.storage.check()
    except InputError as error:
        return one_line(error, 300)
    return None


def _alive() -> dict[str, str]:
    """Return the id of each node that is alive, by what a person calls it."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeManagerAddress"] + " " + node["NodeID"][-8:]: node["NodeID"] for node in alive}


@contextmanager
def _probe(store: Store, token: str) -> Iterator[Store]:
    """Leave a token where nodes look, and give the store as they see it."""
    if isinstance(store, Mirror):
        store.storage.put_probe(token)
        try:
            yield store.for_nodes()
        finally:
            store.storage.drop_probe(token)
        return
    probe = store.root / f".probe-{token}"
    probe.write_text(token)
    try:
        yield store
    finally:
        probe.unlink(missing_ok=True)


def _blind_fault(store: Store, blind: Mapping[str, str], num_nodes: int) -> str:
    """Return in words which nodes do not see the run's files."""
    rule = f"cannot be {{}} by {len(blind)} of {num_nodes} nodes: "
    if isinstance(store, Mirror):
        words = rule.format("used") + "; ".join(f"{name} ({reason})" for name, reason in blind.items())
        remedy = "Give every node the way there and, for S3, the credentials (AWS_... or ~/.aws) before `ray start`."
        return fault("storage", str(store.storage), words, remedy)
    remedy = "Give --out a directory on a disk that every node mounts, or --storage to share none."
    return fault("out", str(store.root), rule.format("seen") + ", ".join(blind), remedy)


def check_nodes(store: Store, say: Callable[[str], None]) -> None:
    """Raise InputError where a node cannot see the run's files or runs another version; say where commits differ."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(look)
    nodes, faults, found, token = _alive(), [], dict[str, NodeFacts](), uuid.uuid4().hex
    seconds = _STORAGE_SECONDS if isinstance(store, Mirror) else _SECONDS
    with _probe(store, token) as seen:
        asked = {
            name: (
                time.time(),
                task.options(
                    num_cpus=0, max_retries=_RETRIES,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
                ).remote(seen, token),
            )
            for name, node_id in nodes.items()
        }  # fmt: skip
        for name, (began, answer) in asked.items():
            try:
                facts: NodeFacts = ray.get(answer, timeout=seconds)
            except (RayError, GetTimeoutError) as error:
                if name not in _alive():
                    say(f"node {name} left")
                    continue
                if isinstance(error, GetTimeoutError):
                    faults.append(fault("node", name, f"does not answer in {seconds:g} s", "Repair or remove it."))
                    continue
                rule = f"cannot run this project's code ({one_line(str(error).strip().splitlines()[-1], 200)})"
                remedy = f"Install the project there, the same version ({__version__}), or use --ship-code."
                faults.append(fault("node", name, rule, remedy))
                continue
            found[name] = facts
            skew = max(0.0, began - facts.clock, facts.clock - time.time())
            if skew > _MOST_SKEW:
                say(f"the clock of node {name} differs by {skew:.0f} s: times of its steps are by its own clock")
    if blind := {name: facts.blind for name, facts in found.items() if facts.blind is not None}:
        faults.append(_blind_fault(store, blind, len(nodes)))
    if other := [f"{name} ({facts.version})" for name, facts in found.items() if facts.version != __version__]:
        rule = f"differs from {', '.join(other)}"
        faults.append(
            fault("version", __version__, rule, "Install the same version on every node, or use --ship-code.")
        )
    raise_if_any(faults)
    mine = provenance()["commit"]
    if other := [f"{name} ({facts.commit})" for name, facts in found.items() if facts.commit != mine]:
        say(f"nodes run another commit than the driver ({mine}): {', '.join(other)}; every row names its own")

"""Runs that a cluster does by itself: submit one as a Ray job, and ask for it, read it, stop it from anywhere.

In: a launch with --detach, or the id that it printed. Out: the id, what the cluster says.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fulora.errors import InputError, fault, raise_if_any
from sweeps.launch import Launch, relative_paths

_OF_THE_CLIENT = {"--detach": 0, "--no-detach": 0, "--ship-code": 0, "--no-ship-code": 0, "--address": 1}
"""Flags that concern the client alone, and how many words follow each."""

_LAST_LINES = 5
"""Lines shown of what a job said before it failed."""

JobId = Annotated[str, tyro.conf.Positional]


def submit(command: str, words: Sequence[str], launch: Launch) -> int:
    """Submit a command as a job of the cluster and print its id.

    Raises InputError for options that cannot be used, paths that would be relative on the cluster, and a cluster that
    does not answer.
    """
    # Whether files are there is for the cluster to say.
    experiment = replace(_without_paths(launch.experiment), data_required=False)
    raise_if_any([*launch.cluster.validate(), *experiment.validate()])
    relative = relative_paths(command, list(words))
    for name, place in (("to", getattr(launch, "to", None)), ("storage", launch.cluster.storage)):
        if place is not None and "://" not in place and not Path(place).is_absolute():
            relative.append((name, place))
    rule, remedy = "is relative, and a job has no directory of its own", "Give its path on the cluster."
    faults = [fault(name, path, rule, remedy) for name, path in relative]
    if launch.out is None:
        remedy = "Give --out a directory on storage that every node sees."
        faults.append(fault("out", None, "is not given, and a job has no directory of its own", remedy))
    raise_if_any(faults)
    from sweeps.engine.jobs import Jobs

    jobs = Jobs(str(launch.cluster.address))
    job = jobs.submit([command, *for_cluster(words)], name=launch.experiment.recipe, run=launch.folder)
    asked = f"{job} --address {launch.cluster.address}"
    print(f"submitted; `sweeps status | logs | stop {asked}`", file=sys.stderr)
    print(job)
    return 0


def _without_paths(config: Any) -> Any:
    """Return a configuration without the files and directories it names."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            changed[field.name] = None
        elif is_dataclass(value):
            changed[field.name] = _without_paths(value)
    return replace(config, **changed)


def for_cluster(words: Sequence[str]) -> list[str]:
    """Return the words of a command as its job says them on the cluster: by the address that is found there."""
    found, skip = [], 0
    for word in words:
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if skip:
            skip -= 1
        elif name in _OF_THE_CLIENT:
            skip = 0 if equals else _OF_THE_CLIENT[name]
        else:
            found.append(word)
    return [*found, "--address", "auto"]


def print_status(job: str, address: str) -> None:
    """Print how a job is, and what `sweeps status` says of its run on the cluster."""
    from sweeps.engine.jobs import Jobs

    jobs = Jobs(address)
    state = jobs.state(job)
    print(state)
    if state.status == "FAILED":
        print("\n".join(state.message.splitlines()[-_LAST_LINES:]))
    if state.status != "PENDING":
        print(jobs.look(["status", state.run]), end="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Logs:
    """Print what a run that was submitted with --detach says."""

    job: JobId
    """Id of the job, as --detach printed it."""
    address: str
    """Address of the cluster's job server, such as http://HEAD:8265."""
    follow: bool = False
    """Go on printing until the job ends. Ctrl-C leaves the job alone."""

    def act(self) -> int:
        """Print it."""
        from sweeps.engine.jobs import Jobs

        jobs = Jobs(self.address)
        for text in jobs.follow(self.job) if self.follow else [jobs.logs(self.job)]:
            print(text, end="", flush=True)
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Stop a run that was submitted with --detach, as Ctrl-C would; the same command goes on with it later."""

    job: JobId
    """Id of the job, as --detach printed it."""
    address: str
    """Address of the cluster's job server, such as http://HEAD:8265."""

    def act(self) -> int:
        """Stop it, and print how it ended."""
        from sweeps.engine.jobs import Jobs

        state = Jobs(self.address).stop(self.job)
        print(state)
        if not state.is_over:
            raise InputError(fault("job", self.job, "does not end", "Look at it with `sweeps logs`."))
        return 0

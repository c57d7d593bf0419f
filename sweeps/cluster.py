"""Connect to Ray or start it here; say what there is, and how much of it one trial takes.

In: an address, or counts for this machine. Out: a `Cluster`. Nothing limits a trial's GPU memory: fractions only pack.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fulora.errors import InputError, fault

# Ray's own chatter, and behaviour that would surprise us, set before Ray is imported anywhere.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our tables are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us, so that running trials become CANCELLED rows
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a candidate that failed has no value to report
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "MALLOC_ARENA_MAX": "1",  # Ray works in threads; `fulora.device.freed_memory_kept` needs them on one heap
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its own log files keep the rest
}
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Images pass through files, not through Ray's store; its default of 30 % of memory would be held for nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Where a run takes place. Recorded, never part of a trial's identity."""

    address: str | None = None
    """A running Ray cluster to join (`auto`, `HOST:6379`); without it Ray starts on this machine."""
    num_cpus: int | None = None
    """Cores to use on this machine; all of them where not given."""
    num_gpus: int | None = None
    """GPUs to use on this machine; all that are found where not given. More than there are: logical ones, for tests."""
    gpus_per_trial: float | None = None
    """Share of a GPU a trial takes; 0.5 packs two on one, and Ray does not limit memory: they must fit together. Not
    given, rank trials and classifiers share a GPU where the measured memory of the largest lets them."""

    def faults(self) -> list[str]:
        """Return every fault of these options, empty when there is none."""
        found = []
        if self.address is not None and (self.num_cpus is not None or self.num_gpus is not None):
            found.append(
                fault(
                    "address", self.address, "excludes num_cpus and num_gpus", "The running cluster has its own counts."
                )
            )
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name)
            if value is not None and value < (1 if name == "num_cpus" else 0):
                found.append(fault(name, value, "is too few", "Leave it out to use what there is."))
        share = self.gpus_per_trial
        if share is not None and (share <= 0 or (share > 1 and share % 1)):
            found.append(fault("gpus_per_trial", share, "must be in (0, 1] or whole", "Use 1 or 0.5."))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What there is to run on."""

    num_cpus: int
    num_gpus: float
    num_nodes: int
    gpus_per_trial: float = 1.0
    shares_gpus: bool = False
    """Whether trials may share a GPU, as their measured memory allows."""

    @property
    def num_slots(self) -> int:
        """Trials that run at once: as the GPUs hold, or without GPUs one per core."""
        if self.num_gpus:
            return max(1, int(self.num_gpus / self.gpus_per_trial + 1e-6))
        return max(1, self.num_cpus)

    @property
    def cpus_per_trial(self) -> float:
        """Cores one trial is promised: an equal share, at most 4; part of one where there are more GPUs than cores."""
        share = self.num_cpus / self.num_slots
        return float(min(4, int(share))) if share >= 1 else share

    @property
    def num_threads(self) -> int:
        """Threads one trial computes with, so that no library uses a core that is another trial's."""
        return max(1, int(self.cpus_per_trial))

    @property
    def trial_resources(self) -> dict[str, float]:
        """What one trial asks Ray for."""
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial if self.num_gpus else 0}

    def __str__(self) -> str:
        nodes = f"{self.num_nodes} node" + ("s" if self.num_nodes != 1 else "")
        return f"{nodes}, {self.num_cpus} cores, {self.num_gpus:g} GPUs: {self.num_slots} trials at once"


@contextmanager
def _without_native_lines() -> Iterator[None]:
    """Keep what native code writes to standard error away: Ray's core says there that its log level was set."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _connect(options: ClusterOptions) -> None:
    import ray

    quiet: dict = {"logging_level": logging.ERROR, "log_to_driver": False}
    if options.address is not None:
        ray.init(address=options.address, **quiet)
        return
    ray.init(
        address="local",
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        include_dashboard=False,
        object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
        **quiet,
    )


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Cluster]:
    """Join or start Ray and give the cluster; leave it on exit. Inside an existing connection, use that one.

    Raises InputError where the address does not answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    owned = not ray.is_initialized()
    if owned:
        try:
            with _without_native_lines():
                _connect(options)
        except (ConnectionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                fault(
                    "address", options.address, f"did not answer ({reason})", "Start Ray there with `ray start --head`."
                )
            ) from error
    for name in ("ray", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        have = ray.cluster_resources()
        cluster = Cluster(
            num_cpus=int(have.get("CPU", 1)),
            num_gpus=have.get("GPU", 0.0),
            num_nodes=sum(node["Alive"] for node in ray.nodes()),
            gpus_per_trial=1.0 if options.gpus_per_trial is None else options.gpus_per_trial,
            shares_gpus=options.gpus_per_trial is None,
        )
        if 0 < cluster.num_gpus < cluster.gpus_per_trial:
            raise InputError(
                fault(
                    "gpus_per_trial",
                    cluster.gpus_per_trial,
                    f"exceeds the {cluster.num_gpus:g} GPUs there are",
                    "Lower it.",
                )
            )
        yield cluster
    finally:
        if owned:
            ray.shutdown()

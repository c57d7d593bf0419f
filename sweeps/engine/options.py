"""Where a run takes place: the flags of a launch. Importing this loads nothing of Ray.

Recorded with a run, never part of the identity of what it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fulora.errors import fault

Device = Literal["auto", "gpu", "cpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Where a run takes place. Recorded, never part of a trial's identity."""

    executor: Literal["ray", "process"] = "ray"
    """What does the work. `ray`: Ray, on this machine or a cluster. `process`: this process, one step after another."""
    address: str | None = None
    """Address of a running Ray cluster (`auto`, `HOST:6379`). Without it, Ray starts on this machine. With --detach, of
    the cluster's job server (`http://HOST:8265`)."""
    detach: bool = False
    """Submit this command to the cluster as a Ray job, print its id and leave: `sweeps status | logs | stop ID`. Paths
    are the cluster's."""
    device: Device = "auto"
    """Device of trials and samplers. `auto`: GPUs where the cluster has them or its autoscaler can add them, else CPUs.
    `gpu`: GPUs only; waits for them up to --wait-for-gpus. `cpu`: CPUs only, GPUs stay unused."""
    storage: str | None = None
    """Where what steps make is kept for nodes that share no disk: a directory, s3://BUCKET/FOLDER?region=..., gs://...
    The run's directory on this machine is filled from it. Credentials are not in the address but in the environment or
    ~/.aws, here and on the nodes."""
    cache: Path | None = None
    """With --storage: directory of each node for what its steps read (default: in its temporary directory)."""
    cache_gb: float = 50.0
    """GB that a node's cache may take; what was used longest ago is removed first, what is in use never."""
    wait_for_gpus: float = 600.0
    """Seconds to wait for a GPU before the run fails: for the cluster's first, and where the last one was lost."""
    keep_head_free: bool = False
    """Have the head of the cluster do no work: only this command, where it runs there."""
    ship_code: bool = False
    """Give the cluster's workers the code this command runs, instead of what is installed on their nodes."""
    log: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Loggers that get losses, metrics and images, one run per trial. Their files are kept in the run's logs/, unless
    MLFLOW_TRACKING_URI or WANDB_MODE says otherwise."""
    max_retries: int = 3
    """Retries within the run of a step whose process or node was lost, each from its last checkpoint."""
    num_cpus: int | None = None
    """CPU cores to use on this machine (default: all)."""
    num_gpus: int | None = None
    """GPUs to use on this machine (default: all). More than there are: logical GPUs, for tests."""
    gpus_per_trial: float | None = None
    """GPUs per trial. A fraction packs trials on one GPU (0.5: two); Ray does not limit GPU memory, so they must fit
    together. By default trials share a GPU as far as the measured memory of the largest trial allows."""
    price: float | None = None
    """Price of a GPU-hour, in any currency: what a run costs is then said in money too."""
    max_gpu_hours: float | None = None
    """GPU-hours of the whole run, earlier calls counted, after which no new work on GPUs starts. What runs goes on to
    its end; the same command with a higher limit does what is left."""

    def refuse_storage(self, work: str) -> list[str]:
        """Return the fault of a storage beside work that needs the run's directory on every node."""
        if self.storage is None:
            return []
        from sweeps.core.remote import Remote

        remedy = "Leave --storage out and give --out a directory that every node mounts."
        return [fault("storage", str(Remote(address=self.storage, flag="storage")), f"excludes {work}", remedy)]

    def validate(self) -> list[str]:
        """Return every fault of these options, empty when there is none."""
        found = []
        if self.address is not None and (self.num_cpus is not None or self.num_gpus is not None):
            remedy = "The running cluster has its own counts."
            found.append(fault("address", self.address, "excludes num_cpus and num_gpus", remedy))
        if self.keep_head_free and self.address is None:
            rule = "keeps the only node free that there is without --address"
            found.append(fault("keep_head_free", True, rule, "Leave it out, or join a cluster."))
        if self.executor == "process" and self.address is not None:
            found.append(fault("executor", "process", "excludes --address", "Use --executor ray on a cluster."))
        if self.storage is not None and "://" in self.storage and "@" in self.storage.partition("?")[0]:
            from sweeps.core.remote import Remote

            rule = "holds credentials, and a command line is in process lists and in Ray's logs"
            remedy = "Give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in ~/.aws, here and on every node."
            found.append(fault("storage", str(Remote(address=self.storage, flag="storage")), rule, remedy))
        if self.cache is not None and self.storage is None:
            found.append(fault("cache", str(self.cache), "is of use with --storage only", "Leave it out."))
        if not 0 < self.cache_gb < float("inf"):
            found.append(fault("cache_gb", self.cache_gb, "must be a positive number of GB", "Use 50."))
        serves_jobs = self.address is not None and self.address.startswith(("http://", "https://"))
        if self.detach and not serves_jobs:
            remedy = "Add the address of the cluster's job server, --address http://HOST:8265."
            found.append(fault("detach", True, f"cannot be done at address {self.address!r}", remedy))
        elif self.address is not None and "://" in self.address and not self.detach:
            rule = "is the address of a job server" if serves_jobs else "is not HOST:PORT of a Ray head"
            remedy = "Use `auto` on a node of the cluster, or HOST:6379; a job server (http://HOST:8265) with --detach."
            found.append(fault("address", self.address, rule, remedy))
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name)
            if value is not None and value < (1 if name == "num_cpus" else 0):
                found.append(fault(name, value, "is too small", "Leave it out to use all there are."))
        if self.device == "gpu" and self.num_gpus == 0:
            found.append(fault("device", "gpu", "excludes --num-gpus 0", "Leave --num-gpus out, or use --device cpu."))
        if not 0 < self.wait_for_gpus < float("inf"):
            rule = "must be a positive number of seconds"
            found.append(fault("wait_for_gpus", self.wait_for_gpus, rule, "Use 600."))
        if self.max_retries < 0:
            found.append(fault("max_retries", self.max_retries, "must be at least 0", "Use 3."))
        if self.price is not None and not 0 <= self.price < float("inf"):
            found.append(fault("price", self.price, "must be at least 0", "Such as 2.5."))
        if self.max_gpu_hours is not None and not 0 < self.max_gpu_hours < float("inf"):
            found.append(fault("max_gpu_hours", self.max_gpu_hours, "must be above 0", "Leave it out for no limit."))
        share = self.gpus_per_trial
        if share is not None and (share <= 0 or (share > 1 and share % 1)):
            remedy = "Use a fraction of one GPU or whole GPUs."
            found.append(fault("gpus_per_trial", share, "must be in (0, 1] or a whole number", remedy))
        return found

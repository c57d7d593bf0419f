"""Connect to Ray, or start it here; decide between GPUs and CPUs, and wait for GPUs that are to come.

In: `ClusterOptions`. Out: a `Cluster` for the length of a block. An address joins wherever `ray status` joins: Ray's
token is taken from where Ray's own commands take it. What Ray answers is part of every error.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fulora.errors import InputError, fault, one_line
from sweeps.core.provenance import COMMIT, commit
from sweeps.engine.capacity import head_node, most_gpus, nodes_to_come, nodes_up
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.engine.waiting import wait_for_gpus

# Ray's own chatter, and behaviour that would surprise us, set before Ray is imported anywhere.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our tables are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us, so that running trials become CANCELLED rows
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a candidate that failed has no value to report
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",  # GPUs that are to come are waited for here
    "RAY_AIR_NEW_OUTPUT": "0",
    "MALLOC_ARENA_MAX": "1",  # Ray works in threads; `fulora.device.freed_memory_kept` needs them on one heap
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # `engine.resources.prepare_worker` hides GPUs that were not asked for
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its own log files keep the rest
}
_ON_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Makes Ray on this machine alone listen on loopback only: read when Ray is imported, on Linux too."""
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Images pass through files, not through Ray's store; its default of 30 % of memory would be held for nothing."""
_ANSWER_SECONDS = 10.0
"""Time a head has to answer: Ray itself waits up to ten minutes for an address where nothing listens."""

Say = Callable[[str], None]


@contextmanager
def connected(options: ClusterOptions, say: Say = lambda text: None) -> Iterator[Cluster]:
    """Join or start Ray and give the cluster; leave it on exit. Inside an existing connection, use that one.

    Raises InputError where the address cannot be joined, or GPUs that were asked for do not come.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if options.address is None:
        os.environ.setdefault(*_ON_LOOPBACK)
    import ray

    owned = not ray.is_initialized()
    if owned:
        if options.address is not None:
            use_token()
            check_head(options.address)
        try:
            with _without_native_lines(), _sigterm_kept():
                _connect(options)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            rule = f"cannot be joined ({one_line(error, 300)})"
            raise InputError(fault("address", options.address, rule, _REMEDY)) from error
    for name in ("ray", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield _cluster(options, say)
    finally:
        if owned:
            ray.shutdown()


_REMEDY = "Start Ray there with `ray start --head`; `ray status --address HOST:PORT` must succeed from this machine."


def use_token() -> None:
    """Turn token authentication on where a token is to be had, as Ray's own commands do and `ray.init` does not."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def check_head(address: str) -> None:
    """Raise InputError, with Ray's own words, unless a head answers at HOST:PORT (`auto` is left to Ray)."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise InputError(fault("address", address, "is not HOST:PORT", "Use `auto` or the head's HOST:6379."))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        rule = f"cannot be reached ({getattr(error, 'strerror', None) or error})"
        raise InputError(fault("address", address, rule, _REMEDY)) from error
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        with _without_native_lines():
            GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=_ANSWER_SECONDS)
    except AuthenticationError as error:
        rule = f"refuses this machine's token ({one_line(str(error).split(' Ensure ')[0])})"
        remedy = "Give the cluster's token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."
        raise InputError(fault("address", address, rule, remedy)) from error
    except (RayError, ValueError, RuntimeError) as error:
        rule = f"is not a Ray head ({one_line(error, 300)})"
        raise InputError(fault("address", address, rule, _REMEDY)) from error


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


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep what SIGTERM does: `ray.init` makes it an exit, which would leave no rows of what was stopped."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _connect(options: ClusterOptions) -> None:
    import ray

    quiet: dict = {"logging_level": logging.ERROR, "log_to_driver": False}
    if options.address is not None:
        if options.ship_code:
            here = Path(__file__).parents[1]
            modules = [str(here), str(here.with_name("fulora"))]
            quiet["runtime_env"] = {"py_modules": modules, "env_vars": {COMMIT: commit() or ""}}
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


def _cluster(options: ClusterOptions, say: Say) -> Cluster:
    """Return what the options make of the cluster that is joined; waits for its first GPU where one is to be used."""
    kept_free = head_node() if options.keep_head_free else None
    up, to_come = nodes_up(but=kept_free), nodes_to_come()
    num_gpus = 0.0 if options.device == "cpu" else most_gpus(up, to_come)
    if options.device == "gpu" or num_gpus:
        if not any(node.num_gpus for node in up):
            up = wait_for_gpus(options.wait_for_gpus, say, but=kept_free)
        num_gpus = most_gpus(up, to_come)
    elif options.device == "auto" and options.address is not None:
        say("the cluster has no GPUs, and its autoscaler has no node type with GPUs: trials run on CPUs")
    if not up:
        rule = "leaves no node to work on"
        raise InputError(fault("keep_head_free", True, rule, "Start a node with `ray start --address HOST:PORT`."))
    with_gpus = tuple(n for n in (*up, *to_come) if n.num_gpus and n.max_nodes) if num_gpus else ()
    share = 1.0 if options.gpus_per_trial is None else options.gpus_per_trial
    if num_gpus and (largest := max(node.num_gpus for node in with_gpus)) < share:
        rule = f"exceeds the {largest:g} GPUs of the largest node"
        raise InputError(fault("gpus_per_trial", share, rule, "Lower it."))
    return Cluster(
        num_cpus=int(sum(node.num_cpus * node.num_up for node in up)) or 1,
        num_gpus=num_gpus,
        num_nodes=sum(node.num_up for node in up),
        gpus_per_trial=share,
        shares_gpus=options.gpus_per_trial is None,
        gpu_nodes=tuple(node for node in with_gpus if node.num_gpus >= share),
        gpus_up=sum(node.num_gpus * node.num_up for node in up) if num_gpus else None,
        kept_free=kept_free,
    )

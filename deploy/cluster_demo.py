"""The demo over a Ray cluster of this machine, one of whose nodes is killed meanwhile: `make cluster-demo`.

    python deploy/cluster_demo.py [--out DIR] [FLAGS of `sweeps run demo`]

A head and two workers are processes of their own on loopback, with a token of their own; each worker has a logical GPU
(Ray counts it; the work runs on the CPU). The study joins by HOST:PORT, as it would join any cluster. Once both workers
are at work, one is killed with all its processes, as a machine that loses power. Out: the run's folder, what was
retried, the report's path. Only processes that were started here are ended.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import tyro

from fulora.errors import InputError, fault
from sweeps.console.progress import clock
from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths

_START_SECONDS = 120.0
_CHECK_EVERY = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The demo over a head and two workers of this machine, one of them killed. Other flags go to the demo."""

    out: Path = Path("runs/cluster-demo")
    """Directory of the run."""


@dataclass
class LocalCluster:
    """Ray nodes that are processes of this machine; a context manager that ends them."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray-")))  # short: sockets lie in it
    nodes: list[subprocess.Popen] = field(default_factory=list)

    def __enter__(self) -> LocalCluster:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(16))
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
        }  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *words: str) -> subprocess.Popen:
        """Start a node that listens on loopback only, and return its process."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1",
                   "--num-cpus=1", "--object-store-memory=100000000", *words]  # fmt: skip
        with (self.folder / f"node-{len(self.nodes)}.log").open("w") as log:
            node = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    start_new_session=True)  # fmt: skip
        self.nodes.append(node)
        return node

    def kill(self, node: subprocess.Popen) -> None:
        """End a node with all its processes at once."""
        try:
            ours = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in ours:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        node.wait()

    def started(self, *words: str) -> subprocess.Popen:
        """Start a node and return its process once it has joined; tried three times, a busy machine may be too slow.

        Raises TimeoutError, with the end of its log, where it does not.
        """
        for _ in range(3):
            node, end = self.start(*words), time.monotonic() + _START_SECONDS
            log = self.folder / f"node-{len(self.nodes) - 1}.log"
            while node.poll() is None and time.monotonic() < end:
                if "Ray runtime started" in log.read_text():
                    return node
                time.sleep(_CHECK_EVERY)
            self.kill(node)
        raise TimeoutError(f"a node did not start:\n{log.read_text()[-2000:]}")


def nodes_at_work(paths: RunPaths) -> set[str]:
    """Return the nodes on which steps run now that have begun to train or draw."""
    try:
        running = json.loads(paths.now.read_text())["running"]
    except (OSError, ValueError):
        return set()
    return {step["node"] for step in running if step["fraction"] and step.get("node")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code; 1 too where nothing was killed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started here is ended here
    options, flags = tyro.cli(Options, args=argv, return_unknown_args=True)
    paths = RunPaths(options.out.expanduser().resolve())
    if paths.root.exists():
        raise InputError(fault("out", str(paths.root), "is there already", "Remove it, or give --out another."))
    began, killed = time.monotonic(), False
    with LocalCluster() as cluster:
        port = cluster.address.rpartition(":")[2]
        cluster.started("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={cluster.folder / 'ray'}")
        workers = [cluster.started(f"--address={cluster.address}", "--num-gpus=1") for _ in range(2)]
        print(f"a head at {cluster.address} and two workers of one logical GPU each", flush=True)
        command = [sys.executable, "-m", "sweeps", "run", "demo", "--out", str(paths.root), *flags]
        command += ["--address", cluster.address, "--device", "gpu", "--gpus-per-trial", "1"]
        study = subprocess.Popen(command, env=cluster.environment)
        try:
            while study.poll() is None:
                if not killed and len(nodes_at_work(paths)) == 2:
                    cluster.kill(workers[1])
                    killed = True
                    print(f"killed a worker after {clock(time.monotonic() - began)}", flush=True)
                time.sleep(_CHECK_EVERY)
        finally:
            if study.poll() is None:
                study.terminate()
                study.wait()
    retried = [a for a in AttemptLog(paths.attempts).attempts if a.error_type == "WorkerDied"]
    for attempt in retried:
        print(f"retried: {attempt.label}: {attempt.error_message}")
    words = f"{len(retried)} steps were interrupted and done again on the other worker"
    print(f"{words}; {clock(time.monotonic() - began)} in all\nreport: {paths.report}")
    return study.returncode or int(not killed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, TimeoutError) as problem:
        sys.exit(f"cluster-demo: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)

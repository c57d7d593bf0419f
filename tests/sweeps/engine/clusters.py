"""Real Ray clusters on this machine, for tests: heads and nodes as processes of their own, ended by their ids.

`ray start` in a folder and on a port of its own, on loopback, with a token of its own; nodes join by HOST:PORT. With
`node_types` the head runs Ray's own autoscaler over its fake provider, whose nodes are real Ray nodes of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_START_SECONDS = 60
_WAIT = """
import socket, sys, time
address, wanted, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
while True:
    try:
        socket.create_connection(address.split(":"), timeout=1).close()
        break
    except OSError:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.2)
import ray
ray.init(address, log_to_driver=False, logging_level=40)
while sum(node["Alive"] for node in ray.nodes()) < wanted:
    if time.monotonic() > end:
        sys.exit(1)
    time.sleep(0.2)
"""
"""Waits for the head to listen and for its nodes to be alive."""
_HEAD_ID = "f" * 51 + "00000"
"""The id by which the fake provider knows the head."""


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RayProcesses:
    """A cluster of `ray start` processes; a context manager that ends all of them."""

    def __init__(
        self,
        *,
        num_cpus: int = 1,
        num_gpus: int = 0,
        node_types: dict[str, Any] | None = None,
        serves_jobs: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie below it
        self.address = f"127.0.0.1:{free_port()}"
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(16))
        self.processes: list[subprocess.Popen] = []
        port = self.address.rpartition(":")[2]
        words = ["--head", f"--port={port}", f"--temp-dir={self.folder / 'ray'}"]
        self.dashboard_port = free_port()
        words += [f"--include-dashboard={str(serves_jobs).lower()}", f"--dashboard-port={self.dashboard_port}"]
        words.append(f"--dashboard-agent-listen-port={free_port()}")  # the default is one, whoever else has a Ray here
        if node_types is not None:
            words.append(f"--autoscaling-config={self._autoscaler(num_cpus, node_types)}")
        self._start(*words, num_cpus=num_cpus, num_gpus=num_gpus)
        self.num_nodes = 1
        self._wait_for_nodes(1)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of the cluster, and of a driver that may join it."""
        mine = {k: v for k, v in os.environ.items() if k != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}  # of a Ray alone here
        return mine | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `python` of a job is this one
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3", "RAY_health_check_initial_delay_ms": "2000",
        }  # fmt: skip

    def add_node(
        self, *, num_cpus: int = 1, num_gpus: int = 0, gpu_type: str | None = None, hidden: Sequence[Path] = ()
    ) -> subprocess.Popen:
        """Start a node that joins by the address, and return its process once it has joined.

        The node finds the `hidden` folders empty: it has a mount namespace of its own (`can_hide`).
        """
        words = [f"--address={self.address}"]
        words += [f'--resources={{"accelerator_type:{gpu_type}": 1}}'] if gpu_type else []
        process = self._start(*words, num_cpus=num_cpus, num_gpus=num_gpus, hidden=hidden)
        self.num_nodes += 1
        self._wait_for_nodes(self.num_nodes)
        return process

    def kill(self, process: subprocess.Popen) -> None:
        """Kill a node with all its processes, as a machine that loses power."""
        for pid in _descendants(process.pid):
            _signal(pid, signal.SIGKILL)
        process.wait()
        self.num_nodes -= 1

    def close(self) -> None:
        """End every process of the cluster, those of the autoscaler's nodes too."""
        ours = {pid for process in self.processes for pid in _descendants(process.pid)} | _mentioning(str(self.folder))
        for pid in ours:
            _signal(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RayProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def temporary(self, index: int) -> Path:
        """Return the folder for temporary files of the index-th node; 0 is the head."""
        return self.folder / f"tmp-{index}"

    def _start(self, *words: str, num_cpus: int, num_gpus: int, hidden: Sequence[Path] = ()) -> subprocess.Popen:
        temporary = self.temporary(len(self.processes))
        temporary.mkdir()
        command = [
            *(_hiding(hidden) if hidden else ()),
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1",
            f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", "--object-store-memory=100000000", *words,
        ]  # fmt: skip
        env = {**self.environment, "TMPDIR": str(temporary)}
        with (self.folder / f"log-{len(self.processes)}").open("w") as log:
            process = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.processes.append(process)
        return process

    def _wait_for_nodes(self, wanted: int) -> None:
        words = [sys.executable, "-c", _WAIT, self.address, str(wanted), str(_START_SECONDS)]
        if subprocess.run(words, env=self.environment, capture_output=True).returncode:
            log = (self.folder / f"log-{len(self.processes) - 1}").read_text()[-2000:]
            self.close()
            raise TimeoutError(f"the cluster did not come to {wanted} nodes:\n{log}")

    def _autoscaler(self, num_cpus: int, node_types: dict[str, Any]) -> Path:
        kinds = {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in node_types.items()}
        head = {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0}
        empty_lists = (
            "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
            "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
        )  # fmt: skip
        config = {
            "cluster_name": "fake", "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
            "provider": {
                "type": "fake_multinode", "gcs_address": self.address, "head_node_id": _HEAD_ID, "launch_multiple": True
            },
            "available_node_types": {"ray.head.default": head, **kinds}, "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0, "idle_timeout_minutes": 5, "auth": {}, "file_mounts": {},
            "file_mounts_sync_continuously": False, **{name: [] for name in empty_lists},
        }  # fmt: skip
        file = self.folder / "autoscaler.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        return file


def _hiding(folders: Sequence[Path]) -> list[str]:
    """Return the words before a command that let it find some folders empty."""
    mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in folders)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


def can_hide() -> str | None:
    """Return why a process may not have a mount namespace of its own here; None where it may."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*_hiding([Path(folder)]), "true"], capture_output=True, text=True)
    return f"a mount namespace is not permitted: {done.stderr.strip()}" if done.returncode else None


def _descendants(pid: int) -> list[int]:
    """Return a process and all below it, by /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def _mentioning(text: str) -> set[int]:
    """Return the processes whose command line names a folder of ours."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in file.read_bytes().decode(errors="replace"):
                found.add(int(file.parent.name))
        except OSError:
            continue
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

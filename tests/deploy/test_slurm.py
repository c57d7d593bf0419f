"""deploy/slurm.sh on one node: the script itself under a stand-in for Slurm, in a process namespace of its own.

`ray symmetric-run` ends with `ray stop`, which ends every Ray it can see: in the namespace it sees the job's alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm.sh"
ALONE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]


def free_job() -> int:
    """Return a job's number whose port, 10000 and the number, is free."""
    for number in range(os.getpid() % 10000, 20000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 10000 + number)):
                return number
    raise OSError("no port is free")


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job of one node: `srun` runs its command, `scontrol` names this machine."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, line in {"srun": 'exec "$@"', "scontrol": "echo 127.0.0.1"}.items():
        (tools / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >>'{tmp_path}/called'\n{line}\n")
        (tools / name).chmod(0o755)
    submit = tmp_path / "checkout"
    submit.mkdir()
    (submit / ".venv").symlink_to(sys.prefix)
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
        "SLURM_SUBMIT_DIR": str(submit), "SLURM_JOB_ID": str(free_job()), "SLURM_JOB_NODELIST": "node[1]",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000",
    }  # fmt: skip


def test_its_options_are_ones_that_ray_and_the_command_line_have() -> None:
    from ray.scripts.scripts import start, symmetric_run

    text = SCRIPT.read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("srun ray symmetric-run")]
    words = line.partition(" -- ")[0].split()
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = {option for command in (start, symmetric_run) for p in command.params for option in p.opts}
    assert given <= known and {"--address", "--min-nodes"} <= given


def test_it_tells_slurm_of_one_task_a_node_and_that_it_may_be_started_again() -> None:
    options = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")}
    assert {"--ntasks-per-node=1", "--requeue"} <= options and any(o.startswith("--gpus-per-node=") for o in options)


@pytest.mark.slow
def test_a_job_of_one_node_runs_the_study(slurm: dict[str, str], mini_flags: list[str], tmp_path: Path) -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no process namespace, and `ray stop` would end other Rays")
    fewer = ["--lora.ranks", "4", "--grid.models", "ResNet18", "--grid.regimes", "HB", "--grid.table2-regimes", "AF",
             "--amounts.numbers", "--amounts.shares"]  # fmt: skip
    command = [*ALONE, "bash", str(SCRIPT), "demo", *mini_flags, *fewer, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "run" / "report.html").is_file()
    assert "Running command on head node" in done.stdout and "running on" in done.stderr
    assert not Path(f"/tmp/ray-{slurm['SLURM_JOB_ID']}").exists(), "what Ray left on the node's disk"
    again = subprocess.run([*command, "--lora.ranks", "0"], env=slurm, capture_output=True, text=True, timeout=400)
    assert again.returncode == 2 and "lora.ranks" in again.stdout + again.stderr, "the command's own exit code"

"""The whole study where it is launched: GPUs of this machine, joined nodes, an autoscaler; and how joining fails.

GPUs are logical: Ray hands them out by number, and the work runs on the CPU. The tables are those of a run without any.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, read_table

from ..s3_server import CREDENTIALS, LoopbackS3
from .clusters import RayProcesses, can_hide, free_port


@pytest.fixture(scope="module")
def small_study(mini_flags: list[str]) -> list[str]:
    """Return the flags of a study of all five stages in as few trials as have one of each kind."""
    fewer = ["--lora.ranks", "4", "--grid.models", "ResNet18", "--grid.regimes", "HB", "--grid.table2-regimes", "AF",
             "--amounts.numbers", "--amounts.shares"]  # fmt: skip
    return ["demo", *mini_flags, *fewer]


def sweeps(
    words: Sequence[str], env: dict[str, str] | None = None, timeout: float = 400
) -> subprocess.CompletedProcess:
    """Run the command as a process of its own."""
    command = [sys.executable, "-m", "sweeps", *words]
    env = {**(env or os.environ), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def on_cpus(small_study: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Return the study run without GPUs."""
    out = tmp_path_factory.mktemp("cpus") / "run"
    done = sweeps(["run", *small_study, "--out", str(out), "--executor", "process"])
    assert done.returncode == 0, done.stderr
    assert {a.provenance.get("gpu_ids") for a in attempts_of(RunPaths(out))} == {None}
    return RunPaths(out)


def attempts_of(paths: RunPaths) -> list[Attempt]:
    """Return the attempts at work of a run that takes a GPU where there are any."""
    on_gpus = ("judge", "lora", "images", "features", "grid", "embedding")
    return [a for a in AttemptLog(paths.attempts).attempts if a.stage in on_gpus]


def check_run(paths: RunPaths, reference: RunPaths) -> None:
    """Assert that all work held a GPU and that the tables are those of the run without GPUs."""
    attempts = attempts_of(paths)
    assert {a.stage for a in attempts} == {"judge", "lora", "images", "features", "grid", "embedding"}
    assert all(a.status == "SUCCEEDED" for a in attempts), attempts
    assert all(a.provenance["gpu_ids"] is not None for a in attempts), "work that takes a GPU ran without one"
    for folder, other in ((paths.synthetic, reference.synthetic), (paths.images("base"), reference.images("base"))):
        rows, before = (read_rows(f / "metadata.parquet", "metadata") for f in (folder, other))
        assert all(row["gpu_ids"] is not None for row in rows), "a sampling actor ran without a GPU"
        assert [{**row, "node": None, "gpu_ids": None} for row in rows] == [
            {**row, "node": None, "gpu_ids": None} for row in before
        ]
    assert read_table(paths.predictions, "predictions") == read_table(reference.predictions, "predictions")
    for name in ("table1", "table2", "fidelity", "confusion"):
        assert read_table(paths.table(name), name) == read_table(reference.table(name), name)
    assert paths.report.is_file()


def test_on_one_machine_with_gpus(small_study: list[str], on_cpus: RunPaths, tmp_path: Path) -> None:
    out = tmp_path / "run"
    where = ["--num-cpus", "2", "--num-gpus", "2", "--gpus-per-trial", "1"]
    done = sweeps(["run", *small_study, "--out", str(out), *where])
    assert done.returncode == 0, done.stderr
    assert "2 GPUs: 2 trials at once" in done.stderr
    check_run(RunPaths(out), on_cpus)


def test_on_a_head_and_a_node_joined_by_address_and_token(
    small_study: list[str], on_cpus: RunPaths, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with RayProcesses(num_gpus=1) as cluster:
        cluster.add_node(num_gpus=1)
        where = ["--out", str(out), "--address", cluster.address]
        without_mode = {k: v for k, v in cluster.environment.items() if k != "RAY_AUTH_MODE"}
        done = sweeps(["run", *small_study, *where], without_mode)
        assert done.returncode == 0, done.stderr
        check_run(RunPaths(out), on_cpus)
        assert len({a.provenance["node"] for a in attempts_of(RunPaths(out))}) == 2, "one node did all"
        wrong = {**without_mode, "RAY_AUTH_TOKEN": "0" * 32}
        done = sweeps(["sample", *small_study, *where], wrong)
        assert done.returncode == 2 and "InvalidAuthToken" in done.stderr and "RAY_AUTH_TOKEN" in done.stderr


@pytest.fixture
def no_shared_disk(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the folders that a second node does not see: the run's, the base's, all that a test writes."""
    if reason := can_hide():
        pytest.skip(reason)
    for name, value in {**CREDENTIALS, "AWS_ACCESS_KEY_ID": "AKIAKEY", "AWS_SECRET_ACCESS_KEY": "SECRETKEY"}.items():
        monkeypatch.setenv(name, value)
    return [tmp_path_factory.getbasetemp()]


def test_on_nodes_that_share_no_disk(
    small_study: list[str], on_cpus: RunPaths, tmp_path: Path, no_shared_disk: list[Path]
) -> None:
    out = tmp_path / "run"
    with LoopbackS3() as server, RayProcesses(num_gpus=1) as cluster:
        cluster.add_node(num_gpus=1, hidden=no_shared_disk)
        where = ["--out", str(out), "--address", cluster.address]
        done = sweeps(["run", *small_study, *where], cluster.environment)
        assert done.returncode == 2 and "cannot be seen by 1 of 2 nodes" in done.stderr, done.stderr
        nowhere = server.address().replace("storage-", "nowhere-")
        done = sweeps(["run", *small_study, *where, "--storage", nowhere], cluster.environment)
        assert done.returncode == 2 and "storage: 's3://nowhere-" in done.stderr, done.stderr
        done = sweeps(["run", *small_study, *where, "--storage", str(tmp_path / "storage")], cluster.environment)
        assert done.returncode == 2 and "cannot be used by 1 of 2 nodes" in done.stderr, done.stderr
        done = sweeps(["run", *small_study, *where, "--storage", server.address()], cluster.environment)
        assert done.returncode == 0, done.stderr
        check_run(RunPaths(out), on_cpus)
        assert len({a.provenance["node"] for a in attempts_of(RunPaths(out))}) == 2, "one node did all"
        fetched = Counter(Path(path).name for method, path in server.asked if method == "GET" and "/objects/" in path)
        records = [json.loads(file.read_text()) for file in out.glob("steps/*/*/done.json")]
        parts = Counter[str]()  # a large file comes in parts of 8 MiB
        for size, _, sha256 in (facts for record in records for facts in record["files"].values()):
            parts[sha256] += 1 + size // 2**23
        again = {name: num for name, num in fetched.items() if num > 3 * max(1, parts[name])}
        assert not again, "each of two nodes and the driver fetches what it lacks once for each step that has it"
        texts = {str(file): file.read_text("latin-1") for file in _files(out, cluster.folder / "ray")}
        texts |= {"standard output": done.stdout, "standard error": done.stderr}
        found = {
            name: text[max(0, text.find(word) - 200) :][:300]
            for name, text in texts.items()
            for word in ("SECRETKEY", "AKIAKEY")
            if word in text
        }
        assert len(texts) > 100 and found == {}


@pytest.mark.slow
def test_a_node_without_a_shared_disk_that_is_killed_costs_time_alone(
    small_study: list[str], on_cpus: RunPaths, tmp_path: Path, no_shared_disk: list[Path]
) -> None:
    out = tmp_path / "run"
    with LoopbackS3() as server, RayProcesses(num_gpus=1) as cluster:
        node = cluster.add_node(num_gpus=1, hidden=no_shared_disk)
        where = ["--out", str(out), "--address", cluster.address, "--storage", server.address()]
        command = [sys.executable, "-m", "sweeps", "run", *small_study, *where]
        env = {**cluster.environment, "OMP_NUM_THREADS": "1"}
        driver = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 300
        while not list(cluster.temporary(1).glob("sweeps-*/steps/lora/.*.part")):  # it trains a rank
            assert time.monotonic() < end and driver.poll() is None, "the second node was given nothing"
            time.sleep(0.05)
        cluster.kill(node)
        cluster.add_node(num_gpus=1, hidden=no_shared_disk)
        _, said = driver.communicate(timeout=500)
        assert driver.returncode == 0, said
    lost = [a for a in attempts_of(RunPaths(out)) if a.status != "SUCCEEDED"]
    assert lost and {a.error_type for a in lost} == {"WorkerDied"}
    assert read_table(RunPaths(out).predictions, "predictions") == read_table(on_cpus.predictions, "predictions")
    for name in ("table1", "table2", "fidelity", "confusion"):
        assert read_table(RunPaths(out).table(name), name) == read_table(on_cpus.table(name), name)


def _files(*folders: Path) -> list[Path]:
    return [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]


def test_on_gpu_nodes_that_come_when_they_are_asked_for(
    small_study: list[str], on_cpus: RunPaths, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    node = {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2}
    with RayProcesses(node_types={"gpu": node}) as cluster:
        where = ["--out", str(out), "--address", cluster.address, "--gpus-per-trial", "1"]
        done = sweeps(["run", *small_study, *where], cluster.environment)
    assert done.returncode == 0, done.stderr
    assert "waiting for a GPU" in done.stderr and "on demand)" in done.stderr
    check_run(RunPaths(out), on_cpus)


def test_gpus_that_never_come_and_addresses_that_do_not_answer(small_study: list[str], tmp_path: Path) -> None:
    where = ["--out", str(tmp_path / "run")]
    port = free_port()
    done = sweeps(["lora", *small_study, *where, "--address", f"127.0.0.1:{port}"])
    assert done.returncode == 2 and f"127.0.0.1:{port}" in done.stderr and "Connection refused" in done.stderr
    done = sweeps(["lora", *small_study, *where, "--num-gpus", "0", "--device", "gpu"])
    assert done.returncode == 2 and "excludes --num-gpus 0" in done.stderr
    with RayProcesses() as cluster:
        at = ["--address", cluster.address, "--device", "gpu", "--wait-for-gpus", "2"]
        done = sweeps(["lora", *small_study, *where, *at], cluster.environment)
    assert done.returncode == 2 and "no GPU came within 2 s" in done.stderr, done.stderr
    assert "--wait-for-gpus" in done.stderr and "Ray reports" in done.stderr
    assert attempts_of(RunPaths(tmp_path / "run")) == [], "nothing was trained on the head"


def test_destinations_and_the_hub_are_tried_before_any_work(small_study: list[str], tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "file"
    file.write_text("not a directory")
    done = sweeps(["sample", *small_study, "--out", str(out), "--to", str(file / "set")])
    assert done.returncode == 2 and f"to: '{file}/set'" in done.stderr and "Not a directory" in done.stderr, done.stderr
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = sweeps(["lora", *small_study, "--out", str(out), "--base", "stable-diffusion-v1-5/no-such"], offline)
    assert done.returncode == 2 and "cannot be reached on the Hugging Face hub" in done.stderr, done.stderr
    assert not out.exists() or not any(out.glob("[a-z]*")), "work was begun"


def test_nodes_get_the_code_the_driver_runs_or_are_named(tmp_path: Path) -> None:
    """A copy of the project with another version runs on a cluster whose nodes have this one installed."""
    import fulora
    import sweeps as package

    copy = tmp_path / "copy"
    for module in (fulora, package):
        shutil.copytree(Path(module.__path__[0]), copy / module.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    init = copy / "fulora" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{fulora.__version__}"', '"9.9.9"'))
    (copy / "elsewhere").mkdir()
    program = (
        "import sys; from pathlib import Path; from sweeps.engine.connection import connected\n"
        "from sweeps.engine.options import ClusterOptions; from sweeps.engine.preflight import check_nodes\n"
        "from sweeps.core.store import Store\n"
        "with connected(ClusterOptions(address=sys.argv[1], ship_code=len(sys.argv) > 3)):\n"
        "    check_nodes(Store(Path(sys.argv[2])), print)\n"
        "print('same code')\n"
    )
    with RayProcesses() as cluster:
        env = {**cluster.environment, "PYTHONPATH": str(copy)}
        for words, expected in (([], "version: '9.9.9' differs from"), (["--ship-code"], "same code")):
            done = subprocess.run(
                [sys.executable, "-c", program, cluster.address, str(tmp_path), *words],
                env=env, cwd=copy / "elsewhere", capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert expected in done.stdout + done.stderr, done.stderr


def test_ray_on_this_machine_alone_listens_on_loopback_only() -> None:
    program = (
        "import os, psutil; from sweeps.engine.connection import connected\n"
        "from sweeps.engine.options import ClusterOptions\n"
        "with connected(ClusterOptions(num_cpus=1)):\n"
        "    import ray\n"
        "    ray.get(ray.remote(lambda: 1).remote())\n"
        "    mine = {os.getpid(), *(p.pid for p in psutil.Process().children(recursive=True))}\n"
        "    found = [c.laddr.ip for c in psutil.net_connections('tcp') if c.status == 'LISTEN' and c.pid in mine]\n"
        "    print(sorted(set(found)), os.environ.get('RAY_AUTH_MODE'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    listening, mode = done.stdout.strip().rsplit(" ", 1)
    assert listening != "[]" and set(json.loads(listening.replace("'", '"'))) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert mode == "token"

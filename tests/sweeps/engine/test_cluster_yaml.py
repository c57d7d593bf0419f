"""cluster.yaml is one that Ray accepts, and its commands are ones that Ray, this package and its recipes have."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from sweeps.launch import launch_of

from .clusters import RayProcesses

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "cluster.yaml").read_text()
CLUSTER = yaml.safe_load(TEXT)


MACHINES = {"g5.2xlarge": {"CPU": 8, "GPU": 1}}
"""What Ray learns of a machine from the cloud."""


def check_schema(cluster: dict[str, Any]) -> None:
    """Raise where a cluster does not fit the schema in the ray package."""
    jsonschema.validate(cluster, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))


def test_it_fits_the_schema_in_the_ray_package():
    check_schema(CLUSTER)
    with pytest.raises(jsonschema.ValidationError):
        check_schema(CLUSTER | {"max_worker": 4})


def test_spot_is_one_line():
    (line,) = re.findall(r"^ *# InstanceMarketOptions.*$", TEXT, re.MULTILINE)
    spot = yaml.safe_load(TEXT.replace(line, line.replace("# ", "", 1)))
    check_schema(spot)
    gpu = spot["available_node_types"]["gpu"]["node_config"]
    assert gpu.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == CLUSTER


def test_what_is_to_be_changed_is_marked():
    marked = [line for line in TEXT.splitlines() if "# CHANGE" in line]
    for what in ("region:", "ImageId:", "FILESERVER", "REPOSITORY"):
        assert any(what in line.split("# CHANGE")[0] for line in marked), what


def test_nodes_show_a_token_that_the_launcher_brings():
    assert "~/.ray/auth_token" in CLUSTER["file_mounts"].values()
    starts = [c for k in ("head", "worker") for c in CLUSTER[f"{k}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)


@pytest.mark.slow
def test_its_gpu_nodes_come_when_they_are_asked_for():
    """Ray's autoscaler brings the file's node type; the provider is the fake one, its nodes are processes here."""
    types = CLUSTER["available_node_types"]
    workers = {
        name: {**node, "resources": MACHINES[node["node_config"]["InstanceType"]]}
        for name, node in types.items()
        if name != CLUSTER["head_node_type"]
    }
    program = (
        "import sys; from sweeps.engine.connection import connected; from sweeps.engine.options import ClusterOptions\n"
        "with connected(ClusterOptions(address=sys.argv[1], wait_for_gpus=90), print) as cluster: print(cluster)\n"
    )
    with RayProcesses(node_types=workers) as cluster:
        command = [sys.executable, "-c", program, cluster.address]
        done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "waiting for a GPU" in done.stdout and "4 GPUs (3 of them on demand)" in done.stdout, done.stdout


def test_its_node_types_fit_each_other():
    types = CLUSTER["available_node_types"]
    workers = {name: node for name, node in types.items() if name != CLUSTER["head_node_type"]}
    assert len(workers) == len(types) - 1 >= 1
    for node in workers.values():
        assert 0 <= node["min_workers"] <= node["max_workers"] <= CLUSTER["max_workers"]


def test_its_ray_commands_have_options_that_ray_start_has():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    commands = [*CLUSTER["head_start_ray_commands"], *CLUSTER["worker_start_ray_commands"]]
    starts = [command.split("ray start ")[1] for command in commands if "ray start " in command]
    given = [set(re.findall(r"--[a-z-]+", line)) for line in starts]
    assert len(given) == 2 and given[0] | given[1] <= known
    assert {"--head", "--autoscaling-config"} <= given[0] and "--address" in given[1]


def test_it_installs_an_extra_of_this_package_at_the_pinned_versions():
    (install,) = [command for command in CLUSTER["setup_commands"] if "pip install" in command]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (extra,) = re.findall(r"/shared/fulora\[(\w+)\]", install)
    assert any(package.startswith("ray[") for package in extras[extra])
    (constraints,) = re.findall(r"-c /shared/fulora/(\S+)", install)
    assert (ROOT / constraints).is_file()


def test_the_run_it_describes_is_one_the_command_line_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    comment = re.sub(r"\\\n#\s*", "", TEXT)
    (line,) = re.findall(r"'~/fulora-env/bin/sweeps run (.*?)'", comment)
    launch = launch_of("run", shlex.split(line))
    assert launch.experiment.recipe == "paper" and launch.cluster.address == "auto"
    assert launch.folder.is_relative_to("/shared"), "on storage every node sees"

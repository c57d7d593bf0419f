"""cluster.yaml is one that Ray accepts, and its commands are ones that Ray, this package and its recipes have."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from sweeps.launch import launch_of

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "cluster.yaml").read_text()
CLUSTER = yaml.safe_load(TEXT)


def test_it_fits_the_schema_in_the_ray_package():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)


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

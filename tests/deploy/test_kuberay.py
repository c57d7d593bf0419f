"""deploy/kuberay.yaml and the image it runs: fields that KubeRay and Kubernetes have, a command that we have."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from sweeps.launch import launch_of

ROOT = Path(__file__).parents[2]
JOB, CLAIM = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
FIELDS = {
    "job": {
        "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata",
        "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId",
        "submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
        "shutdownAfterJobFinishes", "suspend",
    },
    "cluster": {
        "headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions",
        "authOptions", "headServiceAnnotations", "suspend",
    },
    "autoscaler": {
        "resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext",
        "idleTimeoutSeconds", "upscalingMode",
    },
    "head": {"serviceType", "headService", "enableIngress", "rayStartParams", "template"},
    "workers": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template",
        "scaleStrategy",
    },
}  # fmt: skip
"""Fields of KubeRay's custom resources. Source: the types in its ray-operator/apis/ray/v1."""


def test_its_fields_are_ones_that_kuberay_has() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert JOB["spec"].keys() <= FIELDS["job"] and CLUSTER.keys() <= FIELDS["cluster"]
    assert CLUSTER["autoscalerOptions"].keys() <= FIELDS["autoscaler"]
    assert CLUSTER["headGroupSpec"].keys() <= FIELDS["head"]
    assert all(group.keys() <= FIELDS["workers"] for group in CLUSTER["workerGroupSpecs"])
    params = [value for group in GROUPS for value in group["rayStartParams"].values()]
    assert all(isinstance(value, str) for value in params), "KubeRay takes text only"


def test_gpu_workers_come_from_none_and_a_token_is_asked_for() -> None:
    (workers,) = CLUSTER["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"] and CLUSTER["enableInTreeAutoscaling"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "the head is kept free"
    assert CLUSTER["authOptions"] == {"mode": "token"} and CLUSTER["rayVersion"] == ray.__version__


def test_every_pod_mounts_the_volume_that_the_run_lies_on() -> None:
    launch = launch_of("run", shlex.split(JOB["spec"]["entrypoint"])[2:])
    assert launch.experiment.recipe == "paper" and launch.cluster.address == "auto"
    for group in GROUPS:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        claimed = {v["persistentVolumeClaim"]["claimName"]: mounts[v["name"]] for v in pod["volumes"]}
        place = claimed[CLAIM["metadata"]["name"]]
        for path in (launch.folder, launch.experiment.spanish, launch.experiment.african):
            assert path.is_relative_to(place)
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_its_pods_and_volume_fit_the_schemas_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="108 MB: pip install kubernetes-validate")

    def check(content: dict[str, Any]) -> None:
        validate.validate(content, validate.latest_version(), strict=True)

    check(CLAIM)
    for number, group in enumerate(GROUPS):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, **group["template"]}
        check(pod)
        pod["spec"] = {**pod["spec"], "volume": []}
        with pytest.raises(validate.ValidationError):
            check(pod)


def test_the_image_copies_what_is_there_and_installs_pinned() -> None:
    copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    assert {"fulora", "sweeps", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    (extra,) = re.findall(r"pip install .*-c /opt/fulora/constraints.txt '/opt/fulora\[(\w+)\]'", DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(package.startswith("ray[default") for package in project["optional-dependencies"][extra])
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)-slim$", DOCKERFILE, re.M)
    assert python == project["requires-python"].removeprefix(">="), "what the constraints were made with"

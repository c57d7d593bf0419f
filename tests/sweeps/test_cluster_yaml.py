"""cluster.yaml is one that Ray accepts."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


def test_cluster_yaml_fits_the_schema_in_the_ray_package():
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, SCHEMA)
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_the_schema_refuses_a_misspelt_key():
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    cluster["max_wrokers"] = 4
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        jsonschema.validate(cluster, SCHEMA)

"""Test material shared by the tests of sweeps: a run folder filled by hand, every file through the real writers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulora.endpoint import planned_power
from fulora.experiment import Experiment
from fulora.recipes import demo
from sweeps.core.files import write_json
from sweeps.core.hashing import to_jsonable
from sweeps.core.paths import RunPaths
from sweeps.core.schemas import SCHEMA_VERSION

from . import fabricated_images as images
from . import fabricated_scores as scores
from .mini import go


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, mini_experiment: Experiment) -> RunPaths:
    """Return a finished run of the study of `mini_flags`; tests read it, and those that change it work on `copied`."""
    paths = RunPaths(tmp_path_factory.mktemp("finished") / "mini")
    assert go(mini_experiment, paths) == []
    return paths


@pytest.fixture
def copied(finished: RunPaths, tmp_path: Path) -> RunPaths:
    """Return a finished run in a folder of its own, as after a move."""
    return RunPaths(shutil.copytree(finished.root, tmp_path / "copy", symlinks=True))


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Return a finished run's files, made once; its numbers are made up."""
    return _fabricate(tmp_path_factory.mktemp("fabricated") / "run")


@pytest.fixture
def fabricated_run(fabricated: RunPaths) -> Callable[[Path], RunPaths]:
    """Return a function that fills a folder with the files of `fabricated`, which a test may change there."""
    return lambda root: RunPaths(shutil.copytree(fabricated.root, root))


def _fabricate(root: Path) -> RunPaths:
    paths = RunPaths(root)
    rng = np.random.default_rng(0)
    catalog = images.write_catalog(paths, rng)
    images.write_generated(paths, rng)
    _plan(paths)
    images.write_losses(paths, rng)
    tested = [r for r in catalog if r["source"] == "african" and r["split"] == "test"]
    trials = scores.write_grid(paths, rng, tested)
    images.write_ranks(paths)
    images.write_quality(paths, catalog[0]["image_id"])
    images.write_embedding(paths, rng)
    scores.write_stages(paths, trials)
    return paths


def _plan(paths: RunPaths) -> None:
    about: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "recipe": "demo", "seed": 3, "data_hash": "aa00bb11cc22"}
    experiment = replace(demo(), seed=3)
    power = planned_power(num_replicates=scores.REPLICATES, num_seeds=1, num_patients=15)
    about |= {"endpoint": {"words": experiment.endpoint.words, "in_grid": True, **power}}
    write_json(paths.plan, {**about, "experiment": to_jsonable(experiment), "provenance": scores.PROVENANCE})

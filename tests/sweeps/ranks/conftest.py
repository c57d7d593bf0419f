"""The small study for the tests of ranks, its loss measured often enough for candidates to be pruned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fulora.experiment import Experiment


@pytest.fixture(scope="module")
def experiment(mini_experiment: Experiment) -> Experiment:
    """Return the small study with a held-out loss every third of six steps."""
    return replace(
        mini_experiment,
        lora=replace(mini_experiment.lora, num_steps=6, heldout_every=3, log_every=1, images_per_plane=4),
    )

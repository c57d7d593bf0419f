"""Measure the device memory of training a classifier, on a few real steps.

In: configurations. Out: the largest footprint. Images and weights are random, which does not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.inference import PREDICTED_AT_ONCE, predict
from fulora.classify.training import train_classifier
from fulora.device import Footprint, footprint, release_cached_memory, resolve_device
from fulora.planes import PLANES

_NUM_STEPS = 3
"""Two: the second step is the first with the optimizer's state in memory."""


def measure_memory(configs: Sequence[ClassifierConfig], *, device: str = "auto") -> Footprint:
    """Return the device memory of the largest of some trainings, predictions included; keeps nothing.

    On a CPU the figure is the process's, so call it in a process of its own. Raises what training raises, such as
    torch's OutOfMemoryError if one does not fit.
    """
    place, found = resolve_device(device), []
    for config in configs:
        size = config.resolution_px
        labels = np.arange(max(_NUM_STEPS * config.batch_size, PREDICTED_AT_ONCE)) % len(PLANES)
        pixels = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8)
        short = replace(config, epochs=1, keep="last", refit_batchnorm=False, pretrained="none", weights=None)
        trained = train_classifier(pixels=pixels, labels=labels, config=short, seed=0, device=place)
        predict(trained.model, pixels, batch_size=PREDICTED_AT_ONCE, device=place, precision=config.precision)
        found.append(footprint(place))
        release_cached_memory(place)  # so that the next one's reserve is its own
    return max(found, key=lambda one: one.needed_bytes)

"""What training a classifier takes of a device's memory, measured on a few real steps.

In: configurations. Out: the footprint of the one that takes most. Random images and weights: neither changes it.
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
"""The second step is the first to find the optimizer's state in place."""


def measure_memory(configs: Sequence[ClassifierConfig], *, device: str = "auto") -> Footprint:
    """Return what the largest of some trainings takes of a device's memory, its predictions included; nothing is kept.

    On a CPU the figure is the process's, so call it in a process of its own. Raises what training raises, such as
    torch's OutOfMemoryError where one does not fit.
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

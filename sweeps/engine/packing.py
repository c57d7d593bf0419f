"""Trials on one GPU at once, as many as fit: measured on a few iterations of the largest, not guessed.

In: the ready steps of a kind that names a `measure`. Out: the share of a GPU that each takes, and what was measured in
words. Source of the idea: at batch 2 a large card is idle most of the time (paper section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from fulora.device import Footprint
from sweeps.core.step import Kind
from sweeps.engine.job import Job
from sweeps.engine.resources import Cluster, prepare_worker

HEADROOM = 0.9
"""Share of a GPU's memory that is given away: allocators fragment, and a display may want some."""


def share_of_gpu(footprint: Footprint, *, num_trials: int, num_gpus: float) -> float:
    """Return the share of a GPU for each of some trials: no smaller than it must be for all to run at once."""
    fit = int(HEADROOM * footprint.total_bytes / max(1, footprint.needed_bytes))
    wanted = math.ceil(num_trials / num_gpus)
    together = max(1, min(fit, wanted))
    return math.floor(10_000 / together) / 10_000  # Ray counts in ten thousandths


@dataclass
class Probe:
    """A measurement under way on a GPU of its own, in a process of its own. GPUs of one type are taken to be alike."""

    kind: Kind
    num_trials: int
    num_gpus: float
    answer: Any

    @classmethod
    def start(
        cls, kind: Kind, keys: Sequence[str], *, job: Job, cluster: Cluster, num_gpus: float, gpu_type: str | None
    ) -> Probe:
        """Start measuring the steps of a kind, on a GPU of some type where one is named."""
        threads = cluster.num_threads

        @ray.remote(max_retries=0, max_calls=1, **cluster.for_probe(gpu_type))
        def probe() -> Footprint:
            prepare_worker(threads, on_gpu=True)
            return kind.load_measure()([job.steps[key] for key in keys], job.store)

        return cls(kind, len(keys), num_gpus, probe.remote())

    @property
    def ended(self) -> bool:
        """Whether there is an answer."""
        return bool(ray.wait([self.answer], timeout=0)[0])

    def share(self) -> tuple[float, str]:
        """Return the share of a GPU for each step, and a note; a whole GPU where it could not be measured."""
        try:
            found: Footprint = ray.get(self.answer)
        except RayError as error:
            reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
            return 1.0, f"{self.kind.name}: memory could not be measured ({reason}): a GPU for each"
        share = share_of_gpu(found, num_trials=self.num_trials, num_gpus=self.num_gpus)
        together = int(1 / share + 1e-3)
        words = "a GPU for each" if together == 1 else f"{together} share a GPU"
        took = f"one takes {found.needed_bytes / 2**30:.1f} of {found.total_bytes / 2**30:.1f} GiB"
        return share, f"{self.kind.name}: {words}: {took} (measured on {found.device})"

"""Replicates: the whole pipeline repeated, so that a result's variation is known and not only that of its last stage.

In: an experiment and the number of a replicate. Out: the experiment of that replicate, its master seed derived anew.
A replicate draws LoRA's images, trains the adapter, samples the synthetic images and draws the training sets anew, and
trains every classifier with seeds of its own. Regimes without synthetic images are trained anew too, with other
Spanish images where fewer than all are asked for: a difference of two regimes is paired by replicate and seed, and the
variance of both sides must be in it. Training of ES that every replicate shared would be counted as if it could not
have come out otherwise.
The same for all replicates: catalog, test images, audit of real images, judge, and the comparison of ranks. Where the
rank is chosen by results, it is chosen once, by the first replicate, and intervals are for that rank.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fulora.seeds import derive_seed

if TYPE_CHECKING:
    from fulora.experiment import Experiment


def of_replicate(experiment: Experiment, number: int) -> Experiment:
    """Return what replicate `number` does, from 0: the first is the experiment itself, of the same master seed."""
    if number == 0:
        return experiment
    return replace(experiment, seed=derive_seed(experiment.seed, "replicate", number))


def replicate_suffix(number: int, num_replicates: int) -> str:
    """Return what a label says of a replicate: nothing where there is one."""
    return f", replicate {number}" if num_replicates > 1 else ""

"""Membership inference: whether the synthetic images reveal which patients the adapter was trained on.

In: a score per real image, higher for images the attacker believes to be training images. Out: the attack's AUC with an
interval over patients; 50 is chance.
Source: Shokri et al., "Membership inference attacks against machine learning models", IEEE S&P 2017 (arXiv 1610.05820);
the attacker who sees only samples and scores an image by its distance to the nearest one, Chen et al., "GAN-Leaks",
CCS 2020 (arXiv 1909.03935); the AUC is Mann and Whitney's, resampled by patient as in `fulora.evaluate.intervals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fulora.errors import InputError, fault
from fulora.evaluate.intervals import NUM_RESAMPLES, draw_resamples, percentile_interval
from fulora.evaluate.thumbnails import nearest_rows, unit_rows
from fulora.seeds import derive_seed

_BLOCK = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class MembershipAttack:
    """Result of a membership inference attack."""

    auc: float
    """P(a member scores higher than another) in percent, ties counting half: 50 is chance, 100 perfect."""
    low: float
    """Lower end of its 95 % interval over patients; nan with one patient on a side."""
    high: float
    """Upper end."""
    num_members: int
    """Number of training images."""
    num_others: int
    """Number of held-out real images."""

    @property
    def leaks(self) -> bool:
        """Whether the attack is significant: the interval lies above 50."""
        return self.low > 50


def nearest_sample_scores(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Return minus the distance of each real image to its nearest synthetic one, float64 [N], of features.

    Features [N, D] and [M, D] of one extractor, compared at unit length. Raises InputError if either is empty or widths
    differ.
    """
    if not len(real) or not len(synthetic) or real.shape[1:] != synthetic.shape[1:]:
        shapes, rule = (real.shape, synthetic.shape), "must be [N, D] and [M, D], at least one row each"
        raise InputError(fault("features", shapes, rule, "Take both from one extractor."))
    return -nearest_rows(unit_rows(real), unit_rows(synthetic), _BLOCK)[1]


def membership_attack(
    members: np.ndarray,
    others: np.ndarray,
    *,
    member_patients: Sequence[str],
    other_patients: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> MembershipAttack:
    """Return the AUC of scores [N] of training images over scores [M] of held-out ones, with its interval.

    Members' and others' patients are resampled separately. Others should be of the same planes and device as the
    members, else the attack detects that difference. Raises InputError for empty sides, a shared patient, or scores
    that are not finite.
    """
    sides = {"members": (members, member_patients), "others": (others, other_patients)}
    for name, (scores, patients) in sides.items():
        if not len(scores) or len(scores) != len(patients) or not np.isfinite(scores).all():
            rule = "scores and patients: must be equally many, at least one, and finite"
            raise InputError(fault(name, (len(scores), len(patients)), rule, "Give both of the same images."))
    if shared := set(map(str, member_patients)) & set(map(str, other_patients)):
        rule = "must not hold patients of the members"
        raise InputError(fault("others", sorted(shared)[0], rule, "Leave the images of these patients out."))
    drawn = [
        draw_resamples(patients, seed=derive_seed(seed, "membership", name), num_resamples=num_resamples)
        for name, (_, patients) in sides.items()
    ]
    num = [resamples.times.shape[1] for resamples in drawn]
    won = (np.sign(np.asarray(members)[:, None] - np.asarray(others)[None]) + 1) / 2
    pair = drawn[0].patient[:, None] * num[1] + drawn[1].patient[None]
    wins = np.bincount(pair.ravel(), won.ravel(), num[0] * num[1]).reshape(num)
    low, high = float("nan"), float("nan")
    if min(num) > 1:
        pairs = np.prod([resamples.sums(np.ones((len(resamples.patient), 1)))[:, 0] for resamples in drawn], axis=0)
        low, high = percentile_interval(100 * ((drawn[0].times @ wins) * drawn[1].times).sum(axis=1) / pairs)
    return MembershipAttack(
        auc=100 * float(won.mean()), low=low, high=high, num_members=len(members), num_others=len(others)
    )

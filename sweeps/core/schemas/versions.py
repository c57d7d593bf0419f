"""The version of the schemas, and what a version changed."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = "3"
"""Version of all tables together; a reader refuses another version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What became of a table or a column."""

    before: str | None
    """`TABLE` or `TABLE.COLUMN` of version 2; None for a new one."""
    after: str
    """`TABLE` or `TABLE.COLUMN` of version 3."""
    why: str


CHANGES: tuple[Change, ...] = (
    Change(before="amounts", after="data_scaling", why="the field's term for scores over the size of the training set"),
    Change(before="breakdown", after="subgroups", why="the field's term for scores by centre and machine"),
    Change(
        before="comparisons.told_from_chance",
        after="comparisons.significant",
        why="significant under the patient bootstrap, adjusted for multiple comparisons; computed as before",
    ),
    Change(before=None, after="metadata.node", why="where an image was sampled; also in `images`"),
    Change(before=None, after="metadata.gpu_ids", why="null without GPUs; also in `images`"),
    Change(before=None, after="stages.num_failed", why="failures were only in `trials`"),
    Change(before=None, after="headline", why="the report's head figure was in no table"),
    Change(
        before="trials.trial_id",
        after="trials.trial_id",
        why="the key of the trial's step, a hash of kind, code version, configuration and needs: new values",
    ),
    Change(
        before="classifier counts",
        after="table1.num_es",
        why="num_es, num_af, num_synthetic and num_patients count what is trained on, without validation images",
    ),
    Change(before=None, after="manifest", why="selections of images are files"),
    Change(before=None, after="steps", why="attempts at all steps; `trials` has those at trials"),
    Change(before=None, after="cost", why="what a run used: GPU-hours, idle share, retries, memory, energy, money"),
)
"""From version 2 to 3; extend it with every further change before the release."""

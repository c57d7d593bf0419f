"""The work of `scheduler.py`'s shards: the real one, and one whose model sleeps. Both say when they began."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import write_table
from sweeps.images.draw import draw_shard, encoded
from sweeps.images.rows import ROWS_FILE
from sweeps.images.sets import ShardConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SleepingConfig:
    """A shard whose images take some seconds and are noise."""

    shard: ShardConfig
    seconds: float

    @property
    def rows(self) -> tuple[Any, ...]:
        """The images."""
        return self.shard.rows


def sleeping_shard(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Sleep as long as a model would draw, then encode and write noise as the real work does."""
    _say_begun(place)
    time.sleep(step.config.seconds)
    about = {"adapter": "x", "rank": None, "num_steps": 1, "guidance": 1.0, "base": "none, it sleeps", "device": "cpu"}
    rows = []
    for row in step.config.rows:
        image = np.random.default_rng(row.seed).integers(0, 256, (64, 64, 3), np.uint8)
        known, png = encoded(row, image, about)
        file = place.out / known["file_name"]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png)
        rows.append(known)
    write_table(place.out / ROWS_FILE, "metadata", rows)
    return {"num_images": len(rows)}


def real_shard(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Draw with the model."""
    _say_begun(place)
    return draw_shard(step, place, report)


_BEGUN: list[float] = []


def _say_begun(place: Place) -> None:
    """Note when this process began its first shard."""
    if not _BEGUN:
        _BEGUN.append(time.time())
        folder = place.store.root / "began"
        folder.mkdir(exist_ok=True)
        (folder / uuid.uuid4().hex).write_text(str(_BEGUN[0]))

"""Images are kept by threads while the next batch is drawn: nothing waits for them but the end of a shard."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from fulora.diffusion.sampler import Sampler, SampleRow
from sweeps.images.draw import drawn_beside

ROWS = [SampleRow(f"r{i}", "brain", "a photo of fetal brain", "euler", i) for i in range(6)]


class Batches:
    """Draws two rows at a time, the last first; `before` is called before each batch."""

    def __init__(self, before: Any = None) -> None:
        self.before, self.drawn = before, 0

    def batches(self, rows: Sequence[SampleRow]) -> Iterator[tuple[list[int], np.ndarray]]:
        for positions in ([4, 5], [2, 3], [0, 1]):
            if self.before is not None:
                self.before(self.drawn)
            self.drawn += 1
            yield positions, np.stack([np.full((2, 2, 3), rows[position].seed, np.uint8) for position in positions])


def as_sampler(batches: Batches) -> Sampler:
    return cast(Sampler, batches)


def test_every_row_gets_its_own_image_in_the_rows_order() -> None:
    found = drawn_beside(as_sampler(Batches()), ROWS, lambda row, image: (row.image_id, int(image[0, 0, 0])))
    assert found == [(f"r{i}", i) for i in range(6)]


def test_a_batch_is_kept_while_the_next_is_drawn() -> None:
    """The second batch is drawn only once the keeping of the first has begun, which does not end before that."""
    began, drawn = threading.Event(), threading.Event()

    def before(count: int) -> None:
        if count == 1:
            assert began.wait(60), "the first batch is kept only after all were drawn"
            drawn.set()

    def keep(row: SampleRow, image: np.ndarray) -> str:
        began.set()
        assert drawn.wait(60)
        return row.image_id

    assert drawn_beside(as_sampler(Batches(before)), ROWS, keep) == [row.image_id for row in ROWS]


def test_a_full_disk_stops_the_drawing() -> None:
    failed = threading.Event()

    def keep(row: SampleRow, image: np.ndarray) -> str:
        try:
            raise OSError(28, "No space left on device", row.image_id)
        finally:
            failed.set()

    batches = Batches(lambda count: None if count == 0 else (failed.wait(60), threading.Event().wait(0.2)))
    with pytest.raises(OSError, match="No space left on device"):
        drawn_beside(as_sampler(batches), ROWS, keep)
    assert batches.drawn < 3, "what cannot be kept is not drawn"

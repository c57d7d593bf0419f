"""Fixtures of the tests of images: an S3 server on loopback, and drawing to an address in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.images import elsewhere
from sweeps.images.destination import Destination
from sweeps.images.elsewhere import draw_to

from ..s3_server import CREDENTIALS, LoopbackS3
from ..studies import one_thread
from .elsewhere import ONE_CORE, Draw, base_images, in_this_process


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch):
    """Give the address of an empty bucket on a real S3 server on loopback."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with LoopbackS3() as server:
        yield server.address()


@pytest.fixture
def draw(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Return a function that draws in this process, four images to a file."""
    monkeypatch.setattr(elsewhere, "IMAGES_PER_FILE", 4)
    monkeypatch.setattr(elsewhere, "over_actors", in_this_process)

    def drawn(destination: Destination, **changes) -> int:
        counts: list[tuple[int, int]] = []
        which = base_images(str(small_base), **changes)
        with one_thread():
            num = draw_to(destination, which, adapter=None, cluster=ONE_CORE, on_drawn=lambda *n: counts.append(n))
        assert sum(count for count, _ in counts) == num and {of for _, of in counts} == ({num} if num else set())
        return num

    return drawn

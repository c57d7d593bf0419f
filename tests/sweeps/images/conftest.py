"""Fixtures of the tests of images: an S3 server on loopback, and drawing to an address in this process."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from sweeps.images import elsewhere
from sweeps.images.destination import Destination
from sweeps.images.elsewhere import draw_to

from ..studies import one_thread
from .elsewhere import ONE_CORE, Draw, base_images, in_this_process


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch):
    """Give the address of an empty bucket on a real S3 server on loopback."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    system = S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
    bucket = f"synthetic-{uuid.uuid4().hex[:8]}"  # the server's memory outlives it
    system.create_dir(bucket)
    yield f"s3://{bucket}/set?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


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

"""Fixtures of the tests of places outside a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sweeps.core import remote

from ..s3_server import CREDENTIALS, LoopbackS3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackS3]:
    """Return an S3 server, asked again without long waits."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with LoopbackS3() as found:
        yield found

"""Fixtures shared by the tests of fulora."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fulora.data.records import ImageRecord
from fulora.data.sources import read_source

from .readers import READERS, Reader
from .zenodo_server import Zenodo, serving


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    """Give a running server that plays Zenodo; no proxy of this machine comes between."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


@pytest.fixture(params=READERS, ids=lambda layout: layout.name)
def layout(request: pytest.FixtureRequest) -> Reader:
    return request.param


@pytest.fixture(params=["itself", "read_source"])
def read(request: pytest.FixtureRequest, layout: Reader) -> Callable[[Path], list[ImageRecord]]:
    """Each layout by its own reader and by `read_source`: the same must come out."""
    if request.param == "itself":
        return layout.read
    return lambda folder: read_source(folder, source=layout.source)  # type: ignore[arg-type]

"""Content hashes: equal science gives equal text, and equal text an equal hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fulora.data.records import ImageRecord

_PLAIN = (str, int, float, bool)


def to_jsonable(value: Any) -> Any:
    """Return dataclasses, paths and tuples as JSON's own types."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def identity(value: Any) -> Any:
    """Return a configuration as JSON's own types, without fields marked `PLACE`."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [f for f in dataclasses.fields(value) if f.metadata.get("identity", True)]
        return {f.name: identity(getattr(value, f.name)) for f in kept}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return to_jsonable(value)


PLACE = {"identity": False}
"""Metadata of a dataclass field that is no part of a step's key."""


def content_hash(content: Any) -> str:
    """Return 12 hex digits of the content's SHA-256: 48 bits, so that two steps of a study do not collide."""
    return json_hash(to_jsonable(content))


def json_hash(content: Any) -> str:
    """Return `content_hash` of what is of JSON's own types already."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def data_hash(records: Iterable[ImageRecord]) -> str:
    """Return the hash of a set of images: pixels, plane, patient, split. Folders and file formats do not count."""
    rows = sorted((r.pixel_hash, r.image_id, r.plane, r.patient_id, r.split) for r in records)
    return content_hash(rows)

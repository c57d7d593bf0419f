"""Files as they were when they were hashed, so that what is uploaded is what the card describes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fulora.errors import InputError, fault


@dataclass(frozen=True, kw_only=True, slots=True)
class HashedFile:
    """A file as it was when its hash was taken."""

    path: Path
    """Where it lies."""
    size: int
    """Its size in bytes."""
    sha256: str
    """SHA-256 of its content, in hexadecimal."""
    stamp: tuple[int, int, int]
    """Inode, size and time of change, taken before the hash."""


def hash_file(path: Path) -> HashedFile:
    """Return a file with its hash. Raises OSError where it cannot be read."""
    stamp = _stamp(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return HashedFile(path=path, size=stamp[1], sha256=digest, stamp=stamp)


def check_unchanged(files: Iterable[HashedFile]) -> None:
    """Raise InputError where a file is not the one that was hashed: a run may replace it at any time."""
    for file in files:
        if not file.path.is_file() or _stamp(file.path) != file.stamp:
            rule = "was replaced while it was being uploaded; nothing was committed"
            raise InputError(fault("file", str(file.path), rule, "Wait for the run to finish, then push again."))


def _stamp(path: Path) -> tuple[int, int, int]:
    at = path.stat()
    return at.st_ino, at.st_size, at.st_mtime_ns

"""The one way files come into being: written beside their name, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fulora.errors import InputError, fault


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; on success it becomes `path` at once, else it is removed.

    A reader never sees half a file: rename is atomic within one file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        remove(beside)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it holds; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON to `path`, whole or not at all."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(content, indent=1, sort_keys=True, default=str) + "\n")


def remove_leftovers(root: Path) -> None:
    """Remove what a killed process was writing below `root`; nobody else may be writing there."""
    for leftover in root.rglob(".*.part"):
        remove(leftover)


def check_writable(folder: Path, field: str = "out") -> None:
    """Make the folder and write one file into it; raises InputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        rule = f"cannot be written ({error.strerror or type(error).__name__})"
        remedy = f"Give --{field} a directory on a disk you can write to."
        raise InputError(fault(field, str(folder), rule, remedy)) from error

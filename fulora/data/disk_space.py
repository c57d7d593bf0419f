"""Disk space: a check before writing, and the error where a disk is full or cannot be written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from fulora.errors import InputError, fault

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the user's quota is, or the file is larger than the system lets it be."""


def size_words(num_bytes: int) -> str:
    """Return a size in MB or GB: `41.2 MB`."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def check_disk_space(folder: Path, num_bytes: int, *, purpose: str) -> None:
    """Raise InputError where the disk of `folder` has less than `num_bytes` free; `purpose` says what they are for."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        rule = f"has {size_words(free)} free, {size_words(num_bytes)} are needed {purpose}"
        raise InputError(fault("--to", str(folder), rule, "Free disk space or choose another disk, then run it again."))


def disk_fault(path: Path, error: OSError, *, stays: str) -> InputError:
    """Return the error to raise where `path` could not be written; `stays` says what is kept on the disk."""
    full = error.errno in _FULL
    rule = f"{'has no space left' if full else 'cannot be written'} ({error.strerror or error})"
    remedy = "Free disk space" if full else "Choose a directory you can write to"
    return InputError(fault("--to", str(path), rule, f"{remedy}, then run it again. {stays}"))

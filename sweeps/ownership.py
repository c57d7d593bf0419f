"""Whose folder it is: one recipe's, one process's at a time.

In: a run's folder. Out: an error before any work where it is somebody else's; a lock; no leftovers of a killed run.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from fulora.errors import InputError, fault
from sweeps.paths import RunPaths


def check_owner(recipe: str, paths: RunPaths) -> None:
    """Raise InputError where the folder holds another recipe's run, or anything that is no run."""
    out = str(paths.root)
    if paths.plan.is_file():
        try:
            owner = json.loads(paths.plan.read_text())["recipe"]
        except (ValueError, KeyError) as error:
            raise InputError(
                fault("out", out, "has a plan.json that is not ours", "Give --out another folder.")
            ) from error
        if owner != recipe:
            rule = f"belongs to recipe {owner!r}, not {recipe!r}"
            raise InputError(fault("out", out, rule, "Give --out another folder."))
    elif paths.root.is_dir() and any(f for f in paths.root.iterdir() if not f.name.startswith(".")):
        if not paths.phantoms.is_dir() and not paths.catalog.is_file():
            raise InputError(fault("out", out, "is not empty and holds no run", "Give --out a new or empty folder."))
    elif paths.root.exists() and not paths.root.is_dir():
        raise InputError(fault("out", out, "is a file", "Give --out a folder."))


@contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it however the process ends."""
    with paths.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                fault("out", str(paths.root), "is being written by another run", "Wait for it, or give another --out.")
            ) from error
        yield


def remove_leftovers(paths: RunPaths) -> None:
    """Remove what a killed run was in the middle of writing; holding the lock, nobody else is writing."""
    for leftover in paths.root.rglob(".*.part"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)

"""Whose folder it is: one recipe's, one process's at a time, of this version.

In: a run's folder. Out: an error before any work where it is somebody else's; a lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from fulora.errors import InputError, fault
from sweeps.core.paths import RunPaths
from sweeps.core.tables import SCHEMA_VERSION

_OTHER = "Give --out another directory."


def check_owner(recipe: str, paths: RunPaths) -> None:
    """Raise InputError where the folder holds another recipe's or version's run, or anything that is no run."""
    out = str(paths.root)
    if paths.root.exists() and not paths.root.is_dir():
        raise InputError(fault("out", out, "is not a directory", "Give --out a directory."))
    if not paths.root.is_dir():
        return
    ours = (paths.root / "steps").is_dir()
    if (paths.root / "parts").is_dir() and not ours:
        rule = f"holds a run of an older version (this one writes schema version {SCHEMA_VERSION})"
        raise InputError(fault("out", out, rule, _OTHER))
    if paths.plan.is_file():
        plan = plan_of(paths)
        if plan is None:
            if ours:  # a plan is written again by every run
                return
            raise InputError(fault("out", out, "has a plan.json of another program", _OTHER))
        owner, version = plan["recipe"], plan["schema_version"]
        if owner != recipe:
            raise InputError(fault("out", out, f"belongs to recipe {owner!r}, not {recipe!r}", _OTHER))
        if version != SCHEMA_VERSION:
            rule = f"holds a run of schema version {version}, not {SCHEMA_VERSION}"
            raise InputError(fault("out", out, rule, _OTHER))
    elif not ours and any(f for f in paths.root.iterdir() if not f.name.startswith(".")):
        raise InputError(fault("out", out, "is not empty and is not a run", "Give --out a new or empty directory."))


def plan_of(paths: RunPaths) -> dict[str, Any] | None:
    """Return a run's plan; None where plan.json is missing, damaged or of another program."""
    try:
        plan = json.loads(paths.plan.read_bytes())
        return plan if {"recipe", "schema_version"} <= plan.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


@contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it however the process ends."""
    lock = FileLock(paths.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        rule, remedy = "is being written by another run", "Wait for it, or give another --out."
        raise InputError(fault("out", str(paths.root), rule, remedy)) from error
    try:
        yield
    finally:
        lock.release()


def is_running(paths: RunPaths) -> bool:
    """Return whether a process holds the run's lock."""
    if not paths.lock.exists():
        return False
    try:
        with FileLock(paths.lock).acquire(timeout=0):
            return False
    except Timeout:
        return True

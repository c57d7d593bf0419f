"""What made a number: commit, versions, device, host. Recorded with every attempt; unknown is None."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("torch", "ray", "diffusers", "peft", "timm", "bitsandbytes", "scikit-learn")
COMMIT = "FULORA_COMMIT"
"""Environment variable with the commit of code that was shipped to a machine without its checkout."""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """Return the commit this code was run from, with `+changes` where files differ from it; None where unknown."""
    folder = Path(__file__).resolve().parent
    try:
        git = ["git", "--no-optional-locks", "-C", str(folder)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        state = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return os.environ.get(COMMIT) or None
    return head.stdout.strip() + ("+changes" if state.stdout.strip() else "")


@cache
def provenance() -> dict[str, str | None]:
    """Return the environment of this process, one plain value per key."""
    found: dict[str, str | None] = {
        "commit": commit(),
        "host": platform.node(),
        "python": platform.python_version(),
        "fulora": _version("fulora"),
    }
    return found | {package.replace("-", "_"): _version(package) for package in _PACKAGES}

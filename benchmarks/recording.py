"""What every benchmark does with its figures: says what was asked and where it ran, writes the JSON, prints it.

A JSON file is rewritten whenever something is added, so that a run that is stopped leaves what it measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


class Results:
    """The record of one benchmark, on the disk as it grows."""

    def __init__(self, options: Any, **facts: Any) -> None:
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items()}
        self.file: Path | None = options.out
        self.found = {"options": asked, "python": platform.python_version(), "commit": commit(), **facts}
        self.write()

    def add(self, **measured: Any) -> None:
        """Take figures up, and write all."""
        self.found |= measured
        self.write()

    def row(self, table: str, name: str, row: dict[str, Any]) -> None:
        """Take up a contender's row of a table, and write all."""
        self.found.setdefault(table, {})[name] = row
        self.write()

    def lacks(self, what: str) -> None:
        """Say what is missing."""
        self.found.setdefault("lacks", []).append(what)
        self.write()

    def write(self) -> None:
        """Write the file whole, if there is to be one."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            scratch = self.file.with_name(f".{self.file.name}.part")
            scratch.write_text(self.text() + "\n")
            os.replace(scratch, self.file)

    def text(self) -> str:
        """Return the JSON."""
        return json.dumps(self.found, indent=1, default=str)


def record(options: Any, **measured: Any) -> None:
    """Print a benchmark's options, the interpreter and what was measured as JSON; write it to `options.out`, if any."""
    print(Results(options, **measured).text())


def torch_facts(device: str) -> dict[str, Any]:
    """Return the device and what computed on it, for `record`."""
    import torch

    from fulora.device import device_in_words

    return {"device": device_in_words(device), "torch": torch.__version__, "cpu_threads": torch.get_num_threads()}


def commit() -> str | None:
    """Return the commit measured, if it is known."""
    done = subprocess.run(
        ["git", "--no-optional-locks", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or None if done.returncode == 0 else None

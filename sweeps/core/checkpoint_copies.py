"""Copies of a step's checkpoints in the storage, made as they are written: another node goes on from the last one.

In: a step's scratch folder here, whose files come by rename and are whole. Out: the same files in the storage, and
here what another node left there. A copy that fails costs a checkpoint, never the step.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from sweeps.core.storage import Storage, StorageRefused, StorageUnreachable

_SECONDS_BETWEEN = 2.0
_LOST = (StorageRefused, StorageUnreachable, OSError)


class CheckpointCopies:
    """A context manager: fetches what is there, copies what is new in a thread, and the rest when the work fails."""

    def __init__(self, storage: Storage, key: str, folder: Path) -> None:
        self.storage, self.key, self.folder = storage, key, folder
        self._copied: dict[str, tuple[int, int]] = {}
        """Size and modification time of the files that are in the storage."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="checkpoints")

    def __enter__(self) -> CheckpointCopies:
        here = self._here()
        for name in self.storage.checkpoints(self.key):
            if name not in here:
                self.storage.get_checkpoint(self.key, self.folder / name)
                here = self._here()
            if name in here:
                self._copied[name] = here[name]
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:
            self._copy()

    def _follow(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN):
            self._copy()

    def _copy(self) -> None:
        """Copy what is new, newest first, and delete what is gone here."""
        here = self._here()
        with suppress(*_LOST):
            for name, facts in sorted(here.items(), key=lambda item: -item[1][1]):
                if self._copied.get(name) != facts:
                    self.storage.put_checkpoint(self.key, self.folder / name)
                    self._copied[name] = facts
            gone = [name for name in self._copied if name not in here]
            self.storage.drop_checkpoints(self.key, gone)
            for name in gone:
                del self._copied[name]

    def _here(self) -> dict[str, tuple[int, int]]:
        found = {}
        for file in self.folder.glob("*") if self.folder.is_dir() else ():
            with suppress(FileNotFoundError):
                if file.is_file() and not file.name.startswith("."):
                    found[file.name] = (file.stat().st_size, file.stat().st_mtime_ns)
        return found

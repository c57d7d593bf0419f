"""Any number of locks by name in one file, between the processes and threads of a machine.

In: a file. Out: locks that the kernel frees however a process ends. A name is a byte of the file, found by its
hash, and the locks are those of Linux's open file descriptions: a file each would be thousands of open files in a step
that reads thousands of others.
"""

from __future__ import annotations

import fcntl
import hashlib
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass
class NamedLocks:
    """The locks of one file. What is held is held by this object."""

    file: Path
    _stream: IO[bytes] | None = field(default=None, init=False)
    _held: set[str] = field(default_factory=set, init=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False)

    def hold(self, name: str) -> None:
        """Hold a name together with others until `release`; waits for whoever has it alone."""
        if name in self._held:
            return
        with self._opening:
            if self._stream is None:
                self._stream = self._open()
        _lock(self._stream, name, fcntl.F_RDLCK, wait=True)
        self._held.add(name)

    def release(self) -> None:
        """Hold nothing any more."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._held = None, set()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Have a name alone; waits for all others who have or hold it."""
        with self._open() as stream:
            _lock(stream, name, fcntl.F_WRLCK, wait=True)
            yield

    @contextmanager
    def unheld(self, name: str) -> Iterator[bool]:
        """Say whether nobody has or holds a name; nobody can while the block lasts."""
        with self._open() as stream:
            try:
                _lock(stream, name, fcntl.F_WRLCK, wait=False)
            except BlockingIOError:
                yield False
                return
            yield True

    def _open(self) -> IO[bytes]:
        return self.file.open("a+b", buffering=0)


def _lock(stream: IO[bytes], name: str, kind: int, *, wait: bool) -> None:
    place = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
    request = struct.pack("hhqqi0q", kind, 0, place, 1, 0)  # struct flock: from the file's start, one byte
    fcntl.fcntl(stream, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)

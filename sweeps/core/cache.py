"""A node's own copy of what its steps read: fetched from the storage once per node, held to a size.

In: a storage and a folder of this machine, shared by all its processes. Out: the same as `store.Store` gives. What a
step at work reads is never removed; else the least recently used goes first. Locks are the kernel's, so that a process
that is killed leaves none.

    steps/KIND/KEY/    scratch/KEY/    images/AB/ABCD...    inputs/KEY/NAME    locks
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fulora.errors import InputError, fault
from sweeps.core.checkpoint_copies import CheckpointCopies
from sweeps.core.files import atomic_path, remove, write_json
from sweeps.core.hashing import content_hash, to_jsonable
from sweeps.core.named_locks import NamedLocks
from sweeps.core.step import Step
from sweeps.core.storage import Storage, StoredFile
from sweeps.core.store import DONE, Damaged, Done, Store

_IMAGES = "images"
_AT_ONCE = 4
"""Steps whose files are fetched at once."""
_SHARE = 4
"""Part of the free room that a process takes for itself before it looks again: others fill it too."""
_FETCHED_NS = 10**9
"""Modification time of a fetched file that no record vouches for: one that was written to since has another."""


class _Held(NamedTuple):
    """A folder, or an image, that can be removed."""

    used_at: float
    num_bytes: int
    path: Path
    lock: str


@dataclass(frozen=True)
class Cache(Store):
    """The steps that this node needs and makes. Pickled to its workers; the locks stay where they are."""

    asked: Path | None
    """The folder that was asked for; None: one below this machine's folder for temporary files."""
    storage: Storage
    max_bytes: int
    inputs: Mapping[str, Sequence[tuple[str, int, str]]] = field(default_factory=dict)
    """Files and folders that configurations name by their path in the driver: name, size and SHA-256 of each file."""
    _room: list[int] = field(default_factory=lambda: [0], init=False, repr=False, compare=False)
    """Bytes that this process may add before it looks again at what there is."""
    _opened: NamedLocks | None = field(default=None, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_cache, (self.asked, self.storage, self.max_bytes, self.inputs)

    def check(self) -> None:
        """Make the folder, this user's alone. Raises InputError where it is not to be had."""
        remedy = "Give --cache a directory of this machine that you can write to."
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            owner = self.root.stat().st_uid
            with atomic_path(self.root / "probe") as beside:
                beside.touch()
            remove(self.root / "probe")
        except OSError as error:
            raise InputError(fault("cache", str(self.root), f"cannot be written ({error.strerror})", remedy)) from error
        if owner != os.getuid():
            raise InputError(fault("cache", str(self.root), "is another user's", remedy))

    def done(self, step: Step) -> Done | None:
        """Return the record of a step whose files are here by now, fetched where they were not; None if not done.

        Raises Damaged where the storage holds them no more as they were.
        """
        self._locks.hold(step.key)
        record = self._here(step)
        if record is None:
            with self._locks.alone(f"{step.key}.get"):
                record = self._here(step) or self._fetch(step)  # another process may have been first
        if record is not None:
            os.utime(self.folder(step))
        return record

    def _here(self, step: Step) -> Done | None:
        try:
            return super().done(step)
        except Damaged:
            return None

    def _fetch(self, step: Step) -> Done | None:
        try:
            record = self.storage.record(step)
        except Damaged:
            self.storage.forget(step)
            raise
        if record is not None:
            self._make_room(sum(size for size, _, _ in record.files.values()))
            self.storage.collect(step, record, self.folder(step))
        return record

    @contextmanager
    def working(self, step: Step) -> Iterator[None]:
        """Hold what a step reads, and keep its checkpoints in the storage too, for as long as its work goes on."""
        self.check()
        self._locks.hold(step.key)
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:  # one after another they would wait for the network
                list(pool.map(self.done, step.all_needs))
            with CheckpointCopies(self.storage, step.key, self.scratch(step)):
                yield
        finally:
            self._locks.release()

    def earlier(self, step: Step, number: int) -> Done | None:
        """Return the record of a step that is done here or in the storage; it is attempt `number`'s from here on."""
        try:
            found = self.done(step)
        except Damaged:
            return None
        if found is None:
            return None
        record = replace(found, attempt=number)
        write_json(self.folder(step) / DONE, to_jsonable(record))
        return record

    def finish(self, step: Step, record: Done) -> None:
        """Put a step's files and then its record into the storage."""
        self.storage.publish(step, record, self.folder(step))
        self._make_room(sum(size for size, _, _ in record.files.values()))

    def drop_checkpoints(self, step: Step) -> None:
        """Remove the checkpoints of a step that is done, here and in the storage."""
        super().drop_checkpoints(step)
        self.storage.drop_checkpoints(step.key, self.storage.checkpoints(step.key))

    def images(self, files: Sequence[tuple[str, str]]) -> list[str]:
        """Return where images are here, fetched by their SHA-256 where they were not. Raises Damaged."""
        paths = [self.root / _IMAGES / sha256[:2] / sha256 for _, sha256 in files]
        self._locks.hold(_IMAGES)
        with self._locks.alone(f"{_IMAGES}.get"):
            lacking = {
                path: StoredFile(path, None, sha256)
                for path, (_, sha256) in zip(paths, files, strict=True)
                if not _is_as_fetched(path)
            }
            if lacking:
                self._get(lacking.values(), "image", "of the storage")
                self._make_room(sum(path.stat().st_size for path in lacking))
        now = time.time_ns()
        for path in paths:
            os.utime(path, ns=(now, _FETCHED_NS))
        return [str(path) for path in paths]

    def local(self, path: str) -> str:
        """Return where a file or folder that a configuration names is here, fetched where it was not."""
        listed = self.inputs.get(path)
        if listed is None:
            return path
        key = content_hash([path, listed])
        place = self.root / "inputs" / key / Path(path).name
        self._locks.hold(key)
        with self._locks.alone(f"{key}.get"):
            files = [StoredFile(place / name if name else place, size, sha256) for name, size, sha256 in listed]
            lacking = [file for file in files if not _is_as_fetched(file.path)]
            if lacking:
                self._make_room(sum(file.size or 0 for file in lacking))
                self._get(lacking, "input", path)
        os.utime(place.parent)
        return str(place)

    def _get(self, files: Iterable[StoredFile], kind: str, name: str) -> None:
        todo = list(files)
        for folder in {file.path.parent for file in todo}:
            folder.mkdir(parents=True, exist_ok=True)
        if bad := self.storage.get(todo):
            raise Damaged(kind, name, bad[0].path.name, f"is not whole in {self.storage}")
        for file in todo:
            os.utime(file.path, ns=(time.time_ns(), _FETCHED_NS))

    def _make_room(self, num_bytes: int) -> None:
        """Remove what was used longest ago until this much more fits, apart from what processes at work hold."""
        self._room[0] -= num_bytes
        if self._room[0] > 0:
            return
        with self._locks.alone("room"):
            found = sorted(self._removable())
            excess = sum(held.num_bytes for held in found) + num_bytes - self.max_bytes
            self._room[0] = -excess // _SHARE
            for held in found:
                if excess <= 0:
                    return
                with self._locks.unheld(held.lock) as free:
                    if free:
                        remove(held.path)
                        excess -= held.num_bytes

    def _removable(self) -> Iterator[_Held]:
        for pattern in ("steps/*/*", "scratch/*", "inputs/*"):
            for folder in self.root.glob(pattern):
                with suppress(OSError):
                    # what a killed process left half written is named after it
                    lock = folder.name.strip(".").partition(".")[0]
                    yield _Held(folder.stat().st_mtime, _size(folder), folder, lock)
        for file in self.root.glob(f"{_IMAGES}/*/*"):
            with suppress(OSError):
                stat = file.stat()
                yield _Held(stat.st_atime, stat.st_size, file, _IMAGES)

    @property
    def _locks(self) -> NamedLocks:
        if self._opened is None:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)  # images of patients may be there
            object.__setattr__(self, "_opened", NamedLocks(self.root / "locks"))
        assert self._opened is not None
        return self._opened


def open_cache(
    asked: Path | None, storage: Storage, max_bytes: int, inputs: Mapping[str, Sequence[tuple[str, int, str]]]
) -> Cache:
    """Return this machine's cache of a storage: below the folder asked for, or that of temporary files."""
    name = content_hash(str(storage))
    root = Path(tempfile.gettempdir()) / f"sweeps-{os.getuid()}-{name}" if asked is None else asked / name
    return Cache(root, asked, storage, max_bytes, inputs)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def _is_as_fetched(file: Path) -> bool:
    try:
        return file.stat().st_mtime_ns == _FETCHED_NS
    except OSError:
        return False

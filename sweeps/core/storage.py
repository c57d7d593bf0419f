"""What the steps of runs made, kept by content where every node reaches it, for nodes that share no disk.

    objects/AB/ABCD...                a file by its SHA-256: a step's, an image that a selection names, a base's weights
    steps/KIND/KEY/done.json          the record of a step, as in a run's folder; written last
    scratch/KEY/...                   checkpoints of a step under way

An object is what its name says or it is damaged: whoever reads it finds out by the hash, deletes it and says so. Two
runs that ask for the same step share it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa

from fulora.errors import InputError, fault
from sweeps.core.files import atomic_path, remove, write_json
from sweeps.core.hashing import file_hash, to_jsonable
from sweeps.core.remote import REMEDY, Remote, is_refusal
from sweeps.core.step import Step
from sweeps.core.store import DONE, Damaged, Done, read_record

_AT_ONCE = 16
"""Files on their way at once."""
_SMALL_BYTES = 2**20
_KEPT = "What is finished is kept, and the same command goes on."

T = TypeVar("T")
U = TypeVar("U")


class StorageRefused(InputError):
    """The storage takes or gives no more until a person acts: no room, no right, no such place."""


class StorageUnreachable(InputError):
    """The storage does not answer, however long it was asked."""


class StoredFile(NamedTuple):
    """A file that is, or is to be, at a path here and by its content in the storage."""

    path: Path
    size: int | None
    """In bytes; None: not known."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Files by content, and records, at a place."""

    remote: Remote

    def __str__(self) -> str:
        """Return the address without credentials."""
        return str(self.remote)

    def keys(self) -> set[str]:
        """Return the keys of the steps that have a record."""
        with self._in_words():
            return {name.split("/")[-2] for name in self.remote.names("steps", recursive=True) if name.endswith(DONE)}

    def record(self, step: Step) -> Done | None:
        """Return the record of a step, None where there is none. Raises Damaged where it cannot be read."""
        with self._in_words():
            text = self.remote.get(_record(step))
        return None if text is None else read_record(step, text)

    def publish(self, step: Step, record: Done, folder: Path) -> None:
        """Keep a step's files, those that are not there, and then its record."""
        files = [StoredFile(folder / name, size, sha256) for name, (size, _, sha256) in record.files.items()]
        self.put(files, asked_from_bytes=_SMALL_BYTES)  # they are new, and small ones are sooner sent than asked for
        with self._in_words():
            self.remote.put(_record(step), (folder / DONE).read_bytes())

    def keep(self, step: Step, record: Done, folder: Path) -> None:
        """Publish a step unless its very record is there."""
        try:
            there = self.record(step)
        except Damaged:
            there = None
        if there is None or there.files != record.files:
            self.publish(step, record, folder)

    def forget(self, step: Step) -> None:
        """Delete a step's record; its files may be of others too."""
        with self._in_words():
            self.remote.delete([_record(step)])

    def collect(self, step: Step, record: Done, folder: Path) -> None:
        """Make a step's folder here; what it holds already is not fetched again. Raises Damaged, as `get` does."""
        with atomic_path(folder) as beside:
            beside.mkdir()
            lacking = []
            for name, (size, mtime_ns, sha256) in record.files.items():
                if not (beside / name).resolve().is_relative_to(beside.resolve()):
                    raise Damaged(step.kind.name, step.key, name, f"is outside of the step's folder in {self}")
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                if _is_whole(folder / name, size, mtime_ns, sha256):
                    shutil.copy2(folder / name, beside / name)
                else:
                    lacking.append(StoredFile(beside / name, size, sha256))
            for file in self.get(lacking):
                raise Damaged(step.kind.name, step.key, str(file.path.relative_to(beside)), f"is not whole in {self}")
            for name, (_, mtime_ns, _) in record.files.items():
                os.utime(beside / name, ns=(mtime_ns, mtime_ns))  # a record vouches for a file of its time
            write_json(beside / DONE, to_jsonable(record))
            remove(folder)

    def put(self, files: Iterable[StoredFile], *, asked_from_bytes: int = 0) -> None:
        """Keep files by their content, those that are not there; smaller ones than so many bytes are sent unasked."""

        def one(file: StoredFile) -> None:
            asked = file.size is not None and file.size >= asked_from_bytes
            if not asked or self.remote.size(_object(file.sha256)) != file.size:
                self.remote.upload(_object(file.sha256), file.path)

        self._each(one, files)

    def get(self, files: Iterable[StoredFile]) -> list[StoredFile]:
        """Write files here and return those that are missing or altered in the storage; these are deleted there."""

        def one(file: StoredFile) -> StoredFile | None:
            beside = file.path.with_name(f".{file.path.name}.{uuid.uuid4().hex[:8]}.part")
            try:
                found = self.remote.download(_object(file.sha256), beside)
                if found == file.sha256:
                    os.replace(beside, file.path)
                    return None
            finally:
                remove(beside)
            self.remote.delete([] if found is None else [_object(file.sha256)])
            return file

        return [file for file in self._each(one, files) if file is not None]

    def has(self, file: StoredFile) -> bool:
        """Return whether a file is there, as far as its size says."""
        with self._in_words():
            return self.remote.size(_object(file.sha256)) == file.size

    def mend(self, step: Step, record: Done, folder: Path) -> bool:
        """Put back what is missing or cut short of a step that is whole here; return whether anything was."""

        files = [StoredFile(folder / name, size, sha256) for name, (size, _, sha256) in record.files.items()]
        lost = [file for file, there in zip(files, self._each(self.has, files), strict=True) if not there]
        try:
            there = self.record(step)
        except Damaged:
            there = None
        if not lost and there is not None and there.files == record.files:
            return False
        self.publish(step, record, folder)
        return True

    def checkpoints(self, key: str) -> list[str]:
        """Return the names of a step's checkpoints, oldest first."""
        with self._in_words():
            return sorted(name.rpartition("/")[2] for name in self.remote.names(f"scratch/{key}"))

    def put_checkpoint(self, key: str, file: Path) -> None:
        """Keep a checkpoint."""
        with self._in_words():
            self.remote.upload(f"scratch/{key}/{file.name}", file)

    def get_checkpoint(self, key: str, to: Path) -> None:
        """Fetch the checkpoint of a file's name, where there is one; readers of checkpoints check them by hash."""
        to.parent.mkdir(parents=True, exist_ok=True)
        beside = to.with_name(f".{to.name}.part")
        with self._in_words():
            if self.remote.download(f"scratch/{key}/{to.name}", beside) is not None:
                os.replace(beside, to)

    def drop_checkpoints(self, key: str, names: Sequence[str]) -> None:
        """Delete checkpoints."""
        with self._in_words():
            self.remote.delete(f"scratch/{key}/{name}" for name in names)

    def put_probe(self, token: str) -> None:
        """Leave a small file for nodes to find."""
        with self._in_words():
            self.remote.put(f"probes/{token}", token.encode())

    def has_probe(self, token: str) -> bool:
        """Return whether the small file is there."""
        with self._in_words():
            return self.remote.get(f"probes/{token}") == token.encode()

    def drop_probe(self, token: str) -> None:
        """Delete the small file."""
        with self._in_words():
            self.remote.delete([f"probes/{token}"])

    def check(self) -> None:
        """Write a small file, read and delete it. Raises StorageRefused or StorageUnreachable."""
        with self._in_words():
            self.remote.check()

    def _each(self, do: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """Do the same for each, some at once, and return what came of it, in order."""
        todo = list(items)
        with self._in_words(), ThreadPoolExecutor(max(1, min(_AT_ONCE, len(todo)))) as pool:
            return list(pool.map(do, todo))

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            name = getattr(error, "filename", None)
            if name is not None and not Path(name).is_relative_to(self.remote.address.removeprefix("file://")):
                raise  # it is a file here that cannot be read or written
            refused = is_refusal(error) or isinstance(error, ValueError)
            rule = f"{'cannot be used' if refused else 'does not answer'} ({self.remote.reason(error)})"
            kind = StorageRefused if refused else StorageUnreachable
            raise kind(fault(self.remote.flag, str(self), rule, f"{REMEDY} {_KEPT}")) from None


def _is_whole(file: Path, size: int, mtime_ns: int, sha256: str) -> bool:
    try:
        found = file.stat()
    except OSError:
        return False
    return found.st_size == size and (found.st_mtime_ns == mtime_ns or file_hash(file) == sha256)


def _object(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"


def _record(step: Step) -> str:
    return f"steps/{step.kind.name}/{step.key}/{DONE}"

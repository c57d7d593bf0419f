"""The files of a run's steps: a folder per step, with a record of what it holds, checked before it is used.

    steps/KIND/KEY/...            the files of a step
    steps/KIND/KEY/done.json      size, modification time and SHA-256 of each, metrics, provenance; written last
    scratch/KEY/                  checkpoints of a step under way; can be deleted

A step is done once its folder has its name: it is written beside and renamed. A file of another size, or of another
modification time and other contents, is damaged: its step is said to be, and is done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.core.files import atomic_path, remove, write_json
from sweeps.core.hashing import file_hash, to_jsonable
from sweeps.core.step import Step

DONE = "done.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The record of a step that is done."""

    key: str
    kind: str
    label: str
    files: Mapping[str, tuple[int, int, str]]
    """Size in bytes, modification time in ns and SHA-256 of each file, by its path within the step's folder."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader of the tables must know."""
    attempt: int = 1
    started_at: str | None = None
    seconds: float | None = None
    device: str | None = None
    peak_memory_bytes: int | None = None
    energy_joules: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Damaged(Exception):
    """A file of a step is not what its record says."""

    def __init__(self, step_kind: str, key: str, file: str, reason: str) -> None:
        super().__init__(f"{step_kind}/{key}/{file} {reason}")
        self.kind, self.key, self.file, self.reason = step_kind, key, file, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return Damaged, (self.kind, self.key, self.file, self.reason)


def read_record(step: Step, text: bytes) -> Done:
    """Return the record of a step. Raises Damaged for what is none, or another step's."""
    try:
        content = json.loads(text)
        files = {name: (int(a), int(b), str(c)) for name, (a, b, c) in content.pop("files").items()}
        record = Done(files=files, **{**content, "notes": tuple(content["notes"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(step.kind.name, step.key, DONE, f"is not readable ({type(error).__name__})") from None
    if record.key != step.key:
        raise Damaged(step.kind.name, step.key, DONE, f"is of step {record.key}")
    return record


@dataclass(frozen=True)
class Store:
    """The steps of one run, below its folder.

    `sweeps.core.cache` and `sweeps.core.mirror` are the same over a storage: on a node, and in the driver.
    """

    root: Path

    def folder(self, step: Step) -> Path:
        """Return where a step's files are once it is done."""
        return self.root / "steps" / step.kind.name / step.key

    def scratch(self, step: Step) -> Path:
        """Return where a step keeps its checkpoints until it is done."""
        return self.root / "scratch" / step.key

    def done(self, step: Step) -> Done | None:
        """Return the record of a step whose files are there as recorded; None where it is not done.

        Raises Damaged where a file is missing, or is of another size or content.
        """
        folder = self.folder(step)
        try:
            text = (folder / DONE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if folder.exists():
                raise Damaged(step.kind.name, step.key, DONE, "is missing") from None
            return None
        record = read_record(step, text)
        for name, (size, mtime_ns, sha256) in record.files.items():
            try:
                found = (folder / name).stat()
            except OSError:
                raise Damaged(step.kind.name, step.key, name, "is missing") from None
            if found.st_size != size:
                reason = f"has {found.st_size} bytes instead of {size}"
                raise Damaged(step.kind.name, step.key, name, reason)
            if found.st_mtime_ns != mtime_ns and file_hash(folder / name) != sha256:
                raise Damaged(step.kind.name, step.key, name, "has other contents")
        return record

    def discard(self, step: Step) -> None:
        """Remove a step's files."""
        remove(self.folder(step))

    @contextmanager
    def writing(self, step: Step) -> Iterator[Path]:
        """Give the folder to write a step's files into; `keep` must be called before the block ends."""
        with atomic_path(self.folder(step)) as beside:
            beside.mkdir()
            yield beside
            remove(self.folder(step))  # damaged, or done meanwhile by another worker with the same files

    def keep(self, step: Step, beside: Path, **known: Any) -> Done:
        """Write the record of the files in a folder being written, and return it."""
        files = {}
        for file in sorted(beside.rglob("*")):
            if file.is_file():
                stat = file.stat()
                files[file.relative_to(beside).as_posix()] = (stat.st_size, stat.st_mtime_ns, file_hash(file))
        record = Done(key=step.key, kind=step.kind.name, label=step.label, files=files, **known)
        write_json(beside / DONE, to_jsonable(record))
        return record

    @contextmanager
    def working(self, step: Step) -> Iterator[None]:
        """Hold what a step reads, and its checkpoints, for as long as its work goes on."""
        yield

    def earlier(self, step: Step, number: int) -> Done | None:
        """Return the record of a step that an earlier attempt did and nobody heard of; it is attempt `number`'s now."""
        return None

    def finish(self, step: Step, record: Done) -> None:
        """Have a step's files where those that need them look."""

    def drop_checkpoints(self, step: Step) -> None:
        """Remove the checkpoints of a step that is done."""
        remove(self.scratch(step))

    def mend(self, steps: Iterable[Step]) -> bool:
        """Put back what those that need some steps found missing, where it is here; return whether it was."""
        return False

    def local(self, path: str) -> str:
        """Return where a file or folder that a configuration names is on this machine."""
        return path

    def images(self, files: Sequence[tuple[str, str]]) -> list[str]:
        """Return where images, known by their path and SHA-256 in the driver, are on this machine."""
        return [path for path, _ in files]


@dataclass(frozen=True, slots=True)
class Place:
    """What a step's work sees of the store: the files of its needs, a folder to write into, a scratch folder."""

    store: Store
    step: Step
    out: Path
    """The folder to write into; it becomes the step's once the work returns."""

    def of(self, role: str) -> Path:
        """Return the folder of the one step needed in a role, checked. Raises Damaged, or FileNotFoundError."""
        return self.folder_of(self.step.need(role))

    def all(self, role: str) -> list[Path]:
        """Return the folders of the steps needed in a role, checked."""
        return [self.folder_of(step) for step in self.step.in_role(role)]

    def folder_of(self, step: Step) -> Path:
        """Return the folder of a step that is done, checked."""
        self.record_of(step)
        return self.store.folder(step)

    def record_of(self, step: Step) -> Done:
        """Return the record of a step that is done, checked."""
        record = self.store.done(step)
        if record is None:
            raise FileNotFoundError(f"{step.kind.name} {step.label!r} is not at {self.store.folder(step)}")
        return record

    def local(self, path: Path | None) -> Path | None:
        """Return where a file or folder that the configuration names is on this machine."""
        return None if path is None else Path(self.store.local(str(path)))

    @property
    def scratch(self) -> Path:
        """Where checkpoints go; kept when the work fails, removed once it has succeeded."""
        return self.store.scratch(self.step)

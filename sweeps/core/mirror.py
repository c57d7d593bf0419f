"""The run's folder in the driver, over a storage: filled from it as attempts come back, and what nodes need put there.

In: steps to do. Out: what they need in the storage before they start; what they made in the run's folder once they end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fulora.errors import InputError, fault
from sweeps.core.attempts import Attempt, attempt_of, success_of
from sweeps.core.cache import Cache, open_cache
from sweeps.core.execution import Execution
from sweeps.core.hashing import file_hash
from sweeps.core.remote import Remote
from sweeps.core.selections import SELECTION, read_selection
from sweeps.core.step import Step
from sweeps.core.storage import Storage, StorageUnreachable, StoredFile
from sweeps.core.store import Damaged, Done, Store

_SAID_BYTES = 10**8
"""From here on it is said that images are on their way: it takes a while."""
_AT_ONCE = 4
"""Steps whose files are fetched at once."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Mirror(Store):
    """The steps of a run, below its folder and in a storage."""

    storage: Storage
    cache: Path | None
    """Where nodes keep their copies; None: below their folder for temporary files."""
    cache_bytes: int
    say: Say = field(default=lambda text: None, repr=False, compare=False)
    """Is told in a line of what is damaged here and fetched again, and of uploads that take a while."""
    _shipped: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Hashes of files, and keys of steps, that this process has seen in the storage."""
    _inputs: dict[str, list[tuple[str, int, str]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _stored(self) -> set[str]:
        """Keys of the steps that the storage had when it was first asked."""
        return self.storage.keys()

    def done(self, step: Step) -> Done | None:
        """Return the record of a step that is here, fetched where only the storage has it, or has it whole.

        Raises Damaged where a file is not as recorded, here and there.
        """
        try:
            record = super().done(step)
        except Damaged as error:
            with suppress(Damaged):
                if (fetched := self.fetch(step)) is not None:
                    self.say(f"damaged, fetched again: {step.kind.name} {step.label!r}: {error}")
                    return fetched
            raise
        if record is None and step.key in self._stored:
            try:
                return self.fetch(step)
            except Damaged:  # nothing is here that could be damaged: it is not done
                self.storage.forget(step)
                self._stored.discard(step.key)
        return record

    def gather(self, steps: Iterable[Step]) -> None:
        """Fetch side by side what the storage has and this folder lacks."""
        lacking = {step.key: step for step in steps if step.key in self._stored and not self.folder(step).exists()}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.done, lacking.values()))

    def fetch(self, step: Step) -> Done | None:
        """Fetch a step's files; None where the storage has no record of it. Raises Damaged."""
        record = self.storage.record(step)
        if record is not None:
            self.storage.collect(step, record, self.folder(step))
            self._shipped.add(step.key)
        return record

    def discard(self, step: Step) -> None:
        """Remove a step's files here, and its record in the storage."""
        super().discard(step)
        self.storage.forget(step)
        self._stored.discard(step.key)
        self._shipped.discard(step.key)

    def finish(self, step: Step, record: Done) -> None:
        """Put what was made here into the storage."""
        self.storage.publish(step, record, self.folder(step))
        self._shipped.add(step.key)

    def mend(self, steps: Iterable[Step]) -> bool:
        """Put back what is missing in the storage of steps that are whole here, with the images they name."""
        mended = False
        for step in steps:
            try:
                record = Store.done(self, step)
            except Damaged:
                continue
            if record is None:
                continue
            mended |= self.storage.mend(step, record, self.folder(step))
            if step.kind.name == SELECTION.name:
                images = list(self._images_of([step], again=True))
                lost = [file for file in images if not self.storage.has(file)]
                self.storage.put(lost)
                mended |= bool(lost)
        for listed in self._inputs.items():
            lost = [file for file in _stored_files(*listed) if not self.storage.has(file)]
            self.storage.put(lost)
            mended |= bool(lost)
        return mended

    def ship(self, todo: Sequence[Step]) -> None:
        """Put what steps need and none of them makes where nodes look: steps done before, images, bases and weights.

        Raises InputError for an image that is not there any more as it was when the catalog was made.
        """
        own = {step.key for step in todo}
        needs = {need.key: need for step in todo for need in step.all_needs if need.key not in own}
        lacking = [need for need in needs.values() if need.key not in self._shipped or need.kind.name == SELECTION.name]
        self.publish(lacking)
        images = list(self._images_of(lacking))
        if (total := sum(file.size or 0 for file in images)) >= _SAID_BYTES:
            self.say(f"{len(images)} images, {total / 1e9:.1f} GB, go to {self.storage} unless they are there")
        self.storage.put(images)
        self._shipped.update(file.sha256 for file in images)
        self.take_in(path for step in todo if step.kind.stage != "sources" for path in _paths(step.config))

    def publish(self, steps: Iterable[Step]) -> None:
        """Put steps that are done here into the storage."""

        def one(step: Step) -> None:
            with suppress(Damaged):  # what is damaged here was said before, and is no need that is done
                if (record := Store.done(self, step)) is not None:
                    self.storage.keep(step, record, self.folder(step))
                    self._shipped.add(step.key)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, steps))

    def take_in(self, paths: Iterable[str]) -> None:
        """Put files and folders of this machine, by their paths, where nodes find them; other words are none."""
        for path in sorted(set(paths)):
            if path not in self._inputs and os.path.isabs(path) and os.path.exists(path):
                self._inputs[path] = _listed(Path(path))
                self.storage.put(_stored_files(path, self._inputs[path]))

    def _images_of(self, steps: Iterable[Step], *, again: bool = False) -> Iterator[StoredFile]:
        """Yield the images that selections name, each once; those shipped before only `again`."""
        found: set[str] = set()
        for step in steps:
            if step.kind.name != SELECTION.name:
                continue
            for records in read_selection(self.folder(step), self.root).values():
                for record in records:
                    path, sha256 = Path(record.path), record.sha256
                    if not record.path or sha256 in found or (sha256 in self._shipped and not again):
                        continue
                    found.add(sha256)
                    if not path.is_file() or file_hash(path) != sha256:
                        rule = "is not the image any more that the catalog names"
                        raise InputError(
                            fault("image", str(path), rule, "Put it back, or touch its list and run again.")
                        )
                    yield StoredFile(path, path.stat().st_size, sha256)

    def for_nodes(self) -> Cache:
        """Return the store that workers use."""
        return open_cache(self.cache, self.storage, self.cache_bytes, self._inputs)


def store_of(
    root: Path, *, storage: str | None, cache: Path | None, cache_gb: float, say: Say = lambda text: None
) -> Store:
    """Return the steps of a run in its folder, over a storage where one is given. Raises InputError."""
    if storage is None:
        return Store(root)
    remote = Remote(address=storage, flag="storage")
    if "://" not in storage and (Path(storage).is_relative_to(root) or root.is_relative_to(storage)):
        rule, remedy = "is the run's own directory, or in it or around it", "Give --storage a directory of its own."
        raise InputError(fault("storage", str(remote), rule, remedy))
    return Mirror(root, Storage(remote=remote), cache, int(cache_gb * 1e9), say)


class FetchingExecution(Execution):
    """The bookkeeping of a run on nodes of their own: a step has succeeded once its files are in the run's folder."""

    store: Mirror

    def __init__(self, *args: Any, **known: Any) -> None:
        super().__init__(*args, **known)
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")

    def ended(self, step: Step, attempt: Attempt, *, beside_others: bool = False) -> None:
        """Take an attempt back; of one that succeeded, once its files are here."""
        if attempt.status == "SUCCEEDED":
            self._pool.submit(self._fetch, step, attempt)
        else:
            super().ended(step, attempt, beside_others=beside_others)

    def _fetch(self, step: Step, attempt: Attempt) -> None:
        try:
            record = self.store.fetch(step)
        except Damaged as error:
            self.store.discard(step)
            self.died(step, attempt.attempt, f"what it put into the storage is damaged: {error}")
        except StorageUnreachable as error:
            self.died(step, attempt.attempt, str(error))
        except Exception as error:  # of a thread's own: the run stops, and says why
            self.stop(error)
            known = {"error_type": type(error).__name__, "error_message": str(error)}
            super().ended(step, attempt_of(step, "FAILED", attempt.attempt, **known))
        else:
            if record is None:
                self.died(step, attempt.attempt, "its record is not in the storage")
            else:
                super().ended(step, attempt)

    def _success(self, step: Step, number: int) -> Attempt | None:
        """Return the success that an attempt left in the storage, though its process did not say so."""
        with suppress(Damaged, InputError):
            record = self.store.fetch(step)
            if record is not None and record.attempt == number:
                return success_of(step, record)
        return None

    def close(self) -> None:
        """Fetch nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _paths(config: Any) -> Iterator[str]:
    """Yield the files and folders of this machine that a configuration names, absolute."""
    if isinstance(config, Path | str):
        if os.path.isabs(config) and os.path.exists(config):
            yield str(config)
    elif is_dataclass(config):
        for one in fields(config):
            yield from _paths(getattr(config, one.name))


def _listed(path: Path) -> list[tuple[str, int, str]]:
    """Return name, size and SHA-256 of a file, whose name is empty, or of every file of a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    names = ["" if file == path else file.relative_to(path).as_posix() for file in files]
    return [(name, file.stat().st_size, file_hash(file)) for name, file in zip(names, files, strict=True)]


def _stored_files(path: str, listed: Sequence[tuple[str, int, str]]) -> list[StoredFile]:
    return [StoredFile(Path(path) / name if name else Path(path), size, sha256) for name, size, sha256 in listed]

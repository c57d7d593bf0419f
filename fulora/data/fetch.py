"""The two published sources from Zenodo, in the layout their readers take.

In: which source, and a folder. Out: `folder/spanish` or `folder/african`, whole or not at all: the archive is
downloaded beside it, checked against its record, unpacked beside it and renamed into place.
Source: Zenodo's REST API, GET /api/records/ID: `files`, each with `key`, `size`, `checksum` (`md5:...`), `links.self`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.data.download import WAITS_SECONDS, Progress, Quiet, RemoteFile, download, has_checksum, read_json
from fulora.data.room import check_room, disk_fault, size_words
from fulora.data.sources import PUBLISHED, ReadSource
from fulora.data.unpack import ArchiveKind, unpack
from fulora.errors import InputError, fault

API = "https://zenodo.org/api/records"
MARKER_NAME = "fetched.json"
"""File in a fetched folder that says where it is from; a folder that has it is complete."""
UNPACKED_PER_ARCHIVE = 1.5
"""Room asked for before a download, per byte of the archive. Its list of members says it exactly, before unpacking."""
_DIGEST_LENGTHS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A source's record at Zenodo."""

    record: int
    """Number of the record; a number's files never change, a new version gets a new one."""
    kind: ArchiveKind
    """How its images are packed; the record has one such file."""


RECORDS: dict[ReadSource, Published] = {
    "spanish": Published(record=3904280, kind="zip"),
    "african": Published(record=7540448, kind="tar.xz"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What a call did."""

    folder: Path
    """The source's folder, to be given to `read_source`."""
    was_there: bool
    """Whether it was complete before, so that nothing was done."""
    num_files: int
    """Files unpacked by the call that made it."""


def fetch(
    source: ReadSource,
    to: Path,
    *,
    api: str = API,
    waits: Sequence[float] = WAITS_SECONDS,
    progress: Progress | None = None,
) -> Fetched:
    """Make `to/spanish` or `to/african` from its Zenodo record; does nothing, and asks no server, where it is there.

    `api` is the address that a record's number is appended to, `waits` the pauses in seconds between tries. A download
    that was cut off goes on in the next call. The archive is deleted once it is unpacked. Raises InputError where the
    folder holds something else, the record or its file cannot be had, the checksum is wrong (the download is deleted),
    the archive is refused, or the disk has no room.
    """
    progress = progress or Quiet()
    folder = Path(to).absolute() / source
    if (found := _what_is_there(folder, source)) is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_fault(folder.parent, error, stays="Nothing was downloaded.") from error
    remote = read_record(source, api=api, waits=waits, progress=progress)
    # Named by its checksum, so that parts of two files are never put together.
    part = folder.with_name(f".{source}-{remote.digest[:12]}.{RECORDS[source].kind}.part")
    beside = folder.with_name(f".{source}.unpacking")
    with _held(part) as file:
        if (found := _what_is_there(folder, source)) is not None:  # made by another command meanwhile
            part.unlink()
            return found
        shutil.rmtree(beside, ignore_errors=True)  # of a command that was killed
        missing = remote.size_bytes - os.fstat(file.fileno()).st_size
        needed = max(missing, 0) + int(UNPACKED_PER_ARCHIVE * remote.size_bytes)
        check_room(folder.parent, needed, purpose="to download and unpack")
        progress.say(f"{source}: {remote.name}, {size_words(remote.size_bytes)}, {size_words(max(missing, 0))} to go")
        download(remote, part, file, what=f"{source}: download", waits=waits, progress=progress)
        _check_checksum(remote, part, source, progress)
        num_files = _unpack_into_place(remote, part, beside, folder, source, progress)
        for done_with in folder.parent.glob(f".{source}-*.part"):  # of an earlier version of the file, too
            done_with.unlink()
    return Fetched(folder=folder, was_there=False, num_files=num_files)


def read_record(
    source: ReadSource, *, api: str = API, waits: Sequence[float] = WAITS_SECONDS, progress: Progress | None = None
) -> RemoteFile:
    """Return the archive of a source as its record states it. Raises InputError where the record does not."""
    published = RECORDS[source]
    url = f"{api.rstrip('/')}/{published.record}"
    if not re.match(r"https?://", url):
        raise InputError(fault("--api", api, "is no http address", f"The default is {API}."))
    answer = read_json(url, waits=waits, progress=progress or Quiet())
    listed = answer.get("files") if isinstance(answer, dict) else None
    archives = [file for file in map(_remote_file, listed or []) if file and file.name.endswith(f".{published.kind}")]
    if len(archives) != 1:
        rule = f"names {len(archives)} files *.{published.kind} with size, checksum and address, not 1"
        raise InputError(fault("record", url, rule, "Look at the record's page; it may be closed for the moment."))
    # A record read over https must not send us to an address that anyone on the way can answer for.
    if not archives[0].url.startswith(("https://",) if url.startswith("https://") else ("https://", "http://")):
        rule = f"gives the address {archives[0].url!r} for its file"
        raise InputError(fault("record", url, rule, "It must be an https address."))
    return archives[0]


def _remote_file(entry: Any) -> RemoteFile | None:
    """Return a file of a record, or None for an entry without all that is needed."""
    try:
        algorithm, digest = entry["checksum"].lower().split(":")
        name, url, size = entry["key"], entry["links"]["self"], entry["size"]
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    known = len(digest) == _DIGEST_LENGTHS.get(algorithm) and re.fullmatch("[0-9a-f]+", digest)
    if not known or not isinstance(name, str) or not isinstance(url, str) or not isinstance(size, int) or size <= 0:
        return None
    return RemoteFile(name=name, url=url, size_bytes=size, algorithm=algorithm, digest=digest)


def _what_is_there(folder: Path, source: ReadSource) -> Fetched | None:
    """Return what an earlier call made, or None where there is nothing. Raises InputError for anything else."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        marker = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
        complete = marker["record"] == RECORDS[source].record and (folder / PUBLISHED[source].LIST_NAME).is_file()
        if complete:
            return Fetched(folder=folder, was_there=True, num_files=marker["num_files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not ours, and said so below
    rule = "holds something that this command did not put there, or not all of it"
    raise InputError(fault("--to", str(folder), rule, "Give another folder, or move this one away."))


@contextlib.contextmanager
def _held(part: Path) -> Iterator[io.FileIO]:
    """Give the partial download, opened for appending; two commands never write to one."""
    busy = InputError(fault("--to", str(part), "is being written by another command", "Wait until that has ended."))
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(part, "ab", buffering=0))
        except OSError as error:
            raise disk_fault(part, error, stays="Nothing was downloaded.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:
            pass  # a file system without locks: then the user alone sees to it
        if not os.fstat(file.fileno()).st_nlink:  # another command was done with it between our opening and locking
            raise busy
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)  # nothing to go on from


def _check_checksum(remote: RemoteFile, part: Path, source: str, progress: Progress) -> None:
    if not has_checksum(remote, part, what=f"{source}: check", progress=progress):
        part.unlink()
        rule = f"was downloaded whole, but its {remote.algorithm} is not the record's {remote.digest}"
        raise InputError(fault("file", remote.url, rule, "The download was deleted; run the command again."))


def _unpack_into_place(
    remote: RemoteFile, part: Path, beside: Path, folder: Path, source: ReadSource, progress: Progress
) -> int:
    """Unpack beside the folder, find the list of images in it and rename what holds the list; return how many files."""
    published = RECORDS[source]
    try:
        num_files = unpack(part, published.kind, beside, what=f"{source}: unpack", progress=progress)
        lists = list(beside.rglob(PUBLISHED[source].LIST_NAME))
        if len(lists) != 1:
            rule = f"holds {len(lists)} files {PUBLISHED[source].LIST_NAME}, not 1 (the archive is {part})"
            raise InputError(fault("file", remote.url, rule, "Look at the record's page for what it holds."))
        marker = {
            "record": published.record,
            "file": remote.name,
            "size_bytes": remote.size_bytes,
            "checksum": f"{remote.algorithm}:{remote.digest}",
            "num_files": num_files,
        }
        (lists[0].parent / MARKER_NAME).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        os.rename(lists[0].parent, folder)  # an empty folder there is replaced, any other refuses
    except OSError as error:
        raise disk_fault(folder, error, stays=f"Nothing of it stays; the archive does, in {part}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return num_files

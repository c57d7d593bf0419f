"""Download of the two published sources from Zenodo, in the layout their readers take.

In: a source and a directory. Out: `DIR/spanish` or `DIR/african`, complete or absent: the archive is downloaded beside
it, verified against its record, unpacked beside it and renamed into place.
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

from fulora.data.disk_space import check_disk_space, disk_fault, size_words
from fulora.data.download import WAITS_SECONDS, Quiet, RemoteFile, TransferProgress, download, has_checksum, read_json
from fulora.data.sources import PUBLISHED, ReadSource
from fulora.data.unpack import ArchiveKind, unpack
from fulora.errors import InputError, fault

API = "https://zenodo.org/api/records"
MARKER_NAME = "fetched.json"
"""File in a fetched directory with its provenance; a directory that has it is complete."""
UNPACKED_PER_ARCHIVE = 1.5
"""Disk space required before a download, per byte of the archive; the exact size is checked before unpacking."""
_DIGEST_LENGTHS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A source's record at Zenodo."""

    record: int
    """Number of the record; the files of a number never change."""
    kind: ArchiveKind
    """Type of its archive; the record has one such file."""


RECORDS: dict[ReadSource, Published] = {
    "spanish": Published(record=3904280, kind="zip"),
    "african": Published(record=7540448, kind="tar.xz"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The result of a call."""

    folder: Path
    """The source's directory, for `read_source`."""
    was_there: bool
    """Whether it was complete before the call."""
    num_files: int
    """Number of files unpacked by the call that created it."""


def fetch(
    source: ReadSource,
    to: Path,
    *,
    api: str = API,
    waits: Sequence[float] = WAITS_SECONDS,
    progress: TransferProgress | None = None,
) -> Fetched:
    """Create `to/spanish` or `to/african` from its Zenodo record; a complete one is returned without any request.

    `api` is the address that a record's number is appended to, `waits` the pauses in seconds between attempts. An
    interrupted download is resumed by the next call. The archive is deleted once it is unpacked. Raises InputError
    where the directory holds something else, the record or its file cannot be downloaded, the checksum is wrong (the
    download is deleted), the archive is refused, or the disk is full.
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
        if (found := _what_is_there(folder, source)) is not None:  # completed by another command meanwhile
            part.unlink()
            return found
        shutil.rmtree(beside, ignore_errors=True)  # left by a command that was killed
        missing = remote.size_bytes - os.fstat(file.fileno()).st_size
        needed = max(missing, 0) + int(UNPACKED_PER_ARCHIVE * remote.size_bytes)
        check_disk_space(folder.parent, needed, purpose="to download and unpack")
        progress.say(f"{source}: {remote.name}, {size_words(remote.size_bytes)}, {size_words(max(missing, 0))} to go")
        download(remote, part, file, what=f"{source}: download", waits=waits, progress=progress)
        _check_checksum(remote, part, source, progress)
        num_files = _unpack_into_place(remote, part, beside, folder, source, progress)
        for done_with in folder.parent.glob(f".{source}-*.part"):  # of earlier versions of the file, too
            done_with.unlink()
    return Fetched(folder=folder, was_there=False, num_files=num_files)


def read_record(
    source: ReadSource,
    *,
    api: str = API,
    waits: Sequence[float] = WAITS_SECONDS,
    progress: TransferProgress | None = None,
) -> RemoteFile:
    """Return the archive that a source's record names. Raises InputError where it names none that can be used."""
    published = RECORDS[source]
    url = f"{api.rstrip('/')}/{published.record}"
    if not re.match(r"https?://", url):
        raise InputError(fault("--api", api, "is not an http address", f"The default is {API}."))
    answer = read_json(url, waits=waits, progress=progress or Quiet())
    listed = answer.get("files") if isinstance(answer, dict) else None
    archives = [file for file in map(_remote_file, listed or []) if file and file.name.endswith(f".{published.kind}")]
    if len(archives) != 1:
        rule = f"names {len(archives)} files *.{published.kind} with size, checksum and address, not 1"
        raise InputError(fault("record", url, rule, "Open the record's page; it may be closed temporarily."))
    # A record read over https must not lead to an address without encryption.
    if not archives[0].url.startswith(("https://",) if url.startswith("https://") else ("https://", "http://")):
        rule = f"gives the address {archives[0].url!r} for its file"
        raise InputError(fault("record", url, rule, "It must be an https address."))
    return archives[0]


def _remote_file(entry: Any) -> RemoteFile | None:
    """Return a file of a record, or None for an incomplete entry."""
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
    """Return what an earlier call created, or None where there is nothing. Raises InputError for other content."""
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        marker = json.loads((folder / MARKER_NAME).read_text(encoding="utf-8"))
        complete = marker["record"] == RECORDS[source].record and (folder / PUBLISHED[source].LIST_NAME).is_file()
        if complete:
            return Fetched(folder=folder, was_there=True, num_files=marker["num_files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # reported below
    rule = "holds files that this command did not write, or is incomplete"
    raise InputError(fault("--to", str(folder), rule, "Give another directory, or move this one away."))


@contextlib.contextmanager
def _held(part: Path) -> Iterator[io.FileIO]:
    """Give the partial download, opened for appending and locked; two commands never write to one.

    The lock is on the file itself: `filelock` would leave a lock file beside it, or rely on not truncating this one.
    """
    busy = InputError(fault("--to", str(part), "is being written by another command", "Wait until it has finished."))
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
            pass  # a file system without locks
        if not os.fstat(file.fileno()).st_nlink:  # another command finished between opening and locking
            raise busy
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)  # nothing to resume


def _check_checksum(remote: RemoteFile, part: Path, source: str, progress: TransferProgress) -> None:
    if not has_checksum(remote, part, what=f"{source}: check", progress=progress):
        part.unlink()
        rule = f"was downloaded completely, but its {remote.algorithm} is not the record's {remote.digest}"
        raise InputError(fault("file", remote.url, rule, "The download was deleted; run the command again."))


def _unpack_into_place(
    remote: RemoteFile, part: Path, beside: Path, folder: Path, source: ReadSource, progress: TransferProgress
) -> int:
    """Unpack beside the directory and rename the part that holds the list of images; return the number of files."""
    published = RECORDS[source]
    try:
        num_files = unpack(part, published.kind, beside, what=f"{source}: unpack", progress=progress)
        lists = list(beside.rglob(PUBLISHED[source].LIST_NAME))
        if len(lists) != 1:
            rule = f"holds {len(lists)} files {PUBLISHED[source].LIST_NAME}, not 1 (the archive is {part})"
            raise InputError(fault("file", remote.url, rule, "Open the record's page to see what it holds."))
        marker = {
            "record": published.record,
            "file": remote.name,
            "size_bytes": remote.size_bytes,
            "checksum": f"{remote.algorithm}:{remote.digest}",
            "num_files": num_files,
        }
        (lists[0].parent / MARKER_NAME).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        os.rename(lists[0].parent, folder)  # replaces an empty directory, fails on any other
    except OSError as error:
        raise disk_fault(
            folder, error, stays=f"The extracted files are removed; the archive is kept in {part}."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return num_files

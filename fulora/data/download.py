"""Download of one file over HTTP, resumable and verified.

In: an address, and the size and checksum that its publisher states. Out: the file. An interrupted download is kept, and
this call or a later one resumes it with a Range request.
Source: RFC 9110, section 14 (Range, 206, 416) and 10.2.3 (Retry-After).
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fulora import __version__
from fulora.data.disk_space import disk_fault, size_words
from fulora.errors import InputError, fault, one_line

WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses between attempts, then the command fails. An attempt that brings `ENOUGH_BYTES` starts the count again."""
ENOUGH_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
"""Timeout of connecting and of each read."""
_LONGEST_WAIT_SECONDS = 120.0
_BLOCK_BYTES = 1 << 18
_BUSY = (408, 425, 429)
"""Status codes worth another attempt; 5xx as well."""


class TransferProgress(Protocol):
    """Reports the progress of downloads."""

    def say(self, text: str) -> None:
        """Report a message."""

    def moved(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """Report the bytes of `what` done so far."""


class Quiet:
    """Reports nothing."""

    def say(self, text: str) -> None: ...
    def moved(self, what: str, done_bytes: int, total_bytes: int) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A published file as its publisher describes it."""

    name: str
    """File name."""
    url: str
    """Address of its content."""
    size_bytes: int
    """Size in bytes."""
    algorithm: str
    """Algorithm of the checksum, as hashlib names it: `md5`."""
    digest: str
    """Checksum, in hexadecimal."""


class _Cut(Exception):
    """An attempt that failed and may be repeated."""

    def __init__(self, reason: str, *, wait_seconds: float = 0.0, start_over: bool = False) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.start_over = start_over


def read_json(url: str, *, waits: Sequence[float] = WAITS_SECONDS, progress: TransferProgress) -> Any:
    """Return the server's answer, parsed. Raises InputError where it cannot be reached or does not answer with JSON."""
    failures = 0
    while True:
        try:
            with _opened(url) as response:
                text = response.read()
            return json.loads(text)
        except _Cut as cut:
            failures += 1
            _pause(cut, failures, waits, progress, url, "Check the network and run the same command again.")
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                fault("address", url, "does not answer with JSON", "Try again later, or check --api.")
            ) from error


def download(
    remote: RemoteFile,
    path: Path,
    file: io.FileIO,
    *,
    what: str,
    waits: Sequence[float] = WAITS_SECONDS,
    progress: TransferProgress,
) -> None:
    """Append to `file` (`path`, opened for appending, unbuffered) the bytes of the remote file that it lacks.

    Bytes are written as they arrive, so a killed process loses none. A server without Range support is read from the
    start again. Raises InputError where the server refuses, all attempts fail, the file has another size, or the disk
    is full; the partial file is kept for the next call.
    """
    failures = 0
    if _size(file) > remote.size_bytes:
        file.truncate(0)
    while (before := _size(file)) < remote.size_bytes:
        try:
            _append_rest(remote, path, file, first_byte=before, what=what, progress=progress)
        except _Cut as cut:
            failures = 1 if _size(file) - before >= ENOUGH_BYTES else failures + 1
            if cut.start_over:
                file.truncate(0)
            _pause(cut, failures, waits, progress, remote.url, _stays(path, _size(file), remote.size_bytes))


def has_checksum(remote: RemoteFile, path: Path, *, what: str, progress: TransferProgress) -> bool:
    """Return whether the file at `path` has the published checksum."""
    # A guard against damage, not against attacks: MD5 is what the record has.
    digest = hashlib.new(remote.algorithm, usedforsecurity=False)
    done = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            progress.moved(what, done, remote.size_bytes)
    return digest.hexdigest() == remote.digest


def _append_rest(
    remote: RemoteFile, path: Path, file: io.FileIO, *, first_byte: int, what: str, progress: TransferProgress
) -> None:
    with _opened(remote.url, first_byte=first_byte) as response:
        done = _first_byte_sent(response, remote, asked=first_byte)
        if done < first_byte:
            progress.say(f"{what}: the server does not support Range requests; starting from the first byte")
            file.truncate(done)
        # read1 returns what has arrived: nothing waits in a buffer to be lost with the connection.
        while block := response.read1(_BLOCK_BYTES):
            done += len(block)
            if done > remote.size_bytes:
                raise _other_file(remote, f"sends more than the {remote.size_bytes} bytes of the record")
            _write(file, block, path, remote.size_bytes)
            progress.moved(what, done, remote.size_bytes)
    if done < remote.size_bytes:
        raise _Cut(f"the connection ended at {size_words(done)} of {size_words(remote.size_bytes)}")


def _first_byte_sent(response: http.client.HTTPResponse, remote: RemoteFile, *, asked: int) -> int:
    """Return the offset of the first byte the server is about to send. Raises where it is another file."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if not found or int(found[1]) != asked:
            raise _Cut("the server sent another part than requested", start_over=True)
        size = remote.size_bytes if found[2] == "*" else int(found[2])
    else:
        length = response.headers.get("Content-Length", "")
        asked, size = 0, int(length) if length.isdecimal() else remote.size_bytes
    if size != remote.size_bytes:
        raise _other_file(remote, f"has a file of {size} bytes, the record says {remote.size_bytes}")
    return asked


def _other_file(remote: RemoteFile, rule: str) -> InputError:
    return InputError(fault("address", remote.url, rule, "Try again later: the record and its file must agree."))


def _write(file: io.FileIO, block: bytes, path: Path, size_bytes: int) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise disk_fault(path, error, stays=_stays(path, _size(file), size_bytes)) from error


def _stays(path: Path, done: int, size_bytes: int) -> str:
    return f"{size_words(done)} of {size_words(size_bytes)} are kept in {path}; run the same command again to resume."


def _size(file: io.FileIO) -> int:
    return os.fstat(file.fileno()).st_size


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.type == "https" and not newurl.startswith("https:"):
            raise InputError(fault("address", req.full_url, f"leads to {newurl}, without encryption", "Check --api."))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# urllib suffices: one request at a time, and a Range header is all that resuming needs.
@contextmanager
def _opened(url: str, *, first_byte: int = 0) -> Iterator[http.client.HTTPResponse]:
    """Give the open response; turn every failure of the connection, while reading too, into `_Cut` or InputError."""
    headers = {"User-Agent": f"fulora/{__version__}"}
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
    opener = urllib.request.build_opener(_NoDowngrade)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            yield response
    except urllib.error.HTTPError as error:
        words = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            raise _Cut(words, start_over=True) from error
        if error.code in _BUSY or error.code >= 500:
            raise _Cut(words, wait_seconds=_retry_after(error.headers.get("Retry-After"))) from error
        raise InputError(fault("address", url, f"refuses ({words})", "Try again later, or check --api.")) from error
    except (OSError, http.client.HTTPException) as error:  # no address, no route, timeout, reset, ended early
        raise _Cut(one_line(getattr(error, "reason", None) or error)) from error


def _retry_after(text: str | None) -> float:
    return min(float(text), _LONGEST_WAIT_SECONDS) if text and text.strip().isdecimal() else 0.0


def _pause(cut: _Cut, failures: int, waits: Sequence[float], progress: TransferProgress, url: str, remedy: str) -> None:
    """Wait before the next attempt, or raise InputError after the last."""
    if failures > len(waits):
        raise InputError(fault("address", url, f"failed {failures} times, last: {cut}", remedy)) from cut
    seconds = max(waits[failures - 1], cut.wait_seconds)
    progress.say(f"{cut}; retrying in {seconds:.0f} s ({failures} of {len(waits)})")
    time.sleep(seconds)

"""A place outside the run, a folder, S3 or whatever else Arrow opens: its files, put and got whole, with patience.

In: an address. Out: files. An operation that the place does not answer, or answers with 503, is tried again with waits
that double; one that it refuses (no right, no room, no such place) is not. Its credentials are in no text made here.
"""

from __future__ import annotations

import errno
import hashlib
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from fulora.errors import InputError, fault, one_line
from sweeps.core.files import atomic_path

T = TypeVar("T")

_TRIES = 8
"""Times an operation is tried that is not answered; with waits of half a second, doubling, a minute in all."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds."""
_CONNECT_SECONDS, _SILENT_SECONDS = 20.0, 120.0
"""Time S3 has to take a connection, and to send the next byte; its library gives 1 and 3."""
_CHUNK_BYTES = 8 * 2**20
_SHOWN = ("region", "scheme", "endpoint_override")
"""Parts of an address's query that may be shown."""
_PASSING = {
    errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.EPIPE, errno.ECONNRESET,
    errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
}  # fmt: skip
"""What a disk or a network answers that may be over in a moment."""
_REFUSED_WORDS = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID"
    r"|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|EXPIRED_TOKEN|ACCOUNT_PROBLEM)"
    r"|Bucket '.*' not found|StorageFull|QuotaExceeded"
)
_STATUS = re.compile(r"HTTP status (\d{3})")
_WAITING_HELPS = {408, 425, 429}
REMEDY = "Check the address, the rights and, for S3, the credentials, region and endpoint_override."


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A place for files. Pickled, it is its address."""

    address: str
    """An absolute path, or a URI that Arrow opens, such as `s3://BUCKET/FOLDER?region=eu-west-1`."""
    flag: str
    """The flag that names it, for errors."""

    def __str__(self) -> str:
        """Return the address without credentials."""
        if "://" not in self.address:
            return self.address
        place, _, query = self.address.partition("?")
        shown = "&".join(f"{k}={quote(v, safe=':')}" for k, v in parse_qsl(query) if k in _SHOWN)
        return re.sub(r"//.*@", "//", place) + (f"?{shown}" if shown else "")

    __repr__ = __str__

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes an equal place elsewhere; the open file system stays here."""
        return {"address": self.address, "flag": self.flag}

    def redacted(self, text: object) -> str:
        """Return a text without the credentials of the address."""
        words = str(text).replace(self.address, str(self))
        secret = re.search(r"//(.*)@", self.address.partition("?")[0])
        parts = [secret[1], *secret[1].split(":", 1)] if secret else []
        for part in sorted({*parts, *map(unquote, parts)} - {""}, key=len, reverse=True):
            words = words.replace(part, "***")
        return words

    @cached_property
    def opened(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the place in it."""
        if "://" not in self.address:
            return fs.LocalFileSystem(), self.address
        system, root = fs.FileSystem.from_uri(self.address)
        if isinstance(system, fs.S3FileSystem):
            system = _patient(self.address, system.region)
        return system, root.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        self._try(lambda: self._put(name, lambda stream: stream.write(data)))

    def upload(self, name: str, file: Path) -> None:
        """Write a file with the content of one here, whole or not at all."""
        with file.open("rb") as source:

            def copy(stream: Any) -> None:
                source.seek(0)
                shutil.copyfileobj(source, stream, _CHUNK_BYTES)

            self._try(lambda: self._put(name, copy))

    def _put(self, name: str, write: Callable[[Any], object]) -> None:
        system, root = self.opened
        if isinstance(system, fs.LocalFileSystem):
            with atomic_path(Path(root) / name) as beside, beside.open("wb") as file:
                write(file)
            return
        # An object is there once its upload is complete, so no other name is needed.
        stream = system.open_output_stream(f"{root}/{name}")
        write(stream)
        stream.close()

    def get(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""

        def read() -> bytes:
            system, root = self.opened
            with system.open_input_stream(f"{root}/{name}") as stream:
                return stream.read()

        try:
            return self._try(read)
        except FileNotFoundError:
            return None

    def download(self, name: str, to: Path) -> str | None:
        """Write a file's content to a path here and return its SHA-256 in hex; None where there is no such file."""

        def copy() -> str:
            system, root = self.opened
            digest = hashlib.sha256()
            with system.open_input_stream(f"{root}/{name}") as stream, to.open("wb", buffering=0) as file:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    _write(file, chunk, to)
            return digest.hexdigest()

        try:
            return self._try(copy)
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None where there is none."""
        info = self._try(lambda: self._info(name))
        return info.size if info.type == fs.FileType.File else None

    def names(self, folder: str, *, recursive: bool = False) -> list[str]:
        """Return the names of the files in a folder, with the folder; none where it is not there."""

        def look() -> list[str]:
            system, root = self.opened
            selector = fs.FileSelector(f"{root}/{folder}", allow_not_found=True, recursive=recursive)
            found = [info for info in system.get_file_info(selector) if info.is_file]
            return [info.path[len(root) + 1 :] for info in found if not info.base_name.startswith(".")]

        return self._try(look)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; one that is not there is none to delete."""
        system, root = self.opened
        for name in names:
            with suppress(FileNotFoundError):
                self._try(partial(system.delete_file, f"{root}/{name}"))

    def check(self) -> None:
        """Write a small file and delete it again. Raises InputError where the place cannot be written to."""
        name = f".probe-{uuid.uuid4().hex[:8]}"
        with self.in_words():
            self.put(name, b"x")
            self.delete([name])

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """Turn what the place answers into InputError, without credentials."""
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(fault(self.flag, str(self), f"cannot be used ({self.reason(error)})", REMEDY)) from None

    def reason(self, error: BaseException) -> str:
        """Return what the place answered, on one line, without credentials."""
        return one_line(self.redacted(getattr(error, "strerror", None) or error), 300)

    def _info(self, name: str) -> fs.FileInfo:
        system, root = self.opened
        return system.get_file_info(f"{root}/{name}")

    def _try(self, operation: Callable[[], T]) -> T:
        """Do an operation, again and again where waiting may help."""
        wait = FIRST_WAIT
        for left in reversed(range(_TRIES)):
            try:
                return operation()
            except (OSError, pa.ArrowException) as error:
                if not left or is_refusal(error):
                    raise
            time.sleep(random.uniform(0.5, 1.0) * wait)  # not all workers at the same moment
            wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("the last try returns or raises")


def is_refusal(error: BaseException) -> bool:
    """Return whether what a place answered stays so until a person acts: no right, no room, no such place."""
    if isinstance(error, pa.ArrowException) and not isinstance(error, OSError):
        return True
    number, text = getattr(error, "errno", None), str(error)
    if number is not None:
        return number not in _PASSING
    if isinstance(error, FileNotFoundError | PermissionError) or _REFUSED_WORDS.search(text):
        return True
    status = _STATUS.search(text)
    return status is not None and (status[1] == "507" or (status[1][0] == "4" and int(status[1]) not in _WAITING_HELPS))


def _write(file: Any, chunk: bytes, path: Path) -> None:
    """Write to a file here; what it raises names the file, as opening it does."""
    try:
        left = memoryview(chunk)
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _patient(address: str, region: str) -> fs.S3FileSystem:
    """Return S3 with time to answer: an address has no part for that."""
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query))
    named = {name: query[name] for name in ("scheme", "endpoint_override", "tls_ca_file_path") if name in query}
    allowed = ("allow_bucket_creation", "allow_bucket_deletion", "force_virtual_addressing", "background_writes")
    return fs.S3FileSystem(
        access_key=unquote(parts.username) if parts.username else None,
        secret_key=unquote(parts.password) if parts.password else None,
        region=region, connect_timeout=_CONNECT_SECONDS, request_timeout=_SILENT_SECONDS,
        allow_delayed_open=True, **named,  # a small file is one request, not three
        **{name: query[name].lower() in ("1", "true") for name in allowed if name in query},
    )  # fmt: skip

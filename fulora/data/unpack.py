"""Safe extraction of a downloaded archive: all of it or nothing.

In: a zip or a tar.xz, and a directory that does not exist. Out: the directory with the archive's files, as regular
files with this user's own permissions. Every member is checked before the first is written; one bad member refuses the
archive.
Source: the attacks that PEP 706 names, and those on zip files. tarfile's data filter and zipfile's own extraction are
not used: the filter accepts links, absolute paths, duplicates and archive bombs and finds a bad member only after
earlier ones are on the disk; zipfile renames a bad member and extracts it.
"""

from __future__ import annotations

import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from fulora.data.disk_space import check_disk_space, disk_fault, size_words
from fulora.data.download import TransferProgress
from fulora.data.listing import raise_capped
from fulora.errors import InputError, fault, one_line

ArchiveKind = Literal["zip", "tar.xz"]

MAX_EXPANSION = 10
"""Largest ratio of unpacked to packed size; images are compressed already, so theirs is about 1."""
SMALL_BYTES = 64 << 20
"""Unpacked size that is accepted of any archive, however small it is."""
MAX_MEMBERS = 100_000
"""Most members of an archive; the larger of the two sources has about 12 400."""

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # unsupported compression in a zip
    ValueError,  # numbers and names in headers
    struct.error,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of an archive."""

    name: str
    """Its path, as the archive has it."""
    size_bytes: int
    """Its unpacked size as the archive states it; no more is read."""
    is_folder: bool
    """Whether it is a directory."""
    refused: str
    """Why its type is refused (`is a symbolic link`); empty for regular files and directories."""
    open: Callable[[], IO[bytes] | None]
    """Opens its bytes."""

    @property
    def path(self) -> PurePosixPath:
        """Its path relative to the directory; `.` for the directory itself."""
        return PurePosixPath(self.name)


def unpack(archive: Path, kind: ArchiveKind, folder: Path, *, what: str, progress: TransferProgress) -> int:
    """Unpack an archive into a new directory and return the number of files.

    Raises InputError for an archive that is too large or has a member that is a link, a device, encrypted or a
    duplicate, or whose path is absolute or contains `..`: then nothing is written. Raises InputError too for an archive
    that is damaged and for a full disk: then the directory may be incomplete, and the caller removes it.
    """
    try:
        with _opened(archive, kind) as listed:
            members = check_members(
                listed, archive, limit_bytes=max(MAX_EXPANSION * archive.stat().st_size, SMALL_BYTES)
            )
            total = sum(member.size_bytes for member in members)
            check_disk_space(folder.parent, total, purpose=f"to unpack {archive}, which stays")
            return _write_all(members, folder, total, what=what, progress=progress)
    except InputError:
        raise
    except _DAMAGED as error:
        rule = f"cannot be unpacked ({one_line(error)})"
        raise InputError(fault("archive", str(archive), rule, "Delete it and run the command again.")) from error


def check_members(members: Iterable[Member], archive: Path, *, limit_bytes: int) -> list[Member]:
    """Return the members. Raises InputError with every refused member, or at the first one over a limit."""
    kept: list[Member] = []
    faults: list[str] = []
    files: set[PurePosixPath] = set()
    total = 0
    for member in members:
        kept.append(member)
        total += member.size_bytes
        if total > limit_bytes or len(kept) > MAX_MEMBERS:
            rule = f"unpacks to more than {size_words(limit_bytes)} or {MAX_MEMBERS} members, the limits"
            raise InputError(fault("archive", str(archive), rule, _LOOK))
        reason = member.refused or _path_fault(member) or ("occurs twice" if member.path in files else "")
        if reason:
            faults.append(fault(f"{archive} member", member.name, reason, _LOOK))
        if not member.is_folder:
            files.add(member.path)
    for member in kept:
        if any(parent in files for parent in member.path.parents) or (member.is_folder and member.path in files):
            faults.append(fault(f"{archive} member", member.name, "needs a directory where there is a file", _LOOK))
    raise_capped(faults)
    return kept


_LOOK = "Nothing was unpacked. Inspect the archive; delete it if it is malicious or damaged."


def _path_fault(member: Member) -> str:
    name = member.name
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "leads outside the directory"
    if "\\" in name or re.search(r"[\x00-\x1f]", name):
        return "has a backslash or a control character"
    return "" if member.is_folder or member.path.parts else "has no name"


def _write_all(members: Iterable[Member], folder: Path, total: int, *, what: str, progress: TransferProgress) -> int:
    num_files = done = 0
    target = folder
    try:
        folder.mkdir()
        for member in members:
            target = folder.joinpath(*member.path.parts)
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            done += _write(member, target)
            num_files += 1
            progress.moved(what, done, total)
    except OSError as error:
        raise disk_fault(target, error, stays="The extracted files are removed; the archive is kept.") from error
    return num_files


def _write(member: Member, target: Path) -> int:
    """Write one file, never over another, and return its size."""
    done = 0
    source = member.open()
    assert source is not None  # plain files only, by `refused`
    with source, open(target, "xb") as file:
        while block := source.read(1 << 20):
            done += file.write(block)
    if done != member.size_bytes:
        raise EOFError(f"{member.name} has {done} bytes, the archive says {member.size_bytes}")
    return done


@contextmanager
def _opened(archive: Path, kind: ArchiveKind) -> Iterator[Iterator[Member]]:
    if kind == "zip":
        with zipfile.ZipFile(archive) as zipped:
            yield (_zip_member(zipped, info) for info in zipped.infolist())
    else:
        with tarfile.open(archive, "r:xz") as tar:
            # One by one: reading stops at the limit, however much the tar would unpack to.
            yield (_tar_member(tar, info) for info in tar)


def _zip_member(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # the Unix mode, where the archiver wrote one
    refused = ""
    if stat.S_ISLNK(kind):
        refused = "is a symbolic link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        refused = "is neither a file nor a directory"
    elif info.flag_bits & 0x1:
        refused = "is encrypted"
    return Member(
        # orig_filename: `filename` is cut at a null byte, which would hide what follows.
        name=info.orig_filename,
        size_bytes=info.file_size,
        is_folder=info.is_dir(),
        refused=refused,
        open=lambda: zipped.open(info),
    )


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
    refused = ""
    if info.issym() or info.islnk():
        refused = f"is a {'symbolic' if info.issym() else 'hard'} link"
    elif not plain and not info.isdir():
        refused = "is neither a file nor a directory"
    return Member(
        name=info.name,
        size_bytes=info.size if plain else 0,
        is_folder=info.isdir(),
        refused=refused,
        open=lambda: tar.extractfile(info),
    )

"""An archive that is no good is refused whole, with nothing written outside and the download kept for a look."""

from __future__ import annotations

import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fulora.data.fetch import fetch
from fulora.data.unpack import SMALL_BYTES
from fulora.errors import InputError

from .source_archives import left_in, tar_of, tree, zip_of
from .zenodo_server import FAST


def tar_with(name: str, kind: bytes, target: str = "") -> bytes:
    """Return a good African tar.xz with one member more, of a kind of its own."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return tar_of(tree("african"), more=(info,))


def zip_with(info: zipfile.ZipInfo, content: bytes = b"../../outside") -> bytes:
    """Return a good Spanish zip with one member more."""
    out = io.BytesIO(zip_of(tree("spanish")))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(info, content)
    return out.getvalue()


def zip_entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def encrypted_zip() -> bytes:
    """Return a zip whose last member is marked as encrypted, in its own header and in the directory."""
    content = bytearray(zip_with(zip_entry("secret.png")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(mark) + offset] |= 1
    return bytes(content)


def with_warning(info: zipfile.ZipInfo) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zip_with(info)


EVIL: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "tar ..": ("african", lambda out: tar_of(tree("african") | {"../../out": b"x"}), "leads outside"),
    "tar absolute": ("african", lambda out: tar_of({"x": b"x"}, inside=f"{out}/"), "absolute path"),
    "tar symlink": ("african", lambda out: tar_with("Zenodo_dataset/link", tarfile.SYMTYPE, "/etc"), "symbolic link"),
    "tar hard link": ("african", lambda out: tar_with("hard", tarfile.LNKTYPE, "/etc/passwd"), "hard link"),
    "tar device": ("african", lambda out: tar_with("dev", tarfile.CHRTYPE), "neither a file nor a directory"),
    "tar pipe": ("african", lambda out: tar_with("pipe", tarfile.FIFOTYPE), "neither a file nor a directory"),
    "tar twice": (
        "african",
        lambda out: tar_of(tree("african") | {"./README.md": b"x"}),
        "occurs twice",
    ),
    "tar under a file": ("african", lambda out: tar_of(tree("african") | {"README.md/x": b"x"}), "needs a directory"),
    "zip ..": ("spanish", lambda out: zip_with(zip_entry("Images/../../out")), "leads outside"),
    "zip .. of Windows": ("spanish", lambda out: zip_with(zip_entry("Images\\..\\..\\out")), "leads outside"),
    "zip absolute": ("spanish", lambda out: zip_with(zip_entry(str(out))), "absolute path"),
    "zip drive": ("spanish", lambda out: zip_with(zip_entry("C:/out")), "absolute path"),
    "zip symlink": ("spanish", lambda out: zip_with(zip_entry("link", stat.S_IFLNK | 0o777)), "symbolic link"),
    "zip socket": (
        "spanish",
        lambda out: zip_with(zip_entry("s", stat.S_IFSOCK | 0o777)),
        "neither a file nor a directory",
    ),
    "zip twice": ("spanish", lambda out: with_warning(zip_entry("README.md")), "occurs twice"),
    "zip encrypted": ("spanish", lambda out: encrypted_zip(), "is encrypted"),
    "zip bomb": ("spanish", lambda out: zip_of({"zeros": bytes(SMALL_BYTES + 1)}), "unpacks to more than 67.1 MB"),
    "tar bomb": ("african", lambda out: tar_of({"zeros": bytes(SMALL_BYTES + 1)}), "unpacks to more than 67.1 MB"),
    "no zip": ("spanish", lambda out: b"x" * 3000, "cannot be unpacked"),
    "no tar": ("african", lambda out: lzma.compress(b"x" * 3000), "cannot be unpacked"),
    "half a tar.xz": ("african", lambda out: tar_of(tree("african"))[:-2000], "cannot be unpacked"),
    "no list": ("spanish", lambda out: zip_of({"Images/a.png": b"x" * 3000}), "holds 0 files FETAL_PLANES_DB_data.csv"),
    "two lists": (
        "african",
        lambda out: tar_of(tree("african") | {"old/African_planes_database.csv": b""}),
        "holds 2 files African_planes_database.csv",
    ),
}


@pytest.mark.parametrize("case", EVIL)
def test_an_archive_that_is_no_good_is_refused_whole(case, zenodo, tmp_path):
    source, make, words = EVIL[case]
    outside = tmp_path / "outside"
    zenodo.hold(source, make(outside))
    to = tmp_path / "in" / "here"
    with pytest.raises(InputError, match=words) as error:
        fetch(source, to, api=zenodo.api, waits=FAST)
    (kept,) = left_in(to)
    assert kept.endswith(".part") and kept in str(error.value)  # the download, for a look; and said
    assert left_in(tmp_path) == ["in"] and left_in(tmp_path / "in") == ["here"]

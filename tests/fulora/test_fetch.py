"""Fetching the published sources from a server on this machine that plays Zenodo's record API, and misbehaves."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import lzma
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.cli import Fetch
from fulora.data.fetch import API, MARKER_NAME, RECORDS, Fetched, fetch, read_record
from fulora.data.sources import read_source
from fulora.data.unpack import SMALL_BYTES
from fulora.errors import InputError

SOURCES = ("spanish", "african")
FAST = (0.01, 0.01, 0.01)
"""Waits between tries, for a server beside us."""


@dataclass
class Zenodo:
    """A server that plays the record API: what it holds, how it misbehaves, what it was asked."""

    files: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    """Record number to the name and bytes of its one file."""
    says: dict[int, object] = field(default_factory=dict)
    """Record number to an answer sent in place of the true one."""
    checksum: str = ""
    """Stated in place of the true one."""
    size_bytes: int = 0
    """Stated in place of the true one."""
    ranges: bool = True
    """Whether it sends parts."""
    cuts: list[int] = field(default_factory=list)
    """For each request of a file, in order: bytes after which the connection is dropped."""
    statuses: list[int] = field(default_factory=list)
    """For each request of a file, in order, before any is answered: a refusal."""
    stall: threading.Event | None = None
    """Waited for once, at half of a file."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of every request."""
    sent_bytes: int = 0
    """Bytes of files that were sent."""
    address: str = ""

    @property
    def api(self) -> str:
        return f"{self.address}/api/records"

    def hold(self, source: str, content: bytes) -> None:
        name = {"spanish": "FETAL_PLANES_ZENODO.zip", "african": "Zenodo_dataset.tar.xz"}[source]
        self.files[RECORDS[source].record] = (name, content)

    def record(self, number: int) -> object:
        """Return the answer for a record, in the form that Zenodo's has; of its many fields, those near `files`."""
        name, content = self.files[number]
        return {
            "id": number,
            "status": "published",
            "links": {"self": f"{self.api}/{number}"},
            "files": [
                {
                    "id": "ca3799c8-b6a7-411b-8041-604b19b684b5",
                    "key": name,
                    "size": self.size_bytes or len(content),
                    "checksum": self.checksum or f"md5:{hashlib.md5(content).hexdigest()}",
                    "links": {"self": f"{self.api}/{number}/files/{name}/content"},
                }
            ],
        }


def handler_of(zenodo: Zenodo) -> type[BaseHTTPRequestHandler]:
    """Return the class of the server's answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            zenodo.asked.append((self.path, self.headers.get("Range", "")))
            assert self.headers["User-Agent"].startswith("fulora/")
            number = int(self.path.split("/")[3])
            if number not in self.files_and_answers():
                self.answer(404, b'{"status": 404}')
            elif self.path.endswith("/content"):
                self.send_file(zenodo.files[number][1])
            else:
                said = zenodo.says.get(number)
                self.answer(
                    200, said if isinstance(said, bytes) else json.dumps(said or zenodo.record(number)).encode()
                )

        def files_and_answers(self) -> set[int]:
            return {*zenodo.files, *zenodo.says}

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_file(self, content: bytes) -> None:
            if zenodo.statuses:
                self.answer(zenodo.statuses.pop(0), b"")
                return
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if zenodo.ranges else None
            first = int(found[1]) if found else 0
            if first >= len(content):
                self.answer(416, b"")
                return
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            end = min(first + zenodo.cuts.pop(0), len(content)) if zenodo.cuts else len(content)
            if zenodo.stall and not zenodo.stall.is_set():
                half = (first + end) // 2
                self.send_part(content[first:half])
                zenodo.stall.wait(30)
                first = half
            self.send_part(content[first:end])
            if end < len(content):
                self.close_connection = True

        def send_part(self, part: bytes) -> None:
            zenodo.sent_bytes += len(part)  # first: whoever asked may be done before the next line here
            try:
                self.wfile.write(part)
                self.wfile.flush()
            except OSError:  # the one who asked is gone
                self.close_connection = True

    return Handler


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    """Give a running server; no proxy of this machine comes between."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    zenodo = Zenodo()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(zenodo))
    server.daemon_threads = True
    zenodo.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield zenodo
    if zenodo.stall:
        zenodo.stall.set()
    server.shutdown()
    thread.join()
    server.server_close()


def png(number: int, side_px: int = 96) -> bytes:
    """Return a PNG of noise, which does not compress."""
    noise = np.random.default_rng(number).integers(0, 256, (side_px, side_px), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


def tree(source: str, num_images: int = 6) -> dict[str, bytes]:
    """Return the files of a small source in its published layout, by path."""
    planes = ("Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax")
    rows, files = [], {}
    for number in range(num_images):
        plane = planes[number % 4]
        if source == "spanish":
            name = f"Patient{number:05d}_Plane1_1_of_1"
            rows.append(f"{name};{number};{plane};Not A Brain;Op. 1;Aloka;{number % 2}")
            files[f"Images/{name}.png"] = png(number)
        else:
            name = f"patient{number:03d}_plane{number % 4}"
            country = ("Ghana", "Malawi")[number % 2]
            rows.append(f"{number},{plane},{number % 2},{country},{name}")
            files[f"{country}/{name}.png"] = png(number)
    header = {
        "spanish": "Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train ",
        "african": "Patient_num,Plane,Train,Center,Filename",
    }[source]
    name = {"spanish": "FETAL_PLANES_DB_data.csv", "african": "African_planes_database.csv"}[source]
    return {"README.md": b"CC BY 4.0", name: "\n".join([header, *rows, ""]).encode(), **files}


def zip_of(files: dict[str, bytes], *, inside: str = "") -> bytes:
    """Return a zip, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return out.getvalue()


def tar_of(
    files: dict[str, bytes], *, inside: str = "Zenodo_dataset/", more: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    """Return a tar.xz, as published: in a folder of its own; `more` are members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(inside + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return out.getvalue()


PACK: dict[str, Callable[[dict[str, bytes]], bytes]] = {"spanish": zip_of, "african": tar_of}


def left_in(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def command(zenodo: Zenodo, to: Path, *sources: str) -> list[str]:
    """Return the command line."""
    program = "from fulora.cli import main; main()"
    return [sys.executable, "-c", program, "fetch", *sources, "--to", str(to), "--api", zenodo.api]


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_fetched_read_and_not_fetched_again(source, zenodo, tmp_path):
    files = tree(source)
    zenodo.hold(source, PACK[source](files))
    done = fetch(source, tmp_path, api=zenodo.api, waits=FAST)
    folder = tmp_path / source
    assert done == Fetched(folder=folder, was_there=False, num_files=len(files))
    assert [record.image_id.split("/")[0] for record in read_source(folder, source=source)] == [source] * 6
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    marker = json.loads(found.pop(MARKER_NAME))
    assert found == files
    content = zenodo.files[RECORDS[source].record][1]
    assert (marker["record"], marker["size_bytes"]) == (RECORDS[source].record, len(content))
    assert marker["checksum"] == f"md5:{hashlib.md5(content).hexdigest()}"
    assert left_in(tmp_path) == [source]  # neither the archive nor anything half-made
    assert zenodo.asked == [
        (f"/api/records/{marker['record']}", ""),
        (f"/api/records/{marker['record']}/files/{marker['file']}/content", ""),
    ]
    again = fetch(source, tmp_path, api=zenodo.api, waits=FAST)
    assert again == Fetched(folder=folder, was_there=True, num_files=len(files))
    assert len(zenodo.asked) == 2


@pytest.mark.parametrize("source", SOURCES)
def test_the_layout_is_found_a_folder_deeper_or_not(source, zenodo, tmp_path):
    pack = {
        "spanish": lambda files: zip_of(files, inside="a/FETAL_PLANES/"),
        "african": lambda files: tar_of(files, inside="./"),
    }[source]
    zenodo.hold(source, pack(tree(source)))
    fetch(source, tmp_path, api=zenodo.api, waits=FAST)
    assert len(read_source(tmp_path / source, source=source)) == 6
    assert left_in(tmp_path) == [source]


def test_a_cut_connection_goes_on_where_it_was_cut(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    zenodo.cuts = [10_000, 5_000]
    said: list[str] = []
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST, progress=Noted(said))
    assert [part for _, part in zenodo.asked[1:]] == ["", "bytes=10000-", "bytes=15000-"]
    assert zenodo.sent_bytes == len(content)  # no byte twice
    assert sum("trying again" in text for text in said) == 2
    assert len(read_source(tmp_path / "spanish", source="spanish")) == 6


class Noted:
    """Keeps what is said."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def say(self, text: str) -> None:
        self.said.append(text)

    def moved(self, what: str, done_bytes: int, total_bytes: int) -> None:
        assert 0 <= done_bytes <= total_bytes


def test_a_line_that_is_cut_again_and_again_ends_in_words_and_the_next_call_goes_on(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    zenodo.cuts = [1000] * 4
    with pytest.raises(InputError, match=r"failed 4 times.*same command goes on from there") as error:
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    (part,) = tmp_path.iterdir()
    assert str(part) in str(error.value)
    assert part.read_bytes() == content[:4000]
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert zenodo.sent_bytes == len(content)
    assert left_in(tmp_path) == ["spanish"]


def test_a_server_without_ranges_is_read_from_the_start(zenodo, tmp_path):
    content = tar_of(tree("african"))
    zenodo.hold("african", content)
    zenodo.ranges, zenodo.cuts = False, [10_000]
    fetch("african", tmp_path, api=zenodo.api, waits=FAST)
    assert zenodo.asked[-1][1] == "bytes=10000-"
    assert zenodo.sent_bytes == 10_000 + len(content)
    assert len(read_source(tmp_path / "african", source="african")) == 6


@pytest.mark.parametrize(("statuses", "num_requests"), [([503, 429], 3), ([416], 2)])
def test_a_busy_server_is_asked_again(statuses, num_requests, zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.statuses = statuses
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert len(zenodo.asked) == 1 + num_requests


def test_a_server_that_does_not_know_the_rest_starts_over(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    zenodo.cuts = [9000] * 4
    with pytest.raises(InputError, match="failed 4 times"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    zenodo.statuses, zenodo.asked = [416], []
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert [part for _, part in zenodo.asked[1:]] == ["bytes=36000-", ""]


def test_a_wrong_checksum_leaves_nothing(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.checksum = "md5:" + "0" * 32
    with pytest.raises(InputError, match=r"md5 is not the record's 0{32}.*download was deleted"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert left_in(tmp_path) == []


def test_parts_of_two_files_are_never_put_together(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish", num_images=8)))
    zenodo.cuts = [10_000] * 4
    with pytest.raises(InputError, match="failed 4 times"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    zenodo.hold("spanish", zip_of(tree("spanish", num_images=12)))
    zenodo.asked = []
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert [part for _, part in zenodo.asked] == ["", ""]
    assert left_in(tmp_path) == ["spanish"]
    assert len(read_source(tmp_path / "spanish", source="spanish")) == 12


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>maintenance</html>", "something else than JSON"),
        ({"id": 3904280, "metadata": {"access_right": "closed"}}, r"names 0 files \*\.zip"),
        ({"files": [{"key": "a.zip", "size": 5, "links": {"self": "http://h/a"}}]}, r"names 0 files"),
        (
            {"files": [{"key": "a.zip", "size": 5, "checksum": "md5:12", "links": {"self": "http://h"}}]},
            "names 0 files",
        ),
        (
            {"files": [{"key": "a.zip", "size": 5, "checksum": "md5:" + "0" * 32, "links": {"self": "file:///etc/x"}}]},
            "gives the address 'file:///etc/x'",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_named(answer, words, zenodo, tmp_path):
    zenodo.says[3904280] = answer
    with pytest.raises(InputError, match=words):
        read_record("spanish", api=zenodo.api, waits=FAST)


def test_no_record_and_no_server_are_said(zenodo, tmp_path):
    with pytest.raises(InputError, match="HTTP 404"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    with pytest.raises(InputError, match=r"failed 4 times, last: .*refused"):
        fetch("spanish", tmp_path, api="http://127.0.0.1:9/api/records", waits=FAST)
    with pytest.raises(InputError, match="no http address"):
        fetch("spanish", tmp_path, api=str(tmp_path), waits=FAST)
    assert left_in(tmp_path) == []
    assert Fetch(sources=("spanish",), to=tmp_path).api == API


def test_a_file_of_another_size_than_the_record_says_is_refused(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.size_bytes = 5000
    with pytest.raises(InputError, match=r"has a file of \d+ bytes, the record says 5000"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)


def test_too_little_room_is_said_before_anything_is_downloaded(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.size_bytes = 10**17
    with pytest.raises(InputError, match=r"GB free, 250000000\.00 GB are needed to download and unpack"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert len(zenodo.asked) == 1 and left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("marker", "name"),
    [
        ("", "FETAL_PLANES_DB_data.csv"),
        ("{}", "FETAL_PLANES_DB_data.csv"),
        ('{"record": 7540448, "num_files": 3}', "FETAL_PLANES_DB_data.csv"),
        ('{"record": 3904280, "num_files": 3}', "no_list.txt"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(marker, name, zenodo, tmp_path):
    mine = tmp_path / "spanish" / name
    mine.parent.mkdir()
    mine.write_text("x")
    if marker:
        (mine.parent / MARKER_NAME).write_text(marker)
    with pytest.raises(InputError, match="did not put there"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert mine.read_text() == "x" and zenodo.asked == []


def test_two_commands_do_not_write_to_one_download(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    part = tmp_path / f".spanish-{hashlib.md5(content).hexdigest()[:12]}.zip.part"
    with open(part, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="being written by another command"):
            fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert left_in(tmp_path) == ["spanish"]


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
    "tar ..": ("african", lambda out: tar_of(tree("african") | {"../../out": b"x"}), "leads out"),
    "tar absolute": ("african", lambda out: tar_of({"x": b"x"}, inside=f"{out}/"), "absolute path"),
    "tar symlink": ("african", lambda out: tar_with("Zenodo_dataset/link", tarfile.SYMTYPE, "/etc"), "symbolic link"),
    "tar hard link": ("african", lambda out: tar_with("hard", tarfile.LNKTYPE, "/etc/passwd"), "hard link"),
    "tar device": ("african", lambda out: tar_with("dev", tarfile.CHRTYPE), "neither a file nor a folder"),
    "tar pipe": ("african", lambda out: tar_with("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
    "tar twice": (
        "african",
        lambda out: tar_of(tree("african") | {"./README.md": b"x"}),
        "is there twice",
    ),
    "tar under a file": ("african", lambda out: tar_of(tree("african") | {"README.md/x": b"x"}), "needs a folder"),
    "zip ..": ("spanish", lambda out: zip_with(zip_entry("Images/../../out")), "leads out"),
    "zip .. of Windows": ("spanish", lambda out: zip_with(zip_entry("Images\\..\\..\\out")), "leads out"),
    "zip absolute": ("spanish", lambda out: zip_with(zip_entry(str(out))), "absolute path"),
    "zip drive": ("spanish", lambda out: zip_with(zip_entry("C:/out")), "absolute path"),
    "zip symlink": ("spanish", lambda out: zip_with(zip_entry("link", stat.S_IFLNK | 0o777)), "symbolic link"),
    "zip socket": (
        "spanish",
        lambda out: zip_with(zip_entry("s", stat.S_IFSOCK | 0o777)),
        "neither a file nor a folder",
    ),
    "zip twice": ("spanish", lambda out: with_warning(zip_entry("README.md")), "is there twice"),
    "zip encrypted": ("spanish", lambda out: encrypted_zip(), "is encrypted"),
    "zip bomb": ("spanish", lambda out: zip_of({"zeros": bytes(SMALL_BYTES + 1)}), "unpacks to more than 67.1 MB"),
    "tar bomb": ("african", lambda out: tar_of({"zeros": bytes(SMALL_BYTES + 1)}), "unpacks to more than 67.1 MB"),
    "no zip": ("spanish", lambda out: b"x" * 3000, "cannot be unpacked"),
    "no tar": ("african", lambda out: lzma.compress(b"x" * 3000), "cannot be unpacked"),
    "half a tar.xz": ("african", lambda out: tar_of(tree("african"))[:-2000], "cannot be unpacked"),
    "no list": ("spanish", lambda out: zip_of({"Images/a.png": png(0)}), "holds 0 files FETAL_PLANES_DB_data.csv"),
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


def test_a_killed_command_goes_on_in_the_next(zenodo, tmp_path):
    content = zip_of(tree("spanish", num_images=30))
    zenodo.hold("spanish", content)
    zenodo.stall = threading.Event()
    half = len(content) // 2
    process = subprocess.Popen(command(zenodo, tmp_path, "spanish"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while sum(path.stat().st_size for path in tmp_path.iterdir()) < half and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == content[:half]
    zenodo.stall.set()
    zenodo.asked = []
    done = run(command(zenodo, tmp_path, "spanish"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'spanish'}\n"
    assert zenodo.asked[1][1] == f"bytes={half}-"
    assert "unpacked, checked and complete; the archive is deleted: 32 files" in done.stderr
    assert len(read_source(tmp_path / "spanish", source="spanish")) == 30
    assert "already there" in run(command(zenodo, tmp_path, "spanish")).stderr


def limited(num_bytes: int) -> Callable[[], None]:
    """Return what makes a process's system refuse files over a size."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_disk_that_refuses_the_download_keeps_what_is_there(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    done = run(command(zenodo, tmp_path, "spanish"), preexec_fn=limited(20_000))
    assert done.returncode == 2
    assert "has no room left (File too large)" in done.stderr and "goes on from there" in done.stderr
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == content[:20_000]
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert zenodo.asked[-1][1] == "bytes=20000-"


def test_a_disk_that_refuses_the_unpacking_leaves_the_archive_alone(zenodo, tmp_path):
    source = "african"
    content = tar_of(tree(source) | {"zeros.bin": bytes(1_000_000)})
    zenodo.hold(source, content)
    done = run(command(zenodo, tmp_path, source), preexec_fn=limited(500_000))
    assert done.returncode == 2
    assert "has no room left (File too large)" in done.stderr and "the archive does" in done.stderr
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == content
    zenodo.asked = []
    fetch(source, tmp_path, api=zenodo.api, waits=FAST)
    assert len(zenodo.asked) == 1  # the record; the archive was here
    assert len(read_source(tmp_path / source, source=source)) == 6


def in_small_disk(folder: Path, options: str, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script with `folder` on a disk in memory, in mounts of its own; skip where that is not allowed."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o {options} none "{folder}"'
    if not shutil.which("unshare") or run([*unshare, mount]).returncode:
        pytest.skip("this system lets no user mount a small disk")
    return run([*unshare, f"{mount} && {script}", "sh", *words])


def test_a_full_disk_while_downloading(zenodo, tmp_path):
    disk, flag = tmp_path / "disk", tmp_path / "full"
    disk.mkdir()
    zenodo.hold("spanish", zip_of(tree("spanish", num_images=30)))
    zenodo.stall = threading.Event()
    threading.Thread(target=_set_when_there, args=(flag, zenodo.stall), daemon=True).start()
    # The other half arrives when something else has filled the disk.
    script = (
        f'("$@"; echo code $?) & until [ -s "{disk}"/.spanish-*.part ]; do sleep 0.05; done; sleep 0.3; '
        f'cat /dev/zero > "{disk}/filler"; touch "{flag}"; wait; ls -A "{disk}"'
    )
    done = in_small_disk(disk, "size=4m", script, *command(zenodo, disk, "spanish"))
    assert "has no room left (No space left on device)" in done.stderr and "goes on from there" in done.stderr
    code, part, filler = done.stdout.split("\n")[:3]
    assert (code, filler) == ("code 2", "filler") and part.startswith(".spanish-")


def _set_when_there(flag: Path, event: threading.Event) -> None:
    deadline = time.monotonic() + 30
    while not flag.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    event.set()


def test_a_full_disk_while_unpacking(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish", num_images=30)))
    # Room for twenty files: no byte is missing, as the check before could see.
    done = in_small_disk(
        tmp_path,
        "size=8m,nr_inodes=20",
        f'"$@"; echo code $?; ls -A "{tmp_path}"',
        *command(zenodo, tmp_path, "spanish"),
    )
    assert "has no room left (No space left on device)" in done.stderr
    code, part, end = done.stdout.split("\n")
    assert code == "code 2" and part.startswith(".spanish-") and end == ""


def test_too_little_room_for_what_the_archive_holds(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish") | {"zeros.bin": bytes(10_000_000)}))
    words = command(zenodo, tmp_path, "spanish")
    done = in_small_disk(tmp_path, "size=4m", f'"$@"; echo code $?; ls -A "{tmp_path}"', *words)
    assert re.search(r"4\.\d MB free, 10\.1 MB are needed to unpack", done.stderr), done.stderr
    assert done.stdout.startswith("code 2\n.spanish-")


def test_one_source_that_fails_does_not_undo_the_other(zenodo, tmp_path):
    zenodo.hold("african", tar_of(tree("african")))
    done = run(command(zenodo, tmp_path, "spanish", "african"))
    assert done.returncode == 2
    assert done.stdout == f"{tmp_path / 'african'}\n"
    assert "fulora: spanish: address: " in done.stderr and "HTTP 404" in done.stderr
    assert left_in(tmp_path) == ["african"]
    begun = [line.rsplit(":", 1)[0].strip() for line in done.stderr.splitlines()[1:4]]
    assert begun == ["african: download", "african: check", "african: unpack"]


def test_a_terminal_gets_a_bar(zenodo, tmp_path):
    zenodo.hold("african", tar_of(tree("african")))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command(zenodo, tmp_path, "african"), stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while block := os.read(ours, 4096):
            seen += block
    except OSError:  # how a terminal says that its last user is gone
        pass
    os.close(ours)
    assert process.wait() == 0
    assert left_in(tmp_path) == ["african"]
    assert b"\x1b[" in seen and "━" in seen.decode(errors="replace") and b"african: download" in seen

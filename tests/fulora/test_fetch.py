"""Fetching the published sources from a server on this machine that plays Zenodo's record API."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import subprocess

import pytest

from fulora.cli import Fetch
from fulora.data.fetch import API, MARKER_NAME, RECORDS, Fetched, fetch, read_record
from fulora.data.sources import read_source
from fulora.errors import InputError

from .source_archives import PACK, SOURCES, left_in, tar_of, tree, zip_of
from .zenodo_server import FAST, command, run


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


def test_a_wrong_checksum_leaves_nothing(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.checksum = "md5:" + "0" * 32
    with pytest.raises(InputError, match=r"md5 is not the record's 0{32}.*download was deleted"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>maintenance</html>", "does not answer with JSON"),
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
    with pytest.raises(InputError, match="not an http address"):
        fetch("spanish", tmp_path, api=str(tmp_path), waits=FAST)
    assert left_in(tmp_path) == []
    assert Fetch(sources=("spanish",), to=tmp_path).api == API


def test_a_file_of_another_size_than_the_record_says_is_refused(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.size_bytes = 5000
    with pytest.raises(InputError, match=r"has a file of \d+ bytes, the record says 5000"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)


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
    with pytest.raises(InputError, match="did not write"):
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

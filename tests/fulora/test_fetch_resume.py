"""A download that is cut off goes on where it was cut, in the same call and in the next."""

from __future__ import annotations

import signal
import subprocess
import threading
import time

import pytest

from fulora.data.fetch import fetch
from fulora.data.sources import read_source
from fulora.errors import InputError

from .source_archives import left_in, tar_of, tree, zip_of
from .zenodo_server import FAST, Noted, command, run


def test_a_cut_connection_goes_on_where_it_was_cut(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    zenodo.cuts = [10_000, 5_000]
    said: list[str] = []
    fetch("spanish", tmp_path, api=zenodo.api, waits=FAST, progress=Noted(said))
    assert [part for _, part in zenodo.asked[1:]] == ["", "bytes=10000-", "bytes=15000-"]
    assert zenodo.sent_bytes == len(content)  # no byte twice
    assert sum("retrying" in text for text in said) == 2
    assert len(read_source(tmp_path / "spanish", source="spanish")) == 6


def test_a_line_that_is_cut_again_and_again_ends_in_words_and_the_next_call_goes_on(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    zenodo.cuts = [1000] * 4
    with pytest.raises(InputError, match=r"failed 4 times.*same command again to resume") as error:
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
    assert "unpacked, verified and complete; archive deleted: 32 files" in done.stderr
    assert len(read_source(tmp_path / "spanish", source="spanish")) == 30
    assert "already complete" in run(command(zenodo, tmp_path, "spanish")).stderr

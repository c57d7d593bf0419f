"""A disk that is full or refuses: said in words, and what is there stays."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fulora.data.fetch import fetch
from fulora.data.sources import read_source
from fulora.errors import InputError

from .source_archives import left_in, tar_of, tree, zip_of
from .zenodo_server import FAST, command, run


def limited(num_bytes: int) -> Callable[[], None]:
    """Return what makes a process's system refuse files over a size."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_disk_that_refuses_the_download_keeps_what_is_there(zenodo, tmp_path):
    content = zip_of(tree("spanish"))
    zenodo.hold("spanish", content)
    done = run(command(zenodo, tmp_path, "spanish"), preexec_fn=limited(20_000))
    assert done.returncode == 2
    assert "has no space left (File too large)" in done.stderr and "same command again to resume" in done.stderr
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
    assert "has no space left (File too large)" in done.stderr and "the archive is kept" in done.stderr
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == content
    zenodo.asked = []
    fetch(source, tmp_path, api=zenodo.api, waits=FAST)
    assert len(zenodo.asked) == 1  # the record; the archive was here
    assert len(read_source(tmp_path / source, source=source)) == 6


def test_too_little_room_is_said_before_anything_is_downloaded(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish")))
    zenodo.size_bytes = 10**17
    with pytest.raises(InputError, match=r"GB free, 250000000\.00 GB are needed to download and unpack"):
        fetch("spanish", tmp_path, api=zenodo.api, waits=FAST)
    assert len(zenodo.asked) == 1 and left_in(tmp_path) == []


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
    assert (
        "has no space left (No space left on device)" in done.stderr and "same command again to resume" in done.stderr
    )
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
    assert "has no space left (No space left on device)" in done.stderr
    code, part, end = done.stdout.split("\n")
    assert code == "code 2" and part.startswith(".spanish-") and end == ""


def test_too_little_room_for_what_the_archive_holds(zenodo, tmp_path):
    zenodo.hold("spanish", zip_of(tree("spanish") | {"zeros.bin": bytes(10_000_000)}))
    words = command(zenodo, tmp_path, "spanish")
    done = in_small_disk(tmp_path, "size=4m", f'"$@"; echo code $?; ls -A "{tmp_path}"', *words)
    assert re.search(r"4\.\d MB free, 10\.1 MB are needed to unpack", done.stderr), done.stderr
    assert done.stdout.startswith("code 2\n.spanish-")

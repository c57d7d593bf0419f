"""A node's own copy of what its steps read: once for all its processes, held to a size, whole; whose it may be."""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from fulora.errors import InputError
from sweeps.core.cache import Cache, open_cache
from sweeps.core.mirror import Mirror, store_of
from sweeps.core.named_locks import NamedLocks
from sweeps.core.step import Step
from sweeps.core.store import Damaged
from sweeps.engine.in_process import InProcess

from .nodes import do, node_of, over, storage


def test_a_full_disk_is_the_storages_or_the_nodes_own(tmp_path: Path) -> None:
    bench = over(tmp_path, str(tmp_path / "storage"))
    step, cache = bench.fake("one"), open_cache(tmp_path / "node", storage(bench), 10**9, {})
    assert do(step, cache).status == "SUCCEEDED"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    other = open_cache(tmp_path / "other", storage(bench), 10**9, {})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        with pytest.raises(InputError, match=r"storage: .*File too large"):
            storage(bench).check()
        with pytest.raises(OSError, match="File too large") as raised:
            other.done(step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "other") in str(raised.value), "the node's disk is named, not the storage"
    assert other.done(step) is not None


def test_the_cache_keeps_to_its_size_and_never_removes_what_is_in_use(tmp_path: Path) -> None:
    bench = over(tmp_path, str(tmp_path / "storage"))
    steps = [bench.fake(f"step-{i}") for i in range(4)]
    bench.do(InProcess(), *steps)
    one = _bytes(bench.store.folder(steps[0]))
    cache = open_cache(tmp_path / "node", storage(bench), int(1.9 * one), {})

    def held() -> list[str]:
        return sorted(step.label for step in steps if cache.folder(step).exists())

    def use(step: Step, *others: Step) -> None:
        process = pickle.loads(pickle.dumps(cache))
        with process.working(step):
            for other in (step, *others):
                assert process.done(other) is not None

    for step, at in zip(steps[:2], (100, 200), strict=True):
        use(step)
        os.utime(cache.folder(step), (at, at))
    assert held() == ["step-0", "step-1"]
    use(steps[0])
    use(steps[2])
    assert held() == ["step-0", "step-2"], "the one used longest ago went"
    use(steps[0], *steps)
    assert held() == ["step-0", "step-1", "step-2", "step-3"], "what a step at work reads stays, whatever the limit"
    new = bench.fake("new")
    assert do(new, pickle.loads(pickle.dumps(cache))).status == "SUCCEEDED"
    assert held() == [] and cache.folder(new).exists(), "once it ended, they made room"


def test_a_step_that_reads_thousands_of_others_opens_one_file_for_its_locks(tmp_path: Path) -> None:
    locks, others = NamedLocks(tmp_path / "locks"), NamedLocks(tmp_path / "locks")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3000):
        locks.hold(str(number))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    others.hold("7")
    locks.release()
    with others.unheld("7") as seven, others.unheld("8") as eight, others.unheld("8") as again:
        assert (seven, eight, again) == (False, True, False)


def test_a_node_takes_back_whole_what_was_damaged_in_its_cache(tmp_path: Path) -> None:
    bench = over(tmp_path, str(tmp_path / "storage"))
    step = bench.fake("one")
    bench.do(InProcess(), step)
    cache = open_cache(tmp_path / "node", storage(bench), 10**9, {})
    assert cache.done(step) is not None
    (cache.folder(step) / "names.txt").write_text("two\n")
    assert cache.done(step) is not None and (cache.folder(step) / "names.txt").read_text() == "one\n"
    (bench.store.folder(step) / "names.txt").write_text("two\n")
    said: list[str] = []
    bench.store = replace(bench.store, say=said.append)
    assert bench.names(step) == ["one"], "and so does the run's folder"
    assert len(said) == 1 and said[0].startswith("damaged, fetched again: trial 'one': trial/"), said


def test_images_and_weights_come_to_a_node_by_their_content(tmp_path: Path) -> None:
    bench = over(tmp_path, str(tmp_path / "storage"))
    base = tmp_path / "driver" / "base"
    (base / "unet").mkdir(parents=True)
    (base / "unet" / "weights").write_bytes(b"weights")
    step = bench.fake("one", raises=str(base))  # a configuration that names it
    assert isinstance(bench.store, Mirror)
    bench.store.ship([step])
    asked = bench.store.for_nodes()
    assert set(asked.inputs) == {str(base), str(bench.diary)}
    cache = node_of(asked, tmp_path / "node")
    place = Path(cache.local(str(base)))
    assert place.name == "base" and (place / "unet" / "weights").read_bytes() == b"weights"
    assert place.is_relative_to(tmp_path / "node") and cache.local("tiny") == "tiny"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    (image,) = cache.images([("/data/image.png", sha256)])
    assert Path(image).read_bytes() == b"weights"
    Path(image).write_bytes(b"altered")
    assert Path(cache.images([("/data/image.png", sha256)])[0]).read_bytes() == b"weights"
    with pytest.raises(Damaged, match="is not whole in"):
        cache.images([("/data/other.png", "0" * 64)])


def test_a_cache_of_another_user_and_a_storage_in_the_run_are_refused(tmp_path: Path, monkeypatch) -> None:
    bench = over(tmp_path, str(tmp_path / "storage"))
    cache: Cache = bench.store.for_nodes()  # type: ignore[attr-defined]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = pickle.loads(pickle.dumps(cache))
    assert cache.root.parent == tmp_path, "a node's own folder for temporary files"
    cache.check()
    assert cache.root.stat().st_mode & 0o077 == 0
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(InputError, match=r"cache: .* is another user's"):
        cache.check()
    for inside in ("run", "run/storage", "."):
        with pytest.raises(InputError, match=r"storage: .* Give --storage a directory of its own"):
            store_of(tmp_path / "run", storage=str(tmp_path / inside), cache=None, cache_gb=1)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

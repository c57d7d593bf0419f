"""Steps kept by content for nodes that share no disk: a folder or S3, two caches, damage, limits, checkpoints."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fulora.errors import InputError
from sweeps.core.cache import open_cache
from sweeps.core.step import Step
from sweeps.core.storage import StorageRefused
from sweeps.engine.in_process import InProcess

from ..engine.fake_steps import TABLE, Bench, entries
from ..s3_server import LoopbackS3
from .nodes import COUNT, FAILS, Counting, TwoNodes, do, node_of, over, storage


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty storage of each sort."""
    return str(tmp_path / "storage") if request.param == "folder" else request.getfixturevalue("server").address()


@pytest.fixture
def bench(tmp_path: Path, address: str) -> Bench:
    """Return a run's folder over a storage, a log and a diary."""
    return over(tmp_path, address)


def graph(bench: Bench) -> list[Step]:
    """Return steps that need each other."""
    source = bench.fake("source", kind=TABLE)
    trials = [bench.fake(f"trial-{i}", source) for i in range(4)]
    return [source, *trials, bench.fake("table", *trials, kind=TABLE)]


def objects(bench: Bench) -> list[str]:
    """Return the names of the objects in the storage."""
    return storage(bench).remote.names("objects", recursive=True)


def test_nodes_that_do_not_see_the_runs_folder_fill_it(bench: Bench, tmp_path: Path) -> None:
    steps, nodes = graph(bench), TwoNodes(tmp_path, hidden=[tmp_path / "run"])
    (tmp_path / "run").mkdir()
    bench.do(nodes, *steps)
    assert bench.rows() == {step.label: ["SUCCEEDED"] for step in steps}
    assert {node for _, node in nodes.did} == {0, 1}
    assert bench.names(steps[-1]) == ["source", "table", "trial-0", "trial-1", "trial-2", "trial-3"]
    fresh = over(tmp_path / "fresh", storage(bench).remote.address)
    assert [fresh.names(step) for step in steps] == [bench.names(step) for step in steps], "another run finds all"
    assert not storage(bench).remote.names("scratch", recursive=True)


def test_a_node_fetches_what_it_lacks_once_for_all_its_processes(server: LoopbackS3, tmp_path: Path) -> None:
    bench = over(tmp_path, server.address())
    steps = graph(bench)
    bench.do(InProcess(), *steps)
    asked = bench.store.for_nodes()  # type: ignore[attr-defined]
    server.asked.clear()
    processes = [pickle.loads(pickle.dumps(node_of(asked, tmp_path / "node"))) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda cache: cache.done(steps[1]), processes))
    assert len({record.seconds for record in records if record is not None}) == 1
    assert len([path for method, path in server.asked if method == "GET" and "objects/" in path]) == 1
    server.asked.clear()
    assert processes[0].done(steps[1]) == records[0] and server.asked == [], "nothing is asked for what is here"


WAYS = {
    "missing": lambda data: None,
    "half": lambda data: data[: len(data) // 2],
    "altered": lambda data: bytes(255 - byte for byte in data),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_object_that_is_not_what_its_name_says_is_put_back_or_made_again(
    bench: Bench, tmp_path: Path, way: str
) -> None:
    source, *_, table = steps = graph(bench)
    nodes, there = TwoNodes(tmp_path), storage(bench).remote

    def spoil() -> None:
        for name in objects(bench):
            content = WAYS[way](there.get(name) or b"")
            there.delete([name])
            if content is not None:
                there.put(name, content)

    bench.do(nodes, source)
    spoil()
    bench.do(nodes, *steps[1:])  # the driver has the source whole and puts it back
    rows = bench.rows()
    assert rows["source"] == ["SUCCEEDED"] and rows["table"] == ["SUCCEEDED"]
    assert {status for label in rows for status in rows[label]} == {"FAILED", "SUCCEEDED"}
    assert all(rows[label][-1] == "SUCCEEDED" for label in rows)
    spoil()
    fresh = over(tmp_path / "fresh", there.address)
    assert fresh.store.done(table) is None, "what is damaged there is not done for a run that has no copy"
    again = graph(over(tmp_path, there.address))
    fresh.diary = bench.diary
    fresh.do(TwoNodes(tmp_path / "fresh"), *again)
    assert [fresh.names(step) for step in again] == [bench.names(step) for step in steps]


def test_what_arrives_damaged_in_the_driver_is_done_again(bench: Bench, tmp_path: Path) -> None:
    step = bench.fake("one")
    publish, there = type(storage(bench)).publish, storage(bench).remote

    def half(self, step, record, folder) -> None:
        publish(self, step, record, folder)
        for name in objects(bench) if record.attempt == 1 else ():
            there.put(name, b"half")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(storage(bench)), "publish", half)
        bench.do(TwoNodes(tmp_path), step)
    assert bench.rows() == {"one": ["FAILED", "SUCCEEDED"]}
    assert "damaged" in str(bench.log.attempts[0].error_message) and bench.names(step) == ["one"]


def test_a_step_goes_on_on_another_node_from_the_checkpoint_of_the_first(bench: Bench, tmp_path: Path) -> None:
    step = Step(kind=COUNT, label="count", config=Counting(to=9))
    first, second = (open_cache(tmp_path / name, storage(bench), 10**9, {}) for name in ("first", "second"))
    FAILS[step.key] = 6
    failed = do(step, first)
    FAILS.clear()
    assert failed.status == "FAILED" and "preempted" in str(failed.error_message)
    assert storage(bench).checkpoints(step.key) == ["step-5", "step-6"]
    done = do(step, second, 2)
    assert done.status == "SUCCEEDED" and done.metrics["resumed_from"] == 6
    assert storage(bench).checkpoints(step.key) == [] and not second.scratch(step).exists()


def test_what_a_node_did_and_could_not_upload_is_not_done_again_there(bench: Bench, tmp_path: Path) -> None:
    step, cache = bench.fake("one"), open_cache(tmp_path / "node", storage(bench), 10**9, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(storage(bench)), "publish", _refuse)
        assert do(step, cache).error_type == "StorageRefused"
    done = do(step, cache, 2)
    assert (done.status, done.attempt) == ("SUCCEEDED", 2) and len(entries(bench.diary)["one"]) == 1
    assert bench.store.fetch(step).attempt == 2  # type: ignore[attr-defined]


def _refuse(*args: object) -> None:
    raise StorageRefused("storage: 'there' takes no more. Make room.")


def test_a_storage_that_takes_no_more_stops_the_run_in_words(server: LoopbackS3, tmp_path: Path) -> None:
    bench = over(tmp_path, server.address(credentials="AKIAKEY:SECRET@"))
    source, *others = graph(bench)

    def full(method: str, path: str) -> tuple[int, str] | None:
        return (507, "InsufficientStorage") if method in ("PUT", "POST") else None

    bench.do(TwoNodes(tmp_path), source)
    server.answer = full
    with pytest.raises(InputError, match=r"storage: 's3://storage-.*507.*What is finished is kept, and the same comm"):
        bench.do(TwoNodes(tmp_path), *others)
    tried = [a for a in bench.log.attempts if a.error_type == "StorageRefused"]
    assert len(tried) == 1, "no other trial is done in vain"
    text = bench.log.file.read_text()
    assert "SECRET" not in text and "AKIAKEY" not in text and "507" in text
    server.answer = lambda method, path: None
    bench.do(TwoNodes(tmp_path), *others)
    assert bench.rows()["table"][-1] == "SUCCEEDED" and len(entries(bench.diary)[tried[0].label]) == 1

"""A whole study over a storage: nodes that see neither the run's folder nor the base give the tables of one machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fulora.experiment import Experiment
from sweeps.cli import guarded
from sweeps.core.paths import RunPaths
from sweeps.engine.in_process import InProcess
from sweeps.run import run

from .core.nodes import TwoNodes
from .mini import PROCESS, Said, attempts, results
from .s3_server import CREDENTIALS, LoopbackS3
from .studies import one_thread


class OnTwoNodes(TwoNodes):
    """Does the steps that the driver keeps to itself in the run's folder, all others on two nodes."""

    def run(self, steps: Any, **known: Any) -> None:
        """Do the steps; see `sweeps.core.execution.Executor`."""
        mine = {step.kind.name for step in steps} <= {"catalog", "phantoms", "report"}
        executor = InProcess() if mine else super()
        executor.run(steps, **known)


@pytest.mark.slow
def test_nodes_that_see_neither_the_runs_folder_nor_the_base_give_the_same_tables(
    mini_experiment: Experiment, finished: RunPaths, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**CREDENTIALS, "AWS_ACCESS_KEY_ID": "AKIAKEY", "AWS_SECRET_ACCESS_KEY": "HUSHED"}.items():
        monkeypatch.setenv(name, value)
    nodes = OnTwoNodes(tmp_path, hidden=[tmp_path / "run", small_base])
    monkeypatch.setattr("sweeps.session.InProcess", lambda **known: nodes)
    paths = RunPaths(tmp_path / "run")
    with LoopbackS3() as server, one_thread():
        options = replace(PROCESS, storage=server.address())
        said = Said()
        assert run(mini_experiment, paths, options=options, progress=said) == []
        assert {a.status for a in attempts(paths)} == {"SUCCEEDED"}
        assert {node for _, node in nodes.did} == {0, 1}
        assert results(paths) == results(finished)
        fetched = [path for method, path in server.asked if method == "GET" and "objects/" in path]
        before = len(nodes.did)
        (tmp_path / "again").mkdir()
        nodes.hidden = [tmp_path / "again", small_base]
        assert run(mini_experiment, RunPaths(tmp_path / "again"), options=options, progress=said) == []
        assert len(nodes.did) == before, "another folder is filled from the storage, and nothing is done again"
        assert results(RunPaths(tmp_path / "again")) == results(finished)
    assert fetched
    decoded = [label for label, _ in nodes.did if "pixels" in label]
    assert len(decoded) == len(set(decoded))
    for file in (f for f in tmp_path.rglob("*") if f.is_file()):
        assert b"HUSH" not in file.read_bytes() and b"AKIAKEY" not in file.read_bytes(), file
    assert not any("HUSHED" in line for line in said.lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--cache", "/x"], "cache: '/x' is of use with --storage only"),
        (["run", "--storage", "/x", "--cache-gb", "0"], "cache_gb: 0.0 must be a positive number"),
        (["run", "--storage", "gopher://host/x"], "storage: 'gopher://host/x' cannot be used"),
        (["run", "--storage", "s3://KEY:HUSH@b/x?region=x"], "storage: 's3://b/x?region=x' holds credentials"),
        (["lora", "--storage", "s3://b/x", "--search", "optuna"], "storage: 's3://b/x' excludes --search"),
        (["run", "--storage", "{out}"], "is the run's own directory, or in it or around it"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_before_any_work(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *flags = (word.format(out=tmp_path) for word in words)
    assert guarded([command, "demo", "--executor", "process", "--out", str(tmp_path / "run"), *flags]) == 2
    said = capsys.readouterr().err
    assert expected in said and "HUSH" not in said
    assert not (tmp_path / "run" / "steps").exists(), "work was begun"

"""Damaged files of a finished run: the same command says what is damaged, ends well and gives the same tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.cli import guarded
from sweeps.core.files import remove
from sweeps.core.paths import RunPaths
from sweeps.core.store import DONE

from .mini import attempts, results


def _truncate(folder: Path) -> None:
    file = _largest(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _change_two_bytes(folder: Path) -> None:
    """Change two bytes and leave the size as it is."""
    file = _largest(folder)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2] = bytes(255 - byte for byte in content[middle : middle + 2])
    file.write_bytes(bytes(content))


def _lose_a_file(folder: Path) -> None:
    _largest(folder).unlink()


def _empty_the_record(folder: Path) -> None:
    (folder / DONE).write_text("")


def _garble_the_record(folder: Path) -> None:
    (folder / DONE).write_bytes(b"\xff\xfe{}")


def _take_the_record_of_another_version(folder: Path) -> None:
    content = json.loads((folder / DONE).read_text())
    del content["notes"]
    (folder / DONE).write_text(json.dumps(content))


def _lose_the_record(folder: Path) -> None:
    (folder / DONE).unlink()


WAYS = (_truncate, _change_two_bytes, _lose_a_file, _empty_the_record)
OTHER_WAYS = (_garble_the_record, _take_the_record_of_another_version, _lose_the_record)


def _largest(folder: Path) -> Path:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != DONE]
    return max(sorted(files), key=lambda file: file.stat().st_size)


@pytest.fixture
def again(copied: RunPaths, mini_flags: list[str], capsys) -> Callable[[], list[str]]:
    """Return a function that gives the same command again, and returns its lines on damage once it ended well."""

    def command() -> list[str]:
        capsys.readouterr()
        code = guarded(["run", "demo", *mini_flags, "--executor", "process", "--out", str(copied.root)])
        said = capsys.readouterr().err
        assert code == 0 and "Traceback" not in said, said
        return [line for line in said.splitlines() if line.startswith("damaged")]

    return command


def _kinds(paths: RunPaths) -> list[str]:
    return sorted(folder.name for folder in (paths.root / "steps").iterdir())


def _one_of(paths: RunPaths, kind: str) -> Path:
    return sorted((paths.root / "steps" / kind).iterdir())[0]


def _pixels(paths: RunPaths) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in paths.synthetic.rglob("*.png")}


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (1, 2, 3))])
def test_a_step_of_every_kind_is_damaged_and_done_again(copied, finished, again, turn) -> None:
    """Each kind in another way; in four turns every kind in every way."""
    kinds = _kinds(copied)
    assert len(kinds) == 18 and {"phantoms", "selection", "lora", "images", "grid", "scores", "report"} <= set(kinds)
    folders = {kind: _one_of(copied, kind) for kind in kinds}
    for index, folder in enumerate(folders.values()):
        WAYS[(index + turn) % len(WAYS)](folder)
    lines = again()
    assert len(lines) == len(kinds), lines
    for kind, folder in folders.items():
        (line,) = [line for line in lines if f"{kind}/{folder.name}/" in line]
        assert line.startswith("damaged, done again: ")
    assert results(copied) == results(finished) and _pixels(copied) == _pixels(finished)
    assert again() == []


@pytest.mark.parametrize("damage", OTHER_WAYS)
def test_a_record_that_is_none_has_its_step_done_again(copied, finished, again, damage) -> None:
    folders = {kind: _one_of(copied, kind) for kind in ("ranks", "data_scaling", "audit")}
    number = len(attempts(copied))
    for folder in folders.values():
        damage(folder)
    assert len(again()) == 3
    new = attempts(copied)[number:]
    assert {(a.stage, a.trial_id, a.attempt) for a in new} == {(k, f.name, 2) for k, f in folders.items()}
    assert results(copied) == results(finished)


def test_what_a_step_needs_is_made_again_though_the_step_is_done(copied, finished, again) -> None:
    """The folder of phantoms is gone, and a link leads nowhere: later steps would read it."""
    remove(copied.phantoms.resolve())
    again()
    assert any(copied.phantoms.rglob("*.png")) and results(copied) == results(finished)
    assert [a.stage for a in attempts(copied) if a.attempt > 1] == ["phantoms"]


def test_views_that_are_damaged_or_gone_are_there_again_and_no_step_is_done(copied, finished, again) -> None:
    def truncate(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:40])

    number = len(attempts(copied))
    tables = sorted(copied.tables.iterdir())
    assert len(tables) > 15
    for index, table in enumerate(tables):
        table.unlink() if index % 2 else truncate(table)
    for file in (copied.catalog, copied.audit, copied.predictions, copied.trials, copied.synthetic / "set.json"):
        truncate(file)
    truncate(copied.synthetic / "metadata.parquet")
    (copied.samples / "base" / "metadata.parquet").unlink()
    (copied.samples / "rank-002" / "metadata.parquet").write_bytes(b"PAR1")
    images = sorted(copied.synthetic.rglob("*.png"))
    images[0].unlink()
    truncate(images[1])
    for view in (copied.adapter(4), copied.judge, copied.phantoms, copied.report, copied.figures):
        view.unlink()
    copied.judge.mkdir()
    (copied.adapters / "rank-999").mkdir()
    lines = again()
    assert "damaged, written again: samples/rank-002/metadata.parquet" in lines
    assert len(attempts(copied)) == number
    assert results(copied) == results(finished) and _pixels(copied) == _pixels(finished)
    names = {f.relative_to(finished.root) for f in finished.root.rglob("*") if ".lock" not in f.name}
    assert names == {f.relative_to(copied.root) for f in copied.root.rglob("*") if ".lock" not in f.name}
    for label in ("synthetic", "samples/base", "samples/rank-002"):
        file = f"{label}/metadata.parquet"
        assert (copied.root / file).read_bytes() == (finished.root / file).read_bytes()
    assert copied.report.read_bytes() == finished.report.read_bytes()
    # By now the views are the steps' files, so what is damaged by the one name is damaged by the other.
    truncate(copied.table("table1"))
    image = sorted(copied.synthetic.rglob("*.png"))[0]
    _change_two_bytes_of(image)
    lines = again()
    assert len(lines) == 2 and "scores/" in "".join(lines) and image.name in "".join(lines)
    assert {a.stage for a in attempts(copied)[number:]} == {"scores", "images"}
    assert results(copied) == results(finished) and _pixels(copied) == _pixels(finished)


def _change_two_bytes_of(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20:-18] = bytes(255 - byte for byte in content[-20:-18])
    file.write_bytes(bytes(content))


def test_a_plan_and_attempts_that_are_damaged_are_written_again(copied, finished, again) -> None:
    plan = json.loads(copied.plan.read_text())
    for text in ("", "{}", "[]", '{"recipe"'):
        copied.plan.write_text(text)
        assert again() == ["damaged, written again: plan.json"]
        assert json.loads(copied.plan.read_text())["trials"] == plan["trials"]
    before = attempts(copied)
    lines = copied.attempts.read_text().splitlines()
    lines[0] = lines[0][:100]
    copied.attempts.write_text("\n".join([*lines, '{"trial_id": "half']))  # a killed driver left no end of the line
    (line,) = again()
    assert line.startswith("damaged") and "attempts.jsonl" in line and "2" in line
    found = attempts(copied)
    assert sorted(found, key=str) == sorted(before, key=str), "the success is taken up from the step's record"
    assert again() == [] and results(copied) == results(finished)
    copied.attempts.unlink()
    assert again() == []
    assert {a.trial_id for a in attempts(copied)} == {a.trial_id for a in before}

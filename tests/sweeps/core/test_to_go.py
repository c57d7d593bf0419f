"""What is left of a run: rough costs are replaced by what steps took, by kind; progress counts; the room is kept to."""

import pytest

from sweeps.core.step import Kind, Step
from sweeps.core.to_go import ToGo

_LORA = Kind(name="lora", stage="lora", work="nowhere:work", runs_on="gpu")
_GRID = Kind(name="grid", stage="grid", work="nowhere:work", runs_on="gpu")


def step(name: str, kind: Kind, *needs: Step, cost: float = 10.0) -> Step:
    return Step(kind=kind, label=name, config={"name": name}, needs={"above": needs}, cost=cost)


def to_go(steps: list[Step], gpus: float = 1.0, before: tuple = ()) -> ToGo:
    return ToGo(steps, ({"gpu": gpus}, {s.key: ("gpu", 1.0) for s in steps}), before)


def test_a_kind_is_scaled_by_its_own_steps_and_others_by_all() -> None:
    rank8, rank32, cell = step("8", _LORA), step("32", _LORA), step("cell", _GRID, cost=5)
    found = to_go([rank8, rank32, cell])
    assert found.left({}) is None
    found.ended(rank8, 30.0)
    left = found.left({})
    assert left and left.seconds == pytest.approx(30 + 15) and left.gpu_hours == pytest.approx(45 / 3600)
    found.ended(cell, 5.0)
    left = found.left({})
    assert left and left.seconds == pytest.approx(30), "the grid's own speed no longer counts for LoRA"
    found.ended(rank32, None)
    left = found.left({})
    assert left and left.seconds == 0 == left.gpu_hours


def test_what_runs_on_a_cpu_says_nothing_of_gpus_and_progress_says_something() -> None:
    table = Kind(name="table", stage="report", work="nowhere:work")
    rank, cell, scores = step("8", _LORA), step("cell", _GRID), step("scores", table, cost=1)
    found = to_go([rank, cell, scores], before=((step("catalog", table, cost=1), 50.0),))
    assert found.left({}) is None
    left = found.left({rank.key: (0.25, 5.0)})
    assert left and left.seconds == pytest.approx(15 + 20 + 50), "a quarter of 10 took 5 s: the cell's 10 take 20 s"
    found.ended(rank, None)
    found.ended(cell, None)
    left = found.left({})
    assert left and left.seconds == pytest.approx(50)


def test_what_is_under_way_counts_by_its_progress() -> None:
    first, second = step("1", _GRID), step("2", _GRID)
    found = to_go([first, second], before=((step("0", _GRID), 100.0),))
    assert found.left({}) and found.left({}).seconds == pytest.approx(200)  # type: ignore[union-attr]
    left = found.left({first.key: (0.5, 30.0)})
    assert left and left.seconds == pytest.approx(30 + 100), "half took 30 s: the other half takes as long"
    left = found.left({first.key: (0.01, 30.0)})
    assert left and left.seconds == pytest.approx(70 + 100), "so little progress says nothing yet"
    left = found.left({first.key: (0.0, 500.0)})
    assert left and left.seconds == pytest.approx(100), "never below zero"


def test_the_time_is_that_of_the_schedule_in_the_room_there_is() -> None:
    rank = step("rank", _LORA)
    cells = [step(f"{i}", _GRID, rank) for i in range(4)]
    done = step("done", _GRID), 10.0
    assert to_go([rank, *cells], 2.0, (done,)).left({}).seconds == pytest.approx(10 + 20)  # type: ignore[union-attr]
    many = [step(f"{i}", _GRID, cost=1) for i in range(2500)]
    left = to_go(many, 10.0, ((step("done", _GRID, cost=1), 2.0),)).left({})
    assert left and left.seconds == pytest.approx(2500 * 2 / 10)

"""The schedule followed in a time that is only counted: order, room, what a process loads, and the bound."""

import random
from itertools import pairwise

import pytest

from sweeps.core.schedule import Schedule
from sweeps.core.simulation import ONE_LANE, lower_bound, simulate
from sweeps.core.step import Kind, Step

_CPU = Kind(name="cpu", stage="report", work="nowhere:work")
_GPU = Kind(name="gpu", stage="grid", work="nowhere:work", runs_on="gpu")
_SHARD = Kind(name="shard", stage="sample", work="nowhere:work", runs_on="gpu", is_shard=True)


def step(name: str, *needs: Step, cost: float = 1.0, kind: Kind = _GPU) -> Step:
    return Step(kind=kind, label=name, config={"name": name}, needs={"above": needs}, cost=cost)


def lane_of(one: Step) -> tuple[str, float]:
    return (one.kind.runs_on, 1.0)


def test_steps_begin_in_the_order_of_the_schedule_as_soon_as_there_is_room() -> None:
    rank = step("rank", cost=10)
    images = step("images", rank, cost=4)
    long, short, table = step("long", cost=9), step("short", cost=2), step("table", images, cost=1, kind=_CPU)
    found = simulate([rank, images, long, short, table], {"gpu": 2, "cpu": 1}, takes=lane_of)
    assert [(s.step.label, s.start, s.end) for s in found.spans] == [
        ("rank", 0, 10), ("long", 0, 9), ("short", 9, 11), ("images", 10, 14), ("table", 14, 15),
    ]  # fmt: skip
    assert found.seconds == 15 and found.held == {"gpu": 25, "cpu": 1}


def test_durations_are_given_apart_from_the_costs_that_order() -> None:
    a, b = step("a", cost=2), step("b", cost=1)
    found = simulate([a, b], {ONE_LANE: 1}, seconds=lambda s: {"a": 3.0, "b": 50.0}[s.label])
    assert [(s.step.label, s.end) for s in found.spans] == [("a", 3.0), ("b", 53.0)]


def test_shares_of_a_device_run_side_by_side_and_a_whole_one_waits() -> None:
    halves = [step(f"half {i}", cost=5) for i in range(3)]
    whole = step("whole", cost=4)
    found = simulate([*halves, whole], {"gpu": 1}, takes=lambda s: ("gpu", 1.0 if s is whole else 0.5))
    assert {s.step.label: s.start for s in found.spans} == {"half 0": 0, "half 1": 0, "half 2": 5, "whole": 10}
    assert found.held["gpu"] == pytest.approx(3 * 0.5 * 5 + 4)


def test_a_process_loads_what_it_does_not_hold_once() -> None:
    shards = [step(f"{what} {i}", cost=10 - i / 10, kind=_SHARD) for what in ("a", "b") for i in range(3)]
    found = simulate(shards, {"gpu": 1}, takes=lane_of, loads=lambda s: (s.label[0], 7.0), seconds=lambda s: 1.0)
    order = [s.step.label[0] for s in found.spans]
    changes = sum(a != b for a, b in pairwise(order))
    assert found.seconds == 6 + 7 * (1 + changes)
    alone = simulate(shards[:3], {"gpu": 3}, takes=lane_of, loads=lambda s: ("a", 7.0))
    assert {s.start for s in alone.spans} == {0} and alone.seconds == 17, "each of three processes loads it"


def test_a_step_that_never_fits_is_named() -> None:
    with pytest.raises(ValueError, match=r"'big'\) takes 2 of 'gpu', of which there is 1"):
        simulate([step("small"), step("big")], {"gpu": 1}, takes=lambda s: ("gpu", 2.0 if s.label == "big" else 1.0))


@pytest.mark.parametrize("seed", range(20))
def test_any_graph_ends_between_the_bound_and_grahams_and_obeys_needs(seed: int) -> None:
    rng, steps = random.Random(seed), list[Step]()
    for i in range(40):
        needs = rng.sample(steps, min(len(steps), rng.randrange(4)))
        steps.append(step(f"{i}", *needs, cost=rng.choice([0, 1, 3, 10])))
    slots = rng.randint(1, 6)
    found = simulate(steps, {ONE_LANE: slots})
    ends = {s.step.key: s.end for s in found.spans}
    assert len(ends) == 40 and all(ends[n.key] <= s.start for s in found.spans for n in s.step.all_needs)
    assert all(sum(o.start <= s.start < o.end for o in found.spans) <= slots for s in found.spans)
    schedule, work = Schedule(steps), sum(s.cost for s in steps)
    longest, bound = max(map(schedule.path, steps)), lower_bound(steps, {ONE_LANE: slots})
    assert bound == max(longest, work / slots)
    assert bound <= found.seconds <= work / slots + longest

"""The order in which steps start, what a failure blocks, what damage does again, and the speed of it."""

import time
from collections import Counter

import pytest

from sweeps.core.schedule import Schedule
from sweeps.core.step import Kind, Step

_CPU = Kind(name="cpu", stage="report", work="nowhere:work")
_GPU = Kind(name="gpu", stage="grid", work="nowhere:work", runs_on="gpu")


def step(name: str, *needs: Step, cost: float = 1.0, kind: Kind = _GPU) -> Step:
    return Step(kind=kind, label=name, config={"name": name}, needs={"above": needs}, cost=cost)


def drained(schedule: Schedule) -> list[str]:
    """Return the labels in the order of one worker that never fails."""
    order = []
    while (taken := schedule.take()) is not None:
        order.append(taken.label)
        schedule.succeeded(taken)
    return order


def test_the_critical_path_starts_first_then_the_longest_then_the_first_of_the_list() -> None:
    rank8, rank128 = step("rank 8", cost=9), step("rank 128", cost=10)
    images = step("images", rank128, cost=50)
    hybrid = step("hybrid", images, cost=20)
    short, long = step("short", cost=2), step("long", cost=30)
    early, late = step("early", cost=2), step("late", cost=2, kind=_CPU)
    schedule = Schedule([rank8, short, early, long, late, rank128, images, hybrid])
    assert schedule.path(rank128) == 80 and schedule.path(hybrid) == 20
    assert drained(schedule) == ["rank 128", "images", "long", "hybrid", "rank 8", "short", "early", "late"]
    assert schedule.finished and schedule.count("succeeded") == 8


def test_only_what_is_wanted_is_taken_and_the_rest_keeps_its_place() -> None:
    a, b, c = step("a", cost=3), step("b", cost=2, kind=_CPU), step("c", cost=1)
    schedule = Schedule([a, b, c])
    on_cpu = [schedule.take(lambda s: s.kind.runs_on == "cpu") for _ in range(2)]
    assert on_cpu == [b, None]
    assert schedule.peek(lambda s: s.kind.runs_on == "gpu") == a and schedule.take() == a
    assert schedule.peek() == c and schedule.take() == c
    assert schedule.take() is None and not schedule.finished and schedule.in_state("running") == [a, b, c]


def test_a_failure_blocks_what_needs_it_however_far_and_nothing_else() -> None:
    a, b = step("a"), step("b")
    after_a, after_both = step("after a", a), step("after both", a, b)
    last, after_b = step("last", after_both), step("after b", b)
    schedule = Schedule([a, b, after_a, after_both, last, after_b])
    assert {schedule.take(), schedule.take()} == {a, b}
    assert set(schedule.failed(a)) == {after_a, after_both, last}
    schedule.succeeded(b)
    assert drained(schedule) == ["after b"] and schedule.finished
    assert [schedule.count(s) for s in ("failed", "blocked", "succeeded")] == [1, 3, 2]


def test_a_damaged_need_is_done_again_before_all_that_waits_for_it() -> None:
    need = step("need")
    one, two = step("one", need), step("two", need)
    schedule = Schedule([one, two])
    assert schedule.take() == one, "a need outside of the steps is taken to be done"
    schedule.redo(need)
    schedule.redo(need)
    assert schedule.state(two) == "waiting" and schedule.again(one) == []
    assert drained(schedule) == ["need", "one", "two"]


def test_what_loses_its_need_while_it_runs_is_blocked_when_it_is_given_back() -> None:
    need = step("need")
    user, last = step("user", need), step("last")
    after = step("after", user)
    schedule = Schedule([user, after, last])
    assert schedule.take() == user
    schedule.redo(need)
    assert schedule.take() == need
    assert schedule.failed(need) == [] and schedule.again(user) == [user, after]
    assert drained(schedule) == ["last"] and schedule.finished


def test_a_step_before_its_need_is_refused() -> None:
    need = step("need")
    with pytest.raises(ValueError, match="topological"):
        Schedule([step("user", need), need])


def test_ten_thousand_steps_are_planned_and_drained_in_two_seconds() -> None:
    adapters = [step(f"rank {i}", cost=i) for i in range(10)]
    shards = [step(f"shard {i}", adapters[i % 10], kind=_CPU) for i in range(1000)]
    store = step("store", *shards)
    trials = [step(f"trial {i}", store, cost=i % 7) for i in range(8988)]
    steps = [*adapters, *shards, store, *trials, step("report", *trials)]
    assert len(steps) == 10_000
    began = time.process_time()
    schedule = Schedule(steps)
    while (taken := schedule.take(lambda s: s.kind.runs_on == "gpu") or schedule.take()) is not None:
        schedule.succeeded(taken)
    seconds = time.process_time() - began
    assert schedule.finished and schedule.count("succeeded") == 10_000
    assert seconds < 2, f"{seconds:.2f} s"


def test_every_order_obeys_needs_whatever_fails_or_is_done_again() -> None:
    """A random graph, drained by three workers at random, with failures, repeats and damage; nothing is lost."""
    import random

    for seed in range(20):
        rng = random.Random(seed)
        steps: list[Step] = []
        for i in range(60):
            steps.append(step(f"{i}", *rng.sample(steps, min(len(steps), rng.randrange(4))), cost=rng.random()))
        schedule, running, done, failed = Schedule(steps), [], set(), set()
        for _ in range(10_000):
            if len(running) < 3 and (taken := schedule.take()) is not None:
                assert all(need in done for need in taken.all_needs), f"seed {seed}: {taken} started too early"
                running.append(taken)
                continue
            if not running:
                break
            taken = running.pop(rng.randrange(len(running)))
            event = rng.random()
            lost = next((need for need in taken.all_needs if need in done), None)
            if event < 0.1 and lost:
                done.discard(lost)
                schedule.redo(lost)
                schedule.again(taken)
            elif event < 0.2:
                schedule.again(taken)
            elif event < 0.22:
                failed.add(taken)
                schedule.failed(taken)
            elif all(need in done for need in taken.all_needs):
                done.add(taken)
                schedule.succeeded(taken)
            else:
                schedule.again(taken)
        assert schedule.finished and not running, f"seed {seed}"
        states = Counter(schedule.state(s) for s in steps)
        assert set(schedule.in_state("failed")) == failed and set(schedule.in_state("succeeded")) == done
        assert sum(states.values()) == 60 and set(states) <= {"succeeded", "failed", "blocked"}

"""The key of a step: kind, version, configuration and needs; not its name, nor where files lie, nor its cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from sweeps.core.hashing import PLACE
from sweeps.core.step import Kind, Step, closure

KIND = Kind(name="training", stage="grid", work="nowhere:nothing")


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    folder: Path | None = field(default=None, metadata=PLACE)


@dataclass(frozen=True, kw_only=True)
class Config:
    epochs: int = 1
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()


def step(label: str = "a step", config: Config = Config(), kind: Kind = KIND, **known) -> Step:
    return Step(kind=kind, label=label, config=config, **known)


def keys(steps: Iterable[Step]) -> list[str]:
    return [one.key for one in steps]


def test_what_a_step_is_called_and_where_things_lie_is_no_part_of_its_key() -> None:
    here = Config(inner=Inner(folder=Path("/here")), many=(Inner(folder=Path("/there")),))
    same = [
        step("another name", cost=9.0), step(kind=replace(KIND, runs_on="gpu", is_trial=True, stage="report")),
        step(config=Config(inner=Inner(folder=Path("/here")))), step(needs={"images": ()}), step(uses={"x": (step(),)}),
    ]  # fmt: skip
    assert set(keys(same)) == {step().key} and all(one == step() for one in same)
    assert step(config=here).key == step(config=Config(many=(Inner(),))).key


def test_kind_version_configuration_and_needs_are() -> None:
    need, other = step("need", Config(epochs=5)), step("other", Config(epochs=6))
    found = [
        step(), step(config=Config(epochs=2)), step(config=Config(inner=Inner(rate=0.2))),
        step(config=Config(many=(Inner(),))), step(kind=replace(KIND, name="judging")),
        step(kind=replace(KIND, version=2)), step(needs={"images": (need,)}), step(needs={"test": (need,)}),
        step(needs={"images": (need, other)}), step(needs={"images": (other, need)}),
        step(needs={"images": (step("need", Config(epochs=5), replace(KIND, version=2)),)}),
    ]  # fmt: skip
    assert len(set(keys(found))) == len(found)
    above = [step("above", needs={"below": (one,)}) for one in found]
    assert len(set(keys(above))) == len(found), "what is stale makes stale what stands on it"


def test_roles() -> None:
    need, used = step(config=Config(epochs=5)), step(config=Config(epochs=6))
    top = step(needs={"images": (need,), "again": (need,)}, uses={"pixels": (used,)})
    assert top.need("images") == need and top.in_role("pixels") == (used,) and top.in_role("none") == ()
    assert top.all_needs == (need, used)
    with pytest.raises(ValueError):
        top.need("none")


def test_a_closure_has_every_step_once_after_what_it_needs() -> None:
    bottom = step("bottom", Config(epochs=1))
    middle = [step(f"middle {n}", Config(epochs=10 + n), needs={"below": (bottom,)}) for n in range(3)]
    top = step("top", Config(epochs=99), needs={"below": tuple(middle)}, uses={"pixels": (bottom,)})
    found = closure([top, middle[0], top])
    assert sorted(one.label for one in found) == ["bottom", "middle 0", "middle 1", "middle 2", "top"]
    place = {one: index for index, one in enumerate(found)}
    assert all(place[need] < place[one] for one in found for need in one.all_needs)

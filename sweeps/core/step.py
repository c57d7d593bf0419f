"""The step: the unit a run is made of. A kind, a typed configuration, the steps it needs; from these its key.

Two steps of equal key give equal files, so a step that is done is never done again, in this study or in a wider one.
The key holds the key of every step it needs and the version of its code: a change upstream makes stale what needs it.
Source of the idea: DVC's stages and marin's `StepSpec`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sweeps.core.hashing import content_hash, identity

if TYPE_CHECKING:
    from fulora.device import Footprint

Stage = Literal["sources", "lora", "sample", "grid", "report"]
STAGES: tuple[Stage, ...] = ("sources", "lora", "sample", "grid", "report")
"""The stages of a study, in the order of the paper's method."""

Report = Callable[[dict[str, Any]], None]
"""Takes {"fraction": 0 to 1, "note": text} as a step goes on."""
Work = Callable[["Step", Any, Report], dict[str, Any]]
"""Does a step: reads the files of its needs and writes its own, both by its `store.Place`; returns its metrics.

Among the metrics, `device` and `peak_memory_bytes` go to columns of their own, and `notes` (list of text) to notes."""
Measure = Callable[[Sequence["Step"], Any], "Footprint"]
"""Returns the device memory that the largest of some steps takes, from a few iterations; their needs are done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What sort of step it is; one constant per sort, beside the work it names."""

    name: str
    """Folder of its steps, and the `stage` column of trials.parquet for trials."""
    stage: Stage
    work: str
    """`module:function` of a `Work`, imported in the process that does it."""
    version: int = 1
    """Version of the code. Raise it when a change of the code changes the files: older results are not reused."""
    runs_on: Literal["gpu", "cpu"] = "cpu"
    """Device it uses where the cluster has GPUs."""
    is_trial: bool = False
    """Whether its attempts are rows of trials.parquet."""
    is_shard: bool = False
    """Whether it is a shard of images, which sampling actors do (Ray Data)."""
    measure: str | None = None
    """`module:function` of a `Measure`, so that steps share a GPU as far as its memory allows; None: a GPU each."""

    def load(self) -> Work:
        """Return the function that does the work."""
        return _imported(self.work)

    def load_measure(self) -> Measure:
        """Return the function that measures the memory of its steps."""
        if self.measure is None:
            raise ValueError(f"measure: kind {self.name!r} names no function that measures its memory.")
        return _imported(self.measure)


def _imported(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work with its result."""

    kind: Kind
    label: str
    """What a person calls it: `rank 128`, `HB+DA, ViT b16, seed 0`. Not part of the key."""
    config: Any
    """A frozen dataclass with everything that decides the result, apart from the needs."""
    needs: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    """Steps whose files it reads, by their role."""
    uses: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    """Steps whose files it reads and which hold nothing that its needs do not decide: decoded pixels of images that a
    selection names. They come first and are no part of the key, so that a larger store makes nothing stale."""
    cost: float = 1.0
    """Expected duration in seconds, roughly; decides the order only."""

    @cached_property
    def key(self) -> str:
        """The identity: a hash of kind, code version, configuration and needs."""
        needs = {role: [need.key for need in steps] for role, steps in self.needs.items() if steps}
        return content_hash([self.kind.name, self.kind.version, identity(self.config), needs])

    @cached_property
    def all_needs(self) -> tuple[Step, ...]:
        """Every step it needs or uses directly, each once."""
        both = [*self.needs.values(), *self.uses.values()]
        return tuple({need.key: need for steps in both for need in steps}.values())

    def need(self, role: str) -> Step:
        """Return the one step of a role."""
        (step,) = self.in_role(role)
        return step

    def in_role(self, role: str) -> tuple[Step, ...]:
        """Return the steps needed or used in a role; none for a role there is not."""
        return tuple(self.needs.get(role, ())) + tuple(self.uses.get(role, ()))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.key == other.key

    def __repr__(self) -> str:
        return f"Step({self.kind.name} {self.key} {self.label!r})"


def closure(targets: Iterator[Step] | list[Step] | tuple[Step, ...]) -> list[Step]:
    """Return the targets and all they need, each once, needs before the steps that need them."""
    found: dict[str, Step] = {}
    todo = [(step, False) for step in reversed(list(targets))]
    while todo:
        step, ready = todo.pop()
        if step.key in found:
            continue
        if ready:
            found[step.key] = step
            continue
        todo.append((step, True))
        todo += [(need, False) for need in reversed(step.all_needs) if need.key not in found]
    return list(found.values())

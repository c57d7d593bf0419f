"""What a study costs: GPU-hours and storage by stage, wall time by following the schedule that would run, money.

In: the steps to do, a room to run in, machines that were measured. Out: a `StudyCost`, in which every figure has a
source and what was not measured is named.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sweeps.core.selections import SELECTION
from sweeps.core.simulation import Simulated, lower_bound, simulate
from sweeps.core.step import STAGES, Stage, Step, closure
from sweeps.cost.speeds import Machine, Speed
from sweeps.cost.work import Counts, Work, num_images, work_of
from sweeps.engine.resources import Cluster
from sweeps.engine.room import Room
from sweeps.grid.plan import PIXELS
from sweeps.images.sets import IMAGES
from sweeps.sources.plan import CATALOG, PHANTOMS
from sweeps.study import Plan

_CHANNELS = 3
_PNG_BYTES = 1.5
"""Of a pixel of a synthetic image at 512 px. Source: benchmarks/results/png.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """What a stage takes."""

    stage: Stage
    num_trials: int = 0
    num_images: int = 0
    gpu_hours: float | None = 0.0
    """None: not known."""
    cpu_hours: float | None = 0.0
    """Hours of slots without a GPU."""
    storage_bytes: int = 0
    """Of the kinds whose size is known."""
    not_sized: tuple[str, ...] = ()
    """Kinds of steps whose files are of unknown size, and are not in `storage_bytes`."""
    sources: tuple[str, ...] = ()
    """`pilot`, `run`, `kept`: where its speeds come from."""
    not_measured: tuple[str, ...] = ()
    """Kinds of steps of which no duration is known."""


@dataclass(frozen=True, kw_only=True)
class StudyCost:
    """What the steps that are not done take."""

    cluster: Cluster
    device: str
    """Where it would run."""
    price: float | None
    """For a GPU-hour."""
    stages: tuple[StageCost, ...]
    machines: tuple[Machine, ...]
    """Those that figures come from."""
    num_done: int
    """Steps that are done already and not counted."""
    seconds: float | None
    """Wall time; None where it is not known."""
    bound_seconds: float | None
    """What no order of the steps could go below."""
    at_least: bool
    """Whether steps that need no GPU are left out of the time, as their duration is not known."""

    @cached_property
    def gpu_hours(self) -> float | None:
        """GPU-hours of all stages."""
        found = [stage.gpu_hours for stage in self.stages]
        return None if None in found else sum(hours for hours in found if hours is not None)

    @property
    def rented(self) -> float | None:
        """Money for all GPUs from beginning to end."""
        if self.price is None or self.seconds is None:
            return None
        return self.price * self.cluster.num_gpus * self.seconds / 3600

    @property
    def used(self) -> float | None:
        """Money for the GPU-hours that steps hold, as where GPUs come on demand."""
        return None if self.price is None or self.gpu_hours is None else self.price * self.gpu_hours


def steps_of(plan: Plan) -> list[Step]:
    """Return every step of a study, summaries and report too, as if all went well."""
    summaries = plan.summaries("report", _always)
    return closure([*plan.targets("report"), *summaries, plan.report(_always, summaries)])


def counts_of(plan: Plan) -> Counts:
    """Return how many images each selection of a plan has, and its sources."""
    known = {s.step.key: {role: len(records) for role, records in s.roles.items()} for s in plan.selections}

    def counts(step: Step) -> Mapping[str, int]:
        if step.kind.name in (CATALOG.name, PHANTOMS.name):
            return {"all": len(plan.records)}
        return known.get(step.key, {})

    return counts


def cost_of(
    steps: Sequence[Step],
    counts: Counts,
    cluster: Cluster,
    *,
    here: Sequence[Machine],
    elsewhere: Sequence[Machine] = (),
    device: str,
    price: float | None = None,
    num_done: int = 0,
) -> StudyCost:
    """Return what some steps, needs first, cost.

    `here` are measurements on the device itself, the best first; steps that use no GPU may also take theirs from
    `elsewhere`.
    """
    steps = [step for step in steps if step.kind.name != SELECTION.name]
    room = Room(cluster)
    works = {step.key: work_of(step, counts) for step in steps}
    found: dict[str, tuple[Machine, Speed]] = {}
    for step in steps:
        if pair := _first([*here, *(elsewhere if step.kind.runs_on == "cpu" else ())], works[step.key]):
            found[step.key] = pair
    unknown = {step.key for step in steps if step.key not in found}

    def seconds(step: Step) -> float:
        if step.key in unknown:
            return 0.0
        speed, work = found[step.key][1], works[step.key]
        alone = work.units * speed.seconds_per_unit + (0.0 if step.kind.is_shard else speed.start_seconds)
        lane, amount = takes[step.key]
        return alone / amount if lane == "gpu" and amount < 1 else alone  # on a GPU that is shared they take turns

    def loads(step: Step) -> tuple[Hashable, float]:
        if not step.kind.is_shard or step.key in unknown:
            return None, 0.0
        return tuple(need.key for need in step.in_role("adapter")), found[step.key][1].start_seconds

    def lane(step: Step) -> tuple[str, float]:
        return takes[step.key]

    capacity, takes = room.of_steps(steps)
    simulated = simulate(steps, capacity, seconds=seconds, takes=lane, loads=loads)
    known = not any(step.kind.runs_on == "gpu" for step in steps if step.key in unknown)
    used, every = {id(machine): machine for machine, _ in found.values()}, [*here, *elsewhere]
    return StudyCost(
        cluster=cluster, device=device, price=price, num_done=num_done, machines=tuple(used.values()),
        stages=tuple(_stage(stage, steps, works, takes, found, simulated, every) for stage in STAGES),
        seconds=simulated.seconds if known else None,
        bound_seconds=lower_bound(steps, capacity, seconds=seconds, takes=lane) if known else None,
        at_least=bool(unknown),
    )  # fmt: skip


def _stage(
    stage: Stage,
    steps: Sequence[Step],
    works: Mapping[str, Work],
    takes: Mapping[str, tuple[str, float]],
    found: Mapping[str, tuple[Machine, Speed]],
    simulated: Simulated,
    machines: Sequence[Machine],
) -> StageCost:
    mine = [step for step in steps if step.kind.stage == stage]
    unknown = dict.fromkeys(step.kind.name for step in mine if step.key not in found)
    held = {"gpu": 0.0, "cpu": 0.0}
    for span in simulated.spans:
        if span.step.kind.stage == stage:
            held[span.lane] += span.amount * (span.end - span.start) / 3600
    lanes = {takes[step.key][0] for step in mine if step.key not in found}
    sizes = {step: _bytes(step, works[step.key], machines) for step in mine}
    return StageCost(
        stage=stage,
        num_trials=sum(step.kind.is_trial for step in mine),
        num_images=sum(map(num_images, mine)),
        gpu_hours=None if "gpu" in lanes else held["gpu"],
        cpu_hours=None if "cpu" in lanes else held["cpu"],
        storage_bytes=round(sum(size for size in sizes.values() if size is not None)),
        not_sized=tuple(dict.fromkeys(step.kind.name for step, size in sizes.items() if size is None)),
        sources=tuple(dict.fromkeys(found[step.key][0].source for step in mine if step.key in found)),
        not_measured=tuple(unknown),
    )


def _bytes(step: Step, work: Work, machines: Sequence[Machine]) -> float | None:
    """Return the size of a step's files: of pixels by arithmetic, else as measured, on whatever machine.

    PNG files of a resolution of which none was measured take as much a pixel as those of the benchmark.
    """
    if step.kind.name == PIXELS.name:
        return work.items * step.config.resolution_px**2 * _CHANNELS
    pair = _first(machines, work)
    if pair is not None and pair[1].bytes_per_item is not None:
        return work.items * pair[1].bytes_per_item
    return work.items * step.config.base.resolution_px**2 * _PNG_BYTES if step.kind.name == IMAGES.name else None


def _first(machines: Iterable[Machine], work: Work) -> tuple[Machine, Speed] | None:
    return next(((machine, speed) for machine in machines if (speed := machine.find(work))), None)


def _always(step: Step) -> bool:
    return True

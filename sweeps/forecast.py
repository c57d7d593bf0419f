"""What a study will cost, before it runs: from what was measured here, in this run, or kept.

In: an experiment, a run's folder, flags. Out: a `StudyCost`. Nothing is started but, with `measure`, a pilot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fulora.diffusion.base_files import check_base
from fulora.errors import InputError, fault, raise_if_any
from fulora.experiment import Experiment
from sweeps.console.status import records_of
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.core.store import Damaged, Done, Store
from sweeps.cost.assumed import assumed_records
from sweeps.cost.estimate import StudyCost, cost_of, counts_of, steps_of
from sweeps.cost.place import Place
from sweeps.cost.speeds import Machine, measured_of, named, read_machines, speeds_of
from sweeps.cost.work import Counts
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.ranks.plan import LORA
from sweeps.sources.plan import PHANTOMS
from sweeps.study import make_plan

_CORES_PER_GPU = 8
"""Of a machine that is only named: what is usual of one that is rented."""


def forecast(
    experiment: Experiment, folder: Path, place: Place, options: ClusterOptions, say: Callable[[str], None]
) -> StudyCost:
    """Return the cost of what is not done of a study in a run's folder; `say` is told of a pilot.

    Without data it is planned with as many images as are expected. Raises InputError for flags that contradict each
    other.
    """
    raise_if_any([*place.validate(), *options.validate(), *replace(experiment, data_required=False).validate()])
    check_base(experiment.base, allow_pickle=experiment.allow_pickle)
    store = RunPaths(folder).store
    records = records_of(experiment, store)
    plan = make_plan(experiment, assumed_records(experiment) if records is None else records)
    counts = counts_of(plan)
    steps = [s for s in steps_of(plan) if not (experiment.data_required and s.kind.name == PHANTOMS.name)]
    done = {step.key: record for step in steps if (record := _record(store, step)) is not None}
    device, gpus = _device(place, options)
    found: list[Machine] = []
    if place.measure:
        from sweeps.pilot import measure

        say("a pilot: a few real steps of each kind on this machine's device")
        found.append(measure(experiment, options, say))
        if not named(found, device):
            raise InputError(fault("gpu", device, f"is not this machine's, {found[0].device}", "Leave it out."))
    if done and (ran := of_run(steps, done, counts, store, device)):
        found.append(ran)
    kept = read_machines()
    todo = [step for step in steps if step.key not in done]
    return cost_of(
        todo, counts, _cluster(options, gpus), here=[*found, *named(kept, device)], elsewhere=kept, device=device,
        price=options.price, num_done=len(done),
    )  # fmt: skip


def of_run(
    steps: Sequence[Step], done: Mapping[str, Done], counts: Counts, store: Store, device: str
) -> Machine | None:
    """Return the speeds of the steps of a run that are done; None where they ran on another device.

    A run on a CPU does not say which: it is taken to be this machine's.
    """
    records = [done[step.key] for step in steps if step.key in done]
    names = [record.device for record in records if record.device and record.kind == LORA.name]
    name = device if not names or names[0].startswith("cpu") else names[0]
    if device.casefold() not in name.casefold():
        return None
    measured = [measured_of(step, done[step.key], counts, store) for step in steps if step.key in done]
    return Machine(
        device=name, source="run", measured_at=max((r.started_at or "" for r in records), default=""),
        speeds=speeds_of(one for one in measured if one is not None),
    )  # fmt: skip


def _record(store: Store, step: Step) -> Done | None:
    try:
        return store.done(step)
    except Damaged:
        return None


def _device(place: Place, options: ClusterOptions) -> tuple[str, int]:
    """Return the device's name and the number of GPUs."""
    if place.gpu is not None:
        return place.gpu, 1 if place.gpus is None else place.gpus
    import torch

    from fulora.device import hardware

    if place.gpus == 0 or options.device == "cpu" or not torch.cuda.is_available():
        if place.gpus:
            rule = "is not given, and this machine has no GPU that could be meant"
            raise InputError(fault("gpu", None, rule, "Name it, such as --gpu H100."))
        return hardware("cpu"), 0
    return hardware("cuda"), torch.cuda.device_count() if place.gpus is None else place.gpus


def _cluster(options: ClusterOptions, gpus: int) -> Cluster:
    cores = options.num_cpus or (gpus * _CORES_PER_GPU if gpus else os.cpu_count() or 1)
    alone = options.executor == "process"
    return Cluster(
        num_cpus=1 if alone else cores, num_gpus=float(min(gpus, 1) if alone else gpus), num_nodes=1,
        gpus_per_trial=options.gpus_per_trial or 1.0,
    )  # fmt: skip

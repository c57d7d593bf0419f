"""A pilot: the study in small on this machine, whose steps are the real ones, to learn how long each work takes.

In: an experiment. Out: a `Machine` with the speeds. It runs on phantoms, whatever the data, at the study's own base,
resolution, batch sizes, ranks and models; few optimizer steps, images and epochs. As many copies run at once as steps
would on these cores, so that they wait for each other as steps do.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fulora.classify.models import MODELS
from fulora.experiment import Amounts, Experiment
from fulora.planes import PLANES
from sweeps.console.progress import Quiet
from sweeps.core.attempts import Attempt
from sweeps.core.hashing import content_hash
from sweeps.core.paths import RunPaths
from sweeps.core.provenance import provenance
from sweeps.core.step import Step, closure
from sweeps.cost.estimate import counts_of
from sweeps.cost.speeds import Machine, Measured, measured_of, speeds_of
from sweeps.cost.work import work_of
from sweeps.engine.options import ClusterOptions, Device
from sweeps.engine.resources import prepare_worker
from sweeps.run import save_plan, sources
from sweeps.session import Session
from sweeps.study import Plan, make_plan
from sweeps.views import show

_OPTIMIZER_STEPS, _REPORT_EVERY = 12, 4
"""The first four optimizer steps warm up and are not counted."""
_JUDGE_IMAGES, _TRAINING_IMAGES, _ON_GPU = 240, 50, 8
"""Images a judge and a classifier learn from, twice; classifiers from eight times as many where there is a GPU."""
_MOST_COPIES = 4


def small(experiment: Experiment, *, on_gpu: bool) -> Experiment:
    """Return the pilot's experiment."""
    lora, grid, sampling = experiment.lora, experiment.grid, experiment.sampling
    images = _TRAINING_IMAGES * (_ON_GPU if on_gpu else 1)
    drawn = min(images // 2, sampling.batch_size * len(PLANES)) // len(PLANES) * len(PLANES)
    asked = experiment.amounts.cells(experiment.sizes)
    frozen = any(MODELS[model].trained == "head" for model in grid.models)
    held = min(grid.num_validation, 10)
    weights: dict[str, Any] = {} if frozen else {"pretrained": "none", "weights": None}  # as fast, and need no files
    return replace(
        experiment,
        spanish=None,
        african=None,
        data_required=False,
        choose_rank="given",
        replicates=1,
        lora=replace(lora, num_steps=_OPTIMIZER_STEPS, log_every=_REPORT_EVERY, heldout_every=_OPTIMIZER_STEPS),
        sampling=replace(
            sampling, samplers=sampling.samplers[:1], images_per_plane=sampling.batch_size, seeds=None,
            rank=sampling.rank if sampling.rank in lora.ranks else lora.ranks[-1],
        ),
        compare_per_plane=1,
        sizes=replace(experiment.sizes, num_spanish=images, num_spanish_hybrid=drawn, num_synthetic=drawn),
        grid=replace(grid, epochs=2, num_steps=None, num_seeds=1, num_validation=held, **weights),
        amounts=Amounts(numbers=(0, drawn), model=experiment.amounts.model) if asked else Amounts(),
        judge=replace(experiment.judge, num_images=_JUDGE_IMAGES, num_heldout=60, epochs=2),
        phantoms=replace(experiment.phantoms, num_spanish=max(400, 2 * images)),
    )  # fmt: skip


def measure(experiment: Experiment, options: ClusterOptions, say: Callable[[str], None]) -> Machine:
    """Return the speeds of an experiment's works on this machine's device; `say` is told of steps that failed.

    Takes about as long as loading everything a few times; nothing is left behind.
    """
    name, has_gpu = _in_one_process(_device, options.device)
    cores = options.num_cpus or os.cpu_count() or 1
    copies = 1 if has_gpu or options.executor == "process" else min(_MOST_COPIES, cores)
    experiment = small(experiment, on_gpu=has_gpu)
    with tempfile.TemporaryDirectory(prefix="sweeps-pilot-") as scratch:
        folders = [Path(scratch) / f"{copy}" for copy in range(copies)]
        with _pool(copies) as pool:
            ran = [pool.submit(run_small, experiment, folder, options.device) for folder in folders]
            answers = [future.result() for future in ran]
    for failed in answers[0][1]:
        say(f"pilot: {failed.label} failed and is not measured: {failed.error_type}: {failed.error_message}")
    return Machine(
        device=name, source="pilot", at_once=copies,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"), commit=provenance().get("commit"),
        speeds=speeds_of(one for measured, _ in answers for one in measured),
    )  # fmt: skip


def run_small(experiment: Experiment, folder: Path, device: Device) -> tuple[list[Measured], list[Attempt]]:
    """Run a pilot's experiment in this process; return what its steps took, and the attempts that failed."""
    prepare_worker(1, on_gpu=device != "cpu")
    paths = RunPaths(folder)
    options = ClusterOptions(executor="process", device=device)
    with Session(paths, options, Quiet()) as session:
        plan = make_plan(experiment, sources(session, experiment))
        session.write(plan.selections)
        save_plan(plan, paths)
        session.do(_targets(plan))
        summaries = plan.summaries("report", session.is_done)
        session.do(summaries)
        show(plan, summaries, paths, session.is_done, session.progress.say)
        session.save([])
        report = plan.report(session.is_done, summaries)
        session.do([report])
        counts, steps = counts_of(plan), closure([*_targets(plan), *summaries, report])
        done = [(step, record) for step in steps if (record := session.record(step)) is not None]
        found = [measured_of(step, record, counts, paths.store) for step, record in done]
        return [one for one in found if one is not None], session.failed


def _targets(plan: Plan) -> list[Step]:
    """Return one step of each work: no images but of the chosen rank, no two classifiers that differ in data alone."""
    features = [plan.features[name] for name in (plan.chosen.label, "learned", "others", "planted")]
    counts, cells = counts_of(plan), dict[str, Step]()
    for cell in plan.cells:
        cells.setdefault(content_hash([work_of(cell, counts).settings, cell.config.in_tables]), cell)
    embedding = [plan.embedding] if plan.embedding is not None else []
    return [plan.catalog, plan.audit, *plan.ranks, plan.judge, *plan.chosen.steps, *features, *cells.values(),
            *plan.pixels, *embedding]  # fmt: skip


def _device(device: Device) -> tuple[str, bool]:
    from fulora.device import hardware, resolve_device

    place = resolve_device("cpu" if device == "cpu" else "auto")
    return hardware(place), place.startswith("cuda")


def _in_one_process(work: Callable[[Device], tuple[str, bool]], device: Device) -> tuple[str, bool]:
    with _pool(1) as pool:  # a driver keeps no device to itself
        return pool.submit(work, device).result()


def _pool(size: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn"))

"""Entry points beside a run: a search over LoRA settings, and a synthetic set drawn straight to another place.

In: an experiment, a run's folder, a place to run. Out: candidates in the run; images at the destination.
"""

from __future__ import annotations

from dataclasses import replace

from fulora.errors import fault, raise_if_any
from fulora.experiment import Experiment
from sweeps.console.progress import Progress
from sweeps.core.attempts import Attempt
from sweeps.core.files import remove_leftovers
from sweeps.core.lock import locked
from sweeps.core.mirror import Mirror
from sweeps.core.paths import RunPaths
from sweeps.core.step import closure
from sweeps.engine.options import ClusterOptions
from sweeps.images.destination import Destination
from sweeps.images.elsewhere import DrawingFailed, draw_to
from sweeps.images.quality_plan import real_selections
from sweeps.ranks.candidates import plan_search
from sweeps.ranks.search_space import LoraSearch
from sweeps.run import check, needs_gpu, save_plan, sources, with_chosen_rank
from sweeps.session import Session
from sweeps.study import make_plan
from sweeps.views import show


def search(
    experiment: Experiment, space: LoraSearch, paths: RunPaths, *, options: ClusterOptions, progress: Progress
) -> list[Attempt]:
    """Search over LoRA settings and return this call's candidates that failed.

    Raises InputError before any work for input that cannot be used.
    """
    from sweeps.ranks.search import search_lora

    faults = [*options.validate(), *options.refuse_storage("--search"), *space.validate(), *_no_limit(options)]
    raise_if_any(faults)
    check(experiment, paths)
    with locked(paths), Session(paths, options, progress) as session:
        remove_leftovers(paths.root)
        session.needs_gpu = needs_gpu(experiment)
        records = sources(session, experiment)
        plan = make_plan(experiment, records)
        others = real_selections(experiment, records, plan.compared)[1] if space.objective == "kid" else None
        found = plan_search(experiment, space, records, plan.judge, others)
        session.write([*plan.selections, *found.selections])
        save_plan(plan, paths)
        try:
            if others is not None:
                session.do([plan.judge])
                if not session.is_done(plan.judge):
                    return session.failed
            with session.watching(space.num_trials):
                return search_lora(
                    found, paths=paths, log=session.log, cluster=lambda: session.cluster, watch=session.watch,
                    max_retries=options.max_retries,
                )  # fmt: skip
        finally:
            session.save(closure([plan.judge]))


def draw_elsewhere(
    experiment: Experiment,
    paths: RunPaths,
    destination: Destination,
    *,
    options: ClusterOptions,
    progress: Progress,
) -> list[Attempt]:
    """Draw the chosen rank's images at a destination, none into the run; return the attempts that failed.

    Trains that rank where it is missing. Raises InputError before any work for input or a place that cannot be used,
    DrawingFailed where images cannot be drawn, kept or counted.
    """
    raise_if_any([*options.validate(), *_no_limit(options)])
    check(experiment, paths)
    destination.remote.check()
    with locked(paths), Session(paths, options, progress) as session:
        remove_leftovers(paths.root)
        session.needs_gpu = needs_gpu(experiment)
        records = sources(session, experiment)
        if experiment.choose_rank != "given":
            few = replace(experiment.sampling, images_per_plane=experiment.compare_per_plane)
            small = with_chosen_rank(session, make_plan(replace(experiment, sampling=few), records))
            if small.choice is None or not session.is_done(small.choice):
                raise DrawingFailed(f"the rank could not be chosen: {session.failed[0].error_message}")
            rank = small.experiment.sampling.rank
            experiment = replace(experiment, sampling=replace(experiment.sampling, rank=rank))
        plan = make_plan(experiment, records, with_grid=False)
        session.write(plan.selections)
        if not paths.plan.is_file():  # images for elsewhere are no part of a run that is here
            save_plan(plan, paths)
        which = plan.chosen
        adapters = [which.adapter] if which.adapter is not None else []
        try:
            session.do(adapters)
            if not all(map(session.is_done, adapters)):
                raise DrawingFailed(f"{which.label} could not be trained: {session.failed[0].error_message}")
            adapter, nodes, cluster = session.store.folder(adapters[0]) if adapters else None, None, session.cluster
            if isinstance(session.store, Mirror):
                session.store.publish(adapters)
                session.store.take_in({which.base.spec, str(which.config.seeds)})
                nodes = session.store.for_nodes()
            with session.watching(0):
                told = session.watch.drawn
                draw_to(destination, which, adapter=adapter, cluster=cluster, on_drawn=told, nodes=nodes)
        finally:
            show(plan, [], paths, session.is_done, session.progress.say)
            session.save(closure(adapters))
        return session.failed


def _no_limit(options: ClusterOptions) -> list[str]:
    """Return the fault of a limit that would not be kept: candidates and images for elsewhere are no steps of a run."""
    if options.max_gpu_hours is None:
        return []
    rule = "holds for a run's steps alone, not for a search or images drawn elsewhere"
    return [fault("max_gpu_hours", options.max_gpu_hours, rule, "Leave it out.")]

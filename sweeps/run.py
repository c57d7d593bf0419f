"""Do what is missing of a study: a loop over its steps.

In: an experiment, a folder, a place to run. Out: the folder filled as the README shows; a second call does only what is
missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fulora.data.records import ImageRecord
from fulora.data.regimes import select_test_images
from fulora.diffusion.base_files import TINY, check_base, check_hub
from fulora.endpoint import planned_power
from fulora.errors import InputError, raise_if_any
from fulora.evaluate.clusters import merge_patients
from fulora.experiment import Experiment
from sweeps.console.progress import Progress
from sweeps.core.attempts import Attempt
from sweeps.core.files import check_writable, remove_leftovers, write_json
from sweeps.core.hashing import data_hash, to_jsonable
from sweeps.core.lock import check_owner, locked
from sweeps.core.paths import RunPaths
from sweeps.core.provenance import provenance
from sweeps.core.step import STAGES, Stage, Step, closure
from sweeps.core.tables import SCHEMA_VERSION
from sweeps.engine.options import ClusterOptions
from sweeps.grid.cells import check_weights
from sweeps.images.rank_choice import read_choice
from sweeps.session import Session
from sweeps.sources.catalog import read_catalog
from sweeps.study import Plan, make_plan, plan_catalog
from sweeps.views import show, show_report


def check(experiment: Experiment, paths: RunPaths) -> None:
    """Raise InputError for everything that can be known to be wrong before any work."""
    raise_if_any(experiment.validate())
    check_base(experiment.base, allow_pickle=experiment.allow_pickle)
    check_owner(experiment.recipe, paths)
    check_hub(experiment.base)
    check_writable(paths.root)


def needs_gpu(experiment: Experiment) -> bool:
    """Return whether fine-tuning is of Stable Diffusion's size: days to weeks on a CPU."""
    return experiment.base != TINY and experiment.lora.resolution_px >= 256


def run(
    experiment: Experiment,
    paths: RunPaths,
    *,
    options: ClusterOptions,
    progress: Progress,
    until: Stage = "report",
) -> list[Attempt]:
    """Do what is missing of an experiment, up to a stage, and return the attempts that failed in this call.

    Raises InputError before any work for input that cannot be used.
    """
    raise_if_any(options.validate())
    check(experiment, paths)
    with locked(paths), Session(paths, options, progress) as session:
        remove_leftovers(paths.root)
        session.needs_gpu = needs_gpu(experiment)
        records = sources(session, experiment)
        plan = make_plan(experiment, records)
        if STAGES.index(until) >= STAGES.index("grid"):
            check_weights([cell for cell in plan.cells if not session.is_done(cell)])
        choice = [plan.choice] if plan.choice and STAGES.index(until) >= STAGES.index("sample") else []
        summaries: list[Step] = []
        try:
            session.write(plan.selections)
            save_plan(plan, paths)
            if choice:
                plan = with_chosen_rank(session, plan)
                until = until if session.is_done(choice[0]) else "lora"  # no images of a rank that nothing chose
                session.write(plan.selections)
                save_plan(plan, paths)
            session.do(plan.targets(until))
            summaries = plan.summaries(until, session.is_done)
            session.do(summaries)
        finally:
            show(plan, summaries, paths, session.is_done, session.progress.say)
            planned = closure([*plan.targets(until), *choice, *summaries])
            session.save(planned)
        if until == "report":
            report = plan.report(session.is_done, summaries)
            session.do([report], in_process=True)
            if session.is_done(report):
                show_report(report, paths)
            session.save(closure([report, *planned]))
        return session.failed


def sources(session: Session, experiment: Experiment) -> list[ImageRecord]:
    """Return the records of the catalog, made where it is missing. Raises InputError for images that cannot be used."""
    catalog = plan_catalog(experiment)
    session.do([catalog], in_process=True)
    if not session.is_done(catalog):
        failed = [a for a in session.failed if a.stage in ("catalog", "phantoms")]
        raise InputError((failed[0].error_message or "").split("\n") if failed else "the catalog could not be made")
    for note in session.record(catalog).notes:  # type: ignore[union-attr]
        session.progress.say(f"note: {note}")
    return read_catalog(session.store.folder(catalog), session.store.root)


def with_chosen_rank(session: Session, plan: Plan) -> Plan:
    """Return the plan that samples the rank its experiment asks for, having chosen it by a score where it says so."""
    choice = plan.choice
    if choice is None:
        return plan
    session.write(plan.selections)
    session.do([choice])
    if not session.is_done(choice):
        return plan
    rank = read_choice(session.store.folder(choice))
    session.progress.say(f"note: {session.record(choice).notes[0]}")  # type: ignore[union-attr]
    experiment = replace(plan.experiment, sampling=replace(plan.experiment.sampling, rank=rank))
    return make_plan(experiment, plan.records)


def save_plan(plan: Plan, paths: RunPaths) -> None:
    """Write plan.json: the resolved configuration, every trial and set."""
    experiment = plan.experiment
    write_json(
        paths.plan,
        {
            "schema_version": SCHEMA_VERSION,
            "recipe": experiment.recipe,
            "seed": experiment.seed,
            "data_hash": data_hash(plan.records),
            "experiment": to_jsonable(experiment),
            "trials": [_about(step) for step in plan.trials],
            "images": [
                {"label": s.label, "chosen": s.chosen, "num_images": s.num_images}
                for s in (*plan.sets, *(each.images for each in plan.replicates))
            ],
            "endpoint": {"words": experiment.endpoint.words, **_power(plan)},
            "steps": [{"key": s.key, "kind": s.kind.name, "stage": s.kind.stage} for s in _all(plan)],
            "provenance": provenance(),
        },
    )


def _power(plan: Plan) -> dict[str, object]:
    """Return what the study can find, before it runs; patients who share an image count once."""
    test, experiment = select_test_images(plan.records), plan.experiment
    patients = set(merge_patients([r.patient_id for r in test], [r.pixel_hash for r in test]))
    trained, endpoint = set(experiment.grid.regimes), experiment.endpoint
    power = planned_power(
        num_replicates=experiment.replicates, num_seeds=experiment.grid.num_seeds, num_patients=len(patients)
    )  # fmt: skip
    return {"in_grid": {endpoint.regime, endpoint.reference} <= trained, **power}


def _all(plan: Plan) -> Sequence[Step]:
    return closure(plan.targets("report"))


def _about(step: Step) -> dict[str, object]:
    return {
        "trial_id": step.key, "stage": step.kind.name, "label": step.label, "config": to_jsonable(step.config)
    }  # fmt: skip

"""What a run is: the stages in order, on one page.

In: an `Experiment`, a folder, a place to run. Out: the folder filled as the README shows; a second call does
only what is missing. Every stage hands over files, so it can be read, tested and repeated by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fulora.data.records import ImageRecord
from fulora.diffusion.base_files import check_base, check_hub, fingerprint
from fulora.errors import raise_if_any
from fulora.experiment import Experiment
from sweeps import classifier_grid, grid_plan, lora_sweep, results, scoring, synthesis
from sweeps.amounts import write_amounts
from sweeps.catalog import audit_synthetic, build_catalog, read_synthetic
from sweeps.core.provenance import provenance
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.image_output import Destination, draw_to
from sweeps.image_sets import ImageSet, image_sets
from sweeps.ownership import check_owner, locked, remove_leftovers
from sweeps.packing import packed
from sweeps.paths import RunPaths, check_writable, write_json
from sweeps.progress import Progress, shown
from sweeps.quality import measure_quality
from sweeps.rank_choice import choose_rank
from sweeps.record import STAGES, Record, StageFailed, StageName
from sweeps.search import search_lora
from sweeps.search_space import LoraSearch
from sweeps.tables import write_trials
from sweeps.trials import Attempt, Trial, data_hash, missing, plain, read_attempts
from sweeps.tuning import Work, run_trials


@dataclass(frozen=True, slots=True)
class Plan:
    """Every trial and image a run consists of."""

    judge: Trial
    lora: list[Trial]
    images: list[ImageSet]
    grid: list[Trial]

    @property
    def trials(self) -> list[Trial]:
        """All trials, in the order of the stages."""
        return [self.judge, *self.lora, *self.grid]

    @property
    def chosen(self) -> ImageSet:
        """The images classifiers train on."""
        return next(s for s in self.images if s.chosen)


def make_plan(experiment: Experiment, records: Sequence[ImageRecord] | None, *, with_grid: bool = True) -> Plan:
    """Return the plan; `records` None plans without having read any data (trial ids then lack the data's hash).

    Without the grid no synthetic image is listed, so that a set of millions can be planned.
    """
    lora = lora_sweep.rank_trials(experiment, records)
    base_id = f"{fingerprint(experiment.base)}-{experiment.lora.resolution_px}"
    images = image_sets(experiment, lora, base_id)
    chosen = next(s for s in images if s.chosen)
    grid = grid_plan.grid_trials(experiment, records, chosen) if with_grid else []
    return Plan(lora_sweep.judge_trial(experiment, records), lora, images, grid)


def check(experiment: Experiment, paths: RunPaths) -> None:
    """Raise InputError for everything that can be known to be wrong before any work."""
    raise_if_any(experiment.faults())
    check_base(experiment.base, allow_pickle=experiment.allow_pickle)
    check_owner(experiment.recipe, paths)
    check_hub(experiment.base)
    check_writable(paths.root)


def run(
    experiment: Experiment,
    paths: RunPaths,
    *,
    options: ClusterOptions,
    progress: Progress,
    until: StageName = "report",
    search: LoraSearch | None = None,
    destination: Destination | None = None,
) -> list[Attempt]:
    """Do what is missing of an experiment, up to a stage, and return the attempts that failed in this call.

    With `search` given, that is done after the sources, and nothing else. With `destination` given, the chosen rank's
    images are drawn there, and none into the run.

    Raises InputError before any work for input that cannot be used; StageFailed where a stage has nothing to go on.
    """
    raise_if_any([*options.faults(), *(search.faults() if search else [])])
    check(experiment, paths)
    if destination is not None:
        destination.check()
    with locked(paths):
        remove_leftovers(paths)
        record = Record(paths, progress)
        with record.stage("sources", "driver") as row:
            records, notes = build_catalog(experiment, paths, progress)
            row["num_done"] = len(records)
        plan = make_plan(experiment, records, with_grid=destination is None)
        if destination is None or not paths.plan.is_file():  # images for elsewhere are no part of a run that is here
            _save_plan(experiment, plan, records, paths)
        record.note("sources", notes)
        record.note("lora", lora_sweep.lora_images(experiment, records)[1])
        if until == "sources":
            return []
        failed: list[Attempt] = []
        try:
            with connected(options, progress.say) as cluster:
                progress.say(f"running on {cluster}")
                if search is not None:
                    failed = search_lora(experiment, search, records, paths=paths, cluster=cluster, progress=progress)
                    return failed
                for stage in STAGES[1 : STAGES.index(until) + 1]:
                    if stage == "sample" and experiment.choose_rank != "given":
                        experiment, why = choose_rank(
                            experiment, plan.images, records, paths=paths, cluster=cluster, progress=progress
                        )
                        record.note("sample", [why])
                        plan = make_plan(experiment, records, with_grid=destination is None)
                        if destination is None:
                            _save_plan(experiment, plan, records, paths)
                    if stage == "sample" and destination is not None:
                        draw_to(
                            destination, plan.chosen, experiment=experiment, adapter=plan.chosen.adapter(paths),
                            cluster=cluster, progress=progress,
                        )  # fmt: skip
                        return failed
                    failed += _DO[stage](experiment, plan, records, record, cluster)
        finally:
            write_trials(paths.trials, read_attempts(paths))
        return failed


def _do_lora(
    experiment: Experiment, plan: Plan, records: list[ImageRecord], record: Record, cluster: Cluster
) -> list[Attempt]:
    work: dict[str, Work] = {
        "lora": partial(lora_sweep.train_rank, experiment=experiment),
        "judge": partial(lora_sweep.train_judge_trial, experiment=experiment),
    }
    paths, trials = record.paths, [*plan.lora, plan.judge]
    in_place = {t.trial_id for t in lora_sweep.in_place(paths, trials)}
    todo = sorted((t for t in trials if t.trial_id not in in_place), key=lambda t: -t.cost)
    if ranks := [t for t in todo if t.stage == "lora"]:
        measure = partial(lora_sweep.measure_rank, ranks[0], paths, experiment)
        cluster, words = packed(measure, num_trials=len(todo), cluster=cluster)
        record.note("lora", [words] if words else [])
    failed = _run_trials("lora", todo, len(in_place), work, record, cluster)
    if failed:
        raise StageFailed(_reasons("the rank sweep is incomplete", failed))
    return []


def _do_sample(
    experiment: Experiment, plan: Plan, records: list[ImageRecord], record: Record, cluster: Cluster
) -> list[Attempt]:
    paths = record.paths
    todo = synthesis.missing_shards(plan.images, paths)
    total, whole = synthesis.num_images(plan.images, todo), sum(s.num_images for s in plan.images)
    with record.stage("sample", str(cluster)) as row, shown(record.progress, "sample", total, "images"):
        row["num_reused"] = whole - total
        row["num_done"] = synthesis.sample_shards(
            experiment, plan.images, paths=paths, cluster=cluster, progress=record.progress
        )
        for which in plan.images:
            synthesis.assemble(which, paths)
    results.write_rank_table(experiment, plan.lora, plan.judge, plan.images, paths)
    record.note("sample", measure_quality(experiment, plan.images, records, paths))
    return []


def _do_grid(
    experiment: Experiment, plan: Plan, records: list[ImageRecord], record: Record, cluster: Cluster
) -> list[Attempt]:
    paths = record.paths
    synthetic, notes = audit_synthetic(experiment, records, paths)
    record.note("grid", notes)
    both = [*records, *synthetic]
    classifier_grid.write_pixel_stores(experiment, both, paths)
    for regime in dict.fromkeys((*experiment.grid.regimes, *experiment.grid.table2_regimes)):
        record.note("grid", grid_plan.training_set(experiment, regime, both).notes)
    for sizes in grid_plan.amount_sizes(experiment):
        record.note("grid", grid_plan.training_set(experiment, experiment.amounts.regime, both, sizes).notes)
    record.note("grid", grid_plan.validation_notes(plan.grid, both, experiment))
    work: dict[str, Work] = {"grid": partial(classifier_grid.train_cell, experiment=experiment)}
    absent = missing(plan.grid, paths)
    # A trial that succeeded but whose predictions were deleted is run again.
    todo = [*absent, *(t for t in plan.grid if t not in absent and not paths.prediction(t.trial_id).is_file())]
    measure = partial(classifier_grid.measure_models, todo, experiment)
    cluster, words = packed(measure, num_trials=len(todo), cluster=cluster)
    record.note("grid", [words] if words else [])
    failed = _run_trials("grid", todo, len(plan.grid) - len(todo), work, record, cluster)
    if not classifier_grid.gather_predictions(plan.grid, paths):
        raise StageFailed(_reasons("no classifier was trained", failed))
    scoring.write_score_tables(experiment, plan.grid, paths)
    write_amounts(experiment, plan.grid, paths)
    return failed


def _do_report(
    experiment: Experiment, plan: Plan, records: list[ImageRecord], record: Record, cluster: Cluster
) -> list[Attempt]:
    from sweeps.report import write_report

    with record.stage("report", "driver") as row:
        notes = results.write_embedding(experiment, [*records, *read_synthetic(record.paths)], record.paths)
        record.note("report", notes)
        row["num_done"] = 1
    write_trials(record.paths.trials, read_attempts(record.paths))
    record.progress.say("writing the report")
    write_report(record.paths)
    shutil.rmtree(record.paths.tune, ignore_errors=True)
    return []


_DO: dict[str, Callable[[Experiment, Plan, list[ImageRecord], Record, Cluster], list[Attempt]]] = {
    "lora": _do_lora,
    "sample": _do_sample,
    "grid": _do_grid,
    "report": _do_report,
}


def _run_trials(
    stage: str, todo: list[Trial], num_reused: int, work: Mapping[str, Work], record: Record, cluster: Cluster
) -> list[Attempt]:
    """Run a stage's missing trials and return the attempts that failed."""
    with record.stage(stage, str(cluster)) as row, shown(record.progress, stage, len(todo), "trials"):
        attempts = run_trials(todo, work, paths=record.paths, cluster=cluster, progress=record.progress)
        failed = [a for a in attempts if a.status != "SUCCEEDED"]
        row |= {"num_done": len(attempts) - len(failed), "num_reused": num_reused}
    return failed


def _reasons(what: str, failed: Sequence[Attempt]) -> str:
    return "\n".join([f"{what}:", *(f"  {a.label}: {a.error_type}: {a.error_message}" for a in failed)])


def _save_plan(experiment: Experiment, plan: Plan, records: Sequence[ImageRecord], paths: RunPaths) -> None:
    write_json(
        paths.plan,
        {
            "recipe": experiment.recipe,
            "seed": experiment.seed,
            "data_hash": data_hash(records),
            "experiment": plain(experiment),
            "trials": [
                {"trial_id": t.trial_id, "stage": t.stage, "label": t.label, "config": plain(t.config)}
                for t in plan.trials
            ],
            "images": [{"label": s.label, "chosen": s.chosen, "num_images": s.num_images} for s in plan.images],
            "provenance": provenance(),
        },
    )

"""Search over LoRA settings beyond the paper: Optuna proposes, ASHA stops what lags behind, every candidate is a row.

In: an experiment, a `LoraSearch`, the catalog. Out: a row of trials.parquet per candidate (SUCCEEDED, PRUNED, FAILED)
and tables/search.parquet, best first. The rows are also the memory of the search: continued, it tells Optuna of every
candidate with a value and goes on to the number asked for. No study file, no pickle.
The objective is the held-out loss, or KID of images sampled from the candidate (`fulora.evaluate.fidelity`).
Sources: Akiba et al. 2019 (Optuna, its TPE sampler); Li et al. 2020 (ASHA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from fulora.data.pixels import pixel_hash
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_heldout_images
from fulora.diffusion.base_files import fingerprint
from fulora.diffusion.lora_config import LoraConfig
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.seeds import derive_seed
from sweeps.core.paths import RunPaths
from sweeps.core.tables import write_table
from sweeps.engine.resources import Cluster, prepare_worker
from sweeps.lora_sweep import finetune_records, in_place, judge_trial, lora_images, train_judge_trial
from sweeps.progress import Progress
from sweeps.quality import Eye, judge_identity, real_images
from sweeps.sampling_actors import open_sampler
from sweeps.search_space import LoraSearch
from sweeps.trials import Attempt, Trial, data_hash, next_attempt, plain, read_attempts, short_hash
from sweeps.tuning import Report, Watch, Work, attempt_trial, give_memory_back, run_trials, tune_settings

FINISHED = ("SUCCEEDED", "PRUNED")
"""Candidates that tell Optuna something."""


def search_lora(
    experiment: Experiment,
    space: LoraSearch,
    records: Sequence[ImageRecord],
    *,
    paths: RunPaths,
    cluster: Cluster,
    progress: Progress,
) -> list[Attempt]:
    """Try candidates until the search has as many as asked for; return this call's attempts that failed.

    Raises InputError where no image can be held out, for then there is nothing to compare candidates by.
    """
    from ray import tune

    learned = lora_images(experiment, records)[0]
    watched = select_heldout_images(
        records, learned, per_plane=max(1, experiment.lora.heldout_per_plane), seed=experiment.seed
    )
    if not watched:
        rule = "compares candidates on patients LoRA does not see, and LoRA takes images of all of them"
        raise InputError(fault("search", "optuna", rule, "Lower --lora.images-per-plane, or give more images"))
    inputs = {"data": data_hash(learned), "heldout": data_hash(watched), "base": fingerprint(experiment.base)}
    others: list[ImageRecord] = []
    if space.objective == "kid":
        _have_judge(experiment, records, paths, cluster, progress)
        others = real_images(experiment, records, experiment.compare_per_plane * len(experiment.sampling.samplers))[1]
        drawn = [plain(experiment.sampling), experiment.compare_per_plane]
        seen_by = [judge_identity(paths), str(experiment.embedding.feature_weights)]
        inputs |= {"real": data_hash(others), "sampling": short_hash(drawn), "features": short_hash(seen_by)}
    before = candidates(experiment, space, inputs, paths)
    left = space.num_trials - len(before)
    progress.say(f"search: {len(before)} candidates are there, {max(0, left)} to go")
    failed: list[Attempt] = []
    if left > 0:
        work = partial(_try, experiment=experiment, learned=learned, watched=watched, others=others)
        numbers = {a.trial_id: next_attempt(paths, a.trial_id) for a in read_attempts(paths)}
        make = partial(_trial, experiment=experiment, inputs=inputs, objective=space.objective)
        watch = _Watch(make, numbers, paths, progress)

        def trainable(settings: dict) -> None:
            prepare_worker(cluster.num_threads, on_gpu=cluster.num_gpus > 0)
            trial = make(settings)
            attempt = attempt_trial(trial, paths, work, numbers.get(trial.trial_id, 1), tune.report)
            last: dict[str, Any] = {"fraction": 1.0, "status": attempt.status}
            if attempt.status == "SUCCEEDED":
                values = {name: attempt.metrics[name] for name in ("heldout_loss", str(space.objective))}
                tune.report({**last, **values, "step": trial.config["num_steps"], "note": _summary(attempt)})
            else:  # without a step ASHA does not look at it, and Optuna leaves out what is not a number
                note = f"{attempt.error_type}: {attempt.error_message}"
                tune.report({**last, space.objective: math.nan, "note": note})
            give_memory_back()

        tuner = tune.Tuner(
            tune.with_resources(trainable, cluster.for_tune),
            tune_config=tune.TuneConfig(
                search_alg=_searcher(experiment, space, before),
                scheduler=_scheduler(experiment, space),
                num_samples=left,
                reuse_actors=True,  # saves a candidate the imports; one that was stopped is followed by a new process
            ),
            run_config=tune_settings("search", paths, watch),
        )
        try:
            tuner.fit()
        except KeyboardInterrupt:
            watch.cancel_running()
            raise
        mine = set(watch.started)
        failed = [a for a in read_attempts(paths) if a.trial_id in mine and a.status == "FAILED"]
    _write_table(candidates(experiment, space, inputs, paths), space, paths)
    return failed


def candidates(experiment: Experiment, space: LoraSearch, inputs: Mapping[str, str], paths: RunPaths) -> list[Attempt]:
    """Return the finished candidates of the same data, base and space, best first."""
    found = {}
    for attempt in read_attempts(paths):
        same = all(attempt.provenance.get(f"{key}_hash") == value for key, value in inputs.items())
        mine = attempt.config.get("objective") == space.objective
        if attempt.stage != "search" or attempt.status not in FINISHED or not (same and mine):
            continue
        if _inside(_settings(attempt, space), space, experiment):
            found[attempt.trial_id] = attempt
    return sorted(found.values(), key=lambda a: (a.status != "SUCCEEDED", _value(a, space)))


def _value(attempt: Attempt, space: LoraSearch) -> float:
    """Return what a candidate reached; one that was stopped has been sampled from by nobody and has its loss alone."""
    return float(attempt.metrics.get(space.objective, attempt.metrics["heldout_loss"]))


def _have_judge(
    experiment: Experiment, records: Sequence[ImageRecord], paths: RunPaths, cluster: Cluster, progress: Progress
) -> None:
    """Train the judge unless it is in place: where there are no Inception weights, KID is taken on its features."""
    judge = judge_trial(experiment, records)
    if not in_place(paths, [judge]):
        work: dict[str, Work] = {"judge": partial(train_judge_trial, experiment=experiment)}
        (attempt,) = run_trials([judge], work, paths=paths, cluster=cluster, progress=progress)
        if attempt.status != "SUCCEEDED":
            raise RuntimeError(f"the judge could not be trained: {attempt.error_type}: {attempt.error_message}")


def _settings(attempt: Attempt, space: LoraSearch) -> dict[str, Any]:
    """Return what the search chose for a candidate."""
    config = attempt.config
    scale = config["alpha"] / config["rank"]
    nearest = min(space.alpha_over_rank, key=lambda choice: abs(choice - scale))
    return {
        "rank": config["rank"],
        "alpha_over_rank": nearest if math.isclose(nearest, scale) else scale,
        **{key: config[key] for key in ("learning_rate", "num_steps", "targets")},
    }


def _inside(settings: Mapping[str, Any], space: LoraSearch, experiment: Experiment) -> bool:
    """Return whether a candidate is one of this space: a narrower search does not take up what lies outside."""
    low, high = space.learning_rate
    return (
        settings["rank"] in space.ranks
        and settings["alpha_over_rank"] in space.alpha_over_rank
        and low <= settings["learning_rate"] <= high
        and settings["num_steps"] in (space.num_steps or (experiment.lora.num_steps,))
        and settings["targets"] in space.targets
    )


def _distributions(experiment: Experiment, space: LoraSearch) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        "rank": CategoricalDistribution(space.ranks),
        "alpha_over_rank": CategoricalDistribution(space.alpha_over_rank),
        "learning_rate": FloatDistribution(*space.learning_rate, log=True),
        "num_steps": CategoricalDistribution(space.num_steps or (experiment.lora.num_steps,)),
        "targets": CategoricalDistribution(space.targets),
    }


def _searcher(experiment: Experiment, space: LoraSearch, before: Sequence[Attempt]) -> Any:
    """Return Optuna's TPE, told of the candidates that are there."""
    import logging

    import optuna
    from optuna.samplers import TPESampler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(logging.ERROR)
    # Continued, it must not propose again what it proposed before: another number of candidates, another seed.
    sampler = TPESampler(seed=derive_seed(experiment.seed, "search", len(before)) % 2**32)
    searcher = OptunaSearch(_distributions(experiment, space), metric=space.objective, mode="min", sampler=sampler)
    for attempt in before:
        if space.objective in attempt.metrics:
            value, pruned = attempt.metrics[space.objective], attempt.status == "PRUNED"
            searcher.add_evaluated_point(_settings(attempt, space), value, pruned=pruned)
    # A proposal knows only of finished candidates: a search with fewer under way at once learns more from each.
    return ConcurrencyLimiter(searcher, max_concurrent=8)


def _scheduler(experiment: Experiment, space: LoraSearch) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    longest = max(space.num_steps or (experiment.lora.num_steps,))
    return AsyncHyperBandScheduler(
        time_attr="step",
        metric="heldout_loss",  # KID is not to be had along the way
        mode="min",
        max_t=longest + 1,  # at its limit ASHA would stop a candidate before it has saved
        grace_period=min(experiment.lora.heldout_every, longest),
        reduction_factor=space.reduction_factor,
    )


def _config(settings: Mapping[str, Any], experiment: Experiment) -> LoraConfig:
    """Return the settings of a candidate: the recipe's, with those the search chose."""
    rank = settings["rank"]
    return replace(
        experiment.lora.trials()[0],
        rank=rank,
        alpha=rank * settings["alpha_over_rank"],
        **{key: settings[key] for key in ("learning_rate", "num_steps", "targets")},
    )


def _trial(settings: Mapping[str, Any], *, experiment: Experiment, inputs: Mapping[str, str], objective: str) -> Trial:
    config = _config(settings, experiment)
    label = f"{config.targets} rank {config.rank}, alpha {config.alpha:g}, rate {config.learning_rate:.1e}"
    return Trial(
        stage="search",
        label=label,
        config={"base": experiment.base, "objective": objective, **plain(config)},
        inputs=inputs,
        seed=derive_seed(experiment.seed, "search"),
    )


def _try(
    trial: Trial,
    paths: RunPaths,
    report: Report,
    experiment: Experiment,
    learned: Sequence[ImageRecord],
    watched: Sequence[ImageRecord],
    others: Sequence[ImageRecord],
) -> dict[str, Any]:
    """Fine-tune one candidate, reporting its held-out loss, and where `others` are given sample from it; return its
    metrics."""
    names = {field.name for field in fields(LoraConfig)}
    config = LoraConfig(**{key: value for key, value in trial.config.items() if key in names})

    def on_log(row: dict) -> None:
        if "heldout_loss" in row and row["step"] < config.num_steps:
            note = f"held-out loss {row['heldout_loss']:.4f}"
            progress = {"fraction": row["step"] / config.num_steps, "note": note}
            # KID comes at the end; Optuna asks for its objective in every report.
            report({"kid": math.nan, **progress, "step": row["step"], "heldout_loss": row["heldout_loss"]})

    out = paths.candidate(trial.trial_id)
    metrics = finetune_records(experiment, config, trial, paths, learned, watched, out, on_log)
    if others:
        metrics |= _kid(experiment, out, others, paths)
    return metrics


def _kid(experiment: Experiment, adapter: Path, others: Sequence[ImageRecord], paths: RunPaths) -> dict[str, Any]:
    """Return the KID of images sampled from an adapter, as for comparing ranks; they stay beside it."""
    from PIL import Image

    from fulora.diffusion.sampler import plan_samples
    from fulora.evaluate.fidelity import kid_full

    config = replace(experiment.sampling, images_per_plane=experiment.compare_per_plane)
    rows = list(plan_samples(config, seed=experiment.seed))
    drawn = open_sampler(experiment, adapter, config).sample(rows)
    files = [adapter / "samples" / f"{row.image_id}.png" for row in rows]
    files[0].parent.mkdir(exist_ok=True)
    for file, image in zip(files, drawn, strict=True):
        Image.fromarray(image).save(file)
    eye = Eye(experiment, paths)
    real = eye.look([r.path for r in others], [r.sha256 for r in others])
    made = eye.look(files, [pixel_hash(image) for image in drawn])
    return {
        "kid": kid_full(real.features, made.features), "num_generated": len(drawn), "num_real": len(others),
        "features": eye.name,
    }  # fmt: skip


def _summary(attempt: Attempt) -> str:
    kid = f"KID {attempt.metrics['kid']:.4f}, " if "kid" in attempt.metrics else ""
    return f"{kid}held-out loss {attempt.metrics['heldout_loss']:.4f}, {attempt.seconds:.0f} s"


class _Watch(Watch):
    """Ray Tune's events of a search: what ASHA stops becomes a PRUNED row."""

    def __init__(self, make: Any, numbers: Mapping[str, int], paths: RunPaths, progress: Progress) -> None:
        super().__init__(paths, progress)
        self.make, self.numbers = make, numbers
        self.started: list[str] = []

    def trial_of(self, config: Mapping[str, Any]) -> tuple[Trial, int]:
        """Return the candidate of some settings, and which attempt at it this is."""
        trial = self.make(config)
        return trial, self.numbers.get(trial.trial_id, 1)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        super().on_trial_start(iteration, trials, trial, **info)
        self.started.append(self.trial_of(trial.config)[0].trial_id)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        super().on_trial_complete(iteration, trials, trial, **info)
        last = trial.last_result or {}
        if "status" not in last and "heldout_loss" in last:
            mine, _ = self.trial_of(trial.config)
            metrics = {"heldout_loss": last["heldout_loss"], "stopped_at_step": last["step"]}
            self.write_row(trial.config, "PRUNED", metrics=metrics, seconds=last.get("time_total_s"))
            self.progress.finished(mine.label, f"stopped at step {last['step']}: held-out {last['heldout_loss']:.4f}")


def _write_table(found: Sequence[Attempt], space: LoraSearch, paths: RunPaths) -> None:
    rows = [
        {
            **_settings(attempt, space), "alpha": attempt.config["alpha"], "status": attempt.status,
            "objective": space.objective, "heldout_loss": attempt.metrics["heldout_loss"],
            **{name: attempt.metrics.get(name) for name in ("kid", "num_generated", "num_real", "features")},
            "stopped_at_step": attempt.metrics.get("stopped_at_step"), "seconds": attempt.seconds,
            "peak_memory_bytes": attempt.peak_memory_bytes, "trial_id": attempt.trial_id,
        }
        for attempt in found
    ]  # fmt: skip
    write_table(paths.table("search"), "search", rows)

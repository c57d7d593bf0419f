"""Run trials in parallel with Ray Tune; each attempt, good or bad, becomes a row.

In: `Trial`s and the function that does a stage's work. Out: attempts, written by the workers themselves.
The failure boundary of the project: whatever a trial raises ends here as FAILED, and the other trials go on.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ray import tune

from fulora.device import process_peak_bytes
from sweeps.core.provenance import provenance
from sweeps.engine.resources import Cluster, placement, prepare_worker
from sweeps.paths import RunPaths
from sweeps.progress import Progress
from sweeps.trials import Attempt, Trial, next_attempt, read_attempts

Report = Callable[[dict[str, Any]], None]
"""Takes {"fraction": 0 to 1, "note": text} as the work goes on."""
Work = Callable[[Trial, RunPaths, Report], dict[str, Any]]
"""Does one trial and returns its metrics; `device` and `peak_memory_bytes` among them go to their own columns."""


def attempt_trial(trial: Trial, paths: RunPaths, work: Work, number: int, report: Report) -> Attempt:
    """Return the attempt at one trial, saved; never raises for what the work raises."""
    began, started_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    metrics: dict[str, Any] = {}
    status, error_type, error_message = "SUCCEEDED", None, None
    try:
        metrics = dict(work(trial, paths, report))
    except Exception as error:  # the trial boundary: a failure is a row, with its last frame
        frame = traceback.extract_tb(error.__traceback__)[-1]
        status, error_type = "FAILED", type(error).__name__
        error_message = f"{error} (in {frame.name}, {os.path.basename(frame.filename)}:{frame.lineno})"
    attempt = Attempt(
        trial_id=trial.trial_id,
        stage=trial.stage,
        label=trial.label,
        attempt=number,
        status=status,  # type: ignore[arg-type]
        config={**trial.config, "seed": trial.seed},
        device=metrics.pop("device", None),
        peak_memory_bytes=metrics.pop("peak_memory_bytes", None) or process_peak_bytes(),
        metrics=metrics,
        provenance={**provenance(), **hashes(trial), **placement()},
        started_at=started_at,
        seconds=round(time.perf_counter() - began, 3),
        error_type=error_type,
        error_message=error_message,
    )
    attempt.save(paths)
    return attempt


def hashes(trial: Trial) -> dict[str, str]:
    """Return the hash of each thing a trial reads, as its row names them."""
    return {f"{name}_hash": value for name, value in trial.inputs.items()}


class Watch(tune.Callback):
    """Ray Tune's events, passed on to the person watching; deaths of workers, made into rows."""

    def __init__(self, paths: RunPaths, progress: Progress) -> None:
        self.paths, self.progress = paths, progress
        self.running: dict[str, dict] = {}

    def __getstate__(self) -> dict:
        """Nothing: Ray Tune pickles callbacks for a restore that is never used here, and a terminal has no pickle."""
        return {}

    def trial_of(self, config: Mapping[str, Any]) -> tuple[Trial, int]:
        """Return our trial for the configuration of one of Ray's, and which attempt at it this is."""
        raise NotImplementedError

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running[trial.trial_id] = trial.config
        self.progress.running(self.trial_of(trial.config)[0].label, 0.0, "")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        label = self.trial_of(trial.config)[0].label
        if "status" in result:
            self.progress.finished(label, result["note"], failed=result["status"] != "SUCCEEDED")
        elif "fraction" in result:
            self.progress.running(label, result["fraction"], result["note"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.pop(trial.trial_id, None)
        reason = "its process ended: killed, out of memory, or its node was lost"
        self.write_row(trial.config, "FAILED", error_type="WorkerDied", error_message=reason)
        self.progress.finished(self.trial_of(trial.config)[0].label, reason, failed=True)

    def cancel_running(self) -> None:
        """Write a CANCELLED row for every trial under way."""
        for config in self.running.values():
            self.write_row(config, "CANCELLED", error_message="stopped by the user")

    def write_row(self, config: Mapping[str, Any], status: Any, **known: Any) -> None:
        """Write the row of a trial whose worker could not, unless it did."""
        trial, number = self.trial_of(config)
        if self.paths.attempt(trial.trial_id, number).exists():
            return
        Attempt(
            trial_id=trial.trial_id,
            stage=trial.stage,
            label=trial.label,
            attempt=number,
            status=status,
            config={**trial.config, "seed": trial.seed},
            provenance={**provenance(), **hashes(trial)},
            **known,
        ).save(self.paths)


class _ListWatch(Watch):
    """The events of a list of trials, each known by its place in it."""

    def __init__(self, trials: Sequence[Trial], numbers: Sequence[int], paths: RunPaths, progress: Progress) -> None:
        super().__init__(paths, progress)
        self.trials, self.numbers = trials, numbers

    def trial_of(self, config: Mapping[str, Any]) -> tuple[Trial, int]:
        return self.trials[config["index"]], self.numbers[config["index"]]


def tune_settings(name: str, paths: RunPaths, watch: Watch) -> tune.RunConfig:
    """Return Ray Tune's own settings: silent, its files in the run's cache."""
    return tune.RunConfig(
        name=name, storage_path=str(paths.tune.resolve()), verbose=0, callbacks=[watch], log_to_file=False
    )


def run_trials(
    trials: Sequence[Trial], work: Mapping[str, Work], *, paths: RunPaths, cluster: Cluster, progress: Progress
) -> list[Attempt]:
    """Return this call's attempts, one per trial; as many at once as the cluster has room for.

    `work` maps a stage to its function. On KeyboardInterrupt the trials under way become CANCELLED and it is raised on.
    """
    if not trials:
        return []
    numbers = [next_attempt(paths, trial.trial_id) for trial in trials]
    todo = list(trials)
    threads, on_gpu = cluster.num_threads, cluster.num_gpus > 0

    def trainable(config: dict) -> None:
        prepare_worker(threads, on_gpu=on_gpu)
        index = config["index"]
        trial = todo[index]
        report = tune.report
        attempt = attempt_trial(trial, paths, work[trial.stage], numbers[index], report)
        note = _summary(attempt) if attempt.status == "SUCCEEDED" else f"{attempt.error_type}: {attempt.error_message}"
        report({"fraction": 1.0, "note": note, "status": attempt.status})
        give_memory_back()

    watch = _ListWatch(todo, numbers, paths, progress)
    tuner = tune.Tuner(
        tune.with_resources(trainable, cluster.for_tune),
        param_space={"index": tune.grid_search(list(range(len(todo))))},
        tune_config=tune.TuneConfig(reuse_actors=True),  # saves each trial the imports of torch and friends
        run_config=tune_settings(todo[0].stage, paths, watch),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        watch.cancel_running()
        raise
    mine = {(trial.trial_id, number) for trial, number in zip(todo, numbers)}
    return [a for a in read_attempts(paths) if (a.trial_id, a.attempt) in mine]


def give_memory_back() -> None:
    """Free what a trial held: the process is reused, and the next trial may not fit beside it."""
    import ctypes
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)  # glibc keeps what other threads freed otherwise


def _summary(attempt: Attempt) -> str:
    shown = [f"{k.replace('_', ' ')} {v:.4g}" for k, v in attempt.metrics.items() if isinstance(v, float)][:2]
    return ", ".join([*shown, f"{attempt.seconds:.0f} s"])

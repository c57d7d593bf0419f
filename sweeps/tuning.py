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
from sweeps.cluster import Cluster
from sweeps.paths import RunPaths
from sweeps.progress import Progress
from sweeps.provenance import provenance
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
        provenance={**provenance(), **{f"{k}_hash": v for k, v in trial.inputs.items()}, **_placement()},
        started_at=started_at,
        seconds=round(time.perf_counter() - began, 3),
        error_type=error_type,
        error_message=error_message,
    )
    attempt.save(paths)
    return attempt


def _placement() -> dict[str, str | None]:
    import ray

    if not ray.is_initialized():
        return {"node": None, "gpu_ids": None}
    context = ray.get_runtime_context()
    return {
        "node": context.get_node_id()[:12],
        "gpu_ids": ",".join(context.get_accelerator_ids().get("GPU", [])) or None,
    }


class _Watch(tune.Callback):
    """Ray Tune's events, passed on to the person watching; deaths of workers, made into rows."""

    def __init__(self, trials: Sequence[Trial], numbers: Sequence[int], paths: RunPaths, progress: Progress) -> None:
        self.trials, self.numbers, self.paths, self.progress = trials, numbers, paths, progress
        self.running: set[int] = set()

    def __getstate__(self) -> dict:
        """Nothing: Ray Tune pickles callbacks for a restore that is never used here, and a terminal has no pickle."""
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.add(trial.config["index"])
        self.progress.running(self.trials[trial.config["index"]].label, 0.0, "")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        label = self.trials[trial.config["index"]].label
        if "status" in result:
            self.progress.finished(label, result["note"], failed=result["status"] != "SUCCEEDED")
        elif "fraction" in result:
            self.progress.running(label, result["fraction"], result["note"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.discard(trial.config["index"])

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        index = trial.config["index"]
        self.running.discard(index)
        reason = "its process ended: killed, out of memory, or its node was lost"
        self._row(index, "FAILED", "WorkerDied", reason)
        self.progress.finished(self.trials[index].label, reason, failed=True)

    def cancel_running(self) -> None:
        """Write a CANCELLED row for every trial under way."""
        for index in sorted(self.running):
            self._row(index, "CANCELLED", None, "stopped by the user")

    def _row(self, index: int, status: Any, error_type: str | None, message: str) -> None:
        trial, number = self.trials[index], self.numbers[index]
        if self.paths.attempt(trial.trial_id, number).exists():
            return
        config = {**trial.config, "seed": trial.seed}
        Attempt(
            trial_id=trial.trial_id,
            stage=trial.stage,
            label=trial.label,
            attempt=number,
            status=status,
            config=config,
            error_type=error_type,
            error_message=message,
            provenance=provenance(),
        ).save(self.paths)


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
    threads = cluster.num_threads

    def trainable(config: dict) -> None:
        import torch

        torch.set_num_threads(threads)
        index = config["index"]
        trial = todo[index]
        report = tune.report
        attempt = attempt_trial(trial, paths, work[trial.stage], numbers[index], report)
        note = _summary(attempt) if attempt.status == "SUCCEEDED" else f"{attempt.error_type}: {attempt.error_message}"
        report({"fraction": 1.0, "note": note, "status": attempt.status})
        _give_memory_back()

    watch = _Watch(todo, numbers, paths, progress)
    tuner = tune.Tuner(
        tune.with_resources(trainable, cluster.trial_resources),
        param_space={"index": tune.grid_search(list(range(len(todo))))},
        tune_config=tune.TuneConfig(reuse_actors=True),  # saves each trial the imports of torch and friends
        run_config=tune.RunConfig(
            name=todo[0].stage, storage_path=str(paths.tune.resolve()), verbose=0, callbacks=[watch], log_to_file=False
        ),
    )
    try:
        tuner.fit()
    except KeyboardInterrupt:
        watch.cancel_running()
        raise
    mine = {(trial.trial_id, number) for trial, number in zip(todo, numbers)}
    return [a for a in read_attempts(paths) if (a.trial_id, a.attempt) in mine]


def _give_memory_back() -> None:
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

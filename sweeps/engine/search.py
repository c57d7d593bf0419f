"""Ray Tune over candidates that Optuna proposes: ASHA prunes, the driver keeps a row per candidate.

In: a function from settings to a step, what Optuna draws from, what is known already. Out: rows in the log, files of
the candidates that succeeded in the store.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from sweeps.core.attempts import Attempt, AttemptLog, attempt_of
from sweeps.core.execution import Watch
from sweeps.core.files import remove
from sweeps.core.hashing import to_jsonable
from sweeps.core.perform import perform
from sweeps.core.provenance import provenance
from sweeps.core.step import Step
from sweeps.core.store import Damaged, Store
from sweeps.engine.resources import Cluster, placement, prepare_worker
from sweeps.engine.trials import keep_credentials

_AT_ONCE = 8
"""Maximum number of concurrent candidates: proposals use only finished ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asha:
    """When a candidate is pruned. Source: Li et al. 2020."""

    metric: str
    max_steps: int
    grace_steps: int
    reduction_factor: int


def run_search(
    make: Callable[[Mapping[str, Any]], Step],
    *,
    distributions: Mapping[str, Any],
    objective: str,
    known: Sequence[tuple[dict[str, Any], float, bool]],
    seed: int,
    asha: Asha,
    num_trials: int,
    store: Store,
    log: AttemptLog,
    cluster: Cluster,
    watch: Watch,
    scratch: Path,
    max_retries: int,
) -> None:
    """Try `num_trials` candidates. `known` has the settings, value and whether it was pruned of each earlier one.

    A candidate whose process or node is lost is tried again from its checkpoint, at most `max_retries` times.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler

    keep_credentials()
    numbers = {a.trial_id: log.next_number(a.trial_id) for a in log.attempts}
    events = _Events(make, numbers, store, log, watch)
    threads, on_gpu, starts = cluster.num_threads, cluster.num_gpus > 0, scratch.resolve() / "starts"
    remove(starts)
    starts.mkdir(parents=True, exist_ok=True)

    def trainable(settings: dict) -> None:
        prepare_worker(threads, on_gpu=on_gpu)
        step, where = make(settings), placement()
        number = numbers.get(step.key, 1) + _starts(starts / step.key)
        facts = {
            "provenance": {**provenance(), **where},
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

        def report(values: dict[str, Any]) -> None:
            tune.report({**values, "facts": facts})

        attempt = perform(step, store, number, report, where)
        last: dict[str, Any] = {"fraction": 1.0, "status": attempt.status, "attempt": to_jsonable(attempt)}
        if attempt.status == "SUCCEEDED":
            values = {name: attempt.metrics[name] for name in ("heldout_loss", objective)}
            tune.report({**last, **values, "step": step.config.lora.num_steps})
        else:  # without a step ASHA does not look at it, and Optuna leaves out what is not a number
            tune.report({**last, objective: math.nan})

    tuner = tune.Tuner(
        tune.with_resources(trainable, cluster.for_tune),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(distributions, objective, known, seed),
            scheduler=AsyncHyperBandScheduler(
                time_attr="step", metric=asha.metric, mode="min", max_t=asha.max_steps, grace_period=asha.grace_steps,
                reduction_factor=asha.reduction_factor,
            ),
            num_samples=num_trials,
            reuse_actors=True,  # saves a candidate the imports; one that was pruned is followed by a new process
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=str(scratch.resolve()), verbose=0, callbacks=[events], log_to_file=False,
            failure_config=tune.FailureConfig(max_failures=max_retries),  # what its work raises is caught: a death
        ),
    )  # fmt: skip
    try:
        tuner.fit()
    except KeyboardInterrupt:
        events.cancel_running()
        raise


def _starts(file: Path) -> int:
    """Return how often this was called for a file."""
    with file.open("ab") as stream:
        before = stream.tell()
        stream.write(b".")
    return before


def _searcher(
    distributions: Mapping[str, Any], objective: str, known: Sequence[tuple[dict[str, Any], float, bool]], seed: int
) -> Any:
    """Return Optuna's TPE, told of the candidates that are known."""
    import optuna
    from optuna.samplers import TPESampler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(logging.ERROR)
    sampler = TPESampler(seed=seed)
    searcher = OptunaSearch(dict(distributions), metric=objective, mode="min", sampler=sampler)
    for settings, value, pruned in known:
        searcher.add_evaluated_point(settings, value, pruned=pruned)
    return ConcurrencyLimiter(searcher, max_concurrent=_AT_ONCE)


class _Events(tune.Callback):
    """Ray Tune's events: attempts to the log, progress to the display; pruned candidates become PRUNED rows."""

    def __init__(
        self, make: Callable[[Mapping[str, Any]], Step], numbers: Mapping[str, int], store: Store, log: AttemptLog,
        watch: Watch,
    ) -> None:  # fmt: skip
        self.make, self.numbers, self.store, self.log, self.watch = make, numbers, store, log, watch
        self.running: dict[str, Step] = {}
        self.deaths: Counter[str] = Counter()

    def __getstate__(self) -> dict:
        """Nothing: Ray Tune pickles callbacks for a restore that is never used here, and a terminal has no pickle."""
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running[trial.trial_id] = step = self.make(trial.config)
        self.watch.started(step)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        step = self.running.get(trial.trial_id)
        if step is None:
            return
        if "status" in result:
            content = {**result["attempt"], "notes": tuple(result["attempt"]["notes"])}
            self._add(trial.trial_id, step, Attempt(**content))
        elif "fraction" in result:
            self.watch.progress(step, result["fraction"], result["note"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        step, last = self.running.get(trial.trial_id), trial.last_result or {}
        if step is not None and "heldout_loss" in last:
            metrics = {"heldout_loss": last["heldout_loss"], "stopped_at_step": last["step"]}
            seconds, facts = last.get("time_total_s"), last.get("facts", {})
            row = attempt_of(step, "PRUNED", self._number(step), metrics=metrics, seconds=seconds, **facts)
            self._add(trial.trial_id, step, row)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.on_trial_error(iteration, trials, trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        step = self.running.get(trial.trial_id)
        if step is None or self._done(step):
            return
        reason = "its process ended: killed, out of memory, or its node was lost"
        row = attempt_of(step, "FAILED", self._number(step), error_type="WorkerDied", error_message=reason)
        self.deaths[step.key] += 1
        self._add(trial.trial_id, step, row)

    def cancel_running(self) -> None:
        """Add a CANCELLED row for every candidate under way."""
        for trial_id, step in list(self.running.items()):
            row = attempt_of(step, "CANCELLED", self._number(step), error_message="stopped by the user")
            self._add(trial_id, step, row)

    def _number(self, step: Step) -> int:
        return self.numbers.get(step.key, 1) + self.deaths[step.key]

    def _done(self, step: Step) -> bool:
        try:
            return self.store.done(step) is not None
        except Damaged:
            return False

    def _add(self, trial_id: str, step: Step, attempt: Attempt) -> None:
        self.running.pop(trial_id, None)
        self.log.add(attempt)
        self.watch.ended(step, attempt)

"""Search over LoRA settings beyond the paper: Optuna proposes, ASHA prunes poor candidates, every candidate is a row.

In: a planned search. Out: a row of trials.parquet per candidate (SUCCEEDED, PRUNED, FAILED) and tables/search.parquet,
best first. The rows are also the memory of the search: resumed, it tells Optuna of every candidate with a value and
continues to the requested number. No study file, no pickle. How trials run is `sweeps.engine.search`. Sources: Akiba et
al. 2019 (Optuna, its TPE sampler); Li et al. 2020 (ASHA).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fulora.seeds import derive_seed
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.execution import Watch
from sweeps.core.paths import RunPaths
from sweeps.core.tables import write_table
from sweeps.engine.resources import Cluster
from sweeps.engine.search import Asha, run_search
from sweeps.ranks.candidates import Search


def search_lora(
    search: Search, *, paths: RunPaths, log: AttemptLog, cluster: Callable[[], Cluster], watch: Watch, max_retries: int
) -> list[Attempt]:
    """Try candidates until the search has as many as asked for; return this call's attempts that failed.

    `cluster` joins or starts one: a search that has all its candidates needs none.
    """
    before, began = search.found(log.attempts), len(log.attempts)
    left = search.space.num_trials - len(before)
    watch.say(f"search: {len(before)} candidates are done, {max(0, left)} remain")
    if left > 0:
        run_search(
                search.step, distributions=distributions(search), objective=search.space.objective,
                known=[(search.settings(a), a.metrics[search.space.objective], a.status == "PRUNED")
                       for a in before if search.space.objective in a.metrics],
                # A resumed search must not repeat its proposals: the seed depends on the number of candidates.
                seed=derive_seed(search.experiment.seed, "search", len(before)) % 2**32,
                asha=asha_of(search), num_trials=left, store=paths.store, log=log, cluster=cluster(), watch=watch,
                scratch=paths.tune, max_retries=max_retries,
            )  # fmt: skip
    _write_table(search, search.found(log.attempts), paths)
    return [a for a in log.attempts[began:] if a.status == "FAILED"]


def distributions(search: Search) -> dict[str, Any]:
    """Return what Optuna draws each setting from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space = search.space
    return {
        "rank": CategoricalDistribution(space.ranks),
        "alpha_over_rank": CategoricalDistribution(space.alpha_over_rank),
        "learning_rate": FloatDistribution(*space.learning_rate, log=True),
        "num_steps": CategoricalDistribution(space.num_steps or (search.experiment.lora.num_steps,)),
        "targets": CategoricalDistribution(space.targets),
    }


def asha_of(search: Search) -> Asha:
    """Return how candidates are pruned: by the held-out loss, as KID is not available during training."""
    longest = max(search.space.num_steps or (search.experiment.lora.num_steps,))
    return Asha(
        metric="heldout_loss",
        max_steps=longest + 1,  # at its limit ASHA would stop a candidate before it has saved
        grace_steps=min(search.experiment.lora.heldout_every, longest),
        reduction_factor=search.space.reduction_factor,
    )


def _write_table(search: Search, found: Sequence[Attempt], paths: RunPaths) -> None:
    rows = [
        {
            **search.settings(attempt), "alpha": attempt.config["alpha"], "status": attempt.status,
            "objective": search.space.objective, "heldout_loss": attempt.metrics["heldout_loss"],
            **{name: attempt.metrics.get(name) for name in ("kid", "num_generated", "num_real", "features")},
            "stopped_at_step": attempt.metrics.get("stopped_at_step"), "seconds": attempt.seconds,
            "peak_memory_bytes": attempt.peak_memory_bytes, "trial_id": attempt.trial_id,
        }
        for attempt in found
    ]  # fmt: skip
    write_table(paths.table("search"), "search", rows)

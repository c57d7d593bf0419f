"""Trials over Ray Tune: one Tuner, whose searcher hands out what is ready, each step with the resources of its kind.

Worker processes are used again for steps that ask for the same, so that libraries are imported once.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.search import Searcher

from sweeps.engine.dealer import Deal, Dealer
from sweeps.engine.job import Job, read_answer
from sweeps.engine.resources import prepare_worker, threads_here

_DIED = "its process ended: killed, out of memory, or its node was lost"
_ENVIRONMENT = {
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher hands out no more than there is room for
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a death is a row
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the store is what a run goes on from
}
_RELEASE = {"key": "", "seconds": 0.0}
"""A trial that does nothing: Ray Tune keeps the last process idle with all it holds until another kind is asked for."""
_REST = {"key": "", "seconds": 600.0}
"""A trial that waits: without any trial Ray Tune waits for one and lets go of nothing, not even of ended processes."""
_NOTHING = {"node:__internal_head__": 0.001}
"""What these hold: no part of a core, so that an actor of a whole one fits beside them."""


class StepTrial(tune.Trainable):
    """One step; the process is kept for the next."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:  # type: ignore[override]
        """Keep what is common to all steps of the run."""
        self.job = job

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another step."""
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Do the step; its attempt comes back as text."""
        config = self.config
        assert self.job is not None
        if not config["key"]:
            self.job.rest(config["seconds"])
            return {"done": True, "attempt": ""}
        prepare_worker(threads_here(config["num_threads"], config["gpu"]), on_gpu=config["gpu"] > 0)
        answer = self.job.do(config["key"], config["number"])
        give_memory_back()
        return {"done": True, "attempt": answer}

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Return the resources of the step's kind, as handed out."""
        return config["resources"]


class ReadySteps(Searcher):
    """Suggests what the dealer hands out, and takes back how it ended."""

    def __init__(self, dealer: Dealer) -> None:
        super().__init__()
        self.dealer = dealer
        self.out: dict[str, Deal | None] = {}
        self.may_hold_idle = False
        """Whether Ray Tune may keep a process that holds a GPU or cores and has nothing to do."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the configuration of the next trial; None where there is none by now and others are out."""
        dealer, deal = self.dealer, self.dealer.deal()
        if deal is not None:
            self.out[trial_id], self.may_hold_idle = deal, False
            request = deal.request
            return {
                "key": deal.step.key, "number": deal.number, "num_threads": request.num_threads, "gpu": request.gpu,
                "resources": dealer.room.cluster.for_trial(request.cpu, request.gpu, request.gpu_type),
            }  # fmt: skip
        if dealer.execution.finished:
            dealer.job.end_rest()
            return Searcher.FINISHED
        releases = self.may_hold_idle and dealer.a_wave_waits
        if self.out and not releases:
            return None
        self.out[trial_id], self.may_hold_idle = None, False
        return {**(_RELEASE if releases else _REST), "resources": PlacementGroupFactory([_NOTHING])}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take a step back: its attempt, or that its process died."""
        deal = self.out.pop(trial_id, None)
        if deal is None:
            return
        self.may_hold_idle = True
        self.dealer.ended(deal)
        if error or not result or "attempt" not in result:
            self.dealer.execution.died(deal.step, deal.number, _DIED)
            return
        beside_others = 0 < deal.request.gpu < 1
        attempt = read_answer(deal.step, deal.number, result["attempt"])
        self.dealer.execution.ended(deal.step, attempt, beside_others=beside_others)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its searcher for a restore that is not used here."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadySteps:
        """Return itself: there is one account of what is out."""
        return self

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a run goes on from its store."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def run_trials(dealer: Dealer, folder: Path) -> None:
    """Run all the dealer hands out, until nothing more can be done; Ray Tune's own files go to `folder`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    keep_credentials()
    settings = tune.RunConfig(
        name="trials",
        storage_path=str(folder.resolve()),
        verbose=0,
        log_to_file=False,
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )
    tuner = tune.Tuner(
        tune.with_parameters(StepTrial, job=dealer.job),
        tune_config=tune.TuneConfig(search_alg=ReadySteps(dealer), num_samples=-1, reuse_actors=True),
        run_config=settings,
    )
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it counts at the end the deaths that are rows
    tuner.fit()


def keep_credentials() -> None:
    """Have Ray Tune send no AWS credentials to nodes, which have their own: their logs would show them."""
    from ray.tune.execution import class_cache

    sent = class_cache.ENV_VARS_TO_PROPAGATE
    sent.difference_update([name for name in sent if name.startswith("AWS_")])


def give_memory_back() -> None:
    """Free what a trial held: the process is used again, and the next trial may not fit beside it."""
    import ctypes

    torch = sys.modules.get("torch")
    if torch is None:  # it held nothing worth the tenth of a second
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)  # glibc keeps what other threads freed otherwise

"""The executor on a Ray cluster: Ray Tune runs trials and single steps, Ray Data runs shards, side by side."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from sweeps.core.attempts import AttemptLog
from sweeps.core.execution import Execution, Watch
from sweeps.core.files import remove
from sweeps.core.step import Step, closure
from sweeps.core.store import Store
from sweeps.engine.resources import Cluster


class OnRay:
    """Does steps on the cluster this process is connected to."""

    def __init__(self, cluster: Cluster, *, max_retries: int = 3, backoff_seconds: float = 5.0) -> None:
        """Take the cluster; a step whose process dies is retried `max_retries` times, the waits doubling."""
        self.cluster, self.max_retries, self.backoff_seconds = cluster, max_retries, backoff_seconds

    def run(self, steps: Sequence[Step], *, store: Store, log: AttemptLog, watch: Watch) -> None:
        """Do the steps; see `sweeps.core.execution.Executor`."""
        if not steps:
            return
        import ray

        from sweeps.engine.dealer import Dealer
        from sweeps.engine.job import Job, open_mailbox
        from sweeps.engine.room import Room
        from sweeps.engine.trials import run_trials

        execution = Execution(
            steps, store=store, log=log, watch=watch,
            max_retries=self.max_retries, backoff_seconds=self.backoff_seconds,
        )  # fmt: skip
        graph = ray.put({step.key: step for step in closure(list(steps))})
        job = Job(graph, Store(store.root.resolve()), open_mailbox())
        dealer, folder = Dealer(execution, job, Room(self.cluster)), store.root / "scratch" / "ray-tune"
        stopped = False
        try:
            run_trials(dealer, folder)
        except KeyboardInterrupt:
            stopped = True  # raised again once Ray Tune, held by this one's frames, has given its resources back
        try:
            if stopped:
                dealer.read_mail(now=True)
                execution.cancel()
                dealer.stop()
                gc.collect()
                raise KeyboardInterrupt
        finally:
            ray.kill(job.mailbox)
            remove(folder)

"""The executor on a Ray cluster: Ray Tune runs trials and single steps, Ray Data runs shards, side by side."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from fulora.errors import InputError
from sweeps.core.attempts import AttemptLog
from sweeps.core.execution import Execution, Watch
from sweeps.core.files import remove
from sweeps.core.gpu_hours import GpuMeter
from sweeps.core.mirror import FetchingExecution, Mirror
from sweeps.core.step import Step, closure
from sweeps.core.store import Store
from sweeps.engine.resources import Cluster


class OnRay:
    """Does steps on the cluster this process is connected to."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        max_retries: int = 3,
        backoff_seconds: float = 5.0,
        wait_for_gpus: float = 600.0,
        max_gpu_hours: float | None = None,
    ) -> None:
        """Take the cluster; a step whose process dies is retried `max_retries` times, the waits doubling.

        Where the last GPU is lost another one is waited for, `wait_for_gpus` seconds.
        """
        self.cluster, self.max_retries, self.backoff_seconds = cluster, max_retries, backoff_seconds
        self.wait_for_gpus, self.max_gpu_hours = wait_for_gpus, max_gpu_hours

    def run(self, steps: Sequence[Step], *, store: Store, log: AttemptLog, watch: Watch) -> None:
        """Do the steps; see `sweeps.core.execution.Executor`."""
        if not steps:
            return
        import ray

        from sweeps.engine.dealer import Dealer
        from sweeps.engine.job import Job, open_mailbox
        from sweeps.engine.room import Room
        from sweeps.engine.trials import run_trials

        mirrored, room = isinstance(store, Mirror), Room(self.cluster)
        execution = (FetchingExecution if mirrored else Execution)(
            steps, store=store, log=log, watch=watch,
            max_retries=self.max_retries, backoff_seconds=self.backoff_seconds,
            meter=GpuMeter(log, lambda step: room.request(step.kind).gpu, self.max_gpu_hours),
        )  # fmt: skip
        graph = ray.put({step.key: step for step in closure(list(steps))})
        nodes = store.for_nodes() if isinstance(store, Mirror) else Store(store.root.resolve())
        job = Job(graph, nodes, open_mailbox())
        dealer = Dealer(execution, job, room, wait_for_gpus=self.wait_for_gpus)
        folder = store.root / "scratch" / "ray-tune"
        stopped: BaseException | None = None
        try:
            run_trials(dealer, folder)
        except KeyboardInterrupt:
            stopped = KeyboardInterrupt()  # raised once Ray Tune, held by this one's frames, has given back what it has
        except InputError as error:
            stopped = error.with_traceback(None)
        try:
            if stopped is not None:
                dealer.read_mail(now=True)
                execution.cancel("stopped by the user" if isinstance(stopped, KeyboardInterrupt) else str(stopped))
                dealer.stop()
                gc.collect()
                raise stopped
        finally:
            execution.close()
            ray.kill(job.mailbox)
            remove(folder)
        execution.raise_if_stopped()

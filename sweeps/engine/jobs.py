"""Ray jobs: a command that a cluster goes on with after its client has left.

In: the address of a cluster's job server (`http://HEAD:8265`), words of the command line, a job's id. Out: ids, states
and logs. A job gets the code that this command runs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fulora.errors import InputError, fault, one_line
from sweeps.core.provenance import COMMIT, commit
from sweeps.engine.connection import use_token

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_ANSWER_SECONDS = 10.0
"""Time a job server has to answer at first."""
_STOP_SECONDS = 120
"""Time a stopped driver has to write down what it did not finish; Ray's own default is 3."""
_LOOK_SECONDS = 120.0
"""Time a short command has to run on the cluster."""
_START_SECONDS = 60.0
"""Time a head has, after it began to answer, until it takes jobs."""
_POLL_SECONDS = 0.5
_NO_AGENT = "No available agent"
"""What a head answers that has nobody to start a job: not yet, or not at all."""
_BEGUN = "Running entrypoint for job "
"""How the line of a job's log begins that stands before the command's own."""
_REMEDY = (
    "A head serves jobs where it has a dashboard, on its own loopback unless started otherwise: forward the port"
    " (`ssh -L 8265:localhost:8265 HEAD`, `ray dashboard cluster.yaml`) and use http://localhost:8265."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """What a cluster says of a job."""

    job: str
    """Its id."""
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    run: str
    """Directory of its run, on the cluster."""
    began: datetime | None
    ended: datetime | None
    message: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    def __str__(self) -> str:
        times = [f"{word} {at:%Y-%m-%d %H:%M:%S} UTC" for word, at in (("since", self.began), ("to", self.ended)) if at]
        return f"{self.job}: {' '.join([self.status, *times])}, run {self.run}"


class Jobs:
    """The job server of a cluster."""

    def __init__(self, address: str) -> None:
        """Connect. Raises InputError where nothing answers, or not to this machine's token."""
        self.address = address
        _check_port(address)
        use_token()
        with self._explained():
            from ray.job_submission import JobSubmissionClient

            for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):  # they tell of each package they upload
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client: JobSubmissionClient = JobSubmissionClient(address)

    def submit(self, words: Sequence[str], *, name: str, run: Path) -> str:
        """Start a command of ours on the cluster's head and return the job's id.

        Raises InputError where another job of the cluster writes that run.
        """
        with self._explained():
            mine = [state for found in self._client.list_jobs() if (state := _state_of(found)) is not None]
        if busy := [state.job for state in mine if state.run == str(run) and not state.is_over]:
            remedy = f"Follow it with `sweeps logs {busy[0]}`, or give another --out."
            raise InputError(fault("out", str(run), f"is being written by job {busy[0]}", remedy))
        return self._start(words, f"{name}-{secrets.token_hex(4)}", {"run": str(run)})

    def state(self, job: str) -> JobState:
        """Return how a job is. Raises InputError where the cluster has no such job of ours."""
        with self._explained():
            every = self._client.list_jobs()
        known = {state.job: state for found in every if (state := _state_of(found)) is not None}
        if job not in known:
            there = ", ".join(sorted(known, key=lambda name: known[name].began or datetime.now(UTC))) or "none"
            rule = f"is no job of ours at {self.address}"
            raise InputError(fault("job", job, rule, f"Give the id that --detach printed; there are: {there}."))
        return known[job]

    def look(self, words: Sequence[str]) -> str:
        """Run a short command of ours on the cluster and return what it prints."""
        job = self._start(words, f"look-{secrets.token_hex(4)}", {})
        end = time.monotonic() + _LOOK_SECONDS
        with self._explained():
            while not self._client.get_job_status(job).is_terminal() and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
            text = self._client.get_job_logs(job)
            if self._client.get_job_status(job).is_terminal():
                self._client.delete_job(job)
            else:
                self._client.stop_job(job)
                rule = f"did not run `sweeps {words[0]}` within {_LOOK_SECONDS:.0f} s"
                raise InputError(fault("address", self.address, rule, "Look at the cluster: `ray status`."))
        return _own_lines(text)

    def logs(self, job: str) -> str:
        """Return what a job has printed so far."""
        self.state(job)
        with self._explained():
            return _own_lines(self._client.get_job_logs(job))

    def follow(self, job: str) -> Iterator[str]:
        """Yield what a job prints, as it prints it, until it ends."""
        self.state(job)
        lines = self._client.tail_job_logs(job)

        async def some() -> str | None:
            return await anext(lines, None)

        with self._explained(), asyncio.Runner() as runner:
            while (text := runner.run(some())) is not None:
                yield text

    def stop(self, job: str) -> JobState:
        """Stop a job as Ctrl-C would, and return how it is once it has ended."""
        state = self.state(job)
        if state.is_over:
            return state
        with self._explained():
            self._client.stop_job(job)
        end = time.monotonic() + _STOP_SECONDS + _ANSWER_SECONDS
        while not (state := self.state(job)).is_over and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return state

    def _start(self, words: Sequence[str], job: str, metadata: dict[str, str]) -> str:
        here = Path(__file__).parents[1]
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS), COMMIT: commit() or ""}
        environment = {"py_modules": [str(here), str(here.with_name("fulora"))], "env_vars": variables}
        end = time.monotonic() + _START_SECONDS
        with self._explained():
            while True:
                try:
                    return self._client.submit_job(
                        entrypoint=shlex.join(["exec", "python", "-m", "sweeps", *words]),
                        submission_id=job, runtime_env=environment, metadata={"program": "sweeps", **metadata},
                    )  # fmt: skip
                except RuntimeError as error:  # a head that has just started has nobody yet to start a job
                    if _NO_AGENT not in str(error) or time.monotonic() > end:
                        raise
                time.sleep(_POLL_SECONDS)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the client raises into words."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except InputError:
            raise
        except AuthenticationError as error:
            rule = "wants a token and was shown none" if "required" in str(error) else "refuses this machine's token"
            remedy = "Give the cluster's token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."
            raise InputError(fault("address", self.address, rule, remedy)) from error
        except (ImportError, RuntimeError, OSError, ValueError) as error:  # requests' own are OSErrors
            if "ray[default]" in str(error) or isinstance(error, ImportError):
                remedy = "Install it here: pip install 'ray[default]' (the extra `cluster` of this package)."
                raise InputError(fault("address", self.address, "needs Ray's client for jobs", remedy)) from error
            if _NO_AGENT in str(error):
                remedy = "Does its machine have two Rays? Give the head a --dashboard-agent-listen-port of its own."
                raise InputError(
                    fault("address", self.address, "takes no jobs: its head has no agent", remedy)
                ) from error
            rule = f"does not answer as a job server of Ray ({one_line(error, 300)})"
            raise InputError(fault("address", self.address, rule, _REMEDY)) from error


def _check_port(address: str) -> None:
    """Raise InputError unless something listens: the client itself may wait for minutes."""
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        rule = f"cannot be reached ({getattr(error, 'strerror', None) or error})"
        raise InputError(fault("address", address, rule, _REMEDY)) from error


def _state_of(found: JobDetails) -> JobState | None:
    """Return the state of a job; None for one that is not a run of ours."""
    about = found.metadata or {}
    if about.get("program") != "sweeps" or "run" not in about or found.submission_id is None:
        return None
    began, ended = (datetime.fromtimestamp(at / 1000, UTC) if at else None for at in (found.start_time, found.end_time))
    return JobState(
        job=found.submission_id, status=str(found.status.value), run=about["run"], began=began, ended=ended,
        message=found.message or "",
    )  # fmt: skip


def _own_lines(log: str) -> str:
    """Return a job's log without what Ray wrote before the command's own lines."""
    lines = log.splitlines(keepends=True)
    first = next((number + 1 for number, line in enumerate(lines) if line.startswith(_BEGUN)), 0)
    return "".join(lines[first:])

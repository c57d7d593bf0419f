"""Runs submitted to a cluster as Ray jobs: what is refused, and a study launched, left, stopped, killed and finished.

The cluster is real, its job server on loopback, with a token of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from sweeps.cli import guarded
from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.provenance import commit
from sweeps.core.tables import read_rows
from sweeps.remote import for_cluster

from .clusters import RayProcesses, free_port


def sweeps(words: Sequence[str], env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the command as a process of its own; return its code, output and errors."""
    command, env = [sys.executable, "-m", "sweeps", *words], {**(env or os.environ), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_job_says_the_words_of_its_command_without_those_of_the_client() -> None:
    words = ["demo", "--detach", "--address", "http://a:8265", "--ship_code", "--lora.ranks", "2", "4", "--out", "/x"]
    assert for_cluster(words) == ["demo", "--lora.ranks", "2", "4", "--out", "/x", "--address", "auto"]
    assert for_cluster(["demo", "--address=http://a", "--device=cpu"]) == ["demo", "--device=cpu", "--address", "auto"]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--detach"], "detach: True cannot be done at address None. Add the address"),
        (["--detach", "--address", "HEAD:6379"], "--address http://HOST:8265"),
        (["--address", "http://HEAD:8265"], "a job server (http://HOST:8265) with --detach"),
        (["--address", "ray://HEAD:10001"], "is not HOST:PORT of a Ray head"),
        (["--detach", "--address", "http://HEAD:8265"], "out: None is not given"),
        (["--detach", "--address", "http://HEAD:8265", "--out", "runs/demo"], "out: 'runs/demo' is relative"),
        (["--detach", "--address", "http://HEAD:8265", "--out", "/x", "--spanish", "data"], "spanish: 'data' is rela"),
        (["--detach", "--address", "http://HEAD:8265", "--out", "/x", "--lora.ranks", "0"], "lora.rank"),
        (["--detach", "--address", "http://127.0.0.1:PORT", "--out", "/x"], "cannot be reached (Connection refused)"),
        (["--detach", "--address", "http://127.0.0.1:123456", "--out", "/x"], "cannot be reached (Port out of range"),
    ],
)
def test_what_cannot_be_submitted_is_said_before_anything(words: list[str], expected: str, capsys) -> None:
    code = guarded(["run", "demo", *[word.replace("PORT", str(free_port())) for word in words]])
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and expected in err, err


@pytest.fixture
def page() -> Iterator[str]:
    """Return the address of a web server that is no job server."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_that_is_no_job_server_is_named(page: str, capsys) -> None:
    for words in (["run", "demo", "--detach", "--out", "/x"], ["status", "demo-1"], ["logs", "demo-1"], ["stop", "x"]):
        code = guarded([*words, "--address", page])
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and f"'{page}' does not answer as a job server of Ray" in err, err


def wait_for(what: Callable[[], object], seconds: float = 240) -> None:
    """Return once something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


def at_work(paths: RunPaths) -> set[str]:
    """Return the kinds of steps that run now."""
    try:
        return {step["kind"] for step in json.loads(paths.now.read_text())["running"]}
    except (OSError, ValueError):
        return set()


def drivers(paths: RunPaths) -> list[psutil.Process]:
    """Return the processes that run a study into a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "sweeps" in words and "run" in words and str(paths.root) in words:
            found.append(process)
    return found


@pytest.mark.slow
def test_a_study_launched_and_left_is_stopped_killed_and_goes_on(mini_flags: list[str], tmp_path: Path) -> None:
    fewer = ["--lora.ranks", "4", "--lora.num-steps", "150", "--grid.models", "ResNet18", "--grid.regimes", "HB",
             "--grid.table2-regimes", "AF", "--amounts.numbers", "--amounts.shares"]  # fmt: skip
    paths = RunPaths(tmp_path / "run")
    with RayProcesses(num_cpus=2, serves_jobs=True) as cluster:
        at = ["--address", f"http://127.0.0.1:{cluster.dashboard_port}"]
        launch = ["run", "demo", *mini_flags, *fewer, "--out", str(paths.root), "--detach", *at]
        wait_for(lambda: "is no job of ours" in sweeps(["logs", "x", *at], cluster.environment)[2], 90)

        listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == cluster.dashboard_port}
        assert listening == {"127.0.0.1"}
        nowhere = {k: v for k, v in cluster.environment.items() if not k.startswith("RAY_AUTH")} | {
            "HOME": str(tmp_path)
        }
        for env, expected in (
            (nowhere, "wants a token and was shown none"),
            (nowhere | {"RAY_AUTH_TOKEN": "0" * 32}, "refuses this machine's token"),
        ):
            code, out, err = sweeps(launch, env)
            assert code == 2 and out == "" and f"address: '{at[1]}' {expected}" in err and "RAY_AUTH_TOKEN" in err, err

        code, out, err = sweeps(launch, cluster.environment)
        assert code == 0, err
        first = out.strip()
        wait_for(lambda: "lora" in at_work(paths))
        code, out, err = sweeps(["status", first, *at], cluster.environment)
        assert code == 0 and out.startswith(f"{first}: RUNNING since") and "running:" in out and "lora" in out, out
        code, _, err = sweeps(launch, cluster.environment)
        assert code == 2 and f"is being written by job {first}" in err
        code, _, err = sweeps(["stop", "demo-of-nobody", *at], cluster.environment)
        assert code == 2 and f"there are: {first}" in err

        code, out, err = sweeps(["stop", first, *at], cluster.environment)
        assert code == 0 and out.startswith(f"{first}: STOPPED"), out + err
        log = AttemptLog(paths.attempts).attempts
        cancelled = {a.label for a in log if a.status == "CANCELLED"}
        assert cancelled, [a.to_json() for a in log]
        assert "stopped" in sweeps(["logs", first, *at], cluster.environment)[1]
        assert {row["label"] for row in read_rows(paths.trials, "trials") if row["status"] == "CANCELLED"} <= cancelled

        done = {a.trial_id for a in log if a.status == "SUCCEEDED"}
        second = sweeps(launch, cluster.environment)[1].strip()
        wait_for(lambda: drivers(paths) and at_work(paths))
        (driver,) = drivers(paths)
        driver.send_signal(signal.SIGKILL)
        wait_for(lambda: "FAILED" in sweeps(["status", second, *at], cluster.environment)[1], 60)

        third = sweeps(launch, cluster.environment)[1].strip()
        assert len({first, second, third}) == 3
        code, out, err = sweeps(["logs", third, "--follow", *at], cluster.environment)
        assert code == 0 and str(paths.report) in out, out + err
        wait_for(lambda: "SUCCEEDED" in sweeps(["status", third, *at], cluster.environment)[1], 60)
    assert paths.report.is_file()
    log = AttemptLog(paths.attempts).attempts
    assert all(sum(a.trial_id == key and a.status == "SUCCEEDED" for a in log) == 1 for key in done), "done twice"
    ran = {a.provenance["commit"] for a in log if "commit" in a.provenance}
    assert ran == {commit()}, "what the client ran"

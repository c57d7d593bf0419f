"""Trials in parallel on logical devices: packing, failures, deaths."""

import os
import time

import pytest

from sweeps.console.progress import LiveBars, Quiet, shown
from sweeps.core.paths import RunPaths
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.trials import Attempt, Trial, missing, read_attempts
from sweeps.tuning import Watch, run_trials


def _trials(count, **config):
    return [Trial(stage="grid", label=f"trial {i}", config={"i": i, **config}, inputs={}, seed=i) for i in range(count)]


@pytest.fixture(scope="module")
def four_gpus():
    """Ray on this machine with four logical GPUs."""
    with connected(ClusterOptions(num_cpus=2, num_gpus=4)):
        yield


def _meet(trial, paths, report):
    """Wait until all four trials are here: none returns unless all run at once."""
    (paths.root / f"here-{trial.config['i']}").touch()
    end = time.monotonic() + 120
    while len(list(paths.root.glob("here-*"))) < 4:
        if time.monotonic() > end:
            raise TimeoutError("the others did not come")
        time.sleep(0.05)
    return {"score": float(trial.config["i"]), "device": "cpu"}


def _sometimes_fails(trial, paths, report):
    if trial.config["i"] == 1:
        raise ValueError("the second one is wrong")
    if trial.config["i"] == 2:
        os._exit(1)  # as the kernel's out-of-memory killer does it
    return {"score": 1.0}


def test_four_logical_gpus_run_four_trials_at_once_with_one_device_each(four_gpus, tmp_path):
    paths, trials = RunPaths(tmp_path), _trials(4)
    with connected(ClusterOptions()) as cluster:
        assert cluster.num_gpus == 4 and cluster.num_slots == 4
        attempts = run_trials(trials, {"grid": _meet}, paths=paths, cluster=cluster, progress=Quiet())
    assert [a.status for a in attempts] == ["SUCCEEDED"] * 4
    assert sorted(a.provenance["gpu_ids"] for a in attempts) == ["0", "1", "2", "3"]


def test_a_failure_and_a_death_are_rows_and_the_others_go_on(four_gpus, tmp_path):
    paths, trials = RunPaths(tmp_path), _trials(4, kind="failing")
    with connected(ClusterOptions()) as cluster:
        run_trials(trials, {"grid": _sometimes_fails}, paths=paths, cluster=cluster, progress=Quiet())
    by_index = {a.config["i"]: a for a in read_attempts(paths)}
    assert [by_index[i].status for i in range(4)] == ["SUCCEEDED", "FAILED", "FAILED", "SUCCEEDED"]
    assert by_index[1].error_type == "ValueError" and "the second one is wrong" in by_index[1].error_message
    assert by_index[2].error_type == "WorkerDied"
    assert [t.config["i"] for t in missing(trials, paths)] == [1, 2]


def test_trials_under_way_when_stopped_become_cancelled_rows_unless_they_wrote_their_own(tmp_path):
    trials, paths = _trials(3), RunPaths(tmp_path)

    class Three(Watch):
        def trial_of(self, config):
            return trials[config["index"]], 1

    class Rays:
        def __init__(self, index):
            self.trial_id, self.config = f"ray-{index}", {"index": index}

    watch = Three(paths, Quiet())
    for index in range(3):
        watch.on_trial_start(0, [], Rays(index))
    watch.on_trial_complete(0, [], Rays(0))
    own = Attempt(
        trial_id=trials[1].trial_id, stage=trials[1].stage, label="1", attempt=1, status="SUCCEEDED", config={}
    )
    own.save(paths)
    watch.cancel_running()
    found = {a.trial_id: a for a in read_attempts(paths)}
    assert {trial_id: a.status for trial_id, a in found.items()} == {
        trials[1].trial_id: "SUCCEEDED", trials[2].trial_id: "CANCELLED"
    }  # fmt: skip
    assert found[trials[2].trial_id].error_message == "stopped by the user"


def test_live_bars_show_trials_as_they_end(four_gpus, tmp_path, capsys):
    paths, progress = RunPaths(tmp_path), LiveBars()
    with connected(ClusterOptions()) as cluster, shown(progress, "grid", 2, "trials"):
        work = {"grid": _sometimes_fails}
        run_trials(_trials(2, kind="shown"), work, paths=paths, cluster=cluster, progress=progress)
    said = capsys.readouterr().err
    assert "done trial 0" in said and "failed trial 1" in said and "the second one is wrong" in said
    assert "grid: 2 trials in" in said


def test_a_second_attempt_has_its_own_number_and_row(four_gpus, tmp_path):
    paths, trials = RunPaths(tmp_path), _trials(2, kind="again")
    with connected(ClusterOptions()) as cluster:
        for _ in range(2):
            run_trials(trials[1:], {"grid": _sometimes_fails}, paths=paths, cluster=cluster, progress=Quiet())
    assert [(a.attempt, a.status) for a in read_attempts(paths)] == [(1, "FAILED"), (2, "FAILED")]


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "slots", "resources"),
    [
        (2, 0, 1.0, 2, {"cpu": 1, "gpu": 0}),
        (16, 4, 1.0, 4, {"cpu": 4, "gpu": 1.0}),
        (16, 4, 0.5, 8, {"cpu": 2, "gpu": 0.5}),
        (2, 4, 1.0, 4, {"cpu": 0.5, "gpu": 1.0}),
        (64, 8, 2.0, 4, {"cpu": 4, "gpu": 2.0}),
    ],
)
def test_a_trials_share_of_the_machine(cpus, gpus, share, slots, resources):
    cluster = Cluster(num_cpus=cpus, num_gpus=gpus, num_nodes=1, gpus_per_trial=share)
    assert cluster.num_slots == slots
    assert cluster.for_tune == resources
    assert cluster.num_slots * cluster.cpus_per_trial <= cpus, "no core is promised twice"


def test_a_trials_identity_is_its_science():
    one, same, other = _trials(1)[0], _trials(1, **{})[0], _trials(1, epochs=2)[0]
    assert one.trial_id == same.trial_id != other.trial_id
    moved = Trial(stage="grid", label="another name", config=one.config, inputs={}, seed=0, cost=9.0)
    assert moved.trial_id == one.trial_id
    assert Trial(stage="grid", label="", config=one.config, inputs={"data": "x"}, seed=0).trial_id != one.trial_id

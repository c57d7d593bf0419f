"""A study goes on: stopped and started again, moved, wider, with another rank, or with newer code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.core.files import remove
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.report import write_report
from sweeps.sources.catalog import read_catalog
from sweeps.study import make_plan

from .mini import Said, attempts, drawn, go, results


def test_running_again_does_nothing_and_gives_the_same_tables(finished, mini_experiment):
    before = results(finished), len(attempts(finished)), drawn(finished), finished.report.read_bytes()
    said = Said()
    assert go(mini_experiment, finished, said) == []
    assert said.done == [] and not any("damaged" in line for line in said.lines)
    assert (results(finished), len(attempts(finished)), drawn(finished), finished.report.read_bytes()) == before


def test_a_finished_run_started_again_imports_neither_torch_nor_ray(finished, mini_flags):
    """On Ray, as by default: with nothing to do there is no cluster to start."""
    program = (
        "import sys; from sweeps.cli import guarded\n"
        "code = guarded(sys.argv[1:])\n"
        "print([m for m in ('torch', 'ray', 'diffusers', 'transformers', 'timm', 'sklearn', 'matplotlib')\n"
        "       if m in sys.modules], code)"
    )
    words = ["run", "demo", *mini_flags, "--out", str(finished.root)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stdout + done.stderr


@pytest.mark.slow
def test_a_wider_study_runs_the_difference(copied, mini_experiment):
    before = {a.trial_id for a in attempts(copied)}
    wider = replace(
        mini_experiment,
        lora=replace(mini_experiment.lora, ranks=(2, 3, 4)),
        sampling=replace(mini_experiment.sampling, images_per_plane=4),
        grid=replace(mini_experiment.grid, models=("MobileNet v2", "ResNet18", "EfficientNet b0")),
    )
    images, shown = drawn(copied), {file.name for file in copied.synthetic.rglob("*.png")}
    assert go(wider, copied) == []
    new = [a for a in attempts(copied) if a.trial_id not in before]
    assert [a.label for a in new if a.stage == "lora"] == ["rank 3"]
    assert {a.config["model"] for a in new if a.stage == "grid" and a.config["regime"] == "ES"} == {"EfficientNet b0"}
    after = {file.name for file in copied.synthetic.rglob("*.png")}
    assert len(after) == 40 and shown < after and images.items() <= drawn(copied).items()
    assert [r["rank"] for r in read_rows(copied.table("ranks"), "ranks")] == [2, 3, 4]


def test_a_training_added_to_the_grid_alone_is_done(copied, mini_experiment):
    before = {a.trial_id for a in attempts(copied)}
    grid = replace(mini_experiment.grid, table2_regimes=("AF", "ES", "HB"), regimes=("ES", "HB", "HB+DA"))
    assert go(replace(mini_experiment, grid=grid), copied) == []
    new = {a.stage for a in attempts(copied) if a.trial_id not in before}
    assert new == {"scores", "data_scaling", "control_scores", "report"}
    assert {r["regime"] for r in read_rows(copied.table("table1"), "table1")} == {"ES", "HB", "HB+DA"}


def test_choosing_another_rank_draws_nothing_anew(copied, mini_experiment):
    """All sets of one size: the images of every rank are there, whichever is chosen."""
    study = replace(mini_experiment, compare_per_plane=mini_experiment.sampling.images_per_plane)
    assert go(study, copied, until="sample") == []
    images, number = drawn(copied), len(attempts(copied))
    other = replace(study, sampling=replace(study.sampling, rank=2))
    assert go(other, copied, until="sample") == []
    assert drawn(copied) == images
    assert {a.stage for a in attempts(copied)[number:]} <= {"features", "quality", "ranks"}
    assert {r["rank"] for r in read_rows(copied.synthetic / "metadata.parquet", "metadata")} == {2}
    assert {folder.name for folder in copied.samples.iterdir()} == {"base", "rank-004"}
    assert [r["rank"] for r in read_rows(copied.table("ranks"), "ranks") if r["chosen"]] == [2]


def test_newer_code_makes_stale_what_stands_on_it_and_nothing_else(copied, mini_experiment, monkeypatch):
    def keys():
        plan = make_plan(mini_experiment, read_catalog(copied.root, copied.root))
        steps = [*plan.targets("report"), plan.report(lambda step: True, plan.summaries("report", lambda step: True))]
        return {(step.kind.name, step.label): step.key for step in steps}

    from sweeps.grid import plan as grid
    from sweeps.ranks import plan as ranks
    from sweeps.scores import plan as scores

    before = keys()
    with monkeypatch.context() as patched:
        patched.setattr(ranks, "LORA", replace(ranks.LORA, version=ranks.LORA.version + 1))
        after = keys()
    changed = {kind for kind, label in before if before[kind, label] != after[kind, label]}
    assert changed == {"lora", "images", "features", "audit", "pixels", "grid", "embedding", "report"}
    same = {kind for kind, label in before if before[kind, label] == after[kind, label]}
    assert same == {"catalog", "judge", "images", "features", "planted", "pixels", "grid"}, "the base's images, ES, AF"
    monkeypatch.setattr(scores, "SCORES", replace(scores.SCORES, version=scores.SCORES.version + 1))
    assert grid.GRID.version == 1
    number, tables = len(attempts(copied)), results(copied)
    assert go(mini_experiment, copied) == []
    assert [a.stage for a in attempts(copied)[number:]] == ["scores", "report"]
    assert results(copied) == tables


def test_a_run_that_was_moved_goes_on_where_it_is_now(copied, mini_experiment, tmp_path):
    moved = RunPaths(Path(shutil.move(copied.root, tmp_path / "far" / "away")))
    for file in moved.root.rglob("*"):  # as after a copy that does not keep the times
        if file.is_file() and not file.is_symlink():
            os.utime(file)
    rows = read_rows(moved.catalog, "catalog")
    assert rows and not any(Path(row["path"]).is_absolute() for row in rows), "phantoms lie in the run"
    said, before = Said(), (results(moved), len(attempts(moved)))
    assert go(mini_experiment, moved, said) == []
    assert said.done == [] and (results(moved), len(attempts(moved))) == before
    for view in (*moved.adapters.iterdir(), moved.judge, moved.phantoms, moved.figures):
        assert view.is_symlink() and view.resolve().is_relative_to(moved.root) and any(view.iterdir())
    records = read_catalog(moved.root, moved.root)
    assert all(Path(r.path).is_file() and Path(r.path).is_relative_to(moved.root) for r in records)
    page = write_report(moved, tmp_path / "page").read_text()
    assert 'class="absent"' not in page and "file missing" not in page


@pytest.mark.slow
@pytest.mark.parametrize("choose", ["kid", "recognised"])
def test_the_rank_can_be_chosen_by_a_score_and_the_notes_say_which_and_why(copied, mini_experiment, choose):
    chosen = replace(mini_experiment, choose_rank=choose, sampling=replace(mini_experiment.sampling, rank=128))
    assert go(chosen, copied, until="sample") == []
    before = drawn(copied)
    assert go(chosen, copied, until="sample") == []
    assert drawn(copied) == before, "the second time nothing is sampled"
    (note,) = [r["note"] for r in read_rows(copied.table("notes"), "notes") if "is sampled:" in r["note"]]
    (file,) = copied.root.glob("steps/choice/*/choice.json")
    best = json.loads(file.read_text())["rank"]
    why = {"kid": "the lowest KID", "recognised": "most often recognised"}[choose]
    assert best in (2, 4) and note.startswith(f"rank {best} is sampled: {why}") and "10 images each" in note
    if choose == "kid":
        numbers = [float(text) for text in re.findall(r"-?\d\.\d{4}", note)]
        assert len(numbers) == 2 and numbers[0] == min(numbers), "the chosen rank's comes first"
    assert {row["rank"] for row in read_rows(copied.synthetic / "metadata.parquet", "metadata")} == {best}
    assert [r["rank"] for r in read_rows(copied.table("ranks"), "ranks") if r["chosen"]] == [best]


def test_where_no_rank_can_be_chosen_none_is_sampled(copied, mini_experiment):
    """LoRA learns from every patient, so there are no others for KID to compare with."""
    lora = replace(mini_experiment.lora, images_per_plane=1000)
    number, report, predictions = len(attempts(copied)), copied.report.read_bytes(), copied.predictions.read_bytes()
    failed = go(replace(mini_experiment, choose_rank="kid", lora=lora), copied)
    assert [(a.label, a.status) for a in failed] == [("choice of the rank", "FAILED")]
    assert "Choose by recognised" in (failed[0].error_message or "")
    kinds = {a.stage for a in attempts(copied)[number:]}
    assert kinds == {"selection", "audit", "lora", "images", "features", "choice"}
    shards = [a for a in attempts(copied)[number:] if a.stage == "images"]
    assert sum(a.metrics["num_images"] for a in shards) == 2 * 10, "a few of every rank to compare, and no more"
    assert (copied.report.read_bytes(), copied.predictions.read_bytes()) == (report, predictions)
    (row,) = [r for r in read_rows(copied.table("steps"), "steps") if r["kind"] == "choice"]
    assert row["status"] == "FAILED"


def _spawn(flags, folder, executor):
    words = ["run", "demo", *flags, "--executor", executor, "--out", str(folder)]
    return subprocess.Popen(
        [sys.executable, "-c", "from sweeps.cli import main; main()", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell starts what it puts in the background deaf to Ctrl-C, and so would be all that is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _wait_for(process, condition, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def _forget(paths: RunPaths, kept: set[str]) -> None:
    """Leave of a finished run the files, and the attempts, of some kinds of steps."""
    for folder in (paths.root / "steps").iterdir():
        if folder.name not in kept:
            remove(folder)
    lines = [line for line in paths.attempts.read_text().splitlines() if json.loads(line)["stage"] in kept]
    paths.attempts.write_text("".join(line + "\n" for line in lines))
    for view in (paths.synthetic, paths.samples, paths.tables, paths.predictions, paths.audit, paths.report):
        remove(view)


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_stopped_twice_goes_on_and_gives_the_same_tables(executor, copied, mini_flags, mini_experiment, finished):
    """From its adapters on: killed while sampling; Ctrl-C, or SIGTERM, in the middle of the grid; then let finish."""
    _forget(copied, {"phantoms", "catalog", "selection", "judge", "lora"})

    def of_kind(kind):
        return {file.parent.name for file in copied.root.glob(f"steps/{kind}/*/done.json")}

    process = _spawn(mini_flags, copied.root, executor)
    _wait_for(process, lambda: len(of_kind("images")) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shards = of_kind("images")
    done = {file: time for file, time in drawn(copied).items() if file.parts[2] in shards}
    process = _spawn(mini_flags, copied.root, executor)
    _wait_for(process, lambda: len(of_kind("grid")) >= 3)
    process.send_signal(signal.SIGTERM if executor == "process" else signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again to resume" in said
    # A trial of a second may be done before its worker is stopped: then its row says so, rightly.
    assert {a.status for a in attempts(copied)} <= {"SUCCEEDED", "CANCELLED"}
    assert len(of_kind("grid")) < len(list(finished.root.glob("steps/grid/*"))), "it was stopped before its end"
    assert done and done.items() <= drawn(copied).items(), "no finished image is sampled again"
    done = drawn(copied)
    succeeded = {a.trial_id for a in attempts(copied) if a.status == "SUCCEEDED"}
    assert go(mini_experiment, copied) == []
    assert results(copied) == results(finished)
    assert done.items() <= drawn(copied).items()
    again = {a.trial_id for a in attempts(copied) if a.attempt > 1}
    assert not succeeded & again

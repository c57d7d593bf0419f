"""The whole study in miniature, real at every stage: what it leaves, and that it goes on after being stopped."""

import hashlib
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

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fulora.data.pixels import decode_square
from fulora.experiment import Amounts, Experiment
from sweeps import lora_sweep
from sweeps.catalog import read_catalog
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table
from sweeps.engine.options import ClusterOptions
from sweeps.experiment import make_plan, run
from sweeps.quality import measure_quality
from sweeps.report import write_report
from sweeps.trials import latest_success, read_attempts


def go(experiment: Experiment, folder, **keys):
    return run(experiment, RunPaths(folder), options=ClusterOptions(), progress=Quiet(), **keys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, mini_flags, mini_experiment, local_ray) -> RunPaths:
    """A finished run; tests read it, and those that change it work on a copy."""
    folder = tmp_path_factory.mktemp("run") / "mini"
    assert go(mini_experiment, folder) == []
    return RunPaths(folder)


@pytest.fixture
def copied(finished, tmp_path) -> RunPaths:
    """A finished run in a folder of its own, as after a move."""
    return RunPaths(shutil.copytree(finished.root, tmp_path / "copy"))


def test_a_run_leaves_the_files_of_the_contract(finished):
    names = ["plan.json", "catalog.parquet", "audit.parquet", "trials.parquet", "predictions.parquet", "report.html"]
    names += ["adapters/rank-004/loss.parquet", "adapters/rank-004/pytorch_lora_weights.safetensors"]
    names += ["synthetic/metadata.parquet", "tables/table1.parquet", "tables/table2.parquet", "tables/ranks.parquet"]
    assert [name for name in names if not (finished.root / name).is_file()] == []
    assert [p for p in finished.root.rglob("*.part")] == []


def test_tables_have_a_row_per_cell_in_the_papers_order(finished):
    table1 = read_rows(finished.table("table1"), "table1")
    cells = [(regime, model) for regime in ("ES", "ES+DA", "HB", "HB+DA") for model in ("MobileNet v2", "ResNet18")]
    assert [(row["regime"], row["model"]) for row in table1] == cells
    for row in table1:
        assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 100
        assert row["weights"] == "from scratch"
    assert {(r["num_es"], r["num_synthetic"]) for r in table1} == {(40, 0), (20, 20)}
    table2 = read_rows(finished.table("table2"), "table2")
    assert [row["regime"] for row in table2] == ["AF", "ES", "ES+AF", "HB"]
    assert table2[2]["num_es"] == 40 and table2[2]["num_af"] == 20


def test_every_finished_cell_predicts_every_test_image_once(finished):
    rows = read_rows(finished.predictions, "predictions")
    test = [
        r["image_id"]
        for r in read_rows(finished.catalog, "catalog")
        if (r["source"], r["split"]) == ("african", "test")
    ]
    by_trial: dict[str, list[str]] = {}
    for row in rows:
        by_trial.setdefault(row["trial_id"], []).append(row["image_id"])
        assert sum(row[f"p_{name}"] for name in ("other", "abdomen", "brain", "femur", "thorax")) == pytest.approx(
            1, abs=1e-5
        )
    assert len(by_trial) == 4 * 2 + 2 + 1, "Tables 1 and 2, and HB+DA without synthetic images"
    assert all(sorted(ids) == sorted(test) for ids in by_trial.values())


def test_how_many_synthetic_images_help_uses_the_cell_of_table_1_where_it_is_the_same(finished):
    none, twenty = read_rows(finished.table("amounts"), "amounts")
    assert [(r["kind"], r["num_es"], r["num_synthetic"]) for r in (none, twenty)] == [
        ("number", 20, 0),
        ("number", 20, 20),
    ]
    cell = next(r for r in read_rows(finished.table("table1"), "table1") if r["regime"] == "HB+DA" and
                r["model"] == "ResNet18")  # fmt: skip
    assert twenty["trial_ids"] == cell["trial_ids"] and twenty["accuracy"] == cell["accuracy"]
    assert twenty["accuracy_gain"] == pytest.approx(twenty["accuracy"] - none["accuracy"])
    assert (none["accuracy_gain"], none["accuracy_gain_low"]) == (0, 0)


def test_accuracy_in_the_table_is_that_of_the_predictions(finished):
    row = read_rows(finished.table("table1"), "table1")[0]
    mine = [r for r in read_rows(finished.predictions, "predictions") if r["trial_id"] == row["trial_ids"]]
    names = ("other", "abdomen", "brain", "femur", "thorax")
    right = [r["plane"] == max(names, key=lambda name: r[f"p_{name}"]) for r in mine]
    assert row["accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_metadata_names_every_image_and_its_bytes(finished):
    rows = read_rows(finished.synthetic / "metadata.parquet", "metadata")
    files = {str(p.relative_to(finished.synthetic)) for p in finished.synthetic.rglob("*.png")}
    assert len(rows) == 20 and {row["file_name"] for row in rows} == files
    for row in rows:
        assert hashlib.sha256((finished.synthetic / row["file_name"]).read_bytes()).hexdigest() == row["sha256"]
    assert len({row["seed"] for row in rows}) == 20
    assert {(row["plane"], row["sampler"]) for row in rows} == {
        (plane, sampler) for plane in ("other", "abdomen", "brain", "femur", "thorax") for sampler in ("euler", "unipc")
    }


def test_trials_say_what_ran_where_and_from_what(finished):
    rows = pq.read_table(finished.trials).to_pylist()
    assert sorted({r["stage"] for r in rows}) == ["grid", "judge", "lora"]
    assert {r["status"] for r in rows} == {"SUCCEEDED"}
    for row in rows:
        assert (
            row["seconds"] > 0 and row["peak_memory_bytes"] > 0 and row["provenance_torch"] and row["config_seed"] >= 0
        )
    bases = {r["metric_base_name"] for r in rows if r["stage"] == "lora"}
    assert len(bases) == 1 and "small-sd" in bases.pop()
    assert {r["config_rank"] for r in rows if r["stage"] == "lora"} == {4, 2}
    assert all(r["config_rank"] is None for r in rows if r["stage"] == "grid")


def test_running_again_does_nothing_and_gives_the_same_tables(finished, mini_experiment):
    def state():
        names = ("table1", "table2", "ranks", "embedding", "confusion")
        images = {p.name: p.stat().st_mtime_ns for p in finished.synthetic.rglob("*.png")}
        return {n: finished.table(n).read_bytes() for n in names}, len(read_attempts(finished)), images

    before = state()
    assert go(mini_experiment, finished.root) == []
    assert state() == before


@pytest.mark.slow
def test_a_wider_study_runs_the_difference(copied, mini_experiment):
    before = {a.trial_id for a in read_attempts(copied)}
    lora = replace(mini_experiment.lora, ranks=(2, 3, 4))
    wider = replace(
        mini_experiment,
        lora=lora,
        sampling=replace(mini_experiment.sampling, images_per_plane=4),
        grid=replace(mini_experiment.grid, models=("MobileNet v2", "ResNet18", "EfficientNet b0")),
    )
    images = {p.name: p.stat().st_mtime_ns for p in copied.synthetic.rglob("*.png")}
    go(wider, copied.root)
    new = [a for a in read_attempts(copied) if a.trial_id not in before]
    assert [a.label for a in new if a.stage == "lora"] == ["rank 3"]
    assert {a.config["model"] for a in new if a.stage == "grid" and a.config["regime"] == "ES"} == {"EfficientNet b0"}
    after = {p.name: p.stat().st_mtime_ns for p in copied.synthetic.rglob("*.png")}
    assert len(after) == 40 and {name: after[name] for name in images} == images
    assert [r["rank"] for r in read_rows(copied.table("ranks"), "ranks")] == [2, 3, 4]


def _spawn(flags, folder):
    command = [sys.executable, "-c", "from sweeps.cli import main; main()", "run", "demo", *flags, "--out", str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell starts what it puts in the background deaf to Ctrl-C, and so would be all that is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _wait_for(process, condition, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_stopped_twice_goes_on_and_gives_the_same_tables(
    tmp_path, mini_flags, mini_experiment, finished, local_ray
):
    """From its adapters on: killed in the middle of sampling, Ctrl-C in the middle of the grid, then let finish."""
    folder = shutil.copytree(finished.root, tmp_path / "stopped")
    paths = RunPaths(folder)
    shards, attempts = paths.parts / "shards", paths.attempts
    for part in (shards, paths.parts / "predictions", paths.synthetic, paths.root / "samples", paths.tables):
        shutil.rmtree(part)
    for trial in (a for a in read_attempts(paths) if a.stage == "grid"):
        paths.attempt(trial.trial_id, trial.attempt).unlink()
    paths.predictions.unlink()

    def images():
        return {p.name: p.stat().st_mtime_ns for p in folder.glob("synthetic/*/*.png")}

    process = _spawn(mini_flags, folder)
    _wait_for(process, lambda: len(list(shards.glob("*.parquet"))) >= 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = images()
    complete = {
        row["file_name"].split("/")[1]
        for part in shards.glob("synthetic-*.parquet")
        for row in read_rows(part, "metadata")
    }
    process = _spawn(mini_flags, folder)
    _wait_for(process, lambda: len(list(attempts.glob("*.json"))) >= 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "goes on with what is missing" in said
    # A trial of a second may be done before its worker is stopped: then its row says so, rightly.
    assert {a.status for a in read_attempts(paths)} <= {"SUCCEEDED", "CANCELLED"}
    assert len(latest_success(paths)) < len(latest_success(finished)), "it was stopped before its end"
    assert complete and {n: images()[n] for n in complete} == {n: done[n] for n in complete}
    done = images()
    succeeded = {a.trial_id for a in read_attempts(paths) if a.status == "SUCCEEDED"}
    go(mini_experiment, folder)
    for name in ("table1", "table2", "confusion", "embedding", "fidelity", "copies"):
        assert read_rows(paths.table(name), name) == read_rows(finished.table(name), name)
    assert paths.predictions.read_bytes() == finished.predictions.read_bytes()
    assert images() == done, "no finished image is sampled again"
    again = [a.trial_id for a in read_attempts(paths) if a.attempt > 1]
    assert not succeeded & set(again)


def test_a_run_that_was_moved_knows_its_images_where_they_are_now(copied, finished):
    rows = read_rows(copied.catalog, "catalog")
    assert rows and not any(Path(row["path"]).is_absolute() for row in rows), "phantoms lie in the run"
    assert all(Path(r.path).is_file() and Path(r.path).is_relative_to(copied.root) for r in read_catalog(copied))
    assert "cannot be read" not in write_report(copied).read_text()


def test_a_failed_cell_is_a_row_and_the_others_go_on(tmp_path, mini_experiment, copied):
    import torch
    from safetensors.torch import save_file

    weights = tmp_path / "weights"
    weights.mkdir()
    save_file({"not.a.key": torch.zeros(3)}, weights / "resnet18.tv_in1k.safetensors")
    grid = replace(mini_experiment.grid, regimes=("ES",), table2_regimes=(), pretrained="local", weights=weights)
    failed = go(replace(mini_experiment, grid=grid, amounts=Amounts()), copied.root, until="grid")
    assert [(a.label, a.status) for a in failed] == [("ES, ResNet18", "FAILED")]
    assert "resnet18" in failed[0].error_message.lower()
    rows = {r["model"]: r for r in read_rows(copied.table("table1"), "table1")}
    assert rows["ResNet18"]["accuracy"] is None and rows["MobileNet v2"]["accuracy"] is not None
    (row,) = [r for r in pq.read_table(copied.trials).to_pylist() if r["status"] == "FAILED"]
    assert row["label"] == "ES, ResNet18" and row["error_type"] == "InputError" and row["metric_train_loss"] is None


def test_the_plan_written_holds_the_resolved_configuration(finished, mini_experiment):
    plan = json.loads(finished.plan.read_text())
    assert plan["recipe"] == "demo" and plan["experiment"]["lora"]["batch_size"] == mini_experiment.lora.batch_size
    assert {t["stage"] for t in plan["trials"]} == {"judge", "lora", "grid"}


def test_every_set_of_images_is_scored_at_one_size_beside_real_images(finished):
    rows = read_rows(finished.table("fidelity"), "fidelity")
    assert [(r["adapter"], r["sampler"]) for r in rows] == [
        (label, sampler) for label in ("rank-004", "base", "rank-002") for sampler in ("euler", "unipc")
    ] + [("real", None)]
    assert {(r["num_real"], r["num_generated"]) for r in rows} == {(5, 5)}, "the smallest set gives the size of all"
    assert len({r["features"] for r in rows}) == 1 and "judge" in rows[0]["features"]
    assert all(r["fid"] >= 0 and 0 <= r["precision"] <= 100 and 0 <= r["recall"] <= 100 for r in rows)
    copies = read_rows(finished.table("copies"), "copies")
    assert [(r["adapter"], r["chosen"], r["num_synthetic"]) for r in copies] == [
        ("rank-004", True, 20), ("rank-002", False, 10)
    ]  # fmt: skip
    for row in read_rows(finished.synthetic / "metadata.parquet", "metadata"):
        assert row["nearest_pixels"].startswith("spanish/") and row["distance_pixels"] > 0
        assert row["closer_than_real"] in (True, False)


def test_a_copy_among_the_synthetic_images_is_found(copied, mini_experiment):
    """A training image is put in the place of a synthetic one, as a model would that learned it by heart."""
    records = read_catalog(copied)
    stolen = lora_sweep.lora_images(mini_experiment, records)[0][0]
    file = copied.synthetic / "metadata.parquet"
    rows = read_rows(file, "metadata")
    pixels = decode_square([stolen.path], resolution_px=32, workers=1)[0]
    Image.fromarray(pixels).save(copied.synthetic / rows[0]["file_name"])
    rows[0]["sha256"] = "0" * 64
    write_table(file, "metadata", rows)
    measure_quality(mini_experiment, make_plan(mini_experiment, records).images, records, copied)
    found = read_rows(file, "metadata")
    assert found[0]["nearest_pixels"] == stolen.image_id and found[0]["closer_than_real"]
    assert found[0]["distance_pixels"] < 0.2 < found[1]["distance_pixels"]
    worst = read_rows(copied.table("worst_copies"), "worst_copies")
    assert worst[0]["image_id"] == rows[0]["image_id"] and worst[0]["ratio"] < 1
    assert worst == sorted(worst, key=lambda row: row["ratio"])


@pytest.mark.slow
def test_the_rank_can_be_chosen_by_a_score_and_the_notes_say_which_and_why(copied, mini_experiment, local_ray):
    chosen = replace(mini_experiment, choose_rank="kid", sampling=replace(mini_experiment.sampling, rank=128))
    for _ in range(2):  # the second time nothing is sampled
        before = {file: file.stat().st_mtime_ns for file in (copied.parts / "shards").iterdir()}
        assert go(chosen, copied.root, until="sample") == []
    assert {file: file.stat().st_mtime_ns for file in (copied.parts / "shards").iterdir()} == before
    (note,) = [r["note"] for r in read_rows(copied.table("notes"), "notes") if "is sampled:" in r["note"]]
    best = json.loads((copied.parts / "rank.json").read_text())["rank"]
    assert best in (2, 4) and note.startswith(f"rank {best} is sampled: the least KID") and "10 images each" in note
    numbers = [float(text) for text in re.findall(r"-?\d\.\d{4}", note)]
    assert len(numbers) == 2 and numbers[0] == min(numbers), "the chosen rank's comes first"
    assert {row["rank"] for row in read_rows(copied.synthetic / "metadata.parquet", "metadata")} == {best}
    assert [r["rank"] for r in read_rows(copied.table("ranks"), "ranks") if r["chosen"]] == [best]

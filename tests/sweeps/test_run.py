"""The whole study in miniature, real at every stage: what it leaves."""

import hashlib
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fulora.data.pixels import decode_square, pixel_hash
from fulora.errors import InputError
from fulora.experiment import Amounts
from sweeps.core.paths import RunPaths
from sweeps.core.store import DONE
from sweeps.core.tables import read_rows, write_table
from sweeps.images.rows import ROWS_FILE, drawn_rows
from sweeps.ranks.plan import lora_selection
from sweeps.sources.catalog import read_catalog
from sweeps.study import make_plan

from .mini import attempts, go


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
    none, twenty = read_rows(finished.table("data_scaling"), "data_scaling")
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


def test_a_failed_cell_is_a_row_and_the_others_go_on(tmp_path, mini_experiment, copied):
    import torch
    from safetensors.torch import save_file

    weights = tmp_path / "weights"
    weights.mkdir()
    save_file({"not.a.key": torch.zeros(3)}, weights / "resnet18.tv_in1k.safetensors")
    grid = replace(mini_experiment.grid, regimes=("ES",), table2_regimes=(), pretrained="local", weights=weights)
    failed = go(replace(mini_experiment, grid=grid, amounts=Amounts()), copied, until="grid")
    assert [(a.label, a.status) for a in failed] == [("ES, ResNet18", "FAILED")]
    assert "resnet18" in failed[0].error_message.lower()
    rows = {r["model"]: r for r in read_rows(copied.table("table1"), "table1")}
    assert rows["ResNet18"]["accuracy"] is None and rows["MobileNet v2"]["accuracy"] is not None
    (row,) = [r for r in pq.read_table(copied.trials).to_pylist() if r["status"] == "FAILED"]
    assert row["label"] == "ES, ResNet18" and row["error_type"] == "InputError" and row["metric_train_loss"] is None


def test_weights_that_are_nowhere_are_found_before_any_training(tmp_path, mini_experiment, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    asking = replace(mini_experiment, grid=replace(mini_experiment.grid, pretrained="auto"))
    paths = RunPaths(tmp_path / "run")
    with pytest.raises(InputError, match=r"(?s)finds no weights mobilenet.*finds no weights resnet18"):
        go(asking, paths)
    assert {a.stage for a in attempts(paths)} <= {"catalog", "phantoms"}


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
    plan = make_plan(mini_experiment, read_catalog(copied.root, copied.root))
    stolen = lora_selection(mini_experiment, plan.records).roles["train"][0]
    shard, store = plan.chosen.steps[0], copied.store
    rows, folder = drawn_rows(store.folder(shard)), store.folder(shard)
    pixels = decode_square([stolen.path], resolution_px=32, workers=1)[0]
    file = folder / rows[0]["file_name"]
    Image.fromarray(pixels).save(file)
    rows[0] |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "pixel_hash": pixel_hash(pixels)}
    write_table(folder / ROWS_FILE, "metadata", rows)
    (folder / DONE).unlink()
    store.keep(shard, folder)
    quality = next(step for step in plan.summaries("sample", lambda step: True) if step.kind.name == "quality")
    for step in (plan.features[plan.chosen.label], quality):
        store.discard(step)
    (copied.synthetic / "metadata.parquet").unlink()
    assert go(mini_experiment, copied, until="sample") == []
    found = {row["image_id"]: row for row in read_rows(copied.synthetic / "metadata.parquet", "metadata")}
    copy, other = (found[row["image_id"]] for row in rows)
    assert copy["nearest_pixels"] == stolen.image_id and copy["closer_than_real"]
    assert copy["distance_pixels"] < 0.2 < other["distance_pixels"]
    worst = read_rows(copied.table("worst_copies"), "worst_copies")
    assert worst[0]["image_id"] == copy["image_id"] and worst[0]["ratio"] < 1
    assert worst == sorted(worst, key=lambda row: row["ratio"])

"""Uploading the synthetic images: the real hub client against a small hub on loopback; card, table and Croissant."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table
from sweeps.publish.dataset import PRIVATE, plan_images

from .adapters import call

TO = "jane/fetal-planes"


@pytest.fixture
def drawn(fabricated_run, tmp_path: Path) -> RunPaths:
    """A run whose images are of an adapter of rank 128, with hashes of its files and names of real images."""
    paths = fabricated_run(tmp_path / "drawn")
    rows = read_rows(paths.synthetic / "metadata.parquet", "metadata")
    for row in rows:
        row["sha256"] = hashlib.sha256((paths.synthetic / row["file_name"]).read_bytes()).hexdigest()
        row |= {"nearest_pixels": "spanish/Patient0007", "distance_pixels": 0.5, "node": "node-of-jane"}
    write_table(paths.synthetic / "metadata.parquet", "metadata", rows)
    config = {"base": "tiny", "rank": 128, "alpha": 128.0, "num_steps": 400, "batch_size": 2, "learning_rate": 1e-3,
              "targets": "cross_attention", "resolution_px": 64}  # fmt: skip
    write_json(paths.adapter(128) / "trial.json", {"trial_id": "a", "label": "rank 128", "config": config})
    return paths


def test_what_arrives_is_an_imagefolder_of_what_was_drawn(capsys, drawn, hub) -> None:
    code, out, err = call(capsys, "push", drawn.root, "--to", TO, "--images")
    assert code == 0, err
    assert out.strip() == f"{hub.url}/datasets/{TO}"
    repo = hub.repos[TO]
    rows = read_rows(drawn.synthetic / "metadata.parquet", "metadata")
    made = {name: repo["files"].pop(name) for name in ("README.md", "croissant.json", "metadata.parquet")}
    assert repo["kind"] == "dataset"
    assert repo["files"] == {r["file_name"]: (drawn.synthetic / r["file_name"]).read_bytes() for r in rows}
    (commit,) = hub.commits
    assert commit == {"summary": "Upload 30 synthetic images of rank-128", "num_files": 33}
    table = pq.read_table(io.BytesIO(made["metadata.parquet"]))
    assert table.column("file_name").to_pylist() == [row["file_name"] for row in rows]
    assert not set(PRIVATE) & set(table.column_names) and table.column("distance_pixels")[0].as_py() == 0.5
    for content in made.values():
        assert b"Patient0007" not in content and b"node-of-jane" not in content
    assert call(capsys, "push", drawn.root, "--to", TO, "--images")[0] == 0
    assert len(hub.stored) == len({row["sha256"] for row in rows}) + 1, "nothing is sent twice"


def test_the_card_says_how_they_were_made_and_how_close_they_are(drawn) -> None:
    card = plan_images(drawn, to=TO).card
    assert card.startswith("---\nlicense: mit\n") and "task_categories:" in card and "- n<1K" in card
    for words in (
        "# fetal-planes", "30 synthetic fetal ultrasound images", "not for diagnosis", "**No image shows a patient's",
        "The base was `tiny`", "| base model | tiny (bundled, sha256 0011aabb) |", "| rank, alpha | 128, 128 |",
        "| fine-tuning | 400 steps of batch size 2, learning rate 0.001, 64 px |", "| samplers | euler, unipc |",
        "| sampling | 20 steps, guidance 3 |", "brain 6", "a photo of fetal brain",
        "| rank-128 | euler | 24.4 | 0.0014 | 55 | 65 | 40 | 40 |", "| real | - | 11.6 |",
        "1.2 % of 80; chance gives at most 2.6 %", f'load_dataset("{TO}", split="train")',
    ):  # fmt: skip
        assert words in card, words
    assert "| base | euler" not in card, "other sets' scores"
    for name in ("fidelity", "copies"):
        drawn.table(name).unlink()
    assert "Not measured." in plan_images(drawn, to=TO).card


def test_the_path_of_a_base_stays_at_home(drawn) -> None:
    rows = read_rows(drawn.synthetic / "metadata.parquet", "metadata")
    base = "/home/jane/models/sd.safetensors"
    write_table(drawn.synthetic / "metadata.parquet", "metadata", [r | {"base": f"{base} (sha256 01)"} for r in rows])
    trial = json.loads((drawn.adapter(128) / "trial.json").read_text())
    write_json(drawn.adapter(128) / "trial.json", trial | {"config": trial["config"] | {"base": base}})
    upload = plan_images(drawn, to=TO, licence="openrail")
    assert not any(b"/home/jane" in content for content in upload.made.values())
    table = pq.read_table(io.BytesIO(upload.made["metadata.parquet"]))
    assert set(table.column("base").to_pylist()) == {"sd.safetensors (sha256 01)"}
    assert "| base model | sd.safetensors (sha256 01) |" in upload.card
    assert (
        table.schema.field("base").metadata
        == pq.read_schema(drawn.synthetic / "metadata.parquet").field("base").metadata
    )


def test_croissant_describes_every_column_and_the_images(drawn) -> None:
    upload = plan_images(drawn, to=TO)
    about = json.loads(upload.made["croissant.json"])
    table = upload.made["metadata.parquet"]
    assert about["conformsTo"] == "http://mlcommons.org/croissant/1.0" and about["license"].startswith("https://")
    files = {entry["@id"]: entry for entry in about["distribution"]}
    assert files["table"]["sha256"] == hashlib.sha256(table).hexdigest()
    metadata, images = about["recordSet"]
    columns = {f["source"]["extract"]["column"]: f["dataType"] for f in metadata["field"]}
    assert list(columns) == pq.read_schema(io.BytesIO(table)).names
    assert columns["seed"] == "sc:Integer" and columns["guidance"] == "sc:Float" and columns["plane"] == "sc:Text"
    assert all(field["description"] for field in (*metadata["field"], *images["field"]))


def test_croissant_is_what_its_own_checker_takes(drawn, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    about = json.loads(plan_images(drawn, to=TO).made["croissant.json"])
    (tmp_path / "croissant.json").write_text(json.dumps(about))
    issues = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json").metadata.ctx.issues
    assert not issues.errors, issues.errors
    about["recordSet"][0]["field"][0]["source"]["fileObject"]["@id"] = "nowhere"
    (tmp_path / "croissant.json").write_text(json.dumps(about))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")


def test_a_dry_run_lists_the_first_files_and_contacts_nothing(capsys, drawn, hub) -> None:
    code, out, err = call(capsys, "push", drawn.root, "--to", TO, "--images", "--dry-run", "--private")
    assert code == 0 and hub.requests == [], err
    assert f"would upload to dataset {TO} (private):" in out and "and 13 more files; " in out
    assert plan_images(drawn, to=TO).card in out


def test_images_of_real_ones_or_of_another_base_need_a_licence(capsys, drawn, hub) -> None:
    plan = json.loads(drawn.plan.read_text())
    for changed in ({"spanish": "/data/spanish"}, {"base": "stable-diffusion-v1-5/stable-diffusion-v1-5"}):
        write_json(drawn.plan, plan | {"experiment": plan["experiment"] | changed})
        code, _, err = call(capsys, "push", drawn.root, "--to", TO, "--images")
        assert code == 2 and "licence: None is not given" in err and "cc-by-4.0" in err and hub.requests == []
    upload = plan_images(drawn, to=TO, licence="cc-by-4.0")
    assert upload.card.startswith("---\nlicense: cc-by-4.0\n")
    assert json.loads(upload.made["croissant.json"])["license"] == "https://creativecommons.org/licenses/by/4.0/"


def test_images_that_are_not_as_recorded_are_not_uploaded(capsys, drawn, hub) -> None:
    rows = read_rows(drawn.synthetic / "metadata.parquet", "metadata")
    first, second = (drawn.synthetic / row["file_name"] for row in rows[:2])
    first.write_bytes(second.read_bytes())
    code, _, err = call(capsys, "push", drawn.root, "--to", TO, "--images")
    assert code == 2 and str(first) in err and "is not the file the run recorded" in err
    first.unlink()
    code, _, err = call(capsys, "push", drawn.root, "--to", TO, "--images")
    assert code == 2 and f"image: '{first}' is gone" in err
    (drawn.synthetic / "metadata.parquet").unlink()
    code, _, err = call(capsys, "push", drawn.root, "--to", TO, "--images")
    assert code == 2 and "has no synthetic images" in err and hub.requests == []


@pytest.mark.parametrize("words", [["--images", "--rank", "8"], ["--licence", "mit"]])
def test_flags_that_do_not_go_together(capsys, drawn, hub, words) -> None:
    code, _, err = call(capsys, "push", drawn.root, "--to", TO, *words)
    assert code == 2 and words[-2].lstrip("-") in err and hub.requests == []

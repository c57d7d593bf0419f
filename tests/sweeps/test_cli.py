"""The command line: bad input is refused before any work, each fault in words; results open anywhere."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fulora
from fulora.data.layouts import LAYOUTS, ListedImage, write_list, write_source
from sweeps.cli import COMMANDS, main
from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.tables import SCHEMA_VERSION, SCHEMAS, write_table
from sweeps.launch import launch_of


def call(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


SPANISH = [
    ListedImage(name="a", patient=1, plane="Fetal brain", train=True, machine="Aloka"),
    ListedImage(name="b", patient=2, plane="Other", train=True, machine="Aloka"),
]
AFRICAN = [
    ListedImage(name="c", patient=1, plane="Fetal brain", train=True, centre="Ghana"),
    ListedImage(name="d", patient=2, plane="Fetal femur", train=False, centre="Ghana"),
]


@pytest.fixture
def sources(tmp_path) -> tuple[Path, Path]:
    """Two small folders in the published layouts, in order."""
    rng = np.random.default_rng(0)
    for source, images in (("spanish", SPANISH), ("african", AFRICAN)):
        pixels = (rng.integers(0, 255, (48, 64), dtype=np.uint8) for _ in images)
        write_source(tmp_path / source, source, zip(images, pixels))
    return tmp_path / "spanish", tmp_path / "african"


def relist(folder: Path, images: list[ListedImage], *, without: str = "") -> None:
    """Write a source's list again: other rows, or one column less."""
    layout = LAYOUTS[folder.name]
    columns = [name for name in layout.columns if name != without]
    rows = [layout.cells(image) for image in images]
    write_list(folder / layout.list_name, rows, columns=columns, delimiter=layout.delimiter)


def refused(capsys, tmp_path, sources, *words) -> str:
    """Return the words of a refusal, having checked that it came with code 2 before any work."""
    out = tmp_path / "run"
    code, _, err = call(capsys, "run", "demo", "--out", out, "--spanish", sources[0], "--african", sources[1], *words)
    assert code == 2, err
    assert "Traceback" not in err
    assert not list(out.glob("steps/*/*/done.json")) and not (out / "adapters").exists()
    return err


def test_a_missing_folder(capsys, tmp_path, sources):
    shutil.rmtree(sources[0])
    assert str(sources[0]) in refused(capsys, tmp_path, sources)


def test_a_missing_column(capsys, tmp_path, sources):
    relist(sources[0], SPANISH, without="Plane")
    err = refused(capsys, tmp_path, sources)
    assert "Plane" in err and "FETAL_PLANES_DB_data.csv" in err


def test_a_listed_image_that_is_not_there(capsys, tmp_path, sources):
    (sources[1] / "Ghana" / "d.png").unlink()
    assert "d.png" in refused(capsys, tmp_path, sources)


def test_a_truncated_png(capsys, tmp_path, sources):
    file = sources[0] / "Images" / "b.png"
    file.write_bytes(file.read_bytes()[:-200])
    assert "b.png" in refused(capsys, tmp_path, sources)


def test_an_unknown_plane(capsys, tmp_path, sources):
    relist(sources[1], [replace(AFRICAN[0], plane="Fetal brian"), AFRICAN[1]])
    err = refused(capsys, tmp_path, sources)
    assert "Fetal brian" in err and "Fetal brain" in err


def test_no_test_images(capsys, tmp_path, sources):
    relist(sources[1], [AFRICAN[0], replace(AFRICAN[1], train=True)])
    assert "test images" in refused(capsys, tmp_path, sources)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lora.ranks", "0", "128"], "lora.ranks: 0"),
        (["--sampling.samplers", "heun"], "heun"),
        (["--grid.models", "AlexNet"], "AlexNet"),
        (["--grid.regimes", "XX"], "XX"),
        (["--sampling.rank", "64"], "lora.ranks"),
        (["--sampling.num-steps", "0"], "num_steps"),
        (["--lora.learning-rate", "-1"], "learning_rate"),
        (["--grid.epochs", "0"], "epochs"),
        (["--sizes.num-synthetic", "7"], "num_synthetic"),
        (["--sizes.num-synthetic", "0", "--sizes.num-spanish-hybrid", "0"], "HB has no images"),
        (["--amounts.numbers", "12"], "amounts.numbers: 12 must be a multiple of 5 (planes), at least 0"),
        (["--amounts.shares", "1.5"], "amounts.shares: 1.5 must be from 0 to 1"),
        (["--judge.epochs", "0"], "judge.epochs"),
        (["--num-cpus", "0"], "num_cpus"),
        (["--base", "/nowhere/model"], "/nowhere/model"),
        (["--weights", "/nowhere"], "/nowhere"),
    ],
)
def test_a_value_that_cannot_be(capsys, tmp_path, sources, words, said):
    assert said in refused(capsys, tmp_path, sources, *words)


def test_all_faults_are_reported_at_once(capsys, tmp_path, sources):
    err = refused(capsys, tmp_path, sources, "--lora.ranks", "0", "128", "--grid.models", "AlexNet")
    assert "lora.ranks" in err and "AlexNet" in err


def test_a_base_that_is_no_diffusion_model(capsys, tmp_path, sources):
    (tmp_path / "notes").mkdir()
    assert "is not a diffusion model" in refused(capsys, tmp_path, sources, "--base", tmp_path / "notes")
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"not safetensors at all")
    assert str(file) in refused(capsys, tmp_path, sources, "--base", file)


def test_an_output_folder_of_another_recipe(capsys, tmp_path, sources):
    write_json(tmp_path / "run" / "plan.json", {"recipe": "paper", "schema_version": SCHEMA_VERSION})
    err = refused(capsys, tmp_path, sources)
    assert "'paper'" in err and "--out" in err


def test_an_output_folder_full_of_something_else(capsys, tmp_path, sources):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert "is not a run" in refused(capsys, tmp_path, sources)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("out", ["/proc/fulora-run", "FILE/run"])
def test_a_disk_that_cannot_be_written(capsys, tmp_path, sources, out):
    (tmp_path / "FILE").write_text("")
    out = out.replace("FILE", str(tmp_path / "FILE"))
    code, _, err = call(capsys, "run", "demo", "--out", out, "--spanish", sources[0], "--african", sources[1])
    assert code == 2 and "cannot be written" in err and out in err


def test_the_paper_needs_real_images(capsys, tmp_path):
    code, _, err = call(capsys, "run", "paper", "--out", tmp_path / "run")
    assert code == 2 and "--spanish" in err


def test_the_plan_of_the_paper_names_every_trial_and_starts_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "plan", "paper")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert sum(line[:1] == ["grid"] for line in lines) == 22
    assert sum(line[:1] == ["lora"] for line in lines) == 3
    assert "rank-128: 5000 images" in out
    assert max(map(len, out.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_what_it_does_not_know_of_a_gpu(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("plan", "paper", "--gpus", "8", "--gpu", "No Such Card", "--price", "2.5")
    code, out, _ = call(capsys, *words)
    assert code == 0 and "on 8 x No Such Card" in out and "not measured on No Such Card: " in out
    assert "wall time: unknown" in out and "money: unknown" in out
    assert ["grid", "22", "0", "unknown"] in [line.split()[:4] for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = call(capsys, *words, "--json")
    found = json.loads(out)
    assert code == 0 and (found["wall_seconds"], found["gpu_hours"], found["money_used"]) == (None, None, None)
    assert {s["stage"]: s["num_images"] for s in found["stages"]}["sample"] == 8000
    code, _, err = call(capsys, "plan", "demo", "--gpus", "-1", "--gpu", "H100")
    assert code == 2 and "gpus: -1" in err


def test_a_plan_on_real_images_has_ids(capsys, tmp_path, sources):
    words = ["--grid.regimes", "ES", "--grid.table2-regimes", "AF", "--amounts.numbers", "--amounts.shares"]
    words += ["--grid.num-seeds", "1", "--grid.models", "MobileNet v2", "ResNet18"]
    code, out, err = call(capsys, "plan", "demo", "--spanish", sources[0], "--african", sources[1], *words)
    assert code == 0, err
    ids = [line.split()[-3] for line in out.splitlines() if line.startswith("grid")]
    assert len(set(ids)) == len(ids) == 3 and all(len(i) == 12 for i in ids)


def test_no_command_and_a_wrong_one(capsys):
    assert call(capsys)[0] == 2
    code, _, err = call(capsys, "fly")
    assert code == 2 and "'fly'" in err and all(name in err for name in COMMANDS)
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", [["-m", "sweeps"], ["-c", "from sweeps.cli import main; main()"]])
def test_the_version_is_printed_however_it_is_called(command):
    done = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"sweeps {fulora.__version__}\n"), done.stderr


def test_status_of_no_run_and_of_a_damaged_plan(capsys, tmp_path, small_run):
    code, _, err = call(capsys, "status", tmp_path)
    assert code == 2 and "plan.json" in err
    small_run.plan.write_text("")
    code, _, err = call(capsys, "status", small_run.root)
    assert code == 2 and "plan.json" in err and "Traceback" not in err


def test_a_run_of_an_older_version_is_refused_in_words(capsys, tmp_path, sources):
    (tmp_path / "run" / "parts").mkdir(parents=True)
    write_json(tmp_path / "run" / "plan.json", {"recipe": "demo", "seed": 0})
    err = refused(capsys, tmp_path, sources)
    assert "older version" in err and SCHEMA_VERSION in err and "--out" in err
    (tmp_path / "run" / "parts").rmdir()
    write_json(tmp_path / "run" / "plan.json", {"recipe": "demo", "schema_version": "2"})
    assert "schema version 2, not" in refused(capsys, tmp_path, sources)


@pytest.fixture
def small_run(tmp_path) -> RunPaths:
    paths = RunPaths(tmp_path / "run")
    write_json(paths.plan, {"recipe": "demo", "seed": 0, "trials": [], "images": []})
    row = {name: None for name in SCHEMAS["table1"]} | {"regime": "ES+DA", "model": "ViT b16", "accuracy": 74.678}
    write_table(paths.table("table1"), "table1", [row, row | {"accuracy": None}])
    return paths


def test_exported_tables_open_in_pandas_polars_and_duckdb(capsys, tmp_path, small_run):
    code, out, _ = call(
        capsys, "export", small_run.root, "--to", tmp_path / "out", "--format", "parquet", "csv", "markdown", "latex"
    )
    assert code == 0 and len(out.splitlines()) == 4
    import duckdb
    import pandas
    import polars

    file = tmp_path / "out" / "table1.parquet"
    assert pandas.read_parquet(file)["accuracy"].round(3).tolist()[0] == 74.678
    assert polars.read_parquet(file)["accuracy"].null_count() == 1
    assert duckdb.sql(f"select count(*), max(accuracy) from '{file}'").fetchall() == [(2, 74.678)]
    assert "| ES+DA | ViT b16 |" in (tmp_path / "out" / "table1.md").read_text()
    assert r"num\_es" in (tmp_path / "out" / "table1.tex").read_text()
    assert pandas.read_csv(tmp_path / "out" / "table1.csv")["model"].tolist() == ["ViT b16"] * 2


def test_a_table_of_another_schema_version_is_refused(small_run):
    import pyarrow.parquet as pq

    from fulora.errors import InputError
    from sweeps.core.tables import read_table

    file = small_run.table("table1")
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({"fulora.table": "table1", "fulora.schema_version": "0"}), file)
    with pytest.raises(InputError, match="schema version"):
        read_table(file, "table1")
    with pytest.raises(InputError, match="table2"):
        read_table(file, "table2")


def test_paths_are_absolute_for_workers_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "tiny").mkdir()
    words = ["demo", "--grid.weights", "w", "--base", "w", "--embedding.feature-weights", "w"]
    experiment = launch_of("run", words).experiment
    assert experiment.grid.weights == experiment.embedding.feature_weights == tmp_path / "w"
    assert experiment.base == str(tmp_path / "w")
    assert launch_of("run", ["demo"]).experiment.base == "tiny"
    assert launch_of("run", ["demo", "--base", "owner/name"]).experiment.base == "owner/name"

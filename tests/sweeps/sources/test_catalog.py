"""The catalog: made from phantoms or folders, made again when a folder changes, refused where nothing can be tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fulora.data.phantoms import PhantomConfig, write_phantoms
from fulora.data.sources import read_source
from fulora.errors import InputError
from fulora.experiment import Experiment
from fulora.recipes import demo
from sweeps.core.paths import RunPaths
from sweeps.sources.catalog import check_test_set
from sweeps.sources.plan import catalog_step

from ..studies import catalog_of, do, made_up

SMALL = PhantomConfig(num_spanish=20, num_african_train=4, num_african_test=8)


def of_folders(folder: Path) -> Experiment:
    write_phantoms(folder, SMALL, seed=0)
    return replace(demo(), spanish=folder / "spanish", african=folder / "african")


def test_phantoms_are_a_step_of_the_run_and_move_with_it(tmp_path: Path) -> None:
    experiment, before, after = replace(demo(), phantoms=SMALL), tmp_path / "before", tmp_path / "after"
    records = catalog_of(experiment, RunPaths(before))
    assert len(records) == 32 and all(Path(r.path).is_relative_to(before.resolve()) for r in records)
    (phantoms,) = catalog_step(experiment).in_role("phantoms")
    record = RunPaths(before).store.done(phantoms)
    assert record is not None and record.notes[0].startswith("the images are phantoms")
    before.rename(after)
    again = catalog_of(experiment, RunPaths(after))
    assert [replace(r, path="") for r in again] == [replace(r, path="") for r in records]
    assert all(Path(r.path).is_file() and Path(r.path).is_relative_to(after.resolve()) for r in again)


def test_folders_are_read_as_they_are_and_again_once_they_change(tmp_path: Path) -> None:
    experiment, paths = of_folders(tmp_path / "data"), RunPaths(tmp_path / "run")
    before, records = catalog_step(experiment), catalog_of(experiment, paths)
    assert records == [
        *read_source(experiment.spanish, source="spanish"), *read_source(experiment.african, source="african")  # type: ignore[arg-type]
    ]  # fmt: skip
    assert catalog_step(experiment).key == before.key and before.in_role("phantoms") == ()
    file = Path(records[0].path)
    file.write_bytes(Path(records[1].path).read_bytes())
    assert catalog_step(experiment).key != before.key
    assert catalog_of(experiment, paths)[0].pixel_hash == records[1].pixel_hash
    (file.parent / ".hidden").touch()
    other = replace(experiment, recipe="other", seed=experiment.seed + 1)
    assert catalog_step(other) == catalog_step(experiment), "neither decides a catalog of folders"


def test_without_test_images_of_every_tested_plane_nothing_is_scored(tmp_path: Path) -> None:
    test = [made_up("african", plane, 0, "test") for plane in ("abdomen", "brain", "femur")]
    with pytest.raises(InputError, match="has test images of 3 planes, none of thorax"):
        check_test_set(test)
    with pytest.raises(InputError, match="has no test images"):
        check_test_set([made_up("african", "brain", 0)])
    check_test_set([*test, made_up("african", "thorax", 0, "test")])
    folder = tmp_path / "data"
    experiment = of_folders(folder)
    for record in read_source(folder / "african", source="african"):
        if (record.split, record.plane) == ("test", "femur"):
            Path(record.path).unlink()
    (attempt,) = do([catalog_step(experiment)], RunPaths(tmp_path / "run"))
    assert (attempt.status, attempt.error_type) == ("FAILED", "InputError")

"""Do steps of a study in this process, and records made up: shared by the tests of the rooms."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fulora.data.pixels import pixel_hash
from fulora.data.records import ImageRecord
from fulora.experiment import Experiment
from sweeps.console.progress import Quiet
from sweeps.core.attempts import Attempt
from sweeps.core.hashing import file_hash
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.core.store import Store
from sweeps.core.tables import write_table
from sweeps.engine.options import ClusterOptions
from sweeps.images.rows import ROWS_FILE
from sweeps.session import Session
from sweeps.sources.catalog import read_catalog
from sweeps.study import Plan, make_plan, plan_catalog


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as a worker does, on one thread: their number decides the order of sums."""
    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop("OMP_NUM_THREADS", None)
        if variable is not None:
            os.environ["OMP_NUM_THREADS"] = variable


def do(targets: Sequence[Step], paths: RunPaths) -> list[Attempt]:
    """Do what is missing of some steps in this process, and return the attempts."""
    with one_thread(), Session(paths, ClusterOptions(executor="process"), Quiet()) as session:
        session.do(targets)
        return session.log.attempts[session.began :]


def done(targets: Sequence[Step], paths: RunPaths) -> list[Path]:
    """Do what is missing of some steps, which must succeed, and return their folders."""
    failed = [a for a in do(targets, paths) if a.status != "SUCCEEDED"]
    assert not failed, [(a.label, a.error_type, a.error_message) for a in failed]
    return [paths.store.folder(step) for step in targets]


def catalog_of(experiment: Experiment, paths: RunPaths) -> list[ImageRecord]:
    """Make the catalog and return its records."""
    (folder,) = done([plan_catalog(experiment)], paths)
    return read_catalog(folder, paths.root)


def planned(experiment: Experiment, paths: RunPaths) -> Plan:
    """Return the plan of a study, its catalog made and its selections written."""
    plan = make_plan(experiment, catalog_of(experiment, paths))
    for selection in plan.selections:
        selection.write(paths.store)
    return plan


def write_shard(step: Step, store: Store, drawn: Mapping[str, np.ndarray]) -> None:
    """Write a shard of images as its work does; `drawn` has their pixels by id."""
    rows = []
    with store.writing(step) as beside:
        for row in step.config.rows:
            name, pixels = f"{row.plane}/{row.image_id}.png", drawn[row.image_id]
            (beside / row.plane).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(beside / name)
            known = {"file_name": name, "image_id": row.image_id, "plane": row.plane, "sampler": row.sampler}
            rows.append({**known, "sha256": file_hash(beside / name), "pixel_hash": pixel_hash(pixels)})
        write_table(beside / ROWS_FILE, "metadata", rows)
        store.keep(step, beside)


def made_up(source: str, plane: str, number: int, split: str = "train") -> ImageRecord:
    """Return a record of an image that is not there, of a patient of its own."""
    name = f"{source}/{split}-{plane}-{number}"
    return ImageRecord(
        image_id=name, path=f"/data/{name}.png", source=source, plane=plane, patient_id=name, centre="", machine=None,
        split=split, width_px=1, height_px=1, sha256=name, pixel_hash=name,
    )  # fmt: skip


def missing(targets: Sequence[Step], paths: RunPaths) -> list[Step]:
    """Return the steps that a run would do."""
    with Session(paths, ClusterOptions(executor="process"), Quiet()) as session:
        return session.missing(targets)

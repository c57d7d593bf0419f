"""Speeds learned from steps that ran: pace and start apart, kept as JSON, found by device and settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fulora.experiment import Experiment
from sweeps.core.hashing import to_jsonable
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.cost.place import Place
from sweeps.cost.speeds import KEPT, Machine, Measured, Speed, named, read_machines, speeds_of
from sweeps.cost.work import Work
from sweeps.engine.options import ClusterOptions
from sweeps.forecast import forecast


def ran(what: str, units: float, seconds: float, **known: object) -> Measured:
    work = Work(what=what, unit="image", units=units, items=units, settings={"px": 64})
    given = {"pace": None, "num_bytes": int(units) * 10, "peak_memory_bytes": 5, "loaded": ""} | known
    return Measured(work=work, seconds=seconds, **given)  # type: ignore[arg-type]


def test_sizes_that_differ_give_pace_and_start_apart() -> None:
    (found,) = speeds_of([ran("features", 10, 2 + 10 * 0.5), ran("features", 30, 2 + 30 * 0.5)])
    assert (found.seconds_per_unit, found.start_seconds) == (pytest.approx(0.5), pytest.approx(2.0))
    assert (found.bytes_per_item, found.num_measured) == (10, 2)
    (equal,) = speeds_of([ran("features", 10, 4), ran("features", 10, 6)])
    assert (equal.seconds_per_unit, equal.start_seconds) == (0.5, 0)
    (flat,) = speeds_of([ran("features", 10, 4), ran("features", 30, 4)])
    assert (flat.seconds_per_unit, flat.start_seconds) == (0, 4)


def test_a_steps_own_clock_comes_first_and_the_rest_is_its_start() -> None:
    (found,) = speeds_of([ran("lora", 12, 30, pace=0.5), ran("lora", 12, 26, pace=0.5)])
    assert (found.seconds_per_unit, found.start_seconds) == (0.5, 22)


def test_the_first_shard_of_an_adapter_tells_what_loading_takes() -> None:
    shards = [ran("images", 8, 4 + load, loaded=adapter) for adapter in "ab" for load in (9, 0, 0, 0)]
    (found,) = speeds_of(shards)
    assert (found.seconds_per_unit, found.start_seconds) == (0.5, 9)


def test_machines_are_kept_as_json_and_found_by_a_part_of_their_name(tmp_path: Path) -> None:
    speed = Speed(what="lora", unit="optimizer step", settings={"rank": 8}, seconds_per_unit=0.25)
    card = Machine(device="NVIDIA H100 80GB HBM3", source="pilot", measured_at="2026-01-02", speeds=(speed,))
    old = replace(card, measured_at="2025-01-01", speeds=())
    file = tmp_path / "speeds.json"
    file.write_text(json.dumps({"machines": [to_jsonable(old), to_jsonable(card)]}))
    newest, oldest = read_machines(file)
    assert (newest, oldest) == (replace(card, source="kept"), replace(old, source="kept"))
    assert named([newest], "h100") == [newest] and named([newest], "A100") == []
    assert newest.find(Work(what="lora", unit="optimizer step", units=9, settings={"rank": 8})) == speed
    assert newest.find(Work(what="lora", unit="optimizer step", units=9, settings={"rank": 32})) is None
    assert read_machines(tmp_path / "none.json") == []


def test_the_kept_speeds_are_those_of_the_benchmarks_results() -> None:
    files = sorted((Path(__file__).parents[3] / "benchmarks" / "results").glob("speeds-*.json"))
    kept = json.loads(KEPT.read_text())
    assert kept == {"machines": [json.loads(file.read_text())["machine"] for file in files]}, "speeds.py --keep"
    assert all(machine.speeds for machine in read_machines(KEPT))


def test_a_run_that_was_cut_tells_what_is_left_of_it(copied: RunPaths, mini_experiment: Experiment) -> None:
    options = ClusterOptions(executor="process", device="cpu")
    nothing = forecast(mini_experiment, copied.root, Place(), options, print)
    assert nothing.seconds == 0 and nothing.num_done > 20 and not nothing.at_least
    records = {f.parent: json.loads(f.read_text()) for f in (copied.root / "steps" / "grid").glob("*/done.json")}
    lost = {f: r["seconds"] for f, r in records.items() if r["label"] in ("ES, MobileNet v2", "ES, ResNet18")}
    assert len(lost) == 2, "cells of HB with the same models are left, at the same settings"
    for cell in lost:
        shutil.rmtree(cell)
    left = forecast(mini_experiment, copied.root, Place(), options, print)
    by_stage = {stage.stage: stage for stage in left.stages}
    assert by_stage["grid"].num_trials == 2 and by_stage["grid"].sources == ("run",)
    assert by_stage["lora"].num_trials == by_stage["sample"].num_images == 0
    assert left.seconds and sum(lost.values()) / 10 < left.seconds < sum(lost.values()) * 10 + 5
    shutil.rmtree(copied.root / "steps" / "grid")
    assert "grid" in forecast(mini_experiment, copied.root, Place(), options, print).stages[3].not_measured


def test_a_finished_run_says_what_it_used(finished: RunPaths) -> None:
    rows = {row["stage"]: row for row in read_rows(finished.table("cost"), "cost")}
    assert list(rows) == ["sources", "lora", "sample", "grid", "report", "all"]
    whole = rows.pop("all")
    assert whole["num_attempts"] == sum(row["num_attempts"] for row in rows.values()) and whole["num_retries"] == 0
    assert whole["attempt_seconds"] == pytest.approx(sum(row["attempt_seconds"] for row in rows.values()))
    assert (whole["gpu_hours"], whole["energy_joules"], whole["money"], whole["slots"]) == (0, None, None, 1)
    assert 0 <= whole["idle_share"] < 0.2, "one step after another: hardly anything lies between them"
    assert whole["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in rows.values())
    page = finished.report.read_text()
    assert "What the attempts of every call used" in page

"""A classifier trial, side by side in one run: this project's, and the same training as it is commonly written.

    python benchmarks/grid.py --models "MobileNet v2" ResNet18 --images 96 --out benchmarks/results/grid-cpu.json
    python benchmarks/grid.py --real DIR --device cuda     # on the images of a published folder

Model, starting weights, optimizer, batch and arithmetic are the same (`grid_contenders.py`). The two take turns, an
epoch each, in processes of their own, so that a busy machine slows both; a contender's figure is its median epoch. The
ratio is at equal arithmetic; on a GPU the gain of bf16, and of two trials at once on the card, stand beside it.
On a CPU the processor seconds of an epoch stand beside it, those of the workers counted: work of others changes them
far less.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import options_of
from grid_contenders import Apart, Options, Seconds, image_files
from recording import Results, torch_facts

from fulora.data.pixels import decode_square, num_threads
from fulora.device import peak_memory_bytes, resolve_device
from fulora.errors import one_line

CELLS = 20
"""Trials of Table 1: five models, four regimes."""


def main() -> None:
    """Measure, print a table, write the JSON as it grows."""
    options = options_of(Options, __doc__)
    device = resolve_device(options.device)
    cuda = device.startswith("cuda")
    options = dataclasses.replace(
        options,
        images=options.images or (2000 if cuda else 96),
        precisions=options.precisions or (("bf16", "fp32") if cuda else ("fp32",)),
    )
    if options.threads:
        torch.set_num_threads(options.threads)
    results = Results(options, **torch_facts(device), cores=num_threads())
    with tempfile.TemporaryDirectory() as scratch:
        side_by_side(options, Path(scratch), results)
    results.add(load_average=os.getloadavg(), host_peak_bytes=peak_memory_bytes("cpu"))
    print(results.text())


def side_by_side(options: Options, scratch: Path, results: Results) -> None:
    """Measure seconds per epoch of both, the ratio, where the time goes, and the whole grid's time either way."""
    deadline = time.monotonic() + options.seconds if options.seconds else float("inf")
    files = image_files(options, scratch / "images")
    began = time.perf_counter()
    np.save(scratch / "pixels.npy", decode_square(files, resolution_px=options.resolution_px, workers=num_threads()))
    store_seconds = time.perf_counter() - began
    results.add(decode_and_store={"seconds": store_seconds, "images": len(files)})
    cuda = resolve_device(options.device).startswith("cuda")
    for precision in options.precisions:
        for name in options.models:
            if time.monotonic() > deadline:
                results.lacks(f"{name}, {precision}: no time was left for it")
                continue
            try:
                row = contest(options, name, precision, files, scratch / "pixels.npy")
                results.row("models", f"{name}, {precision}", row)
                if cuda and precision == options.precisions[0]:
                    packed = two_at_once(options, name, precision, files, scratch / "pixels.npy")
                    packed["ratio_to_one"] = packed["images_per_second"] / row["images_per_second"]["fulora"]
                    results.row("two_trials_at_once", f"{name}, {precision}", packed)
            except Exception as error:
                results.row("models", f"{name}, {precision}", {"failed": f"{type(error).__name__}: {one_line(error)}"})
                continue
            print(f"{name:<18} {precision}  {row['ratio']:>5.2f} x", file=sys.stderr)
        _whole_grid(options, results, precision, store_seconds / len(files))
    _gain_of_half(options, results)


def contest(options: Options, name: str, precision: str, files: list[Path], store: Path) -> dict[str, Any]:
    """Return a model's row."""
    labels = np.arange(len(files)) % 5
    runs = {who: Apart(options, who, name, precision, files, store, labels) for who in ("plain", "fulora")}
    seconds: dict[str, list[Seconds]] = {who: [] for who in runs}
    try:
        for run in runs.values():
            run.epoch()  # not counted: the first epoch allocates and chooses kernels
        for _ in range(options.epochs):
            for who, run in runs.items():
                seconds[who].append(run.epoch())
    finally:
        for run in runs.values():
            run.close()
    peak = {who: run.peak_bytes for who, run in runs.items()}
    median = {who: statistics.median(wall for wall, _ in values) for who, values in seconds.items()}
    processor = {who: statistics.median(cpu for _, cpu in values) for who, values in seconds.items()}
    cuda = resolve_device(options.device).startswith("cuda")
    return {
        "seconds_per_epoch": {who: [wall for wall, _ in values] for who, values in seconds.items()},
        "processor_seconds_per_epoch": {who: [cpu for _, cpu in values] for who, values in seconds.items()},
        "images_per_second": {who: len(files) / value for who, value in median.items()},
        "ratio": median["plain"] / median["fulora"],
        "ratio_of_processor_seconds": processor["plain"] / processor["fulora"],
        "peak_device_memory_bytes" if cuda else "peak_process_bytes": peak,
    }


def two_at_once(options: Options, name: str, precision: str, files: list[Path], store: Path) -> dict[str, Any]:
    """Return images per second of two of this project's trials that share the card."""
    labels = np.arange(len(files)) % 5
    runs = [Apart(options, "fulora", name, precision, files, store, labels) for _ in range(2)]
    rounds = []
    try:
        for _ in range(options.epochs + 1):
            began = time.perf_counter()
            for run in runs:
                run.begin()
            for run in runs:
                run.end()
            rounds.append(time.perf_counter() - began)
    finally:
        for run in runs:
            run.close()
    return {"seconds": rounds[1:], "images_per_second": 2 * len(files) / statistics.median(rounds[1:])}


def _whole_grid(options: Options, results: Results, precision: str, seconds_to_decode: float) -> None:
    """Reckon the hours of Table 1 either way, from the models that were measured."""
    rows = results.found.get("models", {})
    done = [
        rows[key]["images_per_second"]
        for name in options.models
        if "ratio" in rows.get(key := f"{name}, {precision}", {})
    ]
    if not done:
        return
    per_image = {who: statistics.mean(1 / one[who] for one in done) for who in ("plain", "fulora")}
    visits = CELLS * options.grid_images * options.grid_epochs
    once = seconds_to_decode * options.grid_images * 2  # real and synthetic images
    hours = {
        "cells": CELLS, "images": options.grid_images, "epochs": options.grid_epochs, "models_measured": len(done),
        "plain": visits * per_image["plain"] / 3600, "fulora": (visits * per_image["fulora"] + once) / 3600,
        "reckoned_as": "mean seconds per image of the models above, validation and testing left out",
    }  # fmt: skip
    results.row("whole_grid_hours_of_one_device", precision, hours)


def _gain_of_half(options: Options, results: Results) -> None:
    """Say how much faster bf16 is than fp32, for each contender."""
    rows = results.found.get("models", {})
    for name in options.models:
        both = [rows.get(f"{name}, {precision}", {}).get("images_per_second") for precision in ("bf16", "fp32")]
        if all(both):
            results.row("gain_of_bf16", name, {who: both[0][who] / both[1][who] for who in ("plain", "fulora")})


if __name__ == "__main__":
    main()

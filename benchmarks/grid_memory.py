"""The host memory each of some trials at once has for itself: on one mapped store of images, and on a copy of it.

python benchmarks/grid_memory.py --trials 2 --resolution-px 512 --images 2000
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import options_of
from grid_contenders import Options as Contest
from grid_contenders import as_store, config_of
from recording import record, torch_facts

from fulora.classify.batches import load_batches, split_batches
from fulora.classify.models import new_model
from fulora.classify.training import train_classifier
from fulora.device import resolve_device


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Contest):
    """What is measured."""

    trials: int = 2
    """Trials at once."""


def main() -> None:
    """Measure, print and write the JSON."""
    options = options_of(Options, __doc__)
    with tempfile.TemporaryDirectory() as scratch:
        record(options, **torch_facts(resolve_device(options.device)), **memory(options, Path(scratch)))


def memory(options: Options, scratch: Path) -> dict[str, Any]:
    """Return the memory each of some trials at once has for itself, on mapped rows and on a copy of the images."""
    shape = (options.images, options.resolution_px, options.resolution_px, 3)
    pixels = np.lib.format.open_memmap(scratch / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    rng = np.random.default_rng(0)
    for index in range(len(pixels)):
        pixels[index] = rng.integers(0, 256, (options.resolution_px, 1, 3), dtype=np.uint8)
    pixels.flush()
    del pixels
    context, found = multiprocessing.get_context("spawn"), {}
    for way in ("mapped", "copied"):
        queue, barrier = context.Queue(), context.Barrier(options.trials)
        jobs = [
            context.Process(target=_memory_of_one, args=(options, scratch / "pixels.npy", way, queue, barrier))
            for _ in range(options.trials)
        ]
        for job in jobs:
            job.start()
        found[way] = [queue.get() for _ in jobs]
        for job in jobs:
            job.join()
    return {"store_bytes": int(np.prod(shape)), "own_bytes": found}


def _memory_of_one(options: Options, file: Path, way: str, queue: Any, barrier: Any) -> None:
    """Put what this process has for itself: with its libraries, with the images, feeding them once, and in a step."""
    torch.set_num_threads(1)
    model = new_model(options.models[0], resolution_px=options.resolution_px, seed=0)
    found = {"weights": sum(p.numel() * 4 for p in model.parameters()), "with_libraries_and_weights": _anonymous()}
    rows = as_store(file)
    pixels = rows if way == "mapped" else rows[:]
    found["with_images"] = _anonymous()
    barrier.wait()
    batches = split_batches(np.random.default_rng(0).permutation(len(pixels)), options.batch_size)
    device = torch.device(resolve_device(options.device))
    found["peak_feeding_every_image_once"] = found["with_images"]
    for batch in load_batches(pixels, batches, model, device):
        peak = max(found["peak_feeding_every_image_once"], _anonymous())
        found["peak_feeding_every_image_once"] = peak
        del batch
    barrier.wait()
    step = as_store(file, 4)  # few: on a CPU a step's activations lie in this memory too
    peaks, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peaks.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    train_classifier(
        pixels=step, labels=np.arange(len(step)) % 5, config=config_of(options, options.models[0], 1), seed=0,
        device=options.device,
    )  # fmt: skip
    over.set()
    watcher.join()
    found["peak_in_a_step"] = max(peaks)
    queue.put(found)


def _anonymous() -> int:
    """Return the bytes no other process shares and no file holds."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +(\d+)", text, re.M)[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main()

"""A classifier trial, side by side in one run: this project's, and the same training as it is commonly written.

    python benchmarks/grid.py --models "MobileNet v2" ResNet18 --images 96 --out benchmarks/results/grid-cpu.json
    python benchmarks/grid.py --real DIR --device cuda     # on the images of a published folder
    python benchmarks/grid.py --memory 2                   # own host memory of trials that run at once
    python benchmarks/grid.py --ray-overhead --trial-seconds 60      # Ray Tune against a plain loop; needs Ray

The plain training is a torch Dataset that opens, decodes and resizes its image at every visit and augments it with
Pillow, behind a DataLoader with a worker per core; model, starting weights, optimizer, batch and arithmetic are the
same. The two take turns, an epoch each, in processes of their own, so that a busy machine slows both; a contender's
figure is its median epoch.
On a CPU the processor seconds of an epoch stand beside it, those of the workers counted: work of others changes them
far less.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image
from recording import record, torch_facts

from fulora.classify.augment import AugmentConfig
from fulora.classify.batches import load_batches, split_batches
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import new_model
from fulora.classify.training import train_classifier
from fulora.data.phantoms import generic_images
from fulora.data.pixels import PixelRows, PixelStore, decode_square, num_threads
from fulora.device import peak_memory_bytes, reset_peak_memory, resolve_device

Seconds = tuple[float, float]
"""By the clock, and of all processors this process and its ended children had."""

CELLS = 20
"""Trials of Table 1: five models, four regimes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    models: tuple[str, ...] = ("MobileNet v2", "ResNet18", "EfficientNet b0")
    """The paper's names of the architectures."""
    resolution_px: int = 224
    """Side of the images a model gets."""
    images: int = 96
    """Training images."""
    epochs: int = 3
    """Epochs of each contender that count; one more before is not counted."""
    batch_size: int = 24
    """Images per step."""
    augment: bool = True
    """Whether images are augmented."""
    threads: int = 0
    """Threads the model computes with, for both; 0: what torch takes. A grid on a CPU gives each trial one."""
    workers: int = -1
    """Processes of the plain DataLoader; -1: one per core."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of both contenders."""
    device: str = "auto"
    """cpu, cuda or auto."""
    real: Path | None = None
    """Folder with real images (PNG or JPEG, searched through); phantoms of 800 x 560 px without it."""
    grid_images: int = 6148
    """Images of a training set, and `grid_epochs` epochs: what the whole grid's time is reckoned for."""
    grid_epochs: int = 20
    """Epochs of a trial of the grid."""
    memory: int = 0
    """Instead: so many trials at once on one store, and the memory each has for itself."""
    ray_overhead: bool = False
    """Instead: trials through Ray Tune, and the same trials in a plain loop."""
    trial_seconds: float = 60.0
    """How long a trial of `ray_overhead` takes, about."""
    trials: int = 4
    """Trials of `ray_overhead`."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            result = memory(options, Path(scratch))
        elif options.ray_overhead:
            result = ray_overhead(options, Path(scratch))
        else:
            result = side_by_side(options, Path(scratch))
    facts = torch_facts(resolve_device(options.device))
    record(options, **facts, cores=num_threads(), load_average=os.getloadavg(), commit=_commit(), **result)


def image_files(options: Options, folder: Path) -> list[Path]:
    """Return as many image files as are trained on: real ones, again where there are too few, or phantoms."""
    if options.real is not None:
        found = sorted(f for f in options.real.rglob("*") if f.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if not found:
            raise SystemExit(f"{options.real} holds no PNG or JPEG file")
        return [found[i % len(found)] for i in range(options.images)]
    folder.mkdir()
    grey, _ = generic_images(16, seed=0, resolution_px=256)
    for index in range(options.images):
        # Speckle of its own in every file: smooth enlarged phantoms would decode faster than real images.
        large = np.asarray(Image.fromarray(grey[index % 16]).resize((800, 560)), np.int16)
        noise = np.random.default_rng(index).normal(0, 6, large.shape).astype(np.int16) * (large > 8)
        Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.png")
    return sorted(folder.iterdir())


def config_of(options: Options, model: str, epochs: int) -> ClassifierConfig:
    """Return the settings both contenders share."""
    return ClassifierConfig(
        model=model, epochs=epochs, batch_size=options.batch_size, resolution_px=options.resolution_px,
        augment=options.augment, pretrained="none", precision=options.precision,
    )  # fmt: skip


def as_store(file: Path, count: int | None = None) -> PixelRows:
    """Return the first images of a .npy file, or all, mapped as a trial maps a store."""
    pixels = np.load(file, mmap_mode="r")
    ids = [str(index) for index in range(len(pixels))]
    return PixelRows([PixelStore(pixels, ids)], ids[:count])


class Files(torch.utils.data.Dataset):
    """Images as commonly read: opened, decoded, resized and augmented at every visit."""

    def __init__(self, files: list[Path], labels: np.ndarray, options: Options) -> None:
        self.files, self.labels, self.options, self.augmentation = files, labels, options, AugmentConfig()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from torchvision.transforms import functional

        side, how = self.options.resolution_px, self.augmentation
        image = Image.open(self.files[index]).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        if self.options.augment:
            angle = random.uniform(-how.rotation_degrees, how.rotation_degrees)
            image = image.rotate(angle, Image.Resampling.BILINEAR)
            if random.random() < how.horizontal_flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if random.random() < how.vertical_flip:
                image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return functional.to_tensor(image) * 2 - 1, int(self.labels[index])


def plain_epochs(options: Options, model_name: str, files: list[Path], labels: np.ndarray) -> Iterator[Seconds]:
    """Yield the seconds of one epoch after another of the training as commonly written."""
    device = resolve_device(options.device)
    workers = num_threads() if options.workers < 0 else options.workers
    model = new_model(model_name, resolution_px=options.resolution_px, seed=0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()
    loader = torch.utils.data.DataLoader(
        Files(files, labels, options), batch_size=options.batch_size, shuffle=True, num_workers=workers,
        pin_memory=device.startswith("cuda"), multiprocessing_context="fork" if workers else None,  # Linux's own way
    )  # fmt: skip
    while True:
        began, total, correct = _clocks(), 0.0, 0
        for images, targets in loader:
            images, targets = images.to(device), targets.to(device)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=options.precision == "bf16"):
                logits = model(images)
                loss = criterion(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            correct += (logits.argmax(1) == targets).sum().item()
        yield _since(began)


def our_epochs(options: Options, model_name: str, pixels: PixelRows, labels: np.ndarray) -> Iterator[Seconds]:
    """Yield the seconds of one epoch after another of `train_classifier`, which waits in between."""
    turn, done = threading.Semaphore(0), threading.Semaphore(0)
    failed: list[BaseException] = []

    def on_epoch(row: dict[str, float]) -> None:
        done.release()
        turn.acquire()

    def train() -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        turn.acquire()
        try:
            config = config_of(options, model_name, options.epochs + 1)
            train_classifier(
                pixels=pixels, labels=labels, config=config, seed=0, device=options.device, on_epoch=on_epoch
            )
        except BaseException as error:
            failed.append(error)
            done.release()

    threading.Thread(target=train, daemon=True).start()
    for _ in range(options.epochs + 1):
        began = _clocks()
        turn.release()
        done.acquire()
        if failed:
            raise failed[0]
        yield _since(began)
    turn.release()


class Apart:
    """A contender in a process of its own, which waits between its epochs: what one leaves of the C library's memory
    would speed the other up or slow it down."""

    def __init__(
        self, options: Options, who: str, model: str, files: list[Path], store: Path, labels: np.ndarray
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, options, who, model, files, store, labels))
        self.process.start()
        theirs.close()
        self.peak_bytes = 0

    def epoch(self) -> Seconds:
        """Let it train for an epoch and return what that took."""
        self.line.send("epoch")
        seconds, self.peak_bytes = self.line.recv()
        return seconds

    def close(self) -> None:
        """End the process."""
        self.line.close()
        self.process.join()


def _serve(
    line: Any, options: Options, who: str, model: str, files: list[Path], store: Path, labels: np.ndarray
) -> None:
    """Train an epoch whenever the other end of the line asks, until it is closed."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    if who == "plain":
        run = plain_epochs(options, model, files, labels)
    else:
        run = our_epochs(options, model, as_store(store), labels)
    reset_peak_memory(device)
    while True:
        try:
            line.recv()
        except EOFError:
            break
        line.send((next(run), peak_memory_bytes(device)))
    os._exit(0)  # a training under way in a thread is not waited for


def side_by_side(options: Options, scratch: Path) -> dict[str, Any]:
    """Return seconds per epoch of both, the ratio, where the time goes, and the whole grid's time either way."""
    device, files = resolve_device(options.device), image_files(options, scratch / "images")
    labels = np.arange(len(files)) % 5
    began = time.perf_counter()
    decoded = decode_square(files, resolution_px=options.resolution_px, workers=num_threads())
    np.save(scratch / "pixels.npy", decoded)
    store_seconds = time.perf_counter() - began
    del decoded
    found = {}
    for name in options.models:
        runs = {who: Apart(options, who, name, files, scratch / "pixels.npy", labels) for who in ("plain", "fulora")}
        for run in runs.values():
            run.epoch()  # not counted: the first epoch allocates and chooses kernels
        seconds: dict[str, list[Seconds]] = {who: [] for who in runs}
        for _ in range(options.epochs):
            for who, run in runs.items():
                seconds[who].append(run.epoch())
        peak = {who: run.peak_bytes for who, run in runs.items()}
        for run in runs.values():
            run.close()
        median = {who: statistics.median(wall for wall, _ in values) for who, values in seconds.items()}
        processor = {who: statistics.median(cpu for _, cpu in values) for who, values in seconds.items()}
        found[name] = {
            "seconds_per_epoch": {who: [wall for wall, _ in values] for who, values in seconds.items()},
            "processor_seconds_per_epoch": {who: [cpu for _, cpu in values] for who, values in seconds.items()},
            "images_per_second": {who: len(files) / value for who, value in median.items()},
            "ratio": median["plain"] / median["fulora"],
            "ratio_of_processor_seconds": processor["plain"] / processor["fulora"],
            "peak_device_memory_bytes" if device.startswith("cuda") else "peak_process_bytes": peak,
        }
        print(
            f"{name:<18} plain {median['plain']:>7.2f} s/epoch   fulora {median['fulora']:>7.2f}   "
            f"{found[name]['ratio']:>5.2f} x  "
            f"processor {processor['plain']:.2f} and {processor['fulora']:.2f} s",
            file=sys.stderr,
        )
    per_image = {
        who: statistics.mean(1 / row["images_per_second"][who] for row in found.values()) for who in ("plain", "fulora")
    }
    visits = CELLS * options.grid_images * options.grid_epochs
    once = store_seconds / len(files) * options.grid_images * 2  # real and synthetic images
    return {
        "models": found,
        "decode_and_store": {"seconds": store_seconds, "images": len(files)},
        "whole_grid_hours_of_one_device": {
            "cells": CELLS, "images": options.grid_images, "epochs": options.grid_epochs,
            "plain": visits * per_image["plain"] / 3600, "fulora": (visits * per_image["fulora"] + once) / 3600,
            "reckoned_as": "mean seconds per image of the models above, validation and testing left out",
        },
        "host_peak_bytes": peak_memory_bytes("cpu"),
    }  # fmt: skip


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
        queue, barrier = context.Queue(), context.Barrier(options.memory)
        jobs = [
            context.Process(target=_memory_of_one, args=(options, scratch / "pixels.npy", way, queue, barrier))
            for _ in range(options.memory)
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


def ray_overhead(options: Options, scratch: Path) -> dict[str, Any]:
    """Return the seconds of some trials through Ray Tune, one after another, and of the same trials in a plain loop.

    The overhead is what each way adds outside training, so a machine whose speed drifts between the two does not decide
    it; the plain ratio of seconds stands beside it. Starting Ray is counted apart.
    """
    from sweeps.engine.connection import connected
    from sweeps.engine.options import ClusterOptions
    from sweeps.paths import RunPaths
    from sweeps.console.progress import Quiet
    from sweeps.trials import Trial
    from sweeps.tuning import run_trials

    file, model = scratch / "pixels.npy", options.models[0]
    files = image_files(options, scratch / "images")
    np.save(file, decode_square(files, resolution_px=options.resolution_px, workers=num_threads()))

    def work(trial: Trial, paths: RunPaths, report: Callable[[dict], None]) -> dict[str, Any]:
        pixels = as_store(file)
        trained = train_classifier(
            pixels=pixels, labels=np.arange(len(pixels)) % 5, config=config_of(options, model, trial.config["epochs"]),
            seed=trial.seed, device=options.device,
            on_epoch=lambda row: report({"fraction": 0.5, "note": "", "loss": row["loss"]}),
        )  # fmt: skip
        return {"train_seconds": trained.seconds, "least_epoch": min(row["seconds"] for row in trained.history)}

    def trial(epochs: int, seed: int) -> Trial:
        return Trial(stage="grid", label=f"trial {seed}", config={"epochs": epochs}, inputs={}, seed=seed)

    torch.set_num_threads(1)
    paths = RunPaths(scratch / "run")
    epochs = max(1, round(options.trial_seconds / work(trial(4, 0), paths, lambda row: None)["least_epoch"]))
    todo = [trial(epochs, seed) for seed in range(1, options.trials + 1)]

    began = time.perf_counter()
    inside = [work(one, paths, lambda row: None)["train_seconds"] for one in todo]
    loop: dict[str, Any] = {"seconds": time.perf_counter() - began, "train_seconds": inside}
    began = time.perf_counter()
    with connected(ClusterOptions(num_cpus=1)) as cluster:
        start = time.perf_counter() - began
        began = time.perf_counter()
        attempts = run_trials(todo, {"grid": work}, paths=paths, cluster=cluster, progress=Quiet())
        seconds = time.perf_counter() - began
    failures = [a.error_message for a in attempts if a.status != "SUCCEEDED"]
    if failures or len(attempts) != len(todo):
        raise SystemExit(f"{len(todo)} trials gave {len(attempts)} attempts; failed: {failures}")
    through_ray: dict[str, Any] = {
        "seconds": seconds, "start_seconds": start, "train_seconds": [a.metrics["train_seconds"] for a in attempts],
    }  # fmt: skip
    for found in (loop, through_ray):
        found["seconds_outside_training"] = found["seconds"] - sum(found["train_seconds"])
    added = through_ray["seconds_outside_training"] - loop["seconds_outside_training"]
    return {
        "epochs_per_trial": epochs, "loop": loop, "ray": through_ray,
        "ratio_of_seconds": seconds / loop["seconds"],
        "overhead_of_training_in_ray": added / sum(through_ray["train_seconds"]),
        "overhead_if_a_trial_took_a_minute": added / (60 * len(todo)),
    }  # fmt: skip


def _clocks() -> Seconds:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)


def _since(began: Seconds) -> Seconds:
    now = _clocks()
    return now[0] - began[0], now[1] - began[1]


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or None if done.returncode == 0 else None


if __name__ == "__main__":
    main()

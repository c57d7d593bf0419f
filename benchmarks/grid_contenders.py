"""The contenders of `grid.py`: this project's training of a classifier, and the same as it is commonly written.

The plain training is a torch Dataset that opens, decodes and resizes its image at every visit and augments it with
Pillow, behind a DataLoader with a worker per core.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from fulora.classify.augment import AugmentConfig
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import new_model
from fulora.classify.training import train_classifier
from fulora.data.phantoms import generic_images
from fulora.data.pixels import PixelRows, PixelStore, num_threads
from fulora.device import peak_memory_bytes, reset_peak_memory, resolve_device

Seconds = tuple[float, float]
"""By the clock, and of all processors this process and its ended children had."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    models: tuple[str, ...] = ("MobileNet v2", "ResNet18", "EfficientNet b0")
    """The paper's names of the architectures."""
    resolution_px: int = 224
    """Side of the images a model gets."""
    precisions: tuple[str, ...] = ()
    """Arithmetic both compute in, one after another; none: fp32, and on a GPU bf16, which is what a trial takes."""
    images: int = 0
    """Training images; 0: 2000 on a GPU, where fewer would measure the starting of workers, and 96 on a CPU."""
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
    device: str = "auto"
    """cpu, cuda or auto."""
    real: Path | None = None
    """Folder with real images (PNG or JPEG, searched through); phantoms of 800 x 560 px without it."""
    seconds: float = 0.0
    """Time for all models, the first of them first; 0: as long as it takes."""
    grid_images: int = 6148
    """Images of a training set, and `grid_epochs` epochs: what the whole grid's time is reckoned for."""
    grid_epochs: int = 20
    """Epochs of a trial of the grid."""
    out: Path | None = None
    """JSON file to write."""


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


def config_of(
    options: Options, model: str, epochs: int, precision: Literal["auto", "fp32", "bf16"] = "fp32"
) -> ClassifierConfig:
    """Return the settings both contenders share."""
    return ClassifierConfig(
        model=model, epochs=epochs, batch_size=options.batch_size, resolution_px=options.resolution_px,
        augment=options.augment, pretrained="none", precision=precision,
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


def plain_epochs(
    options: Options, model_name: str, precision: str, files: list[Path], labels: np.ndarray
) -> Iterator[Seconds]:
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
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"):
                logits = model(images)
                loss = criterion(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            correct += (logits.argmax(1) == targets).sum().item()
        yield _since(began)


def our_epochs(
    options: Options, model_name: str, precision: Any, pixels: PixelRows, labels: np.ndarray
) -> Iterator[Seconds]:
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
            config = config_of(options, model_name, options.epochs + 1, precision)
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
        self, options: Options, who: str, model: str, precision: str, files: list[Path], store: Path, labels: np.ndarray
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, options, who, model, precision, files, store, labels)
        )
        self.process.start()
        theirs.close()
        self.peak_bytes = 0

    def epoch(self) -> Seconds:
        """Let it train for an epoch and return what that took."""
        self.begin()
        return self.end()

    def begin(self) -> None:
        """Let it begin an epoch."""
        self.line.send("epoch")

    def end(self) -> Seconds:
        """Wait for the epoch's end and return what it took. Raises EOFError where the process died."""
        seconds, self.peak_bytes = self.line.recv()
        return seconds

    def close(self) -> None:
        """End the process."""
        self.line.close()
        self.process.join()


def _serve(
    line: Any,
    options: Options,
    who: str,
    model: str,
    precision: str,
    files: list[Path],
    store: Path,
    labels: np.ndarray,
) -> None:
    """Train an epoch whenever the other end of the line asks, until it is closed."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    if who == "plain":
        run = plain_epochs(options, model, precision, files, labels)
    else:
        run = our_epochs(options, model, precision, as_store(store), labels)
    reset_peak_memory(device)
    while True:
        try:
            line.recv()
        except EOFError:
            break
        line.send((next(run), peak_memory_bytes(device)))
    os._exit(0)  # a training under way in a thread is not waited for


def _clocks() -> Seconds:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)


def _since(began: Seconds) -> Seconds:
    now = _clocks()
    return now[0] - began[0], now[1] - began[1]

"""What only a card can show of memory: trials that share it, too little of it, and what it is asked first."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.memory import measure_memory as measure_classifier
from fulora.device import reset_peak_memory, resolve_precision, speed_flags
from fulora.diffusion.finetune import finetune, measure_memory
from fulora.diffusion.lora_config import LoraConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
CAPTIONS = ["a photo of fetal brain", "a photo of fetal femur"] * 3
CONFIG = LoraConfig(rank=8, num_steps=20, learning_rate=1e-3, resolution_px=32, log_every=5, caption_dropout=0.2)


def trial_alone(base: Path, precision: str, ready: Any, go: Any, found: Any) -> None:
    """Train in a process of its own beside another; put the most memory it took, its context counted."""
    config = replace(CONFIG, num_steps=200, precision=precision, resolution_px=128, batch_size=4)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    ready.wait(300)
    free_before, _ = torch.cuda.mem_get_info()
    go.wait(300)
    finetune(
        base=str(base), pixels=pixels, captions=CAPTIONS, config=config, seed=0, device="cuda",
        out=base.parent / f"packed-{multiprocessing.current_process().pid}",
    )  # fmt: skip
    found.put((free_before, torch.cuda.max_memory_reserved()))


def measured_alone(base: Path, precision: str, found: Any) -> None:
    config = replace(CONFIG, precision=precision, resolution_px=128, batch_size=4)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    measured = measure_memory(base=str(base), pixels=pixels, captions=CAPTIONS, config=config, device="cuda")
    found.put((measured.needed_bytes, torch.cuda.max_memory_reserved()))


def test_two_trials_at_once_take_what_was_measured_of_one(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial's pool stays within a tenth of the measured one's, so twice the measured footprint holds two."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    alone = context.Process(target=measured_alone, args=(small_base, "bf16", found))
    alone.start()
    needed, reserved = found.get(timeout=300)
    alone.join()
    ready, go = context.Barrier(2), context.Barrier(2)
    pair = [context.Process(target=trial_alone, args=(small_base, "bf16", ready, go, found)) for _ in range(2)]
    for process in pair:
        process.start()
    peaks = [found.get(timeout=300)[1] for _ in pair]
    for process in pair:
        process.join()
        assert process.exitcode == 0
    assert max(peaks) <= 1.1 * reserved <= 1.1 * needed


def hold(share: float, held: Any, over: Any) -> None:
    free, _ = torch.cuda.mem_get_info()
    block = torch.empty(int(free * share), dtype=torch.uint8, device="cuda")
    held.set()
    over.wait(300)
    del block


def test_too_little_memory_beside_another_process_says_what_to_lower(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds nearly the whole card; the training ends with what to lower, and then has room again."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    context = multiprocessing.get_context("spawn")
    held, over = context.Event(), context.Event()
    other = context.Process(target=hold, args=(0.98, held, over))
    other.start()
    try:
        assert held.wait(300)
        config = replace(CONFIG, resolution_px=1024, batch_size=64)
        pixels = np.zeros((64, 1024, 1024, 3), dtype=np.uint8)
        with pytest.raises(MemoryError, match="batch_size 64, resolution_px 1024, rank 8: lower"):
            finetune(
                base=str(small_base), pixels=pixels, captions=["fetal brain"] * 64, config=config, seed=0,
                out=tmp_path / "no", device="cuda",
            )  # fmt: skip
    finally:
        over.set()
        other.join()
    torch.cuda.empty_cache()
    finetune(
        base=str(small_base), pixels=PIXELS, captions=CAPTIONS, config=CONFIG, seed=0, out=tmp_path / "yes",
        device="cuda",
    )  # fmt: skip


def test_what_the_card_is_asked_before_anything_ran_on_it() -> None:
    """In a process where CUDA was not initialised: memory of `cuda:0`, the type, and the flags."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=_asked, args=(found,))
    process.start()
    dtype, flags, needed = found.get(timeout=300)
    process.join()
    native = torch.cuda.get_device_capability()[0] >= 8
    assert dtype == ("torch.bfloat16" if native else "torch.float16")
    assert flags["attention"] and needed > 100e6, "the driver's context counts"


def _asked(found: Any) -> None:
    reset_peak_memory("cuda:0")
    config = ClassifierConfig(model="MobileNet v2", resolution_px=64, pretrained="none")
    measured = measure_classifier([config], device="cuda:0")
    found.put((str(resolve_precision("auto", "cuda:0")), speed_flags("cuda:0"), measured.needed_bytes))

"""Fine-tuning, side by side in one process: this project's step, the plain recipe, and on CUDA the variants tried.

    python benchmarks/finetune.py --base tiny --resolution-px 64 --batch-size 16 --out benchmarks/results/finetune.json
    python benchmarks/finetune.py --base random:sd15 --device cuda          # Stable Diffusion 1.5's size, 512 px
    python benchmarks/finetune.py --base tiny --resolution-px 64 --flat-memory 10000   # memory over a long run
    python benchmarks/finetune.py --base random:sd15 --device cuda --together 8 32 128  # ranks on one card at once

Every contender has the same base, images, batch, resolution, rank, layers and optimizer. They take turns in short
rounds, so that a busy machine slows all alike; a contender's figure is its median round. The plain recipe encodes
images and text at every step and reads the loss every step, as the commonly copied training scripts do.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from recording import record, torch_facts

from fulora.data.phantoms import generic_images
from fulora.device import peak_memory_bytes, reset_peak_memory, resolve_device, resolve_precision
from fulora.diffusion.adapter import add_lora
from fulora.diffusion.base import load_base
from fulora.diffusion.finetune import prepare
from fulora.diffusion.lora_config import LoraConfig
from fulora.planes import PLANES

Step = Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    base: str = "tiny"
    """Diffusion model, as `sweeps run --base` takes it."""
    resolution_px: int = 512
    """Side of the images."""
    batch_size: int = 2
    """Images per step."""
    rank: int = 128
    """LoRA rank."""
    targets: str = "cross_attention"
    """Adapted layers."""
    steps: int = 10
    """Steps in a round."""
    rounds: int = 5
    """Rounds of each contender, after one that is not counted."""
    device: str = "auto"
    """cpu, cuda or auto."""
    flat_memory: int = 0
    """Instead: this many steps, with the process's memory read a hundred times."""
    together: tuple[int, ...] = ()
    """Instead: these ranks at once, a process each on one device, against the last of them alone."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    if options.flat_memory:
        result = flat_memory(options)
    elif options.together:
        result = together(options)
    else:
        result = side_by_side(options)
    record(options, **torch_facts(resolve_device(options.device)), **result)


def lora_config(options: Options, num_steps: int, **changed: Any) -> LoraConfig:
    """Return the settings every contender shares."""
    return LoraConfig(
        **{
            "rank": options.rank, "targets": options.targets, "batch_size": options.batch_size,
            "resolution_px": options.resolution_px, "num_steps": num_steps, **changed,
        }
    )  # fmt: skip


def images(options: Options) -> tuple[np.ndarray, list[str]]:
    """Return as many images as a round can use, and captions."""
    grey, _ = generic_images(20, seed=0, resolution_px=options.resolution_px)
    return np.repeat(grey[..., None], 3, axis=-1), [PLANES[index % 5].prompt for index in range(20)]


def ours(options: Options, num_steps: int, change: Callable[[Any], Any] | None = None, **changed: Any) -> Step:
    """Return this project's step; `change` may replace what predicts the noise first."""
    config = lora_config(options, num_steps, **changed)
    device = resolve_device(options.device)
    base = load_base(options.base, device=device, dtype=resolve_precision("auto", device))
    training = prepare(base, *images(options), config, 0, None, ())
    if change is not None:
        training.predict = change(training.unet)

    def step() -> None:
        training.step()
        if training.steps_done % config.log_every == 0:
            training.check_finite(training.steps_done - config.log_every)

    return step


def plain(options: Options, num_steps: int) -> Step:
    """Return the step as commonly written: image and text encoded, the loss read, every time."""
    import bitsandbytes
    from diffusers import DDPMScheduler

    device = resolve_device(options.device)
    base = load_base(options.base, device=device, dtype=resolve_precision("auto", device))
    pixels, captions = images(options)
    parameters = add_lora(base.unet, rank=options.rank, alpha=float(options.rank), targets=options.targets, seed=0)
    optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=1e-4, weight_decay=0.01)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    scaler = torch.amp.GradScaler(base.unet.device.type, enabled=base.dtype == torch.float16)
    rng = np.random.default_rng(0)
    kind, half = base.unet.device.type, base.dtype != torch.float32

    def step() -> None:
        chosen = rng.integers(len(pixels), size=options.batch_size)
        batch = torch.from_numpy(pixels[chosen]).to(device).permute(0, 3, 1, 2).to(base.dtype) / 127.5 - 1
        with torch.no_grad():
            latents = base.vae.encode(batch).latent_dist.sample() * base.vae.config.scaling_factor
            ids = base.tokenizer(
                [captions[index] for index in chosen], padding="max_length", truncation=True,
                max_length=base.tokenizer.model_max_length, return_tensors="pt",
            ).input_ids.to(device)  # fmt: skip
            text = base.text_encoder(ids).last_hidden_state
        noise = torch.randn_like(latents)
        times = torch.randint(len(scheduler.alphas_cumprod), (len(chosen),), device=device)
        noisy = scheduler.add_noise(latents, noise, times)
        with torch.autocast(kind, dtype=base.dtype, enabled=half):
            predicted = base.unet(noisy, times, text).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.item()

    return step


def contenders(options: Options) -> dict[str, Callable[[int], Step]]:
    """Return who takes part, by name: how to make the step."""
    found: dict[str, Callable[[int], Step]] = {
        "plain recipe": lambda n: plain(options, n),
        "fulora": lambda n: ours(options, n),
        "fulora, compiled": lambda n: ours(options, n, compile=True),
    }
    if resolve_device(options.device).startswith("cuda"):
        found |= {
            "fulora, CUDA graphs": lambda n: ours(options, n, lambda unet: torch.compile(unet, mode="reduce-overhead")),
            "fulora, channels last": lambda n: ours(
                options, n, lambda unet: unet.to(memory_format=torch.channels_last)
            ),
            "fulora, fused AdamW": lambda n: ours(options, n, optimizer="adamw"),
        }
    return found


def side_by_side(options: Options) -> dict[str, Any]:
    """Return steps per second of every contender, measured in turns, and the ratio to the plain recipe."""
    device = resolve_device(options.device)
    total = options.steps * (options.rounds + 1)
    steps, memory, seconds = {}, {}, {}
    for name, make in contenders(options).items():
        reset_peak_memory(device)
        before = torch.cuda.memory_allocated() if device.startswith("cuda") else 0
        steps[name] = make(total)
        _timed(steps[name], options.steps, device)  # not counted: the first steps allocate, compile and choose kernels
        memory[name] = peak_memory_bytes(device) - before if device.startswith("cuda") else None
        seconds[name] = []
    for _ in range(options.rounds):
        for name, step in steps.items():
            seconds[name].append(_timed(step, options.steps, device) / options.steps)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = {
        name: {
            "steps_per_second": 1 / median[name],
            "ratio_to_plain": median["plain recipe"] / median[name],
            "seconds_per_step": seconds[name],
            "peak_memory_bytes": memory[name],
        }
        for name in steps
    }
    for name, row in rows.items():
        print(f"{name:<24}{row['steps_per_second']:>8.2f} steps/s  {row['ratio_to_plain']:>5.2f} x", file=sys.stderr)
    found: dict[str, Any] = {"contenders": rows}
    if device.startswith("cuda"):
        found |= _matrix_rate(options, device, median["fulora"])
    return found


def flat_memory(options: Options) -> dict[str, Any]:
    """Return the process's memory at a hundred points of a long run, and how much the second half grew."""
    step = ours(options, options.flat_memory)
    every, points = max(1, options.flat_memory // 100), []
    for index in range(options.flat_memory):
        step()
        if index % every == every - 1:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            points.append({"step": index + 1, "resident_bytes": pages * 4096})
    half = points[len(points) // 2]["resident_bytes"]
    return {"memory": points, "growth_of_second_half_bytes": points[-1]["resident_bytes"] - half}


def together(options: Options) -> dict[str, Any]:
    """Return the seconds of all ranks at once, a process each, against the last of them alone."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")

    def run(ranks: tuple[int, ...]) -> float:
        barrier, queue = context.Barrier(len(ranks)), context.Queue()
        processes = [
            context.Process(target=_one_of, args=(dataclasses.replace(options, rank=rank), barrier, queue))
            for rank in ranks
        ]
        for process in processes:
            process.start()
        slowest = max(queue.get() for _ in processes)
        for process in processes:
            process.join()
        return slowest

    alone, all_at_once = run(options.together[-1:]), run(options.together)
    return {"seconds_alone": alone, "seconds_together": all_at_once, "ratio": all_at_once / alone}


def _one_of(options: Options, barrier: Any, queue: Any) -> None:
    device = resolve_device(options.device)
    count = options.steps * options.rounds
    step = ours(options, count + options.steps)
    _timed(step, options.steps, device)
    barrier.wait()
    queue.put(_timed(step, count, device))


def _matrix_rate(options: Options, device: str, seconds: float) -> dict[str, Any]:
    """Return the card's matrix rate measured here, and the share of it that a step of ours reaches."""
    from torch.utils.flop_counter import FlopCounterMode

    dtype = resolve_precision("auto", device)
    a, b = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    rate = 2 * 8192**3 * 20 / _timed(lambda: a @ b, 20, device)
    with FlopCounterMode(display=False) as counter:
        ours(options, 1)()
    return {"matrix_flops_per_second": rate, "share_of_matrix_rate": counter.get_total_flops() / seconds / rate}


def _timed(step: Callable[[], Any], count: int, device: str) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

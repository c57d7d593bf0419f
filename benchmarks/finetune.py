"""Fine-tuning, side by side in one process: this project's step, the plain recipe, and on CUDA the variants tried.

    python benchmarks/finetune.py --base tiny --resolution-px 64 --batch-size 16 --out benchmarks/results/finetune.json
    python benchmarks/finetune.py --base random:sd15 --device cuda          # Stable Diffusion 1.5's size, 512 px
    python benchmarks/finetune.py --base tiny --resolution-px 64 --flat-memory 10000   # memory over a long run

Every contender has the same base, images, batch, resolution, rank, layers and optimizer. They take turns in short
rounds, so that a busy machine slows all alike; a contender's figure is its median round. The plain recipe encodes
images and text at every step and reads the loss every step, as the commonly copied training scripts do.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bases import fresh
from command_line import options_of
from rates import rates
from recording import Results, torch_facts
from turns import Round, Turns

from fulora.data.phantoms import generic_images
from fulora.device import resolve_device, resolve_precision, set_speed_flags
from fulora.diffusion.adapter import add_lora
from fulora.diffusion.finetune import prepare
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.training import LoraTraining
from fulora.planes import PLANES


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
    optimizer: Literal["adamw8bit", "adamw"] = "adamw8bit"
    """Of every contender; 8-bit Adam needs bitsandbytes, and torch's is taken where that is not installed."""
    compiled: bool = True
    """Whether compiled contenders take part: a minute or more each before their first step."""
    seconds: float = 0.0
    """Time for the contenders, the first of them first; 0: as long as it takes."""
    device: str = "auto"
    """cpu, cuda or auto."""
    flat_memory: int = 0
    """Instead: this many steps, with the process's memory read a hundred times."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print a table, write the JSON as it grows."""
    options = options_of(Options, __doc__)
    device = resolve_device(options.device)
    results = Results(options, **torch_facts(device))
    if options.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        results.lacks("bitsandbytes: all contenders take torch's AdamW instead of 8-bit Adam")
        options = dataclasses.replace(options, optimizer="adamw")
    if options.flat_memory:
        results.add(**flat_memory(options))
    else:
        side_by_side(options, results)
    print(results.text())


def lora_config(options: Options, num_steps: int, **changed: Any) -> LoraConfig:
    """Return the settings every contender shares."""
    return LoraConfig(
        **{
            "rank": options.rank, "targets": options.targets, "batch_size": options.batch_size,
            "resolution_px": options.resolution_px, "num_steps": num_steps, "optimizer": options.optimizer, **changed,
        }
    )  # fmt: skip


def images(options: Options) -> tuple[np.ndarray, list[str]]:
    """Return as many images as a round can use, and captions."""
    grey, _ = generic_images(20, seed=0, resolution_px=options.resolution_px)
    return np.repeat(grey[..., None], 3, axis=-1), [PLANES[index % 5].prompt for index in range(20)]


def training_of(options: Options, num_steps: int, *, channels_last: bool = False, **changed: Any) -> LoraTraining:
    """Return this project's training. The memory layout is changed before there is an optimizer over the weights."""
    device = resolve_device(options.device)
    dtype = resolve_precision("auto", device)
    set_speed_flags(device, exact_fp32=dtype == torch.float32, fixed_shapes=False)
    base = fresh(options.base, device=device, dtype=dtype)
    if channels_last:
        base.unet.to(memory_format=torch.channels_last)
    return prepare(base, *images(options), lora_config(options, num_steps, **changed), 0, None, ())


def ours(options: Options, *, graphs: bool = False, search: bool = False, **changed: Any) -> Round:
    """Return a round of this project's steps; the loss is read as often as a fine-tuning reads it."""
    training = training_of(options, options.steps * (options.rounds + 1), **changed)
    if graphs:
        training.predict = torch.compile(training.unet, mode="reduce-overhead")

    def step() -> None:
        training.step()
        if training.steps_done % training.config.log_every == 0:
            training.check_finite(training.steps_done - training.config.log_every)

    def work() -> None:
        torch.backends.cudnn.benchmark = search
        for _ in range(options.steps):
            step()

    return work


def plain(options: Options) -> Round:
    """Return a round of steps as commonly written: image and text encoded, the loss read, every time."""
    from diffusers import DDPMScheduler

    device = resolve_device(options.device)
    base = fresh(options.base, device=device, dtype=resolve_precision("auto", device))
    pixels, captions = images(options)
    parameters = add_lora(base.unet, rank=options.rank, alpha=float(options.rank), targets=options.targets, seed=0)
    if options.optimizer == "adamw8bit":
        import bitsandbytes

        kind = bitsandbytes.optim.AdamW8bit
    else:
        kind = torch.optim.AdamW
    optimizer = kind(parameters, lr=1e-4, weight_decay=0.01)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    scaler = torch.amp.GradScaler(base.unet.device.type, enabled=base.dtype == torch.float16)
    rng = np.random.default_rng(0)
    half = base.dtype != torch.float32

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
        with torch.autocast(base.unet.device.type, dtype=base.dtype, enabled=half):
            predicted = base.unet(noisy, times, text).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.item()

    def work() -> None:
        for _ in range(options.steps):
            step()

    return work


def contenders(options: Options) -> dict[str, Callable[[], Round]]:
    """Return who takes part, the most telling first: how to make a round of steps."""
    mine = functools.partial(functools.partial, ours, options)
    found: dict[str, Callable[[], Round]] = {"plain recipe": lambda: plain(options), "fulora": mine()}
    if resolve_device(options.device).startswith("cuda"):
        found |= {
            "fulora, channels last": mine(channels_last=True),
            "fulora, cuDNN's search": mine(search=True),
            "fulora, channels last and search": mine(channels_last=True, search=True),
            "fulora, fused AdamW": mine(optimizer="adamw"),
        }
    if options.compiled:
        found["fulora, compiled"] = mine(compile=True)
        if resolve_device(options.device).startswith("cuda"):
            found["fulora, CUDA graphs"] = mine(graphs=True)
    return found


def side_by_side(options: Options, results: Results) -> None:
    """Measure steps per second of every contender, the ratio to the plain recipe, and the share of the device."""
    device = resolve_device(options.device)
    of_device = rates(device)
    turns = Turns(
        results, device=device, unit="steps", per_round=options.steps, rounds=options.rounds, seconds=options.seconds
    )
    results.add(**of_device, precision=str(resolve_precision("auto", device)))
    turns.count(
        lambda: training_of(options, 2).step, 1, of_device["matrix_flops_per_second"]
    )  # caching is over by then
    turns.measure(contenders(options))


def flat_memory(options: Options) -> dict[str, Any]:
    """Return the process's memory at a hundred points of a long run, and how much the second half grew."""
    training = training_of(options, options.flat_memory)
    every, points = max(1, options.flat_memory // 100), []
    for index in range(options.flat_memory):
        training.step()
        if index % every == every - 1:
            training.check_finite(max(0, training.steps_done - every))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            points.append({"step": index + 1, "resident_bytes": pages * 4096})
    half = points[len(points) // 2]["resident_bytes"]
    return {"memory": points, "growth_of_second_half_bytes": points[-1]["resident_bytes"] - half}


if __name__ == "__main__":
    main()

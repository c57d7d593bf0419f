"""Sampling, side by side in one process: this project's sampler, diffusers' pipeline one by one and batched.

    python benchmarks/sampling.py --out benchmarks/results/sampling-tiny-cpu.json
    python benchmarks/sampling.py --base random:sd15 --resolution-px 512 --device cuda     # Stable Diffusion 1.5's size

Every contender has the same base, adapter, prompts, seeds, sampler, steps, guidance and precision. They take turns, so
that a busy machine slows all alike; a contender's figure is its median round. The images are compared too: what is fast
must be what diffusers draws. No Ray is needed.
"""

from __future__ import annotations

import dataclasses
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image
from recording import record, torch_facts

from fulora.device import peak_memory_bytes, reset_peak_memory, resolve_device, resolve_precision
from fulora.diffusion.adapter import add_lora, lora_weights
from fulora.diffusion.base import load_base, pipeline
from fulora.diffusion.formats import save_diffusers
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig, make_scheduler, plan_samples

Draw = Callable[[list[SampleRow]], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    base: str = "tiny"
    """Diffusion model, as `sweeps run --base` takes it."""
    resolution_px: int = 64
    """Side of the images."""
    batch_size: int = 8
    """Images at once, where a contender batches."""
    num_steps: int = 20
    """Denoising steps."""
    guidance: float = 7.5
    """Guidance scale; every step is two passes."""
    sampler: Literal["euler", "unipc"] = "euler"
    """The sampler."""
    rank: int = 128
    """LoRA rank of the adapter, whose numbers are random."""
    images: int = 16
    """Images in a round."""
    rounds: int = 5
    """Rounds of each contender, after one that is not counted."""
    device: str = "auto"
    """cpu, cuda or auto."""
    separately: bool = False
    """Each optimisation by itself besides; always on CUDA."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print a table, write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        result = side_by_side(options, Path(scratch), device)
    record(options, **torch_facts(device), precision=str(resolve_precision("auto", device)), **result)


def make_adapter(options: Options, folder: Path) -> Path:
    """Write an adapter of random numbers, large enough to change every image; returns its folder."""
    base = load_base(options.base)
    settings = {"rank": options.rank, "alpha": float(options.rank), "targets": "cross_attention", "seed": 0}
    generator = torch.Generator().manual_seed(1)
    for parameter in add_lora(base.unet, **settings):
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    save_diffusers(lora_weights(base.unet), folder)
    return folder


def sampling_config(options: Options) -> SamplingConfig:
    """Return the settings every contender shares."""
    return SamplingConfig(
        samplers=(options.sampler,), images_per_plane=-(-options.images // 5), num_steps=options.num_steps,
        guidance=options.guidance, batch_size=options.batch_size, rank=options.rank,
    )  # fmt: skip


def fulora(
    options: Options,
    adapter: Path,
    device: str,
    change: Callable[[Any], Any] | None = None,
    *,
    decode_singly: bool = False,
) -> Draw:
    """Return this project's sampler; `change` may replace the U-Net first, the decoder may take images one by one."""
    sampler = Sampler(
        base=options.base, adapter=adapter, config=sampling_config(options), resolution_px=options.resolution_px,
        device=device,
    )  # fmt: skip
    if change is not None:
        sampler.base.unet = change(sampler.base.unet)
    if decode_singly:
        sampler.base.vae.enable_slicing()
    return sampler.sample


def diffusers_pipeline(options: Options, adapter: Path, device: str, batch_size: int) -> Draw:
    """Return diffusers' own pipeline with the adapter loaded beside the weights, as its documentation shows it."""
    base = load_base(options.base, device=device, dtype=resolve_precision("auto", device))
    pipe = pipeline(base)
    pipe.load_lora_weights(adapter)
    pipe.scheduler = make_scheduler(options.sampler, pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    side = options.resolution_px

    def draw(rows: list[SampleRow]) -> np.ndarray:
        found = []
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            images = pipe(
                [row.prompt for row in batch], height=side, width=side, num_inference_steps=options.num_steps,
                guidance_scale=options.guidance, output_type="np",
                generator=[torch.Generator("cpu").manual_seed(row.seed) for row in batch],
            ).images  # fmt: skip
            found.append((images * 255).round().astype(np.uint8))
        return np.concatenate(found)

    return draw


def with_files(draw: Draw, batch_size: int, *, meanwhile: bool) -> Draw:
    """Return a contender that makes PNG files of its images too: while the next are drawn, or before."""

    def drawn(rows: list[SampleRow]) -> np.ndarray:
        found, files = [], []
        with ThreadPoolExecutor(2) as threads:
            for start in range(0, len(rows), batch_size):
                found.append(draw(rows[start : start + batch_size]))
                if meanwhile:
                    files += [threads.submit(_png, image) for image in found[-1]]
                else:
                    files += [_png(image) for image in found[-1]]
        return np.concatenate(found)

    return drawn


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def contenders(options: Options, adapter: Path, device: str) -> dict[str, Callable[[], Draw]]:
    """Return who takes part, by name: how to make it."""
    found: dict[str, Callable[[], Draw]] = {
        "diffusers, one by one": lambda: diffusers_pipeline(options, adapter, device, 1),
        "diffusers, batched": lambda: diffusers_pipeline(options, adapter, device, options.batch_size),
        "fulora": lambda: fulora(options, adapter, device),
    }
    if not (options.separately or device.startswith("cuda")):
        return found

    def ours(change: Callable[[Any], Any] | None = None) -> Draw:
        return fulora(options, adapter, device, change)

    found |= {
        "fulora, channels last": lambda: ours(lambda unet: unet.to(memory_format=torch.channels_last)),
        "fulora, compiled": lambda: ours(torch.compile),
        "fulora, decoder one by one": lambda: fulora(options, adapter, device, decode_singly=True),
        "fulora, PNG after": lambda: with_files(ours(), options.batch_size, meanwhile=False),
        "fulora, PNG meanwhile": lambda: with_files(ours(), options.batch_size, meanwhile=True),
    }
    if device.startswith("cuda"):
        found["fulora, CUDA graphs"] = lambda: ours(lambda unet: torch.compile(unet, mode="reduce-overhead"))
    return found


def side_by_side(options: Options, scratch: Path, device: str) -> dict[str, Any]:
    """Return images per second of every contender, measured in turns, ratios, and how far their images differ."""
    adapter = make_adapter(options, scratch / "adapter")
    rows = list(plan_samples(sampling_config(options), seed=0))[: options.images]
    draws, images, memory, seconds = {}, {}, {}, {}
    for name, make in contenders(options, adapter, device).items():
        reset_peak_memory(device)
        before = torch.cuda.memory_allocated() if device.startswith("cuda") else 0
        draws[name] = make()
        images[name] = draws[name](rows)  # not counted: the first round allocates, compiles and chooses kernels
        memory[name] = peak_memory_bytes(device) - before if device.startswith("cuda") else None
        seconds[name] = []
    for _ in range(options.rounds):
        for name, draw in draws.items():
            started = time.perf_counter()
            draw(rows)  # the images come back to the host, so the device is waited for
            seconds[name].append((time.perf_counter() - started) / len(rows))
    plain, reference = "diffusers, one by one", images["diffusers, batched"].astype(int)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    found = {}
    for name in draws:
        difference = np.abs(images[name].astype(int) - reference)
        found[name] = {
            "images_per_second": 1 / median[name],
            "ratio_to_one_by_one": median[plain] / median[name],
            "ratio_to_batched": median["diffusers, batched"] / median[name],
            "seconds_per_image": seconds[name],
            "largest_difference_to_batched": int(difference.max()),
            "share_of_pixels_that_differ": float((difference > 0).mean()),
            "peak_memory_bytes": memory[name],
        }
        row = found[name]
        print(
            f"{name:<27}{row['images_per_second']:>8.2f} images/s  {row['ratio_to_one_by_one']:>5.2f} x  "
            f"differs by at most {row['largest_difference_to_batched']} of 255",
            file=sys.stderr,
        )
    result: dict[str, Any] = {"contenders": found}
    if device.startswith("cuda"):
        result |= _matrix_rate(options, adapter, device, rows, median["fulora"])
    return result


def _matrix_rate(
    options: Options, adapter: Path, device: str, rows: list[SampleRow], seconds: float
) -> dict[str, float]:
    """Return the card's matrix rate measured here, the work of an image, and the share of the rate that is reached."""
    from torch.utils.flop_counter import FlopCounterMode

    a, b = (torch.randn(8192, 8192, device=device, dtype=resolve_precision("auto", device)) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    rate = 2 * 8192**3 * 20 / (time.perf_counter() - started)
    batch = rows[: options.batch_size]
    with FlopCounterMode(display=False) as counter:
        fulora(options, adapter, device)(batch)
    flops = counter.get_total_flops() / options.batch_size
    return {
        "matrix_flops_per_second": rate, "flops_per_image": flops, "share_of_matrix_rate": flops / seconds / rate,
    }  # fmt: skip


if __name__ == "__main__":
    main()

"""Sampling, side by side in one process: this project's sampler, diffusers' pipeline one by one and batched.

    python benchmarks/sampling.py --out benchmarks/results/sampling-tiny-cpu.json
    python benchmarks/sampling.py --base random:sd15 --resolution-px 512 --device cuda     # Stable Diffusion 1.5's size

Every contender has the same base, adapter, prompts, seeds, sampler, steps, guidance and precision. They take turns, so
that a busy machine slows all alike; a contender's figure is its median round. The images are compared too: what is fast
must be what diffusers draws. No Ray is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bases import built_once, fresh
from command_line import options_of
from PIL import Image
from rates import rates
from recording import Results, torch_facts
from turns import Turns

from fulora.device import resolve_device, resolve_precision
from fulora.diffusion.adapter import add_lora, lora_weights
from fulora.diffusion.base import pipeline
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
    seconds: float = 0.0
    """Time for the contenders, the first of them first; 0: as long as it takes."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print a table, write the JSON as it grows."""
    options = options_of(Options, __doc__)
    device = resolve_device(options.device)
    results = Results(options, **torch_facts(device), precision=str(resolve_precision("auto", device)))
    with tempfile.TemporaryDirectory() as scratch, built_once():
        side_by_side(options, Path(scratch), device, results)
    print(results.text())


def make_adapter(options: Options, folder: Path) -> Path:
    """Write an adapter of random numbers, large enough to change every image; returns its folder."""
    base = fresh(options.base)
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
    options: Options, adapter: Path, device: str, change: Callable[[Sampler], object] | None = None, *,
    search: bool = False,
) -> Draw:  # fmt: skip
    """Return this project's sampler; `change` may alter its parts first, cuDNN may search for its algorithms."""
    sampler = Sampler(
        base=options.base, adapter=adapter, config=sampling_config(options), resolution_px=options.resolution_px,
        device=device,
    )  # fmt: skip
    if change is not None:
        change(sampler)

    def draw(rows: list[SampleRow]) -> np.ndarray:
        torch.backends.cudnn.benchmark = search
        return sampler.sample(rows)

    return draw


def channels_last(sampler: Sampler) -> None:
    """Put U-Net and decoder into channels-last memory."""
    sampler.base.unet.to(memory_format=torch.channels_last)
    sampler.base.vae.to(memory_format=torch.channels_last)


def compiled(sampler: Sampler, **how: Any) -> None:
    """Compile U-Net and decoder."""
    torch.compiler.reset()
    sampler.base.unet = torch.compile(sampler.base.unet, **how)
    sampler.base.vae.decode = torch.compile(sampler.base.vae.decode, **how)


def both(sampler: Sampler) -> None:
    """Channels-last memory, compiled."""
    channels_last(sampler)
    compiled(sampler)


def diffusers_pipeline(options: Options, adapter: Path, device: str, batch_size: int) -> Draw:
    """Return diffusers' own pipeline with the adapter loaded beside the weights, as its documentation shows it."""
    base = fresh(options.base, device=device, dtype=resolve_precision("auto", device))
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
    Image.fromarray(image).save(buffer, format="PNG", compress_level=2)
    return buffer.getvalue()


def contenders(options: Options, adapter: Path, device: str) -> dict[str, Callable[[], Draw]]:
    """Return who takes part, the most telling first: how to make it."""

    def ours(change: Callable[[Sampler], object] | None = None, **how: Any) -> Callable[[], Draw]:
        return lambda: fulora(options, adapter, device, change, **how)

    found: dict[str, Callable[[], Draw]] = {
        "diffusers, one by one": lambda: diffusers_pipeline(options, adapter, device, 1),
        "fulora": ours(),
        "diffusers, batched": lambda: diffusers_pipeline(options, adapter, device, options.batch_size),
    }
    if options.separately or device.startswith("cuda"):
        found |= {
            "fulora, channels last": ours(channels_last),
            "fulora, cuDNN's search": ours(search=True),
            "fulora, channels last and search": ours(channels_last, search=True),
            "fulora, compiled": ours(compiled),
            "fulora, channels last, compiled": ours(both),
            "fulora, PNG meanwhile": lambda: with_files(ours()(), options.batch_size, meanwhile=True),
            "fulora, PNG after": lambda: with_files(ours()(), options.batch_size, meanwhile=False),
            "fulora, decoder one by one": ours(lambda sampler: sampler.base.vae.enable_slicing()),
        }
    if device.startswith("cuda"):
        found["fulora, CUDA graphs"] = ours(lambda sampler: compiled(sampler, mode="reduce-overhead"))
    return found


def side_by_side(options: Options, scratch: Path, device: str, results: Results) -> None:
    """Measure images per second of every contender, ratios, and how far their images differ from diffusers' own."""
    of_device, adapter = rates(device), make_adapter(options, scratch / "adapter")
    rows = list(plan_samples(sampling_config(options), seed=0))[: options.images]
    results.add(**of_device)

    def rounds_of(make: Callable[[], Draw]) -> Callable[[], Callable[[], np.ndarray]]:
        def made() -> Callable[[], np.ndarray]:
            draw = make()
            return lambda: draw(rows)  # the images come back to the host, so the device is waited for

        return made

    turns = Turns(
        results, device=device, unit="images", per_round=len(rows), rounds=options.rounds, seconds=options.seconds
    )
    batch = rows[: options.batch_size]
    turns.count(
        lambda: functools.partial(fulora(options, adapter, device), batch), options.batch_size,
        of_device["matrix_flops_per_second"],
    )  # fmt: skip
    turns.measure({name: rounds_of(make) for name, make in contenders(options, adapter, device).items()})
    table = results.found["contenders"]
    reference = turns.first.get("diffusers, batched")
    for name, images in turns.first.items():
        if reference is not None and name in turns.seconds:
            difference = np.abs(images.astype(int) - reference)
            apart = {
                "largest_difference_to_batched": int(difference.max()),
                "share_of_pixels_that_differ": float((difference > 0).mean()),
            }
            results.row("contenders", name, table[name] | apart)


if __name__ == "__main__":
    main()

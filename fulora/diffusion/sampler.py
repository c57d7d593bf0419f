"""Sample synthetic images from prompts and seeds; an image does not depend on the others sampled with it.

In: a base, an adapter, rows of (prompt, sampler, seed). Out: uint8 images.
Source: FU-LoRA section 3 (Euler and UniPC, 20 steps, LoRA weight 1.0); Karras et al. 2022 and Zhao et al. 2023 through
diffusers' schedulers; Ho and Salimans 2022 (classifier-free guidance).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fulora.device import release_cached_memory, resolve_device, resolve_precision, set_speed_flags
from fulora.diffusion.adapter import merge
from fulora.diffusion.base import Base, load_base
from fulora.diffusion.caching import check_resolution, encode_prompts
from fulora.diffusion.formats import read_adapter
from fulora.diffusion.seed_list import read_seed_list
from fulora.errors import InputError, fault, raise_if_any
from fulora.planes import PLANES, Plane
from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch

SamplerName = Literal["euler", "unipc"]
"""`euler`: EulerDiscreteScheduler. `unipc`: UniPCMultistepScheduler. The paper's two samplers."""
UniPCSolver = Literal["bh1", "bh2"]
"""B(h) of UniPC: h (bh1) or exp(h) - 1 (bh2). Source: Zhao et al. 2023."""

MOST_DECODED = 2**29
"""Most elements of a tensor in the decoder: 8 images of 512 px at Stable Diffusion 1.5's size, 1 GiB in half precision.
At 2^31, 32 such images, kernels that count in 32 bits fail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Settings of the synthetic images. Defaults are the paper's where it states them."""

    samplers: tuple[SamplerName, ...] = ("euler", "unipc")
    """Samplers (diffusers schedulers), each used for every plane. Source: paper section 3."""
    images_per_plane: int = 500
    """Images per plane and sampler. Source: paper section 3, 500 x 5 planes x 2 samplers = 5000."""
    num_steps: int = 20
    """Denoising steps. Source: paper section 3."""
    unipc_solver: UniPCSolver = "bh2"
    """UniPC's B(h). Not stated in the paper; diffusers' default. The released file names suggest a web UI: bh1."""
    unipc_order: int = 2
    """UniPC's order, 1 to 3. Not stated in the paper; diffusers' default. A web UI's: 3."""
    guidance: float = 7.5
    """Classifier-free guidance scale; 1 or less: no guidance. Not stated in the paper; diffusers' default."""
    negative_prompt: str = ""
    """Negative prompt. Not stated in the paper."""
    clip_skip: int | None = None
    """Last layers of the text encoder to skip, as in training. The released code: 1."""
    batch_size: int = 8
    """Batch size; the last batch is padded, so all batches have the same shape."""
    seeds: Path | None = None
    """CSV of seeds to use instead of derived ones: columns plane, sampler, seed, or the published list of the 5000
    synthetic images. That list does not name the samplers: its runs of consecutive seeds are assigned to the samplers
    in turn."""
    rank: int = 128
    """Rank of the adapter used for sampling. Source: paper section 3."""

    def validate(self) -> list[str]:
        """Return every fault of the configuration, empty when there is none."""
        found = []
        for field in ("images_per_plane", "num_steps", "batch_size", "rank"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                found.append(fault(field, value, "must be an integer of at least 1", f"Set {field} to 1 or more"))
        known = get_args(SamplerName)
        for name in self.samplers:
            if name not in known:
                found.append(fault("samplers", name, "is unknown", f"Choose from {', '.join(known)}"))
        if not self.samplers or len(set(self.samplers)) != len(self.samplers):
            found.append(fault("samplers", self.samplers, "contains a duplicate sampler", f"Use {', '.join(known)}"))
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            found.append(fault("guidance", self.guidance, "must be a number of at least 0", "Set it to 0 or more"))
        if self.unipc_solver not in get_args(UniPCSolver):
            found.append(fault("unipc_solver", self.unipc_solver, "is unknown", "Choose bh1 or bh2"))
        if self.unipc_order not in (1, 2, 3):
            found.append(fault("unipc_order", self.unipc_order, "must be 1, 2 or 3", "diffusers: 2; a web UI: 3"))
        if self.seeds is not None and not self.seeds.is_file():
            found.append(fault("seeds", str(self.seeds), "is not a file", "Name a CSV of seeds"))
        if self.clip_skip is not None and self.clip_skip < 0:
            found.append(fault("clip_skip", self.clip_skip, "must be at least 0", "Set it to 0 or more, or to None"))
        return found


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One image to sample."""

    image_id: str
    """Unique within a run; the file name without its suffix."""
    plane: str
    """Name of the plane."""
    prompt: str
    """Text the image is conditioned on."""
    sampler: str
    """A `SamplerName`."""
    seed: int
    """Seed of the image's own random generator."""


def plan_samples(config: SamplingConfig, *, seed: int) -> Iterator[SampleRow]:
    """Yield the rows of a synthetic set, by plane, sampler and index; a larger set begins with a smaller one's rows."""
    plan = SamplePlan(config, seed=seed)
    for plane, sampler in plan.groups:
        for index in range(config.images_per_plane):
            yield plan.row(plane, sampler, index)


class SamplePlan:
    """The rows of a synthetic set, computed on demand, so that planning a set of any size costs nothing."""

    def __init__(self, config: SamplingConfig, *, seed: int) -> None:
        raise_if_any(config.validate())
        self.seed, self.seeds = seed, None
        if config.seeds is not None:
            self.seeds = read_seed_list(config.seeds, config.samplers, config.images_per_plane)
        self.groups = [(plane, sampler) for plane in PLANES for sampler in config.samplers]

    def row(self, plane: Plane, sampler: str, index: int) -> SampleRow:
        """Return one image of a plane and sampler."""
        if self.seeds is None:
            own = derive_seed(self.seed, "sampling", plane.name, sampler, index)
        else:
            own = self.seeds[plane.name, sampler][index]
        return SampleRow(f"{plane.name}-{sampler}-{index:05d}-{own}", plane.name, plane.prompt, sampler, own)


class Sampler:
    """A base with a merged adapter that samples rows in batches of constant shape.

    An image depends on base, adapter, prompt, sampler, seed, steps, guidance, resolution and batch size, but not on the
    other rows of its batch. Noise is drawn on the CPU, and the scheduler computes in float32 at every precision.
    """

    def __init__(
        self,
        *,
        base: str,
        adapter: Path | None,
        config: SamplingConfig,
        resolution_px: int,
        device: str = "auto",
        precision: str = "auto",
        allow_pickle: bool = False,
    ) -> None:
        import torch

        raise_if_any(config.validate())
        device = resolve_device(device)
        dtype = resolve_precision(precision, device)
        # cuDNN benchmarking is off: all workers use the same algorithms.
        set_speed_flags(device, exact_fp32=dtype == torch.float32, fixed_shapes=False)
        # Merged in float32 first: B A is small beside W0 and would be rounded away in half precision.
        self.base: Base = load_base(base, device=device, dtype=torch.float32, allow_pickle=allow_pickle)
        check_resolution(self.base, resolution_px)
        if adapter is not None:
            merge(self.base, read_adapter(adapter, self.base), str(adapter))
        self.base.to(device, dtype)
        release_cached_memory(device)  # the float32 weights' place
        self.config = config
        side = resolution_px // self.base.pixels_per_latent
        self._latent_shape = (self.base.unet.config.in_channels, side, side)
        self._embeddings: dict[str, torch.Tensor] = {}

    def sample(self, rows: Sequence[SampleRow]) -> np.ndarray:
        """Return the images of rows in their order, uint8 [len(rows), H, W, 3]."""
        side = self._latent_shape[1] * self.base.pixels_per_latent
        images = np.empty((len(rows), side, side, 3), dtype=np.uint8)
        for positions, batch in self.batches(rows):
            images[positions] = batch
        return images

    def batches(self, rows: Sequence[SampleRow]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield each batch as it is drawn: positions of its rows, and images uint8 [len(positions), H, W, 3].

        Every row occurs once. The device waits while the caller holds the iterator: hand the images to a thread.
        """
        size = self.config.batch_size
        by_sampler: dict[str, list[int]] = {}
        for position, row in enumerate(rows):
            by_sampler.setdefault(row.sampler, []).append(position)
        for sampler, positions in by_sampler.items():
            for start in range(0, len(positions), size):
                batch = positions[start : start + size]
                padded = [rows[position] for position in batch] + [rows[batch[-1]]] * (size - len(batch))
                yield batch, self._draw(sampler, padded)[: len(batch)]

    def _draw(self, sampler: str, rows: Sequence[SampleRow]) -> np.ndarray:
        import torch

        base, guidance = self.base, self.config.guidance
        scheduler = make_scheduler(sampler, base.scheduler.config, self.config)
        guided = guidance > 1
        with torch.inference_mode():
            text = torch.cat([self._embed(row.prompt) for row in rows])
            if guided:
                text = torch.cat([self._embed(self.config.negative_prompt).expand_as(text), text])
            noise = [
                torch.randn(self._latent_shape, generator=torch.Generator("cpu").manual_seed(row.seed)) for row in rows
            ]
            scheduler.set_timesteps(self.config.num_steps, device=base.device)
            scheduler.set_begin_index(0)  # avoids a search and a device synchronisation at every step
            latents = torch.stack(noise).to(base.device) * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                x = scheduler.scale_model_input(latents, t).to(base.dtype)
                x = torch.cat([x, x]) if guided else x
                predicted = base.unet(x, t, text, return_dict=False)[0].float()
                if guided:
                    without, with_text = predicted.chunk(2)
                    predicted = without + guidance * (with_text - without)
                latents = scheduler.step(predicted, t, latents, return_dict=False)[0]
            images, decodable = self._decode(latents)
            # Both are read after the decoder is queued: one device synchronisation, no idle time.
            finite = torch.stack([torch.isfinite(latents).all(), decodable]).tolist()
            where = f"{sampler}, guidance {guidance:g}, {self.config.num_steps} steps"
            if not finite[0]:
                raise FloatingPointError(f"latents of {rows[0].image_id} and its batch are not finite ({where})")
            if not finite[1]:
                remedy = f"the decoder overflows in {base.dtype}: use precision bf16 or fp32"
                raise FloatingPointError(f"images of {rows[0].image_id} and its batch are not finite: {remedy}")
            return images.cpu().numpy()

    def _decode(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images uint8 [N, H, W, 3] and whether all values were finite, both on the device.

        Decodes in equal parts, no tensor of which has more than `MOST_DECODED` elements.
        """
        import torch

        vae = self.base.vae
        side = latents.shape[-1] * self.base.pixels_per_latent
        of_one = side**2 * max(vae.config.block_out_channels[:2])  # the decoder's widest tensor of full size
        count = len(latents)
        part = next(n for n in range(count, 0, -1) if count % n == 0 and (n * of_one <= MOST_DECODED or n == 1))
        images, finite = [], []
        for chosen in latents.split(part):
            decoded = vae.decode((chosen / vae.config.scaling_factor).to(self.base.dtype), return_dict=False)[0]
            finite.append(torch.isfinite(decoded).all())
            grey = (decoded.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
            images.append((grey * 255).round().to(torch.uint8))
        return torch.cat(images), torch.stack(finite).all()

    def _embed(self, prompt: str) -> torch.Tensor:
        if prompt not in self._embeddings:
            self._embeddings[prompt] = encode_prompts(self.base, [prompt], self.config.clip_skip)
        return self._embeddings[prompt]


def make_scheduler(sampler: str, base_config: Any, config: SamplingConfig | None = None) -> Any:
    """Return a new diffusers scheduler for a sampler's name, on the noise schedule of a base's configuration."""
    from diffusers import EulerDiscreteScheduler

    from fulora.diffusion.unipc import HostUniPC

    config = config or SamplingConfig()
    if sampler == "euler":
        return EulerDiscreteScheduler.from_config(base_config)
    if sampler == "unipc":
        settings: dict[str, Any] = {"solver_type": config.unipc_solver, "solver_order": config.unipc_order}
        if config.unipc_solver == "bh1":
            # At sigma 0 its B(h) is infinite and images are not finite; web UIs end above 0.
            settings["final_sigmas_type"] = "sigma_min"
        return HostUniPC.from_config(base_config, **settings)
    raise InputError(fault("sampler", sampler, "is unknown", f"Choose from {', '.join(get_args(SamplerName))}"))

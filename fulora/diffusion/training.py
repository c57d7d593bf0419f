"""The training loop of a LoRA: add noise to cached latents, predict it with the U-Net, take an optimizer step.

In: trainable parameters, latents, a `LoraConfig`, a seed. Out: the losses; the parameters change in place.
`state()` holds everything that determines the next steps (parameters, optimizer, random streams, position), so a
resumed training gives the same bits as an uninterrupted one.
Source: FU-LoRA equation (1); Ho et al. 2020 (the noise schedule, by diffusers' DDPMScheduler).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from fulora.diffusion.checkpoints import Checkpoints, State
from fulora.diffusion.flat_parameters import check_views
from fulora.diffusion.heldout import heldout_loss
from fulora.diffusion.latent_dataset import LatentDataset
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.optimizer import make_optimizer
from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch

Log = Callable[[dict[str, float]], None]
"""Called with step, loss, learning_rate, steps_per_second, and heldout_loss at the steps where it was measured."""


class NoisyBatch(NamedTuple):
    """What the U-Net gets at a step, and what it is to predict."""

    latents: torch.Tensor
    """x_t, float32 [B, C, h, w]."""
    times: torch.Tensor
    """t, int64 [B]."""
    texts: torch.Tensor
    """Rows of the captions, int64 [B]."""
    noise: torch.Tensor
    """eps, float32 [B, C, h, w]."""


class Schedule:
    """The images, captions and time steps of every step, drawn once on the CPU, so that no step waits for them.

    The images of a step have one size. Sizes occur in proportion to their number of images, and images of a size come
    in shuffled epochs, so every image is seen equally often. Shapes: `groups` [num_steps], the others
    [num_steps, batch_size], int64.
    """

    def __init__(self, data: LatentDataset, num_times: int, config: LoraConfig, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(derive_seed(seed, "finetune", "schedule"))
        shape = (config.num_steps, config.batch_size)
        sizes = torch.tensor([len(rows) for rows in data.images])
        self.groups = torch.zeros(config.num_steps, dtype=torch.int64)
        if len(sizes) > 1:
            everything = int(sizes.sum())
            turns = [torch.randperm(everything, generator=generator) for _ in range(_rounds(shape[0], everything))]
            self.groups = torch.bucketize(torch.cat(turns)[: shape[0]], sizes.cumsum(0), right=True)
        self.rows = torch.zeros(shape, dtype=torch.int64)
        for group, size in enumerate(sizes.tolist()):
            steps = (self.groups == group).nonzero()[:, 0]
            total = len(steps) * config.batch_size
            rounds = [torch.randperm(size, generator=generator) for _ in range(_rounds(total, size))]
            if rounds:
                self.rows[steps] = torch.cat(rounds)[:total].view(-1, config.batch_size)
        pairs = zip(self.groups.tolist(), self.rows.tolist(), strict=True)
        self.images = torch.tensor([[data.images[group][row] for row in rows] for group, rows in pairs])
        self.texts = torch.tensor(data.texts)[self.images]
        self.texts[torch.rand(shape, generator=generator) < config.caption_dropout] = data.empty_text
        self.times = torch.randint(num_times, shape, generator=generator)


class LoraTraining:
    """A LoRA in training. `trainable` holds the parameters of the U-Net and those of the text encoder (or none).

    `heldout` is latents of images not trained on, each with the row of its caption; their loss is measured during
    training. `embed` turns rows of captions into embeddings [B, 77, D], through the text encoder if it is trained.
    Notation: x0 a latent, eps the noise, t the time step, x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps; the loss is
    equation (1), the mean of (eps - unet(x_t, t, text))^2, with `snr_gamma` g weighted by min(g / snr(t), 1).
    """

    def __init__(
        self,
        *,
        unet: Any,
        embed: Callable[[torch.Tensor], torch.Tensor],
        trainable: tuple[list[Any], list[Any]],
        data: LatentDataset,
        heldout: Sequence[tuple[torch.Tensor, Sequence[int]]] = (),
        noise_config: Any,
        dtype: torch.dtype,
        config: LoraConfig,
        seed: int,
    ) -> None:
        import torch
        from diffusers import DDPMScheduler

        self.predict = compiled(unet, len(data.groups)) if config.compile else unet
        self.unet, self.embed, self.data, self.config, self.dtype = unet, embed, data, config, dtype
        self.heldout = heldout
        self.parameters = [*trainable[0], *trainable[1]]
        device = data.groups[0][0].device
        self.abar = DDPMScheduler.from_config(noise_config).alphas_cumprod
        self.signal, self.noise = self.abar.sqrt().to(device), (1 - self.abar).sqrt().to(device)
        snr = self.abar / (1 - self.abar)
        self.weights = torch.clamp(config.snr_gamma / snr, max=1.0).to(device) if config.snr_gamma else None
        self.schedule = Schedule(data, len(self.abar), config, seed)
        self._texts, self._times = self.schedule.texts.to(device), self.schedule.times.to(device)
        self._rows, self._groups = self.schedule.rows.to(device), self.schedule.groups.tolist()
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, "finetune", "noise"))
        self.optimizer = make_optimizer(trainable, config)
        self.half = dtype != torch.float32
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.losses = torch.zeros(config.num_steps, device=device)
        self.steps_done = self.reported = 0
        self.reports: list[dict[str, float]] = []
        self._seconds, self._started = 0.0, time.monotonic()

    def step(self) -> None:
        """Take one optimizer step, without device synchronisation (8-bit Adam in float16: one, to check overflow)."""
        batch = self.noisy_batch()
        with self.autocast():
            predicted = self.predict(batch.latents, batch.times, self.embed(batch.texts), return_dict=False)[0]
        self.scaled_loss(predicted, batch).backward()
        self.update()

    def noisy_batch(self) -> NoisyBatch:
        """Return what the U-Net gets at the next step."""
        import torch

        index = self.steps_done
        mean, deviation = self.data.groups[self._groups[index]]
        rows, t = self._rows[index], self._times[index]
        shape = (2, len(rows), *mean.shape[1:])
        draw, eps = torch.randn(shape, generator=self.generator, device=mean.device)
        x0 = mean[rows] + deviation[rows] * draw
        x_t = self.signal[t].view(-1, 1, 1, 1) * x0 + self.noise[t].view(-1, 1, 1, 1) * eps
        return NoisyBatch(x_t, t, self._texts[index], eps)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the U-Net and the text encoder run."""
        import torch

        return torch.autocast(self.losses.device.type, dtype=self.dtype, enabled=self.half)

    def scaled_loss(self, predicted: torch.Tensor, batch: NoisyBatch) -> torch.Tensor:
        """Return the loss to differentiate, a scalar; the unweighted one is recorded."""
        errors = (predicted.float() - batch.noise).square().mean(dim=(1, 2, 3))
        loss = errors.mean()
        counted = loss if self.weights is None else (self.weights[batch.times] * errors).mean()
        self.losses[self.steps_done] = loss.detach()
        return self.scaler.scale(counted)

    def update(self) -> None:
        """Let the optimizer step on the gradients, and zero them."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=False)  # the matrices' gradients are views of the optimizer's
        self.steps_done += 1

    def run(self, *, checkpoints: Checkpoints | None = None, on_log: Log | None = None) -> list[dict[str, float]]:
        """Take the remaining steps and return the reports: step, loss (mean since the last), learning_rate, seconds.

        Reports at steps with a held-out measurement have heldout_loss too. Raises FloatingPointError naming the first
        step with a non-finite loss and its images.
        """
        while not self.ended:
            self.step()
            self.report_if_due(on_log)
            if checkpoints is not None and not self.ended and checkpoints.due():
                self.check_finite(self.reported)
                checkpoints.save(self.state())
        return self.reports

    @property
    def ended(self) -> bool:
        """Whether all steps are done."""
        return self.steps_done >= self.config.num_steps

    def report_if_due(self, on_log: Log | None) -> None:
        """Report the loss where it is time for it, and measure that of held-out images. Raises as `run`."""
        import torch

        config, done = self.config, self.steps_done
        measured = bool(self.heldout) and (self.ended or done % config.heldout_every == 0)
        if measured or self.ended or done % config.log_every == 0:
            self._report(measured, on_log)
        if self.ended and not bool(torch.stack([torch.isfinite(one).all() for one in self.parameters]).all()):
            raise FloatingPointError(f"the adapter is not finite after step {config.num_steps}: lower learning_rate")

    def state(self) -> State:
        """Return the checkpoint: everything that determines the next steps."""
        tensors = {f"parameter.{index}": value for index, value in enumerate(self.parameters)}
        tensors |= {"generator": self.generator.get_state(), "losses": self.losses[: self.steps_done]}
        numbers: dict[str, Any] = {}
        for path, value in _leaves(self.optimizer.state_dict()["state"], "optimizer"):
            (tensors if hasattr(value, "numel") else numbers)[path] = value
        facts = {
            "optimizer": numbers, "scaler": self.scaler.state_dict(), "reports": self.reports,
            "reported": self.reported, "seconds": self._elapsed(),
        }  # fmt: skip
        return State(self.steps_done, tensors, facts)

    def restore(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        import torch

        device = self.losses.device
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(state.tensors[f"parameter.{index}"])
            self.losses[: state.step] = state.tensors["losses"].to(device)
        entries: dict[int, Any] = {}
        for path, value in [*state.tensors.items(), *state.facts["optimizer"].items()]:
            start, *keys = path.split("/")
            if start == "optimizer":
                below = entries.setdefault(int(keys[0]), {})
                for key in keys[1:-1]:
                    below = below.setdefault(key, {})
                below[keys[-1]] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.generator.set_state(state.tensors["generator"])
        self.scaler.load_state_dict(state.facts["scaler"])
        self.steps_done, self.reported = state.step, state.facts["reported"]
        self.reports, self._seconds = list(state.facts["reports"]), state.facts["seconds"]
        self._started = time.monotonic()

    def _report(self, measured: bool, on_log: Log | None) -> None:
        since = self.check_finite(self.reported)
        loss = sum(since) / len(since)
        row = {"step": self.steps_done, "loss": loss, "learning_rate": self.config.learning_rate}
        if measured:
            row["heldout_loss"] = heldout_loss(self.unet, self.embed, self.heldout, self.abar, dtype=self.dtype)
        self.reported = self.steps_done
        seconds = self._elapsed()
        self.reports.append({**row, "seconds": seconds})
        if on_log is not None:
            on_log({**row, "steps_per_second": self.steps_done / max(seconds, 1e-9)})

    def check_finite(self, first: int) -> list[float]:
        """Return the losses from step `first` on; the only device synchronisation.

        Raises FloatingPointError naming the first step with a non-finite loss, RuntimeError if the parameters no longer
        share the optimizer's memory (`check_views`).
        """
        check_views(self.parameters, [flat for group in self.optimizer.param_groups for flat in group["params"]])
        losses = self.losses[first : self.steps_done].tolist()
        for index, value in enumerate(losses, first):
            if not math.isfinite(value):
                images = ", ".join(self.data.names[image] for image in self.schedule.images[index].tolist())
                where = f"at step {index + 1}, on {images}"
                raise FloatingPointError(f"the loss is {value} {where}: lower learning_rate, or check these images")
        return losses

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._started


def compiled(unet: Any, num_shapes: int) -> Any:
    """Return a U-Net that compiles once per image size, after clearing what this process compiled before.

    dynamo keeps at most `recompile_limit` (8) versions of a function across all models, and beyond that runs it
    uncompiled without an error.
    """
    import torch
    import torch._dynamo

    torch.compiler.reset()
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 2 * num_shapes)
    return torch.compile(unet, dynamic=False)


def _leaves(tree: dict[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every leaf of nested dictionaries: bitsandbytes nests its state one level deeper."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}/{key}")
        else:
            yield f"{path}/{key}", value


def _rounds(total: int, size: int) -> int:
    return math.ceil(total / size)

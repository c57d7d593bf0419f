"""Several ranks over one base: one after another, all in one pass, and on a GPU a process each at once.

    OMP_NUM_THREADS=1 python benchmarks/ranks.py --base tiny --resolution-px 64 --out benchmarks/results/ranks.json
    python benchmarks/ranks.py --base random:sd15 --device cuda          # Stable Diffusion 1.5's size, 512 px

Every contender takes the same number of steps of every rank, with the same images, batch, layers and optimizer. They
take turns in short rounds, so that a busy machine slows all alike; a contender's figure is its median round. After the
first round the losses of both ways are compared, too: what is fast must be what separate trainings compute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable
from queue import Empty
from typing import Any

import finetune
import torch
from bases import fresh
from command_line import options_of
from finetune import images, lora_config, ours
from recording import Results, torch_facts
from turns import Round, Turns, timed

from fulora.device import resolve_device, resolve_precision, set_speed_flags
from fulora.diffusion.finetune import prepare
from fulora.diffusion.finetune_ranks import prepare_ranks
from fulora.diffusion.joint_training import JointTraining
from fulora.diffusion.training import LoraTraining


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(finetune.Options):
    """What is measured."""

    ranks: tuple[int, ...] = (8, 32, 128)
    """LoRA ranks; the last of them is trained alone, too."""
    compiled: bool = False
    """Whether one pass takes part compiled, too: minutes before its first step."""
    processes: bool = False
    """Whether all ranks at once, a process each on the device, are measured against the last of them alone."""


def main() -> None:
    """Measure, print a table, write the JSON as it grows."""
    options = options_of(Options, __doc__)
    device = resolve_device(options.device)
    results = Results(options, **torch_facts(device), precision=str(resolve_precision("auto", device)))
    if options.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        results.lacks("bitsandbytes: all contenders take torch's AdamW instead of 8-bit Adam")
        options = dataclasses.replace(options, optimizer="adamw")
    turns = Turns(
        results, device=device, unit="steps", per_round=options.steps, rounds=options.rounds, seconds=options.seconds
    )
    contest = Contest(options)
    turns.measure(contest.contenders())
    results.add(largest_relative_difference_of_a_loss=contest.difference())
    if options.processes:
        results.add(a_process_each=processes(options))
    print(results.text())


class Contest:
    """The contenders, whose losses are compared."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.losses: dict[str, torch.Tensor] = {}

    def contenders(self) -> dict[str, Callable[[], Round]]:
        """Return who takes part: how to make a round of steps of every rank."""
        found: dict[str, Callable[[], Round]] = {
            "one after another": lambda: self._apart(),
            "one pass": lambda: self._joint(),
            f"rank {self.options.ranks[-1]} alone": lambda: ours(
                dataclasses.replace(self.options, rank=self.options.ranks[-1])
            ),
        }
        if self.options.compiled:
            found["one pass, compiled"] = lambda: self._joint(compile=True)
        return found

    def difference(self) -> float | None:
        """Return how far the losses of the first steps are apart, as a share, at most; None where one way failed."""
        if not {"one after another", "one pass"} <= self.losses.keys():
            return None
        apart, joint = self.losses["one after another"], self.losses["one pass"]
        return float(((joint - apart) / apart).abs().max())

    def _apart(self) -> Round:
        trainings = [
            prepare(self._base(), *images(self.options), config, seed, None, ())
            for seed, config in enumerate(self._configs())
        ]

        def work() -> None:
            for training in trainings:
                for _ in range(self.options.steps):
                    training.step()
            self._keep("one after another", trainings)

        return work

    def _joint(self, **changed: Any) -> Round:
        configs = self._configs(**changed)
        joint: JointTraining = prepare_ranks(
            self._base(), *images(self.options), configs, range(len(configs)), None, ()
        )

        def work() -> None:
            for _ in range(self.options.steps):
                joint.step()
            self._keep("one pass, compiled" if changed else "one pass", joint.members)

        return work

    def _configs(self, **changed: Any) -> list[Any]:
        num_steps = self.options.steps * (self.options.rounds + 1)
        return [
            lora_config(dataclasses.replace(self.options, rank=rank), num_steps, **changed)
            for rank in self.options.ranks
        ]

    def _base(self) -> Any:
        device = resolve_device(self.options.device)
        dtype = resolve_precision("auto", device)
        set_speed_flags(device, exact_fp32=dtype == torch.float32, fixed_shapes=False)
        return fresh(self.options.base, device=device, dtype=dtype)

    def _keep(self, name: str, trainings: Any) -> None:
        """Keep the losses [ranks, steps] of the first round."""
        members: list[LoraTraining] = list(trainings)
        if name not in self.losses:
            self.losses[name] = torch.stack([one.losses[: self.options.steps].cpu() for one in members])


def processes(options: Options) -> dict[str, Any]:
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
        found: list[float] = []
        try:
            while len(found) < len(ranks):
                with contextlib.suppress(Empty):
                    found.append(queue.get(timeout=1))
                failed = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
                if failed:
                    raise SystemExit(f"{len(failed)} of {len(ranks)} trainings ended with exit code {failed[0]}")
        finally:
            for process in processes:
                if len(found) < len(ranks):
                    process.kill()  # the others wait at the barrier for the one that is gone
                process.join()
        return max(found)

    alone, all_at_once = run(options.ranks[-1:]), run(options.ranks)
    return {"seconds_alone": alone, "seconds_together": all_at_once, "ratio": all_at_once / alone}


def _one_of(options: Options, barrier: Any, queue: Any) -> None:
    device, work = resolve_device(options.device), ours(options)
    timed(work, device)
    barrier.wait(600)
    queue.put(timed(lambda: [work() for _ in range(options.rounds)], device))


if __name__ == "__main__":
    main()

"""A training that is killed goes on to the same bits, and a torn checkpoint is passed over for the one before."""

from __future__ import annotations

import multiprocessing
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fulora.diffusion.checkpoints import Checkpoints, State
from fulora.diffusion.finetune import finetune
from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE
from fulora.diffusion.lora_config import LoraConfig

KILLS = 20
LIBRARIES = [
    "fulora.diffusion.finetune", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "bitsandbytes",
    "peft.tuners.lora", "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
]  # fmt: skip
CONFIG = LoraConfig(
    rank=32, num_steps=60, learning_rate=1e-3, resolution_px=32, log_every=7, caption_dropout=0.2,
    targets="transformer", text_encoder_rate=5e-4,
)  # fmt: skip


def train(base: Path, out: Path, checkpoints: Path | None, config: LoraConfig, *, seed: int = 0):
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    captions = ["a photo of fetal brain", "a photo of fetal femur"] * 3
    return finetune(
        base=str(base), pixels=pixels, captions=captions, config=config, seed=seed, out=out, device="cpu",
        heldout=(pixels[:2], captions[:2]), checkpoints=checkpoints, checkpoint_seconds=0.0,
    )  # fmt: skip


def test_killed_at_any_step_it_ends_in_the_same_bytes(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at random times, two trainings side by side until each was killed 10 times; then they are let finish."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # where the killed processes find this module
    # Fresh processes as the killed ones are; the fork server has the libraries loaded, so that a kill costs a second.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    seeds = (0, 1)
    whole = [
        context.Process(
            target=train, args=(small_base, tmp_path / f"whole-{seed}", None, CONFIG), kwargs={"seed": seed}
        )
        for seed in seeds
    ]
    for process in whole:
        process.start()
    for process in whole:
        process.join(120)
        assert process.exitcode == 0
    with ThreadPoolExecutor() as pool:
        steps = list(pool.map(lambda seed: killed(context, small_base, tmp_path, seed, KILLS // len(seeds)), seeds))
    for seed, found in zip(seeds, steps, strict=True):
        assert found == sorted(found) and found[0] > 0
        assert len(set(found)) > len(found) // 2, "the kills came at different steps"
        out, kept = tmp_path / f"out-{seed}", tmp_path / f"kept-{seed}"
        result = train(small_base, out, kept, CONFIG, seed=seed)
        assert found[-1] <= result.resumed_from + 1 and result.resumed_from > 0
        for name in (DIFFUSERS_FILE, KOHYA_FILE):
            assert (out / name).read_bytes() == (tmp_path / f"whole-{seed}" / name).read_bytes()
        assert not kept.exists(), "a finished training leaves no checkpoints"


def killed(context, base: Path, folder: Path, seed: int, kills: int) -> list[int]:
    """Start a training, kill it at a random time, so many times; return the newest checkpoint's step after each."""
    out, kept = folder / f"out-{seed}", folder / f"kept-{seed}"
    rng, steps = random.Random(seed), []
    while len(steps) < kills:
        process = context.Process(target=train, args=(base, out, kept, CONFIG), kwargs={"seed": seed})
        process.start()
        wanted = max(steps, default=0) + rng.choice((0, 1, 2, 3, 4, 5))
        deadline = time.monotonic() + 60
        while process.is_alive() and newest(kept) <= wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)  # anywhere within a step or the writing of a checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -9, "it was killed, and had neither failed nor finished"
        steps.append(newest(kept))
    return steps


def newest(folder: Path) -> int:
    return max((int(file.stem.removeprefix("step-")) for file in folder.glob("step-*.safetensors")), default=0)


@pytest.mark.parametrize("optimizer", ["adam8bit", "adamw"])
def test_stopped_in_the_middle_every_optimizer_goes_on_exactly(
    small_base: Path, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fulora.diffusion.training import LoraTraining

    config = replace(CONFIG, optimizer=optimizer, num_steps=20, rank=8, text_encoder_rate=0.0)
    threads = torch.get_num_threads()
    whole = train(small_base, tmp_path / "whole", None, config)
    step = LoraTraining.step
    # What another training left there, further on than this one gets, is not in its way.
    Checkpoints(tmp_path / "kept", identity="another", every_seconds=0).save(state(1000))
    Checkpoints(tmp_path / "kept", identity="another", every_seconds=0).save(state(2000))

    def stops(self) -> None:
        if self.steps_done == 13:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(LoraTraining, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            train(small_base, tmp_path / "out", tmp_path / "kept", config)
    result = train(small_base, tmp_path / "out", tmp_path / "kept", config)
    torch.set_num_threads(threads)
    assert result.resumed_from == 13
    assert result.adapter_sha256 == whole.adapter_sha256
    without_time = [{key: value for key, value in row.items() if key != "seconds"} for row in result.losses]
    assert without_time == [{key: value for key, value in row.items() if key != "seconds"} for row in whole.losses]


def state(step: int) -> State:
    return State(step, {"a": torch.full((4,), float(step)), "b": torch.arange(3, dtype=torch.uint8)}, {"note": [step]})


def test_the_last_two_are_kept_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept", identity="x", every_seconds=0)
    assert kept.latest() is None and kept.due()
    files = [kept.save(state(step)) for step in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [file.name for file in files[1:]]
    found = kept.latest()
    assert found is not None and found.step == 3 and found.facts == {"note": [3]}
    assert torch.equal(found.tensors["a"], torch.full((4,), 3.0))
    content = files[2].read_bytes()
    changed = bytearray(content)
    changed[-2] ^= 1  # one bit of the numbers: still a readable file
    for torn in (content[: len(content) // 2], content[:-1], b"", bytes(changed)):
        files[2].write_bytes(torn)
        found = kept.latest()
        assert found is not None and found.step == 2
    files[1].write_bytes(b"also torn")
    assert kept.latest() is None


def test_another_trainings_checkpoints_are_not_taken_up(tmp_path: Path) -> None:
    Checkpoints(tmp_path, identity="rank 8", every_seconds=0).save(state(5))
    assert Checkpoints(tmp_path, identity="rank 32").latest() is None
    assert not Checkpoints(tmp_path, identity="rank 8", every_seconds=3600).due()

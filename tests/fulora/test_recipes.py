"""The recipes say what the reference says of the paper, of the released code, and of what one should do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from fulora.recipes import RECIPES

from .help_text import flag_texts

SHARED: dict[str, Any] = {
    "lora.num_steps": 10_000, "lora.learning_rate": 1e-4, "lora.ranks": (8, 32, 128), "lora.alpha": None,
    "lora.resolution_px": 512, "sampling.num_steps": 20, "sampling.images_per_plane": 500, "grid.epochs": 20,
    "grid.batch_size": 24, "grid.learning_rate": 1e-3, "grid.optimizer": "sgd", "sizes.num_spanish": 6148,
    "sizes.num_spanish_hybrid": 1150, "sizes.num_synthetic": 5000,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "paper": {
        "lora.targets": "cross_attention", "lora.init": "gaussian", "lora.batch_size": 2, "lora.clip_skip": None,
        "lora.bucket_step_px": 0, "lora.text_encoder_rate": 0.0, "lora.precision": "fp16", "sampling.clip_skip": None,
        "sampling.unipc_solver": "bh2", "grid.resolution_px": 512, "grid.augmentation.rotation_degrees": 25.0,
        "grid.augmentation.vertical_flip": 0.1, "grid.augmentation.least_crop": 1.0, "grid.num_seeds": 1,
        "grid.keep": "last", "drop_duplicates": False,
    },
    "repo": {
        "lora.targets": "transformer", "lora.init": "kaiming", "lora.batch_size": 1, "lora.clip_skip": 1,
        "lora.bucket_step_px": 64, "lora.text_encoder_rate": 5e-5, "sampling.clip_skip": 1, "sampling.guidance": 7.0,
        "sampling.unipc_solver": "bh1", "sampling.unipc_order": 3, "grid.resolution_px": 224,
        "grid.augmentation.rotation_degrees": 15.0, "grid.augmentation.vertical_flip": 0.0,
        "grid.augmentation.horizontal_flip": 0.5, "grid.augmentation.least_crop": 0.08, "grid.keep": "last",
        "grid.num_seeds": 1, "drop_duplicates": False,
    },
    "fixed": {
        "lora.targets": "all_attention", "lora.init": "gaussian", "lora.batch_size": 2, "lora.clip_skip": None,
        "lora.bucket_step_px": 0, "lora.text_encoder_rate": 0.0, "lora.caption_dropout": 0.1, "lora.snr_gamma": 5.0,
        "grid.resolution_px": 512, "grid.num_seeds": 3, "grid.keep": "best", "grid.validation": "patients",
        "grid.num_validation": 200, "drop_duplicates": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_the_settings_of_a_protocol(name: str) -> None:
    experiment = RECIPES[name]()
    tree = asdict(experiment)
    for path, value in {**SHARED, **OWN[name]}.items():
        found: Any = tree
        for key in path.split("."):
            found = found[key]
        assert found == value, path
    assert experiment.recipe == name
    assert all("needed by the recipe" in text for text in experiment.faults()), "nothing is wrong but the missing data"


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_a_flag_whose_help_says_what_it_means(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.cli import parse_launch

    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_launch([name, "--help"], "run")
    said = flag_texts(capsys.readouterr().out)
    # What names a recipe, and what every trial sets itself, is no flag; the folder of weights has a short one.
    settings = set(leaves(RECIPES[name]())) - {"recipe", "data-required", "lora.rank", "grid.model", "grid.augment"}
    assert {flag for flag in settings if f"--{flag}" not in said} == {"grid.weights"}
    assert "--weights" in said and len(said) > 60
    assert {flag: text for flag, text in said.items() if len(text.split()) < 2} == {}


def leaves(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield the flag of every field of a configuration that is no configuration itself."""
    for field in fields(config):
        value, flag = getattr(config, field.name), prefix + field.name.replace("_", "-")
        yield from leaves(value, f"{flag}.") if is_dataclass(value) else (flag,)


def test_a_best_epoch_needs_images_to_choose_it_on(tmp_path: Path) -> None:
    from dataclasses import replace

    fixed = RECIPES["fixed"]()
    (text,) = replace(fixed, grid=replace(fixed.grid, num_validation=0), spanish=tmp_path, african=tmp_path).faults()
    assert text.startswith("grid.keep")

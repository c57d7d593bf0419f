"""The recipes fit the published tables, themselves and each other, and each setting has a flag with a meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fulora.choices import CHOICES, choices_of
from fulora.data.regimes import HYBRIDS, REGIMES
from fulora.evaluate.published import published_table1, published_table2
from fulora.planes import PLANES
from fulora.recipes import RECIPES

from .help_text import flag_texts

STUDIES = ("paper", "repo", "fixed")
"""Recipes on the published images."""


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_the_rows_and_image_counts_of_the_published_tables(name: str) -> None:
    experiment = RECIPES[name]()
    assert experiment.recipe == name
    assert all("needed by the recipe" in text for text in experiment.validate()), "only the data is missing"
    table1 = published_table1()
    assert {(row["regime"], row["model"]) for row in table1} == set(
        product(experiment.grid.regimes, experiment.grid.models)
    )
    printed = [HYBRIDS.get(regime, regime) for regime in experiment.grid.table2_regimes]
    assert {row["regime"] for row in published_table2()} == set(printed)
    for row in table1:
        regime = REGIMES[str(row["regime"])]
        spanish = {"all": experiment.sizes.num_spanish, "balanced": experiment.sizes.num_spanish_hybrid}[regime.spanish]
        synthetic = experiment.sizes.num_synthetic if regime.synthetic else 0
        assert (row["num_es"], row["num_synthetic"]) == (spanish, synthetic), row["regime"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_images_sampled_are_those_the_hybrid_regime_asks_for(name: str) -> None:
    experiment = RECIPES[name]()
    sampled = experiment.sampling.images_per_plane * len(PLANES) * len(experiment.sampling.samplers)
    assert sampled == experiment.sizes.num_synthetic
    assert experiment.sampling.rank in experiment.lora.ranks


def test_the_released_code_differs_from_the_paper_only_in_how_it_trains_and_samples() -> None:
    """The questions, the amounts of data and the lengths of training are one and the same."""
    paper, repo = (dict(settings(RECIPES[name]())) for name in ("paper", "repo"))
    differs = {key for key in paper if paper[key] != repo[key]}
    assert {key.split(".")[0] for key in differs} == {"recipe", "lora", "sampling", "grid", "embedding"}
    lengths = {"lora.num_steps", "lora.ranks", "lora.learning_rate", "sampling.num_steps", "sampling.images_per_plane",
               "grid.epochs", "grid.models", "grid.regimes", "grid.optimizer", "grid.learning_rate"}  # fmt: skip
    assert lengths <= paper.keys() and not lengths & differs
    text_encoder, buckets = repo["lora.text_encoder_rate"], repo["lora.bucket_step_px"]
    assert text_encoder > 0 == paper["lora.text_encoder_rate"] and buckets > 0 == paper["lora.bucket_step_px"]
    assert repo["lora.clip_skip"] == repo["sampling.clip_skip"], "sampled from the layer it was trained on"


def test_the_corrected_study_tests_on_nothing_it_was_trained_or_chosen_on() -> None:
    paper, fixed = RECIPES["paper"](), RECIPES["fixed"]()
    assert fixed.drop_duplicates and not paper.drop_duplicates
    assert (fixed.grid.keep, fixed.grid.validation) == ("best", "beside") and fixed.grid.num_validation > 0
    assert fixed.grid.num_seeds > paper.grid.num_seeds == 1
    cells = fixed.amounts.cells(fixed.sizes)
    assert {synthetic for kind, real, synthetic in cells if kind == "number"} >= {0, fixed.sizes.num_synthetic}
    assert {real + synthetic for kind, real, synthetic in cells if kind == "share"} == {fixed.amounts.total}


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field of a configuration that is no configuration itself."""
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        yield from settings(value, f"{name}.") if is_dataclass(value) else ((name, value),)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_a_flag_whose_help_says_what_it_means(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.launch import launch_of

    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        launch_of("run", [name, "--help"])
    said = flag_texts(capsys.readouterr().out)
    # What names a recipe, and what every trial sets itself, is no flag; the folder of weights has a short one.
    hidden = {"recipe", "data-required", "lora.rank", "grid.model", "grid.augment"}
    flags = {key.replace("_", "-") for key, _ in settings(RECIPES[name]())} - hidden
    assert {flag for flag in flags if f"--{flag}" not in said} == {"grid.weights"}
    assert "--weights" in said and len(said) > 60
    assert {flag: text for flag, text in said.items() if len(text.split()) < 2} == {}


def test_a_best_epoch_needs_images_to_choose_it_on(tmp_path: Path) -> None:
    from dataclasses import replace

    fixed = RECIPES["fixed"]()
    (text,) = replace(fixed, grid=replace(fixed.grid, num_validation=0), spanish=tmp_path, african=tmp_path).validate()
    assert text.startswith("grid.keep")


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_left_open_stands_in_the_recipe_with_its_choice(name: str) -> None:
    known = dict(settings(RECIPES[name]()))
    for choice in choices_of(name):
        assert choice.said and choice.taken and len({c.topic for c in choices_of(name)}) == len(choices_of(name))
        assert choice.setting is None or known[choice.setting] == choice.value, choice.topic
    said = " ".join(choice.topic + choice.said for choice in choices_of(name))
    for words in ("Euler", "interpolation", "dropout", "one draw of the posterior", "without averaging", "1.0"):
        assert words in said, words
    assert choices_of("fixed") == choices_of("paper") and choices_of("demo") == ()

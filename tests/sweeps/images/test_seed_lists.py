"""Published lists of seeds: which image has which seed, and what a list that cannot be used says."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fulora.diffusion.sampler import SamplingConfig, plan_samples
from fulora.errors import InputError

from .test_sets import CONFIG, images, keys

PUBLISHED = "Image_name,Plane,Train\n" + "".join(
    f"{number:05d}-{first + number},{label},1\n"
    for label, first in (("Fetal abdomen", 100), ("Fetal brain", 200), ("Other", 300), ("Fetal femur", 400),
                         ("Fetal thorax", 500))
    for first, count in ((first, 2), (first + 10, 2), (first + 20, 1), (first + 30, 1))
    for number in range(count)
)  # fmt: skip


def test_a_published_list_of_seeds_is_dealt_to_the_samplers_by_its_runs(tmp_path: Path) -> None:
    file = tmp_path / "seeds.csv"
    file.write_text("\ufeff" + PUBLISHED, encoding="utf-8")
    rows = list(plan_samples(replace(CONFIG, images_per_plane=3, seeds=file), seed=0))
    brain = {s: [r.seed for r in rows if (r.plane, r.sampler) == ("brain", s)] for s in ("euler", "unipc")}
    assert brain == {"euler": [200, 201, 220], "unipc": [210, 211, 230]}
    assert rows == list(plan_samples(replace(CONFIG, images_per_plane=3, seeds=file), seed=9)), "whatever the recipe's"
    with pytest.raises(InputError, match="has 3 seeds for other, euler, and 4 are needed"):
        list(plan_samples(replace(CONFIG, images_per_plane=4, seeds=file), seed=0))


def test_a_set_is_known_by_its_seeds_and_not_by_the_file_they_came_from(tmp_path: Path) -> None:
    file, other = tmp_path / "seeds.csv", tmp_path / "other.csv"
    file.write_text(PUBLISHED)
    other.write_text(PUBLISHED)
    config = replace(CONFIG, images_per_plane=2, seeds=file)
    science, before = images(config).science, keys(images(config))
    assert images(replace(config, seeds=other)).science == science
    assert keys(images(replace(config, seeds=other))) == before
    file.write_text(PUBLISHED.replace("00000-200", "00000-199"))
    assert images(config).science != science, "another list is another set"
    changed = [step for step in images(config).steps if step.key not in before]
    assert {step.config.rows[0].plane for step in changed} == {"brain"} and len(changed) == 2, "the others are kept"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plane,sampler,seed\nbrain,euler,x\n", "has an invalid line 2"),
        ("plane,sampler,seed\nliver,euler,1\n", "plane 'liver' is unknown"),
        ("Image_name,Plane\n00000-7,Other\n00001-x,Other\n", "has an invalid line 3"),
        ("", "has 0 seeds for other, euler"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "seeds.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        list(plan_samples(replace(CONFIG, images_per_plane=1, seeds=file), seed=0))
    with pytest.raises(InputError, match="is not a file"):
        list(plan_samples(replace(CONFIG, seeds=tmp_path / "none.csv"), seed=0))


@pytest.mark.skipif(
    not os.environ.get("FULORA_REAL_DATA"), reason="FULORA_REAL_DATA names no folder with the published lists"
)
def test_the_published_five_thousand() -> None:
    file = Path(os.environ["FULORA_REAL_DATA"]) / "lists" / "synthetic_5000.csv"
    rows = list(plan_samples(SamplingConfig(seeds=file), seed=0))
    assert len(rows) == len({row.seed for row in rows}) == 5000
    first = next(row for row in rows if row.plane == "abdomen")
    assert (first.sampler, first.seed) == ("euler", 2671683618)
    with pytest.raises(InputError, match="has 500 seeds"):
        list(plan_samples(SamplingConfig(seeds=file, images_per_plane=501), seed=0))

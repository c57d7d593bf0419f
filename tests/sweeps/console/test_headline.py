"""What the terminal says of a run's headline: help, harm, neither, or nothing of one training."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sweeps.console.headline import line, print_headline, reading
from sweeps.console.terminal import new_console
from sweeps.core.paths import RunPaths
from sweeps.core.tables import write_table

ROW: dict[str, Any] = {
    "regime": "HB+DA", "reference": "ES+DA", "metric": "recall", "primary": True, "change": 4.24, "low": 1.0,
    "high": 7.5, "significant": True, "covers": "patients and seeds", "num_trainings": 3, "models_collapsed": None,
    "replicates_needed": 9,
}  # fmt: skip
ALONE = {"significant": None, "num_trainings": 1}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "synthetic images help here, over patients and seeds .3 trainings per cell"),
        ({"change": -4.0, "models_collapsed": "ViT b16"}, "harm here.*collapsed: ViT b16"),
        ({"significant": False}, "neither help nor harm is shown over patients and seeds"),
        (ALONE, "variation between trainings is unknown, nothing is claimed; about 9 --replicates"),
        (ALONE | {"replicates_needed": None}, "nothing is claimed$"),
        ({"low": None, "high": None}, "one patient"),
        ({"change": None}, "collapsed to one class"),
    ],
)
def test_the_reading_of_a_difference(changed: dict[str, Any], words: str) -> None:
    assert re.search(words, reading(ROW | changed))


def test_the_endpoint_comes_first_and_fits_a_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, other = RunPaths(tmp_path), ROW | {"metric": "f1", "primary": False, "change": -1.0}
    print_headline(paths, new_console())
    assert capsys.readouterr().out == ""
    write_table(paths.table("headline"), "headline", [other, ROW, other | {"metric": "auc"}])
    print_headline(paths, new_console())
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[1] == "HB+DA - ES+DA, balanced accuracy: +4.2 (95 %: +1.0 to +7.5) (primary endpoint)"
    assert lines[2] == line(other) and lines[3] == reading(ROW) and len(lines) == 4

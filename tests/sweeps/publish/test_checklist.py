"""The reporting checklist answers from a run's files alone, and lists what they cannot answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.publish.answers import ANSWERS
from sweeps.publish.checklist import checklist
from sweeps.publish.guidelines import GUIDELINES


@pytest.fixture(scope="module")
def text(finished: RunPaths) -> str:
    return checklist(finished)


def cells(text: str) -> dict[tuple[str, str], str]:
    """Return the answers by guideline and item."""
    found = {}
    for section in text.split("\n## ")[1:]:
        name = section.split(":")[0]
        for number, answer in re.findall(r"^\| (\d+[a-z]?) \| [^|]+ \| (.*) \|$", section, re.MULTILINE):
            found[name, number] = answer
    return found


def test_items_are_complete_and_every_answer_is_asked_for() -> None:
    assert [item.number for item in GUIDELINES["CLAIM 2024"]] == [str(number) for number in range(1, 45)]
    numbers = [re.sub(r"\D", "", item.number) for item in GUIDELINES["TRIPOD+AI"]]
    assert list(dict.fromkeys(numbers)) == [str(number) for number in range(1, 28)]
    asked = {item.answer for items in GUIDELINES.values() for item in items if item.answer}
    assert asked == set(ANSWERS)


def test_answers_hold_the_runs_own_numbers(text: str, finished: RunPaths) -> None:
    found = cells(text)
    catalog = read_rows(finished.catalog, "catalog")
    test = [r for r in catalog if (r["source"], r["split"]) == ("african", "test")]
    counted = f"{len(test)} images of {len({r['patient_id'] for r in test})} patients"
    assert counted in found["CLAIM 2024", "19"] and counted in found["CLAIM 2024", "35"]
    assert "0 test patients are training patients" in found["CLAIM 2024", "20"]
    gains = {(r["regime"], r["metric"]): r for r in read_rows(finished.table("headline"), "headline")}
    assert f"{gains['HB', 'accuracy']['change']:+.1f} points of accuracy" in found["CLAIM 2024", "37"]
    assert "40 Spanish, 0 African, 0 synthetic" in found["CLAIM 2024", "10"]
    assert "rank 2, 4" in found["CLAIM 2024", "22"] and "MobileNet v2, ResNet18" in found["CLAIM 2024", "22"]
    other = 100 * sum(r["plane"] == "other" for r in catalog if r["source"] == "spanish") / 120
    assert f"Other is {other:.0f} % of the Spanish training images, 0 %" in found["TRIPOD+AI", "13"]
    assert found["CLAIM 2024", "7"] == found["TRIPOD+AI", "5a"] and "phantoms, simulated" in found["CLAIM 2024", "7"]


def test_what_no_file_tells_is_open_and_phantoms_are_said_first(text: str) -> None:
    assert text.index("The images are phantoms") < text.index("## Methods")
    open_items = [line for line in text.splitlines() if line.startswith("Open, for the authors")]
    assert len(open_items) == 2 and "44 funding" in open_items[0] and "17 ethical approval" in open_items[1]
    for section in text.split("\n## ")[3:]:
        name, num, total = re.match(r"(.+): (\d+) of (\d+) items", section).groups()  # type: ignore[union-attr]
        assert len([key for key in cells(text) if key[0] == name]) == int(num) < int(total) == len(GUIDELINES[name])
    methods = text.split("## Methods")[1].split("## ")[0]
    assert "Test: 40 images" in methods and "LoRA: 8 steps" in methods and "None" not in methods


def test_a_run_that_lacks_tables_answers_less(fabricated_run: Callable[[Path], RunPaths], tmp_path: Path) -> None:
    run = fabricated_run(tmp_path / "run")
    whole = cells(checklist(run))
    for name in ("table1", "confusion"):
        run.table(name).unlink()
    less = cells(checklist(run))
    gone = {("CLAIM 2024", "24"), ("CLAIM 2024", "38")}
    assert gone <= set(whole) - set(less) and ("CLAIM 2024", "7") in less


def test_the_command_prints_or_writes_it(finished: RunPaths, text: str, tmp_path: Path, capsys) -> None:
    for words in ([], ["--to", str(tmp_path / "checklist.md")]):
        with pytest.raises(SystemExit) as stop:
            main(["checklist", str(finished.root), *words])
        assert not stop.value.code
    assert capsys.readouterr().out.startswith(text) and (tmp_path / "checklist.md").read_text() == text
    finished_without = RunPaths(tmp_path / "empty")
    finished_without.root.mkdir()
    finished_without.plan.write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(["checklist", str(finished_without.root)])
    assert stop.value.code == 2 and "no catalog.parquet" in capsys.readouterr().err

"""The command `fulora`: its commands, its version, and what it answers where it cannot do what was asked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import fulora
from fulora.cli import COMMANDS, main
from fulora.data.phantoms import PhantomConfig

from .help_text import flag_texts


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "fulora", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fulora {fulora.__version__}\n", "")


def test_an_unknown_command_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "fly")
    assert (code, out) == (2, "")
    assert err == "fulora: unknown command 'fly'; it must be one of phantoms, train-base, audit, fetch\n"
    assert call(capsys)[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_and_explains_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(capsys, name, "--help")
    said = flag_texts(out)
    assert code == 0 and {len(text.split()) > 1 for text in said.values()} == {True}, said
    flags = {
        "phantoms": ["--seed", *(f"--{f.name.replace('_', '-')}" for f in fields(PhantomConfig))],
        "train-base": ["--seed"],
        "audit": ["--source", "--spanish", "--african"],
        "fetch": ["--to", "--api"],
    }
    assert set(said) == {"--help", *flags[name]}


def test_phantoms_are_written_and_audited(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    counts = ["--num-spanish", "5", "--num-african-train", "4", "--num-african-test", "4"]
    code, out, err = call(capsys, "phantoms", str(tmp_path / "p"), *counts)
    assert (code, out) == (0, f"{tmp_path / 'p'}\n"), err
    code, out, err = call(
        capsys, "audit", "--spanish", str(tmp_path / "p/spanish"), "--african", str(tmp_path / "p/african")
    )
    assert (code, out.splitlines()) == (0, ["13 images", "no two have equal or nearly equal pixels"]), err


def test_a_directory_that_is_none_is_refused_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "audit", str(tmp_path / "file"))
    assert code == 2 and "is not a directory" in err
    code, _, err = call(capsys, "audit", str(tmp_path / "nowhere"))
    assert code == 2 and "does not exist" in err
    code, _, err = call(capsys, "audit")
    assert code == 2 and "folder: None is not given" in err

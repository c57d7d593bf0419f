"""The command `fulora`: what needs no Ray.

In: the command line. Out: phantoms on disk, the tiny base made again, an audit of a source's images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fulora.data.phantoms import PhantomConfig
from fulora.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Phantoms:
    """Write phantoms in the two published layouts: DIR/spanish and DIR/african."""

    to: Annotated[Path, tyro.conf.Positional]
    """Folder to write, new or empty."""
    seed: int = 0
    """Equal seeds give equal phantoms."""
    config: Annotated[PhantomConfig, tyro.conf.arg(name="")] = PhantomConfig()
    """How many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBase:
    """Pre-train the tiny base again, as the bundled one was made (about an hour on two cores)."""

    to: Annotated[Path, tyro.conf.Positional]
    """Folder to write, in diffusers' layout."""
    seed: int = 0
    """The bundled weights: 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Print every pair of images of a source with equal pixels; exit 1 where a test image is a training image too."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the source."""
    source: Literal["spanish", "african"] = "african"
    """Which source it is."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 a leak was found, 2 input that cannot be used."""
    verbs: dict[str, Callable[..., Any]] = {"phantoms": Phantoms, "train-base": TrainBase, "audit": Audit}
    words = None if argv is None else list(argv)
    command = tyro.extras.subcommand_cli_from_dict(verbs, prog="fulora", args=words)
    try:
        sys.exit(_do(command))
    except InputError as error:
        print("\n".join(f"fulora: {text}" for text in error.faults), file=sys.stderr)
        sys.exit(2)


def _do(command: Phantoms | TrainBase | Audit) -> int:
    if isinstance(command, Phantoms):
        from fulora.data.phantoms import write_phantoms

        write_phantoms(command.to, command.config, seed=command.seed)
        print(command.to)
        return 0
    if isinstance(command, TrainBase):
        from fulora.diffusion.tiny import train_tiny

        train_tiny(command.to, seed=command.seed, on_log=_print_row)
        return 0
    return _audit(command)


def _print_row(row: dict[str, float | str]) -> None:
    print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def _audit(command: Audit) -> int:
    from fulora.data.audit import find_duplicates
    from fulora.data.sources import read_source

    records = read_source(command.folder, source=command.source)
    pairs = find_duplicates(records)
    for pair in pairs:
        print(f"{pair.image_a} ({pair.split_a}, {pair.patient_a}) = {pair.image_b} ({pair.split_b}, {pair.patient_b})")
    leaks = sum({pair.split_a, pair.split_b} == {"train", "test"} for pair in pairs)
    print(f"{len(records)} images, {len(pairs)} pairs with equal pixels, {leaks} of a training and a test image")
    return 1 if leaks else 0

"""The command `fulora`: what needs no Ray.

In: the command line. Out: the published images or phantoms on disk, the tiny base made again, an audit of a source.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fulora.data.phantoms import PhantomConfig
from fulora.data.sources import ReadSource
from fulora.errors import InputError, fault, raise_if_any


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
    """Print every pair of images with equal or nearly equal pixels, within and across sources.

    Exit 1 where a test image is a training image too. Name one folder, or both sources by --spanish and --african.
    """

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of the source that --source names."""
    source: Literal["spanish", "african"] = "african"
    """Which source FOLDER is."""
    spanish: Path | None = None
    """Folder of the Spanish images, beside or instead of FOLDER."""
    african: Path | None = None
    """Folder of the African images, beside or instead of FOLDER."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """Download the published images from Zenodo into DIR/spanish (2 GB) and DIR/african (41 MB), checked and unpacked.

    What is there is left as it is; what was cut off goes on.
    """

    sources: Annotated[tuple[Literal["spanish", "african"], ...], tyro.conf.Positional]
    """Which of the two, or both."""
    to: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder that gets one folder per source."""
    api: str = "https://zenodo.org/api/records"
    """Address of the record API, where a mirror is to be asked."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 a leak was found, 2 what was asked for cannot be had."""
    verbs: dict[str, Callable[..., Any]] = {
        "phantoms": Phantoms,
        "train-base": TrainBase,
        "audit": Audit,
        "fetch": Fetch,
    }
    words = None if argv is None else list(argv)
    command = tyro.extras.subcommand_cli_from_dict(verbs, prog="fulora", args=words)
    try:
        sys.exit(_do(command))
    except InputError as error:
        print("\n".join(f"fulora: {text}" for text in error.faults), file=sys.stderr)
        sys.exit(2)


def _do(command: Phantoms | TrainBase | Audit | Fetch) -> int:
    if isinstance(command, Phantoms):
        from fulora.data.phantoms import write_phantoms

        write_phantoms(command.to, command.config, seed=command.seed)
        print(command.to)
        return 0
    if isinstance(command, TrainBase):
        from fulora.diffusion.tiny import train_tiny

        train_tiny(command.to, seed=command.seed, on_log=_print_row)
        return 0
    if isinstance(command, Fetch):
        return _fetch(command)
    return _audit(command)


def _print_row(row: dict[str, float | str]) -> None:
    print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def _audit(command: Audit) -> int:
    from fulora.data.audit import describe_pairs, find_duplicates, patients_on_both_sides
    from fulora.data.sources import read_source

    records = [r for source, folder in _folders(command) for r in read_source(folder, source=source)]
    pairs = find_duplicates(records)
    for pair in pairs:
        sign, end = ("=", "") if pair.kind == "pixels" else ("~", f", {pair.distance} bits apart")
        first = f"{pair.image_a} ({pair.set_a}, {pair.patient_a})"
        print(f"{first} {sign} {pair.image_b} ({pair.set_b}, {pair.patient_b}){end}")
    print(
        "\n".join([f"{len(records)} images", *(describe_pairs(pairs) or ["no two have equal or nearly equal pixels"])])
    )
    both = patients_on_both_sides(records)
    if both:
        print(f"patients with images to train on and to test on: {', '.join(both)}")
    return 1 if both or any(pair.leak for pair in pairs) else 0


def _folders(command: Audit) -> list[tuple[ReadSource, Path]]:
    """Return the sources to audit and their folders. Raises InputError where there is none, or one of them twice."""
    named: list[tuple[ReadSource, Path | None]] = [
        (command.source, command.folder), ("spanish", command.spanish), ("african", command.african)
    ]  # fmt: skip
    given = [(source, folder) for source, folder in named if folder is not None]
    if not given:
        raise InputError(fault("folder", None, "is not given", "Give FOLDER, --spanish DIR, --african DIR or both."))
    if len({source for source, _ in given}) < len(given):
        twice = f"is given twice, by --{command.source} too"
        raise InputError(fault("folder", str(command.folder), twice, "Say by --source which source FOLDER is."))
    return given


def _fetch(command: Fetch) -> int:
    from fulora.data.fetch import fetch

    if not command.sources:
        raise InputError(fault("sources", "", "names none", "Give spanish, african or both."))
    faults: list[str] = []
    with ExitStack() as stack:
        progress = stack.enter_context(_Bars()) if sys.stderr.isatty() else _Lines()
        for source in dict.fromkeys(command.sources):
            try:
                done = fetch(source, command.to, api=command.api, progress=progress)
            except InputError as error:  # the other source is fetched all the same
                faults += (f"{source}: {text}" for text in error.faults)
            except KeyboardInterrupt:
                progress.say(f"{source}: stopped. The same command goes on from here.")
                return 130
            else:
                did = "already there" if done.was_there else "unpacked, checked and complete; the archive is deleted"
                progress.say(f"{source}: {did}: {done.num_files} files")
                print(done.folder, flush=True)
    raise_if_any(faults)
    return 0


class _Lines:
    """What a download does, in plain lines: each stage's end, and every ten seconds how far it is."""

    def __init__(self) -> None:
        self.spoke = time.monotonic()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def moved(self, what: str, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if done_bytes >= total_bytes or now - self.spoke >= 10.0:
            self.spoke = now
            self.say(f"  {what}: {done_bytes / 1e6:.1f} of {total_bytes / 1e6:.1f} MB")


class _Bars:
    """The same on a terminal: a bar per stage, with speed and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        self.bars.console.print(text, markup=False)

    def moved(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if what not in self.tasks:
            # What an earlier call brought is no speed of this one.
            self.tasks[what] = self.bars.add_task(what, total=total_bytes, completed=done_bytes)
        self.bars.update(self.tasks[what], completed=done_bytes)

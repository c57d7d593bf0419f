"""The command `fulora`: the published images, phantoms, the bundled base and the duplicate audit. Needs no Ray.

Each command is a dataclass, its fields the arguments; `tyro` makes the command line from them.
Exit codes: 0 done; 1 duplicates leak test images into training; 2 input that cannot be used; 130 stopped with Ctrl-C.
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

from fulora import __version__
from fulora.data.phantoms import PhantomConfig
from fulora.data.sources import ReadSource
from fulora.errors import InputError, fault, raise_if_any


@dataclass(frozen=True, kw_only=True, slots=True)
class Phantoms:
    """Write simulated ultrasound images in the two published layouts: DIR/spanish and DIR/african."""

    to: Annotated[Path, tyro.conf.arg(metavar="DIR"), tyro.conf.Positional]
    """Directory to write; new or empty."""
    seed: int = 0
    """Random seed; the same seed gives the same images."""
    config: Annotated[PhantomConfig, tyro.conf.arg(name="")] = PhantomConfig()
    """Number of images."""

    def run(self) -> int:
        """Write the images, print the directory and return the exit code."""
        from fulora.data.phantoms import write_phantoms

        write_phantoms(self.to, self.config, seed=self.seed)
        print(self.to)
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBase:
    """Train the bundled tiny base from scratch again (about an hour on two cores)."""

    to: Annotated[Path, tyro.conf.arg(metavar="DIR"), tyro.conf.Positional]
    """Directory to write, in the layout of diffusers."""
    seed: int = 0
    """Random seed; the bundled weights are of seed 0."""

    def run(self) -> int:
        """Train, print the losses and return the exit code."""
        from fulora.diffusion.tiny import train_tiny

        train_tiny(self.to, seed=self.seed, on_log=_print_row)
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Print every pair of images with equal or nearly equal pixels, within and across sources.

    Exit code 1 where a test image is also a training image. Give one directory, or both sources by --spanish and
    --african.
    """

    folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER"), tyro.conf.Positional] = None
    """Directory of the source that --source names."""
    source: Literal["spanish", "african"] = "african"
    """Source of the images in FOLDER."""
    spanish: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory of the Spanish images, in addition to or instead of FOLDER."""
    african: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory of the African images, in addition to or instead of FOLDER."""

    def run(self) -> int:
        """Print the pairs and return the exit code, 1 for a leak."""
        from fulora.data.audit import describe_pairs, find_duplicates, patients_on_both_sides
        from fulora.data.sources import read_source

        records = [record for source, folder in self._folders() for record in read_source(folder, source=source)]
        pairs = find_duplicates(records)
        for pair in pairs:
            sign, end = ("=", "") if pair.kind == "pixels" else ("~", f", {pair.distance} bits apart")
            first = f"{pair.image_a} ({pair.set_a}, {pair.patient_a})"
            print(f"{first} {sign} {pair.image_b} ({pair.set_b}, {pair.patient_b}){end}")
        summary = describe_pairs(pairs) or ["no two have equal or nearly equal pixels"]
        print("\n".join([f"{len(records)} images", *summary]))
        both = patients_on_both_sides(records)
        if both:
            print(f"patients with images in both the training and the test split: {', '.join(both)}")
        return 1 if both or any(pair.leak for pair in pairs) else 0

    def _folders(self) -> list[tuple[ReadSource, Path]]:
        """Return the sources to audit and their directories. Raises InputError for none, or one given twice."""
        named: list[tuple[ReadSource, Path | None]] = [
            (self.source, self.folder), ("spanish", self.spanish), ("african", self.african)
        ]  # fmt: skip
        given = [(source, folder) for source, folder in named if folder is not None]
        if not given:
            raise InputError(fault("folder", None, "is not given", "Give FOLDER, --spanish DIR or --african DIR."))
        if len({source for source, _ in given}) < len(given):
            twice = f"is given twice, by --{self.source} too"
            raise InputError(fault("folder", str(self.folder), twice, "Name the source of FOLDER by --source."))
        return given


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """Download the published images from Zenodo into DIR/spanish (2 GB) and DIR/african (41 MB), verified and unpacked.

    A complete source is not downloaded again; an interrupted download is resumed.
    """

    sources: Annotated[tuple[Literal["spanish", "african"], ...], tyro.conf.Positional]
    """One source or both."""
    to: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Directory that gets one subdirectory per source."""
    api: str = "https://zenodo.org/api/records"
    """Address of the record API; change it to use a mirror."""

    def run(self) -> int:
        """Fetch each source and return the exit code. Raises InputError with the faults of all sources."""
        from fulora.data.fetch import fetch

        if not self.sources:
            raise InputError(fault("sources", "", "is empty", "Give spanish, african or both."))
        faults: list[str] = []
        with ExitStack() as stack:
            progress = stack.enter_context(_Bars()) if sys.stderr.isatty() else _Lines()
            for source in dict.fromkeys(self.sources):
                try:
                    done = fetch(source, self.to, api=self.api, progress=progress)
                except InputError as error:  # the other source is fetched all the same
                    faults += (f"{source}: {text}" for text in error.faults)
                except KeyboardInterrupt:
                    progress.say(f"{source}: stopped; run the same command again to resume")
                    return 130
                else:
                    did = "already complete" if done.was_there else "unpacked, verified and complete; archive deleted"
                    progress.say(f"{source}: {did}: {done.num_files} files")
                    print(done.folder, flush=True)
        raise_if_any(faults)
        return 0


COMMANDS: dict[str, Callable[..., Any]] = {
    "phantoms": Phantoms,
    "train-base": TrainBase,
    "audit": Audit,
    "fetch": Fetch,
}
"""Every command by name."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line (`sys.argv` where none is given) and exit with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"fulora {__version__}")
        sys.exit(0)
    try:
        if words and not words[0].startswith("-") and words[0] not in COMMANDS:
            raise InputError(f"unknown command {words[0]!r}; it must be one of {', '.join(COMMANDS)}")
        about = "Data and base model of FU-LoRA studies. `fulora --version` prints the version."
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="fulora", description=about, args=words)
        sys.exit(command.run())
    except InputError as error:
        print("\n".join(f"fulora: {text}" for text in error.faults), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fulora: stopped", file=sys.stderr)
        sys.exit(130)


def _print_row(row: dict[str, float | str]) -> None:
    """Print a row of training losses."""
    print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


class _Lines:
    """Progress of downloads as plain lines: the end of each stage, and the bytes done every ten seconds."""

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
    """Progress of downloads on a terminal: a bar per stage, with speed and time left."""

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
            # Bytes that an earlier call downloaded do not count as speed.
            self.tasks[what] = self.bars.add_task(what, total=total_bytes, completed=done_bytes)
        self.bars.update(self.tasks[what], completed=done_bytes)

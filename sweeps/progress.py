"""What a person sees while a run goes on: live bars on a terminal, plain lines elsewhere.

In: events of a stage. Out: text on standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Takes the events of a run."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def begin(self, stage: str, total: int, unit: str) -> None:
        """A stage starts; `total` units are to be done."""

    def running(self, label: str, fraction: float, note: str) -> None:
        """A trial is under way: 0 to 1, and its last figures."""

    def finished(self, label: str, note: str, failed: bool = False) -> None:
        """A trial ended: one unit done."""

    def advance(self, count: int) -> None:
        """Units done that are no trials, such as images."""

    def end(self) -> None:
        """The stage is over."""


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None: ...
    def begin(self, stage: str, total: int, unit: str) -> None: ...
    def running(self, label: str, fraction: float, note: str) -> None: ...
    def finished(self, label: str, note: str, failed: bool = False) -> None: ...
    def advance(self, count: int) -> None: ...
    def end(self) -> None: ...


class PlainLines:
    """One line per event that matters, and at most one every `every` seconds for counts."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, stage: str, total: int, unit: str) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done, self.began, self.spoke = 0, time.monotonic(), time.monotonic()
        self.say(f"{stage}: {total} {unit}")

    def running(self, label: str, fraction: float, note: str) -> None:
        if fraction and time.monotonic() - self.spoke >= self.every:
            self.spoke = time.monotonic()
            self.say(f"  {label}: {fraction:.0%} {note}")

    def finished(self, label: str, note: str, failed: bool = False) -> None:
        self.done += 1
        self.say(f"  [{self.done}/{self.total}] {label}: {'FAILED, ' if failed else ''}{note}")

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.spoke >= self.every or self.done >= self.total:
            self.spoke = now
            rate = self.done / max(now - self.began, 1e-9)
            left = (self.total - self.done) / rate if rate else 0.0
            self.say(f"  {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {_clock(left)} left")

    def end(self) -> None:
        self.say(f"{self.stage}: {_clock(time.monotonic() - self.began)}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class LiveBars:
    """A bar per stage and per trial under way, with rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        self.tasks: dict[str, int] = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def begin(self, stage: str, total: int, unit: str) -> None:
        self.stage, self.unit, self.total = stage, unit, total
        self.began, self.done = time.monotonic(), 0
        self.bars.start()
        self.whole = self.bars.add_task(f"[bold]{stage}", total=max(total, 1), note=f"0/{total} {unit}")

    def running(self, label: str, fraction: float, note: str) -> None:
        if label not in self.tasks:
            self.tasks[label] = self.bars.add_task("  " + _cut(label, 26), total=1.0, note="")
        self.bars.update(self.tasks[label], completed=fraction, note=_cut(note, 24))  # type: ignore[arg-type]

    def finished(self, label: str, note: str, failed: bool = False) -> None:
        from rich.markup import escape

        if label in self.tasks:
            self.bars.remove_task(self.tasks.pop(label))  # type: ignore[arg-type]
        mark = "[red]failed[/]" if failed else "[green]done[/]"
        # In one print: beside live bars, a second one starts over the first.
        self.console.print(f"  {mark} {escape(label)}[dim]: {escape(note)}[/]")
        self.advance(1)

    def advance(self, count: int) -> None:
        self.done += count
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        speed = f", {rate:.1f}/s" if self.unit == "images" else ""
        self.bars.update(self.whole, completed=self.done, note=f"{self.done}/{self.total} {self.unit}{speed}")

    def end(self) -> None:
        for task in [self.whole, *self.tasks.values()]:
            self.bars.remove_task(task)  # type: ignore[arg-type]
        self.tasks.clear()
        self.bars.stop()
        self.say(f"{self.stage}: {self.done} {self.unit} in {_clock(time.monotonic() - self.began)}")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def for_this_terminal() -> Progress:
    """Return live bars where standard error is a terminal, else plain lines."""
    return LiveBars() if sys.stderr.isatty() else PlainLines()


@contextmanager
def shown(progress: Progress, stage: str, total: int, unit: str) -> Iterator[None]:
    """Show a stage for as long as the block runs, and leave the terminal whole however it ends."""
    progress.begin(stage, total, unit)
    try:
        yield
    finally:
        progress.end()

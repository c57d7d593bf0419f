"""What a person sees while a run goes on: live bars on a terminal, plain lines elsewhere, and now.json for `status`.

In: the events of an executor. Out: text on standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from sweeps.console.outlook import Outlook
from sweeps.console.words import clock, summary
from sweeps.core.attempts import Attempt
from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step

_NOW_EVERY = 1.0
"""Seconds between two versions of now.json."""


class Progress(Protocol):
    """Shows how a run goes on."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def begin(self, num_steps: int, num_images: int) -> None:
        """So many steps are to be done, and so many images drawn."""

    def running(self, label: str, fraction: float, note: str) -> None:
        """A step is under way: 0 to 1, and its last figures."""

    def finished(self, label: str, note: str, failed: bool = False, counts: bool = True) -> None:
        """A step ended; it does not count where it did before, or is one of many that draw images."""

    def drawn(self, num_images: int) -> None:
        """Images were drawn."""

    def to_go(self, words: str) -> None:
        """Time and cost to go."""

    def end(self) -> None:
        """Nothing more can be done."""


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None: ...
    def begin(self, num_steps: int, num_images: int) -> None: ...
    def running(self, label: str, fraction: float, note: str) -> None: ...
    def finished(self, label: str, note: str, failed: bool = False, counts: bool = True) -> None: ...
    def drawn(self, num_images: int) -> None: ...
    def to_go(self, words: str) -> None: ...
    def end(self) -> None: ...


class PlainLines:
    """One line per step that ended, and at most one every `every` seconds for what is under way."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, num_steps: int, num_images: int) -> None:
        self.num_steps, self.num_images = num_steps, num_images
        self.done = self.images = 0
        self.spoke = self.spoke_of_images = self.spoke_of_end = time.monotonic()
        self.first_image: float | None = None

    def running(self, label: str, fraction: float, note: str) -> None:
        if fraction and time.monotonic() - self.spoke >= self.every:
            self.spoke = time.monotonic()
            self.say(f"  {label}: {fraction:.0%} {note}")

    def finished(self, label: str, note: str, failed: bool = False, counts: bool = True) -> None:
        self.done += counts
        number = f"[{self.done}/{self.num_steps}] " if counts else ""
        self.say(f"  {number}{label}: {'FAILED, ' if failed else ''}{note}")

    def drawn(self, num_images: int) -> None:
        now = time.monotonic()
        if self.first_image is None:  # loading a model is no part of the rate
            self.first_image, self.before_rate = now, num_images
        self.images += num_images
        if now - self.spoke_of_images >= self.every or self.images >= self.num_images:
            self.spoke_of_images = now
            seconds = now - self.first_image
            rate = (self.images - self.before_rate) / seconds if seconds > 0 else 0.0
            left = f", {rate:.1f}/s, {clock((self.num_images - self.images) / rate)} left" if rate else ""
            self.say(f"  {self.images}/{self.num_images} images{left}")

    def to_go(self, words: str) -> None:
        if time.monotonic() - self.spoke_of_end >= 6 * self.every:
            self.spoke_of_end = time.monotonic()
            self.say(f"  {words}")

    def end(self) -> None: ...


class LiveBars:
    """A bar for the whole, one for the images, one per step under way, with time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True, highlight=False)
        self.columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
        ]
        self.make, self.tasks = Bars, dict[str, Any]()
        self.bars: Any = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def begin(self, num_steps: int, num_images: int) -> None:
        self.num_steps, self.num_images, self.done, self.images = num_steps, num_images, 0, 0
        self.bars = self.make(*self.columns, console=self.console)
        self.bars.start()
        self.whole = self.bars.add_task("[bold]steps", total=max(num_steps, 1), note=f"0/{num_steps}")
        if num_images:
            self.of_images = self.bars.add_task("[bold]images", total=num_images, note=f"0/{num_images}")

    def running(self, label: str, fraction: float, note: str) -> None:
        if self.bars is None:
            return
        if label not in self.tasks:
            self.tasks[label] = self.bars.add_task("  " + _cut(label, 26), total=1.0, note="")
        self.bars.update(self.tasks[label], completed=fraction, note=_cut(note, 24))

    def finished(self, label: str, note: str, failed: bool = False, counts: bool = True) -> None:
        from rich.markup import escape

        self.done += counts
        if self.bars is not None:
            if label in self.tasks:
                self.bars.remove_task(self.tasks.pop(label))
            self.bars.update(self.whole, completed=self.done, note=f"{self.done}/{self.num_steps}")
        mark = "[red]failed[/]" if failed else "[green]done[/]"
        # In one print: beside live bars, a second one starts over the first.
        self.console.print(f"  {mark} {escape(label)}[dim]: {escape(note)}[/]")

    def drawn(self, num_images: int) -> None:
        self.images += num_images
        if self.bars is not None:
            self.bars.update(self.of_images, completed=self.images, note=f"{self.images}/{self.num_images}")

    def to_go(self, words: str) -> None:
        if self.bars is not None:
            self.bars.update(self.whole, note=f"{self.done}/{self.num_steps} {words}")

    def end(self) -> None:
        if self.bars is not None:
            for task in list(self.bars.task_ids):
                self.bars.remove_task(task)
            self.bars.stop()
        self.bars = None
        self.tasks.clear()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def for_this_terminal() -> Progress:
    """Return live bars where standard error is a terminal, else plain lines."""
    return LiveBars() if sys.stderr.isatty() else PlainLines()


class Shown:
    """Passes an executor's events to the display, and keeps now.json, from which `sweeps status` tells what runs."""

    def __init__(self, progress: Progress, paths: RunPaths) -> None:
        self.display, self.paths = progress, paths
        self.notes: list[str] = []
        """What the executor said of the cluster."""
        self._running: dict[str, dict[str, Any]] = {}
        self._counted: set[str] = set()
        self._num_steps = self._num_done = 0
        self._wrote = 0.0
        self.outlook: Outlook | None = None
        """What is known of time and cost to go; None: nothing."""

    def begin(self, steps: Sequence[Step], outlook: Outlook | None = None) -> None:
        """Start with the steps to do."""
        self.outlook = outlook
        shards = [step for step in steps if step.kind.is_shard]
        self._num_steps, self._num_done = len(steps), 0
        self._counted.clear()
        self.display.begin(len(steps) - len(shards), sum(len(step.config.rows) for step in shards))
        self.write_now()

    def begin_work(self, num_steps: int) -> None:
        """Start with work that is no graph: candidates of a search, or images alone."""
        self._num_steps, self._num_done, self.outlook, self._images_known = num_steps, 0, None, False
        if num_steps:
            self.display.begin(num_steps, 0)

    def drawn(self, num_images: int, in_all: int) -> None:
        """Note images drawn at another place, of `in_all`."""
        if not self._images_known:
            self._images_known = True
            self.display.begin(0, in_all)
        self.display.drawn(num_images)

    def end(self) -> None:
        """Stop showing."""
        self.display.end()
        self._running.clear()
        self.paths.now.unlink(missing_ok=True)

    def started(self, step: Step) -> None:
        """See `sweeps.core.execution.Watch`."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._running[step.key] = {
            "label": step.label, "kind": step.kind.name, "fraction": 0.0, "note": "", "started_at": started_at
        }  # fmt: skip
        if not step.kind.is_shard:
            self.display.running(step.label, 0.0, "")
        self._write()

    def placed(self, step: Step, where: Mapping[str, str | None]) -> None:
        """See `sweeps.core.execution.Watch`."""
        if step.key in self._running:
            gpus = where.get("gpu_ids")
            self._running[step.key] |= {"node": where.get("node"), "device": f"GPU {gpus}" if gpus else "CPU"}

    def progress(self, step: Step, fraction: float, note: str) -> None:
        """See `sweeps.core.execution.Watch`."""
        if step.key in self._running:
            self._running[step.key] |= {"fraction": fraction, "note": note}
        if not step.kind.is_shard:
            self.display.running(step.label, fraction, note)
        self._write()

    def ended(self, step: Step, attempt: Attempt) -> None:
        """See `sweeps.core.execution.Watch`."""
        self._running.pop(step.key, None)
        if self.outlook is not None:
            self.outlook.ended(step, attempt)
        if attempt.status == "SUCCEEDED":
            self._num_done += 1
            if step.kind.is_shard:
                self.display.drawn(len(step.config.rows))
        for note in attempt.notes:
            self.display.say(f"note: {note}")
        if not step.kind.is_shard or attempt.status == "FAILED":
            failed = attempt.status not in ("SUCCEEDED", "PRUNED")
            counts = not step.kind.is_shard and step.key not in self._counted  # once, however often it is retried
            self._counted.add(step.key)
            self.display.finished(step.label, summary(attempt), failed=failed, counts=counts)
        self._write()

    def say(self, text: str) -> None:
        """See `sweeps.core.execution.Watch`."""
        if "GiB" in text:
            self.notes.append(text)
        self.display.say(f"note: {text}")

    def _write(self) -> None:
        if time.monotonic() - self._wrote >= _NOW_EVERY:
            self.write_now()

    def write_now(self) -> None:
        """Write now.json."""
        self._wrote = time.monotonic()
        about = {} if self.outlook is None else self.outlook.facts(self._running)
        if self.outlook is not None and self.outlook.words:
            self.display.to_go(self.outlook.words)
        write_json(
            self.paths.now,
            {
                "updated_at": datetime.now(UTC).isoformat(timespec="seconds"), "num_done": self._num_done,
                "num_steps": self._num_steps, "seconds_left": None, **about, "running": list(self._running.values()),
            },
        )  # fmt: skip

"""What each command does: the shell between the command line and the project.

In: parsed flags. Out: exit codes; results on standard output.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fulora.errors import InputError, fault
from sweeps.launch import Launch, LoraLaunch, PlanLaunch, SampleLaunch

if TYPE_CHECKING:
    from sweeps.core.attempts import Attempt
    from sweeps.core.paths import RunPaths
    from sweeps.core.step import Stage

RunFolder = Annotated[Path, tyro.conf.Positional]


def run_to(until: Stage) -> Callable[[Launch], int]:
    """Return the command that runs a study up to a stage."""

    def act(launch: Launch) -> int:
        from sweeps.console.progress import for_this_terminal
        from sweeps.core.paths import RunPaths
        from sweeps.run import run

        paths = RunPaths(launch.folder)
        failed = run(
            launch.experiment, paths, options=launch.cluster, progress=for_this_terminal(), until=until
        )  # fmt: skip
        return _outcome(paths, until, failed)

    return act


def _outcome(paths: RunPaths, until: str, failed: Sequence[Attempt]) -> int:
    from sweeps.console.terminal import print_outcome
    from sweeps.core.gpu_hours import LIMIT_REACHED

    print_outcome(paths, until)
    blocked: dict[str, list[str]] = {}
    if left := [a for a in failed if a.error_type == LIMIT_REACHED]:
        kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(a.stage for a in left).items())
        print(f"sweeps: {left[0].error_message}; not started: {kinds}", file=sys.stderr)
    for attempt in failed:
        if attempt.error_type == LIMIT_REACHED:
            continue
        if attempt.status == "BLOCKED":
            blocked.setdefault(str(attempt.error_message), []).append(attempt.label)
            continue
        words = f"{attempt.error_type}: {attempt.error_message}" if attempt.error_type else attempt.status.lower()
        verdict = "was cancelled" if attempt.status == "CANCELLED" else "failed"
        print(f"sweeps: {attempt.label} {verdict}: {words}", file=sys.stderr)
    for cause, (first, *others) in blocked.items():
        who = f"{first!r} and {len(others)} more are" if others else f"{first!r} is"
        print(f"sweeps: {who} blocked: {cause}", file=sys.stderr)
    if left:
        print("sweeps: the same command with a higher --max-gpu-hours does what is left", file=sys.stderr)
    elif failed:
        print("sweeps: run the same command again to retry what failed", file=sys.stderr)
    return 1 if failed else 0


def lora(launch: LoraLaunch) -> int:
    """Train the rank sweep, or search."""
    if launch.search == "none":
        return run_to("lora")(launch)
    from sweeps.console.progress import for_this_terminal
    from sweeps.core.paths import RunPaths
    from sweeps.elsewhere import search

    paths = RunPaths(launch.folder)
    failed = search(launch.experiment, launch.space, paths, options=launch.cluster, progress=for_this_terminal())
    return _outcome(paths, "search", failed)


def sample(launch: SampleLaunch) -> int:
    """Draw the images of a study, or a set at another place."""
    if launch.to is None:
        return run_to("sample")(launch)
    from sweeps.console.progress import for_this_terminal
    from sweeps.core.paths import RunPaths
    from sweeps.elsewhere import draw_elsewhere
    from sweeps.images.destination import Destination
    from sweeps.images.elsewhere import DrawingFailed

    address = launch.to if "://" in launch.to else str(Path(launch.to).expanduser().resolve())
    destination = Destination(address=address, form=launch.to_form)
    paths, progress = RunPaths(launch.folder), for_this_terminal()
    try:
        draw_elsewhere(launch.experiment, paths, destination, options=launch.cluster, progress=progress)
    except DrawingFailed as error:
        print(f"sweeps: {error}\nRun the same command again to retry what failed.", file=sys.stderr)
        return 1
    print(destination)
    return 0


def plan(launch: PlanLaunch) -> int:
    """Print the plan of a study, and what it would cost where that is asked for."""
    from sweeps.console.status import print_plan

    experiment, place = launch.experiment, launch.place
    if not launch.json:
        print_plan(experiment, launch.folder)
    if launch.json or place.measure or (place.gpus, place.gpu, launch.cluster.price) != (None, None, None):
        from sweeps.console.cost import print_cost, to_json
        from sweeps.console.terminal import new_console
        from sweeps.forecast import forecast

        cost = forecast(experiment, launch.folder, place, launch.cluster, _to_stderr)
        print(to_json(cost)) if launch.json else print_cost(cost, new_console())
    else:
        print("--gpus 8 --gpu H100 --price 2.5, or --measure, says what it would cost")
    return 0


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Print what a run has done, what runs now, and what is missing."""

    run: RunFolder
    """Directory of the run, such as runs/demo; with --address the id of its job."""
    follow: bool = False
    """Print it again every two seconds while the run goes on."""
    address: str | None = None
    """Address of the job server (http://HOST:8265) of the cluster that runs it, submitted with --detach."""

    def act(self) -> int:
        """Print it."""
        from sweeps.console.status import print_status

        if self.address is not None:
            from sweeps.remote import print_status as print_status_of_job

            print_status_of_job(str(self.run), self.address)
            return 0
        print_status(existing(self.run), follow=self.follow)
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteReport:
    """Write a run's report again from its files."""

    run: RunFolder
    """Directory of the run, such as runs/demo."""

    def act(self) -> int:
        """Write it, and print its path."""
        from sweeps.core.files import remove
        from sweeps.report import write_report

        paths = existing(self.run)
        if paths.figures.is_symlink():  # the figures of a step, which stay as they are
            remove(paths.figures)
        print(write_report(paths, paths.root))
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Copy a run's tables to a directory."""

    run: RunFolder
    """Directory of the run, such as runs/demo."""
    to: Path
    """Directory to write to; results/NAME is the place for what is kept."""
    format: tuple[Literal["parquet", "csv", "markdown", "latex"], ...] = ("parquet", "csv", "markdown")
    """Formats to write."""

    def act(self) -> int:
        """Copy them, and print their paths."""
        from sweeps.core.files import check_writable
        from sweeps.publish.export import export

        check_writable(self.to, "to")
        for file in export(existing(self.run), self.to, self.format):
            print(file)
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """Print a run beside the paper's Tables 1 and 2, and which published figures are inconsistent."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Directory of the run, such as runs/demo."""
    metric: tuple[Literal["accuracy", "recall", "precision", "f1", "auc"], ...] = ("accuracy", "f1")
    """Scores to print; all are written to the run's tables/compare.parquet."""
    paper_to: Path | None = None
    """Write the paper's own tables, as printed and with the result of the consistency check, to this directory."""

    def act(self) -> int:
        """Print the comparison."""
        from sweeps.console.terminal import print_comparison
        from sweeps.publish.paper import compare, write_published

        if self.run is None and self.paper_to is None:
            remedy = "Name the directory of a run, or --paper-to DIR without one."
            raise InputError(fault("run", None, "is not given", remedy))
        for file in [] if self.paper_to is None else write_published(self.paper_to):
            print(file)
        if self.run is not None:
            print_comparison(compare(existing(self.run)), self.metric)
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Checklist:
    """Print the items of CLAIM 2024 and TRIPOD+AI that a run answers from its files, and a methods paragraph."""

    run: RunFolder
    """Directory of the run, such as runs/demo."""
    to: Path | None = None
    """File to write the Markdown to (default: standard output)."""

    def act(self) -> int:
        """Print or write it."""
        from sweeps.core.files import atomic_path
        from sweeps.publish.checklist import checklist

        text = checklist(existing(self.run))
        if self.to is None:
            print(text)
            return 0
        with atomic_path(self.to) as beside:
            beside.write_text(text)
        print(self.to)
        return 0


def existing(folder: Path) -> RunPaths:
    """Return the files of a run. Raises InputError where a directory holds none."""
    from sweeps.core.paths import RunPaths

    paths = RunPaths(folder.expanduser().resolve())
    if not paths.plan.is_file():
        rule, remedy = "is not a run: it has no plan.json", "Name the directory given as --out."
        raise InputError(fault("run", str(folder), rule, remedy))
    return paths


def help_of(text: str) -> type[Any]:
    """Return a command without flags for the list of commands: those with a recipe make their own parser."""
    found = make_dataclass("Recipe", [])
    found.__doc__ = text
    return found

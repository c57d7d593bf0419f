"""The command `sweeps`: run, plan, status, report, export, push, and one verb per stage.

In: the command line, made from the dataclasses. Out: a run's files; results on standard output, progress on standard
error. Exit codes: 0 done; 1 some trials failed; 2 input that cannot be used; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fulora.errors import InputError
from fulora.experiment import Experiment
from fulora.recipes import RECIPES
from sweeps.cluster import ClusterOptions
from sweeps.search_space import LoraSearch

VERBS = {
    "run": "do what is missing of a study, all stages",
    "lora": "the rank sweep (and what it needs)",
    "sample": "the synthetic images (and what they need)",
    "grid": "the classifier grid and its tables (and what they need)",
    "plan": "print every trial of a study without starting anything",
    "status": "what a run has done and what is missing",
    "report": "make a run's report again from its files",
    "compare": "put a run beside the paper's tables, with intervals",
    "export": "copy a run's tables, ready for a paper",
    "push": "upload a run's adapter to the Hugging Face hub",
}


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
"""What a disk answers that takes no more: a person can mend it, and needs no traceback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What to run, into which folder, and where."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run; `runs/RECIPE` where not given. On a cluster: on storage every node sees."""
    cluster: Annotated[ClusterOptions, tyro.conf.arg(name="")] = ClusterOptions()

    search: Annotated[Literal["none", "optuna"], tyro.conf.Suppress] = "none"
    space: Annotated[LoraSearch, tyro.conf.Suppress] = LoraSearch()

    @property
    def folder(self) -> Path:
        """Where the run goes, absolute."""
        return (self.out or Path("runs") / self.experiment.recipe).expanduser().resolve()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraLaunch(Launch):
    """The same for the verb that can search."""

    search: Literal["none", "optuna"] = "none"
    """Instead of the recipe's ranks: `optuna` proposes settings, ASHA stops what lags behind. Repeated, it goes on."""
    space: LoraSearch = LoraSearch()
    """What the search may try."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleLaunch(Launch):
    """The same for the verb that can draw images to another place."""

    to: str | None = None
    """Draw the chosen rank's images straight to this folder or S3 address (s3://BUCKET/FOLDER?region=...), whatever
    their number, instead of into the run. Repeated, it goes on; with more --sampling.images-per-plane it adds them."""
    to_form: Literal["parquet", "files"] = "parquet"
    """There: Parquet files with the PNG bytes inside, or PNG files with a metadata.parquet (an imagefolder)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForRun:
    """A verb about a run that is there."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, such as runs/demo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Copy a run's tables to a folder."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, such as runs/demo."""
    to: Path
    """Folder to write to; results/NAME is the place for what is kept."""
    format: tuple[Literal["parquet", "csv", "markdown", "latex"], ...] = ("parquet", "csv", "markdown")
    """Formats to write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """Put a run beside the paper's Tables 1 and 2, and say which published figures cannot be."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """The run's folder, such as runs/demo."""
    metric: tuple[Literal["accuracy", "recall", "precision", "f1", "auc"], ...] = ("accuracy", "f1")
    """Scores to print; all are written to the run's tables/compare.parquet."""
    paper_to: Path | None = None
    """Write the paper's own tables, as printed and with what the check says, to this folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """Upload a run's adapter, with a card, to a model repository of the Hugging Face hub."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, such as runs/demo."""
    to: str
    """Repository to upload to, OWNER/NAME; made where it is not there."""
    rank: int | None = None
    """Rank of the adapter; the one the run samples with where not given."""
    private: bool = False
    """Make the repository private; one that is there already must be."""
    dry_run: bool = False
    """Print the files, their sizes and the card; upload nothing and contact nothing."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(_guarded(list(sys.argv[1:] if argv is None else argv), _VERBS, VERBS, "sweeps"))


def _guarded(
    words: list[str], verbs: dict[str, Callable[[list[str]], int]], about: dict[str, str], program: str
) -> int:
    """Return a verb's exit code, with input errors and Ctrl-C turned into words."""
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {program} VERB ...   ({program} VERB --help tells more)\n")
        print("\n".join(f"  {verb:<10} {text}" for verb, text in about.items()))
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb not in verbs:
        print(f"{program}: {verb!r} is no verb; it must be one of {', '.join(verbs)}", file=sys.stderr)
        return 2
    try:
        return verbs[verb](rest)
    except InputError as error:
        print("\n".join(f"{program}: {text}" for text in error.faults), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command goes on with what is missing", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"{program}: {place}{error.strerror}. What was finished is kept; make room, or give the folder its "
              "rights back, and the same command goes on", file=sys.stderr)  # fmt: skip
        return 2


def parse_launch(words: list[str], verb: str) -> Launch:
    """Return what the words after a verb ask for: the recipe's own values, changed by flags."""
    launches = {"lora": LoraLaunch, "sample": SampleLaunch}.get(verb, Launch)
    defaults = {name: launches(experiment=make()) for name, make in RECIPES.items()}
    about = {name: (make.__doc__ or "").strip().splitlines()[0] for name, make in RECIPES.items()}
    kind: Any = tyro.extras.subcommand_type_from_defaults(defaults, about)
    launch = tyro.cli(kind, prog=f"sweeps {verb}", args=words, description=VERBS[verb])
    experiment = _absolute(launch.experiment)
    base = Path(experiment.base).expanduser()
    if experiment.base != "tiny" and base.exists():
        experiment = replace(experiment, base=str(base.resolve()))
    return replace(launch, experiment=experiment)


def _absolute(config: Any) -> Any:
    """Return the configuration with every path absolute: workers run in folders of their own."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            changed[field.name] = value.expanduser().resolve()
        elif is_dataclass(value):
            changed[field.name] = _absolute(value)
    return replace(config, **changed)


def _run(words: list[str], *, verb: str, until: Any) -> int:
    launch = parse_launch(words, verb)
    from sweeps.experiment import run
    from sweeps.paths import RunPaths
    from sweeps.progress import for_this_terminal
    from sweeps.record import StageFailed

    paths = RunPaths(launch.folder)
    destination = _destination(launch)
    try:
        search = launch.space if launch.search == "optuna" else None
        failed = run(
            launch.experiment,
            paths,
            options=launch.cluster,
            progress=for_this_terminal(),
            until=until,
            search=search,
            destination=destination,
        )
    except StageFailed as error:
        print(f"sweeps: {error}\nThe same command tries again what failed.", file=sys.stderr)
        return 1
    if destination is not None:
        print(destination)
        return 0
    from sweeps.terminal import print_outcome

    print_outcome(paths, "search" if search else until)
    for attempt in failed:
        print(f"sweeps: {attempt.label} failed: {attempt.error_type}: {attempt.error_message}", file=sys.stderr)
    return 1 if failed else 0


def _destination(launch: Launch) -> Any:
    if not isinstance(launch, SampleLaunch) or launch.to is None:
        return None
    from sweeps.image_output import Destination

    address = launch.to if "://" in launch.to else str(Path(launch.to).expanduser().resolve())
    return Destination(address=address, form=launch.to_form)


def _plan(words: list[str]) -> int:
    launch = parse_launch(words, "plan")
    from sweeps.terminal import print_plan

    print_plan(launch.experiment, launch.folder)
    return 0


def _status(words: list[str]) -> int:
    from sweeps.terminal import print_status

    print_status(_existing(tyro.cli(ForRun, prog="sweeps status", args=words).run))
    return 0


def _report(words: list[str]) -> int:
    from sweeps.report import write_report

    print(write_report(_existing(tyro.cli(ForRun, prog="sweeps report", args=words).run)))
    return 0


def _compare(words: list[str]) -> int:
    wanted = tyro.cli(Compare, prog="sweeps compare", args=words)
    from fulora.errors import fault
    from sweeps.publish.paper import compare, write_published
    from sweeps.terminal import print_comparison

    if wanted.run is None and wanted.paper_to is None:
        raise InputError(fault("run", None, "is not given", "Name a run's folder, or --paper-to DIR without one."))
    for file in [] if wanted.paper_to is None else write_published(wanted.paper_to):
        print(file)
    if wanted.run is not None:
        print_comparison(compare(_existing(wanted.run)), wanted.metric)
    return 0


def _export(words: list[str]) -> int:
    from sweeps.tables import export

    wanted = tyro.cli(Export, prog="sweeps export", args=words)
    for file in export(_existing(wanted.run), wanted.to, wanted.format):
        print(file)
    return 0


def _push(words: list[str]) -> int:
    from sweeps.publish.hub import push
    from sweeps.publish.upload import plan_upload

    wanted = tyro.cli(Push, prog="sweeps push", args=words)
    upload = plan_upload(_existing(wanted.run), to=wanted.to, rank=wanted.rank, private=wanted.private)
    print(upload.describe() if wanted.dry_run else push(upload))
    return 0


def _existing(folder: Path) -> Any:
    from fulora.errors import fault
    from sweeps.paths import RunPaths

    paths = RunPaths(folder.expanduser().resolve())
    if not paths.plan.is_file():
        raise InputError(fault("run", str(folder), "is no run: it has no plan.json", "Name the folder given as --out."))
    return paths


def _stage(verb: str, until: str) -> Callable[[list[str]], int]:
    return lambda words: _run(words, verb=verb, until=until)


_VERBS: dict[str, Callable[[list[str]], int]] = {
    "run": _stage("run", "report"),
    "lora": _stage("lora", "lora"),
    "sample": _stage("sample", "sample"),
    "grid": _stage("grid", "grid"),
    "plan": _plan,
    "status": _status,
    "report": _report,
    "compare": _compare,
    "export": _export,
    "push": _push,
}

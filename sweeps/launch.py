"""What to run, into which folder, and where: flags made from the recipe's own dataclasses.

In: the words after a command. Out: a `Launch`: the recipe's values, changed by flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fulora.experiment import Experiment
from fulora.recipes import RECIPES
from sweeps.cost.place import Place
from sweeps.engine.options import ClusterOptions
from sweeps.ranks.search_space import LoraSearch


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What to run, into which folder, and where."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    out: Path | None = None
    """Directory of the run (default: runs/RECIPE). On a cluster: on a disk every node mounts, or with --storage."""
    cluster: Annotated[ClusterOptions, tyro.conf.arg(name="")] = ClusterOptions()

    @property
    def folder(self) -> Path:
        """Where the run goes, absolute."""
        return (self.out or Path("runs") / self.experiment.recipe).expanduser().resolve()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraLaunch(Launch):
    """The same for the command that can search."""

    search: Literal["none", "optuna"] = "none"
    """`optuna`: instead of the recipe's ranks, Optuna proposes settings and ASHA prunes poor trials. Run again to
    resume."""
    space: LoraSearch = LoraSearch()
    """What the search may try."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleLaunch(Launch):
    """The same for the command that can draw images to another place."""

    to: str | None = None
    """Draw the chosen rank's images straight to this directory or S3 address (s3://BUCKET/FOLDER?region=...), whatever
    their number, instead of into the run. Run again to resume; more --sampling.images-per-plane adds images."""
    to_form: Literal["parquet", "files"] = "parquet"
    """Format at --to: Parquet files with the PNG bytes inside, or PNG files with a metadata.parquet (imagefolder)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanLaunch(Launch):
    """The same for the command that says what a study would cost."""

    place: Annotated[Place, tyro.conf.arg(name="")] = Place()
    json: bool = False
    """Print what it would cost as JSON, and nothing else."""


_LAUNCHES: dict[str, type[Launch]] = {"lora": LoraLaunch, "sample": SampleLaunch, "plan": PlanLaunch}


def launch_of(command: str, words: list[str], about: str = "") -> Any:
    """Return what the words after a command ask for."""
    launch = _parsed(command, words, about)
    experiment = _absolute(launch.experiment)
    base = Path(experiment.base).expanduser()
    if experiment.base != "tiny" and base.exists():
        experiment = replace(experiment, base=str(base.resolve()))
    cluster = launch.cluster
    if cluster.storage is not None and "://" not in cluster.storage:
        cluster = replace(cluster, storage=str(Path(cluster.storage).expanduser().resolve()))
    return replace(launch, experiment=experiment, cluster=_absolute(cluster))


def relative_paths(command: str, words: list[str]) -> list[tuple[str, str]]:
    """Return the flags whose paths are relative, and these paths."""
    return list(_relative("", _parsed(command, words)))


def _relative(prefix: str, config: Any) -> Iterator[tuple[str, str]]:
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path) and not value.is_absolute():
            yield prefix + field.name, str(value)
        elif is_dataclass(value):
            yield from _relative("" if field.name in ("experiment", "cluster") else f"{field.name}.", value)


def _parsed(command: str, words: list[str], about: str = "") -> Any:
    make = _LAUNCHES.get(command, Launch)
    defaults = {name: make(experiment=recipe()) for name, recipe in RECIPES.items()}
    told = {name: (recipe.__doc__ or "").strip().splitlines()[0] for name, recipe in RECIPES.items()}
    if words and words[0] in defaults:  # a recipe's parser has a hundred flags: the others' are not made
        defaults = {words[0]: defaults[words[0]]}
    kind: Any = tyro.extras.subcommand_type_from_defaults(defaults, told)
    return tyro.cli(kind, prog=f"sweeps {command}", args=words, description=about)


def _absolute(config: Any) -> Any:
    """Return the configuration with every path absolute: workers run in directories of their own."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            changed[field.name] = value.expanduser().resolve()
        elif is_dataclass(value):
            changed[field.name] = _absolute(value)
    return replace(config, **changed)

"""Steps for the tests of executors: real work functions that take milliseconds, fail, die and damage files."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fulora.device import Footprint
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.step import Kind, Report, Step
from sweeps.core.store import Place, Store
from sweeps.engine.resources import placement

if (root := str(Path(__file__).parents[3])) not in sys.path:
    sys.path.append(root)  # Ray hands the path on to its workers, which import this module by name


@dataclass(frozen=True, kw_only=True)
class Fake:
    """What a fake step does, in this order."""

    name: str
    diary: str
    """Folder for a file per attempt, with when it ran and in which process."""
    seconds: float = 0.0
    raises: str = ""
    kills: int = 0
    """Attempts in which the process kills itself."""
    truncates: bool = False
    """Whether the first attempt truncates a file of its first need before reading it."""
    fits_alone: bool = False
    """Whether it runs out of memory where it has only a share of a GPU."""
    meets: int = 0
    """Steps that must have begun before this one goes on."""


def work(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write the names of all steps upstream, each once; first what else the configuration asks for."""
    config, diary = step.config, Path(step.config.diary)
    number = len(list(diary.glob(f"{config.name}.*"))) + 1
    entry = diary / f"{config.name}.{number}"
    entry.write_text(json.dumps({"began": time.time(), "pid": os.getpid(), "node": placement()["node"]}))
    report({"fraction": 0.5, "note": f"half of {config.name}"})
    if config.truncates and number == 1:
        (place.store.folder(step.all_needs[0]) / "names.txt").write_text("")
    _wait(config, diary)
    if number <= config.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fits_alone and _gpus() < 1:
        raise MemoryError("the device has too little memory")
    if config.raises:
        raise ValueError(config.raises)
    above = [place.folder_of(need) / "names.txt" for need in step.all_needs]
    names = {line for file in above for line in file.read_text().splitlines()} | {config.name}
    (place.out / "names.txt").write_text("\n".join(sorted(names)) + "\n")
    content = json.loads(entry.read_text()) | {"ended": time.time()}
    entry.write_text(json.dumps(content | {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}))
    return {"num_names": len(names), "device": "cpu"}


def measure(steps: list[Step], store: Store) -> Footprint:
    """Return a footprint of which three fit on a device, one on a device of the type `small`."""
    assert steps and isinstance(store, Store)
    import ray

    here = ray.get_runtime_context().get_node_id()
    (has,) = [node["Resources"] for node in ray.nodes() if node["NodeID"] == here]
    return Footprint(29, 40 if "accelerator_type:small" in has else 100, "a fake device")


def _gpus() -> float:
    import ray

    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)


def _wait(config: Fake, diary: Path) -> None:
    time.sleep(config.seconds)
    end = time.monotonic() + 60
    while len({file.stem for file in diary.iterdir()}) < config.meets:
        if time.monotonic() > end:
            raise TimeoutError("the others did not come")
        time.sleep(0.02)


_WORK = f"{__name__}:work"
TRIAL = Kind(name="trial", stage="grid", work=_WORK, is_trial=True, runs_on="gpu")
TABLE = Kind(name="table", stage="report", work=_WORK)
SHARD = Kind(name="shard", stage="sample", work=_WORK, is_shard=True, runs_on="gpu")
PACKED = Kind(name="packed", stage="grid", work=_WORK, is_trial=True, runs_on="gpu", measure=f"{__name__}:measure")


def fake(diary: Path, name: str, *needs: Step, kind: Kind = TRIAL, cost: float = 1.0, **config: Any) -> Step:
    """Return a step that reads `needs` and writes one file."""
    diary.mkdir(exist_ok=True)
    fake_config = Fake(name=name, diary=str(diary), **config)
    return Step(kind=kind, label=name, config=fake_config, needs={"above": needs}, cost=cost)


def entries(diary: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Return what each attempt wrote, by the step's name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(diary.iterdir()):
        found.setdefault(file.stem, []).append(json.loads(file.read_text()))
    return found


@dataclass
class Notes:
    """A `Watch` that keeps what it is told."""

    events: list[tuple[str, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def started(self, step: Step) -> None:
        """Keep the name."""
        self.events.append(("started", step.label))

    def placed(self, step: Step, where: Mapping[str, str | None]) -> None:
        """Note nothing."""

    def progress(self, step: Step, fraction: float, note: str) -> None:
        """Keep the note."""
        self.events.append((f"{fraction:g} {note}", step.label))

    def ended(self, step: Step, attempt: Attempt) -> None:
        """Keep the status."""
        self.events.append((attempt.status, step.label))

    def say(self, text: str) -> None:
        """Keep the text."""
        self.said.append(text)

    def of(self, label: str) -> list[str]:
        """Return what happened to a step."""
        return [event for event, name in self.events if name == label]


@dataclass
class Bench:
    """A store, a log and a diary below a folder, and what was told."""

    root: Path

    def __post_init__(self) -> None:
        self.store, self.diary, self.watch = Store(self.root / "run"), self.root / "diary", Notes()
        self.log = AttemptLog(self.root / "run" / "attempts.jsonl")

    def fake(self, name: str, *needs: Step, **known: Any) -> Step:
        """Return a step that writes into the diary."""
        return fake(self.diary, name, *needs, **known)

    def do(self, executor: Any, *steps: Step) -> None:
        """Do those of the steps that are not done."""
        todo = [step for step in steps if self.store.done(step) is None]
        executor.run(todo, store=self.store, log=self.log, watch=self.watch)

    def rows(self) -> dict[str, list[str]]:
        """Return the statuses of each step's attempts, in the order of the log."""
        found: dict[str, list[str]] = {}
        for attempt in self.log.attempts:
            found.setdefault(attempt.label, []).append(attempt.status)
        return found

    def names(self, step: Step) -> list[str]:
        """Return what a step wrote."""
        assert self.store.done(step) is not None
        return (self.store.folder(step) / "names.txt").read_text().splitlines()

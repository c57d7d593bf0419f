"""What an upload consists of: its files, their hashes and its card; here that of a run's adapter. Contacts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE
from fulora.errors import InputError, fault, one_line
from sweeps.core.paths import RunPaths, rank_label
from sweeps.core.store import DONE
from sweeps.core.tables import read_rows
from sweeps.publish.card import is_path, model_card
from sweeps.publish.fingerprint import HashedFile, hash_file

CARD = "README.md"
TRIAL = "trial.json"
FILES = (DIFFUSERS_FILE, KOHYA_FILE, "loss.parquet", TRIAL)
"""Files of an adapter's folder that are uploaded. Any other file in it may be private and is not."""

_MOST_SHOWN = 20
"""Files that a dry run lists by name."""
_NEEDED = ("base", "rank", "alpha", "num_steps", "batch_size", "learning_rate", "targets", "resolution_px")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An upload to the hub."""

    to: str
    """The repository, OWNER/NAME."""
    private: bool
    """Whether the repository is to be private."""
    rank: int | None
    """Rank of the adapter; None for images of the base alone."""
    files: tuple[HashedFile, ...]
    """Files of the run."""
    made: Mapping[str, bytes]
    """Files made for the upload, the card (Markdown with YAML front matter) among them."""
    folder: Path
    """Where the run's files lie: their names in the repository are relative to it."""
    summary: str
    """What the commit says."""
    repo_type: Literal["model", "dataset"] = "model"
    """Kind of repository."""
    notes: tuple[str, ...] = ()
    """What the uploader is to know beforehand."""

    @property
    def card(self) -> str:
        """The card."""
        return self.made[CARD].decode()

    @property
    def contents(self) -> dict[str, bytes | HashedFile]:
        """Every file by its name in the repository."""
        return {**self.made, **{file.path.relative_to(self.folder).as_posix(): file for file in self.files}}

    def describe(self) -> str:
        """Return the files, their sizes and the card as text; of many files the first ones."""
        sizes = {n: len(what) if isinstance(what, bytes) else what.size for n, what in self.contents.items()}
        shown = list(sizes)[:_MOST_SHOWN]
        width = max(map(len, shown))
        kind = "dataset " if self.repo_type == "dataset" else ""
        lines = [f"would upload to {kind}{self.to}{' (private)' if self.private else ''}:"]
        lines += [f"  {name:<{width}}  {sizes[name]:>13,} bytes" for name in shown]
        if rest := len(sizes) - len(shown):
            lines.append(f"  and {rest} more files; {sum(sizes.values()):,} bytes in all")
        return "\n".join([*lines, *self.notes, "", f"{CARD}:", "", self.card])


def plan_upload(paths: RunPaths, *, to: str, rank: int | None = None, private: bool = False) -> Upload:
    """Return the upload of a rank's adapter; of the rank the run samples with where none is given.

    Raises InputError where `to` is not OWNER/NAME, the run has no such rank, or the adapter's folder is incomplete.
    """
    check_name(to)
    settings = settings_of(paths)
    if rank is None:
        rank = _sampled_rank(settings, paths)
    folder = _adapter_folder(paths, rank)
    files = tuple(hash_file(folder / name) for name in FILES if (folder / name).is_file())
    trial = adapter_trial(folder)
    metrics = _recorded(paths, folder, trial["trial_id"])
    diffusers = next(f for f in files if f.path.name == DIFFUSERS_FILE)
    if metrics.get("adapter_sha256", diffusers.sha256) != diffusers.sha256:
        rule = f"is not the file the run recorded (sha256 {metrics['adapter_sha256'][:8]})"
        raise InputError(fault("adapter", str(diffusers.path), rule, f"Delete {folder} and train it again."))
    config = trial["config"]
    card = model_card(to, config, metrics, _heldout_loss(folder), files, settings)
    base = config["base"]
    notes = (f"{TRIAL} names the base by its path on this machine: {base}",) if is_path(base) else ()
    return Upload(
        to=to, private=private, rank=config["rank"], files=files, made={CARD: card.encode()}, folder=folder,
        summary=f"Upload the adapter of rank {config['rank']}", notes=notes,
    )  # fmt: skip


def check_name(to: str) -> None:
    """Raise InputError where a repository's name is not OWNER/NAME as the hub takes it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(to)
        wrong = "" if to.count("/") == 1 else "has no owner"
    except HFValidationError as error:
        wrong = one_line(error)
    if wrong:
        rule = f"is not of the form OWNER/NAME ({wrong})"
        raise InputError(fault("to", to, rule, "Give --to your user name or organisation, a slash and a name."))


def settings_of(paths: RunPaths) -> dict[str, Any]:
    """Return the experiment of the run's plan, empty where the plan has none."""
    try:
        return json.loads(paths.plan.read_text()).get("experiment") or {}
    except (ValueError, AttributeError) as error:
        rule = "has a plan.json that is not one of a run"
        raise InputError(fault("run", str(paths.root), rule, "Name the folder given as --out.")) from error


def _sampled_rank(settings: Mapping[str, Any], paths: RunPaths) -> int | None:
    """Return the rank the run samples with: the configured one, or the one a score chose."""
    if settings.get("choose_rank", "given") == "given":
        return (settings.get("sampling") or {}).get("rank")
    table = paths.table("ranks")
    chosen = [row["rank"] for row in read_rows(table, "ranks") if row["chosen"]] if table.is_file() else []
    if not chosen:
        rule = f"is chosen by {settings['choose_rank']}, and the run has not chosen one yet"
        raise InputError(fault("rank", None, rule, "Run `sweeps sample` first, or name a rank with --rank."))
    return int(chosen[0])


def _adapter_folder(paths: RunPaths, rank: int | None) -> Path:
    """Return the complete folder of a rank's adapter."""
    there = _ranks(paths)
    if rank is None or not paths.adapter(rank).is_dir():
        if not there:
            raise InputError(fault("run", str(paths.root), "has no adapter", "Train one first: `sweeps lora`."))
        rule = f"has no adapter in this run; there are {', '.join(map(str, there))}"
        raise InputError(fault("rank", rank, rule, "Name one of these with --rank."))
    folder = paths.adapter(rank)
    for name in (TRIAL, DIFFUSERS_FILE):
        if not (folder / name).is_file():
            remedy = "Run the command that began the run again: it trains what is missing."
            raise InputError(fault("adapter", str(folder), f"is incomplete: it has no {name}", remedy))
    return folder


def _ranks(paths: RunPaths) -> list[int]:
    """Return the ranks that have an adapter, in ascending order."""
    found = (f.parent.name for f in paths.adapter(0).parent.glob(f"*/{TRIAL}"))
    numbers = ((name, name.rpartition("-")[2]) for name in found)
    return sorted(int(digits) for name, digits in numbers if digits.isdigit() and rank_label(int(digits)) == name)


def adapter_trial(folder: Path) -> dict[str, Any]:
    """Return the adapter's trial record, checked."""
    try:
        trial = json.loads((folder / TRIAL).read_text())
        missing = [name for name in _NEEDED if name not in trial["config"]]
        wrong = f"lacks {', '.join(missing)}" if missing or not trial["trial_id"] else ""
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"is not the record of a trial ({type(error).__name__})"
    if wrong:
        raise InputError(fault("adapter", str(folder / TRIAL), wrong, "Train the rank again with this version."))
    return trial


def _recorded(paths: RunPaths, folder: Path, trial_id: str) -> dict[str, Any]:
    """Return the metrics recorded of a trial, with `base` as it ran; empty where there is no record."""
    try:
        found = dict(json.loads((folder / DONE).read_text())["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        found = {}
    if "base_name" in found:
        found["base"] = found["base_name"]
    if paths.table("ranks").is_file():
        rows = [row for row in read_rows(paths.table("ranks"), "ranks") if row["trial_id"] == trial_id]
        found |= {key: row[key] for row in rows for key in ("base", "adapter_sha256") if row[key]}
    return found


def _heldout_loss(folder: Path) -> float | None:
    """Return the last held-out loss of the fine-tuning, None where none was measured."""
    if not (folder / "loss.parquet").is_file():
        return None
    measured = [row["heldout_loss"] for row in read_rows(folder / "loss.parquet", "loss")]
    return next((loss for loss in reversed(measured) if loss is not None), None)

"""A run's adapter in a model repository of the Hugging Face hub, with a card that says what it is.

In: a run's folder. Out: what would be uploaded, as text; or the repository's address once one commit holds it all.
Nothing else needs the hub, and its client is loaded only here.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE
from fulora.errors import InputError, fault, one_line
from sweeps.core.paths import RunPaths, rank_label
from sweeps.core.tables import read_rows
from sweeps.model_card import is_path, model_card
from sweeps.trials import latest_success

CARD = "README.md"
TRIAL = "trial.json"
FILES = (DIFFUSERS_FILE, KOHYA_FILE, "loss.parquet", TRIAL)
"""What is uploaded of an adapter's folder. Anything else in it stays: it may not be for others to see."""

_NEEDED = ("base", "rank", "alpha", "num_steps", "batch_size", "learning_rate", "targets", "resolution_px")
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadFile:
    """One file of the adapter as it was when its hash was taken."""

    path: Path
    size: int
    sha256: str
    stamp: tuple[int, int, int]
    """Inode, size and time of change, taken before the hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What goes to the hub, and where to."""

    to: str
    """OWNER/NAME."""
    private: bool
    rank: int
    files: tuple[UploadFile, ...]
    card: str
    base: str
    """The base as the run was given it, which trial.json repeats."""

    def describe(self) -> str:
        """Return the files, their sizes and the card as text."""
        sizes = {CARD: len(self.card.encode()), **{f.path.name: f.size for f in self.files}}
        width = max(map(len, sizes))
        lines = [f"would upload to {self.to}{' (private)' if self.private else ''}:"]
        lines += [f"  {name:<{width}}  {size:>13,} bytes" for name, size in sizes.items()]
        if is_path(self.base):
            lines.append(f"{TRIAL} names the base by its path on this machine: {self.base}")
        return "\n".join([*lines, "", f"{CARD}:", "", self.card])


def plan_upload(paths: RunPaths, *, to: str, rank: int | None = None, private: bool = False) -> Upload:
    """Return what an upload of a rank's adapter is, the run's chosen rank where none is given; contacts nothing.

    Raises InputError where `to` is no OWNER/NAME, the run has no such rank, or the adapter's folder is not whole.
    """
    _check_name(to)
    settings = _settings(paths)
    if rank is None:
        rank = _sampled_rank(settings, paths)
    folder = _adapter_folder(paths, rank)
    files = tuple(_fingerprinted(folder / name) for name in FILES if (folder / name).is_file())
    trial = _trial(folder)
    metrics = _recorded(paths, trial["trial_id"])
    diffusers = next(f for f in files if f.path.name == DIFFUSERS_FILE)
    if metrics.get("adapter_sha256", diffusers.sha256) != diffusers.sha256:
        rule = f"is not the file the run recorded (sha256 {metrics['adapter_sha256'][:8]})"
        raise InputError(fault("adapter", str(diffusers.path), rule, f"Delete {folder} and train it again."))
    config = trial["config"]
    card = model_card(to, config, metrics, _heldout_loss(folder), files, settings)
    return Upload(to=to, private=private, rank=config["rank"], files=files, card=card, base=config["base"])


def push(upload: Upload, *, endpoint: str | None = None) -> str:
    """Upload in one commit and return the repository's address; the repository is made where it is not there.

    `endpoint` None: HF_ENDPOINT, else the hub itself. Raises InputError where the hub is switched off, cannot be
    reached or refuses, and where the adapter is replaced meanwhile. Large files go the client's way, Xet; an endpoint
    that has only Git LFS needs HF_HUB_DISABLE_XET=1 in the environment from the start.
    """
    from huggingface_hub import constants

    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if constants.is_offline_mode():
        rule = "is not contacted: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set"
        raise InputError(fault("hub", endpoint, rule, "Unset it to upload; --dry-run works without the hub."))
    try:
        with warnings.catch_warnings():
            # The loss table belongs to the adapter.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            _commit(upload, endpoint)
    except InputError:
        raise
    except Exception as error:  # the client raises OSError, its own, its transport's and hf_xet's errors
        raise InputError(_explained(error, upload.to, endpoint)) from error
    return f"{endpoint}/{upload.to}"


def _commit(upload: Upload, endpoint: str) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = get_token()
    if not token:
        raise InputError(fault("hub", endpoint, "needs a token to upload, and there is none", _LOGIN))
    api = HfApi(endpoint=endpoint, token=token)
    _check_unchanged(upload)
    api.create_repo(upload.to, private=upload.private or None, exist_ok=True)
    if upload.private and not api.model_info(upload.to).private:
        remedy = "Make it private in its settings, name another, or leave out --private."
        raise InputError(fault("to", upload.to, "is there already and is public; nothing was uploaded", remedy))
    contents: dict[str, Any] = {CARD: upload.card.encode(), **{f.path.name: f.path for f in upload.files}}
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in contents.items()]
    api.preupload_lfs_files(upload.to, additions, free_memory=False)
    _check_unchanged(upload)
    api.create_commit(upload.to, additions, commit_message=f"Upload the adapter of rank {upload.rank}")


def _check_name(to: str) -> None:
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


def _settings(paths: RunPaths) -> dict[str, Any]:
    """Return the experiment of the run's plan, empty where the plan has none."""
    try:
        return json.loads(paths.plan.read_text()).get("experiment") or {}
    except (ValueError, AttributeError) as error:
        rule = "has a plan.json that is not ours"
        raise InputError(fault("run", str(paths.root), rule, "Name the folder given as --out.")) from error


def _sampled_rank(settings: Mapping[str, Any], paths: RunPaths) -> int | None:
    """Return the rank the run's training images are sampled with; where a score chooses it, the one it chose."""
    if settings.get("choose_rank", "given") == "given":
        return (settings.get("sampling") or {}).get("rank")
    if not paths.rank.is_file():
        rule = f"is to be chosen by {settings['choose_rank']}, and the run has not got so far"
        raise InputError(fault("rank", None, rule, "Run `sweeps sample` first, or name a rank with --rank."))
    return int(json.loads(paths.rank.read_text())["rank"])


def _adapter_folder(paths: RunPaths, rank: int | None) -> Path:
    """Return the folder of a rank's adapter, whole."""
    there = _ranks(paths)
    if rank is None or not paths.adapter(rank).is_dir():
        if not there:
            raise InputError(fault("run", str(paths.root), "has no adapter", "Train one first: `sweeps lora`."))
        rule = f"has no adapter in this run; there are {', '.join(map(str, there))}"
        raise InputError(fault("rank", rank, rule, "Name one of these with --rank."))
    folder = paths.adapter(rank)
    for name in (TRIAL, DIFFUSERS_FILE):
        if not (folder / name).is_file():
            remedy = "The run's own command trains what is not whole again."
            raise InputError(fault("adapter", str(folder), f"is not whole: it has no {name}", remedy))
    return folder


def _ranks(paths: RunPaths) -> list[int]:
    """Return the ranks of the run that are whole, in order."""
    found = (f.parent.name for f in paths.adapter(0).parent.glob(f"*/{TRIAL}"))
    numbers = ((name, name.rpartition("-")[2]) for name in found)
    return sorted(int(digits) for name, digits in numbers if digits.isdigit() and rank_label(int(digits)) == name)


def _fingerprinted(path: Path) -> UploadFile:
    stamp = _stamp(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return UploadFile(path=path, size=stamp[1], sha256=digest, stamp=stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    at = path.stat()
    return at.st_ino, at.st_size, at.st_mtime_ns


def _check_unchanged(upload: Upload) -> None:
    """Raise InputError where a file is not the one whose hash the card gives: a run may replace an adapter any time."""
    for file in upload.files:
        if not file.path.is_file() or _stamp(file.path) != file.stamp:
            rule = "was replaced while it was being uploaded; nothing was committed"
            raise InputError(fault("adapter", str(file.path), rule, "Wait for the run, then call this again."))


def _trial(folder: Path) -> dict[str, Any]:
    try:
        trial = json.loads((folder / TRIAL).read_text())
        missing = [name for name in _NEEDED if name not in trial["config"]]
        wrong = f"lacks {', '.join(missing)}" if missing or not trial["trial_id"] else ""
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"is not ours ({type(error).__name__})"
    if wrong:
        raise InputError(fault("adapter", str(folder / TRIAL), wrong, "Train the rank again with this version."))
    return trial


def _recorded(paths: RunPaths, trial_id: str) -> dict[str, Any]:
    """Return what the run recorded of a trial, `base` as it ran among it; empty where the records are gone."""
    done = latest_success(paths).get(trial_id)
    found = dict(done.metrics) if done else {}
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


def _explained(error: Exception, to: str, endpoint: str) -> str:
    """Return an error of the hub's client as a fault."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    causes = list(_causes(error))
    answers = [cause for cause in causes if isinstance(cause, HfHubHTTPError)]
    if answers:
        status, said = answers[0].response.status_code, one_line(answers[0].server_message or "")
        if status == 401:
            return fault("hub", endpoint, "does not accept the token: unauthorised (401)", _LOGIN)
        if status == 403:
            return fault("to", to, f"may not be written with this token: forbidden (403). {said}".rstrip(". "), _LOGIN)
        return fault("hub", endpoint, f"refused the upload ({status}) {said}".strip(), _again(endpoint))
    if any(isinstance(cause, (HTTPError, ConnectionError, TimeoutError)) for cause in causes):
        rule = f"cannot be reached ({one_line(causes[-1])})"
        # hf_xet, which is not the client's transport, raises ConnectionError of a store that is not there.
        again = "" if any(isinstance(cause, HTTPError) for cause in causes) else f" {_again(endpoint)}"
        return fault("hub", endpoint, rule, f"Check the network, a proxy and HF_ENDPOINT.{again}")
    return fault("hub", endpoint, f"did not take the upload ({one_line(error)})", _again(endpoint))


def _again(endpoint: str) -> str:
    from huggingface_hub import constants

    if endpoint == "https://huggingface.co" or constants.HF_HUB_DISABLE_XET:
        return "Call this again; what is there already is not sent twice."
    return "If this endpoint has no Xet storage, set HF_HUB_DISABLE_XET=1; then call this again."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

"""Locate, check and hash a diffusion base from its file names and headers, without loading weights.

In: `tiny`, `random:sd15`, a local diffusers directory, a single .safetensors file (or, where unpickling is
allowed, .ckpt), or the id of a repository on the Hugging Face hub. Out: InputError, or nothing; a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from fulora.diffusion import random_base
from fulora.errors import InputError, fault, one_line

TINY = "tiny"
"""The bundled base's name."""
RANDOM = "random:sd15"
"""Stable Diffusion 1.5's architecture with random weights: for measuring size, memory and speed, never for images."""

REMEDY = (
    "Pass --base with 'tiny' (bundled), 'random:sd15' (its architecture, random weights), "
    "a local directory in diffusers' Stable Diffusion layout (with model_index.json), "
    "a single Stable Diffusion 1.5 .safetensors file, or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5"
)
PARTS = ("vae", "unet", "text_encoder")
"""Directories that hold weights."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FAMILY = "StableDiffusionPipeline"


def check_base(spec: str, *, allow_pickle: bool = False) -> None:
    """Raise InputError unless `spec` names a valid base; reads file names and headers, no weights."""
    if spec == RANDOM:
        return
    if spec == TINY:
        check_folder(tiny_folder(), spec)
        return
    path = Path(spec).expanduser()
    if path.is_dir():
        check_folder(path, spec)
    elif path.is_file():
        _check_single_file(path, spec, allow_pickle)
    elif path.suffix in {".safetensors", ".ckpt"}:
        raise InputError(fault("base", spec, "is not a file", REMEDY))
    elif not _HUB_ID.fullmatch(spec):
        raise InputError(fault("base", spec, "is neither an existing path nor a hub id (owner/name)", REMEDY))


def fingerprint(spec: str) -> str:
    """Return a base's identity without loading it: the hash `load_base` reports, or the id itself for a hub model."""
    if spec == RANDOM:
        return random_base.fingerprint()
    path = tiny_folder() if spec == TINY else Path(spec).expanduser()
    if path.is_file():
        return hash_files([path])
    return hash_files(weight_files(path)) if path.is_dir() else spec


def tiny_folder() -> Path:
    from fulora.diffusion.tiny import TINY_FOLDER

    return Path(TINY_FOLDER)


def check_folder(folder: Path, spec: str) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise InputError(fault("base", spec, "is not a diffusion model: the directory has no model_index.json", REMEDY))
    try:
        parts = json.loads(index.read_text())
        kind = parts.get("_class_name")
    except (ValueError, AttributeError) as error:
        raise InputError(fault("base", spec, f"has an unreadable model_index.json ({error})", REMEDY)) from error
    if kind != _FAMILY:
        raise InputError(fault("base", spec, f"is a {kind}, not a {_FAMILY} (Stable Diffusion 1.x)", REMEDY))
    missing = [part for part in (*PARTS, "tokenizer", "scheduler") if not (folder / part).is_dir()]
    if missing:
        raise InputError(fault("base", spec, f"is incomplete: missing {', '.join(missing)}", REMEDY))


def _check_single_file(path: Path, spec: str, allow_pickle: bool) -> None:
    if path.suffix != ".safetensors":
        if not allow_pickle:
            rule = "is not a .safetensors file; it is a pickle, which can run code when loaded"
            raise InputError(
                fault("base", spec, rule, "Use a .safetensors file, or pass --allow-pickle if you trust it")
            )
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(fault("base", spec, f"is not a readable safetensors file ({error})", REMEDY)) from error
    if not any(name.startswith("model.diffusion_model.") for name in names):
        rule = "is not a diffusion model: it has no weights named model.diffusion_model.*"
        raise InputError(fault("base", spec, rule, REMEDY))


def weight_files(folder: Path) -> list[Path]:
    return sorted(file for part in PARTS for file in (folder / part).glob("*.safetensors"))


def hash_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def check_hub(spec: str) -> None:
    """Raise InputError if `spec` is a hub id whose model cannot be reached: no network, no access, no such model.

    Reads model_index.json, from the local cache if present. Does nothing for a local base.
    """
    if spec in (TINY, RANDOM) or Path(spec).expanduser().exists():
        return
    from huggingface_hub import hf_hub_download

    try:
        folder = Path(hf_hub_download(spec, "model_index.json")).parent
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        rule = f"cannot be reached on the Hugging Face hub ({one_line(error, 300)})"
        remedy = "Log in with `hf auth login`, download it beforehand, or pass a local directory"
        raise InputError(fault("base", spec, rule, remedy)) from error
    kind = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    if kind != _FAMILY:
        raise InputError(fault("base", spec, f"is a {kind}, not a {_FAMILY} (Stable Diffusion 1.x)", REMEDY))

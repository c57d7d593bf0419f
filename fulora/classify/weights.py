"""Load ImageNet weights from a directory or the hub, under timm's names.

In: weight files of timm (safetensors, pth) or torchvision (pth). Out: a model whose backbone has them; the head
is new. No file can run code: safetensors, or torch's `weights_only=True`.
Source: torchvision's model definitions; its DenseNet and ResNet use timm's names, its MobileNet v2 and EfficientNet
list the same tensors in the same order under other names, its ViT needs some renamings. open_clip's VisionTransformer.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fulora.errors import InputError, fault, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADS = ("classifier", "fc", "head", "heads")
"""First part of the name of a head's tensors, in timm and in torchvision."""

HUB_TIMEOUT_SECONDS = 5
"""Timeout of the one connection test per process, for machines without a network."""

_VIT_NAMES = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_", r"blocks.\1.norm"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
)


_CLIP = "visual."
"""Prefix of the image encoder in open_clip's files."""
_CLIP_NAMES = (
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1", "patch_embed.proj"),
    ("transformer.resblocks.", "blocks."),
    ("ln_pre", "norm_pre"),
    ("ln_post", "norm"),
    ("ln_", "norm"),
    ("in_proj_", "qkv."),
    ("out_proj", "proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def find_file(folder: Path, tag: str, torchvision_stem: str) -> Path | None:
    """Return the weight file of a model in a directory, or None: timm's tag first, then torchvision's name (a pattern).

    Raises InputError if the directory does not exist or several files match.
    """
    if not folder.is_dir():
        raise InputError(fault("weights", str(folder), "is not a directory", "Give one with weight files, or none"))
    for suffix in (".safetensors", ".pth", ".pt"):
        if (folder / f"{tag}{suffix}").is_file():
            return folder / f"{tag}{suffix}"
    named = re.compile(rf"^{torchvision_stem}(-[0-9a-f]+)?\.(safetensors|pth|pt)$")
    found = sorted(file for file in folder.iterdir() if named.match(file.name))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(fault("weights", str(folder), f"has several files of one model: {names}", "Keep one of them"))
    return found[0] if found else None


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex; read once per process unless the file changes."""
    stat = file.stat()
    return _sha256(file, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _sha256(file: Path, mtime_ns: int, size: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name. Raises InputError if it is not a state dict."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "Give a state dict of tensors as .safetensors, .pth or .pt"
    try:
        if file.suffix == ".safetensors":
            state: object = load_file(str(file))
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(fault("weights", str(file), f"cannot be read safely ({reason})", remedy)) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(fault("weights", str(file), "is not a state dict of tensors", remedy))
    return dict(state)


def load_backbone(model: nn.Module, state: Mapping[str, Tensor], *, architecture: str, origin: str) -> None:
    """Load all tensors but the head into the model, in place; names and shapes must match exactly.

    Raises InputError naming the first tensors that do not match, as for another architecture.
    """
    wanted = {key: value for key, value in model.state_dict().items() if not _is_head(key)}
    given = {key: value for key, value in state.items() if not _is_head(key)}
    given = _timm_names(given, wanted)
    if "pos_embed" in wanted and "pos_embed" in given:
        given["pos_embed"] = _resample(given["pos_embed"], model)
    problems = [f"{key} is missing" for key in wanted if key not in given]
    problems += [f"{key} is unexpected" for key in given if key not in wanted]
    problems += [
        f"{key} has shape {tuple(given[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        rule = f"does not fit {architecture}: {'; '.join(problems[:3])}{more}"
        raise InputError(fault("weights", origin, rule, f"Give a file of {architecture}, or remove this file"))
    model.load_state_dict(given, strict=False)


def _hub_answers() -> bool:
    """Return whether the hub may be contacted and can be reached."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    return _answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))


@functools.cache
def _answers(endpoint: str) -> bool:
    """Return whether an address answers in time; in a thread, because name resolution has no timeout."""
    import threading
    import urllib.error
    import urllib.request

    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS):
                answers.append(True)
        except urllib.error.HTTPError as error:
            answers.append(error.code < 500)
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_SECONDS)
    return answers == [True]


def hub_has(tag: str) -> bool:
    """Return whether timm's weights of a tag are in the hub's cache, or on the hub, which then must answer."""
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    repository, name = f"timm/{tag}", "model.safetensors"
    if isinstance(try_to_load_from_cache(repository, name), str):
        return True
    try:
        return _hub_answers() and file_exists(repository, name)
    except (HfHubHTTPError, OSError):
        return False


def hub_state(tag: str) -> dict[str, Tensor] | None:
    """Return timm's weights of a tag from the hub's cache or the hub, or None if neither has them.

    Raises InputError if the hub can be reached but the download fails.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, name = f"timm/{tag}", "model.safetensors"
    try:
        file = hf_hub_download(repository, name, local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError):
        if not _hub_answers():
            return None
        try:
            file = hf_hub_download(repository, name)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            if isinstance(error, EntryNotFoundError | RepositoryNotFoundError) and not isinstance(
                error, LocalEntryNotFoundError
            ):
                return None
            # The hub can be reached, so it may have them: training from scratch would be another experiment.
            rule = f"cannot be downloaded from the hub ({one_line(error.__cause__ or error)})"
            remedy = "Try again later, put the file into the directory given as weights, or choose pretrained='none'"
            raise InputError(fault("weights", tag, rule, remedy)) from error
    return read_state(Path(file))


def _is_head(key: str) -> bool:
    return key.split(".")[0] in HEADS


def _timm_names(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names, or unchanged where no rule applies."""
    if set(given) == set(wanted):
        return given
    if f"{_CLIP}class_embedding" in given:
        found = {key: value for key, value in _clip_names(given).items() if not _is_head(key)}
        found["cls_token"], found["pos_embed"] = found["cls_token"].view(1, 1, -1), found["pos_embed"].unsqueeze(0)
        return found
    if "class_token" in given:
        return {_renamed_vit(key): value for key, value in given.items()}
    # torchvision's older DenseNet files: denselayer1.norm.1.weight for denselayer1.norm1.weight
    given = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): value for key, value in given.items()}
    # Older files have no num_batches_tracked; BatchNorm with a fixed momentum does not read it.
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    if not any(key.endswith("num_batches_tracked") for key in given):
        if set(given) | set(counters) == set(wanted):
            return given | counters
        wanted = {key: value for key, value in wanted.items() if key not in counters}
    else:
        counters = {}
    # Same tensors, same order, other names: MobileNet v2 and EfficientNet.
    same = [tuple(a.shape) for a in given.values()] == [tuple(b.shape) for b in wanted.values()]
    endings = [key.rsplit(".", 1)[-1] for key in given] == [key.rsplit(".", 1)[-1] for key in wanted]
    if same and endings and any(key.startswith("features.") for key in given):
        return dict(zip(wanted, given.values(), strict=True)) | counters
    return given


def _clip_names(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image encoder of an open_clip file under timm's names, without text encoder and projection."""
    found = {}
    for key, value in given.items():
        if key.startswith(_CLIP) and key != f"{_CLIP}proj":
            name = key.removeprefix(_CLIP)
            for theirs, ours in _CLIP_NAMES:
                name = name.replace(theirs, ours)
            found[name] = value
    return found


def _renamed_vit(key: str) -> str:
    for pattern, new in _VIT_NAMES:
        key, hits = re.subn(pattern, new, key)
        if hits:
            return key
    return key


def _resample(pos_embed: Tensor, model: nn.Module) -> Tensor:
    """Return ViT's position embedding at the model's own grid (bicubic, antialiased, as timm does it)."""
    from timm.layers import resample_abs_pos_embed

    grid = model.patch_embed.grid_size  # type: ignore[union-attr]
    if pos_embed.ndim != 3 or int((pos_embed.shape[1] - 1) ** 0.5) ** 2 != pos_embed.shape[1] - 1:
        return pos_embed
    return resample_abs_pos_embed(pos_embed, new_size=list(grid), num_prefix_tokens=1)  # type: ignore[arg-type]

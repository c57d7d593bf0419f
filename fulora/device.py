"""Choose the device and precision of a run, and measure its memory.

In: a device's name or `auto`. Out: torch device names and dtypes; bytes; a description.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from fulora.errors import InputError, fault

if TYPE_CHECKING:
    import torch


_MMAP_MAX, _MMAP_THRESHOLD, _TOP_PAD, _TRIM_THRESHOLD = -4, -3, -2, -1
"""Parameters of glibc's mallopt."""
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
"""No block of its own mapping, no trimming, growth by 64 MiB."""
_HAND_BACK = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26), (_TOP_PAD, 2**17))
"""What glibc itself comes to in a process that frees large blocks."""
_ATTENTION = ("flash", "mem_efficient", "cudnn", "math")
"""torch's kernels of scaled dot product attention."""


class Footprint(NamedTuple):
    """The memory that a piece of work took of a device."""

    needed_bytes: int
    """Bytes used: on CUDA torch's pool and the driver's context, on a CPU the process's resident memory."""
    total_bytes: int
    """Memory of the device; on a CPU, of the machine."""
    device: str
    """Name of the device it was measured on."""


def resolve_device(device: str) -> str:
    """Return torch's device name for `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is CUDA if available."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(fault("device", device, "is not available: torch finds no CUDA device", "Use auto or cpu"))
    return device


def resolve_precision(precision: str, device: str) -> torch.dtype:
    """Return the type of `fp32`, `fp16`, `bf16`, or for `auto` bfloat16 on CUDA (float16 where not supported) and
    float32 elsewhere."""
    import torch

    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision == "auto":
        if not device.startswith("cuda"):
            return torch.float32
        return torch.bfloat16 if computes_bf16(device) else torch.float16
    if precision not in types:
        raise InputError(fault("precision", precision, "is unknown", f"Use auto, {', '.join(types)}"))
    if precision == "fp16" and not device.startswith("cuda"):
        raise InputError(fault("precision", precision, f"cannot train on {device}", "Use auto, fp32 or bf16"))
    return types[precision]


def computes_bf16(device: str) -> bool:
    """Return whether a device is a GPU that computes bfloat16 itself (from Ampere on), without emulation."""
    import torch

    if not device.startswith("cuda"):
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def set_speed_flags(device: str, *, exact_fp32: bool, fixed_shapes: bool) -> dict[str, bool | str]:
    """Set torch's flags that decide speed on CUDA, for the whole process, and return `speed_flags`.

    Called by every piece of work before it starts, and nowhere else are they set. TF32 is on for what is left of
    float32 in half-precision work and off where float32 was asked for (`exact_fp32`). cuDNN measures its algorithms
    where shapes are few (`fixed_shapes`); which one it picks may differ between runs, and results by rounding.
    Attention takes any of torch's kernels. On a CPU nothing is set.
    """
    import torch

    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact_fp32
        torch.backends.cudnn.benchmark = fixed_shapes
        for kind in _ATTENTION:
            getattr(torch.backends.cuda, f"enable_{kind}_sdp")(True)
    return speed_flags(device)


def speed_flags(device: str) -> dict[str, bool | str]:
    """Return what `set_speed_flags` left and what else decides speed, by name, for provenance; empty on a CPU.

    `channels_last`: classifiers are in that memory layout on CUDA, the diffusion model is not (not measured).
    """
    if not device.startswith("cuda"):
        return {}
    import torch

    kernels = [kind for kind in _ATTENTION if getattr(torch.backends.cuda, f"{kind}_sdp_enabled")()]
    return {
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "attention": ", ".join(kernels),
        "channels_last": "classifiers",
    }


def release_cached_memory(device: str) -> None:
    """Give memory that torch keeps for later back to a CUDA device, for work beside this process."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def reset_peak_memory(device: str) -> None:
    """Start counting the most memory torch held on a CUDA device from here."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.init()  # torch does not do so by itself for `cuda:N`
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: str) -> int:
    """Return the most memory held: by torch on a CUDA device since the reset, else by the process so far."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """Return the most memory this process held so far, its libraries counted."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def freed_memory_kept(device: str) -> Iterator[None]:
    """Let the C library keep what is freed on a CPU for the next step, instead of handing it back to the kernel.

    glibc maps every block above 32 MB anew and the kernel clears its pages: at 224 px nearly half of a training step of
    a light model. Measured, one thread, batch 24: MobileNet v2 1.30 to 0.75 s a step, ResNet18 1.66 to 1.44; at 64 px
    nothing.
    All is given back at the end. Threads other than the first gain where they share its heap (MALLOC_ARENA_MAX=1).
    Does nothing on another device or C library.
    """
    import ctypes
    import sys

    libc = ctypes.CDLL(None) if sys.platform == "linux" and not device.startswith("cuda") else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    for parameter, value in _KEEP:
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _HAND_BACK:
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def device_in_words(device: str) -> str:
    """Return what ran, for tables: a GPU's name, or the CPU with its number of threads."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.get_num_threads()} threads)"


def footprint(device: str) -> Footprint:
    """Return what this process took of a device since `reset_peak_memory`; on CUDA no other work may run there."""
    import torch

    words = device_in_words(device)
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        beside_pool = max(0, total - free - torch.cuda.memory_reserved(device))
        return Footprint(torch.cuda.max_memory_reserved(device) + beside_pool, total, words)
    return Footprint(process_peak_bytes(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), words)


def hardware(device: str) -> str:
    """Return the name of what computes, by which measurements are kept: a GPU's, or the processor's."""
    import platform
    from pathlib import Path

    if device.startswith("cuda"):
        return device_in_words(device)
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""What is asked of torch about a GPU, as far as it can be asked without one; the rest is in test_gpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from fulora.device import computes_bf16, reset_peak_memory, resolve_precision, set_speed_flags, speed_flags

from .pretended_card import pretended_card


@pytest.fixture
def torch_flags() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize(("generation", "dtype"), [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_a_gpu_that_only_emulates_bfloat16_takes_float16(
    monkeypatch: pytest.MonkeyPatch, generation: int, dtype: torch.dtype
) -> None:
    asks = torch.cuda.is_bf16_supported
    with pretended_card():
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", asks)  # torch's own, of a card of that generation
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=generation))
        assert asks(), "emulation counts where it is not ruled out"
        assert resolve_precision("auto", "cuda:0") == dtype
        assert computes_bf16("cuda") == (dtype == torch.bfloat16)
    assert not computes_bf16("cpu") and resolve_precision("auto", "cpu") == torch.float32


def test_memory_of_a_numbered_card_is_counted_from_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own raises for `cuda:1` before CUDA is initialised."""
    called: list[str] = []
    with pretended_card():
        monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: called.append(device))
        reset_peak_memory("cuda:1")
    assert called == ["init", "cuda:1"]


@pytest.mark.usefixtures("torch_flags")
def test_flags_are_set_in_one_place_and_said() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert set_speed_flags("cpu", exact_fp32=True, fixed_shapes=True) == {} == speed_flags("cpu")
    assert torch.backends.cudnn.allow_tf32 == before, "a CPU's work changes nothing"
    half = set_speed_flags("cuda", exact_fp32=False, fixed_shapes=True)
    assert half == speed_flags("cuda:0")
    assert half["tf32_matmul"] and half["tf32_convolution"] and half["cudnn_benchmark"]
    assert half["attention"] == "flash, mem_efficient, cudnn, math"
    exact = set_speed_flags("cuda", exact_fp32=True, fixed_shapes=False)
    assert not (exact["tf32_matmul"] or exact["tf32_convolution"] or exact["cudnn_benchmark"])

"""Energy is what the driver tells, or not known."""

from __future__ import annotations

import pytest
import torch

from fulora.energy import energy_joules


def test_energy_is_not_known_where_no_gpu_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert energy_joules() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_works_uses_energy() -> None:
    pytest.importorskip("pynvml")
    before = energy_joules()
    assert before is not None
    square = torch.rand(8192, 8192, device="cuda")
    for _ in range(50):
        square @ square
    torch.cuda.synchronize()
    assert energy_joules() > before  # type: ignore[operator]

"""A step over one long parameter is the step over each matrix alone, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import bitsandbytes
import pytest
import torch

from fulora.diffusion.flat_parameters import BLOCK, check_views, flatten

SHAPES = ((128, 96), (3, 5, 1, 1), (320, 7), (1,), (64, 64))
ADAM8 = {"min_8bit_size": 0}


def matrices() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: bitsandbytes.optim.AdamW8bit(p, lr=1e-2, weight_decay=0.1, **ADAM8),
        lambda p: bitsandbytes.optim.Adam8bit(p, lr=1e-2, **ADAM8),
        lambda p: torch.optim.AdamW(p, lr=1e-2),
    ],
    ids=["adamw8bit", "adam8bit", "adamw"],
)
def test_every_matrix_takes_the_step_it_would_take_alone(make: Callable[[list], torch.optim.Optimizer]) -> None:
    alone, together = matrices(), matrices()
    flat = flatten(together)
    optimizers = (make(alone), make([flat]))
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
        for parameters in (alone, together):
            loss = sum(((p * w).sum() ** 2 for p, w in zip(parameters, weights, strict=True)), torch.zeros(()))
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], matrices()[0])


def test_the_matrices_are_views_and_the_room_between_them_stays_zero() -> None:
    parameters = matrices()
    flat = flatten(parameters)
    assert flat.numel() % BLOCK == 0 and flat.grad is not None
    assert [p.shape for p in parameters] == [torch.Size(shape) for shape in SHAPES]
    sum((p.sum() for p in parameters), torch.zeros(())).backward()
    assert flat.grad.sum() == sum(p.numel() for p in parameters)
    flat.data.zero_()
    assert all(not p.any() for p in parameters)


def test_a_matrix_moved_out_of_the_optimizers_memory_is_found() -> None:
    """Channels-last gives a 1 x 1 convolution memory of its own; the optimizer would go on without it."""
    convolution = torch.nn.Conv2d(8, 4, 1, bias=False)
    linear = torch.nn.Linear(8, 4, bias=False)
    parameters = [linear.weight, convolution.weight]
    flat = flatten(parameters)
    check_views(parameters, [flat])
    convolution.double().float()
    with pytest.raises(RuntimeError, match="1 of 2 matrices were moved out of the optimizer's memory"):
        check_views(parameters, [flat])

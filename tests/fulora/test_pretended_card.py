"""The pretended card itself: it refuses what a card refuses, counts what it waits for, and computes what a CPU does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from .pretended_card import CardTensor, MixedDevices, pretended_card


def on_card(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


@pytest.mark.parametrize(
    "mixes",
    [
        lambda: on_card(4, 4) + torch.ones(4, 4),
        lambda: on_card(4, 4) @ torch.ones(4, 4),
        lambda: torch.cat([on_card(2), torch.ones(2)]),
        lambda: torch.stack([on_card(), torch.ones(())]),
        lambda: on_card(4).add_(torch.ones(4)),
        lambda: torch.nn.Linear(4, 4)(on_card(2, 4)),
        lambda: torch.nn.Linear(4, 4).to("cuda")(torch.ones(2, 4)),
        lambda: torch.ones(4)[on_card(2).long()],
        lambda: torch.where(on_card(4) > 0, on_card(4), torch.zeros(4)),
    ],
    ids=["add", "matmul", "cat", "stack", "in place", "weights", "input", "index of the card", "where"],
)
def test_mixed_devices_are_refused(mixes: Callable[[], torch.Tensor]) -> None:
    with pretended_card(), pytest.raises(MixedDevices):
        mixes()


def test_a_number_in_a_cpu_tensor_may_meet_the_card() -> None:
    with pretended_card() as card:
        assert (on_card(4) * torch.tensor(2.0)).device.type == "cuda"
        assert torch.where(on_card(4) > 0, 1.0, torch.tensor(0.0)).device.type == "cuda"
        assert card.waits == []


def test_generators_and_numpy_are_the_cards() -> None:
    with pretended_card():
        drawn = torch.randn((2,), generator=torch.Generator("cuda").manual_seed(0), device="cuda")
        assert isinstance(drawn, CardTensor)
        for generator, device in (("cpu", "cuda"), ("cuda", "cpu")):
            with pytest.raises(RuntimeError, match="generator"):
                torch.randn((2,), generator=torch.Generator(generator), device=device)
        with pytest.raises(TypeError, match="numpy"):
            drawn.numpy()
        assert drawn.cpu().numpy().shape == (2,)


@pytest.mark.parametrize(
    ("waits", "count"),
    [
        (lambda: on_card(1).item(), 1),
        (lambda: bool(on_card(1)), 1),
        (lambda: on_card(4).tolist(), 1),
        (lambda: on_card(4).cpu(), 1),
        (lambda: torch.ones(4).to("cuda"), 1),
        (lambda: torch.ones(4).to("cuda", non_blocking=True), 0),
        (lambda: on_card(4).copy_(torch.ones(4)), 1),
        (lambda: on_card(4).copy_(torch.ones(4), non_blocking=True), 0),
        (lambda: on_card(4).copy_(on_card(4)), 0),
        (lambda: torch.tensor([1, 2], device="cuda"), 1),
        (lambda: on_card(4).nonzero(), 1),
        (lambda: on_card(4)[torch.tensor([0, 1])], 1),
        (lambda: on_card(4)[on_card(2).long()], 0),
        (lambda: torch.equal(on_card(4), on_card(4)), 1),
        (lambda: torch.linalg.solve(torch.eye(2, device="cuda"), on_card(2)), 1),
        (lambda: torch.cuda.synchronize(), 1),
        (lambda: on_card(4, 4) @ on_card(4, 4), 0),
        (lambda: torch.nn.functional.scaled_dot_product_attention(*[on_card(1, 1, 4, 8)] * 3), 0),
    ],
)
def test_waits_are_counted(waits: Callable[[], object], count: int) -> None:
    with pretended_card() as card:
        waits()
        assert len(card.waits) == count, card.waits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_computes_and_learns_as_on_the_cpu(dtype: torch.dtype) -> None:
    def trained(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.LazyLinear(5)
        )
        images = torch.randn(4, 3, 8, 8).to(device)
        net(images.cpu())
        net.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
        for _ in range(3):
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                found = net(images)
            assert found.dtype == dtype and found.device.type == device
            found.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [value.cpu() for value in net.state_dict().values()]

    with pretended_card():
        there = trained("cuda")
    assert all(torch.equal(one, other) for one, other in zip(there, trained("cpu"), strict=True))

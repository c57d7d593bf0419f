"""What the device itself can do, measured where the rest is: matrix products and copies of memory per second.

    python benchmarks/rates.py --out benchmarks/results/rates.json

Other figures are shares of these: a card's published rates are not reached by anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_line import options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    device: str = "auto"
    """cpu, cuda or auto."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print and write the JSON."""
    options = options_of(Options, __doc__)
    from recording import record, torch_facts

    from fulora.device import resolve_device, speed_flags

    device = resolve_device(options.device)
    record(options, **torch_facts(device), **rates(device), speed_flags=speed_flags(device))


def rates(device: str) -> dict[str, float]:
    """Return the best of three: operations per second of a matrix product in the type of `auto`, and bytes per second
    read and written by a copy."""
    import torch
    from turns import timed

    from fulora.device import resolve_precision

    cuda = device.startswith("cuda")
    side, size, count = (8192, 2**30, 20) if cuda else (1024, 2**26, 3)
    a, b = (torch.randn(side, side, device=device, dtype=resolve_precision("auto", device)) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(work: Callable[[], Any]) -> float:
        def several() -> None:
            for _ in range(count):
                work()

        several()
        return min(timed(several, device) for _ in range(3)) / count

    return {
        "matrix_flops_per_second": 2 * side**3 / best(lambda: torch.mm(a, b)),
        "memory_bytes_per_second": 2 * size / best(lambda: target.copy_(source)),
    }


if __name__ == "__main__":
    main()

"""Contenders measured one against another: every row on the disk at once, a failure costs its own row alone.

In: by name, the most telling first, how to make a contender; a contender is a function that does one round of work.
Out: rows in a `Results`: seconds of every round, their median, the ratio to the first contender, peak memory.
On a CPU the rounds take turns, so that a busy machine slows all alike. On a GPU a contender does its rounds at once and
is let go, so that the next has the card's memory.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from recording import Results

from fulora.device import peak_memory_bytes, reset_peak_memory
from fulora.errors import one_line

Round = Callable[[], Any]


def timed(work: Round, device: str) -> float:
    """Return the seconds of a round, the device's work counted to its end."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


class Turns:
    """A contest: `unit` is what a round makes `per_round` of, such as steps or images."""

    def __init__(
        self, results: Results, *, device: str, unit: str, per_round: int, rounds: int, seconds: float = 0.0
    ) -> None:
        self.results, self.device, self.unit, self.per_round, self.rounds = results, device, unit, per_round, rounds
        self.deadline = time.monotonic() + seconds if seconds else float("inf")
        self.seconds: dict[str, list[float]] = {}
        self.first: dict[str, Any] = {}
        """What the first round of each, which is not counted, gave."""
        self.flops, self.matrix_rate = 0, 0.0
        self._facts: dict[str, dict[str, Any]] = {}

    def count(self, work: Callable[[], Round], units: int, matrix_rate: float) -> None:
        """Count the operations of a piece of work that makes `units`, so that every row has its share of the device.

        A failure costs the shares alone.
        """
        try:
            made = work()
            made()  # what is done once is not counted
            self.flops, self.matrix_rate = round(flops_of(made) / units), matrix_rate
            self.results.add(**{f"flops_per_{self.unit.removesuffix('s')}": self.flops})
        except Exception as error:
            self.results.lacks(f"share of the matrix rate: {type(error).__name__}: {one_line(error)}")

    def measure(self, contenders: dict[str, Callable[[], Round]]) -> None:
        """Measure all, as far as there is time."""
        cuda, alive = self.device.startswith("cuda"), {}
        for name, make in contenders.items():
            if time.monotonic() > self.deadline:
                self.results.lacks(f"{name}: no time was left for it")
                continue
            reset_peak_memory(self.device)
            before = torch.cuda.memory_allocated() if cuda else 0
            try:
                began = time.perf_counter()
                work = make()
                self.first[name] = work()  # not counted: it allocates, compiles and chooses kernels
                self._facts[name] = {"seconds_to_first_round": time.perf_counter() - began}
                for _ in range(self.rounds if cuda else 1):
                    self._round(name, work)
            except Exception as error:
                self.seconds.pop(name, None)
                self.results.row("contenders", name, {"failed": f"{type(error).__name__}: {one_line(error)}"})
                continue
            finally:
                peak = peak_memory_bytes(self.device) - before if cuda else None
                self._facts.setdefault(name, {})["peak_memory_bytes"] = peak
            if not cuda:
                alive[name] = work
            del work
            self._row(name)
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
        for _ in range(self.rounds - 1):
            for name, work in alive.items():
                self._round(name, work)
                self._row(name)
        for name in self.seconds:
            row = self.results.found["contenders"][name]
            rate, ratio = row[f"{self.unit}_per_second"], row["ratio_to_first"]
            print(f"{name:<32}{rate:>9.2f} {self.unit}/s  {ratio:>6.2f} x", file=sys.stderr)

    def _round(self, name: str, work: Round) -> None:
        self.seconds.setdefault(name, []).append(timed(work, self.device) / self.per_round)

    def _row(self, name: str) -> None:
        first = statistics.median(next(iter(self.seconds.values())))
        median = statistics.median(self.seconds[name])
        row = {
            f"{self.unit}_per_second": 1 / median,
            "ratio_to_first": first / median,
            f"seconds_per_{self.unit.removesuffix('s')}": self.seconds[name],
            "share_of_matrix_rate": self.flops / median / self.matrix_rate if self.flops else None,
            **self._facts[name],
        }
        self.results.row("contenders", name, row)


def flops_of(work: Callable[[], Any]) -> int:
    """Return the operations of a piece of work, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()

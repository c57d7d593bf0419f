"""Time and cost to go while a run goes on, for the display and for `sweeps status`.

In: a `ToGo`, what is spent, the price. Out: facts for now.json and words. Looked at anew every few seconds only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sweeps.console.words import clock
from sweeps.core.attempts import Attempt
from sweeps.core.step import Step
from sweeps.core.to_go import ToGo

_LOOK_EVERY = 5.0
"""Seconds between two looks."""


class Outlook:
    """What is known of a call's end."""

    def __init__(self, to_go: ToGo, *, spent: Callable[[], float], price: float | None = None) -> None:
        """Take what is to go, a function that returns the GPU-hours used by steps that ended, a GPU-hour's price."""
        self._to_go, self._spent, self._price = to_go, spent, price
        self._looked = float("-inf")
        self._facts: dict[str, Any] = {"seconds_left": None}
        self.words = ""
        """The facts for a person; empty where nothing is known."""

    def ended(self, step: Step, attempt: Attempt) -> None:
        """Note that an attempt ended: estimates of its kind are replaced by what it took."""
        if attempt.status == "SUCCEEDED":
            self._to_go.ended(step, attempt.seconds)
        elif attempt.status in ("CANCELLED", "BLOCKED", "PRUNED"):
            self._to_go.ended(step, None)

    def facts(self, running: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return seconds_left, gpu_hours_spent, gpu_hours_left and price; `running` as in now.json, by key."""
        if self._facts["seconds_left"] is None or time.monotonic() - self._looked >= _LOOK_EVERY:
            self._looked = time.monotonic()
            now = datetime.now(UTC)
            since = {key: now - datetime.fromisoformat(about["started_at"]) for key, about in running.items()}
            under_way = {k: (float(a["fraction"]), since[k].total_seconds()) for k, a in running.items()}
            left = self._to_go.left(under_way)
            self._facts = {
                "seconds_left": left and left.seconds, "gpu_hours_left": left and left.gpu_hours,
                "gpu_hours_spent": self._spent(), "price": self._price,
            }  # fmt: skip
            self.words = in_words(self._facts)
        return self._facts


def in_words(facts: Mapping[str, Any]) -> str:
    """Return the facts of now.json on time and cost in words; empty where the time is not known."""
    seconds, hours, spent = (facts.get(name) for name in ("seconds_left", "gpu_hours_left", "gpu_hours_spent"))
    if seconds is None:
        return ""
    words = f"about {clock(seconds)} left"
    if hours or spent:
        words += f", {hours:.2f} GPU-hours to go, {spent:.2f} used"
        if (price := facts.get("price")) is not None:
            words += f" ({hours * price:,.2f} and {spent * price:,.2f} in money)"
    return words

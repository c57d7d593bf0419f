"""Where a study is to run, as far as its cost depends on it: flags of `sweeps plan`. Importing this loads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from fulora.errors import fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a study is to run."""

    gpus: int | None = None
    """Number of GPUs (default: those of this machine)."""
    gpu: str | None = None
    """Name of the GPU, such as H100, or a part of it: measurements kept of it are used. Default: this machine's."""
    measure: bool = False
    """Measure a few real steps of each kind on this machine's device first: a pilot on phantoms, minutes on a CPU."""

    def validate(self) -> list[str]:
        """Return every fault of these flags."""
        if self.gpus is not None and self.gpus < 0:
            return [fault("gpus", self.gpus, "must be at least 0", "Use 0 for a machine without GPUs.")]
        return []

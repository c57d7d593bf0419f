"""What a person reads of durations and attempts, in a few words."""

from __future__ import annotations

from sweeps.core.attempts import Attempt


def clock(seconds: float) -> str:
    """Return minutes and seconds, `1:05`; hours too from one on, `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def summary(attempt: Attempt) -> str:
    """Return what an attempt came to in a few words."""
    if attempt.status == "PRUNED":
        return (
            f"pruned at step {attempt.metrics['stopped_at_step']}: held-out loss {attempt.metrics['heldout_loss']:.4f}"
        )
    if attempt.status == "BLOCKED":
        return f"blocked: {attempt.error_message}"
    if attempt.status != "SUCCEEDED":
        return f"{attempt.error_type}: {attempt.error_message}" if attempt.error_type else attempt.status.lower()
    shown = [f"{k.replace('_', ' ')} {v:.4g}" for k, v in attempt.metrics.items() if isinstance(v, float)][:2]
    return ", ".join([*shown, f"{attempt.seconds:.0f} s"])

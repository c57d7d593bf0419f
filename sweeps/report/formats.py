"""Numbers, durations and sizes as text: the filters of the templates."""

from __future__ import annotations

import base64


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a minus sign and narrow spaces between thousands; an en dash for None and nan."""
    if value is None or value != value:
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u202f")


def signed(value: float | None, digits: int = 1) -> str:
    """Return a number that always shows its sign, except for zero; an en dash for None and nan."""
    if value is None or value != value:
        return "–"
    shown = number(abs(value), digits)
    return shown if float(f"{value:.{digits}f}") == 0 else ("+" if value > 0 else "−") + shown


def duration(seconds: float | None) -> str:
    """Return a time span such as `41 s`, `3 min 05 s` or `2 h 10 min`; an en dash for None."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(num_bytes: int | None) -> str:
    """Return a number of bytes in GiB or MiB; an en dash for None."""
    if num_bytes is None:
        return "–"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 image`, `2 images`."""
    return f"{number(count, 0)} {noun if count == 1 else plural or noun + 's'}"


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a data URI, such as `data:image/png;base64,...`."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"

"""The exception for invalid input: it lists every fault, each with field, value, rule and remedy."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Invalid input, found before any work starts. The command line prints it and exits with code 2."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


def fault(field: str, value: object, rule: str, remedy: str) -> str:
    """Return one fault as text: field, value, rule, remedy."""
    return f"{field}: {value!r} {rule}. {remedy}"


def raise_if_any(faults: Sequence[str]) -> None:
    """Raise InputError with all faults, or return when there are none."""
    if faults:
        raise InputError(faults)


def one_line(text: object, limit: int = 200) -> str:
    """Return an error or a text on one line of at most `limit` characters; an error without a message by its type."""
    words = " ".join(str(text).split()) or type(text).__name__
    return words if len(words) <= limit else words[: limit - 3] + "..."

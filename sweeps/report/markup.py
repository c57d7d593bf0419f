"""HTML from Python values, escaped unless it is HTML already.

In: text, numbers, `Html`. Out: `Html`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Literal


class Html(str):
    """Text that is HTML and is not escaped again."""

    __slots__ = ()


Child = Any
"""`Html`, text, a number, None (left out), or an iterable of these."""

Columns = Sequence[tuple[str, Literal["text", "number"]]]
"""A table's columns: heading, and whether its cells are numbers, which stand right."""

_VOID = frozenset({"img", "meta", "br", "source"})


def text(child: Child) -> Html:
    """Return a child as HTML: `Html` as it is, None as nothing, an iterable joined, everything else escaped."""
    if child is None:
        return Html()
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return Html(escape(str(child), quote=True))
    return Html("".join(text(each) for each in child))


def tag(name: str, /, *children: Child, **attributes: Any) -> Html:
    """Return an element; `class_` is class, `_` in a name is a hyphen, True is a bare attribute, None is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{escape(str(value), quote=True)}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening if name in _VOID else f"{opening}{text(children)}</{name}>")


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as an address that carries them, such as `data:image/png;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def scrolling(label: str, *children: Child) -> Html:
    """Return a box that scrolls sideways by itself, also by keyboard, where the screen is narrower than its content."""
    return tag("div", *children, class_="scroll", role="region", aria_label=label, tabindex="0")


def grid(
    caption: str,
    columns: Columns,
    rows: Iterable[Sequence[Child]],
    *,
    note: Child = None,
) -> Html:
    """Return a table whose first cell of each row names the row; numbers stand right."""
    kinds = ["num" if kind == "number" else None for _, kind in columns]
    head = tag("tr", [tag("th", name, scope="col", class_=kind) for (name, _), kind in zip(columns, kinds)])
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=kinds[0]),
            [tag("td", cell, class_=kind or _keep(cell)) for cell, kind in zip(row[1:], kinds[1:])],
        )
        for row in rows
    ]
    table = tag("table", tag("caption", caption, note), tag("thead", head), tag("tbody", body))
    return scrolling(caption, table)


def _keep(cell: Child) -> str | None:
    """Return the class that keeps a short text on one line; a long one, such as an error message, wraps."""
    return "keep" if isinstance(cell, str) and len(cell) < 48 else None


def absent(sentence: str) -> Html:
    """Return the box that stands where something would be, had the run got so far."""
    return tag("p", sentence, class_="absent")


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign; an en dash where it is not known."""
    if value is None or value != value:
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u2009")


def signed(value: float, digits: int = 1) -> str:
    """Return a number that always shows its sign."""
    shown = number(abs(value), digits)
    return shown if float(f"{value:.{digits}f}") == 0 else ("+" if value > 0 else "−") + shown


def duration(seconds: float | None) -> str:
    """Return a time span as a person says it: `41 s`, `3 min 05 s`, `2 h 10 min`."""
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
    """Return a number of bytes in GiB or MiB."""
    if num_bytes is None:
        return "–"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"

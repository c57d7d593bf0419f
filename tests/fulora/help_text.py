"""What a command's help says of each flag, read from its text."""

from __future__ import annotations

import re


def flag_texts(text: str) -> dict[str, str]:
    """Return what a help text of 80 columns says of each flag, without its default; "" where it says nothing."""
    found: dict[str, str] = {}
    name = ""
    for row in text.splitlines():
        line = row.strip(" │|")
        flag = re.match(r"(?:-h, )?(--[a-z][\w.-]*)", line) if row != row.lstrip(" │|") else None
        if flag:
            name = flag[1]
            _, _, found[name] = line.partition("  ")
        elif not line or line.startswith(("-", "─", "╰", "╭")):
            name = ""
        elif name:
            found[name] = f"{found[name]} {line}"
    return {name: re.sub(r"\((default|required|repeatable)\b.*", "", said).strip() for name, said in found.items()}

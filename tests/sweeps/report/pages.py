"""What a page says, as plain words."""

from __future__ import annotations

import html
import re


def words_of(page: str) -> str:
    """Return a page's visible text on one line."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))

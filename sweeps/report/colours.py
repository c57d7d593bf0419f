"""Colours of the report: one per regime, rank, source, model and stage.

Every colour has a contrast of at least 3 to 1 on white, those of regimes 4.5 to 1 as they colour text, too. A marker or
a name always accompanies a colour, so that nothing depends on telling two colours apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

INK, MUTED, LINE = "#1b2430", "#5b6675", "#d9dee6"

REGIMES = {
    "ES": "#6b7280",
    "ES+DA": "#9a6b1f",
    "HB": "#1f5fa8",
    "HB+DA": "#7a3b9c",
    "AF": "#2c7d46",
    "ES+AF": "#b03a5b",
    "SYN->ES": "#4a5d23",
    "SYN->ES+DA": "#5c3d7a",
    "HB full": "#0b5c70",
    "HB full+DA": "#8a3324",
}
"""Colours of the paper's regimes."""
OTHER_REGIMES = ("#00808a", "#c2501a", "#6b7a12", "#5257d6", "#6b3f2a", "#c0339f", "#2b2f36")
"""Colours of any other regime."""
RANKS = ("#5f99d1", "#3f83c4", "#123f73", "#7a3b9c", "#b0507f")
SOURCES = {
    "spanish": ("Spanish", "#c9302c", "o"),
    "synthetic": ("Synthetic", "#bd7f00", "^"),
    "african": ("African", "#2c8a4b", "s"),
}
"""Name, colour and marker of each source; the colours are those of the paper's Fig. 3."""
MODELS = (("#1f5fa8", "o"), ("#c9772c", "s"), ("#2c8a4b", "^"), ("#7a3b9c", "D"), ("#6b7280", "v"))
"""Colour and marker of each model, in the order of the table."""
STAGES = {"judge": "#6f7a88", "lora": "#c26a1f", "sample": "#2c8a4b", "grid": "#1f5fa8"}


def regime_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each regime: the paper's regimes have fixed ones, another has one that follows from its name.

    A set of names always gets the same colours, whatever its order; up to seven other regimes get distinct ones.
    """
    names = set(names)
    found = {name: REGIMES[name] for name in sorted(names) if name in REGIMES}
    free = list(OTHER_REGIMES)
    for name in sorted(names - found.keys()):
        start = crc32(name.encode()) % len(OTHER_REGIMES)
        free = free or list(OTHER_REGIMES)
        order = (OTHER_REGIMES[(start + step) % len(OTHER_REGIMES)] for step in range(len(OTHER_REGIMES)))
        found[name] = next(colour for colour in order if colour in free)
        free.remove(found[name])
    return found


def cycle(colours: Sequence[str], count: int) -> list[str]:
    """Return `count` colours, repeated where there are fewer."""
    return [colours[i % len(colours)] for i in range(count)]

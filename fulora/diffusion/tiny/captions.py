"""Captions of scenes and specimens in many wordings, so that the tiny base follows words rather than one sentence.

In: the phantoms' captions ("an ultrasound of a large dark cyst left, a small bright rod right, in grey tissue", or
"a photo of quiet lantern"). Out: shorter and reworded ones, and the mirrored image's.
"""

from __future__ import annotations

import re

import numpy as np

_OPENINGS = ("an ultrasound of ", "a photo of ", "an image of ", "a picture of ", "an ultrasound scan of ", "")
_MIRRORED = {"left": "right", "right": "left"}


def mirrored(caption: str) -> str:
    """Return the caption of the image flipped left to right."""
    return re.sub(r"\b(left|right)\b", lambda found: _MIRRORED[found[0]], caption)


def reworded(caption: str, rng: np.random.Generator) -> str:
    """Return the caption with a drawn opening, sometimes without the smaller things, the tissue or the surroundings."""
    if caption.startswith("a photo of "):
        words = caption.removeprefix("a photo of ").split()
        opening = "a photo of " if rng.random() < 0.5 else _OPENINGS[rng.integers(len(_OPENINGS))]
        return opening + " ".join(words if rng.random() < 0.85 else words[1:])
    body = caption.removeprefix("an ultrasound of ")
    things, separator, tissue = body.rpartition(", in ")
    if not separator:
        things, tissue = body, ""
    named = re.split(r", (?=a )", things)
    if rng.random() < 0.4:
        named = named[: int(rng.integers(1, len(named) + 1))]
    if rng.random() < 0.3:
        named = [thing.removeprefix("a ") for thing in named]
    text = _OPENINGS[rng.integers(len(_OPENINGS))] + ", ".join(named)
    return f"{text}, in {tissue}" if tissue and rng.random() < 0.7 else text

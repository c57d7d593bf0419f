"""The tiny base's tokenizer: CLIP's byte-level pair encoding with a vocabulary of its own, small enough to read.

In: the words below. Out: a `CLIPTokenizer` in which each of them is one token and any other text falls back to pieces
and bytes. Deterministic.
Source: Sennrich et al. 2016 (pair encoding); Radford et al. 2021 (the byte-level form with `</w>`).
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from fulora.data.phantoms.specimens import NAMES, SURROUNDINGS

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import CLIPTokenizer

WORDS = """
a an and are as at be below above across by down for from in inside into is it near no not of off on one or out outside
over side the this three to two under up with without four five six seven eight nine ten left middle right top bottom
small medium large long short thin thick round oval flat curved straight bent wide narrow deep shallow high low big tiny
dark grey gray bright black white soft hard clear noisy blurred sharp smooth rough empty full light strong weak faint
photo image picture scan ultrasound ultrasonogram sonogram sonography view frame section slice plane standard medical
cyst cysts wall walls ring rings rod rods shadow shadows row rows bead beads lump lumps spotted pair pairs fan fans
fluid tissue layer layers speckle sector machine probe depth gain contrast scene shape line lines spot spots circle
ellipse band bands texture background artefact artifact
fetal fetus foetal foetus maternal cervix abdomen abdominal brain cerebral head skull femur leg thigh bone thorax chest
heart cardiac chamber chambers stomach vein liver kidney bladder spine rib ribs lung lungs arm hand foot face profile
nose lip eye orbit cord placenta midline falx cerebellum ventricle thalamus cavum plexus pregnancy trimester week
mother baby infant human body organ limb shaft cross sagittal coronal axial transverse longitudinal oblique other
biparietal diameter circumference length anatomy anatomical normal abnormal patient hospital clinic doctor quality
style realistic detailed high-resolution grayscale monochrome spanish african europe africa spain
"""
"""What becomes one token each, beside the specimens' names: the words of the scenes' captions, of obstetric
ultrasound and of common prompts."""

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 32
"""Tokens in a prompt, start and end counted. Stable Diffusion's 77 would cost a third of a training step in padding."""


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return pair merges, most frequent pair first (ties by spelling), until every word is one piece."""
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for split in pieces.values() for pair in pairwise(split))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, split in pieces.items():
            joined: list[str] = []
            for piece in split:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces[word] = joined


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files into a folder and return the tokenizer read back from them."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    # CLIP's splitting cuts at hyphens, so a hyphenated word is two.
    merges = learn_merges([part for word in [*WORDS.split(), *NAMES, *SURROUNDINGS] for part in word.split("-")])
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary += dict.fromkeys("".join(pair) for pair in merges)
    vocabulary += [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {**special, "model_max_length": MAX_LENGTH, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return CLIPTokenizer.from_pretrained(folder)

"""Which settings set a run's row apart from the paper's row of the same name.

In: a run's configuration as plan.json has it. Out: sentences; empty where the row was trained as the paper or the
released code says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fulora.recipes import paper, repo
from sweeps.core.hashing import to_jsonable

_CLASSIFIER = ("epochs", "num_steps", "batch_size", "learning_rate", "momentum", "optimizer", "resolution_px")
_SYNTHETIC = {
    "lora": ("num_steps", "batch_size", "learning_rate", "resolution_px"),
    "sampling": ("num_steps", "rank"),
}
_WORDS = {"lora": "LoRA's", "sampling": "sampling's", "grid": "classifiers'"}


def other_settings(experiment: Mapping[str, Any], *, with_synthetic: bool) -> list[str]:
    """Return the settings that are neither the paper's nor the released code's, such as epochs, resolution or steps.

    Those of LoRA and sampling count where a row trains on synthetic images. A setting that plan.json lacks is none.
    """
    references = [to_jsonable(recipe()) for recipe in (paper, repo)]
    asked = {"grid": _CLASSIFIER} | (_SYNTHETIC if with_synthetic else {})
    found = []
    for part, names in asked.items():
        mine = experiment.get(part) or {}
        for name in names:
            allowed = list(dict.fromkeys(r[part].get(name) for r in references))
            if name in mine and mine[name] not in allowed:
                theirs = " or ".join(map(str, allowed))
                found.append(f"{_WORDS[part]} {name} {mine[name]}, not {theirs}")
    return found

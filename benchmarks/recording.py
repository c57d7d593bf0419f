"""What every benchmark does at its end: say what was asked and where it ran, write the JSON, print it."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any


def record(options: Any, **measured: Any) -> None:
    """Print a benchmark's options, the interpreter and what was measured as JSON; write it to `options.out`, if any."""
    asked = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items()}
    text = json.dumps({"options": asked, "python": platform.python_version(), **measured}, indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


def torch_facts(device: str) -> dict[str, Any]:
    """Return the device and what computed on it, for `record`."""
    import torch

    from fulora.device import device_in_words

    return {"device": device_in_words(device), "torch": torch.__version__, "cpu_threads": torch.get_num_threads()}

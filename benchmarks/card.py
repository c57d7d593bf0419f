"""Everything a GPU machine is asked, in one command and at most nine minutes: `make card`, or

    python benchmarks/card.py --out benchmarks/results/card.json
    python benchmarks/card.py --device cpu        # proves that it starts: small sizes, no figures of use

For a bare machine with one GPU, PyTorch 2.11 or later and no Ray. What a part needs and does not find is said, and the
others go on. The parts are the other benchmarks and `pytest -m gpu`, each in a process of its own with a time of its
own, the most telling first; what a part has measured when it is stopped or fails stays. The JSON is rewritten as each
ends. This file needs nothing but Python.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
SCIENCE = ("torch", "numpy", "PIL", "safetensors")
DIFFUSION = (*SCIENCE, "diffusers", "transformers", "peft")
CLASSIFIERS = (*SCIENCE, "torchvision", "timm")
LEAST_TORCH = (2, 11)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the run."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    seconds: int
    """After which it is stopped."""


def parts(device: str) -> list[Part]:
    """Return what runs, the most telling first: nine minutes on a GPU, small sizes on a CPU."""
    cuda = device != "cpu"
    pytest = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        str(ROOT / "tests" / "fulora"),
    )

    def part(name: str, needs: tuple[str, ...], seconds: int, *flags: str) -> Part:
        # A part is told a shorter time than it has, so that it ends by itself with its last contender's row.
        told = () if name == "rates" else ("--seconds", str(round(seconds * 0.7)))
        return Part(
            name=name, needs=needs, seconds=seconds,
            command=(sys.executable, str(HERE / f"{name}.py"), "--device", device, *told, *flags),
        )  # fmt: skip

    if not cuda:
        small = ("--base", "tiny", "--resolution-px", "64", "--rounds", "1")
        return [
            part("rates", SCIENCE, 60),
            Part(name="tests", command=(*pytest, "--collect-only"), needs=("pytest", *DIFFUSION), seconds=120),
            part("sampling", DIFFUSION, 150, *small, "--images", "4", "--batch-size", "2", "--num-steps", "2"),
            part("finetune", DIFFUSION, 150, *small, "--steps", "1", "--rank", "8", "--batch-size", "1",
                 "--no-compiled"),
            part("ranks", DIFFUSION, 90, *small, "--steps", "1", "--ranks", "4", "8", "--batch-size", "1"),
            part("grid", CLASSIFIERS, 150, "--models", "MobileNet v2", "--images", "24", "--epochs", "1",
                 "--resolution-px", "64", "--workers", "0"),
            part("png", SCIENCE, 60, "--resolution-px", "64", "--images", "4"),
        ]  # fmt: skip
    large = ("--base", "random:sd15", "--resolution-px", "512", "--rounds", "2")
    return [
        part("rates", SCIENCE, 25),
        Part(name="tests", command=pytest, needs=("pytest", *DIFFUSION), seconds=100),
        part("sampling", DIFFUSION, 130, *large, "--images", "16", "--batch-size", "16"),
        part("finetune", DIFFUSION, 90, *large, "--steps", "20"),
        part("grid", CLASSIFIERS, 110, "--resolution-px", "512", "--epochs", "1", "--workers", "16",
             "--models", "ResNet18", "EfficientNet b0"),
        part("ranks", DIFFUSION, 65, *large, "--steps", "10", "--processes"),
        part("png", SCIENCE, 15),
    ]  # fmt: skip


def main() -> int:
    """Run all parts; returns 0 where every one of them ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, or cpu for a small run")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "card.json")
    parser.add_argument("--only", nargs="*", default=[], help="names of parts to run, instead of all")
    options = parser.parse_args()
    found: dict[str, Any] = {"python": platform.python_version(), "commit": _commit(), "lacks": [], "parts": {}}
    device = _device(options.device, found["lacks"])
    found["device"] = device
    began, bad = time.monotonic(), 0
    for part in parts(device):
        if options.only and part.name not in options.only:
            continue
        missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
        if missing:
            found["lacks"].append(f"{part.name}: {', '.join(missing)} not installed; it was left out")
            bad += 1
        else:
            found["parts"][part.name] = row = run(part)
            bad += row["ended"] != "well"
            print(f"{part.name:<20} ended {row['ended']}, {row['took_seconds']:.0f} s", flush=True)
        found["took_seconds"] = time.monotonic() - began
        _write(options.out, found)
    for line in found["lacks"]:
        print(f"lacks {line}")
    print(f"{options.out}: {found.get('took_seconds', 0):.0f} s")
    return 1 if bad else 0


def run(part: Part) -> dict[str, Any]:
    """Return what a part measured, however it ended: well, with an exit code, or stopped after its time."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out, log = Path(scratch) / "out.json", Path(scratch) / "log"
        measures = part.name != "tests"
        command = [*part.command, *(("--out", str(out)) if measures else ())]
        places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, stdout=said, stderr=said, cwd=ROOT, start_new_session=True,
                env={**os.environ, "PYTHONPATH": places},
            )  # fmt: skip
            try:
                code = process.wait(part.seconds)
                ended = "well" if code == 0 else f"with exit code {code}"
            except subprocess.TimeoutExpired:
                ended = f"stopped after its {part.seconds} s"
            finally:
                _end(process)
        lines = log.read_text(errors="replace").splitlines()
        row: dict[str, Any] = {"ended": ended, "took_seconds": time.monotonic() - began}
        if measures and out.exists():
            row |= json.loads(out.read_text())
        if ended != "well" or not measures:
            row["last_lines"] = lines[-25:]
        return row


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a part, its own children too: they are a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _device(asked: str, lacks: list[str]) -> str:
    """Return what to run on, having said what is missing."""
    if importlib.util.find_spec("torch") is None:
        lacks.append("torch: nothing can be measured")
        return "cpu"
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < LEAST_TORCH:
        lacks.append(f"torch {version}: 2.11 or later is what this is written for")
    import torch

    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        lacks.append(f"{asked}: torch finds no CUDA device; a small run on the CPU instead")
        return "cpu"
    if asked == "cpu":
        lacks.append("a GPU: this run proves that the command starts, its figures say nothing")
    return asked


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _write(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.part")
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(scratch, file)


if __name__ == "__main__":
    sys.exit(main())

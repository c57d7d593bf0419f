"""`python -m fulora.diffusion.tiny --out DIR`: train the tiny base anew, a line of progress now and then."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fulora.diffusion.tiny.training import train_tiny


def main() -> None:
    """Train into the folder that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m fulora.diffusion.tiny", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained base, in diffusers' layout")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes, the weights and the noise")
    arguments = parser.parse_args()

    def on_log(row: dict[str, float | str]) -> None:
        parts = (
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
        )
        sys.stdout.write("  ".join(parts) + "\n")
        sys.stdout.flush()

    train_tiny(arguments.out, seed=arguments.seed, on_log=on_log)


if __name__ == "__main__":
    main()

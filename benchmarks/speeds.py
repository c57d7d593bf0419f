"""How long the works of a study take on this machine's device, kept for `sweeps plan --gpu NAME`.

    python benchmarks/speeds.py --recipe demo --out benchmarks/results/speeds-demo-cpu.json
    python benchmarks/speeds.py --recipe paper --base random:sd15 --out benchmarks/results/speeds-paper-h100.json
    python benchmarks/speeds.py --keep        # writes sweeps/cost/speeds.json anew from results/speeds-*.json

It is the pilot of `sweeps plan --measure`; `random:sd15` is Stable Diffusion 1.5's architecture, which takes as long.
What else runs on the machine meanwhile is in the figures: the load average is written beside them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import tyro
from recording import Results

from fulora.recipes import RECIPES
from sweeps.core.hashing import to_jsonable
from sweeps.cost.speeds import KEPT
from sweeps.engine.options import ClusterOptions
from sweeps.pilot import measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    recipe: str = "demo"
    """Recipe whose works are measured."""
    base: str | None = None
    """Diffusion base instead of the recipe's."""
    keep: bool = False
    """Measure nothing; gather what is in benchmarks/results for the package."""
    out: Path | None = None
    """JSON file to write."""


def kept() -> str:
    """Return the content of sweeps/cost/speeds.json: every machine of the results, in the order of their names."""
    files = sorted((Path(__file__).parent / "results").glob("speeds-*.json"))
    return json.dumps({"machines": [json.loads(file.read_text())["machine"] for file in files]}, indent=1) + "\n"


def main() -> None:
    """Measure, print and write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    if options.keep:
        KEPT.write_text(kept())
        return
    experiment = RECIPES[options.recipe]()
    experiment = dataclasses.replace(experiment, base=options.base or experiment.base)
    results = Results(options, cores=os.cpu_count(), load_at_begin=os.getloadavg()[0])
    machine = measure(experiment, ClusterOptions(), lambda text: print(text, file=sys.stderr))
    results.add(machine=to_jsonable(machine), load_at_end=os.getloadavg()[0])
    print(results.text())


if __name__ == "__main__":
    main()

"""Flow of patients from the images there are to the sets they are in (CLAIM 2024, item 35; TRIPOD+AI, item 20a)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.report import figures
from sweeps.report.colours import MUTED, SOURCES
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles
from sweeps.report.formats import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A set of images, and the box it comes from."""

    title: str
    words: str
    source: str
    level: int
    """Row of the figure, from 0 at the top."""
    parent: int | None = None
    """Index of the box above it that its images are from."""


def flow_boxes(run: RunFiles) -> list[Box]:
    """Return the boxes of a run: sources, splits, and what is trained and tested; empty without a catalog."""
    found: list[Box] = []
    for source, (name, _, _) in SOURCES.items():
        rows = [r for r in run.tables["catalog"] if r["source"] == source]
        if source == "synthetic" or not rows:
            continue
        root = len(found)
        found.append(Box(title=f"{name} images", words=_people(rows), source=source, level=0))
        for split in sorted({r["split"] for r in rows}, reverse=True):
            mine = [r for r in rows if r["split"] == split]
            title = "tested on" if (source, split) == ("african", "test") else f"{split} split"
            found.append(Box(title=title, words=_people(mine), source=source, level=1, parent=root))
            if (source, split) == ("spanish", "train"):
                found += _trained(run, len(found) - 1)
    return found


def _trained(run: RunFiles, parent: int) -> list[Box]:
    """Return what is trained on Spanish images: the adapter, and the regimes of Table 1 without augmentation."""
    found = []
    learned = [r for r in run.tables["trials"] if r["stage"] == "lora" and r.get("metric_num_images")]
    if learned:
        words = counted(int(learned[0]["metric_num_images"]), "image")
        found.append(Box(title="LoRA", words=words, source="spanish", level=2, parent=parent))
    for row in {r["regime"].removesuffix("+DA"): r for r in run.tables["table1"] if r["num_es"] is not None}.values():
        words = f"{counted(row['num_es'], 'image')} of {counted(row['num_patients'], 'patient')}"
        words += f"\n+ {row['num_synthetic']} synthetic" if row["num_synthetic"] else ""
        title = row["regime"].removesuffix("+DA")
        found.append(Box(title=title, words=words, source="spanish", level=2, parent=parent))
    return found


def _people(rows: list[Row]) -> str:
    patients = len({r["patient_id"] for r in rows if r["patient_id"]})
    return f"{counted(len(rows), 'image')}\nof {counted(patients, 'patient')}"


def flow_figure(run: RunFiles) -> figures.Drawing | None:
    """Return the figure; None without a catalog."""
    boxes = flow_boxes(run)
    return figures.drawing(run.figures, "flow", _draw(boxes), width_px=760) if boxes else None


def _draw(boxes: list[Box]) -> figures.Draw:
    def draw(narrow: bool) -> Figure:
        figure = figures.new(4.2 if narrow else 7.6, 3.4)
        axes = figure.subplots()
        axes.axis("off")
        axes.set(xlim=(0, 1), ylim=(-0.5, 2.5))
        places: dict[int, tuple[float, float]] = {}
        for level in range(3):
            mine = [i for i, box in enumerate(boxes) if box.level == level]
            places |= {i: ((k + 0.5) / len(mine), 2 - level) for k, i in enumerate(mine)}
        for i, box in enumerate(boxes):
            x, y = places[i]
            if box.parent is not None:
                above = places[box.parent]
                style = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", xy=(x, y + 0.32), xytext=(above[0], above[1] - 0.3), arrowprops=style)
            frame = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": SOURCES[box.source][1]}
            size = 6.5 if narrow else 8.5
            axes.text(x, y, f"{box.title}\n{box.words}", ha="center", va="center", fontsize=size, bbox=frame)
        return figure

    return draw

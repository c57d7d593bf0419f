"""What a run shows, in words computed from its tables; and what in it stands in for the real thing.

In: a run's files. Out: sentences and key numbers. Nothing is said that the tables do not hold.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fulora.data.regimes import REGIMES
from fulora.diffusion.base_files import TINY
from sweeps.report.change import Change, change
from sweeps.report.files import Row, RunFiles
from sweeps.report.markup import number, signed

FROM_SCRATCH = "from scratch"
"""How `fulora.classify.models` names weights that are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyNumber:
    """A number large enough to be read first."""

    value: str
    what: str
    detail: str


def stand_ins(run: RunFiles) -> list[tuple[str, str]]:
    """Return what is not the real thing in this run, as (what, what that means)."""
    found = []
    sources = [s for s in ("spanish", "african") if run.on_phantoms(s)]
    if sources:
        which = "Images" if len(sources) == 2 else f"The {sources[0].capitalize()} images"
        found.append(
            (
                f"{which} are phantoms",
                "simulated ultrasound, not scans of anyone. No number here says anything about patients.",
            )
        )
    if base_name(run).split(" ")[0] == TINY:
        found.append(
            (
                "The diffusion base is the bundled tiny one",
                "a small model pre-trained on generic phantoms, not Stable Diffusion 1.5.",
            )
        )
    scratch = [r for r in scored(run) if FROM_SCRATCH in (r["weights"] or "")]
    if scratch:
        every = len(scratch) == len(scored(run))
        found.append(
            (
                f"{'All' if every else len(scratch)} {'' if every else f'of {len(scored(run))} '}"
                f"classifiers {'are' if every or len(scratch) > 1 else 'is'} trained from scratch",
                "the paper’s begin from ImageNet weights. Each row of the tables says which it was.",
            )
        )
    return found


def scored(run: RunFiles) -> list[Row]:
    """Return the rows of Tables 1 and 2 that have scores, each cell once."""
    rows = [r for name in ("table1", "table2") for r in run.tables[name] if r["accuracy"] is not None]
    return list({(r["regime"], r["model"]): r for r in rows}.values())


def base_name(run: RunFiles) -> str:
    """Return what the diffusion base was: as recorded, else as asked for, else empty."""
    recorded = next((r["base"] for r in run.tables["ranks"] if r["base"]), None)
    generated = next((rows[0]["base"] for rows in run.images.values() if rows and rows[0]["base"]), None)
    return str(recorded or generated or run.experiment.get("base") or "")


def best_row(run: RunFiles) -> Row | None:
    """Return the row of Table 1 with the highest accuracy, the first of equals; None where none has scores."""
    rows = [r for r in run.tables["table1"] if r["accuracy"] is not None]
    return max(rows, key=lambda r: r["accuracy"], default=None)


def changes(run: RunFiles) -> list[Change]:
    """Return what synthetic images change: HB against ES, and with augmentation HB+DA against ES+DA."""
    pairs = [("HB", "ES"), ("HB+DA", "ES+DA")]
    found = (change(run.tables["table1"], run.tables["predictions"], a, b, seed=run.seed) for a, b in pairs)
    return [c for c in found if c is not None]


def key_numbers(run: RunFiles, found: list[Change]) -> list[KeyNumber]:
    """Return the numbers of the page's head."""
    numbers = []
    for c in found[:1]:
        for name, label in (("accuracy", "accuracy"), ("f1", "F1")):
            value, low, high = c.values[name]
            paper = f"; paper {signed(c.published[name])}" if c.published else ""
            numbers.append(
                KeyNumber(
                    value=signed(value),
                    what=f"points of {label}, {c.regime} against {c.reference}",
                    detail=f"95 % interval {signed(low)} to {signed(high)}{paper}",
                )
            )
    if (row := chosen_rank(run)) is not None and row["recognised"] is not None:
        numbers.append(
            KeyNumber(
                value=f"{number(row['recognised'], 1)} %",
                what=f"of rank {row['rank']} images show the plane asked for",
                detail=f"without the adapter {number(row['recognised_base'], 1)} %",
            )
        )
    if (best := best_row(run)) is not None:
        numbers.append(
            KeyNumber(
                value=f"{number(best['accuracy'], 1)} %",
                what=f"best accuracy: {best['regime']}, {best['model']}",
                detail=f"95 % interval {number(best['accuracy_low'], 1)} to {number(best['accuracy_high'], 1)}; "
                "paper’s best 82.40",
            )
        )
    return numbers


def chosen_rank(run: RunFiles) -> Row | None:
    """Return the row of the adapter whose images classifiers train on."""
    rows = run.tables["ranks"]
    return next((r for r in rows if r["chosen"]), rows[-1] if rows else None)


def verdict(run: RunFiles, found: list[Change]) -> list[str]:
    """Return the verdict, a few sentences."""
    kinds = {str(run.on_phantoms(s)) for s in ("spanish", "african")}
    on = {"True": "On phantoms", "False": "On real images"}.get(" ".join(kinds), "In this run")
    sentences = [_first(c, on, run) if i == 0 else _further(c) for i, c in enumerate(found)]
    if not found:
        sentences.append(
            f"{on}, no regime with synthetic images can be compared with one without: see the tables below."
        )
    if (row := chosen_rank(run)) is not None and row["recognised"] is not None:
        heldout = (
            f" (itself right on {number(row['judge_accuracy'], 1)} % of {row['judge_num_heldout']} held-out images)"
        )
        sentences.append(
            f"A judge{heldout if row['judge_accuracy'] is not None else ''} recognises "
            f"{number(row['recognised'], 1)} % of "
            f"{row['num_images']} images of the rank {row['rank']} adapter as the plane that was asked for, and "
            f"{number(row['recognised_base'], 1)} % of {row['num_base_images']} images that the base makes of the same "
            "prompts without it."
        )
    if (best := best_row(run)) is not None:
        sentences.append(
            f"The highest accuracy of Table 1 is {number(best['accuracy'], 1)} % "
            f"({number(best['accuracy_low'], 1)} to {number(best['accuracy_high'], 1)}), of {best['model']} trained on "
            f"{best['regime']}."
        )
    return sentences


def _first(c: Change, on: str, run: RunFiles) -> str:
    """Return the sentence on the first pair of regimes, whole."""
    accuracy, f1 = (_interval(c.values[name]) for name in ("accuracy", "f1"))
    return (
        f"{on}, training on the hybrid set instead of the Spanish one{_sizes(c, run)} changes zero-shot accuracy by "
        f"{accuracy} points and F1 by {f1}, mean of {_counted(len(c.models), 'model')} on {c.num_images} test "
        "images of "
        f"{_counted(c.num_patients, 'patient')}: {_reading(c)}.{_paper(c)}"
    )


def _further(c: Change) -> str:
    """Return the sentence on a further pair."""
    accuracy, f1 = (_interval(c.values[name]) for name in ("accuracy", "f1"))
    return f"{c.regime} against {c.reference}: accuracy {accuracy}, F1 {f1}: {_reading(c)}.{_paper(c)}"


def _interval(value: tuple[float, float, float]) -> str:
    return f"{signed(value[0])} ({signed(value[1])} to {signed(value[2])})"


def _paper(c: Change) -> str:
    if not c.published:
        return ""
    return f" The paper’s table has {signed(c.published['accuracy'])} and {signed(c.published['f1'])}."


def _sizes(c: Change, run: RunFiles) -> str:
    rows = {r["regime"]: r for r in run.tables["table1"] if r["num_es"] is not None}
    if c.regime not in rows or c.reference not in rows:
        return ""
    hybrid, spanish = rows[c.regime], rows[c.reference]
    parts = f"{hybrid['num_es']} Spanish and {hybrid['num_synthetic']} synthetic images"
    return f" ({parts} instead of {spanish['num_es']} Spanish)"


def _reading(c: Change) -> str:
    _, low, high = c.values["accuracy"]
    if low > 0:
        return "an increase of accuracy larger than the choice of test patients explains"
    if high < 0:
        return "a decrease of accuracy larger than the choice of test patients explains"
    return "no change of accuracy that these patients can show, as the interval includes zero"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def what_ran(run: RunFiles) -> str:
    """Return one sentence on what the run consists of."""
    parts = []
    counts = Counter(r["source"] if r["source"] == "spanish" else r["split"] for r in run.tables["catalog"])
    if counts:
        spanish = "Spanish-like phantoms" if run.on_phantoms("spanish") else "Spanish images"
        african = "African-like phantoms" if run.on_phantoms("african") else "African images"
        parts.append(f"{counts['spanish']} {spanish}, {counts['test']} {african} to test on")
    if run.losses:
        parts.append(f"{_counted(len(run.losses), 'LoRA rank')} on the base {base_name(run) or 'not recorded'}")
    if run.images["synthetic"]:
        parts.append(f"{len(run.images['synthetic'])} synthetic images")
    trained = [r for r in run.tables["trials"] if r["stage"] == "grid" and r["status"] == "SUCCEEDED"]
    if trained:
        parts.append(_counted(len({r["trial_id"] for r in trained}), "trained classifier"))
    return "; ".join(parts)


def regime_words(name: str) -> str:
    """Return what a regime trains on, from its definition."""
    regime = REGIMES.get(name)
    if regime is None:
        return name
    parts = [{"all": "Spanish images", "balanced": "a balanced part of the Spanish images"}.get(regime.spanish)]
    parts += ["African training images" if regime.african else None, "synthetic images" if regime.synthetic else None]
    words = " and ".join(p for p in parts if p)
    return words + (", augmented" if regime.augment else "")

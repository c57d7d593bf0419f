"""The card of an uploaded set of synthetic images: how they were made, how close to real ones, licence, how to load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.publish.card import NOT_STABLE_DIFFUSION

PAPER = "[arXiv 2407.20072](https://arxiv.org/abs/2407.20072)"
_DEPENDS = (
    "An image depends on adapter, prompt, sampler, seed, steps and guidance alone; `metadata.parquet` has these and the"
    " SHA-256 of each file."
)
_LIMITS = (
    "The label of an image is the plane of its prompt: nobody has read the images. They inherit what is rare or wrong"
    " in the images the adapter learned from; report results on real images of other patients."
)
_COMPARED = (
    "Distances are to real images of patients that the adapter did not learn from; `real` is such images against each"
    " other. Compare rows of this table only."
)
_CLOSER = "Images closer to a training image, by pixels or features, than any real image of another patient"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The hub's categories of size, by their upper end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a card says of a set."""

    to: str
    """OWNER/NAME."""
    licence: str
    """An identifier of the hub, such as `cc-by-4.0`."""
    label: str
    """The adapter: `base` or `rank-NNN`."""
    phantoms: bool
    """Whether the adapter learned from simulated images."""
    base: str
    """The base model as the run was given it."""
    base_name: str
    """The base model in public, with the hash of its weights."""
    trial: Mapping[str, Any]
    """Configuration of the fine-tuning; empty without an adapter."""
    settings: Mapping[str, Any]
    """The run's sampling settings."""
    rows: Sequence[Mapping[str, Any]]
    """Rows of `metadata`."""
    fidelity: Sequence[Mapping[str, Any]]
    """Rows of the table `fidelity`, of this adapter and of real images."""
    copies: Sequence[Mapping[str, Any]]
    """The row of the table `copies`, where the images were audited."""

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.to.partition("/")[2]

    @property
    def description(self) -> str:
        """What the set is, in one sentence."""
        learned = "simulated fetal ultrasound images (phantoms)" if self.phantoms else "fetal ultrasound images"
        adapter = f", fine-tuned by LoRA on {learned}" if self.trial else ""
        return (
            f"{len(self.rows)} synthetic fetal ultrasound images of five standard planes, sampled from the latent"
            f" diffusion model {self.base_name}{adapter}. For research; not for diagnosis."
        )


def dataset_card(facts: Facts) -> str:
    """Return the card, its front matter as `huggingface_hub` writes it."""
    from huggingface_hub import DatasetCard, DatasetCardData

    about = DatasetCardData(
        license=facts.licence,
        task_categories=["image-classification", "text-to-image"],
        tags=["synthetic", "fetal-ultrasound", "medical", "lora", "diffusers"],
        size_categories=[next((name for end, name in _SIZES if len(facts.rows) < end), "n>1M")],
        pretty_name=facts.name,
    )
    first, lines = facts.rows[0], ["", f"# {facts.name}", "", facts.description, ""]
    if facts.phantoms:
        lines += ["> **No image shows a patient's anatomy**: the adapter learned from simulated ultrasound.", ""]
    if facts.base in NOT_STABLE_DIFFUSION:
        lines += [f"> The base was `{facts.base}`: {NOT_STABLE_DIFFUSION[facts.base]}.", ""]
    lines += ["## How they were made", "", f"With fulora, following FU-LoRA ({PAPER}).", ""]
    trial = facts.trial
    made: dict[str, Any] = {"base model": facts.base_name, "adapter": facts.label}
    if trial:
        made |= {
            "adapter's id": first["adapter"], "rank, alpha": f"{trial['rank']}, {trial['alpha']:g}",
            "fine-tuning": f"{trial['num_steps']} steps of batch size {trial['batch_size']},"
            f" learning rate {trial['learning_rate']:g}, {trial['resolution_px']} px",
        }  # fmt: skip
    made |= {
        "samplers": ", ".join(dict.fromkeys(row["sampler"] for row in facts.rows)),
        "sampling": f"{first['num_steps']} steps, guidance {first['guidance']:g}",
        "prompts": "; ".join(dict.fromkeys(row["prompt"] for row in facts.rows)),
        "images per plane": ", ".join(f"{k} {n}" for k, n in Counter(row["plane"] for row in facts.rows).items()),
    }
    lines += _table(["setting", "value"], list(made.items()))
    lines += ["", _DEPENDS, ""]
    lines += ["## Fidelity and memorisation", "", *_quality(facts), ""]
    lines += ["## Use", "", "```python", "from datasets import load_dataset", "",
              f'images = load_dataset("{facts.to}", split="train")', "```", "", _LIMITS, ""]  # fmt: skip
    lines += ["## Licence", "", f"`{facts.licence}`, as given by the uploader.", ""]
    if not facts.phantoms:
        lines += ["The published images that FU-LoRA learns from (Zenodo 3904280) are CC BY 4.0: name them.", ""]
    return str(DatasetCard(f"---\n{about.to_yaml()}\n---\n" + "\n".join(lines)))


def _quality(facts: Facts) -> list[str]:
    """Return what was measured of the set, or that nothing was."""
    lines = []
    if facts.fidelity:
        columns = ["adapter", "sampler", "fid", "kid", "precision", "recall", "num_real", "num_generated"]
        rows = [[row[column] for column in columns] for row in facts.fidelity]
        lines += _table(["images", *columns[1:]], rows)
        lines += ["", f"Features: {facts.fidelity[0]['features']}. {_COMPARED}", ""]
    for row in facts.copies:
        chance = "" if row["share_by_chance"] is None else f"; chance gives at most {row['share_by_chance']:.1f} %"
        share = "unknown" if row["share_closer"] is None else f"{row['share_closer']:.1f} %"
        lines.append(f"{_CLOSER}: {share} of {row['num_synthetic']}{chance}. Column `closer_than_real` names them.")
    return lines or ["Not measured."]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a Markdown table."""
    body = [f"| {' | '.join(map(_cell, row))} |" for row in [head, *rows]]
    return [body[0], f"|{' --- |' * len(head)}", *body[1:]]


def _cell(value: object) -> str:
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")

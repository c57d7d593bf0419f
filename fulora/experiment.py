"""What an experiment is: everything that decides a run's numbers, and nothing about where it runs.

In: nothing; `fulora.recipes` fills it. Out: `Experiment` and its parts, with `validate()` and the trials they stand
for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS
from fulora.data.phantoms import PhantomConfig
from fulora.data.regimes import REGIMES, TABLE1_REGIMES, TABLE2_REGIMES, RegimeSizes
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.sampler import SamplingConfig
from fulora.errors import fault
from fulora.evaluate.judge import JudgeConfig
from fulora.planes import PLANES


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSweep(LoraConfig):
    """One fine-tuning per rank; alpha = rank unless given. Source: paper section 2 (alpha and r in 8, 32, 128)."""

    ranks: tuple[int, ...] = (8, 32, 128)
    """LoRA ranks to train, one trial each."""
    rank: Annotated[int, tyro.conf.Suppress] = 128
    images_per_plane: int = 20
    """Spanish training images per plane to fine-tune on. Source: paper section 3, Datasets (20 x 5 = 100)."""
    heldout_per_plane: int = 4
    """Spanish training images per plane, of other patients, on which the loss is measured along the way; 0: none. Not
    in the paper, and without effect on the adapter."""

    def trials(self) -> list[LoraConfig]:
        """Return one plain fine-tuning configuration per rank, in the order given."""
        shared = {field.name: getattr(self, field.name) for field in fields(LoraConfig)}
        return [LoraConfig(**{**shared, "rank": rank}) for rank in self.ranks]

    def validate(self) -> list[str]:
        """Return every fault of this configuration, empty when there is none."""
        found = [
            text.replace("rank:", "lora.ranks:", 1) if text.startswith("rank:") else f"lora.{text}"
            for config in self.trials()
            for text in config.validate()
        ]
        if not self.ranks:
            found.append(fault("lora.ranks", self.ranks, "is empty", "Name at least one rank, such as 128."))
        if len(set(self.ranks)) != len(self.ranks):
            found.append(fault("lora.ranks", self.ranks, "names a rank twice", "Name each rank once."))
        if self.heldout_per_plane < 0:
            rule = "must be at least 0"
            found.append(fault("lora.heldout_per_plane", self.heldout_per_plane, rule, "Use 0 for none."))
        if self.images_per_plane < 1:
            found.append(fault("lora.images_per_plane", self.images_per_plane, "must be at least 1", "The paper: 20."))
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid(ClassifierConfig):
    """Every model on every regime, and Table 2's rows for one model."""

    models: tuple[str, ...] = tuple(MODELS)
    """Architectures by the paper's names."""
    regimes: tuple[str, ...] = TABLE1_REGIMES
    """Table 1's training regimes."""
    table2_model: str = "ViT b16"
    """The architecture of Table 2. Source: paper section 4, ablation."""
    table2_regimes: tuple[str, ...] = TABLE2_REGIMES
    """Table 2's regimes; empty leaves the table out."""
    num_seeds: int = 1
    """Trainings per cell, each from its own seed."""
    num_validation: int = 0
    """Training images set aside, at most a fifth. Source: paper section 3 (200)."""
    validation: Literal["images", "patients"] = "images"
    """What is set aside: images at random (source: paper section 3), or all images of some patients, so that no patient
    is on both sides, and no synthetic images, which have no patient."""
    weights: Annotated[Path | None, tyro.conf.arg(aliases=["--weights"])] = None
    """Folder of ImageNet weight files, tried before the hub. Neither: from scratch, and every row says so."""
    model: Annotated[str, tyro.conf.Suppress] = "ResNet18"
    augment: Annotated[bool, tyro.conf.Suppress] = False

    def config(self, regime: str, model: str) -> ClassifierConfig:
        """Return how a model is trained on a regime."""
        shared = {field.name: getattr(self, field.name) for field in fields(ClassifierConfig)}
        return ClassifierConfig(**{**shared, "model": model, "augment": REGIMES[regime].augment})

    def trials(self) -> list[tuple[str, int, ClassifierConfig]]:
        """Return (regime, seed index, configuration) per training; a cell both tables need is trained once."""
        cells = [(regime, model) for regime in self.regimes for model in self.models]
        cells += [(regime, self.table2_model) for regime in self.table2_regimes]
        return [
            (regime, index, self.config(regime, model))
            for regime, model in dict.fromkeys(cells)
            for index in range(self.num_seeds)
        ]

    def validate(self) -> list[str]:
        """Return every fault of this configuration, empty when there is none."""
        known_models = [*self.models, *([self.table2_model] if self.table2_regimes else [])]
        found = [
            fault("grid.models", name, f"is not one of {', '.join(MODELS)}", "Use one of these names.")
            for name in known_models
            if name not in MODELS
        ]
        found += [
            fault("grid.regimes", name, f"is not one of {', '.join(REGIMES)}", "Use one of these names.")
            for name in (*self.regimes, *self.table2_regimes)
            if name not in REGIMES
        ]
        if not self.models or not self.regimes:
            found.append(fault("grid", (self.models, self.regimes), "needs a model and a regime", "Name at least one."))
        if self.num_validation < 0:
            found.append(fault("grid.num_validation", self.num_validation, "must be at least 0", "The paper: 200."))
        if self.keep == "best" and self.num_validation < 1:
            rule = "chooses the epoch on validation images, and grid.num_validation is 0"
            found.append(fault("grid.keep", self.keep, rule, "Set some aside, or keep the last epoch."))
        if self.num_seeds < 1:
            found.append(fault("grid.num_seeds", self.num_seeds, "must be at least 1", "The paper: 1."))
        if not found:
            found = [f"grid.{text}" for _, _, config in self.trials() for text in config.validate()]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """How many synthetic images help: one model, trained with more and more of them. Not in the paper."""

    numbers: tuple[int, ...] = ()
    """Synthetic images beside all real ones of the regime, such as 0 500 1000 2500 5000; empty: not asked."""
    shares: tuple[float, ...] = ()
    """Synthetic shares of a training set of one size, such as 0 0.25 0.5 0.75 1, so that synthetic images take the
    place of real ones; empty: not asked."""
    total: int = 1150
    """Images in each of the training sets of `shares`. The paper's HB has as many real ones. Validation images are of
    Spanish patients beside all of them, the same for every number and share."""
    model: str = "ResNet18"
    """Architecture, by the paper's name."""
    regime: Literal["HB", "HB+DA"] = "HB+DA"
    """Regime whose numbers of images are changed."""

    def cells(self, sizes: RegimeSizes) -> list[tuple[str, int, int]]:
        """Return (`number` or `share`, Spanish images, synthetic images) of every training set, in the order asked."""
        found = [("number", sizes.num_spanish_hybrid, number) for number in self.numbers]
        return found + [("share", self.total - self._synthetic(share), self._synthetic(share)) for share in self.shares]

    def _synthetic(self, share: float) -> int:
        """Return the share of `total`, to whole images of every plane."""
        return len(PLANES) * round(self.total * share / len(PLANES))

    def validate(self) -> list[str]:
        """Return every fault of this configuration, empty when there is none."""
        found = [
            fault("amounts.numbers", n, f"must be at least 0 and divide by {len(PLANES)} planes", "Such as 500.")
            for n in self.numbers
            if n < 0 or n % len(PLANES)
        ]
        found += [
            fault("amounts.shares", share, "must lie in 0 to 1", "0.5 takes as many synthetic as real images.")
            for share in self.shares
            if not 0 <= share <= 1
        ]
        for name in ("numbers", "shares"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                found.append(fault(f"amounts.{name}", values, "names one twice", "Name each once."))
        if self.shares and (self.total < 1 or self.total % len(PLANES)):
            rule = f"must be positive and divide by the {len(PLANES)} planes"
            found.append(fault("amounts.total", self.total, rule, "The paper's HB has 1150 real images."))
        if self.model not in MODELS:
            found.append(fault("amounts.model", self.model, f"is not one of {', '.join(MODELS)}", "Use one of these."))
        if self.regime not in ("HB", "HB+DA"):
            found.append(fault("amounts.regime", self.regime, "has no synthetic images", "Choose HB or HB+DA."))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """t-SNE of real and synthetic images. Source: paper section 2, Fig. 3."""

    images_per_source: int = 35
    """Images per source and plane; fewer where there are fewer, and the figure says so."""
    feature_weights: Path | None = None
    """Folder with Inception v3's ImageNet weights; else the hub's, else the judge's own features, named as such."""

    def validate(self) -> list[str]:
        """Return every fault of this configuration, empty when there is none."""
        found = []
        if self.images_per_source < 2:
            found.append(
                fault("embedding.images_per_source", self.images_per_source, "must be at least 2", "Paper: 35.")
            )
        if self.feature_weights is not None and not self.feature_weights.is_dir():
            found.append(
                fault("embedding.feature_weights", str(self.feature_weights), "is not a directory", "See --help.")
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Everything that decides a run's numbers."""

    recipe: Annotated[str, tyro.conf.Suppress]
    spanish: Path | None = None
    """Folder of the Spanish images (published layout, or a CSV/Parquet beside images). None: phantoms."""
    african: Path | None = None
    """Folder of the African images (published layout, or a CSV/Parquet beside images). None: phantoms."""
    drop_duplicates: bool = False
    """Leave out training images (LoRA's and synthetic ones too) that equal or nearly equal a test image, those of
    patients who are tested on too, and all but one of training images with equal pixels. The paper keeps them, and 22
    of the 233 African test images are training images too."""
    seed: int = 0
    """Master seed; every random stream of the run derives from it by name."""
    base: str = "tiny"
    """Diffusion model to fine-tune: `tiny` (bundled), a diffusers folder, a .safetensors file, a hub id, or
    `random:sd15` (Stable Diffusion 1.5's architecture with random weights, to measure what it costs)."""
    allow_pickle: bool = False
    """Let the base be a .ckpt or hold .bin files. Reading one unpickles, which can run code: only if you trust it."""
    lora: LoraSweep = LoraSweep()
    """Fine-tuning."""
    sampling: SamplingConfig = SamplingConfig()
    """Synthetic images."""
    compare_per_plane: int = 8
    """Images per plane and sampler from the base and from each rank not chosen, to compare ranks by."""
    choose_rank: Literal["given", "kid", "recognised"] = "given"
    """Which rank samples the training images: `sampling.rank` (source: paper section 3, 128), or the best by a score of
    `compare_per_plane` images of each: least KID to real patients LoRA does not see, or most often recognised."""
    sizes: RegimeSizes = RegimeSizes()
    """Images a regime asks for."""
    grid: Grid = Grid()
    """Classifiers."""
    amounts: Amounts = Amounts()
    """How many synthetic images help."""
    judge: JudgeConfig = JudgeConfig()
    """The classifier that tells whether a synthetic image shows the plane that was asked for."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """t-SNE."""
    phantoms: PhantomConfig = PhantomConfig()
    """The built-in images, used where no folder is given."""
    data_required: Annotated[bool, tyro.conf.Suppress] = False

    def validate(self) -> list[str]:
        """Return every fault of the configuration: field, value, rule, remedy. Reads no data."""
        found = [*self.lora.validate(), *(f"sampling.{text}" for text in self.sampling.validate())]
        found += [
            *self.grid.validate(),
            *self.amounts.validate(),
            *self.embedding.validate(),
            *self.sizes.validate(),
            *self.phantoms.validate(),
        ]
        found += [f"judge.{text}" for text in self.judge.validate()]
        found += [
            fault(f"amounts.{kind}s", self.amounts.numbers if kind == "number" else self.amounts.shares,
                  "asks for a training set without images", "Leave that one out, or give real images.")
            for kind, real, synthetic in self.amounts.cells(self.sizes) if real == synthetic == 0
        ]  # fmt: skip
        if self.compare_per_plane < 1:
            found.append(fault("compare_per_plane", self.compare_per_plane, "must be at least 1", "The demo: 8."))
        if self.choose_rank == "given" and self.sampling.rank not in self.lora.ranks:
            ranks = ", ".join(map(str, self.lora.ranks))
            found.append(
                fault(
                    "sampling.rank",
                    self.sampling.rank,
                    f"is not among lora.ranks ({ranks})",
                    "Train it or sample another.",
                )
            )
        if (self.spanish is None) != (self.african is None):
            missing = "spanish" if self.spanish is None else "african"
            found.append(
                fault(missing, None, "is not given while the other source is", f"Give --{missing} DIR, or neither.")
            )
        for name in ("spanish", "african"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                found.append(fault(name, str(folder), "is not a directory", f"Give the images by --{name}."))
        if self.data_required and self.spanish is None and self.african is None:
            found.append(
                fault(
                    "spanish, african",
                    None,
                    f"are needed by the recipe {self.recipe!r}",
                    "Give --spanish and --african.",
                )
            )
        return found

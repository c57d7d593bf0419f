"""The configuration of an experiment: everything that determines a run's numbers, and nothing about where it runs.

`fulora.recipes` gives its values. `validate()` of each part returns its faults, `trials()` the trials it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS, PAPER_MODELS
from fulora.controls import Controls
from fulora.data.phantoms import PhantomConfig
from fulora.data.regimes import REGIMES, TABLE1_REGIMES, TABLE2_REGIMES, RegimeSizes
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.sampler import SamplingConfig
from fulora.endpoint import Endpoint
from fulora.errors import fault
from fulora.evaluate.embedding_config import EmbeddingConfig
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
    """Spanish training images per plane, of patients LoRA is not trained on, on which the loss is measured during
    training; 0: none. Not in the paper, and without effect on the adapter."""
    together: bool = False
    """Train all ranks in one pass over one frozen base, on one device: adapters are equal within rounding, in 0.7 of
    the time of one rank after the other at batch 2 on a CPU; on a GPU not measured. Needs square images. A rank added
    later trains all of them again."""

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
        if self.together and self.bucket_step_px:
            rule = "needs square images: with buckets each rank has another size at a step"
            found.append(fault("lora.together", True, rule, "Set --lora.bucket-step-px 0, or train the ranks apart."))
        if not self.ranks:
            found.append(fault("lora.ranks", self.ranks, "is empty", "Name at least one rank, such as 128."))
        if len(set(self.ranks)) != len(self.ranks):
            found.append(fault("lora.ranks", self.ranks, "contains a duplicate rank", "Name each rank once."))
        if self.heldout_per_plane < 0:
            rule = "must be at least 0"
            found.append(fault("lora.heldout_per_plane", self.heldout_per_plane, rule, "Use 0 for none."))
        if self.images_per_plane < 1:
            found.append(fault("lora.images_per_plane", self.images_per_plane, "must be at least 1", "The paper: 20."))
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid(ClassifierConfig):
    """Classifier grid: every model on every regime (Table 1), and one model on Table 2's regimes."""

    models: tuple[str, ...] = PAPER_MODELS
    """Architectures by the paper's names; the encoders of today beside them are trained where they are named."""
    regimes: tuple[str, ...] = TABLE1_REGIMES
    """Table 1's training regimes."""
    table2_model: str = "ViT b16"
    """The architecture of Table 2. Source: paper section 4, ablation."""
    table2_regimes: tuple[str, ...] = TABLE2_REGIMES
    """Table 2's regimes; empty leaves the table out."""
    num_seeds: int = 1
    """Trainings per cell (model and regime), each with its own seed."""
    num_validation: int = 0
    """Training images held out for validation, at most a fifth. Source: paper section 3 (200)."""
    validation: Literal["images", "inside", "patients", "beside"] = "images"
    """How validation images are chosen: `images`, split off at random (source: paper section 3); `inside`, the same,
    but they stay in the training set (the released code); `patients`, whole patients are split off, so that no patient
    is in both sets and no synthetic image is for validation; `beside`, Spanish images of patients in no training set,
    LoRA's included: one set for every regime, and training sets keep the sizes asked for."""
    weights: Annotated[Path | None, tyro.conf.arg(aliases=["--weights"])] = None
    """Directory of ImageNet weight files, tried before the hub. With neither a run is refused before any work, unless
    --grid.pretrained is none or local."""
    model: Annotated[str, tyro.conf.Suppress] = "ResNet18"
    augment: Annotated[bool, tyro.conf.Suppress] = False

    def config(self, regime: str, model: str) -> ClassifierConfig:
        """Return the training configuration of a model on a regime."""
        shared = {field.name: getattr(self, field.name) for field in fields(ClassifierConfig)}
        return ClassifierConfig(**{**shared, "model": model, "augment": REGIMES[regime].augment})

    def trials(self) -> list[tuple[str, int, ClassifierConfig]]:
        """Return (regime, seed index, configuration) per training; a cell of both tables is trained once."""
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
            rule = "selects the epoch on validation images, and grid.num_validation is 0"
            found.append(fault("grid.keep", self.keep, rule, "Raise it, or keep the last epoch."))
        if self.num_seeds < 1:
            found.append(fault("grid.num_seeds", self.num_seeds, "must be at least 1", "The paper: 1."))
        if not found:
            found = [f"grid.{text}" for _, _, config in self.trials() for text in config.validate()]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """Data scaling: one model trained with more and more synthetic images. Not in the paper."""

    numbers: tuple[int, ...] = ()
    """Numbers of synthetic images added to all real images of the regime, such as 0 500 1000 2500 5000; empty: none."""
    shares: tuple[float, ...] = ()
    """Synthetic fractions of a training set of constant size, such as 0 0.25 0.5 0.75 1: synthetic images replace real
    ones; empty: none."""
    total: int = 1150
    """Images in each training set of `shares`; the paper's HB has 1150 real images. Validation images are of Spanish
    patients in none of the training sets, the same for every number and share."""
    model: str = "ResNet18"
    """Architecture, by the paper's name."""
    regime: Literal["HB", "HB+DA"] = "HB+DA"
    """Regime whose numbers of images vary."""

    def cells(self, sizes: RegimeSizes) -> list[tuple[str, int, int]]:
        """Return (`number` or `share`, Spanish images, synthetic images) of every training set, in the order given."""
        found = [("number", sizes.num_spanish_hybrid, number) for number in self.numbers]
        return found + [("share", self.total - self._synthetic(share), self._synthetic(share)) for share in self.shares]

    def _synthetic(self, share: float) -> int:
        """Return the number of synthetic images at a share, rounded to the same whole number for every plane."""
        return len(PLANES) * round(self.total * share / len(PLANES))

    def validate(self) -> list[str]:
        """Return every fault of this configuration, empty when there is none."""
        found = [
            fault("amounts.numbers", n, f"must be a multiple of {len(PLANES)} (planes), at least 0", "Such as 500.")
            for n in self.numbers
            if n < 0 or n % len(PLANES)
        ]
        found += [
            fault("amounts.shares", share, "must be from 0 to 1", "0.5: as many synthetic as real images.")
            for share in self.shares
            if not 0 <= share <= 1
        ]
        for name in ("numbers", "shares"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                found.append(fault(f"amounts.{name}", values, "contains a duplicate", "Name each once."))
        if self.shares and (self.total < 1 or self.total % len(PLANES)):
            rule = f"must be a multiple of {len(PLANES)} (planes), above 0"
            found.append(fault("amounts.total", self.total, rule, "The paper's HB has 1150 real images."))
        if self.model not in MODELS:
            found.append(fault("amounts.model", self.model, f"is not one of {', '.join(MODELS)}", "Use one of these."))
        if self.regime not in ("HB", "HB+DA"):
            found.append(fault("amounts.regime", self.regime, "has no synthetic images", "Choose HB or HB+DA."))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Everything that determines a run's numbers."""

    recipe: Annotated[str, tyro.conf.Suppress]
    spanish: Path | None = None
    """Directory of the Spanish images (published layout, or images with a CSV/Parquet list). None: phantoms."""
    african: Path | None = None
    """Directory of the African images (published layout, or images with a CSV/Parquet list). None: phantoms."""
    drop_duplicates: bool = False
    """Remove training images (LoRA's and synthetic ones included) that are duplicates or near duplicates of a test
    image, training images of test patients, and all but one of training images with equal pixels. The paper keeps
    them: 22 of its 233 African test images are training images too."""
    seed: int = 0
    """Master seed; every random stream of the run is derived from it and the stream's name."""
    replicates: int = 1
    """Times the whole pipeline is run: LoRA's images, adapter, synthetic images, training sets, classifiers. The paper
    has one; only several show how much a result varies (`--grid.num-seeds` repeats the classifiers alone)."""
    endpoint: Endpoint = Endpoint()
    """The difference that the study is about, named before it runs."""
    base: str = "tiny"
    """Diffusion model to fine-tune: `tiny` (bundled), a diffusers directory, a .safetensors file, a hub id,
    or `random:sd15` (Stable Diffusion 1.5's architecture with random weights, to measure time and memory)."""
    allow_pickle: bool = False
    """Allow a base in .ckpt or .bin files. They are pickles, which can run code when loaded: use only trusted files."""
    lora: LoraSweep = LoraSweep()
    """LoRA fine-tuning, one per rank."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of the synthetic images."""
    compare_per_plane: int = 8
    """Images per plane and sampler drawn from the base and from each rank that is not chosen, to compare ranks."""
    choose_rank: Literal["given", "kid", "recognised"] = "given"
    """Which rank samples the synthetic training images: `sampling.rank` (source: paper section 3, 128), or the best by
    `compare_per_plane` images of each: lowest KID to patients LoRA is not trained on, or highest judge accuracy."""
    sizes: RegimeSizes = RegimeSizes()
    """Numbers of images per regime."""
    grid: Grid = Grid()
    """Classifier grid of Tables 1 and 2."""
    amounts: Amounts = Amounts()
    """Data scaling: accuracy over the number of synthetic images."""
    controls: Controls = Controls()
    """Controls: what else than synthetic images could explain a gain."""
    judge: JudgeConfig = JudgeConfig()
    """The classifier that judges whether a synthetic image shows the plane of its prompt."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """t-SNE embedding."""
    phantoms: PhantomConfig = PhantomConfig()
    """Simulated ultrasound images, used where no directory is given."""
    data_required: Annotated[bool, tyro.conf.Suppress] = False

    def validate(self) -> list[str]:
        """Return every fault of the configuration: field, value, rule, remedy. Reads no data."""
        found = [*self.lora.validate(), *(f"sampling.{text}" for text in self.sampling.validate())]
        found += [
            *self.grid.validate(),
            *self.amounts.validate(),
            *self.controls.validate(models=self.grid.models, regimes=self.grid.regimes),
            *self.embedding.validate(),
            *self.sizes.validate(),
            *self.phantoms.validate(),
            *self.endpoint.validate(),
        ]
        if self.replicates < 1:
            found.append(fault("replicates", self.replicates, "must be at least 1", "The paper: 1."))
        found += [f"judge.{text}" for text in self.judge.validate()]
        found += [
            fault(f"amounts.{kind}s", self.amounts.numbers if kind == "number" else self.amounts.shares,
                  "gives a training set without images", "Remove that value, or add real images.")
            for kind, real, synthetic in self.amounts.cells(self.sizes) if real == synthetic == 0
        ]  # fmt: skip
        if self.compare_per_plane < 1:
            found.append(fault("compare_per_plane", self.compare_per_plane, "must be at least 1", "The demo: 8."))
        if self.choose_rank == "given" and self.sampling.rank not in self.lora.ranks:
            ranks = ", ".join(map(str, self.lora.ranks))
            rule = f"is not among lora.ranks ({ranks})"
            found.append(fault("sampling.rank", self.sampling.rank, rule, "Train it or sample another."))
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
            rule = f"are needed by the recipe {self.recipe!r}"
            found.append(fault("spanish, african", None, rule, "Give --spanish and --african."))
        return found

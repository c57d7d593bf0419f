"""Training configuration of one classifier, with the source of every setting.

Source: paper section 3, "Implementation Details".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fulora.classify.augment import AugmentConfig
from fulora.classify.input_range import InputRange
from fulora.classify.models import Pretrained, model_faults, resolution_faults
from fulora.classify.objective import Balance
from fulora.errors import fault

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """Training configuration of one classifier; the defaults are the paper's."""

    model: str
    """The paper's name of the architecture, a key of MODELS."""
    epochs: int = 20
    """Training epochs. Source: paper."""
    num_steps: int | None = None
    """Optimizer steps, as many for every training set, in `epochs` equal parts: small sets are gone through more often.
    None: whole epochs (source: paper), in which a small set takes few steps."""
    batch_size: int = 24
    """Batch size. Source: paper."""
    learning_rate: float = 1e-3
    """Constant learning rate. Source: paper."""
    momentum: float = 0.9
    """Momentum of SGD. Source: released code; the paper does not state it."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD (the paper's), or AdamW, which trains from scratch in far fewer epochs."""
    resolution_px: int = 512
    """Input resolution: side of the square image. Source: paper."""
    augment: bool = False
    """Whether to use traditional augmentation (DA)."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Settings of DA."""
    weights: Path | None = None
    """Directory of ImageNet weight files, tried before the hub."""
    pretrained: Pretrained = "auto"
    """Source of the initial weights. `auto`: directory, then hub; `hub`: hub only; both refuse to run without them.
    `local`: directory, then random; `none`: random."""
    pixels: InputRange = "signed"
    """Range of the pixels: `signed`, [-1, 1] (source: paper); `unit`, [0, 1] (the released code); `pretrained`, as the
    initial weights were trained."""
    balance: Balance = "none"
    """Correction for the planes' shares of the training set: none (source: paper), class_weights in the loss, or
    logit_adjustment. A control: the Spanish set is 42 % Other, the hybrid one 20 %, the test set 0."""
    refit_batchnorm: bool = False
    """Whether to recompute BatchNorm's running statistics on the training set after the last epoch (one forward pass).
    With few steps they lag behind the weights: at 100 steps or fewer, this costs tens of points of accuracy.
    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3. Deviates from the paper."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights to keep: the last (the paper's and the released code's), or the best by validation accuracy
    (the first of equals)."""
    precision: Precision = "auto"
    """Precision of the forward pass; auto: bf16 autocast on a GPU that supports it, else fp32. Weights are fp32."""

    def validate(self) -> list[str]:
        """Return every fault of this configuration."""
        found = model_faults(self.model)
        if not found:
            found += resolution_faults(self.model, self.resolution_px)
        for name, least in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                found.append(fault(name, getattr(self, name), f"must be at least {least}", "Choose a larger number"))
        if not 0 < self.learning_rate < float("inf"):
            found.append(fault("learning_rate", self.learning_rate, "must be positive", "The paper's value is 1e-3"))
        if not 0 <= self.momentum < 1:
            found.append(fault("momentum", self.momentum, "must be in [0, 1)", "Released code: 0.9"))
        for name, choices in (("optimizer", ("sgd", "adamw")), ("pretrained", ("auto", "local", "hub", "none"))):
            if getattr(self, name) not in choices:
                found.append(fault(name, getattr(self, name), "is unknown", f"Choose one of {', '.join(choices)}"))
        if self.num_steps is not None and self.num_steps < self.epochs:
            rule = f"must be at least 1 for each of the {self.epochs} epochs"
            found.append(fault("num_steps", self.num_steps, rule, "The paper's 20 epochs of ES are 5140 steps"))
        if self.balance not in ("none", "class_weights", "logit_adjustment"):
            rule = "is unknown"
            found.append(fault("balance", self.balance, rule, "Choose none, class_weights or logit_adjustment"))
        if self.pixels not in ("signed", "unit", "pretrained"):
            found.append(fault("pixels", self.pixels, "is unknown", "Choose signed, unit or pretrained"))
        if self.keep not in ("last", "best"):
            found.append(fault("keep", self.keep, "is unknown", "Choose last or best"))
        if self.keep == "best" and self.refit_batchnorm:
            rule = "is incompatible with refit_batchnorm, which changes the last epoch's weights"
            found.append(fault("keep", self.keep, rule, "Keep the last epoch, or turn refit_batchnorm off"))
        if self.precision not in ("auto", "fp32", "bf16"):
            found.append(fault("precision", self.precision, "is unknown", "Choose one of auto, fp32, bf16"))
        if self.weights is not None and not Path(self.weights).is_dir():
            found.append(fault("weights", str(self.weights), "is not a directory", "Give a directory of weight files"))
        return found + self.augmentation.validate()

"""Settings of one LoRA fine-tuning. Importing this module does not load torch, so --help is fast.

Source: FU-LoRA section 3; where the released code differs, the field says so.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from fulora.diffusion.adapter import TARGETS, Initialisation, target_modules
from fulora.errors import fault

OptimizerName = Literal["adam8bit", "adamw8bit", "adamw"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Settings of one fine-tuning. Defaults are the paper's."""

    rank: int = 128
    """Inner dimension r of A and B. Source: paper section 3, {8, 32, 128}."""
    alpha: float | None = None
    """Scale alpha of equation (2); None is the rank. Source: paper section 3, alpha = rank."""
    targets: str = "cross_attention"
    """Adapted layers of the U-Net: cross_attention (source: paper section 2), all_attention, transformer (every linear
    layer and 1 x 1 convolution of its blocks: the released code), or a regular expression over module paths."""
    init: Initialisation = "gaussian"
    """How A is drawn: gaussian (source: paper section 2) or kaiming (the released code)."""
    num_steps: int = 10_000
    """Optimizer steps. Source: paper section 3."""
    batch_size: int = 2
    """Images per step. Source: paper section 3 (the released code: 1)."""
    learning_rate: float = 1e-4
    """Constant rate. Source: paper section 3."""
    text_encoder_rate: float = 0.0
    """Constant rate of a LoRA on the text encoder's linear layers; 0 keeps the text encoder frozen, as in the
    paper. The released code: 5e-5."""
    optimizer: OptimizerName = "adamw8bit"
    """8-bit Adam of bitsandbytes, with or without decoupled weight decay, or torch's AdamW. Source: paper section 3."""
    weight_decay: float = 0.01
    """Weight decay of adamw8bit and adamw. Not stated in the paper; bitsandbytes' default, as in the released code."""
    snr_gamma: float = 0.0
    """Gamma of min-SNR loss weighting: time steps with a signal-to-noise ratio above gamma get less weight, so that
    unpredictable speckle does not dominate the loss. 0: no weighting, equation (1). Not in the paper. Source: Hang et
    al. 2023 (gamma 5). Reported losses are always unweighted."""
    resolution_px: int = 512
    """Side of the square images. Source: paper section 3."""
    bucket_step_px: int = 0
    """Step of aspect-ratio buckets: sides are multiples of it, the area is at most the square's, and no image is
    enlarged. 0: square images. The released code: 64."""
    precision: Precision = "auto"
    """Precision of the frozen base; the adapter is always float32. The paper: fp16."""
    compile: bool = False
    """Compile the U-Net with torch.compile: one or two minutes at the start, then faster steps; results differ by
    rounding. Needs a C++ compiler; on CUDA, Triton."""
    clip_skip: int | None = None
    """Last layers of the text encoder to skip, counted as in diffusers. The released code: 1."""
    caption_dropout: float = 0.0
    """Fraction of captions replaced by the empty caption. The paper: 0."""
    log_every: int = 50
    """Steps between two reports of the loss."""
    heldout_every: int = 500
    """Steps between two measurements of the loss on held-out images, if there are any; the last step is measured too.
    Has no effect on training."""

    def validate(self) -> list[str]:
        """Return every fault of the configuration, empty when there is none."""
        found = []
        for field in ("rank", "num_steps", "batch_size", "resolution_px", "log_every", "heldout_every"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                found.append(fault(field, value, "must be an integer of at least 1", f"Set {field} to 1 or more"))
        for field in ("learning_rate", "alpha"):
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value > 0):
                found.append(fault(field, value, "must be above 0", f"Set {field} to a positive number"))
        for field in ("weight_decay", "text_encoder_rate", "snr_gamma"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                found.append(fault(field, value, "must be at least 0", "Set it to 0 or more"))
        if not 0 <= self.caption_dropout <= 1:
            found.append(fault("caption_dropout", self.caption_dropout, "must be from 0 to 1", "Set it within 0 and 1"))
        if self.clip_skip is not None and self.clip_skip < 0:
            found.append(fault("clip_skip", self.clip_skip, "must be at least 0", "Set it to 0 or more, or to None"))
        if self.bucket_step_px < 0 or self.bucket_step_px % 8:
            rule = "must be 0 or a multiple of 8"
            found.append(fault("bucket_step_px", self.bucket_step_px, rule, "Use 0 (squares) or 64"))
        elif self.bucket_step_px > self.resolution_px:
            rule = f"is above resolution_px ({self.resolution_px})"
            found.append(fault("bucket_step_px", self.bucket_step_px, rule, "Lower it, or use 0 (squares)"))
        try:
            re.compile(target_modules(self.targets))
        except re.error as error:
            rule = f"is neither {', '.join(TARGETS)} nor a regular expression ({error})"
            found.append(fault("targets", self.targets, rule, "Use one of these names"))
        choices = (("init", Initialisation), ("optimizer", OptimizerName), ("precision", Precision))
        for field, names in choices:
            value = getattr(self, field)
            if value not in get_args(names):
                found.append(fault(field, value, "is unknown", f"Choose one of {', '.join(get_args(names))}"))
        return found

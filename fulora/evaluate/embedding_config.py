"""Settings of the t-SNE embedding. Importing this module does not load torch, so --help is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fulora.errors import fault


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """t-SNE of real and synthetic images. Source: paper section 2, Fig. 3."""

    images_per_source: int = 35
    """Images per source and plane; where a source has fewer, all of them are used and the figure says so."""
    feature_weights: Path | None = None
    """Directory with Inception v3's ImageNet weights; else the hub's; else the judge's features, named as such."""
    output: Literal["features", "logits"] = "features"
    """Inception's 2048 features of 299 px, or its 1000 logits of 224 px (the released code's)."""
    held_out: bool = False
    """Draw Spanish images of patients LoRA is not trained on and African training images, so that nobody chooses a rank
    by looking at test images or at LoRA's own. Off: African test images, as in the paper's figure, and any Spanish."""

    def validate(self) -> list[str]:
        """Return every fault of this configuration, empty when there is none."""
        found = []
        if self.images_per_source < 2:
            found.append(
                fault("embedding.images_per_source", self.images_per_source, "must be at least 2", "Paper: 35.")
            )
        if self.output not in ("features", "logits"):
            found.append(fault("embedding.output", self.output, "is unknown", "Choose features or logits."))
        if self.feature_weights is not None and not self.feature_weights.is_dir():
            found.append(
                fault("embedding.feature_weights", str(self.feature_weights), "is not a directory", "See --help.")
            )
        return found

"""The diffusion model of a study, as steps that fine-tune it or sample from it name it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fulora.diffusion.base_files import fingerprint
from fulora.diffusion.lora_config import Precision
from fulora.experiment import Experiment
from sweeps.core.hashing import PLACE


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """The diffusion model of a study."""

    spec: str = field(metadata=PLACE)
    """`tiny`, a directory, a file or a hub id."""
    identity: str
    """Hash of its weights; the id of a hub model."""
    allow_pickle: bool = field(default=False, metadata=PLACE)
    resolution_px: int
    precision: Precision


def base_model(experiment: Experiment) -> BaseModel:
    """Return the diffusion model of an experiment."""
    return BaseModel(
        spec=experiment.base,
        identity=fingerprint(experiment.base),
        allow_pickle=experiment.allow_pickle,
        resolution_px=experiment.lora.resolution_px,
        precision=experiment.lora.precision,
    )

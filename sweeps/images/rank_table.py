"""The table of ranks: per adapter what it cost, and how often the judge recognises the plane of the prompt.

In: features of every set (with the judge's predictions), the fine-tunings' records. Out: ranks.parquet.
"""

from __future__ import annotations

from typing import Any

from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import write_table
from sweeps.images.features import ImageFeatures, read_features
from sweeps.images.quality_plan import QualityConfig
from sweeps.ranks.plan import LoraTrial


def write_rank_table(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write a row per rank, in the order of ranks."""
    config: QualityConfig = step.config
    judge = place.record_of(step.need("judge")).metrics
    verdicts = {
        which.label: recognised(read_features(folder), which.samplers)
        for which, folder in zip(config.sets, place.all("sets"), strict=True)
    }
    base = next((verdicts[which.label] for which in config.sets if which.rank is None), {})
    adapters = {need.config.lora.rank: need for need in step.in_role("adapters")}
    rows = []
    for which in sorted((s for s in config.sets if s.rank is not None), key=lambda s: s.rank or 0):
        need = adapters[which.rank]
        record, trial = place.record_of(need), need.config
        assert isinstance(trial, LoraTrial)
        rows.append(
            {
                "adapter": which.label, "rank": which.rank, "alpha": trial.lora.alpha, "chosen": which.chosen,
                "base": record.metrics["base_name"], "num_trainable": record.metrics["num_trainable"],
                "num_steps": trial.lora.num_steps, "final_loss": record.metrics["final_loss"],
                "heldout_loss": record.metrics.get("heldout_loss"), **verdicts[which.label],
                "recognised_base": base.get("recognised"), "num_base_images": base.get("num_images"),
                "judge": judge["judge"], "judge_accuracy": judge["heldout_accuracy"],
                "judge_num_heldout": judge["num_heldout"], "seconds": record.seconds,
                "peak_memory_bytes": record.peak_memory_bytes, "device": record.device,
                "adapter_sha256": record.metrics["adapter_sha256"], "trial_id": need.key,
            }
        )  # fmt: skip
    write_table(place.out / "ranks.parquet", "ranks", rows)
    return {}


def recognised(found: ImageFeatures, samplers: tuple[str, ...]) -> dict[str, Any]:
    """Return the share of images in which the judge recognises the plane of the prompt, in percent, and per sampler."""
    right = [seen == plane for seen, plane in zip(found.seen_planes, found.planes)]
    by_sampler = {name: [r for r, sampler in zip(right, found.samplers) if sampler == name] for name in samplers}
    return {
        "recognised": _percent(right), "num_images": len(right),
        **{f"recognised_{name}": _percent(those) for name, those in by_sampler.items()},
    }  # fmt: skip


def _percent(right: list[bool]) -> float:
    return 100.0 * sum(right) / len(right)

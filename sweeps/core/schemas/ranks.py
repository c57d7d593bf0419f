"""Tables of the LoRA rank sweep and of the synthetic images of each adapter: fidelity, memorisation, embedding."""

from __future__ import annotations

from sweeps.core.schemas.column import (
    CHOSEN,
    FEATURES,
    RANK,
    SECONDS,
    TRIAL_ID,
    Table,
    boolean,
    integer,
    number,
    string,
    with_interval,
)
from sweeps.core.schemas.images import METADATA

_HELDOUT_LOSS = number(
    "Mean squared error of the noise prediction on Spanish training images of patients that LoRA does not train on, at "
    "fixed noise and timesteps; null where there are no such images"
)
_PEAK_MEMORY = integer(
    "Peak memory: allocated by PyTorch on CUDA, else the peak resident memory of the process so far", "bytes"
)

LOSS = Table(
    name="loss",
    about="One row per report of a LoRA training: `loss.parquet` in the adapter's folder.",
    columns={
        "step": integer("Optimizer steps done", "steps"),
        "loss": number("Mean squared error of the noise prediction, mean over the steps since the last report"),
        "learning_rate": number("Learning rate of the step"),
        "heldout_loss": _HELDOUT_LOSS,
        "seconds": number("Wall time since the first step", SECONDS),
    },
)

RANKS = Table(
    name="ranks",
    about="One row per adapter of the rank sweep.",
    columns={
        "adapter": string("The adapter, such as `rank-008`"),
        "rank": integer("LoRA rank"),
        "alpha": number("LoRA alpha; the update is scaled by alpha / rank"),
        "chosen": CHOSEN,
        "base": string("Base diffusion model that is fine-tuned, with the hash of its weights"),
        "num_trainable": integer("Trainable parameters of the adapter", "parameters"),
        "num_steps": integer("Optimizer steps", "steps"),
        "final_loss": number("Training loss, mean over the steps of the last report"),
        "heldout_loss": _HELDOUT_LOSS,
        "recognised": number(
            "Share of the adapter's images in which the judge recognises the plane of the prompt", "%"
        ),
        "recognised_euler": number("`recognised` of the images sampled with Euler", "%"),
        "recognised_unipc": number("`recognised` of the images sampled with UniPC", "%"),
        "num_images": integer("Images of the adapter that the judge classified", "images"),
        "recognised_base": number("`recognised` of images of the base model without an adapter", "%"),
        "num_base_images": integer("Images of the base model that the judge classified", "images"),
        "judge": string(
            "The judge: a classifier that recognises the plane of a synthetic image, and what it is trained on"
        ),
        "judge_accuracy": number("Accuracy of the judge on held-out images of other patients", "%"),
        "judge_num_heldout": integer("Held-out images of `judge_accuracy`", "images"),
        "seconds": number("Wall time of the fine-tuning", SECONDS),
        "peak_memory_bytes": _PEAK_MEMORY,
        "device": string("Device that ran the fine-tuning: name of the GPU, or the CPU with its number of threads"),
        "adapter_sha256": string("SHA-256 of the adapter's file in diffusers format, in hex"),
        "trial_id": TRIAL_ID,
    },
)

SEARCH = Table(
    name="search",
    about="One row per candidate of the hyperparameter search `sweeps lora --search optuna`, best first.",
    columns={
        "rank": integer("LoRA rank"),
        "alpha": number("LoRA alpha"),
        "alpha_over_rank": number("Scale of the LoRA update, alpha / rank"),
        "learning_rate": number("Learning rate"),
        "num_steps": integer("Optimizer steps", "steps"),
        "targets": string(
            "Adapted layers of the U-Net: `cross_attention`, `all_attention`, `transformer`, or a regular expression "
            "over module paths"
        ),
        "status": string("`SUCCEEDED`, or `PRUNED` by ASHA"),
        "objective": string("What the search minimises: `heldout_loss` or `kid`"),
        "heldout_loss": _HELDOUT_LOSS,
        "kid": number("Kernel inception distance of images sampled from the candidate; null if not measured"),
        "num_generated": integer("Synthetic images of `kid`", "images"),
        "num_real": integer("Real images of `kid`", "images"),
        "features": FEATURES,
        "stopped_at_step": integer("Optimizer step at which the candidate was pruned; null if it was not", "steps"),
        "seconds": number("Wall time of the trial", SECONDS),
        "peak_memory_bytes": _PEAK_MEMORY,
        "trial_id": TRIAL_ID,
    },
)

FIDELITY = Table(
    name="fidelity",
    about="One row per adapter and sampler, and a baseline of real images against real images of other patients.",
    columns={
        "adapter": string(
            "Adapter the images are sampled with; `base`: the base model alone; `real`: the baseline of real images"
        ),
        "rank": RANK,
        "sampler": string("Diffusion sampler: `euler` or `unipc`; null for the baseline"),
        "fid": number("Fréchet inception distance to real images; 0 is best; biased upwards for few images"),
        "kid": number("Kernel inception distance (unbiased squared MMD) to real images; about 0 is best"),
        "kid_deviation": number("Standard deviation of `kid` over random halves of both sets"),
        "precision": number("Improved precision: share of synthetic images within the manifold of the real ones", "%"),
        "recall": number("Improved recall: share of real images within the manifold of the synthetic ones", "%"),
        "num_real": integer("Real images compared; the same in every row", "images"),
        "num_generated": integer(
            "Synthetic images compared; in the baseline, real images of the other patients", "images"
        ),
        "features": FEATURES,
    },
    notes="""\
The real images are Spanish images of patients that LoRA does not train on. FID, precision and recall depend on the
number of images: compare rows of one table, not of two.""",
)

COPIES = Table(
    name="copies",
    about="One row per adapter: how many of its images are suspiciously close to a training image (memorisation).",
    columns={
        "adapter": string("The adapter, such as `rank-008`"),
        "rank": RANK,
        "chosen": CHOSEN,
        "share_closer": number(
            "Share of synthetic images that are closer to a LoRA training image, by pixels, by aligned pixels or by "
            "features, than any held-out real image of another patient",
            "%",
        ),
        "share_by_chance": number(
            "Upper bound of the mean of `share_closer` for new images of new patients: 3 / (held-out patients + 1)", "%"
        ),
        "share_below_percentile": number(
            "Share of synthetic images below the first percentile of held-out distances by any of the three; 1 to 3 % "
            "for new images of new patients; rests on no single held-out image",
            "%",
        ),
        "planted_found": number(
            "Share of the copies planted in the audit (`planted_copies`) that are closer than any held-out image", "%"
        ),
        **with_interval(
            "membership_auc",
            number(
                "Membership inference: AUC of telling LoRA's training images from held-out ones by their distance to "
                "the nearest synthetic image, by features; 50 is chance",
                "%",
            ),
        ),
        "least_pixels": number("Least pixel distance of a held-out real image to a LoRA training image"),
        "least_aligned": number("Least distance of a held-out real image after alignment, turned and shifted"),
        "least_features": number("Least feature distance of a held-out real image to a LoRA training image"),
        "percentile_pixels": number("First percentile of the held-out images' pixel distances"),
        "percentile_aligned": number("First percentile of the held-out images' distances after alignment"),
        "percentile_features": number("First percentile of the held-out images' feature distances"),
        "num_synthetic": integer("Synthetic images compared", "images"),
        "num_training": integer("LoRA training images compared", "images"),
        "num_heldout": integer("Held-out real images that give the least distances", "images"),
        "num_heldout_patients": integer("Patients of the held-out images", "patients"),
        "features": FEATURES,
    },
    notes="""\
The distances of every image are in `metadata`, columns `nearest_pixels` to `closer_than_real`. An image that is closer
than real ones is a case to look at, not a proof of memorisation.""",
)

WORST_COPIES = Table(
    name="worst_copies",
    about="One row per image of the chosen adapter that is closest to a training image, closest first.",
    columns={
        "image_id": string("The synthetic image, as in `metadata`"),
        "nearest_pixels": METADATA.columns["nearest_pixels"],
        "distance_pixels": METADATA.columns["distance_pixels"],
        "flipped": boolean("Whether the pixel distance is that of the mirrored image"),
        "nearest_features": METADATA.columns["nearest_features"],
        "distance_features": METADATA.columns["distance_features"],
        "closer_than_real": METADATA.columns["closer_than_real"],
        "ratio": number(
            "Distance divided by the least distance of held-out real images, the smaller of pixels and features; below "
            "1 is closer than real; null without held-out images"
        ),
    },
)

PLANTED_COPIES = Table(
    name="planted_copies",
    about="One row per kind of copies planted in the memorisation audit: slightly altered training images.",
    columns={
        "kind": string("`exact`, `cropped`, `shifted`, `rotated`, `brightened`, `blended` with another image"),
        "num_planted": integer("Planted copies of this kind", "images"),
        "share_found": number("Share that is closer to a training image than any held-out real image", "%"),
        "share_below_percentile": number("Share below the first percentile of held-out distances", "%"),
        "share_traced": number("Share whose nearest training image is the one it is a copy of", "%"),
    },
    notes="An audit that finds no copies among the synthetic images says something only as far as it finds these.",
)

EMBEDDING = Table(
    name="embedding",
    about="One row per image of the t-SNE embeddings; each plane is an embedding of its own.",
    columns={
        "plane": string("Plane of the image, one embedding per plane"),
        "source": string("`spanish`, `african` or `synthetic`"),
        "image_id": string("The image, as in `catalog`; a synthetic image is `synthetic/` and its id in `metadata`"),
        "x": number("First t-SNE coordinate; axes have no unit and differ between planes"),
        "y": number("Second t-SNE coordinate"),
        "features": FEATURES,
    },
)

TABLES = (LOSS, RANKS, SEARCH, FIDELITY, COPIES, PLANTED_COPIES, WORST_COPIES, EMBEDDING)

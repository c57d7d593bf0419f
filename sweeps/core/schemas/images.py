"""Tables of images: the catalog, selections from it, duplicates, synthetic images."""

from __future__ import annotations

from sweeps.core.schemas.column import RANK, Column, Table, binary, boolean, integer, number, string

AUDITED = ("nearest_pixels", "distance_pixels", "nearest_features", "distance_features", "closer_than_real")
"""Columns of `metadata` that the memorisation audit adds, as in `fulora.evaluate.copies.NearestImage`."""

_CATALOG: dict[str, Column] = {
    "image_id": string(
        "Unique id, such as `spanish/Patient01100_Plane2_2_of_3` or `african/Algeria/patient007_DZA_plane0`"
    ),
    "path": string("Path of the file: relative to the run's folder if the file is in it, else absolute"),
    "source": string("Where the image comes from: `spanish`, `african` or `synthetic`"),
    "plane": string("Label: `other`, `abdomen`, `brain`, `femur` or `thorax`"),
    "patient_id": string(
        "Patient, such as `spanish/1100` or `african/Algeria/7` (numbers restart in each country); empty for a "
        "synthetic image"
    ),
    "centre": string("Country of an African image, `Spain` for a Spanish one; empty for a synthetic image"),
    "machine": string("Ultrasound machine as published; null where unknown"),
    "split": string("Published split: `train` or `test`"),
    "width_px": integer("Width of the decoded image", "px"),
    "height_px": integer("Height of the decoded image", "px"),
    "sha256": string("SHA-256 of the file, in hex"),
    "pixel_hash": string(
        "SHA-256 of size and decoded grey pixels, in hex: equal pixels have equal hashes in any format"
    ),
    "perceptual_hash": string(
        "Perceptual hash (512-bit difference hash), in hex; empty where the image is not compared"
    ),
}

CATALOG = Table(name="catalog", about="One row per real image of the study.", columns=_CATALOG)

MANIFEST = Table(
    name="manifest",
    about="One row per image of a selection: the images that a step reads, and what each is used for.",
    columns={
        "role": string("Use of the image: `train`, `validation`, `test`, `heldout`, `embedded` or `all`"),
        **_CATALOG,
    },
)

_SETS = "`train` (training split), `lora` (training split, and LoRA trains on it), `test` or `synthetic`"

AUDIT = Table(
    name="audit",
    about="One row per pair of duplicate or near-duplicate images; a pair of a test image and any other is a leak.",
    columns={
        "kind": string(
            "`pixels`: equal decoded grey pixels; `perceptual`: perceptual hashes that differ in at most 40 of 512 bits"
        ),
        "distance": integer("Hamming distance of the perceptual hashes; 0 for kind `pixels`", "bits"),
        "image_a": string("Id of the first image; `image_a` sorts before `image_b`"),
        "image_b": string("Id of the second image"),
        "set_a": string(f"Use of the first image: {_SETS}"),
        "set_b": string(f"Use of the second image: {_SETS}"),
        "split_a": string("Published split of the first image; `train` for a synthetic image"),
        "split_b": string("Published split of the second image; `train` for a synthetic image"),
        "source_a": string("Source of the first image"),
        "source_b": string("Source of the second image"),
        "patient_a": string("Patient of the first image; empty for a synthetic image"),
        "patient_b": string("Patient of the second image; empty for a synthetic image"),
        "same_plane": boolean("Whether both images have the same label"),
    },
    notes="""\
Real images are searched for duplicates before anything is trained, synthetic images before the classifiers are. A
synthetic image is paired with the nearest image of each set only. The recipes `paper`, `repo` and `demo` report leaks
and continue. `fixed` excludes training images (LoRA's included) and synthetic images that are duplicates or
near-duplicates of a test image, training images of patients who are also in the test split, and all but one of equal
training images; the pairs stay listed. Near-duplicate training images are kept: they are frames of one sweep.""",
)

METADATA = Table(
    name="metadata",
    about="One row per synthetic image: `synthetic/metadata.parquet`, in the layout of a Hugging Face `imagefolder`.",
    columns={
        "file_name": string("Path of the PNG file relative to the folder of the table: `PLANE/IMAGE_ID.png`"),
        "image_id": string("Unique id within the run, such as `brain-euler-00002-228381903`"),
        "plane": string("Plane of the prompt, which is the image's label"),
        "prompt": string("Text prompt"),
        "sampler": string("Diffusion sampler: `euler` or `unipc`"),
        "seed": integer("Seed of the image's random generator"),
        "adapter": string("Id of the adapter the image is sampled with; of the base model where there is none"),
        "rank": RANK,
        "num_steps": integer("Sampling steps", "steps"),
        "guidance": number("Classifier-free guidance scale"),
        "sha256": string("SHA-256 of the PNG file, in hex"),
        "base": string("Base diffusion model, with the hash of its weights"),
        "pixel_hash": string("SHA-256 of size and decoded grey pixels, in hex, as in `catalog`"),
        "device": string("Device that sampled the image, such as `cpu` or `cuda:0`"),
        "node": string("End of the id of the Ray node that sampled the image; null without Ray"),
        "gpu_ids": string("GPUs of that node that Ray assigned, separated by commas; null without GPUs"),
        "nearest_pixels": string("Id of the nearest LoRA training image by pixels"),
        "distance_pixels": number(
            "Pixel distance to `nearest_pixels`: RMS difference of standardised grey 32 x 32 thumbnails, the lower of "
            "upright and mirrored; 0 for a copy, 1.41 for unrelated images"
        ),
        "nearest_features": string("Id of the nearest LoRA training image by features"),
        "distance_features": number(
            "Euclidean distance of the unit-length features to those of `nearest_features`, 0 to 2"
        ),
        "closer_than_real": boolean(
            "Whether one of the two distances is below that of every held-out real image of another patient; null "
            "without held-out images"
        ),
    },
)

# Images with their bytes: what an audit of the whole set adds is not known where a part of it is sampled.
IMAGES = Table(
    name="images",
    about="One row per synthetic image of a set made by `sweeps sample --to ADDRESS`, the PNG file included.",
    columns={
        **{name: column for name, column in METADATA.columns.items() if name not in AUDITED},
        "image": binary("Bytes of the PNG file"),
    },
    notes="""\
The files are `data/PLANE-SAMPLER-FIRST-COUNT.parquet`; `set.json` records the settings of the set. With
`--to-form files` the set has `PLANE/*.png` and `metadata.parquet` instead.""",
)

TABLES = (CATALOG, MANIFEST, AUDIT, METADATA, IMAGES)

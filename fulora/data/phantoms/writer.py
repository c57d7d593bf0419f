"""Phantoms on disk in the two published layouts, for the same readers as the real images.

In: how many images, a seed, a folder. Out: `folder/spanish` (FETAL_PLANES_DB_data.csv, Images/*.png) and
`folder/african` (African_planes_database.csv, COUNTRY/*.png), written beside and renamed into place when complete.
Source: the layouts of Zenodo 3904280 (Burgos-Artizzu et al. 2020) and Zenodo 7540448 (Sendra-Balcells et al. 2023).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from fulora.data.layouts import ListedImage, write_source
from fulora.data.phantoms.batches import african_examinations, render, spanish_examinations
from fulora.data.phantoms.machines import AFRICAN_MACHINES
from fulora.errors import InputError, fault, raise_if_any
from fulora.planes import TESTED_PLANES

LOOK_VERSION = 2
"""Increased when the same configuration and seed give other images, so that older directories are not reused."""

RECORD_NAME = "phantoms.json"
"""File with the configuration and seed of a complete directory."""

SPANISH_PLANE_CODES = {"other": 1, "abdomen": 2, "brain": 3, "femur": 5, "thorax": 6}
"""Plane numbers in the published Spanish file names (4 is the maternal cervix)."""

COUNTRY_CODES = {"Algeria": "DZA", "Egypt": "EGY", "Malawi": "MWI", "Ghana": "GHA", "Uganda": "UGA"}
"""Country codes in the published African file names."""

_OPERATORS = ("Op. 1", "Op. 2", "Op. 3", "Other")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomConfig:
    """Numbers of phantoms to write."""

    num_spanish: int = 600
    """Spanish-like images, all in the training split; balanced where a multiple of 5 * images_per_patient."""
    num_african_train: int = 80
    """African-like training images, one patient in all four planes after another, centres in turn."""
    num_african_test: int = 160
    """African-like test images, of other patients."""
    images_per_patient: int = 4
    """Images of a Spanish-like patient, over two planes."""

    def validate(self) -> list[str]:
        """Return all faults, none where the configuration can be used."""
        found = []
        for name in ("num_spanish", "num_african_train", "num_african_test"):
            if getattr(self, name) < 0:
                found.append(fault(f"phantoms.{name}", getattr(self, name), "must be 0 or more", "Give a count."))
        if self.images_per_patient < 1:
            value = self.images_per_patient
            found.append(fault("phantoms.images_per_patient", value, "must be 1 or more", "The default is 4."))
        return found


def write_phantoms(folder: Path, config: PhantomConfig, *, seed: int) -> None:
    """Write both sources under `folder`; a complete directory of the same configuration and seed is kept.

    Raises InputError for an invalid configuration, and for a directory that holds other files or cannot be written.
    """
    raise_if_any(config.validate())
    folder = Path(folder)
    record = {"config": asdict(config), "seed": seed, "look_version": LOOK_VERSION}
    if _is_complete(folder, record):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise InputError(
            fault("phantoms folder", str(folder), f"cannot be written ({error.strerror})", "Choose another place.")
        ) from error
    try:
        write_source(partial / "spanish", "spanish", _spanish(config, seed))
        write_source(partial / "african", "african", _african(config, seed))
        (partial / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        # mkdtemp creates a directory for this user alone; the finished one follows the umask.
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _is_complete(folder: Path, record: dict) -> bool:
    """Return whether the directory holds exactly these phantoms; raise InputError where it holds other files."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == record:
        return True
    held = "holds phantoms of another configuration, seed or version" if found else "holds other files"
    raise InputError(fault("phantoms folder", str(folder), held, "Choose another directory, or delete this one."))


def _spanish(config: PhantomConfig, seed: int) -> Iterator[tuple[ListedImage, np.ndarray]]:
    """Yield the Spanish-like images."""
    for exam in spanish_examinations(config.num_spanish, seed=seed, images_per_patient=config.images_per_patient):
        code = SPANISH_PLANE_CODES[exam.plane.name]
        listed = ListedImage(
            name=f"Patient{exam.patient:05d}_Plane{code}_{exam.number}_of_{exam.of}",
            patient=exam.patient,
            plane=exam.plane.label,
            train=True,
            machine=exam.machine.name,
            operator=_OPERATORS[exam.patient % len(_OPERATORS)],
            brain_plane="Trans-thalamic" if exam.plane.name == "brain" else "Not A Brain",
        )
        yield listed, render(exam, seed=seed)


def _african(config: PhantomConfig, seed: int) -> Iterator[tuple[ListedImage, np.ndarray]]:
    """Yield the African-like images; patients are numbered from 1 in each country."""
    num_centres = len(AFRICAN_MACHINES)
    train = list(african_examinations(config.num_african_train))
    first_test_patient = train[-1].patient + 1 if train else 1
    test = african_examinations(config.num_african_test, first_patient=first_test_patient)
    for is_train, exam in chain(((True, exam) for exam in train), ((False, exam) for exam in test)):
        country = exam.machine.name
        number = (exam.patient - 1) // num_centres + 1
        listed = ListedImage(
            name=f"patient{number:03d}_{COUNTRY_CODES[country]}_plane{TESTED_PLANES.index(exam.plane)}",
            patient=number,
            plane=exam.plane.label,
            train=is_train,
            centre=country,
        )
        yield listed, render(exam, seed=seed)

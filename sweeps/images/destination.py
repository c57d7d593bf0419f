"""Synthetic images to an address outside the run: a folder or S3, as files or as Parquet with the bytes inside.

Under the address, `set.json` says what the images are, and either `data/*.parquet` holds some hundred images each, or
`PLANE/*.png` lie beside metadata.parquet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fulora.errors import InputError, fault
from sweeps.core.hashing import to_jsonable
from sweeps.core.remote import Remote
from sweeps.core.tables import to_table
from sweeps.images.sets import SyntheticSet

Drawn = tuple[dict[str, Any], bytes]
"""An image: its row of metadata.parquet and its PNG file."""
Form = Literal["parquet", "files"]

_SET = "set.json"
SHARD = re.compile(r"([a-z]+)-([a-z]+)-(\d{8,})-(\d+)\.parquet")
"""Plane, sampler, first image, number of images."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A place for images, and the sink that fills it."""

    address: str
    """An absolute path, or a URI that Arrow opens, such as `s3://BUCKET/FOLDER?region=eu-west-1`."""
    form: Form = "parquet"
    """PNG bytes inside Parquet files, or PNG files beside a metadata.parquet."""

    def __str__(self) -> str:
        """Return the address without credentials."""
        return str(self.remote)

    @cached_property
    def remote(self) -> Remote:
        """The place."""
        return Remote(address=self.address, flag="to")

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes an equal destination elsewhere; the open file system stays here."""
        return {"address": self.address, "form": self.form}

    def has(self, which: SyntheticSet, index: int) -> bool:
        """Return whether a shard is complete."""
        return self.remote.size(self._shard(which, index)) is not None

    def keep(self, which: SyntheticSet, index: int, images: Sequence[Drawn]) -> None:
        """Write a shard; of files, the images first."""
        if self.form == "parquet":
            table = to_table("images", [{**row, "image": png} for row, png in images])
        else:
            table = to_table("metadata", [row for row, _ in images])
            for row, png in images:
                self.remote.put(row["file_name"], png)
        self.remote.put(self._shard(which, index), _as_bytes(table))

    @property
    def folder(self) -> str:
        """Where its Parquet files are: the images themselves, or what is known of a batch of files."""
        return "data" if self.form == "parquet" else "parts"

    def _shard(self, which: SyntheticSet, index: int) -> str:
        return self.shard_name(*which.place_of(index))

    def shard_name(self, plane: str, sampler: str, start: int, count: int) -> str:
        """Return the name of the file that holds `count` images from the `start`-th on."""
        return f"{self.folder}/{plane}-{sampler}-{start:08d}-{count}.parquet"

    def shards(self) -> list[str]:
        """Return the names of the shards that are there; files of other names are no business of ours."""
        return [name for name in self.remote.names(self.folder) if SHARD.fullmatch(Path(name).name)]

    def claim(self, which: SyntheticSet) -> None:
        """Write set.json. Raises InputError where the place cannot be used or holds other images."""
        about = {"science": which.science, "form": self.form, **_about(which)}
        remedy = "Give --to another address."
        with self.remote.in_words():
            if (there := self.remote.get(_SET)) is not None:
                before = json.loads(there)
                differing = [key for key in ("science", "form") if before.get(key) != about[key]]
                if differing:
                    rule = f"holds another set (its {' and '.join(differing)} differ: {before.get(differing[0])})"
                    raise InputError(fault("to", str(self), rule, remedy))
            else:
                self.remote.put(_SET, (json.dumps(about, indent=1, default=str) + "\n").encode())


def _about(which: SyntheticSet) -> dict[str, Any]:
    return {
        "adapter": which.adapter_id,
        "rank": which.rank,
        "seed": which.seed,
        "sampling": {k: v for k, v in to_jsonable(which.config).items() if k != "images_per_plane"},
    }


def _as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()

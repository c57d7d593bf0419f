"""Croissant metadata of a set of synthetic images, by which search engines and loaders read a dataset.

In: the facts of its card, its table. Out: JSON-LD. Source: the Croissant format 1.0, MLCommons.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.core.schemas import SCHEMAS
from sweeps.publish.dataset_card import Facts

_CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source",
    "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
"""The context that the format prescribes."""
_LICENCES = {
    "mit": "https://opensource.org/license/mit",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
}
"""Addresses of licences; another is given by its identifier."""
_TYPES = (
    (pa.types.is_boolean, "sc:Boolean"), (pa.types.is_integer, "sc:Integer"), (pa.types.is_floating, "sc:Float"),
)  # fmt: skip
_HUB = "https://huggingface.co/datasets/"


def croissant(facts: Facts, table: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a set: `table` is its metadata.parquet, `names` its images' paths."""
    schema = pq.read_schema(io.BytesIO(table))
    fields = [_field(field) for field in schema]
    image = {
        "@type": "cr:Field", "@id": "images/image", "name": "image", "description": "The image", "dataType":
        "sc:ImageObject", "source": {"fileSet": {"@id": "png"}, "extract": {"fileProperty": "content"}},
    }  # fmt: skip
    path = {
        "@type": "cr:Field", "@id": "images/path", "name": "path", "description": "Path of the file", "dataType":
        "sc:Text", "source": {"fileSet": {"@id": "png"}, "extract": {"fileProperty": "fullpath"}},
        "references": {"field": {"@id": "metadata/file_name"}},
    }  # fmt: skip
    planes = sorted({name.partition("/")[0] for name in names})
    repository = {
        "@type": "cr:FileObject", "@id": "repository", "name": "repository", "description": "The repository",
        "contentUrl": _HUB + facts.to, "encodingFormat": "git+https",
        "sha256": "https://github.com/mlcommons/croissant/issues/80",  # a repository has none; the hub says so too
    }  # fmt: skip
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": facts.description,
        "license": _LICENCES.get(facts.licence, facts.licence),
        "url": _HUB + facts.to,
        "version": "1.0.0",
        "keywords": ["synthetic", "fetal ultrasound", "diffusion", *planes],
        "distribution": [
            repository,
            {
                "@type": "cr:FileObject", "@id": "table", "name": "metadata.parquet", "contentUrl": "metadata.parquet",
                "description": "One row per image", "containedIn": {"@id": "repository"},
                "encodingFormat": "application/x-parquet", "sha256": hashlib.sha256(table).hexdigest(),
            },
            {
                "@type": "cr:FileSet", "@id": "png", "name": "png", "description": "The images, a folder per plane",
                "containedIn": {"@id": "repository"}, "encodingFormat": "image/png", "includes": "*/*.png",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet", "@id": "metadata", "name": "metadata", "description": "How each was made",
                "key": {"@id": "metadata/file_name"}, "field": fields,
            },
            {
                "@type": "cr:RecordSet", "@id": "images", "name": "images", "description": "The images",
                "field": [path, image],
            },
        ],
    }  # fmt: skip


def _field(field: pa.Field) -> dict[str, Any]:
    """Return a column of the table as a field, with its meaning."""
    kinds = (
        (pa.types.is_boolean, "sc:Boolean"),
        (pa.types.is_integer, "sc:Integer"),
        (pa.types.is_floating, "sc:Float"),
    )
    kind = next((name for is_kind, name in kinds if is_kind(field.type)), "sc:Text")
    column = SCHEMAS["metadata"][field.name]
    return {
        "@type": "cr:Field", "@id": f"metadata/{field.name}", "name": field.name, "description": column.meaning,
        "dataType": kind, "source": {"fileObject": {"@id": "table"}, "extract": {"column": field.name}},
    }  # fmt: skip

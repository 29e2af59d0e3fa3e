"""manifest -> croissant.json, the data set described for machines: files with their sha256, and every column.

MLCommons Croissant 1.1, as JSON-LD. It is written here as plain JSON, since the client library brings a stack of its
own; the tests read it with that library.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from udasa import schema
from udasa.cards.columns import describe
from udasa.cards.layout import CONFIGS, glob, human_labels, rows
from udasa.cards.markdown import check_repo

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The vocabulary's own context, as the specification prints it."""

CITATION = (
    "Sun, Zhang and Zeng 2025, An Uncertainty-Driven Adaptive Self-Alignment Framework for Large Language Models, "
    "arXiv 2507.17477"
)
"""The paper whose outline the data set follows."""

_TYPES = {"string": "sc:Text", "double": "cr:Float64", "int32": "cr:Int32", "int64": "cr:Int64"}
_FORMATS = {".parquet": "application/x-parquet", ".svg": "image/svg+xml", ".json": "application/json"}


def croissant(manifest: Mapping[str, Any], repo: str | None) -> str:
    """Return croissant.json: a file object a file, a file set and a record set a configuration.

    Args:
        manifest: what `udasa.publish` wrote.
        repo: Hub id of the data set, whose files then have addresses at the release's tag; None for a folder.

    Raises:
        UserError: the repository's id does not fit.
    """
    if repo is not None:
        check_repo(repo)
    named = [config for config in CONFIGS if rows(manifest, config)]
    home = {} if repo is None else {"url": f"https://huggingface.co/datasets/{repo}"}
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": manifest["name"],
        "description": (
            f"Preference pairs made {human_labels(manifest)}: a certain and a less certain answer of one model to a "
            "prompt, staged by the gap between their uncertainties."
        ),
        "version": manifest["version"],
        "license": manifest["license"],
        "citeAs": CITATION,
        **home,
        "keywords": ["preference", "dpo", "uncertainty", "synthetic"],
        "distribution": [
            _repository(repo),
            *_file_objects(manifest, repo),
            *(_file_set(manifest, config) for config in named),
        ],
        "recordSet": [_record_set(config) for config in named],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _repository(repo: str | None) -> dict[str, Any]:
    """Return the container of the file sets; the sha256 is what the Hub writes for one, as a repository has none."""
    return {
        "@type": "cr:FileObject",
        "@id": "repo",
        "name": "repo",
        "description": "The repository, or the folder of the release.",
        "contentUrl": "." if repo is None else f"https://huggingface.co/datasets/{repo}",
        "encodingFormat": "git+https",
        "sha256": "https://github.com/mlcommons/croissant/issues/80",
    }


def _file_objects(manifest: Mapping[str, Any], repo: str | None) -> Iterator[dict[str, Any]]:
    base = "" if repo is None else f"https://huggingface.co/datasets/{repo}/resolve/v{manifest['version']}/"
    for path, facts in sorted(manifest["files"].items()):
        yield {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": base + path,
            "contentSize": f"{facts['bytes']} B",
            "encodingFormat": _FORMATS[PurePosixPath(path).suffix],
            "sha256": facts["sha256"],
        }


def _file_set(manifest: Mapping[str, Any], config: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{config}",
        "name": f"files-{config}",
        "description": f"The parquet files of the configuration {config}.",
        "containedIn": {"@id": "repo"},
        "encodingFormat": _FORMATS[".parquet"],
        "includes": [glob(config, split) for split in rows(manifest, config)],
    }


def _record_set(config: str) -> dict[str, Any]:
    table = schema.SCORED if config == "responses" else schema.PAIRS
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "description": "Every answer with its raw scores, a row a prompt."
        if config == "responses"
        else "Preference pairs, a row a pair.",
        "key": {"@id": f"{config}/prompt_id"},
        "field": [_field(f"{config}/{column.name}", column.type, f"files-{config}", column.name) for column in table],
    }


def _field(identity: str, kind: pa.DataType, files: str, column: str, path: str = "") -> dict[str, Any]:
    """Describe a column; a list repeats, a struct has a field for each of its own, at `path` inside the column."""
    repeated = pa.types.is_list(kind)
    inner = kind.value_type if repeated else kind
    meaning, unit = describe(identity.rpartition("/")[2])
    description = f"{meaning} ({unit})" if unit else meaning
    field: dict[str, Any] = {"@type": "cr:Field", "@id": identity, "name": identity, "description": description}
    if repeated:
        field["repeated"] = True
    if pa.types.is_struct(inner):
        prefix = f"{path}[*]." if path else ""
        parts = [(f"{identity}/{part.name}", part.type, f"{prefix}{part.name}") for part in inner]
        field["subField"] = [_field(name, part, files, column, inside) for name, part, inside in parts]
        return field
    source: dict[str, Any] = {"fileSet": {"@id": files}, "extract": {"column": column}}
    if path:
        source["transform"] = {"jsonPath": path}
    return field | {"dataType": _TYPES[str(inner)], "source": source}

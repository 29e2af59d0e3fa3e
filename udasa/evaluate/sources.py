"""A public evaluation file -> its rows, checked by sha256: from a local mirror, else from the Hub at a pinned revision.

    rows("hhh_alignment/hhh_alignment.jsonl", data="mirror")
    -> [{"id": "hhh-000", "subset": "harmless", "query": …, "chosen": …, "rejected": …}, …]

A mirror is a folder with one folder a source: `mirror/truthfulqa/TruthfulQA_v2025_790.csv`. Nothing of any source is in
this project, and all of it is for evaluation: keep it out of what a policy is trained on.
"""

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udasa.digests import file_sha256
from udasa.errors import UserError

MIRROR = "UDASA_EVAL_DATA"
"""Environment variable that names the mirror where no folder is given."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a source."""

    sha256: tuple[str, ...]
    """Digests that are accepted: more than one where public copies of the same rows differ in their bytes."""
    url: str | None
    """Where the file is, at a pinned revision; None where no public file has these bytes."""
    hub: str | None = None
    """Its path in the Hub's repository, if it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A public data set."""

    licence: str
    citation: str
    files: Mapping[str, File]
    """By the name in the mirror's folder of the source."""
    hub: str | None = None
    """Data set on the Hub that holds the same files."""
    revision: str | None = None
    """Its commit."""
    note: str = ""
    """What to know when a file has to be fetched by hand."""


_recorded: ContextVar[dict[str, str] | None] = ContextVar("_recorded", default=None)

_GITHUB = "https://raw.githubusercontent.com"
HHH = "hhh_alignment/hhh_alignment.jsonl"
_BBQ = f"{_GITHUB}/nyu-mll/BBQ/bea11bd97d79217245b5871acd247b9d6eb24598/data"
_FASTCHAT = f"{_GITHUB}/lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
_HARMBENCH = f"{_GITHUB}/centerforaisafety/HarmBench/8e1604d1171fe8a48d8febecd22f600e462bdcdd/data/behavior_datasets"
_NLTK = f"{_GITHUB}/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora"
_TRUTHFULQA = f"{_GITHUB}/sylinrl/TruthfulQA/d71c110897f5d31c5d7f309e7bc316c152f6f031/TruthfulQA.csv"
_XSTEST = f"{_GITHUB}/paul-rottger/xstest/d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
_IFEVAL = (
    f"{_GITHUB}/google-research/google-research/8dadc6c56e2c2e51a9dd7e0d4bf2840922b4b6c0/"
    "instruction_following_eval/data/input_data.jsonl"
)
_STRONGREJECT = (
    f"{_GITHUB}/alexandrasouly/strongreject/f7cad6c17e624e21d8df2278e918ae1dddb4cb56/"
    "strongreject_dataset/strongreject_dataset.csv"
)


def _files(base: str, digests: Mapping[str, str]) -> dict[str, File]:
    return {name: File((digest,), f"{base}/{name}") for name, digest in digests.items()}


SOURCES: dict[str, Source] = {
    "truthfulqa": Source(
        licence="Apache-2.0",
        citation="Lin, Hilton and Evans 2022, arXiv 2109.07958; binary choices added by the authors in 2025",
        files={
            "TruthfulQA_v2025_790.csv": File(
                (
                    "764be5c0c27c337baed4db641555c125428569df44a8dbf9b28796a6ce4d7616",
                    "b8d8ef1e12f98b4f2a9f47abc9765da0640b182b6c5d9b92f0c1a1f2f1e02e5c",
                ),
                _TRUTHFULQA,
            )
        },
        note="The second digest is the authors' own file; the first is a copy of it whose bytes differ.",
    ),
    "hhh_alignment": Source(
        licence="Apache-2.0",
        citation="Askell et al. 2021, arXiv 2112.00861; BIG-bench task hhh_alignment",
        files={
            "hhh_alignment.jsonl": File(("48f59d23ce734f52fbf7855949159967611a88b1db483bd19e55245f3348885b",), None)
        },
        note=(
            f"It is made by `python -m udasa.evaluate.hhh hhh_alignment_eval.json DIR/{HHH}` of "
            f"{_GITHUB}/prometheus-eval/prometheus-eval/dcfb44272d5d0414832f5dbb8c2a05ebc2614234/eval/benchmark/data/"
            "hhh_alignment_eval.json."
        ),
    ),
    "hh_rlhf_harmless_test": Source(
        licence="MIT",
        citation="Bai et al. 2022, arXiv 2204.05862",
        hub="Anthropic/hh-rlhf",
        revision="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        files={
            "harmless-base_test.jsonl.gz": File(
                ("ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03",),
                f"{_GITHUB}/anthropics/hh-rlhf/354e5c3cb8960630860dd5774a6ac2a58313bf4d/harmless-base/test.jsonl.gz",
                hub="harmless-base/test.jsonl.gz",
            )
        },
    ),
    "bbq": Source(
        licence="CC-BY-4.0",
        citation="Parrish et al. 2022, arXiv 2110.08193",
        files=_files(
            _BBQ,
            {
                "Age.jsonl": "46e805b3fc2d8cbd26eeb8e8430d98cf7b2dc9c83574ff3674e8ce4f0fca2a60",
                "Disability_status.jsonl": "375d40d9b71f056150264445ec189b13934998f3f49a1e311aa7578eb3b45e5f",
                "Nationality.jsonl": "a583e74666aec0341ded8aa3983e7cad694eb24de72c254d28b2df3035720090",
                "Physical_appearance.jsonl": "e48d7e13508565f4801574e611043470c25c95a0a62af3699cb5ee7cb02608fb",
                "Religion.jsonl": "cb9555f9f3454a52cd2df85956b59bd7fcca5aa922c8527693b1164d08417616",
                "Sexual_orientation.jsonl": "2c71036b9e7584fe589c42aef32c1a42bc01b9a5e9b1b8704342630cdb08cefd",
            },
        ),
    ),
    "ifeval": Source(
        licence="Apache-2.0",
        citation="Zhou et al. 2023, arXiv 2311.07911",
        files={
            "input_data.jsonl": File(("67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",), _IFEVAL)
        },
        note="google/IFEval on the Hub is another file: the same prompts, other bytes.",
    ),
    "xstest": Source(
        licence="CC-BY-4.0",
        citation="Röttger et al. 2024, arXiv 2308.01263",
        hub="Paul/XSTest",
        revision="f600c994b256f12867dfa5b3eb3d545a3e62f8b5",
        files={
            "xstest_prompts.csv": File(
                ("11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",),
                f"{_XSTEST}/xstest_prompts.csv",
                hub="xstest_prompts.csv",
            ),
            **_files(
                f"{_XSTEST}/model_completions",
                {
                    f"xstest_v2_completions_{model}.csv": digest
                    for model, digest in {
                        "gpt4": "71af323af8ecdec0efae23992317721441d2cfedddedeef3248f842f4e15c9ca",
                        "llama2new": "6365cc55ce0a593c7ab8785853d02784be027d97199d4077912b4313cd010099",
                        "llama2orig": "cbc52550e8ba8197a3e3d97a5af078d27bae4766737cd62df80270126a87ffc6",
                        "mistralguard": "0ac03817b65e019a8f5b4b3eed805086f9f7fafe538ac9ebd156f80210af6903",
                        "mistralinstruct": "6a146b65a5b96ec8249729bc2db459697175125998d7cbbcc88f7688ecf31dad",
                    }.items()
                },
            ),
        },
    ),
    "harmbench": Source(
        licence="MIT",
        citation="Mazeika et al. 2024, arXiv 2402.04249",
        files=_files(
            _HARMBENCH,
            {
                "harmbench_behaviors_text_all.csv": "2745611872be3b2eab141e39bb328b8c1140dc3cd8d0a49da6174260d9ccbfb9",
            },
        ),
    ),
    "strongreject": Source(
        licence="MIT",
        citation="Souly et al. 2024, arXiv 2402.10260",
        files={
            "strongreject_dataset.csv": File(
                ("4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",), _STRONGREJECT
            )
        },
    ),
    "mt_bench": Source(
        licence="Apache-2.0",
        citation="Zheng et al. 2023, arXiv 2306.05685",
        files={
            "question.jsonl": File(
                ("119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",),
                f"{_FASTCHAT}/mt_bench/question.jsonl",
            ),
            "reference_answer_gpt-4.jsonl": File(
                ("f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",),
                f"{_FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl",
            ),
            "vicuna_question.jsonl": File(
                ("c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5",),
                f"{_FASTCHAT}/vicuna_bench/question.jsonl",
            ),
        },
    ),
    "sentiment_nltk": Source(
        licence="CC-BY-4.0",
        citation="Pang and Lee 2004 and 2005; Hu and Liu 2004",
        files=_files(
            _NLTK,
            {
                "sentence_polarity.zip": "6e1ed4405b65c7eabf1d199a7f7c437091ac21da0ea7467b410a74062574566b",
                "movie_reviews.zip": "a41211ae685019137410268134db6a1a14428c89b671eb83056151a878539008",
                "opinion_lexicon.zip": "7a5da68d53016c5d1fca38f7dd81844cff73466371f90968d1ef15c85b873193",
            },
        ),
    ),
}


def rows(name: str, data: str | Path | None = None) -> list[dict[str, Any]]:
    """Return the rows of a .csv, .jsonl or .jsonl.gz file, in its order; the values of a .csv are texts.

    Args:
        name: source and file, such as `bbq/Age.jsonl`.
        data: the mirror's folder; else the one that the environment names.

    Raises:
        UserError: as `fetch`.
    """
    content = fetch(name, data).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")
    if name.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def fetch(name: str, data: str | Path | None = None) -> Path:
    """Return the path of a file whose sha256 is right: in the mirror, else in the Hub's cache.

    Raises:
        UserError: it is in no place, or has another sha256; the message says what to download and where to put it.
    """
    return _found(name, data)[0]


def digest(name: str, data: str | Path | None = None) -> str:
    """Return the sha256 of the file that `fetch` gives, as hex.

    Raises:
        UserError: as `fetch`.
    """
    return _found(name, data)[1]


def _found(name: str, data: str | Path | None) -> tuple[Path, str]:
    """Return where a file is, and its sha256."""
    folder, _, filename = name.partition("/")
    source, mirror = SOURCES[folder], data or os.environ.get(MIRROR)
    file = source.files[filename]
    path = Path(mirror).expanduser() / folder / filename if mirror else None
    if path is None or not path.is_file():
        path = _from_hub(name, source, file, path)
    if (found := file_sha256(path)) not in file.sha256:
        raise UserError(
            f"{path} has the sha256 {found}, expected {' or '.join(file.sha256)}: it is another version of {name}, or "
            f"is damaged, and its figures would not compare. {_where(name, source, file)}"
        )
    if (record := _recorded.get()) is not None:
        record[name] = found
    return path, found


@contextmanager
def recording() -> Iterator[dict[str, str]]:
    """Give a dictionary that takes the name and sha256 of every file that is fetched within this context."""
    found: dict[str, str] = {}
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


def _from_hub(name: str, source: Source, file: File, path: Path | None) -> Path:
    looked = f"not at {path}" if path else f"nowhere: neither --data nor {MIRROR} names a folder"
    if source.hub is None or file.hub is None:
        raise UserError(f"The evaluation data {name} are {looked}. {_where(name, source, file)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source.hub, file.hub, repo_type="dataset", revision=source.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"The evaluation data {name} are {looked}, and the Hub does not give {source.hub}@{source.revision}: "
            f"{error} {_where(name, source, file)}"
        ) from error


def _where(name: str, source: Source, file: File) -> str:
    place = f"as DIR/{name}, and give --data DIR or set {MIRROR}=DIR"
    return " ".join(filter(None, (f"{f'Download {file.url}' if file.url else 'Put it'} {place}.", source.note)))


def mirrored(name: str, data: str | Path | None = None) -> bool:
    """Say whether the mirror has a file of this name."""
    mirror = data or os.environ.get(MIRROR)
    return bool(mirror) and (Path(str(mirror)).expanduser() / name).is_file()

"""Prompts against each other, and pairs against evaluation data: who shares words in a row with whom.

Similarity is the Jaccard index of word 3-grams, as `udasa.prompts` drops near-duplicates by. It is computed exactly,
and the pairs to compare come from a prefix filter (Chaudhuri et al. 2006): two sets as alike as that must share one of
their few rarest members. So no random hash decides what is found, and a release gives the same counts anywhere.
docs/lint.md has the measured cost.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from udasa.limits import Lint
from udasa.lint.evaluation import Evaluation
from udasa.lint.finding import EXAMPLES, Finding, finding, share
from udasa.prompts import SHINGLE, words
from udasa.recipe import Recipe

WINDOW = 64
"""How many prompts after it a prompt is compared with among all that share one rare 3-gram, in the order of their ids.
Only thousands of prompts from one template make such a block longer than this; then some likenesses are not counted."""

_CHUNK = 20_000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
Limits = Mapping[str, float | None]


class Grams(NamedTuple):
    """Hashed word n-grams, and the text (by position) that each stands in."""

    rows: Rows
    hashes: Hashes


def overlap_findings(pairs: pl.DataFrame, evaluation: Evaluation, settings: Recipe, limits: Limits) -> list[Finding]:
    """Return the findings about prompts and evaluation data; `pairs` with its texts, as in `label_findings`."""
    rows = pairs.sort("prompt_id")
    return [
        *between_prompts(rows, settings.lint, settings.near_duplicate, limits),
        *in_prompts(rows, evaluation, settings.lint, limits),
        _in_replies(rows, evaluation, settings, limits),
    ]


def between_prompts(rows: pl.DataFrame, lint: Lint, near_duplicate: float, limits: Limits) -> list[Finding]:
    """Return the findings about prompts that are alike; `rows` with prompt_text, split and stage, sorted by id."""
    similarity = lint.similarity
    strict = max(near_duplicate, similarity)
    alike = near_duplicates(sets(rows["prompt_text"]), similarity)
    about = rows.with_row_index("row").select("row", "split", "stage")
    both = pl.concat([alike, alike.select(a="b", b="a", jaccard="jaccard")])
    both = both.join(about, left_on="a", right_on="row").join(about, left_on="b", right_on="row", suffix="_b")
    in_test = (pl.col("split") == "test") & (pl.col("split_b") == "train")
    test = rows.filter(pl.col("split") == "test")

    def alike_where(name: str, among: pl.DataFrame, condition: pl.Expr, what: str) -> Finding:
        ids = rows["prompt_id"].gather(both.filter(condition)["a"].unique())
        has = pl.col("prompt_id").is_in(ids.implode())
        return share(name, among, has, limits, f"{{count}} of {{total}} {what}.", exact=True)

    at, other_stage = f"at a Jaccard similarity of {similarity:g} or more", pl.col("stage") != pl.col("stage_b")
    leaked, dropped = in_test & (pl.col("jaccard") >= strict), f"at {strict:g} or more, which the build drops"
    return [
        alike_where("near-duplicates", rows, pl.lit(True), f"prompts have another one {at}"),
        alike_where("near-duplicates-across-splits", test, in_test, f"test prompts have a training prompt {at}"),
        alike_where("near-duplicates-across-stages", rows, other_stage, f"prompts have one of another stage {at}"),
        alike_where("leaked-test-prompts", test, leaked, f"test prompts have a training prompt {dropped}"),
    ]


def in_prompts(rows: pl.DataFrame, evaluation: Evaluation, lint: Lint, limits: Limits) -> list[Finding]:
    """Return the findings about prompts and evaluation data; `rows` with `prompt_text`, sorted by id."""
    texts = rows["prompt_text"]
    alike = near_texts(sets(texts), sets(evaluation.texts), lint.similarity)["a"].unique().to_numpy()
    shared = _sharing(texts, evaluation.texts, lint.prompt_ngram)
    found = {
        "evaluation-near-duplicates": (alike, f"prompts are at {lint.similarity:g} or more like"),
        "evaluation-ngrams-in-prompts": (shared, f"prompts share {lint.prompt_ngram} words in a row with"),
    }
    return [_against(name, rows, at, what, evaluation, limits) for name, (at, what) in found.items()]


def _in_replies(rows: pl.DataFrame, evaluation: Evaluation, settings: Recipe, limits: Limits) -> Finding:
    n = settings.lint.reply_ngram
    sides = (_sharing(rows[f"{side}_text"], evaluation.texts, n) for side in ("chosen", "rejected"))
    what = f"pairs have a reply that shares {n} words in a row with"
    return _against("evaluation-ngrams-in-replies", rows, np.union1d(*sides), what, evaluation, limits)


def _against(name: str, rows: pl.DataFrame, at: Rows, what: str, evaluation: Evaluation, limits: Limits) -> Finding:
    return finding(
        name,
        limits[name],
        f"{len(at):,} of {rows.height:,} {what} one of {len(evaluation.texts):,} evaluation texts "
        f"({evaluation.about}).",
        count=len(at),
        total=rows.height,
        value=len(at) / rows.height if rows.height else None,
        examples=rows["prompt_id"].gather(np.sort(at)[:EXAMPLES]),
    )


def sets(texts: pl.Series) -> pl.DataFrame:
    """Return the sets of word 3-grams, as row (the text's position), gram; a shorter text is one gram."""
    parts = [pl.DataFrame({"row": rows, "gram": hashes}) for rows, hashes in ngrams(texts, SHINGLE)]
    empty = pl.DataFrame(schema={"row": pl.Int64, "gram": pl.UInt64})
    return pl.concat([empty, *parts]).unique()


def near_duplicates(found: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return the pairs of rows a < b of one collection of `sets` whose Jaccard similarity is at least the threshold."""
    heads = _rarest(found, threshold).sort("gram", "row")
    rows, grams = heads["row"].to_numpy(), heads["gram"].to_numpy()
    seen = [pl.DataFrame(schema={"a": pl.Int64, "b": pl.Int64})]
    for step in range(1, WINDOW + 1):
        same = np.flatnonzero(grams[step:] == grams[:-step]) if step < len(grams) else np.empty(0, np.int64)
        if not len(same):
            break
        seen.append(pl.DataFrame({"a": rows[same], "b": rows[same + step]}).unique())
    return _confirmed(pl.concat(seen).unique(), found, found, threshold)


def near_texts(found: pl.DataFrame, others: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return the pairs of a row a and another collection's row b that are at least that similar."""
    shift = int(found["row"].max() or 0) + 1  # type: ignore[arg-type]
    heads = _rarest(pl.concat([found, others.with_columns(pl.col("row") + shift)]), threshold)
    ours, theirs = heads.filter(pl.col("row") < shift), heads.filter(pl.col("row") >= shift)
    candidates = ours.join(theirs, on="gram", how="inner").select(a="row", b=pl.col("row_right") - shift).unique()
    return _confirmed(candidates, found, others, threshold)


def _rarest(found: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return each row's rarest grams, so many that two rows as similar as the threshold share one; lone grams go."""
    ranked = found.with_columns(num=pl.len().over("gram"), size=pl.len().over("row")).sort("row", "num", "gram")
    place = pl.int_range(pl.len()).over("row")
    needed = (pl.col("size") * threshold - 1e-9).ceil()
    return ranked.filter(place <= pl.col("size") - needed, pl.col("num") > 1).select("row", "gram")


def _confirmed(candidates: pl.DataFrame, left: pl.DataFrame, right: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return the candidates whose exact Jaccard similarity is at least the threshold, with it, sorted."""
    kept = []
    sizes = [frame.group_by("row").len() for frame in (left, right)]
    for part in candidates.iter_slices(20 * _CHUNK):
        shared = part.join(left, left_on="a", right_on="row").join(
            right, left_on=["b", "gram"], right_on=["row", "gram"], how="semi"
        )
        counts = shared.group_by("a", "b").agg(shared=pl.len())
        counts = counts.join(sizes[0], left_on="a", right_on="row").join(
            sizes[1], left_on="b", right_on="row", suffix="_b"
        )
        jaccard = pl.col("shared") / (pl.col("len").cast(pl.Int64) + pl.col("len_b") - pl.col("shared"))
        kept.append(counts.select("a", "b", jaccard=jaccard).filter(pl.col("jaccard") >= threshold))
    empty = pl.DataFrame(schema={"a": pl.Int64, "b": pl.Int64, "jaccard": pl.Float64})
    return pl.concat([empty, *kept]).sort("a", "b")


def _sharing(texts: pl.Series, evaluation: pl.Series, n: int) -> Rows:
    """Return the positions of the texts that share n words in a row with one of the evaluation's, rising.

    An evaluation text of fewer words counts where a text is the same words and no more.
    """
    theirs = np.unique(np.concatenate([np.empty(0, np.uint64), *(g.hashes for g in ngrams(evaluation, n))]))
    found = [np.empty(0, np.int64)]
    if len(theirs):
        for rows, hashes in ngrams(texts, n):
            nearest = theirs[np.minimum(np.searchsorted(theirs, hashes), len(theirs) - 1)]
            found.append(rows[nearest == hashes])
    return np.unique(np.concatenate(found))


def ngrams(texts: pl.Series, n: int) -> Iterator[Grams]:
    """Yield the hashed n-grams of the texts, chunk by chunk; a shorter text that has a word is one gram of its own."""
    for start in range(0, len(texts), _CHUNK):
        lists = pl.Series([words(text) for text in texts[start : start + _CHUNK]], dtype=pl.List(pl.String))
        lengths = lists.list.len().to_numpy().astype(np.int64)
        hashes = lists.explode().drop_nulls().hash().to_numpy()
        rows = np.repeat(np.arange(start, start + len(lengths)), lengths)
        ends = np.repeat(np.cumsum(lengths), lengths)
        yield Grams(*_fold(rows, hashes, ends, lengths, n))


def _fold(rows: Rows, hashes: Hashes, ends: Rows, lengths: Rows, n: int) -> Grams:
    """Fold each n words in a row into one number; a text of k < n words is folded as k words."""
    at = np.arange(len(hashes))
    folded = [(rows[:0], hashes[:0])]
    for k in range(1, n + 1):
        short = np.repeat(lengths == k, lengths) if k < n else np.repeat(lengths >= n, lengths)
        begin = at[short & (at + k <= ends)]
        value = np.full(len(begin), k, np.uint64)
        for step in range(k):
            value = (value ^ hashes[begin + step]) * _MULTIPLIER
            value ^= value >> np.uint64(29)
        folded.append((rows[begin], value))
    return Grams(*(np.concatenate(part) for part in zip(*folded, strict=True)))

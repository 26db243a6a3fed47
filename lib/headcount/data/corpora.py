"""The corpora that a study can have, with their groups."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from headcount import corpus as synthetic
from headcount.data.groups import group_near_duplicates
from headcount.data.sources import (
    PHRASEBANK,
    load_fiqa,
    load_phrasebank,
    load_twitter,
    locate,
    read_member,
)
from headcount.errors import InputError

CORPORA = ("synthetic", "phrasebank-fiqa")


class Corpus(NamedTuple):
    """``labelled``: what the study trains and tests on; ``others``: what is grouped with it."""

    labelled: pd.DataFrame
    others: pd.DataFrame


def assemble(
    name: str,
    *,
    data_dir: Path | None = None,
    cache: Path | None = None,
    sentences: int = 3000,
    seed: int = 0,
) -> Corpus:
    """Load a corpus and find its groups of near-duplicates.

    Args:
        name: "phrasebank-fiqa" (PhraseBank AllAgree and FiQA; PhraseBank's lower levels and
            Twitter are grouped with them) or "synthetic" (the offline corpus, whose template
            families are the groups).
        cache: folder in which the offline corpus is written.
        sentences: size of the offline corpus at full agreement.
    """
    if name == "synthetic":
        return _synthetic(cache, sentences, seed)
    if name != "phrasebank-fiqa":
        raise InputError(f"unknown corpus {name!r}: it is one of {', '.join(CORPORA)}")
    path = locate(PHRASEBANK, data_dir)
    agreed = load_phrasebank(path, 100).assign(source="phrasebank", conflict=False)
    fiqa = load_fiqa(data_dir).assign(source="fiqa", agreement=pd.NA)
    labelled = _with_ids(pd.concat([agreed, fiqa]).drop_duplicates("text"))
    lower = load_phrasebank(path, 50).query("agreement < 100").assign(source="phrasebank")
    twitter = load_twitter(data_dir)
    twitter["source"] = "twitter-" + twitter.pop("part")
    others = _with_ids(pd.concat([lower, twitter]).drop_duplicates("text"), prefix="other-")
    groups = group_near_duplicates([*labelled["text"], *others["text"]])
    return Corpus(
        labelled.assign(group=groups[: len(labelled)]), others.assign(group=groups[len(labelled) :])
    )


def _synthetic(cache: Path | None, sentences: int, seed: int) -> Corpus:
    path = Path(cache) / f"synthetic-{sentences}-{seed}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    synthetic.write(path, sentences, seed)
    listed = pd.read_csv(io.BytesIO(read_member(path, Path(synthetic.GROUPS_MEMBER).name)))
    family = dict(zip(listed["sentence"], listed["group"], strict=True))
    rows = load_phrasebank(path, 50).drop_duplicates("text").assign(source="synthetic")
    rows["conflict"] = False
    rows["group"] = pd.factorize(rows["text"].map(family), sort=True)[0]
    agreed = rows["agreement"] == 100
    return Corpus(_with_ids(rows[agreed]), _with_ids(rows[~agreed], prefix="other-"))


def _with_ids(frame: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """Number the rows within their source, so that an id tells where a sentence stands."""
    frame = frame.reset_index(drop=True)
    number = frame.groupby("source").cumcount().astype(str).str.zfill(5)
    frame.insert(0, "id", prefix + frame["source"] + "-" + number)
    return frame.assign(agreement=frame["agreement"].astype("Int64"))

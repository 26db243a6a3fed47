"""What chapter 1 leaves to the others, and what it is asked before it runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from headcount import records
from headcount.data.corpora import CORPORA, Corpus
from headcount.data.sources import (
    PHRASEBANK,
    load_fiqa,
    load_phrasebank,
    load_twitter,
    locate,
)
from headcount.errors import InputError


def content_sha256(frame: pd.DataFrame) -> str:
    """SHA-256 over ids, texts, labels, groups and folds, in order of id."""
    columns = ["id", "text", "label", "group", "fold"]
    rows = frame.sort_values("id")[columns].to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(rows.encode()).hexdigest()


def save(folder: Path, corpus: Corpus, facts: dict[str, Any]) -> None:
    """Keep a corpus (its labelled part with folds) and the facts that hold for the whole study.

    ``facts`` has at least: protocol, n_folds, max_length, mean_tokens, model, corpus, synthetic,
    teacher_saw_test. ``data_sha256`` is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus.labelled.to_parquet(folder / "sentences.parquet")
    corpus.others.to_parquet(folder / "others.parquet")
    digest = content_sha256(corpus.labelled)
    records.write_json(folder / "facts.json", facts | {"data_sha256": digest})


def load(folder: Path, name: str = "sentences") -> pd.DataFrame:
    """The labelled sentences that :func:`save` kept, or the ``others``."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        raise InputError(f"{path} is missing: run chapter 01_data of this profile first")
    return pd.read_parquet(path)


def load_facts(folder: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The facts that :func:`save` kept; empty if there are none and they may be missing."""
    path = folder / "facts.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    if missing_ok:
        return {}
    raise InputError(f"{path} is missing: run chapter 01_data of this profile first")


def check(parameters: dict[str, Any]) -> None:
    """Refuse a study whose data cannot be had, before anything runs (see :func:`assemble`)."""
    if parameters["corpus"] not in CORPORA:
        raise InputError(
            f"unknown corpus {parameters['corpus']!r}: it is one of {', '.join(CORPORA)}"
        )
    if parameters["corpus"] == "phrasebank-fiqa":
        data_dir = Path(parameters["data_dir"]) if parameters.get("data_dir") else None
        load_phrasebank(locate(PHRASEBANK, data_dir))
        load_fiqa(data_dir)
        load_twitter(data_dir)

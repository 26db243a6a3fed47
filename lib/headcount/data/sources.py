"""The publishers' files: found in a local folder or on the Hub, read, and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from headcount.errors import InputError

LABELS = ("negative", "neutral", "positive")

AGREEMENT_FILES = {
    100: "Sentences_AllAgree.txt",
    75: "Sentences_75Agree.txt",
    66: "Sentences_66Agree.txt",
    50: "Sentences_50Agree.txt",
}
TWITTER_LABELS = {0: "negative", 1: "positive", 2: "neutral"}  # bearish, bullish, neutral
FIQA_CUT = 0.1
"""Scores beyond this are negative or positive; the seed study's threshold."""


class Source(NamedTuple):
    """A file of a data set: where a downloaded copy lies, and where the Hub keeps it."""

    local: str
    hub_id: str
    hub_file: str


PHRASEBANK = Source(
    "FinancialPhraseBank-v1.0.zip",
    "takala/financial_phrasebank",
    "data/FinancialPhraseBank-v1.0.zip",
)
TWITTER = {
    part: Source(
        f"twitter-financial-news-sentiment/sent_{part}.csv",
        "zeroshot/twitter-financial-news-sentiment",
        f"sent_{part}.csv",
    )
    for part in ("train", "valid")
}
FIQA_ID = "pauri32/fiqa-2018"
FIQA_LOCAL = ("fiqa-2018/train.csv", "fiqa-2018/test.csv")


def locate(source: Source, data_dir: Path | None = None, revision: str | None = None) -> Path:
    """Path of a source's file: the local copy if there is one, else the Hub's, downloaded.

    Raises:
        InputError: there is no local copy, and the Hub cannot be reached or has no such file.
    """
    if data_dir is not None and (data_dir / source.local).exists():
        return data_dir / source.local
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            source.hub_id, source.hub_file, repo_type="dataset", revision=revision
        )
    except Exception as error:  # the Hub's client raises its own, requests' and the system's
        raise _no_copy(source.local, source.hub_id, data_dir, error) from None
    return Path(path)


def _no_copy(local: str, hub_id: str, data_dir: Path | None, error: Exception) -> InputError:
    where = "no data folder was given" if data_dir is None else f"{data_dir} has no {local}"
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)
    return InputError(
        f"cannot get {hub_id}: {where}, and the Hub did not give it ({type(error).__name__}: "
        f"{reason}); download {local} and pass its folder as DATA=<folder>, or run with network"
    )


def load_phrasebank(path: Path, level: int = 100) -> pd.DataFrame:
    """Read one agreement level of a PhraseBank zip (Malo et al. 2014), in the file's order.

    Args:
        path: the publisher's zip, or one that :mod:`headcount.corpus` wrote.
        level: 100, 75, 66 or 50, the least share of annotators who agree, in percent.

    Returns:
        Columns text, label, and agreement: the highest level at which the sentence stands.

    Raises:
        InputError: the zip is damaged or lacks a file, a line has no ``@``, a label is unknown.
    """
    levels = {percent: _phrasebank_file(path, name) for percent, name in AGREEMENT_FILES.items()}
    highest: dict[str, int] = {}
    for percent, rows in levels.items():  # from 100 down
        for text, _ in rows:
            highest.setdefault(text, percent)
    frame = pd.DataFrame(levels[level], columns=["text", "label"])
    return frame.assign(agreement=frame["text"].map(highest))


def _phrasebank_file(path: Path, name: str) -> list[tuple[str, int]]:
    text = read_member(path, name).decode("latin-1")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        sentence, at, label = line.rpartition("@")
        if not at:
            raise InputError(
                f"{path}, {name}, line {number} has no '@' between sentence and label "
                f"({line[:40]!r}): mend the line or take the publisher's file"
            )
        rows.append((sentence.strip(), label_id(label.strip(), f"{path}, {name}, line {number}")))
    if not rows:
        raise InputError(f"{path}: {name} is empty: take the publisher's file")
    return rows


def read_member(path: Path, name: str) -> bytes:
    """Bytes of the file called ``name`` in a zip, in whatever folder it lies.

    Raises:
        InputError: the zip is damaged, or has no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.rsplit("/", 1)[-1] == name:
                    return archive.read(member)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path of the PhraseBank zip") from None
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(
            f"{path} is no readable zip ({error}): it may be cut off; download it again"
        ) from None
    raise InputError(f"{path} holds no {name}: it is not the PhraseBank zip; download it again")


def label_id(name: str, where: str) -> int:
    """Index of a label's name in LABELS.

    Raises:
        InputError: there is no such label; the message begins with ``where``.
    """
    try:
        return LABELS.index(name.lower())
    except ValueError:
        raise InputError(
            f"{where}: unknown label {name!r}, expected one of {', '.join(LABELS)}: mend the line"
        ) from None


def load_fiqa(data_dir: Path | None = None, revision: str | None = None) -> pd.DataFrame:
    """FiQA 2018 task 1, all parts pooled, one row a sentence, in the publisher's order.

    A sentence with several targets has several scores; it keeps the first one's label, and
    ``conflict`` says that the others' differ. Columns text, label, conflict.
    """
    if data_dir is not None and all((data_dir / name).exists() for name in FIQA_LOCAL):
        parts = [_read_csv(data_dir / name) for name in FIQA_LOCAL]
    else:
        from datasets import load_dataset

        try:
            parts = [part.to_pandas() for part in load_dataset(FIQA_ID, revision=revision).values()]
        except Exception as error:
            raise _no_copy(FIQA_LOCAL[0], FIQA_ID, data_dir, error) from None
    rows = pd.concat(parts, ignore_index=True)
    _need_columns(rows, ["sentence", "sentiment_score"], FIQA_ID)
    scores = rows["sentiment_score"].to_numpy(float)
    rows = pd.DataFrame(
        {
            "text": rows["sentence"].str.strip(),
            "label": np.select([scores < -FIQA_CUT, scores > FIQA_CUT], [0, 2], default=1),
        }
    )
    labels = rows.groupby("text")["label"]
    rows["conflict"] = labels.transform("nunique") > 1
    return rows.drop_duplicates("text", ignore_index=True)


def load_twitter(data_dir: Path | None = None, revision: str | None = None) -> pd.DataFrame:
    """Twitter financial news sentiment; columns text, label, part ("train" or "valid")."""
    frames = []
    for part, source in TWITTER.items():
        path = locate(source, data_dir, revision)
        rows = _read_csv(path)
        _need_columns(rows, ["text", "label"], str(path))
        unknown = set(rows["label"]) - set(TWITTER_LABELS)
        if unknown:
            raise InputError(
                f"{path}: unknown label {sorted(unknown)[0]!r}, expected 0, 1 or 2: mend the file"
            )
        names = rows["label"].map(TWITTER_LABELS)
        frames.append(
            pd.DataFrame(
                {
                    "text": rows["text"].str.strip(),
                    "label": names.map(LABELS.index),
                    "part": part,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding="utf-8")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is no UTF-8 CSV file ({error}): download it again") from None


def _need_columns(frame: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    if missing := [name for name in columns if name not in frame]:
        raise InputError(f"{where} has no column {missing[0]!r}: it is not the publisher's file")

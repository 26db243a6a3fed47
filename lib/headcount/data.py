"""Sentences with labels: where they come from, which of them belong together, how they are split.

Every source is looked for in a local folder first, laid out as the publishers ship it, and on the
Hugging Face Hub after that; one loader reads both. Frames have these columns:

    id (str), text (str), label (int, an index into LABELS), source (str),
    agreement (percent of annotators, or NA), group (int), conflict (bool), fold (int)
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from headcount import corpus as synthetic
from headcount import records
from headcount.errors import InputError

LABELS = ("negative", "neutral", "positive")
TUNE = -1
"""The ``fold`` of sentences that are in no test part: grids choose on them."""

AGREEMENT_FILES = {
    100: "Sentences_AllAgree.txt",
    75: "Sentences_75Agree.txt",
    66: "Sentences_66Agree.txt",
    50: "Sentences_50Agree.txt",
}
TWITTER_LABELS = {0: "negative", 1: "positive", 2: "neutral"}  # bearish, bullish, neutral
FIQA_CUT = 0.1
"""Scores beyond this are negative or positive; the seed study's threshold."""


# --- sources ------------------------------------------------------------------------------------


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


# --- the study's corpora ------------------------------------------------------------------------

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


# --- groups of near-duplicates ------------------------------------------------------------------


def normalize(text: str) -> str:
    """Lower case, runs of anything but letters and digits as one space."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def shingles(text: str, n: int = 5) -> frozenset[str]:
    """The set of character n-grams of the normalised text; a shorter text is its own n-gram."""
    text = normalize(text)
    return frozenset(text[i : i + n] for i in range(max(1, len(text) - n + 1)))


def group_near_duplicates(texts: Sequence[str], threshold: float = 0.7, n: int = 5) -> np.ndarray:
    """Groups of texts linked by near-duplication, as integers from 0 in order of appearance.

    Two texts are linked when the Jaccard index of their character ``n``-grams is at least
    ``threshold``; groups are the connected components. Exact, by prefix filtering (Bayardo et al.
    2007): two sets with Jaccard t share one of the rarest |A| - ceil(t |A|) + 1 members of each.

    Args:
        texts: m sentences.

    Returns:
        int array (m,).
    """
    keys = {}
    first = np.array([keys.setdefault(normalize(text), len(keys)) for text in texts], dtype=int)
    sets = [shingles(key, n) for key in keys]
    count: dict[str, int] = defaultdict(int)
    for grams in sets:
        for gram in grams:
            count[gram] += 1
    index: dict[str, list[int]] = defaultdict(list)
    links = []
    for i in sorted(range(len(sets)), key=lambda i: len(sets[i])):
        grams = sets[i]
        rarest = sorted(grams, key=lambda gram: (count[gram], gram))
        prefix = rarest[: len(grams) - math.ceil(threshold * len(grams)) + 1]
        candidates = {j for gram in prefix for j in index[gram]}
        for j in candidates:  # no set there is larger than this one
            if len(sets[j]) < threshold * len(grams):
                continue
            common = len(grams & sets[j])
            if common >= threshold * (len(grams) + len(sets[j]) - common):
                links.append((i, j))
        for gram in prefix:
            index[gram].append(i)
    rows, columns = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(sets), len(sets)))
    component = connected_components(graph, directed=False)[1][first]
    return pd.factorize(component)[0]


# --- splits -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Three frames with no group in common."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def assign_folds(frame: pd.DataFrame, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Give each sentence its ``fold``: TUNE for a tenth of the groups, 0 to n_folds - 1 else.

    Both cuts keep groups whole and class shares about equal.
    """
    fold = np.full(len(frame), TUNE)
    rest = _parts(frame, 10, seed) > 0
    fold[rest] = _parts(frame[rest], n_folds, seed)
    return frame.assign(fold=fold)


def _parts(frame: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """Number each row's part of ``n`` stratified group parts, int array (rows,)."""
    groups = frame["group"].nunique()
    if groups < n:
        raise InputError(f"{groups} groups of sentences cannot be cut into {n} parts: add data")
    parts = np.empty(len(frame), dtype=int)
    cutter = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    for part, (_, rows) in enumerate(cutter.split(frame, frame["label"], frame["group"])):
        parts[rows] = part
    return parts


def split(frame: pd.DataFrame, fold: int, *, protocol: str = "folds") -> Split:
    """Train, validation and test part of one fold.

    With protocol "folds" the test part is that fold; what remains, the tune part included, is cut
    by groups 85 to 15. With protocol "seed" it is the seed study's own split, which ignores groups.

    Raises:
        InputError: there is no such fold or protocol, or a part lacks a class.
    """
    if protocol == "seed":
        if fold != 0:
            raise InputError(f"fold {fold} is out of range: protocol 'seed' has one split, fold 0")
        return seed_split(frame)
    if protocol != "folds":
        raise InputError(f"unknown protocol {protocol!r}: it is 'folds' or 'seed'")
    n_folds = frame["fold"].max() + 1
    if not 0 <= fold < n_folds:
        raise InputError(f"fold {fold} is out of range: this study has folds 0 to {n_folds - 1}")
    rest = frame[frame["fold"] != fold]
    held_out = _parts(rest, 20, seed=fold) < 3
    parts = Split(rest[~held_out], rest[held_out], frame[frame["fold"] == fold])
    for name, part in vars(parts).items():
        if missing := set(range(len(LABELS))) - set(part["label"]):
            raise InputError(
                f"the {name} part of fold {fold} has no {LABELS[min(missing)]} sentence: add data"
            )
    return parts


def seed_split(frame: pd.DataFrame) -> Split:
    """The seed study's split: 15 % test, then 15 % validation, stratified, groups cut through."""
    rest, test = train_test_split(frame, test_size=0.15, stratify=frame["label"], random_state=42)
    train, validation = train_test_split(
        rest, test_size=0.15 / 0.85, stratify=rest["label"], random_state=42
    )
    return Split(train, validation, test)


def tuning_split(frame: pd.DataFrame, fold: int) -> Split:
    """What grids train on, choose on, and never see: for choices that every fold may use.

    The validation part is the tune part, in no test part of any fold; the training part is the rest
    without it and without this fold.
    """
    tune, test = frame["fold"] == TUNE, frame["fold"] == fold
    return Split(frame[~tune & ~test], frame[tune], frame[test])


# --- sentences beside the labelled ones -----------------------------------------------------------


def elsewhere(others: pd.DataFrame) -> pd.DataFrame:
    """Sentences from outside the study's domain: Twitter's validation file.

    The synthetic corpus has no Twitter: there, those that its annotators agreed on least.
    """
    outside = others["source"] == "twitter-valid"
    if not outside.any():
        outside = others["agreement"] == others["agreement"].min()
    return others[outside]


def beside(others: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """Sentences that no model is judged on, and whose labels none sees.

    None is a near-duplicate of a labelled sentence, whatever its part, or of one from `elsewhere`:
    what is left of PhraseBank below full agreement and of Twitter's training file.
    """
    taken = {*labelled["group"], *elsewhere(others)["group"]}
    return others[~others["group"].isin(taken)]


def transfer(others: pd.DataFrame, labelled: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """``n`` of the sentences from `beside` for a teacher alone to label, drawn at random.

    Raises:
        InputError: there are fewer.
    """
    free = beside(others, labelled)
    if n > len(free):
        raise InputError(
            f"transfer: {n} sentences are asked for and there are {len(free)}: give fewer"
        )
    return free.sample(n, random_state=seed)


# --- what chapter 1 leaves to the others --------------------------------------------------------


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


# --- tokens -------------------------------------------------------------------------------------


class Tokenized(torch.utils.data.Dataset):
    """Sentences as token ids, unpadded.

    Attributes:
        input_ids: n lists of ids, special tokens included.
        labels: int64 (n,).
        lengths: int64 (n,), tokens of each sentence.
    """

    def __init__(self, input_ids: list[list[int]], labels: Iterable[int]) -> None:
        self.input_ids = input_ids
        self.labels = np.asarray(list(labels), dtype=np.int64)
        self.lengths = np.array([len(ids) for ids in input_ids], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.input_ids[i], "label": self.labels[i], "index": i}

    def sha256(self) -> str:
        """Hash of ids and labels, in order."""
        content = json.dumps([self.input_ids, self.labels.tolist()])
        return hashlib.sha256(content.encode()).hexdigest()


def tokenize(
    texts: Iterable[str], labels: Iterable[int], tokenizer: Any, max_length: int = 128
) -> Tokenized:
    """Tokenise sentences, cut at ``max_length`` tokens, unpadded."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    return Tokenized(encoded["input_ids"], labels)


def collate(rows: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Batch rows of a :class:`Tokenized`, padded to the longest of them.

    Returns:
        input_ids, attention_mask: int64 (b, t); labels, index: int64 (b,), where ``index`` is the
        row's place in its data set, by which an objective finds what it keeps for the sentence.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    attention_mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        input_ids[i, :length] = torch.tensor(row["input_ids"])
        attention_mask[i, :length] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": torch.tensor([int(row["label"]) for row in rows]),
        "index": torch.tensor([row["index"] for row in rows]),
    }

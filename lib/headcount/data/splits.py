"""Folds, parts, and the sentences beside the labelled ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from headcount.data.sources import LABELS
from headcount.errors import InputError

TUNE = -1
"""The ``fold`` of sentences that are in no test part: grids choose on them."""


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


def transfer(
    others: pd.DataFrame,
    labelled: pd.DataFrame,
    n: int | None,
    sources: Collection[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """``n`` of the sentences from `beside` for a teacher alone to label, drawn at random.

    Args:
        n: None for all there are.
        sources: whose sentences to draw from; None for all.

    Raises:
        InputError: there are fewer, or none.
    """
    free = beside(others, labelled)
    if sources is not None:
        free = free[free["source"].isin(sources)]
    asked = "all" if n is None else n
    n = len(free) if n is None else n
    if not 0 < n <= len(free):
        raise InputError(
            f"transfer: {asked} sentences are asked for and there are {len(free)}: give fewer, or "
            "other sources"
        )
    return free.sample(n, random_state=seed)

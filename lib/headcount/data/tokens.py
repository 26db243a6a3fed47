"""Sentences as token ids, and batches of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch


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

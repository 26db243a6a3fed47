"""Fixtures that several files of tests share."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when the Hub's client is imported

import numpy as np
import pytest
import torch

from headcount import data, models

# Files that run whole studies. They come first, each on a worker of its own: whoever began with
# them at the end would have the other cores wait.
LONGEST = ("test_smoke", "test_kills", "test_study", "test_kept", "test_hub", "test_colab")


def pytest_collection_modifyitems(items):
    """Sort the longest files to the front; the Makefile keeps xdist from ordering them again."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the publishers' files; tests that need them skip where there is none."""
    folder = os.environ.get("HEADCOUNT_DATA")
    if not folder:
        pytest.skip("real data are not here: make test DATA=<folder with the publishers' files>")
    return Path(folder)


@pytest.fixture(scope="session")
def phrasebank_fiqa(real_data) -> data.Corpus:
    """The study's corpus of real sentences, with its groups."""
    return data.assemble("phrasebank-fiqa", data_dir=real_data)


@pytest.fixture
def tiny():
    """A function that makes a small BERT with random weights, in evaluation mode."""

    def make(layers: int = 2, hidden: int = 32, heads: int = 4, seed: int = 0, vocab: int = 50):
        return models.student(vocab, layers, hidden, heads, 2 * hidden, seed).eval()

    return make


@pytest.fixture
def sentences():
    """A function that makes random tokenised sentences of various lengths, with labels."""

    def make(n: int = 40, vocab: int = 50, seed: int = 0) -> data.Tokenized:
        generator = np.random.default_rng(seed)
        ids = [generator.integers(5, vocab, generator.integers(3, 20)).tolist() for _ in range(n)]
        return data.Tokenized(ids, generator.integers(0, 3, n))

    return make


@pytest.fixture
def word_pieces():
    """A small tokenizer, trained on two sentences."""
    return models.train_wordpiece(
        ["Operating profit rose to EUR 13.1 mn .", "Sales fell , losses widened ."], vocab_size=50
    )


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors are slower on many threads, and machines differ in how many there are."""
    torch.set_num_threads(1)

"""Which sentences are near-duplicates of each other."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


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

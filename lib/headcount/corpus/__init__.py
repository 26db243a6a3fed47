"""The offline corpus: synthetic financial news, written as a Financial PhraseBank zip.

A grammar makes sentences whose polarity no single word gives away (:mod:`.families`), simulated
annotators vote on them, and :func:`write` stores them as the publisher of PhraseBank (Malo et al.
2014) stores his, so that one loader reads both. It exists so that a study runs without any
download. Scores on it say nothing about real news.
"""

import csv
import io
import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

import pandas as pd

from headcount.corpus.families import FAMILIES
from headcount.corpus.grammar import Family
from headcount.errors import InputError

ENCODING = "latin-1"
GROUPS_MEMBER = "FinancialPhraseBank-v1.0/groups.csv"
LEVELS = {50: "50Agree", 66: "66Agree", 75: "75Agree", 100: "AllAgree"}

_LABELS = ("negative", "neutral", "positive")
_PANEL = (5, 8)  # annotators a sentence, as in PhraseBank
_README = """\
Synthetic sentences, made by headcount.corpus ({n} with full agreement, seed {seed}).
Companies, people and figures are invented. The layout is Financial PhraseBank v1.0's;
groups.csv adds each sentence's family (a split must not cut one) and its true label.
"""


@dataclass(frozen=True)
class Sentence:
    """A sentence after the vote; ``label`` is the majority's, ``truth`` the grammar's."""

    text: str
    label: int
    truth: int
    agreement: int  # 50, 66, 75 or 100
    family: str


def generate(n: int, seed: int) -> list[Sentence]:
    """Make distinct sentences until ``n`` of them have full agreement.

    Families take turns, so all of them are about equally frequent; sentences without a majority
    are thrown away, as PhraseBank's were.

    Raises:
        InputError: ``n`` is below 1.
    """
    if n < 1:
        raise InputError(f"corpus of {n} sentences: ask for one or more")
    rng = Random(seed)
    order = list(FAMILIES)
    rng.shuffle(order)
    seen: set[str] = set()
    found: list[Sentence] = []
    unanimous = 0
    for family in cycle(order):
        if unanimous >= n:
            return found
        text, truth = family.sentence(rng)
        label, agreement = _vote(rng, family, truth)
        if text in seen or agreement is None:
            continue
        seen.add(text)
        unanimous += agreement == 100
        found.append(Sentence(text, label, truth, agreement, family.name))
    raise AssertionError("cycle() does not end")


def _vote(rng: Random, family: Family, truth: int) -> tuple[int, int | None]:
    """Let a panel of annotators label a sentence: the majority's label and the agreement level.

    Sentences differ: the probability of misreading one is drawn from Beta(2 d, 2 (1 - d)) with
    the kind's difficulty d as its mean. Polar news is mostly mistaken for neutral.
    """
    difficulty = family.kind.difficulty
    misread = rng.betavariate(2 * difficulty, 2 * (1 - difficulty))
    wrong = [(0, 2), (1, 1)] if truth == 1 else [(1, 7), (2 - truth, 3)]
    labels, weights = zip(*wrong, strict=True)
    size = rng.randint(*_PANEL)
    votes = Counter(
        rng.choices(labels, weights)[0] if rng.random() < misread else truth for _ in range(size)
    )
    (label, most), *rest = votes.most_common()
    if rest and rest[0][1] == most:
        return label, None
    return label, max((level for level in LEVELS if 100 * most >= level * size), default=None)


def write(path: str | Path, n: int, seed: int = 0) -> Path:
    """Write the corpus as a PhraseBank zip; the same ``n`` and ``seed`` give the same bytes.

    ``Sentences_{50,66,75,All}Agree.txt`` hold ``sentence@label`` lines (Latin-1, CRLF), each
    level with all sentences of the levels above it. ``n`` counts those of ``AllAgree``.
    ``GROUPS_MEMBER`` is a CSV with the columns sentence, group, truth
    (UTF-8); the group is the family.
    """
    sentences = generate(n, seed)
    folder = GROUPS_MEMBER.rsplit("/", 1)[0]
    members = {
        f"{folder}/Sentences_{name}.txt": "".join(
            f"{s.text}@{_LABELS[s.label]}\r\n" for s in sentences if s.agreement >= level
        )
        for level, name in LEVELS.items()
    }
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(("sentence", "group", "truth"))
    rows.writerows((s.text, s.family, _LABELS[s.truth]) for s in sentences)
    members[GROUPS_MEMBER] = table.getvalue()
    members[f"{folder}/README.txt"] = _README.format(n=n, seed=seed)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Stored, not deflated: zlib versions compress differently, and the bytes must not differ.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, text in members.items():
            info = zipfile.ZipInfo(name)  # dated 1980, whatever the clock says
            info.create_system = 3  # the same header on every system
            archive.writestr(info, text.encode("utf-8" if name == GROUPS_MEMBER else ENCODING))
    return path


def read_groups(path: str | Path) -> pd.DataFrame:
    """Read a synthetic zip's list of groups: columns sentence, group, truth (a label's name)."""
    with zipfile.ZipFile(path) as archive, archive.open(GROUPS_MEMBER) as member:
        return pd.read_csv(member, encoding="utf-8")

"""Sentences with labels: where they come from, which of them belong together, how they are split.

Every source is looked for in a local folder first, laid out as the publishers ship it, and on the
Hugging Face Hub after that; one loader reads both. Frames have these columns:

    id (str), text (str), label (int, an index into LABELS), source (str),
    agreement (percent of annotators, or NA), group (int), conflict (bool), fold (int)
"""

from headcount.data.corpora import (
    CORPORA,
    Corpus,
    assemble,
)
from headcount.data.groups import (
    group_near_duplicates,
    normalize,
    shingles,
)
from headcount.data.kept import (
    check,
    content_sha256,
    load,
    load_facts,
    save,
)
from headcount.data.sources import (
    AGREEMENT_FILES,
    FIQA_CUT,
    FIQA_ID,
    FIQA_LOCAL,
    LABELS,
    PHRASEBANK,
    TWITTER,
    TWITTER_LABELS,
    Source,
    label_id,
    load_fiqa,
    load_phrasebank,
    load_twitter,
    locate,
    read_member,
)
from headcount.data.splits import (
    TUNE,
    Split,
    assign_folds,
    beside,
    elsewhere,
    seed_split,
    split,
    transfer,
    tuning_split,
)
from headcount.data.tokens import (
    Tokenized,
    collate,
    tokenize,
)

__all__ = [
    "AGREEMENT_FILES",
    "CORPORA",
    "FIQA_CUT",
    "FIQA_ID",
    "FIQA_LOCAL",
    "LABELS",
    "PHRASEBANK",
    "TUNE",
    "TWITTER",
    "TWITTER_LABELS",
    "Corpus",
    "Source",
    "Split",
    "Tokenized",
    "assemble",
    "assign_folds",
    "beside",
    "check",
    "collate",
    "content_sha256",
    "elsewhere",
    "group_near_duplicates",
    "label_id",
    "load",
    "load_facts",
    "load_fiqa",
    "load_phrasebank",
    "load_twitter",
    "locate",
    "normalize",
    "read_member",
    "save",
    "seed_split",
    "shingles",
    "split",
    "tokenize",
    "transfer",
    "tuning_split",
]

"""A study's pages, and the README's headline, from its records and its executed chapter 8.

::

    python -m headcount.report render NOTEBOOK FOLDER    report.html and report.md
    python -m headcount.report pages                     the same for every committed report
    python -m headcount.report headline [--check]        what is between two marks in README.md
    python -m headcount.report age                       which reports are older than the code
    python -m headcount.report check                     headline --check, then age
"""

from headcount.report.aims import AIMS, AIMS_MODEL, aims
from headcount.report.headline import HEADLINE, headline, write_headline
from headcount.report.int8 import flips, int8_questions
from headcount.report.page import render
from headcount.report.study import Study, describe
from headcount.report.tables import (
    beside,
    by_class,
    by_fold,
    by_source,
    chapters,
    contrasts,
    costs,
    files,
    latencies,
    markdown,
    open_claims,
    ordered,
    provenance,
    scores,
    simulated,
    sizes,
)

__all__ = [
    "AIMS",
    "AIMS_MODEL",
    "HEADLINE",
    "Study",
    "aims",
    "beside",
    "by_class",
    "by_fold",
    "by_source",
    "chapters",
    "contrasts",
    "costs",
    "describe",
    "files",
    "flips",
    "headline",
    "int8_questions",
    "latencies",
    "markdown",
    "open_claims",
    "ordered",
    "provenance",
    "render",
    "scores",
    "simulated",
    "sizes",
    "write_headline",
]

"""What a result is: one checked JSON file a variant, fold and seed, its predictions beside it.

A folder of results looks like this (``work/<profile>`` while a study runs, ``reports/<profile>``
once it is published)::

    records/{variant}.fold{k}.seed{s}.json      predictions/{variant}.fold{k}.seed{s}.csv
    sweeps/{name}.fold{k}.seed{s}.json          sweeps/{name}.fold{k}.seed{s}.csv
    findings/{claim}.fold{k}.json               what a claim compares that is no two variants' F1
    measures/{variant}.json                     what the ruler of chapter 7 read, fold 0 only

Files are written whole or not at all, so a file that exists is a result.
"""

from headcount.records.files import (
    chosen,
    left_by,
    measures,
    read,
    read_findings,
    read_sweeps,
    remove,
    write,
    write_bytes,
    write_finding,
    write_json,
    write_measures,
    write_sweep,
    write_text,
)
from headcount.records.kinds import (
    FOLDERS,
    PROBABILITIES,
    SENTENCE_COLUMNS,
    TABLES,
    VARIANT_PATTERN,
    Finding,
    Measure,
    Provenance,
    Record,
    Result,
    Sweep,
    scores,
)
from headcount.records.pooled import (
    POOLED_COLUMNS,
    SETTINGS,
    check_one_study,
    check_trained_on,
    contrast,
    interval,
    pool,
)
from headcount.records.tables import (
    READINGS,
    RESULTS_COLUMNS,
    paired,
    predictions,
    sweep,
    table,
)

__all__ = [
    "FOLDERS",
    "POOLED_COLUMNS",
    "PROBABILITIES",
    "READINGS",
    "RESULTS_COLUMNS",
    "SENTENCE_COLUMNS",
    "SETTINGS",
    "TABLES",
    "VARIANT_PATTERN",
    "Finding",
    "Measure",
    "Provenance",
    "Record",
    "Result",
    "Sweep",
    "check_one_study",
    "check_trained_on",
    "chosen",
    "contrast",
    "interval",
    "left_by",
    "measures",
    "paired",
    "pool",
    "predictions",
    "read",
    "read_findings",
    "read_sweeps",
    "remove",
    "scores",
    "sweep",
    "table",
    "write",
    "write_bytes",
    "write_finding",
    "write_json",
    "write_measures",
    "write_sweep",
    "write_text",
]

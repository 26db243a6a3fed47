"""What INT8 changes in a model's answers, pooled over folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from headcount import claims, records
from headcount.data import LABELS
from headcount.report.tables import ordered, shared_folds

INT8, TABLES_INT4, TRIMMED, QAT = "-int8", "-int8-e4", "-trimmed", "-qat"


def int8_questions(results: pd.DataFrame) -> list[claims.Question]:
    """What to ask of INT8 models besides their differences from their baselines.

    Each `-trimmed-int8` and `-trimmed-int8-e4` against the FP32 model whose vocabulary was trimmed,
    each `-int8-e4` against its `-int8`, each `-int8` against its `-int8-weights`, and each `-qat`
    against the INT8 file that no further training made.
    """
    questions = []
    for variant in sorted(results["variant"].unique()):
        for rounding in (INT8, TABLES_INT4):
            if variant.endswith(TRIMMED + rounding):
                whole = variant.removesuffix(TRIMMED + rounding)
                questions.append(claims.Question(variant, whole, "trimming and rounding together"))
        if variant.endswith(TABLES_INT4):
            other = variant.removesuffix(TABLES_INT4) + INT8
            questions.append(claims.Question(variant, other, "embeddings in INT4"))
        if variant.endswith(INT8):
            other = f"{variant}-weights"
            questions.append(claims.Question(variant, other, "activations rounded as well"))
        if variant.endswith(QAT):
            plain = variant.removesuffix(QAT) + INT8
            questions.append(claims.Question(variant, plain, "more epochs, as if in INT8"))
    return questions


def flips(folder: Path, results: pd.DataFrame) -> pd.DataFrame:
    """How many answers INT8 changes, by what the FP32 model had said and how sure it had been.

    One row for each `-int8` and `-int8-e4` variant, against its baseline. Columns: variant,
    answers, changed, and three classes and three bins of the FP32 model's confidence (the
    probability of its answer), each "changed of answers". Empty where none has run.
    """
    rows = []
    for variant, found in results.query("split == 'test'").groupby("variant", sort=False):
        baseline = found["baseline"].iloc[0]
        is_int8 = variant.endswith((INT8, TABLES_INT4))
        if not is_int8 or not shared_folds(results, variant, baseline):
            continue
        changed, said, sure = _changes(folder, variant, baseline)
        row = {
            "variant": variant,
            "answers": f"{len(changed):,}",
            "changed": f"{100 * changed.mean():.1f} %",
        }
        row |= {f"was {label}": _of(changed, said == k) for k, label in enumerate(LABELS)}
        row["confidence below 0.6"] = _of(changed, sure < 0.6)
        row["0.6 to 0.9"] = _of(changed, sure.between(0.6, 0.9))
        row["above 0.9"] = _of(changed, sure > 0.9)
        rows.append(row)
    return ordered(pd.DataFrame(rows), results) if rows else pd.DataFrame(columns=["variant"])


def _changes(folder: Path, variant: str, baseline: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Whether each answer changed, the class that the baseline gave, and its probability."""
    after, before = (records.predictions(folder, name) for name in (variant, baseline))
    keys = ["id", "fold"] + ["seed"] * (before["seed"].nunique() > 1)
    both = after.merge(before, on=keys, suffixes=("", "_before"), validate="many_to_one")
    earlier = both[[f"{name}_before" for name in records.PROBABILITIES]]
    said = pd.Series(earlier.to_numpy().argmax(1), both.index)
    now = both[records.PROBABILITIES].to_numpy().argmax(1)
    return said != now, said, earlier.max(axis=1)


def _of(changed: pd.Series, some: pd.Series) -> str:
    return f"{changed[some].sum():,} of {some.sum():,}"

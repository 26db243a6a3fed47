"""The kinds of results: a record, a sweep, a finding and the ruler's measure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from headcount import stats

PROBABILITIES = ["p_negative", "p_neutral", "p_positive"]
VARIANT_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
SENTENCE_COLUMNS = ["id", "group", "source", "label"]


class Provenance(BaseModel):
    """Where a record comes from: enough to run it again and to see why it differs."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]
    data_sha256: str
    commit: str
    versions: dict[str, str]
    threads: int
    batch_size: int | None = None
    max_length: int | None = None
    cpu: str = ""
    cpu_flags: list[str] = []
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Record(BaseModel):
    """One variant, scored on one part of one fold with one seed. Scores lie in [0, 1]."""

    model_config = ConfigDict(extra="forbid")

    study: str
    chapter: str
    variant: str = Field(pattern=VARIANT_PATTERN)
    baseline: str | None
    fold: int = Field(ge=0)
    seed: int = Field(ge=0)
    split: Literal["test", "validation"]
    n: int = Field(gt=0)
    macro_f1: float = Field(ge=0, le=1)
    accuracy: float = Field(ge=0, le=1)
    f1_negative: float = Field(ge=0, le=1)
    f1_neutral: float = Field(ge=0, le=1)
    f1_positive: float = Field(ge=0, le=1)
    ece: float = Field(ge=0, le=1)
    params: int | None = None
    nonzero_params: int | None = None
    size_mb: float | None = None
    heads_alive: int | None = None
    heads_total: int | None = None
    layers: int | None = None
    macs: int | None = None
    train_seconds: float | None = None
    steps: int | None = None
    device: str
    precision: Literal["fp32", "bf16", "fp16", "int8", "int4", "mixed"]
    runtime: str
    teacher_saw_test: bool
    weights_sha256: str | None = None
    baseline_sha256: str | None = None
    provenance: Provenance

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.variant}.fold{self.fold}.seed{self.seed}"


class Sweep(BaseModel):
    """Many models' predictions of the same sentences: a curve's points, a grid's cells.

    The sentences are the test part of its fold, or what its chapter says (the tune part, another
    domain). ``points`` name the columns of its table, such as ``entropy@30``; ``weights_sha256`` is
    of the model that they were all made from, or taught by.
    """

    model_config = ConfigDict(extra="forbid")

    study: str
    chapter: str
    name: str = Field(pattern=VARIANT_PATTERN)
    fold: int = Field(ge=0)
    seed: int = Field(ge=0)
    n: int = Field(gt=0)
    points: list[str] = Field(min_length=1)
    weights_sha256: str
    teacher_saw_test: bool
    provenance: Provenance

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.name}.fold{self.fold}.seed{self.seed}"


class Finding(BaseModel):
    """What a claim compares, where that is not macro-F1 of two variants.

    ``variant`` and ``baseline`` say in words what is compared; ``n`` counts ``n_unit`` (sentences,
    heads). ``diff``, its 95 % interval ``low`` to ``high`` and ``detectable`` are fractions where
    ``unit`` is shown in hundredths (points, %, % of the heads), else they are in ``unit`` (nats,
    rank correlation). A ratio is given as its distance from 1.
    """

    model_config = ConfigDict(extra="forbid")

    study: str
    chapter: str
    claim: str = Field(pattern=r"^C[0-9]+[a-z]?$")
    fold: int = Field(ge=0)
    variant: str
    baseline: str
    unit: str
    diff: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    p: float | None = Field(None, ge=0, le=1)
    n: int = Field(gt=0)
    n_unit: str
    detectable: FiniteFloat | None = None
    teacher_saw_test: bool
    provenance: Provenance

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.claim}.fold{self.fold}"

    def difference(self) -> stats.Difference:
        """What was found, as verdicts take it; its groups are its ``n``."""
        p = float("nan") if self.p is None else self.p
        return stats.Difference(self.diff, self.low, self.high, p, self.n, self.n)


Result = Record | Sweep | Finding
# Where a result's JSON is, and the table that it vouches for.
FOLDERS: dict[type[Result], str] = {Record: "records", Sweep: "sweeps", Finding: "findings"}
TABLES: dict[type[Result], str] = {Record: "predictions", Sweep: "sweeps"}


class Measure(BaseModel):
    """What the ruler read of one variant; times in ms, sizes in 10^6 bytes."""

    model_config = ConfigDict(extra="forbid")

    variant: str = Field(pattern=VARIANT_PATTERN)
    runtime: str
    size_mb: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    latency128_ms_p50: float
    latency128_ms_p95: float
    latency128_ms_p99: float
    throughput_sps: float
    peak_rss_mb: float
    warmup: int
    timed: int
    timed128: int
    threads: int
    cpu: str
    cpu_flags: list[str]
    weights_sha256: str | None = None


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Macro-F1, accuracy, F1 by class and expected calibration error.

    ``labels`` (n,) in {0, 1, 2}; ``probabilities`` (n, 3), rows summing to 1.
    """
    guesses = probabilities.argmax(1)
    by_class = stats.f1_by_class(labels, guesses)
    return {
        "macro_f1": float(by_class.mean()),
        "accuracy": float((guesses == labels).mean()),
        "f1_negative": float(by_class[0]),
        "f1_neutral": float(by_class[1]),
        "f1_positive": float(by_class[2]),
        "ece": float(stats.ece(labels, probabilities)),
    }

"""What settles a claim: a comparison of two variants, of curves, or in another unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from headcount import curves, records, stats

UNEQUAL = "no verdict: trained for unequal steps"
# What a difference is multiplied by to be told in its unit.
SCALES = {"points": 100, "%": 100, "% of the heads": 100, "nats": 1, "rank correlation": 1}
Points = Mapping[str, np.ndarray]
Settled = tuple[stats.Difference, dict[str, Any]]


class Evidence(Protocol):
    """The one comparison that settles a claim."""

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        """The difference, and the columns of `judge` that it does not fill; None if not run.

        Keywords: draws, seed, and fold, "*" for all of them together.
        """


@dataclass(frozen=True)
class Variants:
    """Macro-F1 of a variant minus that of its baseline, on the pooled test parts.

    Attributes:
        equal_steps: whether both must have been trained equally long.
    """

    variant: str
    baseline: str
    equal_steps: bool = False

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        names = (self.variant, self.baseline)
        fold = how["fold"]
        results = records.table(folder).query("split == 'test' and variant in @names")
        if fold != "*":
            results = results.query("fold == @fold")
        if results["variant"].nunique() < 2:
            return None
        pairs = records.paired(folder, *names, fold=fold)
        alone = stats.mcnemar(pairs["label"], pairs["guess"], pairs["baseline_guess"])
        unequal = results.groupby("variant")["steps"].mean().nunique() > 1
        return records.contrast(folder, *names, **how), {
            "variant": self.variant,
            "baseline": self.baseline,
            "unit": "points",
            "seeds": int(results.query("variant == @self.variant")["seed"].nunique()),
            "only_variant": alone.only_first,
            "only_baseline": alone.only_second,
            # Exact for sentences that are seen once.
            "p_mcnemar": alone.p if len(pairs) == pairs["id"].nunique() else None,
            "barred": UNEQUAL if self.equal_steps and unequal else None,
        }


@dataclass(frozen=True)
class Sweep:
    """A number computed from macro-F1 at many points of a sweep, on the pooled test parts.

    Attributes:
        name: of the sweep.
        variant, baseline: what is compared, in words.
        value: takes macro-F1 by point, arrays of any one shape, and returns the difference.
        needs: points, or series (what stands before their @), without which it has not run.
    """

    name: str
    variant: str
    baseline: str
    value: Callable[[Points], np.ndarray]
    needs: tuple[str, ...]
    unit: str = "points"

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        fold = how.pop("fold")
        if not records.read_sweeps(folder, self.name, fold=fold):
            return None
        table = records.sweep(folder, self.name, fold=fold)
        if not set(self.needs) <= {*table, *(point.partition("@")[0] for point in table)}:
            return None
        difference = curves.contrast(table, self.value, **how)
        named = {"variant": self.variant, "baseline": self.baseline, "unit": self.unit}
        return difference, named


@dataclass(frozen=True)
class Elsewhere:
    """Macro-F1 of a variant minus that of its baseline, on sentences of another domain.

    Those are the same in every fold: each is answered by every fold's model, and counts as a group
    of near-duplicates with its own answers.

    Attributes:
        sweep: in which both answered.
    """

    sweep: str
    variant: str
    baseline: str

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        fold = how.pop("fold")
        if not records.read_sweeps(folder, self.sweep, fold=fold):
            return None
        table = records.sweep(folder, self.sweep, fold=fold)
        if not {self.variant, self.baseline} <= set(table):
            return None
        answers = (table[name].to_numpy() for name in ("label", self.variant, self.baseline))
        difference = stats.paired_difference(*answers, table["group"].to_numpy(), **how)
        variant, baseline = (f"{name}, out of domain" for name in (self.variant, self.baseline))
        return difference, {"variant": variant, "baseline": baseline, "unit": "points"}


@dataclass(frozen=True)
class Gap:
    """Cross-entropy on the validation part minus that on the training part, of two variants.

    Read from the table `losses` that chapter 5 leaves in each fold.
    """

    variant: str
    baseline: str

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        pattern = f"fold{how.pop('fold')}/05_pruning-losses.csv*"
        tables = [pd.read_csv(path) for path in sorted((folder / "tables").glob(pattern))]
        if not tables:
            return None
        table = pd.concat(tables)
        if not {self.variant, self.baseline} <= set(table):
            return None
        differences = table[self.variant] - table[self.baseline]
        validation = table["part"] == "validation"
        difference = curves.gap(differences, validation, table["group"], **how)
        return difference, {"variant": self.variant, "baseline": self.baseline, "unit": "nats"}


@dataclass(frozen=True)
class Found:
    """What a chapter measured on fold 0, and wrote down as a finding of this claim."""

    claim: str

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        findings = records.read_findings(folder, self.claim, fold=how["fold"])
        if not findings:
            return None
        found = findings[0]
        named = {"variant": found.variant, "baseline": found.baseline, "unit": found.unit}
        return found.difference(), named

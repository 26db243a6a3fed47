"""How results are drawn: one style, one colour for each family of methods, in every chapter.

Each function takes a tidy frame and returns a matplotlib `Figure` that no backend shows by itself.
Scores come in as fractions; differences are drawn in points (hundredths), which the axes say.
"""

from headcount.plots.corpus import class_shares, lengths
from headcount.plots.heads import (
    agreement,
    head_map,
    head_roles,
    heads_alive,
    layer_bars,
    rank_scatter,
    removal_times,
    sparsity_curves,
)
from headcount.plots.models import (
    confusion_matrix,
    learning_curve,
    loss_shares,
    reliability,
    weight_histogram,
)
from headcount.plots.results import conditions, differences, pareto, scores, speedups
from headcount.plots.style import (
    CLASSES,
    COLOURS,
    SERIES,
    WIDTH,
    annotate,
    family,
    save,
    shades,
    style,
)

__all__ = [
    "CLASSES",
    "COLOURS",
    "SERIES",
    "WIDTH",
    "agreement",
    "annotate",
    "class_shares",
    "conditions",
    "confusion_matrix",
    "differences",
    "family",
    "head_map",
    "head_roles",
    "heads_alive",
    "layer_bars",
    "learning_curve",
    "lengths",
    "loss_shares",
    "pareto",
    "rank_scatter",
    "reliability",
    "removal_times",
    "save",
    "scores",
    "shades",
    "sparsity_curves",
    "speedups",
    "style",
    "weight_histogram",
]

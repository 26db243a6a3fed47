"""How results are drawn: one style, one colour for each family of methods, in every chapter.

Each function takes a tidy frame and returns a matplotlib `Figure` that no backend shows by itself.
Scores come in as fractions; differences are drawn in points (hundredths), which the axes say.
"""

from headcount.plots.corpus import class_shares, lengths
from headcount.plots.models import (
    confusion_matrix,
    head_map,
    heads_alive,
    learning_curve,
    reliability,
    weight_histogram,
)
from headcount.plots.results import differences, pareto, scores, speedups
from headcount.plots.style import CLASSES, COLOURS, WIDTH, annotate, family, save, shades, style

__all__ = [
    "CLASSES",
    "COLOURS",
    "WIDTH",
    "annotate",
    "class_shares",
    "confusion_matrix",
    "differences",
    "family",
    "head_map",
    "heads_alive",
    "learning_curve",
    "lengths",
    "pareto",
    "reliability",
    "save",
    "scores",
    "shades",
    "speedups",
    "style",
    "weight_histogram",
]

"""One look for all figures, and one colour for each family of methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

CLASSES = ("negative", "neutral", "positive")

# Okabe & Ito's colours, and a grey that stays apart from the green when red and green look alike.
COLOURS = {
    "teacher": "#222222",
    "distillation": "#0072B2",
    "quantization": "#D55E00",
    "pruning": "#009E73",
    "random": "#A6A6A6",
    "baseline": "#56B4E9",
}
CLASS_COLOURS = dict(zip(CLASSES, ("#E69F00", "#B8B8B8", "#56B4E9"), strict=True))
MARKERS = "os^DvPXd"
WIDTH = 8.0  # inches; at 900 px a point is then 1.6 px, and the smallest text 14 px

RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "hatch.linewidth": 0.8,
    "hatch.color": "#9a9a9a",
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """The project's look, inside a `with` block or as a decorator, and nowhere else."""
    with mpl.rc_context(), sns.axes_style("whitegrid", {"grid.color": "#e6e6e6"}):
        mpl.rcParams.update(RC)
        yield


def save(figure: Figure, path: Path | str) -> None:
    """Write `figure` as PNG at 150 dots an inch: 1,200 px wide, sharp when shown at 900."""
    with style():
        figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})


def annotate(figure: Figure, text: str) -> None:
    """Write a small line in the figure's lower right corner."""
    with style():
        figure.supxlabel(text, x=0.99, ha="right", fontsize=8, color="#555")


def family(variant: str) -> str:
    """The family whose colour a variant has, from the words of its name; a key of `COLOURS`."""
    words = variant.split("-")
    if {"int8", "int4", "qat", "q8bert"} & set(words):
        return "quantization"
    if "random" in words:
        return "random"
    families = {"teacher": "teacher", "student": "distillation", "heads": "pruning"}
    return families.get(words[0], "baseline")


def shades(variants: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """A colour for each variant: its family's, from dark to light where the family has several."""
    members: dict[str, list[str]] = {}
    for variant in dict.fromkeys(variants):
        members.setdefault(family(variant), []).append(variant)
    colours = {}
    for name, group in members.items():
        pure = np.array(to_rgb(COLOURS[name]))
        steps = np.linspace(-0.5, 0.6, len(group)) if len(group) > 1 else [0]
        for step, variant in zip(steps, group, strict=True):
            end = 1.0 if step > 0 else 0.0  # mixed with white, or with black
            colours[variant] = tuple(pure + abs(step) * (end - pure))
    return colours


def panels(
    n: int, title: str, *, height: float, width: float = WIDTH
) -> tuple[Figure, Sequence[Axes]]:
    # No pyplot: a figure that pyplot knows would be shown by the notebook a second time.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    axes = figure.subplots(1, n, squeeze=False)[0]
    set_title(figure, title)
    return figure, axes


def set_title(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")


def column(frame: pd.DataFrame, name: str, default: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(default, index=frame.index)


def rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows of a horizontal chart, the first one on top."""
    ax.set_yticks(range(len(names)), list(names))
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)


def family_handles(variants: Iterable[str]) -> list[Line2D]:
    present = {family(variant) for variant in variants}
    return [
        Line2D([], [], color=colour, marker="o", linestyle="", label=name)
        for name, colour in COLOURS.items()
        if name in present
    ]


def family_legend(figure: Figure, variants: Iterable[str]) -> None:
    handles = family_handles(variants)
    if len(handles) > 1:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.2
        )

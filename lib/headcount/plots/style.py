"""One look for all figures, and one colour for each family of methods."""

from __future__ import annotations

import io
import re
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
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from PIL import Image

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
# For what is of no family or all of one, such as criteria. Any two, and each with black and grey,
# stay apart when red and green look alike; in this order, so that the first few differ the most.
SERIES = (
    "#332288", "#E69F00", "#56B4E9", "#CF1C90", "#5AAE61", "#994F00", "#0077BB", "#882255",
)  # fmt: skip
MARKERS = "os^DvPXd"
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (7, 1.5, 1.5, 1.5)))
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
    """Write `figure` as PNG at 150 dots an inch: 1,200 px wide, sharp when shown at 900.

    In 256 colours, the figure's own: a third of the bytes, and every figure is kept several times.
    """
    drawn = io.BytesIO()
    with style():
        figure.savefig(drawn, dpi=150, facecolor="white")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def annotate(figure: Figure, text: str) -> None:
    """Write a small line in the figure's lower right corner, below a legend that is there."""
    with style():
        inches, height = 0.17, figure.get_figheight()
        low = [one for one in figure.legends if one.get_window_extent().y0 < inches * figure.dpi]
        layout = figure.get_layout_engine()
        if low and isinstance(layout, ConstrainedLayoutEngine):
            # By itself the layout gives both the same place.
            layout.set(rect=(0, inches / height, 1, 1 - inches / height))
            for legend in low:
                legend.borderaxespad += 72 * inches / legend.get_texts()[0].get_fontsize()
        figure.supxlabel(text, x=0.99, ha="right", fontsize=8, color="#555")


QUANTIZED = {"int8", "int4", "int2", "qat", "q8bert", "qbert", "noise"}  # words of their names


def family(variant: str) -> str:
    """The family whose colour a variant has, from the words of its name; a key of `COLOURS`."""
    words = re.findall(r"\w+", variant)
    if QUANTIZED & set(words):
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
    n: int, title: str, *, height: float, width: float = WIDTH, per_row: int | None = None, **shared
) -> tuple[Figure, Sequence[Axes]]:
    # No pyplot: a figure that pyplot knows would be shown by the notebook a second time.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    per_row = min(n, per_row or n)
    axes = figure.subplots(-(-n // per_row), per_row, squeeze=False, **shared).ravel()
    for spare in axes[n:]:
        spare.remove()
    set_title(figure, title)
    return figure, axes[:n]


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


def signed(value: float, form: str) -> str:
    """``value`` in a format, with a minus sign as long as a plus sign."""
    return format(value, form).replace("-", "−")


def log_ticks(low: float, high: float) -> np.ndarray:
    """Round numbers between `low` and `high`: from the coarsest grid that has three of them."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    fine = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), fine, np.arange(1, 10, 0.1)):
        ticks = np.outer(decades, steps).ravel()
        ticks = np.unique(ticks[(ticks >= low) & (ticks <= high)])
        if len(ticks) >= 3:
            break
    return ticks


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

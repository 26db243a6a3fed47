"""What is drawn is what was given: positions, colours, labels that do not overlap."""

import subprocess
import sys
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from headcount import plots, stats

VARIANTS = [
    "majority",
    "teacher",
    "teacher-continued-15",
    "student-hard",
    "student-kd",
    "student-kd-init",
    "teacher-int8",
    "student-kd-int8",
    "student-kd-init-int8",
    "heads-entropy-50",
    "heads-random-50",
]


@pytest.fixture
def pooled():
    rng = np.random.default_rng(0)
    score = np.r_[0.2, rng.uniform(0.75, 0.87, len(VARIANTS) - 1)]
    return pd.DataFrame(
        {
            "variant": VARIANTS,
            "macro_f1": score,
            "ci_low": score - 0.013,
            "ci_high": score + 0.012,
            "latency_ms_p50": rng.uniform(1, 10, len(VARIANTS)),
            "size_mb": rng.uniform(10, 90, len(VARIANTS)),
            "runtime": ["onnxruntime" if "int8" in name else "torch" for name in VARIANTS],
        }
    )


def points(ax):
    """Every point that a line of the axes goes through."""
    return {(round(x, 6), round(y, 6)) for line in ax.lines for x, y in line.get_xydata()}


def test_importing_and_drawing_change_no_global_style(pooled):
    code = (
        "import matplotlib as m, seaborn, matplotlib.pyplot as p; before = dict(m.rcParams)\n"
        "import headcount.plots; assert dict(m.rcParams) == before and not p.get_fignums()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    before = dict(mpl.rcParams)
    plots.scores(pooled, title="Scores")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("teacher", "teacher"),
        ("teacher-continued-15", "teacher"),
        ("teacher-int8", "quantization"),
        ("student-kd-init", "distillation"),
        ("student-kd-qat", "quantization"),
        ("heads-entropy-50", "pruning"),
        ("heads-random-50", "random"),
        ("majority", "baseline"),
    ],
)
def test_the_name_tells_the_family(variant, expected):
    assert plots.family(variant) == expected


# Machado, Oliveira & Fernandes (2009), table 1, severity 1, on linear RGB.
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_families_are_told_apart_by_the_colour_blind(sight):
    linear = [np.array(to_rgb(colour)) ** 2.2 for colour in plots.COLOURS.values()]
    seen = [np.clip(np.array(sight) @ colour, 0, 1) ** (1 / 2.2) for colour in linear]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.2


def test_shades_differ_and_a_single_member_has_the_family_colour():
    shades = plots.shades(VARIANTS)
    assert len(set(shades.values())) == len(VARIANTS)
    assert to_hex(shades["heads-entropy-50"]) == plots.COLOURS["pruning"].lower()


def test_save_writes_a_picture_of_1200_pixels(pooled, tmp_path):
    plots.save(plots.scores(pooled, title="Scores"), tmp_path / "scores.png")
    with Image.open(tmp_path / "scores.png") as image:
        assert image.width == 1200
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_learning_curve_draws_what_was_logged():
    history = pd.DataFrame(
        {
            "epoch": [0.5, 1.0, 1.0, 2.0],
            "loss": [1.1, 0.9, np.nan, 0.5],
            "validation_loss": [np.nan, np.nan, 0.8, 0.7],
            "validation_macro_f1": [np.nan, np.nan, 0.6, 0.7],
        }
    )
    left, right = plots.learning_curve(history, title="One").axes
    assert points(left) == {(0.5, 1.1), (1, 0.9), (2, 0.5), (1, 0.8), (2, 0.7)}
    assert points(right) == {(1, 0.6), (2, 0.7)}
    both = pd.concat([history.assign(variant=name) for name in ("student-hard", "student-kd")])
    figure = plots.learning_curve(both, title="Two")
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names == {"student-hard", "student-kd", "training", "validation"}


def test_confusion_matrix_counts_and_shares():
    counts = pd.DataFrame({"label": [0, 0, 1], "prediction": [0, 2, 1], "n": [30, 10, 1200]})
    (ax,) = plots.confusion_matrix(counts, title="Errors").axes
    cells = [text.get_text() for text in ax.texts]
    assert cells[0] == "30\n75%"
    assert cells[2] == "10\n25%"
    assert cells[4] == "1,200\n100%"
    assert cells[8] == "0\n0%"
    named = counts.replace({c: dict(enumerate(plots.CLASSES)) for c in ("label", "prediction")})
    assert [t.get_text() for t in plots.confusion_matrix(named, title="").axes[0].texts] == cells


def test_reliability_draws_the_filled_bins():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet([1, 1, 1], 500), rng.integers(0, 3, 500)
    table = stats.reliability(labels, probabilities)
    top, bottom = plots.reliability(table, title="Calibration", ece=0.1).axes
    filled = table.dropna()
    drawn = set(zip(filled["confidence"].round(6), filled["accuracy"].round(6), strict=True))
    assert drawn <= points(top)
    assert sum(bar.get_height() for bar in bottom.patches) == 500


def test_head_map_hatches_removed_heads():
    grid = pd.DataFrame(
        [(layer, head, layer + head / 10, head != 1) for layer in range(2) for head in range(3)],
        columns=["layer", "head", "score", "alive"],
    )
    ax = plots.head_map(grid, title="Heads", label="score").axes[0]
    hatched = {patch.get_xy() for patch in ax.patches if patch.get_hatch()}
    assert hatched == {(1, 0), (1, 1)}
    assert "4 of 6 left" in ax.get_xlabel()
    coloured = ax.collections[0].get_array()
    assert sorted(coloured.compressed()) == pytest.approx([0, 0.2, 1, 1.2])
    # A head that is gone may have no row at all.
    short = grid[grid["alive"]]
    assert "4 of 6 left" in plots.head_map(short, title="", label="").axes[0].get_xlabel()


def test_heads_alive_shows_claim_and_count():
    rounds = pd.DataFrame(
        {
            "round": [0, 1, 2] * 2,
            "heads": [72, 65, 58, 72, 65, 65],
            "kind": ["claimed"] * 3 + ["live"] * 3,
        }
    )
    (ax,) = plots.heads_alive(rounds, title="Alive", total=72).axes
    assert {(2, 58), (2, 65)} <= points(ax)
    assert {text.get_text() for text in ax.texts} == {"claimed", "live"}


def test_scores_draw_intervals_and_name_what_falls_off_the_axis(pooled):
    (ax,) = plots.scores(pooled, title="Scores", reference="teacher").axes
    drawn = points(ax)
    for row, line in enumerate(pooled.itertuples()):
        if line.variant == "majority":
            assert [text.get_text() for text in ax.texts] == ["◂ 0.200"]
            continue
        assert (round(line.macro_f1, 6), row) in drawn
        assert (round(line.ci_low, 6), row) in drawn
    assert ax.get_xlim()[0] > 0.5
    assert [tick.get_text() for tick in ax.get_yticklabels()] == VARIANTS
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_differences_are_drawn_in_points():
    contrasts = pd.DataFrame(
        {
            "variant": ["teacher-int8", "student-kd-init"],
            "baseline": ["teacher", "student-hard-init"],
            "diff": [-0.001, 0.006],
            "diff_low": [-0.003, -0.003],
            "diff_high": [0.0015, 0.015],
            "margin": [-0.005, 0],
        }
    )
    (ax,) = plots.differences(contrasts, title="Differences").axes
    drawn = points(ax)
    assert {(-0.3, 0), (-0.1, 0), (0.15, 0), (0.6, 1), (1.5, 1)} <= drawn
    assert {(-0.5, 0.38), (-0.5, -0.38)} <= drawn
    assert "points" in ax.get_xlabel()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("draw", [plots.pareto, plots.speedups])
def test_labels_of_points_do_not_overlap(pooled, draw, seed):
    rng = np.random.default_rng(seed)
    crowded = pooled.assign(
        latency_ms_p50=rng.uniform(4, 6, len(pooled)), macro_f1=rng.uniform(0.84, 0.87, len(pooled))
    ).drop(columns=["ci_low", "ci_high"])
    crowded["predicted_speedup"], crowded["speedup"] = crowded["latency_ms_p50"], 1.0
    figure = draw(crowded, title="Points")
    (ax,) = figure.axes
    assert {text.get_text() for text in ax.texts} == set(VARIANTS)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in ax.texts]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    frame = ax.get_window_extent(renderer).padded(1)
    assert all(frame.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_pareto_areas_are_megabytes(pooled):
    (ax,) = plots.pareto(pooled, title="Pareto").axes
    assert ax.get_xscale() == "log"
    rounds, squares = ax.collections[0], ax.collections[2]
    torch, onnx = (pooled[pooled["runtime"] == name] for name in ("torch", "onnxruntime"))
    assert np.asarray(rounds.get_offsets())[:, 0] == pytest.approx(
        torch["latency_ms_p50"].to_numpy()
    )
    ratio = rounds.get_sizes() / torch["size_mb"]
    assert ratio.to_numpy() == pytest.approx(ratio.iloc[0])
    # The side of a square marker is the root of its size, the diameter of a disc likewise.
    disc, square = rounds.get_sizes()[0] * np.pi / 4, squares.get_sizes()[0]
    assert disc / torch["size_mb"].iloc[0] == pytest.approx(square / onnx["size_mb"].iloc[0])


def test_lengths_count_every_sentence():
    tokens = pd.DataFrame({"tokens": [3, 5, 5, 20, 128], "source": list("aabbb")})
    (ax,) = plots.lengths(tokens, title="Lengths", padded_to=128).axes
    assert sum(bar.get_height() for bar in ax.patches) == 5
    assert {text.get_text().strip() for text in ax.texts} == {"median 5", "padded to 128"}


def test_class_shares_add_up():
    counts = pd.DataFrame(
        {"source": ["a", "a", "b", "b"], "label": [0, 1, 1, 2], "n": [1, 3, 10, 10]}
    )
    (ax,) = plots.class_shares(counts, title="Classes").axes
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(2)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a (4)", "b (20)"]


@pytest.mark.parametrize("bits", [4, 8])
def test_weight_histogram_is_on_the_grid(bits):
    weights = pd.DataFrame({"weight": np.random.default_rng(0).normal(0, 0.04, 5_000)})
    (ax,) = plots.weight_histogram(weights, title="Weights", bits=bits).axes
    step = weights["weight"].abs().max() / (2 ** (bits - 1) - 1)
    centres = np.array([bar.get_x() + bar.get_width() / 2 for bar in ax.patches]) / step
    assert centres == pytest.approx(np.round(centres), abs=1e-6)
    assert sum(bar.get_height() for bar in ax.patches) == 5_000

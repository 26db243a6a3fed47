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
from headcount.plots import heads

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
@pytest.mark.parametrize(
    "colours",
    [
        plots.COLOURS.values(),
        [*plots.SERIES, plots.COLOURS["teacher"], plots.COLOURS["random"]],
        heads.ROLES.values(),
    ],
    ids=["families", "series", "roles"],
)
def test_colours_are_told_apart_by_the_colour_blind(colours, sight):
    linear = [np.array(to_rgb(colour)) ** 2.2 for colour in colours]
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


def test_what_is_annotated_stays_clear_of_the_legend():
    bars = pd.DataFrame(
        [(0, name, 0.01, 0, 0.02) for name in ("all heads off", "one head kept", "constant")],
        columns=["layer", "treatment", "loss", "low", "high"],
    )
    figure = plots.layer_bars(bars, title="Legend at the bottom")
    plots.annotate(figure, "a line as long as it takes to come below the legend " * 2)
    figure.draw_without_rendering()
    note, legend = figure.texts[-1].get_window_extent(), figure.legends[0].get_window_extent()
    assert note.x0 < legend.x1
    assert 0 < note.y0 < note.y1 < legend.y0
    assert legend.y1 < figure.axes[0].xaxis.label.get_window_extent().y0


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
    rounds = grid.assign(score=[1, 5, np.nan] * 2).drop(columns="alive")
    rounds = plots.head_map(rounds, title="", label="round").axes[1]
    assert all(tick == round(tick) for tick in rounds.get_yticks())
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


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture
def curves():
    """Eight criteria, of which the first is the worst, and three draws of random heads."""
    percent = np.arange(0, 100, 10)
    scores = {
        f"criterion {i}": 0.2 + 0.6 / (1 + np.exp((percent - 30 - 5 * i) / 9)) for i in range(8)
    }
    frames = [
        pd.DataFrame({"series": name, "percent": percent, "score": score, "draw": 0})
        for name, score in scores.items()
    ]
    frames += [
        pd.DataFrame({"series": "random", "percent": percent, "score": 0.8 - step * percent})
        for step in (0.001, 0.002, 0.006)
    ]
    return pd.concat(frames, ignore_index=True)


def test_sparsity_curves_are_named_in_the_order_of_their_areas(curves):
    figure = plots.sparsity_curves(curves, title="Curves", reference=0.81)
    (ax,) = figure.axes
    named = legend_of(figure)
    assert named[0] == "whole model 0.810"
    assert "random (3 draws)" in named
    ordered = [name for name in named if name.startswith("criterion")]
    assert ordered == [f"criterion {i}" for i in reversed(range(8))]
    worst = curves[curves["series"] == "criterion 0"]
    given = zip(worst["percent"], worst["score"].round(6), strict=True)
    assert {(90, 0.53), *given} <= points(ax)  # 0.53 is the mean of the draws
    looks = {(to_hex(line.get_color()), line.get_marker()) for line in ax.lines}
    assert len(looks) == 8 + 2
    assert (plots.COLOURS["random"].lower(), "None") in looks


def test_sparsity_curves_band_reaches_from_the_lowest_to_the_highest_draw(curves):
    (ax,) = plots.sparsity_curves(curves, title="Draws").axes
    (band,) = ax.collections
    ends = {round(y, 6) for x, y in band.get_paths()[0].vertices if x == 90}
    assert ends == {0.26, 0.71}
    assert to_hex(band.get_facecolor()[0]) == plots.COLOURS["random"].lower()
    one = curves[curves["series"] == "criterion 3"]
    one = one.assign(low=one["score"] - 0.1, high=one["score"] + 0.2)
    (band,) = plots.sparsity_curves(one, title="Interval").axes[0].collections
    ends = {round(y - one["score"].iloc[0], 6) for x, y in band.get_paths()[0].vertices if x == 0}
    assert ends == {-0.1, 0.2}


def test_a_knee_is_marked_on_its_own_line(curves):
    two = curves[curves["series"].isin(["criterion 0", "criterion 7"])]
    knees = {"criterion 0": 25, "criterion 7": 61}
    (ax,) = plots.sparsity_curves(two, title="Knees", knees=knees).axes
    assert [text.get_text() for text in ax.texts] == ["knee 25 %", "knee 61 %"]
    for text, (name, percent) in zip(ax.texts, knees.items(), strict=True):
        line = two[two["series"] == name]
        height = np.interp(percent, line["percent"], line["score"])
        assert text.xy == pytest.approx((percent, height))
        assert (percent, round(height, 6)) in points(ax)
        assert text.get_color() == next(
            drawn.get_color() for drawn in ax.lines if drawn.get_label() == name
        )


def test_agreement_writes_every_correlation():
    names = ["entropy", "entropy-reversed", "magnitude"]
    table = pd.DataFrame(
        [[1, -1, 0.126], [-1, 1, -0.126], [0.126, -0.126, 1]], index=names, columns=names
    )
    ax, bar = plots.agreement(table, title="Agreement").axes
    assert [text.get_text() for text in ax.texts[:6]] == [
        "1.00", "−1.00", "0.13", "−1.00", "1.00", "−0.13",
    ]  # fmt: skip
    assert [tick.get_text() for tick in ax.get_xticklabels()] == names
    assert [tick.get_text() for tick in ax.get_yticklabels()] == names
    assert bar.get_ylim() == (-1, 1)


def test_rank_scatter_has_a_panel_for_each_criterion():
    rng = np.random.default_rng(0)
    layer = np.repeat(range(6), 12)
    rise = rng.normal(0.001, 0.003, 72) + rng.exponential(0.02, 72)
    frame = pd.concat(
        pd.DataFrame(
            {
                "criterion": f"criterion {i}",
                "rank": rng.permutation(72) + 1,
                "rise": rise,
                "layer": layer,
                "rho": -0.1 * i,
            }
        )
        for i in range(6)
    )
    figure = plots.rank_scatter(frame, title="Ranks")
    *axes, bar = figure.axes
    assert [ax.get_title(loc="left") for ax in axes[:2]] == [
        "criterion 0\nρ = 0.00", "criterion 1\nρ = −0.10",
    ]  # fmt: skip
    assert len(axes) == 6
    for ax, (_, given) in zip(axes, frame.groupby("criterion"), strict=True):
        drawn = ax.collections[0]
        assert np.asarray(drawn.get_offsets()) == pytest.approx(given[["rank", "rise"]].to_numpy())
        assert drawn.get_array().tolist() == layer.tolist()
    # Named where nothing is below.
    assert [bool(ax.get_xlabel()) for ax in axes] == [False] * 2 + [True] * 4
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in bar.get_yticklabels()] == list("012345")
    ticks = [tick.get_text() for tick in axes[0].get_yticklabels()]
    assert ticks == ["0", "0.03", "0.07"]


def test_loss_shares_has_a_panel_a_variant_and_a_line_a_term():
    rows = [
        {"variant": variant, "epoch": epoch, "term": term, "share": share / epoch}
        for variant in ("student-kd", "student-intermediate")
        for epoch in (1, 2, 3)
        for term, share in (("labels", 0.5), ("attention", 2e-4))
    ]
    figure = plots.loss_shares(pd.DataFrame(rows), title="Terms")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "student-kd",
        "student-intermediate",
    ]
    for ax in figure.axes:
        threshold, labels, attention = ax.get_lines()
        assert threshold.get_ydata()[0] == 0.01
        assert labels.get_ydata() == pytest.approx([0.5, 0.25, 0.5 / 3])
        assert attention.get_ydata() == pytest.approx([2e-4, 1e-4, 2e-4 / 3])
        assert ax.get_ylim()[0] < 2e-4 / 3
    figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert {"0.01 %", "1 %", "100 %"} <= set(ticks)


def test_layer_bars_stand_beside_each_other_in_points():
    bars = pd.DataFrame(
        [
            (layer, name, loss + layer / 100, loss - 0.005, loss + 0.02)
            for name, loss in (("all heads off", 0.03), ("one head kept", -0.01))
            for layer in (0, 1, 2)
        ],
        columns=["layer", "treatment", "loss", "low", "high"],
    )
    figure = plots.layer_bars(bars, title="Layers")
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([3, 4, 5, -1, 0, 1])
    first, second = ax.patches[:3], ax.patches[3:]
    for layer, (left, right) in enumerate(zip(first, second, strict=True)):
        assert left.get_x() + left.get_width() < right.get_x()
        assert left.get_x() < layer < right.get_x() + right.get_width()
    ends = ax.collections[0].get_segments()[0]
    assert ends[:, 1] == pytest.approx([2.5, 5])
    assert "points" in ax.get_ylabel()
    assert legend_of(figure) == ["all heads off", "one head kept"]


def test_removal_times_are_ratios_around_one():
    times = pd.DataFrame(
        [
            (tokens, share, model, 1 - share * tokens / 256, 0.7, 1.02)
            for model in ("MiniLM", "BERT")
            for share in (0.3, 0.5, 0.9)
            for tokens in (64, 8, 128)
        ],
        columns=["tokens", "share", "model", "ratio", "low", "high"],
    )
    figure = plots.removal_times(times, title="Times")
    left, right = figure.axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["MiniLM", "BERT"]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["8", "64", "128"]
    assert left.get_xscale() == "log"
    band = left.patches[0].get_extents().transformed(left.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((0.95, 1.05))
    middle = left.lines[1].get_xydata()
    assert middle == pytest.approx(np.array([[8, 1 - 4 / 256], [64, 0.875], [128, 0.75]]))
    assert [text.get_text() for text in left.texts] == ["90 % gone", "50 % gone", "30 % gone"]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for ax in figure.axes for text in ax.texts]
    boxes.append(right.get_window_extent())
    assert not [
        pair for pair in combinations(boxes[:3] + boxes[-1:], 2) if pair[0].overlaps(pair[1])
    ]


def test_head_roles_say_what_a_head_does_and_when_it_goes():
    roles = pd.DataFrame(
        {
            "layer": [0, 0, 0, 1, 1, 1],
            "head": [0, 1, 2] * 2,
            "role": ["other", "positional", "other", "other", "rare words", "positional"],
            "when": [3, np.nan, 1, np.nan, 2, np.nan],
        }
    )
    figure = plots.head_roles(roles, title="Roles", when="the order in which it goes")
    (ax,) = figure.axes
    colours = {cell.get_xy(): to_hex(cell.get_facecolor()) for cell in ax.patches}
    assert colours == {
        (row.head, row.layer): heads.ROLES[row.role].lower() for row in roles.itertuples()
    }
    numbers = {text.get_position(): text.get_text() for text in ax.texts}
    assert numbers == {(0.5, 0.5): "3", (2.5, 0.5): "1", (1.5, 1.5): "2"}
    assert ax.get_ylim() == (2, 0)
    assert "the order in which it goes" in ax.get_xlabel()
    assert legend_of(figure) == ["positional (2)", "rare words (1)", "other (3)"]


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
            "claimed": [np.nan, 0.03],
        }
    )
    (ax,) = plots.differences(contrasts, title="Differences").axes
    drawn = points(ax)
    assert {point for point in drawn if point[0] == 3} == {(3, 1)}
    assert ax.get_xlabel().endswith("; dotted: margin; ×: what was claimed)")
    assert {(-0.3, 0), (-0.1, 0), (0.15, 0), (0.6, 1), (1.5, 1)} <= drawn
    assert {(-0.5, 0.38), (-0.5, -0.38)} <= drawn
    assert "points" in ax.get_xlabel()


def test_a_difference_far_off_is_an_arrow_and_does_not_squeeze_the_others():
    rows = [("student-kd", 0.01), ("heads-random-30", -0.02), ("student-hard", -0.2)]
    contrasts = pd.DataFrame(rows, columns=["variant", "diff"]).assign(baseline="teacher")
    contrasts = contrasts.assign(
        diff_low=contrasts["diff"] - 0.01, diff_high=contrasts["diff"] + 0.01
    )
    (ax,) = plots.differences(contrasts, title="Differences").axes
    low, high = ax.get_xlim()
    assert -4 < low < -3 < 2 < high < 3
    assert [text.get_text() for text in ax.texts] == ["−20.0 [−21.0, −19.0]"]
    (fixed,) = plots.differences(contrasts, title="Differences", xlim=(-25, 5)).axes
    assert not fixed.texts
    near = contrasts.assign(diff_high=[0.02, 0.0, 0.01])  # one that reaches back among the others
    (whole,) = plots.differences(near, title="Differences").axes
    assert whole.get_xlim()[0] < -21
    assert not whole.texts


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


def test_conditions_are_panels_with_a_mark_for_each_thread_count():
    names = ["teacher", "teacher-int8", "student-small"]
    grid = pd.DataFrame(
        [
            (name, threads, batch, tokens, ms * (1 + (tokens == "128")) / threads**0.5)
            for threads in (2, 1)
            for batch in (1, 32)
            for tokens in ("128", "own")
            for name, ms in zip(names, (8, 4, 1), strict=True)
        ],
        columns=["variant", "threads", "batch", "tokens", "ms_per_sentence_p50"],
    )
    figure = plots.conditions(grid, title="Threads and batches")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        *("one at a time, own lengths", "one at a time, 128 tokens"),
        *("32 at a time, own lengths", "32 at a time, 128 tokens"),
    ]
    for ax, times in zip(figure.axes, (1, 2, 1, 2), strict=True):
        one = {(ms * times, row) for row, ms in enumerate((8, 4, 1))}
        two = {(round(ms * times / 2**0.5, 6), row) for row, ms in enumerate((8, 4, 1))}
        assert points(ax) == one | two
        hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
        assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow} == one
        assert [text.get_text() for text in ax.texts] == ["×1.41"] * 3
        assert ax.get_xlim() == figure.axes[0].get_xlim()
        figure.draw_without_rendering()
        frame = ax.get_window_extent()
        assert all(text.get_window_extent().x1 < frame.x1 for text in ax.texts)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == names
    assert {"1 thread", "2 threads", "quantization"} <= set(legend_of(figure))
    once = plots.conditions(grid[grid["threads"] == 2], title="One count")
    assert not once.axes[0].texts
    assert "×: times as fast" not in legend_of(once)


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

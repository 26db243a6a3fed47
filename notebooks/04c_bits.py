# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4c. Which part of the model cannot do with few bits?
#
# The first and the last layer are said to be "sensitivity cliffs" that must stay in high precision.
# Here every module of the teacher is rounded alone: its weights to eight, four and two bits, and once
# with the activations that go into it. Then Q-BERT's recipe for giving bits to layers is followed, and
# put beside the same bits given to the wrong layers. On fold 0.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2 |
# | writes | a sweep over modules and bit widths, three teachers trained in two to four bits and a control |
# | takes | each test sentence once for each module and bit width, curvature on a quarter of the training sentences, four trainings; an hour and a half on 2 cores |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/04c_bits.ipynb)

# %% [markdown]
# ## What to expect
#
# - **Eight bits**, one module at a time: nothing that an interval can see.
# - **Four bits**, in blocks of 32: **a point** at most for any module. That embeddings and classifier
#   lose more than the mean of the other modules is the claim C12, which chapter 4 judges on all folds.
# - **Two bits** leave three levels or four: **ten points** for some modules. If there are cliffs, this is
#   where to see them.
# - **Q-BERT** (Shen et al. 2020) gives more bits to layers where the loss is more curved, and reports a
#   loss of performance of 2.3 % at most, down to two bits. Against a control that was trained as long we
#   expect **2.3 points** at most; and at equal bytes its allocation should **beat the reversed one**. If
#   it does not, these curvatures do not tell where bits are needed.

# %% tags=["colab", "not-in-report"]
# On Colab: clone the study and install what Colab lacks; its torch stays. Elsewhere: nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules and "HEADCOUNT_LOG" not in os.environ:
    address = "https://github.com/-owner-/headcount"
    if not os.path.exists("Snakefile"):
        if not os.path.exists("headcount"):
            clone = ["git", "clone", "--quiet", "--depth=1", address, "headcount"]
            subprocess.run(clone, check=True)
        os.chdir("headcount")
    sys.path.insert(0, os.path.abspath("lib"))
    from headcount import colab

    colab.set_up()

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from scipy.special import log_softmax

from headcount import chapter, curves, distill, models, plots, quantize, records, stats, train
from headcount.chapter import all_above, in_points, within

# %% tags=["parameters"]
# Where and what
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# Studied
groups = 128  # of rows that share a scale, in Q-BERT
low_bits = 2
high_bits = 4
average_bits = 3.0
# Fixed
subsets = 5  # of the training sentences, on which the curvature is measured
subset_share = 0.05  # of the training sentences in each
epochs = 4
learning_rate = 5e-5
batch_size = 32

# %%
run = chapter.begin("04c_bits", globals())

# %%
parts = run.split()
teacher = run.load("teacher")
labels, sentence_groups = parts.test["label"].to_numpy(), parts.test["group"].to_numpy()
units = quantize.modules(teacher)
matrices = {name: module.weight.detach() for name, module in teacher.named_modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding))}  # fmt: skip


def inside(names):
    """Names of the matrices in the modules of a unit."""
    return [m for m in matrices if any(f"{m}.".startswith(f"{name}.") for name in names)]


def flat(names, read=lambda matrix: matrix):
    """All weights in the modules of a unit as one vector, each matrix as ``read`` gives it."""
    return torch.cat([read(matrices[m]).flatten() for m in inside(names)])


weights = {unit: len(flat(names)) for unit, names in units.items()}
pd.DataFrame({"weights": weights}).map("{:,}".format)

# %% [markdown]
# ## The idea, small: one module
#
# A scheme says what is rounded and how. With `only=` it says where. For the second matrix of the first
# feed-forward block, by hand: round it in a copy, and compare what the copy answers with what the model
# answers while the scheme is on.

# %%
schemes = {
    "int8": quantize.weights_only(8),
    "int8-activations": quantize.deployed(),
    "int4": quantize.weights_only(4, block=quantize.BLOCK, embedding_bits=4),
    "int2": quantize.weights_only(2, block=quantize.BLOCK, embedding_bits=2),
}
name = inside(units["layer 0 ffn"])[-1]
copy = run.load("teacher")
with torch.no_grad():
    weight = copy.get_submodule(name).weight
    blocks = weight.view(len(weight), -1, quantize.BLOCK)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = largest / -2  # the level of largest magnitude is -2, of -2, -1, 0 and 1
    scale[scale == 0] = 1
    weight.copy_((scale * torch.clamp(torch.round(blocks / scale), -2, 1)).view_as(weight))
few = parts.validation.head(32)
by_hand = run.predict(copy, few)
with quantize.simulated(teacher, replace(schemes["int2"], only=(name,))):
    np.testing.assert_allclose(run.predict(teacher, few), by_hand, atol=1e-4)
print(f"{name} in two bits: relative error {quantize.error(matrices[name], weight):.0%}")

# %% [markdown]
# ## Every module alone

# %%
whole = run.predict(teacher, parts.test)
points = {"whole": whole}
for bits, scheme in schemes.items():
    for unit in quantize.one_by_one(teacher, scheme):
        points[f"{bits} {unit}"] = run.predict(teacher, parts.test)
run.sweep("bits", points, parts.test, teacher)

# %% [markdown]
# Macro-F1 moves by whole answers, and few change. Two finer looks stand beside it, in nats: by how much the
# cross-entropy with the labels rises, and how far the probabilities have moved from the whole model's,
# $\mathrm{KL}(p_\text{whole} \,\|\, p_\text{rounded})$. The first may fall: a model that is too sure of
# itself is scored better when rounding makes it doubt. The second needs no label and is never negative.


# %%
def cross_entropy(logits):
    """Mean cross-entropy with the labels, in nats."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def divergence(logits):
    """Mean of KL(whole || rounded) over the sentences, in nats."""
    before, after = log_softmax(whole, axis=1), log_softmax(logits, axis=1)
    return float((np.exp(before) * (before - after)).sum(1).mean())


rows = []
for point, logits in points.items():
    if point == "whole":
        continue
    bits, unit = point.split(" ", 1)
    d = stats.paired_difference(labels, logits.argmax(1), whole.argmax(1), sentence_groups)
    grid = [schemes[bits].linear, schemes[bits].embedding][unit == "embeddings"]
    error = quantize.error(flat(units[unit]), flat(units[unit], grid.read_back))
    row = {"bits": bits, "variant": unit, "diff": d.diff, "diff_low": d.low, "diff_high": d.high}
    row |= {"cross-entropy rises": cross_entropy(logits) - cross_entropy(whole)}
    row |= {"divergence": divergence(logits)}
    changed = (logits.argmax(1) != whole.argmax(1)).mean()
    rows.append(row | {"changed, %": 100 * changed, "rounding error": error})
alone = pd.DataFrame(rows)
run.table(alone, "sensitivity")
shown = alone.pivot(index="variant", columns="bits", values=["diff", "divergence"])
shown["diff"] *= 100
falls = int((alone["cross-entropy rises"] < 0).sum())
display(shown.loc[list(units)].round(3))
Markdown(f"The cross-entropy falls in {falls} of {len(alone)} cases.")

# %%
below = alone[alone["bits"].isin(["int4", "int2"])]
edges = 100 * below["diff_low"].min() - 1, 100 * below["diff_high"].max() + 1
for bits, told in (("int4", "four"), ("int2", "two")):
    some = alone[alone["bits"] == bits]
    some = some.assign(label=some["variant"], variant=f"teacher-{bits}")
    run.figure(
        plots.differences(some, title=f"One module in {told} bits, the rest in FP32", xlim=edges),
        f"alone-{bits}",
        f"Paired differences in macro-F1 from the whole teacher, with one module's weights in {told} "
        "bits, module by module from the words to the classifier, with 95 percent intervals",
        some,
    )

# %% [markdown]
# What to notice: whether the intervals at the two ends of a figure lie to the left of those in the middle,
# and how much the picture changes from four bits to two (both have one axis). Of this many intervals one
# or so misses by chance. What the figures do not show: modules differ in size. The table has the
# rounding error of each, as a share of its own weights.
#
# ## Is it where the rounding error is?

# %%
lines = []
for bits in ("int4", "int2"):
    some = alone[alone["bits"] == bits]
    moved = some["divergence"].to_numpy()
    sizes_of = np.array([weights[unit] for unit in some["variant"]])
    for told, other in (("rounding error", some["rounding error"]), ("weights", sizes_of)):
        rho, low, high = curves.rank_correlation(np.asarray(other, dtype=float), moved)
        lines.append((bits, told, rho, low, high))
columns = ["bits", "divergence with", "rank correlation", "low", "high"]
correlations = pd.DataFrame(lines, columns=columns)
run.table(correlations, "correlations")
correlations.round(2)

# %% [markdown]
# Over modules, which are few: mind the intervals. A module that moves the answers because it rounds badly,
# or because it is large, would do so at another place of the network as well. Place and size cannot be
# told apart for the embeddings, which are the largest module and the first.
#
# ## Ends against middle, several ways

# %%
layers = teacher.config.num_hidden_layers
outer = [f"layer {i} {part}" for i in {0, layers - 1} for part in ("attention", "ffn")]
sides = {"embeddings": ["embeddings"], "classifier": ["classifier"], "first and last layer": outer}
answered = records.sweep(run.work, "bits", fold=run.fold)


def lost_more(bits, names):
    """Macro-F1 lost with one of ``names`` rounded, minus that with one of the other modules."""
    inside = [f"{bits} {unit}" for unit in units if unit in names]
    others = [
        f"{bits} {unit}" for unit in units if unit not in [*names, "embeddings", "classifier"]
    ]
    return curves.contrast(
        answered[[*curves.KEYS, *inside, *others]],
        lambda f1: (
            np.mean([f1[p] for p in others], axis=0) - np.mean([f1[p] for p in inside], axis=0)
        ),
    )


rows = []
for bits in schemes:
    for told, names in sides.items():
        if set(units) - {*names, "embeddings", "classifier"}:
            d = lost_more(bits, names)
            # Rounded, and 0 added, for what floating point leaves of nothing, and its sign.
            rows.append((bits, told, *(round(100 * x, 9) + 0.0 for x in (d.diff, d.low, d.high))))
columns = ["bits", "module", "points lost, more than the others", "low", "high"]
ends = pd.DataFrame(rows, columns=columns)
run.table(ends, "ends")
ends.round(2)

# %% [markdown]
# Each against the mean of the other modules between embeddings and classifier. And all modules at once,
# against the sum of the losses alone:

# %%
rows = []
for bits, scheme in schemes.items():
    with quantize.simulated(teacher, scheme):
        logits = run.predict(teacher, parts.test)
    d = stats.paired_difference(labels, logits.argmax(1), whole.argmax(1), sentence_groups)
    total = 0 - 100 * alone.loc[alone["bits"] == bits, "diff"].sum()
    mb = quantize.simulated_bytes(teacher, scheme) / 1e6
    rows.append((bits, mb, 0 - 100 * d.diff, 0 - 100 * d.high, 0 - 100 * d.low, total))
columns = ["bits", "MB, computed", "all at once, points lost", "low", "high", "sum of each alone"]
at_once = pd.DataFrame(rows, columns=columns)
run.table(at_once, "at-once")
at_once.round(2)

# %% [markdown]
# ## Bits from curvature
#
# If a layer's weights $w$ are moved by a small $\Delta$ at a minimum, the loss rises by about
# $\frac12 \Delta^\top H \Delta$, at most by $\frac12 |\lambda| \|\Delta\|^2$, where $\lambda$ is the
# eigenvalue of largest magnitude (it may be negative: a training that ended is not at a minimum for
# every part of its sentences). Q-BERT takes it for each layer's Hessian on several parts of the
# training sentences, and ranks layers by $\Omega = |\mathrm{mean}(\lambda)| + \mathrm{std}(\lambda)$:
# the second term is for layers whose curvature depends on the sentences. Our parts are smaller than the
# paper's tenth, so that the second term is larger here: the table has each part's $\lambda$. We find it by
# Lanczos' method, where the paper takes power iteration.

# %%
names = [f"{teacher.base_model_prefix}.encoder.layer.{i}" for i in range(layers)]
train_tokens = run.tokenize(parts.train)
eigenvalues = quantize.eigenvalues(
    teacher, train_tokens, names, subsets=subsets, share=subset_share, batch_size=batch_size,
    seed=run.seed,
)  # fmt: skip
omega = quantize.omega(eigenvalues)
parts_of = eigenvalues.rename(columns="part {}".format).set_axis(range(layers)).rename_axis("layer")
curvature = parts_of.assign(
    mean=eigenvalues.mean(axis=1).to_numpy(),
    std=eigenvalues.std(axis=1, ddof=0).to_numpy(),
    omega=omega.to_numpy(),
)
run.table(curvature.reset_index(), "curvature")
curvature.round(2)

# %%
largest = eigenvalues.abs().max().idxmax()
orders = {
    "Omega": omega,
    "Omega without the steepest part": quantize.omega(eigenvalues.drop(columns=largest)),
    "the median of |λ|": eigenvalues.abs().median(axis=1),
}
lines = []
for told, value in orders.items():
    order = [names.index(n) for n in value.sort_values(ascending=False).index]
    lines.append(f"- by {told}: {', '.join(map(str, order))}")
Markdown("Layers, the one with the most curvature first:\n\n" + "\n".join(lines))

# %% [markdown]
# An order that one part of the sentences decides is no property of the layers: compare the three.
#
# ## Levels at two bits
#
# Groups of consecutive output rows share a scale, as in Q-BERT, whose levels, as we read it, span the
# range of a group's weights. Symmetric levels of two bits are three, and a group has weights by the
# thousand. How many of them are nearest to zero, if the outer levels are at the largest?

# %%
clipped = replace(quantize.weights_only(high_bits, groups=groups, clip=True), activations="dynamic")
rows = []
for bits in range(low_bits, high_bits + 1):
    for told, clip in (("the largest weight", False), ("least squared error", True)):
        grid = replace(clipped.linear, bits=bits, clip=clip)
        rounded = flat(names, grid.read_back)
        zeros = float((rounded == 0).float().mean())
        rows.append((bits, told, quantize.error(flat(names), rounded), 100 * zeros))
columns = ["bits", "outer levels by", "rounding error", "weights that become 0, %"]
levels = pd.DataFrame(rows, columns=columns)
run.table(levels, "levels")
levels.round(2)

# %% [markdown]
# A layer that is all but zero has been removed rather than rounded, and tells nothing about bits. So here
# the scale is the one that leaves normally distributed weights the least squared error (Max 1960), and
# larger weights are clipped. This departs from the paper.

# %%
sizes = {n: len(flat([n])) for n in names}
budget = {"low": low_bits, "high": high_bits, "average": average_bits}
chosen = quantize.bits_by_sensitivity(omega.to_dict(), sizes, **budget)
wrong = quantize.bits_by_sensitivity((-omega).to_dict(), sizes, **budget)
measured = []
for name in names:
    scheme = replace(clipped, bits={name: low_bits}, activations="fp32", only=(name,))
    with quantize.simulated(teacher, scheme):
        measured.append(divergence(run.predict(teacher, parts.test)))
by_place = [
    quantize.bits_by_sensitivity({n: sign * i for i, n in enumerate(names)}, sizes, **budget)
    for sign in (1, -1)
]
lines = [
    f"Bits by curvature, layer by layer: {', '.join(str(chosen[n]) for n in names)}. Reversed: "
    f"{', '.join(str(wrong[n]) for n in names)}."
]
if chosen in by_place:
    lines.append(
        "That is the order of the layers themselves: what it wins or loses cannot tell curvature from "
        "place."
    )
if layers > 2:
    rank = curves.rank_correlation(omega.to_numpy(), measured)
    lines.append(
        f"Rank correlation of Omega with how far {low_bits} bits in that layer alone move the answers: "
        "{:+.2f} ({:+.2f} to {:+.2f})".format(*rank)
        + f", over {layers} layers."
    )
Markdown(" ".join(lines))

# %% [markdown]
# ## The same bytes, three ways
#
# `teacher-qbert` has its bits where the loss is curved, `teacher-qbert-reversed` in the reverse order, and
# `teacher-qbert-uniform` as many in each layer. Activations and embeddings have eight bits, as in Q-BERT;
# pooler and classifier have the larger number of bits. First without training, with the outer levels at
# the largest weight and then clipped; and then trained while rounded and clipped, on the labels. The
# control, `teacher-qbert-control`, has had the same training and is not rounded.

# %%
uniform = dict.fromkeys(names, round(average_bits))
arms = {
    "teacher-qbert-control": None,
    "teacher-qbert": chosen,
    "teacher-qbert-reversed": wrong,
    "teacher-qbert-uniform": uniform,
}
recipe = train.Recipe(epochs, learning_rate, batch_size, seed=run.seed, precision="fp32")
shapes = models.sizes(teacher) | {"macs": run.record("teacher").macs}
described = {"trained_in": "fp32"}
rows = []
for variant, bits in arms.items():
    model, untrained = run.load("teacher"), {}
    if bits is not None:
        scheme = replace(clipped, bits=bits)
        for clip in (False, True):
            unlike = replace(scheme, linear=replace(scheme.linear, clip=clip))
            with quantize.simulated(teacher, unlike):
                guesses = run.predict(teacher, parts.test).argmax(1)
            untrained[clip] = stats.macro_f1(labels, guesses)
        quantize.attach(model, scheme)
    fitted = run.fit(variant, model, recipe, objective=distill.HardLabels())
    logits = run.predict(fitted.model, parts.test)
    if bits is None:
        mb = run.record("teacher").size_mb
        record = run.score(
            variant, logits, parts.test, model=fitted.model, size_mb=mb, fitted=fitted,
            baseline="teacher", config=described,
        )  # fmt: skip
    else:
        mb = quantize.simulated_bytes(teacher, scheme) / 1e6
        record = run.score(
            variant, logits, parts.test, sizes=shapes, size_mb=mb, fitted=fitted,
            baseline="teacher-qbert-control", runtime="simulated", precision="mixed",
            config=described | {"bits": bits},
        )  # fmt: skip
    row = (variant, mb, untrained.get(False), untrained.get(True), record.macro_f1)
    rows.append(row)
columns = ["variant", "MB (rounded: computed)", "macro-F1 untrained", "clipped", "trained"]
allocations = pd.DataFrame(rows, columns=columns)
run.table(allocations, "allocations")
allocations.round(3)

# %%
control, rounded = "teacher-qbert-control", list(arms)[1:]
pairs = [(control, "teacher"), *((variant, control) for variant in rounded)]
pairs += [("teacher-qbert", other) for other in rounded[1:]]
found = {pair: run.contrast(*pair) for pair in pairs}
contrasts = chapter.contrast_table(found)
run.table(contrasts, "contrasts")
run.figure(
    plots.differences(contrasts, title="Two to four bits, trained"),
    "contrasts",
    "Paired differences in macro-F1 of three allocations of bits, from a control in FP32 and from each other",
    contrasts,
)

# %% [markdown]
# What to compare: the last two lines with zero. They are what this allocation is worth. What the figure
# does not show: there is one training of each, on one fold.
#
# ## The answer


# %%
def judged(bits, low):
    """The module that loses most, in words, and whether all of them lose less than ``-low``."""
    some = alone[alone["bits"] == bits].sort_values("diff")
    worst, beyond = some.iloc[0], int((some["diff_high"] < low).sum())
    most = round(-100 * worst["diff"], 1) + 0.0  # no -0.0
    value = (
        f"{most:.1f} points at most{'' if most <= 0 else f' ({worst.variant})'}, "
        f"{beyond} of {len(some)} intervals beyond"
    )
    # "No loss to be seen" needs no interval above 0, as long as none is below.
    held = True if low == beyond == 0 else all_above(some["diff_low"], some["diff_high"], low)
    return value, held


to_control = found["teacher-qbert", control]
to_reverse = found["teacher-qbert", "teacher-qbert-reversed"]
to_uniform = found["teacher-qbert", "teacher-qbert-uniform"]
two, small = judged("int2", -0.1)
lines = [
    chapter.told("Eight bits in one module", "no loss to be seen", *judged("int8", 0.0)),
    chapter.told("Four bits in one module", "a point lost at most", *judged("int4", -0.01)),
    chapter.told(
        "Two bits in one module", "ten points lost by some", two, None if small is None else not small
    ),
    chapter.told(
        "Q-BERT's allocation", "2.3 points lost at most", in_points(to_control), within(to_control, -0.023)
    ),
    *(
        chapter.told(
            f"Against {other}", "better", in_points(d), True if d.low > 0 else False if d.high < 0 else None
        )
        for other, d in (("its reverse", to_reverse), ("as many bits in each layer", to_uniform))
    ),
]  # fmt: skip
if to_uniform.high < 0:
    lines.append("\nThis allocation does worse than none at all: give each layer as many bits.")
elif to_reverse.low <= 0 <= to_reverse.high:
    lines.append(
        "\nWhere the bits go was not seen to matter, at equal bytes: give each layer as many."
    )
elif chosen in by_place:
    lines.append(
        "\nWhere the bits go matters here; whether for curvature or for place was not seen."
    )
Markdown(
    "\n".join(lines) + "\n\nAll of this is one teacher on one fold, and one training of each kind."
)

# %% [markdown]
# Before a module is kept in high precision: round it, look, and keep the bits for what was seen to fall.
#
# **Next:** all these models still have every attention head. Chapter 5 asks which of them matter.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Shen et al. (2020). Q-BERT: Hessian based ultra low precision quantization of BERT. arXiv:1909.05840.
# - Max (1960). Quantizing for minimum distortion. IRE Transactions on Information Theory 6(1).
# - Dong et al. (2019). HAWQ: Hessian aware quantization of neural networks with mixed precision.
#   arXiv:1905.03696. Where ranking layers by an eigenvalue comes from.

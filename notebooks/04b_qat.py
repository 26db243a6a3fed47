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
# # 4b. Is it worth training for eight bits?
#
# Chapter 4 rounded finished models. The literature trains for it: round in every forward pass, let
# the gradient through as if nothing had happened, and hope that the weights move to where rounding
# hurts less. Q8BERT does so while it fine-tunes. We ask what it adds to a finished student: every
# model here has had the same extra epochs, and what is scored is the file. All trainings of this
# chapter run in FP32, whatever the others use: a BF16 product would round once more, by a rule of its
# own, and what is trained would not be what is shipped.
#
# | variant, after the student's name | rounded in training | shipped as |
# |---|---|---|
# | `-continued` | nothing | FP32 |
# | `-continued-int8` | nothing | INT8: the control |
# | `-qat` | weights and activations, as the INT8 file does it | INT8 |
# | `-quant-noise` | the same, but in each step only a random half of the weights | INT8 |
# | `-q8bert` | all symmetric, activations in ranges learned in training | simulated |
# | `-continued-q8bert` | nothing; ranges read from the training part | simulated: the control |
# | `-continued-int4` | nothing | INT4: the control |
# | `-qat-int4` | weights, as the INT4 file does it | INT4 |
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, a student of chapter 3 (`student-small`) |
# | writes | the records of the table, and deployable folders |
# | takes | five trainings of a few epochs, on fold 0 four more; some ten minutes a fold on 2 cores |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/04b_qat.ipynb)

# %% [markdown]
# ## What to expect
#
# - **INT8.** Q8BERT (Zafrir et al. 2019) ends 0.12 points below FP32 on SST-2, and Quant-Noise (Fan et
#   al. 2020) promises most where little precision is left. If rounding a finished model costs less
#   than half a point (chapter 4), there is no more than that to recover: we expect training for INT8
#   to be **within half a point** of its control, in either direction (C11).
# - **INT4.** If rounding costs more here, training should bring back **half of it or more**.
# - **One arithmetic.** The model in training and the file that is shipped should agree on **99.5 %** of
#   the sentences: else what was trained is not what is used.
# - **Time.** Rounding everything in every step costs something: **up to twice** the time of a step.

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
import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from headcount import chapter, distill, export, plots, prune, quantize, stats, train
from headcount.chapter import in_points, within

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
student = "student-small"
noise = 0.5  # share of the weights that Quant-Noise rounds in a step
momentum = 0.99  # of learned ranges: Q8BERT's 0.9999 would need some 10,000 steps
# Fixed
epochs = 3
learning_rate = 5e-5  # the student's own
rates = [2e-5, 2e-4]  # tried besides, on fold 0
temperature = 4.0
alpha = 0.5
batch_size = 32

# %%
run = chapter.begin("04b_qat", globals())

# %%
parts = run.split()
teacher = run.load("teacher")
start = run.record(student)
print(f"{student} of fold {run.fold}: macro-F1 {start.macro_f1:.3f}, {start.params:,} parameters")

# %% [markdown]
# ## The idea, small: a gradient through a staircase
#
# Rounding is a staircase. Its slope is zero wherever it has one, so a loss behind it would never move
# a weight. The *straight-through estimator* (Bengio et al. 2013) rounds on the way forward, and on the
# way back pretends that it had not. Where a value was cut off at the end of the range nothing passes,
# as is usual since Jacob et al. (2018). Five weights, four bits, and a range that is too short for the
# last one:

# %%
w = torch.tensor([-0.31, -0.02, 0.11, 0.34, 0.92], requires_grad=True)
scale = torch.tensor(0.1)
rounded = quantize.fake_quantize(w, scale, torch.tensor(0.0), -7, 7)
slow = scale * torch.clamp(torch.round(w / scale), -7, 7)
assert torch.allclose(rounded, slow)
rounded.sum().backward()
table = {"w": w.tolist(), "read back": rounded.tolist(), "gradient": w.grad.tolist()}
pd.DataFrame(table).T.round(2)

# %% [markdown]
# The exact weights are what is trained and what is kept; rounding is done anew in each step. For a whole
# matrix of the student, against torch's own operator, forward and back:

# %%
model = run.load(student)
weight = prune.attention_layers(model)[0].query.weight.detach().cpu()
scales = quantize.symmetric_scale(weight, axis=0)
ours, theirs = (weight.clone().requires_grad_() for _ in range(2))
one = quantize.fake_quantize(ours, scales, torch.zeros_like(scales), -127, 127)
zeros = torch.zeros(len(weight), dtype=torch.int32)
other = torch.fake_quantize_per_channel_affine(theirs, scales[:, 0], zeros, 0, -127, 127)
same = (one - other).abs() < scales / 2  # torch multiplies by 1 / s: a tie may fall otherwise
assert same.float().mean() > 0.999
for read_back in (one, other):
    (read_back**2).sum().backward()
assert torch.allclose(ours.grad[same], theirs.grad[same])
print(f"{weight.numel():,} weights, {int((~same).sum())} of them one level apart")

# %% [markdown]
# ## Before any training
#
# A scheme is put on a model and taken off again; in between it should compute what its file computes.
# Only when that is so is there a point in training it. The student as it is, with the scheme on and as a
# file, and how far both are from FP32:

# %%
probe = parts.validation.head(200)
probe_ids = run.tokenize(probe).input_ids
exact = run.predict(model, probe)
schemes = {
    "continued": None,
    "qat": quantize.deployed(),
    "quant-noise": quantize.quant_noise(noise),
    "q8bert": quantize.q8bert(momentum),
    "qat-int4": quantize.weights_only(4, block=quantize.BLOCK),
}
rows = []
for arm, precision in (("qat", "int8"), ("qat-int4", "int4")):
    with quantize.simulated(model, schemes[arm]):
        answers = run.predict(model, probe)
    with tempfile.TemporaryDirectory() as place:
        folder = export.deployable(
            Path(place, arm),
            copy.deepcopy(model).cpu(),
            run.tokenizer(),
            name=arm,
            precision=precision,
        )
        of_file = export.OnnxClassifier(folder, run.threads).logits(probe_ids)
    apart, moved = np.abs(answers - of_file).max(1), np.abs(of_file - exact).max(1)
    same = (answers.argmax(1) == of_file.argmax(1)).mean()
    rows.append(
        (precision, np.median(apart), apart.max(), 100 * same, np.median(moved), moved.max())
    )
columns = ["file", "scheme and file apart, median logit", "largest", "same label, %"]
columns += ["file and FP32 apart, median logit", "largest of these"]
pd.DataFrame(rows, columns=columns).round(4)

# %% [markdown]
# ## The trainings
#
# All start from the same student, with the same sentences in the same order, the same number of steps
# and the objective of `student-kd`; what differs is what is rounded on the way.

# %%
teacher_logits = run.predict(teacher, parts.train)
objective = distill.VanillaKD(teacher_logits, temperature, alpha)
recipe = train.Recipe(epochs, learning_rate, batch_size, seed=run.seed, precision="fp32")
fitted, trained, in_training = {}, {}, {}
for arm, scheme in schemes.items():
    model = run.load(student)
    if scheme is not None:
        quantize.attach(model, scheme)
    fitted[arm] = run.fit(f"{student}-{arm}", model, recipe, objective=objective)
    trained[arm] = fitted[arm].model
    in_training[arm] = run.predict(trained[arm], parts.test)
    if scheme is not None:
        quantize.settle(trained[arm])

# %%
curves = pd.concat([f.history.assign(variant=arm) for arm, f in fitted.items()], ignore_index=True)
run.table(curves, "curves")
run.figure(
    plots.learning_curve(curves, title="Trained while rounded"),
    "learning-curves",
    "Training and validation loss and validation macro-F1 by epoch, of the continued student and "
    "the four that are rounded in training",
    curves,
)

# %% [markdown]
# What to notice: how far apart the curves of `continued` and `qat` are, compared with how far each
# moves from one epoch to the next. The training loss contains the divergence from the teacher, the
# validation loss is cross-entropy with the labels. The figure shows scores of models that are rounded
# *in training*; what the files score comes now.
#
# ## The files

# %%
described = {"objective": objective.describe(), "trained_in": "fp32"}
continued = f"{student}-continued"
run.score(
    continued, in_training["continued"], parts.test, model=trained["continued"],
    folder=run.save(continued, trained["continued"]), baseline=student,
    fitted=fitted["continued"], config=described,
)  # fmt: skip
calibrated = copy.deepcopy(trained["continued"])  # for Q8BERT's control, while it is on its device
shipped = {
    f"{continued}-int8": ("continued", "int8", continued),
    f"{student}-qat": ("qat", "int8", f"{continued}-int8"),
    f"{student}-quant-noise": ("quant-noise", "int8", f"{continued}-int8"),
    f"{continued}-int4": ("continued", "int4", continued),
    f"{student}-qat-int4": ("qat-int4", "int4", f"{continued}-int4"),
}
logits = {}
for variant, (arm, precision, against) in shipped.items():
    logits[variant] = run.ship(
        variant, trained[arm], precision, baseline=against, fitted=fitted[arm], config=described
    )

# %% [markdown]
# Q8BERT has ranges of its own for activations, learned in training, and no exporter of ours writes
# them into a file. Its answers are simulated, its bytes computed, not counted. Its control is the
# continued student, whose ranges are read from the training part with the weights left alone.

# %%
quantize.attach(calibrated, schemes["q8bert"])
calibrated.eval().fake_quantization.train()  # ranges move, and nothing is dropped out
with torch.no_grad():
    for batch in run.batches(run.tokenize(parts.train)):
        inputs = (batch[name].to(run.device) for name in ("input_ids", "attention_mask"))
        calibrated(**dict(zip(("input_ids", "attention_mask"), inputs, strict=True)))
static = {
    f"{continued}-q8bert": ("continued", run.predict(calibrated, parts.test), continued),
    f"{student}-q8bert": ("q8bert", in_training["q8bert"], f"{continued}-q8bert"),
}
computed_mb = quantize.simulated_bytes(trained["q8bert"], schemes["q8bert"]) / 1e6
shape = start.model_dump(include={"params", "heads_alive", "heads_total", "layers", "macs"})
for variant, (arm, answers, against) in static.items():
    run.score(
        variant, answers, parts.test, size_mb=computed_mb, sizes=shape, baseline=against,
        fitted=fitted[arm], runtime="simulated", precision="int8", config=described,
    )  # fmt: skip
print(f"by computation: {computed_mb:.2f} MB, without a graph")

# %% [markdown]
# ## Is what was trained what is shipped?

# %%
rows = []
for variant in (f"{student}-qat", f"{student}-quant-noise", f"{student}-qat-int4"):
    arm = shipped[variant][0]
    apart = np.abs(in_training[arm] - logits[variant]).max(1)
    agree = (in_training[arm].argmax(1) == logits[variant].argmax(1)).mean()
    rows.append((variant, 100 * agree, np.median(apart), apart.max()))
columns = ["variant", "same label, %", "median difference of a logit", "largest"]
agreement = pd.DataFrame(rows, columns=columns)
run.table(agreement, "agreement")
agreement.round(3)

# %%
stored = export.constants(run.model_folder(f"{student}-qat") / "model.onnx")
linear = {n: m for n, m in trained["qat"].named_modules() if isinstance(m, torch.nn.Linear)}
differ = total = 0
for name, module, grid in quantize.targets(trained["qat"], schemes["qat"]):
    if name in linear:
        keys = (f"{name}.weight.T_quantized", f"{name}.weight_quantized")  # the latter after a Gemm
        integers = next(stored[key] for key in keys if key in stored).T
        differ += int((grid.codes(module.weight).numpy() != integers).sum())
        total += integers.size
Markdown(
    f"Of {total:,} integers in the file of `{student}-qat`, {differ:,} differ from those of the training. "
    "What remains comes from activations: a sum in another order can move one across the edge of a level."
)

# %% [markdown]
# ## What came out

# %%
pairs = {
    (continued, student): "more epochs, FP32",
    (f"{continued}-int8", continued): "INT8 afterwards",
    (f"{student}-qat", f"{continued}-int8"): "trained for INT8, against afterwards",
    (f"{student}-quant-noise", f"{continued}-int8"): "Quant-Noise, against afterwards",
    (f"{continued}-q8bert", continued): "Q8BERT's arithmetic afterwards, simulated",
    (f"{student}-q8bert", f"{continued}-q8bert"): "trained for it, against afterwards",
    (f"{continued}-int4", continued): "INT4 afterwards",
    (f"{student}-qat-int4", f"{continued}-int4"): "trained for INT4, against afterwards",
}
found = {pair: run.contrast(*pair) for pair in pairs}
contrasts = chapter.contrast_table(found).assign(label=[*pairs.values()])
run.table(contrasts, "contrasts")
run.figure(
    plots.differences(contrasts, title=f"Trained for few bits, fold {run.fold}"),
    "contrasts",
    "Paired differences in macro-F1, with 95 percent intervals: what rounding costs, and what training "
    "for it brings back",
    contrasts,
)

# %% [markdown]
# What to compare: each line that ends in "afterwards" with the line below it. Where the first of a
# pair is near zero, nothing was lost that the second could bring back. What the figure does not show:
# another seed's trainings would have made other models.

# %%
standings = run.standings([student, continued, *shipped, *static])
for field in ("ece", "runtime"):
    standings[field] = [getattr(run.record(v), field) for v in standings["variant"]]
run.table(standings, "standings")
standings.round(3)

# %% [markdown]
# Megabytes of simulated models are computed, and have no graph in them.
#
# ## Where did the weights go?
#
# One story is that weights settle near the levels that they are rounded to. We look: the rounding
# error of each matrix in INT4, as a share of its weights' own size, before and after; and whether the
# training was long enough for a weight to get anywhere. A step of Adam is about as long as the rate at
# most, which is warmed up and falls to zero, so the way of a weight is half the steps times the rate.

# %%
grid = schemes["qat-int4"].linear


def errors(model):
    """Relative error of each linear layer's weights when they are rounded to INT4."""
    with torch.no_grad():
        return {
            name: quantize.error(module.weight, grid.read_back(module.weight))
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }


table = pd.DataFrame({arm: errors(trained[arm]) for arm in ("continued", "qat-int4")})
run.table(table.rename_axis("matrix").reset_index(), "errors")
nearer = int((table["qat-int4"] < 0.99 * table["continued"]).sum())
steps_of_grid = [grid.scale(module.weight)[0].abs().median() for module in linear.values()]
level = float(torch.stack(steps_of_grid).median())
reach = learning_rate * fitted["continued"].steps / 2
start_weights = dict(run.load(student).cpu().named_parameters())
moved = {
    arm: torch.cat([(p.cpu() - start_weights[n]).detach().abs().flatten()
                    for n, p in trained[arm].named_parameters() if p.ndim == 2])
    for arm in ("continued", "qat-int4")
}  # fmt: skip
Markdown(
    f"On average {table['continued'].mean():.2%} for the continued student and "
    f"{table['qat-int4'].mean():.2%} for the one trained in INT4; {nearer} of {len(table)} matrices are "
    f"nearer to their levels by a hundredth or more. Two levels are {level:.4f} apart (median). A weight "
    f"could go about {reach:.4f}; the median one moved by {float(moved['continued'].median()):.5f} in FP32 "
    f"and by {float(moved['qat-int4'].median()):.5f} in INT4."
)

# %% [markdown]
# ## Is it the rate?
#
# A rate at which no weight can reach another level would decide the question before it is asked. On
# fold 0 the INT4 pair is therefore trained at other rates, too, and scored on the validation part. It is
# a look at how much hangs on the rate: nothing is chosen.

# %%
rows = []
for rate in sorted({learning_rate, *rates}) if run.fold == 0 else ():
    for arm in ("continued", "qat-int4"):
        if rate == learning_rate:
            model = trained[arm]
        else:
            model = run.load(student)
            if schemes[arm] is not None:
                quantize.attach(model, schemes[arm])
            again = replace(recipe, learning_rate=rate)
            name = f"{student}-{arm}-{rate:g}"
            model = run.fit(name, model, again, objective=objective).model
            if schemes[arm] is not None:
                quantize.settle(model)
        with quantize.simulated(model, schemes["qat-int4"]):
            guesses = run.predict(model, parts.validation).argmax(1)
            loss = run.losses(model, parts.validation).mean()
        f1 = stats.macro_f1(parts.validation["label"], guesses)
        rows.append((arm, f"{rate:g}", rate * fitted[arm].steps / 2 / level, f1, loss))
columns = ["trained as", "rate", "reach, in levels", "validation macro-F1 in INT4", "cross-entropy"]
by_rate = pd.DataFrame(rows, columns=columns)
if rows:
    run.table(by_rate, "rates")
by_rate.round(4) if rows else Markdown("This is another fold: see the notebook of fold 0.")

# %% [markdown]
# What it costs:

# %%
costs = pd.DataFrame(
    {"seconds": {a: f.seconds for a, f in fitted.items()},
     "ms per step": {a: 1000 * f.seconds / f.steps for a, f in fitted.items()}}
)  # fmt: skip
costs["times the control's"] = costs["ms per step"] / costs.loc["continued", "ms per step"]
run.table(costs.rename_axis("arm").reset_index(), "cost")
costs.round(2)

# %% [markdown]
# Whatever else the machine did is in these times.
#
# ## The answer

# %%
verdicts = run.verdicts(["C11"])
run.table(verdicts, "verdicts")
verdicts.round(2)


# %%
def recovered(lost, back):
    """Whether at least half of what rounding lost is back, by both intervals; None if it is open."""
    if lost.high >= 0:
        return None  # it is not certain that anything was lost
    return within(back, -lost.diff / 2)


eight = found[f"{student}-qat", f"{continued}-int8"]
lost, back = (
    found[f"{continued}-int4", continued],
    found[f"{student}-qat-int4", f"{continued}-int4"],
)
least, dearest = agreement["same label, %"].min(), costs["times the control's"].max()
lines = [
    chapter.told(
        "Trained for INT8", "within half a point of the control", in_points(eight),
        within(eight, -0.005, 0.005),
    ),
    chapter.told(
        "Trained for INT4", "half or more of the loss brought back",
        f"{in_points(back)}, where rounding afterwards made {in_points(lost)}", recovered(lost, back),
    ),
    chapter.told(
        "Training and file", "the same label for 99.5 % or more", f"{least:.2f} %", bool(least >= 99.5)
    ),
    chapter.told("A step", "up to twice as long", f"{dearest:.2f} times", bool(dearest <= 2)),
]  # fmt: skip
Markdown(
    "\n".join(lines) + "\n\nThe verdict on C11 is this fold's alone; the report pools them all."
)

# %% [markdown]
# What this cannot say: what training for few bits brings to a model that has not been trained to its
# end, where Q8BERT puts it; or with more steps than these.
#
# Do not train for few bits before having rounded afterwards: the cheap experiment tells how much there
# is to win. And train in the arithmetic that is shipped: else the score is of a model that nobody has.
#
# **Next:** chapter 4c goes below eight bits, module by module.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Bengio, Leonard and Courville (2013). Estimating or propagating gradients through stochastic neurons
#   for conditional computation. arXiv:1308.3432.
# - Fan et al. (2020). Training with quantization noise for extreme model compression. arXiv:2004.07320.
# - Jacob et al. (2018). Quantization and training of neural networks for efficient
#   integer-arithmetic-only inference. arXiv:1712.05877.
# - Zafrir, Boudoukh, Izsak and Wasserblat (2019). Q8BERT: Quantized 8Bit BERT. arXiv:1910.06188.

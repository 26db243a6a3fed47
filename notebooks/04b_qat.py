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
# the gradient through as if nothing had happened, and the weights move to where rounding hurts less.
# The seed study did so with one arithmetic, shipped another, and compared the result with a model
# that had not been trained as long. Here every model has had the same extra epochs, and what is
# scored is the file.
#
# | variant | rounded in training | shipped as |
# |---|---|---|
# | `student-small-continued` | nothing | FP32 |
# | `student-small-continued-int8` | nothing | INT8: the control |
# | `student-small-qat` | weights and activations, as the INT8 file does it | INT8 |
# | `student-small-quant-noise` | the same, but in each step only a random half of the weights | INT8 |
# | `student-small-q8bert` | all symmetric, activations in ranges learned in training | simulated |
# | `student-small-continued-int4` | nothing | INT4: the control |
# | `student-small-qat-int4` | weights, as the INT4 file does it | INT4 |
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, `student-small` of chapter 3 |
# | writes | the records of the table, and deployable folders |
# | takes | five trainings of a few epochs |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/04b_qat.ipynb)

# %% [markdown]
# ## What to expect
#
# - **INT8.** Q8BERT (Zafrir et al. 2019) ends 0.12 points below FP32 on SST-2, and Quant-Noise (Fan et
#   al. 2020) promises most where little precision is left. If rounding a finished model costs less
#   than half a point (chapter 4), there is no more than that to recover: we expect training for INT8
#   to be **within half a point** of its control, in either direction (C11).
# - **INT4.** Here rounding costs more, and training should bring back **half of it or more**.
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
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from headcount import chapter, distill, plots, prune, quantize, train

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
learning_rate = 2e-5
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
# way back pretends that it had not, except where a value was cut off at the end of the range. Five
# weights, four bits, and a range that is too short for the last one:

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
# A scheme is put on a model and taken off again; in between it computes as its file would. Only when
# that is so is there a point in training it.

# %%
probe = parts.validation
exact = run.predict(model, probe)
schemes = {
    "continued": None,
    "qat": quantize.deployed(),
    "quant-noise": quantize.quant_noise(noise),
    "q8bert": quantize.q8bert(momentum),
    "qat-int4": quantize.weights_only(4, block=quantize.BLOCK),
}
rows = []
for arm in ("qat", "qat-int4"):
    with quantize.simulated(model, schemes[arm]):
        answers = run.predict(model, probe)
    moved = np.abs(answers - exact).max(1)
    changed = (answers.argmax(1) != exact.argmax(1)).mean()
    rows.append((arm, moved.mean(), moved.max(), 100 * changed))
columns = ["rounded as for", "mean change of a logit", "largest", "labels changed, %"]
pd.DataFrame(rows, columns=columns).round(3)

# %% [markdown]
# ## The trainings
#
# All start from the same student, with the same sentences in the same order, the same number of steps
# and the objective of `student-kd`; what differs is what is rounded on the way.

# %%
teacher_logits = run.predict(teacher, parts.train)
objective = distill.VanillaKD(teacher_logits, temperature, alpha)
recipe = train.Recipe(epochs, learning_rate, batch_size, seed=run.seed)
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
# moves from one epoch to the next. The figure shows validation scores of models that are rounded *in
# training*; what the files score comes now.
#
# ## The files

# %%
described = {"objective": objective.describe()}


def record(arm, logits=None, **how):
    """Record what an arm answers in FP32, or simulated, where no file of it can be run."""
    return run.score(
        f"{student}-{arm}", in_training[arm] if logits is None else logits, parts.test,
        fitted=fitted[arm], config=described, **how,
    )  # fmt: skip


continued = f"{student}-continued"
record(
    "continued", model=trained["continued"],
    folder=run.save(continued, trained["continued"]), baseline=student,
)  # fmt: skip
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
# `student-small-q8bert` has ranges of its own for activations, learned in training, and no exporter of
# ours writes them into a file. Its answers are simulated, its bytes computed, not counted.

# %%
q8bert = quantize.simulated_bytes(trained["q8bert"], schemes["q8bert"]) / 1e6
record(
    "q8bert", size_mb=q8bert, baseline=continued, runtime="simulated", precision="int8",
    sizes=start.model_dump(include={"params", "heads_alive", "heads_total", "layers", "macs"}),
)  # fmt: skip
print(f"{student}-q8bert, by computation: {q8bert:.2f} MB without a graph")

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

# %% [markdown]
# The rest is rounding in the last digit: a sum in another order can move an activation across the
# edge of a level, and from there on two computations differ by whole steps.
#
# ## What came out

# %%
pairs = {
    (continued, student): "more epochs, FP32",
    (f"{continued}-int8", continued): "INT8 afterwards",
    (f"{student}-qat", f"{continued}-int8"): "trained for INT8, against afterwards",
    (f"{student}-quant-noise", f"{continued}-int8"): "Quant-Noise, against afterwards",
    (f"{student}-q8bert", continued): "Q8BERT, simulated, against FP32",
    (f"{continued}-int4", continued): "INT4 afterwards",
    (f"{student}-qat-int4", f"{continued}-int4"): "trained for INT4, against afterwards",
}
found = {pair: run.contrast(*pair) for pair in pairs}
contrasts = pd.DataFrame(
    {"label": label, "variant": pair[0], "baseline": pair[1], "diff": found[pair].diff,
     "diff_low": found[pair].low, "diff_high": found[pair].high, "p": found[pair].p}
    for pair, label in pairs.items()
)  # fmt: skip
run.table(contrasts, "contrasts")
run.figure(
    plots.differences(contrasts, title=f"Trained for few bits, fold {run.fold}"),
    "contrasts",
    "Paired differences in macro-F1, with 95 percent intervals: what rounding costs, and what training "
    "for it brings back",
    contrasts,
)

# %% [markdown]
# What to compare: "INT8 afterwards" with the line below it, and "INT4 afterwards" with its own. Where
# the first of a pair is near zero, nothing was lost that the second could bring back. What the figure
# does not show: another seed's trainings would have made other models.

# %%
variants = [student, continued, *shipped, f"{student}-q8bert"]
standings = run.standings(variants)
standings["ECE"] = [run.record(variant).ece for variant in variants]
run.table(standings, "standings")
standings.round(3)

# %% [markdown]
# ## Where did the weights go?
#
# If training for few bits works as the story has it, weights end up nearer to the levels that they are
# rounded to. The rounding error of each matrix in INT4, as a share of its weights' own size, before and
# after:

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
nearer = int((table["qat-int4"] < table["continued"]).sum())
moved = {
    arm: float(
        torch.cat([(p - q).detach().flatten().cpu() for p, q in
                   zip(trained[arm].parameters(), run.load(student).cpu().parameters(), strict=True)])
        .norm()
    )
    for arm in ("continued", "qat-int4")
}  # fmt: skip
Markdown(
    f"On average {table['continued'].mean():.2%} for the continued student and "
    f"{table['qat-int4'].mean():.2%} for the one trained in INT4; {nearer} of {len(table)} matrices are "
    f"nearer to their levels. All weights together moved by {moved['continued']:.2f} in FP32 and by "
    f"{moved['qat-int4']:.2f} in INT4 (Euclidean)."
)

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
# ## The answer

# %%
verdicts = run.verdicts(["C11"])
run.table(verdicts, "verdicts")
verdicts.round(2)


# %%
eight = found[f"{student}-qat", f"{continued}-int8"]
lost, back = (
    found[f"{continued}-int4", continued],
    found[f"{student}-qat-int4", f"{continued}-int4"],
)
least = agreement["same label, %"].min()
dearest = costs["times the control's"].max()
Markdown(
    "\n".join(
        [
            chapter.told(
                "Trained for INT8", "within half a point of the control",
                f"{100 * eight.diff:+.2f} points ({100 * eight.low:+.2f} to {100 * eight.high:+.2f})",
                abs(eight.diff) <= 0.005,
            ),
            chapter.told(
                "Trained for INT4", "half or more of the loss brought back",
                f"{100 * back.diff:+.2f} points, where rounding afterwards made {100 * lost.diff:+.2f}",
                back.diff >= -lost.diff / 2 and lost.diff < 0,
            ),
            chapter.told(
                "Training and file", "the same label for 99.5 % or more", f"{least:.2f} %", least >= 99.5
            ),
            chapter.told("A step", "up to twice as long", f"{dearest:.2f} times", dearest <= 2),
        ]
    )
    + "\n\nThe verdict on C11 is this fold's alone; the report pools them all."
)  # fmt: skip

# %% [markdown]
# Do not train for few bits before having rounded afterwards: the cheap experiment tells how much there
# is to win. And whoever trains in one arithmetic and ships in another has measured neither.
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

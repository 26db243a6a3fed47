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
# | `-continued-q8bert` | nothing; ranges learned afterwards | simulated: the control |
# | `-continued-int4` | nothing | INT4: the control |
# | `-qat-int4` | weights, as the INT4 file does it | INT4 |
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, a student of chapter 3 (`student-small`) |
# | writes | the records of the table, and deployable folders |
# | takes | five trainings of a few epochs, on fold 0 six more; some ten minutes a fold on 2 cores |

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
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from headcount import (
    bench,
    chapter,
    curves,
    data,
    distill,
    export,
    plots,
    prune,
    quantize,
    stats,
    train,
)
from headcount.chapter import in_points, within
from headcount.dropout import quick_dropout

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
timed = 20  # steps of each arm, for the clock

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
probe_ids, test_ids = (run.tokenize(part).input_ids for part in (probe, parts.test))
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
        classifier = export.OnnxClassifier(folder, run.threads)
        of_file = classifier.logits(probe_ids)
        if arm == "qat":
            untouched = classifier.logits(test_ids)
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
# and the objective of `student-kd`, on the training part alone; what differs is what is rounded on the
# way.

# %%
continued = f"{student}-continued"
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
    if arm == "q8bert":
        still_attached = copy.deepcopy(trained[arm])  # for ranges learned in another way
    if scheme is not None:
        quantize.settle(trained[arm])

# %% [markdown]
# The student itself may have been made in another way: chapter 3 has its recipe. From its record:

# %%
made, size = start.provenance.config, student.removeprefix("student-")
loss = made.get("objective", {})
labels_and_teacher = loss.get("prediction") or loss
ways = {
    "made": {
        "temperature": labels_and_teacher.get("temperature", "none"),
        "share of the labels": labels_and_teacher.get("alpha", 1.0),
        "unlabelled sentences": made.get(f"{size}_transfer", "none"),
        "weight of hidden states": loss.get("hidden_weight", 0.0),
        "weight of attention": loss.get("attention_weight", 0.0),
        "weight of embeddings": loss.get("embedding_weight", 0.0),
        "precision": made["training_precision"],
    },
    "continued": {
        "temperature": temperature,
        "share of the labels": alpha,
        "unlabelled sentences": "none",
        "weight of hidden states": 0.0,
        "weight of attention": 0.0,
        "weight of embeddings": 0.0,
        "precision": recipe.precision,
    },
}
unlike = [name for name, how in ways["made"].items() if how != ways["continued"][name]]
steps = {"made": start.steps, "continued": fitted["continued"].steps}
display(pd.DataFrame({way: how | {"steps": steps[way]} for way, how in ways.items()}, dtype=object))
Markdown(
    f"So `{continued}` is `{student}` after more steps, "
    + (f"which differ in {', '.join(unlike)}. " if unlike else "otherwise as those before. ")
    + f"All arms share these steps: they count in each contrast with `{student}`, and in no other."
)

# %%
histories = pd.concat(
    [f.history.assign(variant=arm) for arm, f in fitted.items()], ignore_index=True
)
run.table(histories, "curves")
run.figure(
    plots.learning_curve(histories, title="Trained while rounded"),
    "learning-curves",
    "Training and validation loss and validation macro-F1 by epoch, of the continued student and "
    "the four that are rounded in training",
    histories,
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
run.score(
    continued, in_training["continued"], parts.test, model=trained["continued"],
    folder=run.save(continued, trained["continued"]), baseline=student,
    fitted=fitted["continued"], config=described,
)  # fmt: skip
exact_control = copy.deepcopy(trained["continued"])  # for Q8BERT's, while it is on its device
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
# continued student with ranges from the same batches, in the same order and as many times over, while
# the weights are left alone: a moving average depends on how often it was moved. One difference stays:
# in a training, dropout sets some numbers to zero and enlarges the rest, weights still move, and the
# ranges learned are of those. The control's are learned without dropout, as the model is used. What
# that alone makes is seen when the trained one's ranges are learned once more in the control's way.

# %%
tokens, pad = run.tokenize(parts.train), run.tokenizer().pad_token_id
order = train.LikeLengthBatches(tokens.lengths, batch_size, seed=run.seed)


def learn_ranges(model):
    """Learn a model's ranges afresh, from the batches of a training; returns how often they moved."""
    model.eval().fake_quantization.train()  # ranges move, and nothing is dropped out
    model.fake_quantization.largest.zero_()
    updates = 0
    with torch.no_grad():
        for epoch in range(epochs):
            order.set_epoch(epoch)
            for rows in order:
                batch = data.collate([tokens[i] for i in rows], pad)
                distill.student_logits(model, {n: t.to(run.device) for n, t in batch.items()})
                updates += 1
    return updates


quantize.attach(exact_control, schemes["q8bert"])
for model in (exact_control, still_attached):
    updates = learn_ranges(model)
    assert updates == fitted["q8bert"].steps
ranges_afterwards = run.predict(still_attached, parts.test)
static = {
    f"{continued}-q8bert": ("continued", run.predict(exact_control, parts.test), continued),
    f"{student}-q8bert": ("q8bert", in_training["q8bert"], f"{continued}-q8bert"),
}
computed_mb = quantize.simulated_bytes(trained["q8bert"], schemes["q8bert"]) / 1e6
shape = start.model_dump(include={"params", "heads_alive", "heads_total", "layers", "macs"})
for variant, (arm, answers, against) in static.items():
    run.score(
        variant, answers, parts.test, size_mb=computed_mb, sizes=shape, baseline=against,
        fitted=fitted[arm], runtime="simulated", precision="int8", config=described,
    )  # fmt: skip
dropout = max(m.p for m in exact_control.modules() if isinstance(m, torch.nn.Dropout))
print(f"by computation: {computed_mb:.2f} MB, without a graph")
print(f"ranges moved {updates} times in each arm; dropout in training: {dropout:g}")

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
# Not recorded, but answered above: the student's INT8 file, and Q8BERT with the control's ranges.
to_untouched = (f"{student}-qat", f"{student}-int8")
same_ranges = (f"{student}-q8bert, ranges afterwards", f"{continued}-q8bert")
pairs = {
    (continued, student): "more epochs, FP32",
    (f"{continued}-int8", continued): "INT8 afterwards",
    (f"{student}-qat", f"{continued}-int8"): "trained for INT8, against afterwards",
    (f"{student}-quant-noise", f"{continued}-int8"): "Quant-Noise, against afterwards",
    (f"{continued}-q8bert", continued): "Q8BERT's arithmetic afterwards, simulated",
    (f"{student}-q8bert", f"{continued}-q8bert"): "trained for it, against afterwards",
    same_ranges: "the same, ranges learned alike",
    (f"{continued}-int4", continued): "INT4 afterwards",
    (f"{student}-qat-int4", f"{continued}-int4"): "trained for INT4, against afterwards",
    (f"{student}-qat", continued): "trained for INT8, against FP32",
    to_untouched: "trained for INT8, against the student in INT8",
}
unrecorded = {
    to_untouched: (logits[f"{student}-qat"], untouched),
    same_ranges: (ranges_afterwards, static[same_ranges[1]][1]),
}


def apart_by(pair):
    """The paired difference of two models' macro-F1, from records or from answers above."""
    if pair not in unrecorded:
        return run.contrast(*pair)
    guesses = (answers.argmax(1) for answers in unrecorded[pair])
    return stats.paired_difference(parts.test["label"], *guesses, parts.test["group"])


found = {pair: apart_by(pair) for pair in pairs}
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
# What to compare: what rounding afterwards changes, and in the lines below it what training for it
# brings back. Where the first is near zero, nothing was lost that the others could bring back. The last
# two lines are for those who choose a model. In the very last one what is trained here meets what would
# be shipped without this chapter, so that more epochs are in it, too. What the figure does not show:
# another seed's trainings would have made other models.

# %%
more = found[continued, student]
Markdown(
    f"More epochs in FP32 changed macro-F1 by {in_points(more)} points. "
    + (
        "They made the student worse. So the controls are models that training has spoiled, and what is "
        "won against them is not won against the student: see the last line of the figure."
        if more.high < 0
        else "They made it better, and the last line of the figure has that gain in it."
        if more.low > 0
        else "Whether they made it better or worse is open."
    )
)

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
# One story is that weights settle near the levels that they are rounded to. We look at the rounding
# error of each matrix in INT4, as a share of its weights' own size, for the continued student and for
# the one trained in INT4; and at how many weights end at another level than they began at. Little is
# needed for that: a weight near an edge between two levels crosses it with a small step, and when the
# largest weight of a block moves, so do all edges of the block.

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


def weights(model):
    """The matrices of the linear layers."""
    return [model.get_submodule(name).weight.detach().cpu() for name in linear]


def levels(model):
    """Level of each of their weights in INT4, counted from 0, one after the other."""
    # The weight's sign and not the code's: a block's scale may be negative, and become positive.
    signed = [grid.codes(w).abs() * grid.read_back(w).sign() for w in weights(model)]
    return torch.cat([level.flatten() for level in signed])


at_first = run.load(student)
levels_at_first = levels(at_first)


def changed(model):
    """Share of those weights that are at another level than in the student at first, in %."""
    return 100 * float((levels(model) != levels_at_first).float().mean())


table = pd.DataFrame({arm: errors(trained[arm]) for arm in ("continued", "qat-int4")})
run.table(table.rename_axis("matrix").reset_index(), "errors")
nearer = int((table["qat-int4"] < 0.99 * table["continued"]).sum())
before = weights(at_first)
apart = torch.cat([grid.scale(w)[0].abs().flatten() for w in before]).median()
moved = {
    arm: torch.cat(
        [(w - b).abs().flatten() for w, b in zip(weights(trained[arm]), before, strict=True)]
    ).median()
    for arm in ("continued", "qat-int4")
}
Markdown(
    f"The error is {table['continued'].mean():.2%} on average for the continued student and "
    f"{table['qat-int4'].mean():.2%} for the one trained in INT4; {nearer} of {len(table)} matrices are "
    "nearer to their levels by a hundredth or more. At another level than in the beginning are "
    f"{changed(trained['continued']):.2f} % of the weights of the former and "
    f"{changed(trained['qat-int4']):.2f} % of those of the latter. The median weight moved by "
    f"{float(moved['continued'] / apart):.3f} and {float(moved['qat-int4'] / apart):.3f} of the way from "
    "one level to the next."
)

# %% [markdown]
# ## Is it the rate?
#
# A rate at which hardly any weight changes its level would decide the question before it is asked. On
# fold 0 the models trained for INT8 and for INT4 and their control are therefore scored on the validation
# part at each of the parameter `rates` besides their own. It is a look at how much hangs on the rate:
# nothing is chosen.

# %%
rows, as_scored = [], {"INT8": "qat", "INT4": "qat-int4"}
for rate in sorted({learning_rate, *rates}) if run.fold == 0 else ():
    for arm in ("continued", "qat", "qat-int4"):
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
        for bits, scheme in as_scored.items():
            if arm not in ("continued", scheme):
                continue
            with quantize.simulated(model, schemes[scheme]):
                guesses = run.predict(model, parts.validation).argmax(1)
                loss = run.losses(model, parts.validation).mean()
            f1 = stats.macro_f1(parts.validation["label"], guesses)
            rows.append((bits, arm, f"{rate:g}", changed(model), f1, loss))
columns = ["scored in", "trained as", "rate", "INT4 levels changed, %"]
columns += ["validation macro-F1", "cross-entropy"]
by_rate = pd.DataFrame(rows, columns=columns).sort_values(
    "scored in", ascending=False, kind="stable"
)
if rows:
    run.table(by_rate, "rates")
by_rate.round(4) if rows else Markdown("This is another fold: see the notebook of fold 0.")

# %% [markdown]
# ## What does a step cost?
#
# The trainings ran one after the other, and whatever else the machine did is in their seconds. So some
# more steps are taken for the clock alone: each arm does the same batches, in turns, there and back. The
# first step of a turn is not counted. A ratio compares two steps on one batch; the table has the median
# of the ratios and, as *from* and *to*, their middle half.

# %%
model = run.load(student).train()
optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
some = [
    {name: tensor.to(run.device) for name, tensor in batch.items()}
    for batch in run.batches(run.tokenize(parts.train))[:timed]
]


def step(batch):
    """Seconds of one step of a training."""
    began = time.perf_counter()
    optimizer.zero_grad()
    objective(model, batch)["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if run.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


turns = min(4, len(some))
taken = {arm: [] for arm in schemes}
with quick_dropout(model):  # as trainings have it
    for position, arm in enumerate(bench.there_and_back(list(schemes), turns)):
        if schemes[arm] is not None:
            quantize.attach(model, schemes[arm])
        turn = some[position // len(schemes) :: turns]
        step(turn[0])
        taken[arm] += [step(batch) for batch in turn]
        if schemes[arm] is not None:
            quantize.settle(model)

# %%
ratios = pd.DataFrame(taken).div(taken["continued"], axis=0)
costs = pd.DataFrame(
    {"seconds of training": {arm: f.seconds for arm, f in fitted.items()},
     "ms per step, in turns": 1000 * pd.DataFrame(taken).median(),
     "times the control's": ratios.median(), "from": ratios.quantile(0.25),
     "to": ratios.quantile(0.75)}
).loc[list(schemes)]  # fmt: skip
run.table(costs.rename_axis("arm").reset_index(), "cost")
costs.round(2)

# %% [markdown]
# ## The answer

# %%
verdicts = run.verdicts(["C11"])
run.table(verdicts, "verdicts")
verdicts.round(2)


# %%
def recovered(exact, rounded, trained):
    """Half of what rounding lost, and whether that much is back; None if it is open, by an interval.

    Loss and gain share the answers that were rounded, so one paired contrast has both.
    """
    three = {"exact": exact, "rounded": rounded, "trained": trained}
    guesses = parts.test[["group", "label"]].assign(**{k: g.argmax(1) for k, g in three.items()})
    beyond = curves.contrast(
        guesses, lambda f1: f1["trained"] - f1["rounded"] - (f1["exact"] - f1["rounded"]) / 2
    )
    return beyond, within(beyond, 0)


eight = found[f"{student}-qat", f"{continued}-int8"]
lost, back = (
    found[f"{continued}-int4", continued],
    found[f"{student}-qat-int4", f"{continued}-int4"],
)
beyond, half_is_back = recovered(
    in_training["continued"], logits[f"{continued}-int4"], logits[f"{student}-qat-int4"]
)
least = agreement["same label, %"].min()
dearest = costs.loc[costs["times the control's"].idxmax()]
low, high = dearest["from"], dearest["to"]
slower = "{:.2f} times for `{}` (middle half of the ratios {:.2f} to {:.2f})".format(
    dearest["times the control's"], f"{student}-{dearest.name}", low, high
)
lines = [
    chapter.told(
        "Trained for INT8", "within half a point of the control", in_points(eight),
        within(eight, -0.005, 0.005),
    ),
    chapter.told(
        "Trained for INT4", "half or more of the loss brought back",
        f"{in_points(back)}, where rounding afterwards made {in_points(lost)}; more than half by "
        f"{in_points(beyond)}",
        half_is_back if lost.high < 0 else None,  # else nothing was seen to be lost
    ),
    chapter.told(
        "Training and file", "the same label for 99.5 % or more", f"{least:.2f} %", bool(least >= 99.5)
    ),
    chapter.told(
        "A step", "up to twice as long",
        slower, None if low <= 2 < high else bool(high <= 2),
    ),
]  # fmt: skip
Markdown(
    "\n".join(lines)
    + f"\n\nAgainst the INT8 file of `{student}` without this chapter, training for INT8 has changed "
    f"macro-F1 by {in_points(found[to_untouched])} points, more epochs included. The verdict on C11 is "
    "this fold's alone; the report pools them all."
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

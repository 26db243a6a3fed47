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
# # 4. Is one byte a weight nearly free?
#
# Chapter 3 made models with fewer weights. This chapter keeps every weight and stores it in one
# byte instead of four. No training is involved: the finished teacher and its students are rounded
# to integers, written as ONNX, and run without torch. The seed study did the same in torch and
# reports a model 9.1 times smaller; we count the bytes of the file that would be shipped, and ask
# what the rounding costs on sentences that nobody trained on.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, the students of chapter 3 |
# | writes | an INT8 record for each of them, deployable folders, two reference rows |
# | takes | no training: exports, and each test sentence once for each model |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/04_quantization.ipynb)

# %% [markdown]
# ## What to expect
#
# - **Size.** Matrices go from 4 bytes to 1; biases, norms and the graph stay. Close to **4 times
#   smaller**, embeddings included, and never 9.1.
# - **Score.** Q8BERT (Zafrir et al. 2019) goes from 92.36 to 92.24 on SST-2 *with* training in
#   INT8. Rounding afterwards should cost more than that 0.1, and the claim on trial says that it
#   costs less than **half a point** of macro-F1 ("nearly free", C10).
# - **Answers.** Macro-F1 can stand still while answers change in both directions. We expect about
#   **one sentence in a hundred** to change its label, among those that were close calls.
#
# The control is the same FP32 model in the same runtime, scored in the same way, one sentence at a
# time. What differs from *it* is due to the rounding, not to the export.

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
import onnxruntime
import pandas as pd
import scipy.special
import torch
from IPython.display import Markdown

from headcount import bench, chapter, claims, export, models, plots, prune, quantize
from headcount.data import LABELS

# %% tags=["parameters"]
# where
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# fixed
students = [
    "student-hard",
    "student-kd",
    "student-hard-init",
    "student-kd-init",
    "student-small",
    "student-tiny",
]
probe_sentences = 200
errors_shown = 5

# %%
run = chapter.begin("04_quantization", globals())

# %%
parts = run.split()
teacher = run.load("teacher").cpu()
baseline = run.record("teacher")
assert models.weights_sha256(teacher) == baseline.weights_sha256
test_ids = run.tokenize(parts.test).input_ids
for row in parts.test.head(2).itertuples():
    print(f"{LABELS[row.label]:>8}  {row.text}")

# %%
variants = ["teacher", *(name for name in students if run.has(name))]
Markdown(
    f"{len(variants)} models to round, {len(parts.test):,} test sentences of fold {run.fold}. The "
    f"teacher's FP32 file has {baseline.size_mb:.1f} MB and a macro-F1 of {baseline.macro_f1:.3f}."
)

# %% [markdown]
# ## The idea, small: one row of one matrix
#
# Divide by a scale $s$, round, and keep the integer; multiply to read it back:
#
# $$q = \mathrm{round}(w / s), \qquad \hat w = s\,q, \qquad s = \max|w| / 127.$$
#
# The largest weight becomes ±127 and everything else finds its place on that ruler. Six weights of
# the first layer's query matrix:

# %%
layer = prune.attention_layers(teacher)[0]
weight = layer.query.weight.detach()
row = weight[0]
s = row.abs().max() / 127
q = torch.round(row / s)
pd.DataFrame({"w": row[:6], "q": q[:6].int(), "s q": s * q[:6], "error": s * q[:6] - row[:6]})

# %% [markdown]
# No error exceeds $s/2$: that is what rounding to the nearest means. All the weights of the matrix
# on the ruler of *one* scale:

# %%
assert (s * q - row).abs().max() <= 1.001 * s / 2
weights = pd.DataFrame({"weight": weight.flatten().numpy()})
run.figure(
    plots.weight_histogram(weights, title="Query weights of layer 0, one scale for the matrix"),
    "weights",
    "Histogram of the weights of one matrix on the 255 levels of a common scale",
    weights.sample(min(len(weights), 5000), random_state=0),
)

# %% [markdown]
# What to notice: how few weights the outer levels hold. The largest one, wherever it is, sets the
# scale for all. What the picture does not show: *where* the large ones are. If they sit in a few
# output rows, the other rows pay for them, and a scale for each row ("per channel") is better. It
# costs 4 bytes a row.

# %%
per_tensor = quantize.symmetric_scale(weight)
per_channel = quantize.symmetric_scale(weight, axis=0)
torch.testing.assert_close(per_channel[0, 0], s)
for name, scale in (("per tensor", per_tensor), ("per channel", per_channel)):
    back = quantize.dequantize(quantize.quantize(weight, scale), scale)
    print(
        f"{name:>11}: {scale.numel():4d} scales, relative error {quantize.error(weight, back):.2%}"
    )

# %% [markdown]
# One matrix could be an exception, so here are all of them. By hand, with two lines of arithmetic:


# %%
def relative_error(weight, axis):
    scale = quantize.symmetric_scale(weight, axis)
    return quantize.error(weight, quantize.dequantize(quantize.quantize(weight, scale), scale))


matrices = {
    name: module.weight.detach()
    for name, module in teacher.named_modules()
    if isinstance(module, torch.nn.Linear)
}
errors = pd.DataFrame(
    {
        "matrix": name,
        "per tensor": relative_error(matrix, None),
        "per channel": relative_error(matrix, 0),
    }
    for name, matrix in matrices.items()
)
run.table(errors, "matrix-errors")
errors.describe().loc[["min", "50%", "max"]].style.format("{:.2%}")

# %% [markdown]
# ## The library says the same
#
# `run.deploy` writes the FP32 model as ONNX, and has ONNX Runtime round it where asked. First the
# control: torch and ONNX Runtime must agree before anything is rounded.

# %%
onnx_folder = run.deploy("teacher-onnx", teacher, int8=False)
in_torch = run.predict(teacher, parts.test)
in_onnx = export.OnnxClassifier(onnx_folder, run.threads).logits(test_ids)
np.testing.assert_allclose(in_onnx, in_torch, atol=1e-3)
Markdown(f"Largest difference of a logit, FP32: {np.abs(in_onnx - in_torch).max():.1e}.")

# %%
int8_folder = run.deploy("teacher-int8", teacher, int8=True, onnx_file=onnx_folder / "model.onnx")
stored = export.constants(int8_folder / "model.onnx")

# %% [markdown]
# Now the integers in that file against ours, for the same matrix (ONNX keeps it transposed). A
# weight that falls exactly between two levels may go either way.

# %%
name = next(n for n, module in teacher.named_modules() if module is layer.query)
theirs = stored[f"{name}.weight.T_quantized"].T
ours = quantize.quantize(weight, per_channel).numpy()
np.testing.assert_allclose(stored[f"{name}.weight.T_scale"], per_channel[:, 0], rtol=1e-6)
assert theirs.dtype == np.int8
assert np.abs(theirs - ours).max() <= 1
assert (theirs != ours).sum() <= max(1, ours.size // 1000)
print(f"{theirs.size:,} integers, {(theirs != ours).sum()} of them off by one")

# %% [markdown]
# ## Predict the bytes, then count them
#
# Every entry of a matrix, embeddings included, takes 1 byte; every other parameter 4; every output
# row of a linear layer 4 more for its scale and 1 for its zero point. The rest is the graph.

# %%
in_matrices = sum(p.numel() for p in teacher.parameters() if p.ndim == 2)
scales = sum(len(matrix) for matrix in matrices.values())
predicted_mb = (in_matrices + 4 * (baseline.params - in_matrices) + 5 * scales) / 1e6
int8_mb = export.size_mb(int8_folder / "model.onnx")
Markdown(
    f"Predicted {predicted_mb:.2f} MB, counted **{int8_mb:.2f} MB**: the difference is the graph. "
    f"That is {baseline.size_mb / int8_mb:.2f} times smaller than the FP32 file."
)

# %% [markdown]
# What is stored as what, from the file itself:

# %%
kinds = pd.DataFrame({"type": str(c.dtype), "bytes": c.nbytes} for c in stored.values())
kinds = kinds.groupby("type")["bytes"].agg(["count", "sum"]).rename(columns={"sum": "bytes"})
kinds.sort_values("bytes", ascending=False).style.format("{:,}")

# %% [markdown]
# ## Activations are rounded while the model runs
#
# An integer product needs integers on both sides. The input of every linear layer is therefore
# rounded, too, to 0..255, with a scale and a zero point taken from *that tensor at that moment*:
# this is what "dynamic" means. It has a consequence that is easily overlooked. In a batch, the
# tensor contains the neighbours and their padding, and a sentence's result depends on them. The
# same sentences, alone and in padded batches:

# %%
int8 = export.OnnxClassifier(int8_folder, run.threads)
probe = run.tokenize(parts.validation.head(probe_sentences)).input_ids
alone = int8.logits(probe)
together = np.concatenate(
    [int8.run(*bench.pad(probe[i : i + 32])) for i in range(0, len(probe), 32)]
)
Markdown(
    f"Of {len(probe)} validation sentences, {(alone.argmax(1) != together.argmax(1)).sum()} change "
    f"their label when they are scored in batches of 32; the largest change of a logit is "
    f"{np.abs(alone - together).max():.2g}. So everything below is scored one sentence at a time."
)

# %% [markdown]
# ## An attempt to break it: which processor?
#
# On x86 processors without VNNI, ONNX Runtime's fast kernel adds pairs of products in 16 bits:
# up to 2 · 255 · 127 = 64,770, where 32,767 fits. It saturates and says nothing. Our folders ask for
# the exact kernel there (`session.x64quantprecision`). Without that wish:

# %%
as_is = onnxruntime.InferenceSession(int8_folder / "model.onnx")
rows = [np.array([ids]) for ids in probe]
fast = np.concatenate(
    [as_is.run(None, {"input_ids": x, "attention_mask": np.ones_like(x)})[0] for x in rows]
)
flags = bench.cpu()[1]
Markdown(
    f"This processor has {'VNNI' if any('vnni' in flag for flag in flags) else 'no VNNI'}. Between "
    f"the kernels, the largest difference of a logit is {np.abs(fast - alone).max():.2g}, and "
    f"{(fast.argmax(1) != alone.argmax(1)).sum()} of {len(probe)} labels differ. Results in INT8 "
    "belong to a kernel, so the processor's flags are part of every record."
)

# %% [markdown]
# ## Every model
#
# The FP32 control is recorded first, then each model's INT8 version against its own FP32 record.


# %%
def sizes_of(variant):
    """What rounding leaves as it was."""
    fields = {"params", "nonzero_params", "heads_alive", "heads_total", "layers", "macs"}
    return run.record(variant).model_dump(include=fields)


run.score(
    "teacher-onnx",
    in_onnx,
    parts.test,
    folder=onnx_folder,
    sizes=sizes_of("teacher"),
    baseline="teacher",
    runtime="onnxruntime",
).macro_f1

# %%
fp32, int8_logits = {"teacher": in_torch}, {"teacher": int8.logits(test_ids)}
for variant in variants[1:]:
    student = run.load(variant).cpu()
    folder = run.deploy(f"{variant}-int8", student, int8=True)
    fp32[variant] = run.predict(student, parts.test)
    int8_logits[variant] = export.OnnxClassifier(folder, run.threads).logits(test_ids)

# %%
for variant in variants:
    run.score(
        f"{variant}-int8",
        int8_logits[variant],
        parts.test,
        folder=run.model_folder(f"{variant}-int8"),
        sizes=sizes_of(variant),
        baseline=variant,
        runtime="onnxruntime",
        precision="int8",
    )

# %% [markdown]
# ### The seed study's way
#
# `torch.ao` quantises linear layers alone, with one scale a matrix, and leaves the embeddings in
# FP32. It is deprecated, and here for one reason: the 9.1. That number came from adding up the
# model's *parameters*. Packed INT8 weights are not parameters in torch, so the sum leaves out
# exactly what was compressed.

# %%
ao = quantize.torch_dynamic(teacher)
parameters_mb = sum(4 * p.numel() for p in ao.parameters()) / 1e6
ao_mb = quantize.serialized_mb(ao)
score_ao = bench.torch_scorer(ao, run.threads)
ao_logits = np.concatenate([score_ao(*batch).numpy() for batch in bench.singles(test_ids)])
run.score(
    "teacher-torch-int8",
    ao_logits,
    parts.test,
    size_mb=ao_mb,
    sizes=sizes_of("teacher"),
    baseline="teacher",
    runtime="torch.ao",
    precision="int8",
)
Markdown(
    f"Adding up parameters gives {parameters_mb:.1f} MB, “{baseline.size_mb / parameters_mb:.1f} "
    f"times smaller”. The serialised file has **{ao_mb:.1f} MB**, "
    f"{baseline.size_mb / ao_mb:.1f} times smaller, most of it embeddings."
)

# %% [markdown]
# ## What came out

# %%
rows = []
for variant in variants:
    before, after = run.record(variant), run.record(f"{variant}-int8")
    flipped = fp32[variant].argmax(1) != int8_logits[variant].argmax(1)
    rows.append(
        {
            "variant": variant,
            "FP32 MB": before.size_mb,
            "INT8 MB": after.size_mb,
            "times smaller": before.size_mb / after.size_mb,
            "FP32 macro-F1": before.macro_f1,
            "INT8 macro-F1": after.macro_f1,
            "changed labels": int(flipped.sum()),
            "changed, %": 100 * flipped.mean(),
        }
    )
outcome = pd.DataFrame(rows)
run.table(outcome, "outcome")
outcome.round(3)

# %%
found, contrasts = {}, []
for variant in [*(f"{name}-int8" for name in variants), "teacher-torch-int8"]:
    against = run.record(variant).baseline
    found[variant] = d = run.contrast(variant, against)
    contrasts.append(
        {
            "variant": variant,
            "baseline": against,
            "diff": d.diff,
            "diff_low": d.low,
            "diff_high": d.high,
            "p": d.p,
            "margin": claims.BY_ID["C10"].margin,
        }
    )
contrasts = pd.DataFrame(contrasts)
run.table(contrasts, "contrasts")
run.figure(
    plots.differences(contrasts, title=f"INT8 minus FP32, fold {run.fold}"),
    "contrasts",
    "Paired differences in macro-F1 between each INT8 model and its FP32 model, with intervals",
    contrasts,
)

# %% [markdown]
# What to notice: how long the intervals are compared with the half point (dotted) that the claim is
# about. What the figure does not show: whether the same sentences change in every model; and it is
# one fold, where the report pools them all.
#
# ## Which sentences change?
#
# If rounding is noise, it tips over those that were close to the edge. The margin of a sentence is
# the gap between its two largest FP32 probabilities.


# %%
def margin(logits):
    top = np.sort(scipy.special.softmax(logits.astype(float), axis=1), axis=1)
    return top[:, -1] - top[:, -2]


margins = []
for variant in variants:
    gap = margin(fp32[variant])
    flipped = fp32[variant].argmax(1) != int8_logits[variant].argmax(1)
    kept = np.median(gap[~flipped])
    changed = np.median(gap[flipped]) if flipped.any() else np.nan
    margins.append({"variant": variant, "same label": kept, "changed label": changed})
margins = pd.DataFrame(margins)
run.table(margins, "margins")
margins.round(3)

# %% [markdown]
# Median margins, and the teacher's own changed sentences:

# %%
changed = np.flatnonzero(in_torch.argmax(1) != int8_logits["teacher"].argmax(1))
for i in changed[:errors_shown]:
    sentence = parts.test.iloc[i]
    was, now = LABELS[in_torch[i].argmax()], LABELS[int8_logits["teacher"][i].argmax()]
    print(f"[{sentence['source']}] {was} -> {now}, labelled {LABELS[sentence['label']]}")
    print(f"    {sentence['text']}\n")
print(f"{len(changed)} changed in all")

# %% [markdown]
# ## Something to deploy
#
# Each INT8 folder holds the model, its tokenizer, its label names and a script that needs neither
# torch nor transformers. Its README gets the figures that were just measured.

# %%
for variant in variants:
    run.describe(f"{variant}-int8", int8_logits[variant], run.record(variant))
print((int8_folder / "README.md").read_text(encoding="utf-8")[:900])

# %%
sentences = [parts.test["text"].iloc[0], "", "profit " * 1000]
for text, logits in zip(sentences, int8.logits(sentences), strict=True):
    print(f"{LABELS[logits.argmax()]:>8}  {text[:70]!r}")

# %% [markdown]
# An empty sentence gets an answer too, and one of a thousand words is cut: neither stops a batch.
#
# ## The answer

# %%
first, result = contrasts.iloc[0], outcome.iloc[0]
verdict = run.verdict("C10", found["teacher-int8"])

# %%
Markdown(
    f"We expected close to 4 times smaller, less than half a point lost, and one label in a hundred "
    f"changed. On fold {run.fold} the teacher's file is {result['times smaller']:.2f} times smaller, "
    f"macro-F1 changes by {100 * first['diff']:+.2f} points (95 % interval "
    f"{100 * first['diff_low']:+.2f} to {100 * first['diff_high']:+.2f}), and "
    f"{result['changed, %']:.1f} in a hundred labels change. The claim “nearly free” (C10, margin "
    f"−0.5 points) is, on this fold alone, **{verdict}**; the report decides it over all folds."
)

# %% [markdown]
# Do not round where a result must be the same on every machine and in every batch: FP32 is so but
# for the last digits, INT8 only where kernel and batching are fixed. And do not expect speed from
# the size alone; whether one byte a weight is also faster is for the ruler of chapter 7 to say.
#
# **Next:** all these models still have every attention head. Chapter 5 asks which of them matter.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Zafrir, Boudoukh, Izsak and Wasserblat (2019). Q8BERT: Quantized 8Bit BERT. arXiv:1910.06188.
# - Jacob et al. (2018). Quantization and training of neural networks for efficient
#   integer-arithmetic-only inference. arXiv:1712.05877.
# - ONNX Runtime, *Quantize ONNX models*: dynamic quantisation, and U8S8 saturation on x86.

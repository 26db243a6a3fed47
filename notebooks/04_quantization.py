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
# byte instead of four, or in half a byte. No training is involved: the finished teacher and its
# students are rounded to integers, written as ONNX, and run without torch. Where words are dropped
# that the domain does not use, the smallest of them fits into a few megabytes. The seed study
# quantised its weaker student in torch and reports a model 9.1 times smaller than its teacher; we
# count the bytes of the file that would be shipped, and ask what the rounding costs on sentences
# that nobody trained on.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, the students of chapter 3 |
# | writes | an INT8 record for each of them, INT4 and a smaller vocabulary for some, deployable folders, a sweep over the teacher's modules |
# | takes | no training: exports, and each test sentence once for each model and each module of the teacher; some fifteen minutes on 2 cores |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/04_quantization.ipynb)

# %% [markdown]
# ## What to expect
#
# - **Size.** Matrices go from 4 bytes to 1; biases, norms and the graph stay. Close to **4 times
#   smaller**, embeddings included: the teacher in under 24 MB, `student-small` with fewer words in
#   **under 10 MB**. The file, the memory that holds it and the bytes counted from parameters tell one
#   story, **within 2 %** of each other once everything in them is named (C14b). The seed study's 9.1
#   comes from another count, which should miss the model's own file by **more than that** (C14a).
# - **Score.** Q8BERT (Zafrir et al. 2019) goes from 92.36 to 92.24 on SST-2 *with* training in
#   INT8. Rounding afterwards should cost more than that 0.1, and the claim on trial says that it
#   costs less than **half a point** of macro-F1 ("nearly free", C10). With 16 levels instead of 255
#   we expect **a point** at most, since every 32 weights have a scale of their own. **Most** of what
#   INT8 loses should be lost to the activations: they have one scale for a whole sentence.
# - **Ends.** Put into INT4 alone, embeddings and classifier are said to lose more than the mean of the
#   other modules (C12). We expect **a point** at most from any module.
# - **Answers.** Macro-F1 can stand still while answers change in both directions. We expect about
#   **one sentence in a hundred** to change its label, among those that were close calls.
# - **Words.** Of the vocabulary's pieces a domain needs **fewer than half**. Dropping the others
#   should cost **less than a point**, INT8 included. With the table of those that are left in INT4,
#   the file should be **10 times smaller** than the teacher's in FP32, still **within a point** of the
#   FP32 student: nothing is multiplied with that table.
#
# Each rounded model is compared with its own FP32 record. The control is its FP32 export in the same
# runtime, one sentence at a time: it agrees with that record to a thousandth of a logit, for every
# model, or the chapter stops. So what differs is due to the rounding, not to the export.

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
import scipy.special
import torch
from IPython.display import Markdown, display

from headcount import (
    bench,
    chapter,
    claims,
    curves,
    export,
    models,
    plots,
    prune,
    quantize,
    records,
    shipped,
    sizes,
    stats,
    vocabulary,
)
from headcount.chapter import all_above, in_points, within
from headcount.data import LABELS
from headcount.errors import InputError

# %% tags=["parameters"]
# where
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# Studied
few_bits = ["teacher", "student-small"]  # rounded in other ways, too
trimmed = "student-small"  # and gets a smaller vocabulary
trimmed_besides = ["student-tiny"]  # so do these
# Fixed
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
left = records.read(run.work, fold=run.fold, seed=run.seed)
variants = ["teacher", *(r.variant for r in left if r.chapter == "03_distillation")]
few_bits = [variant for variant in few_bits if variant in variants]
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
# A ruler that is symmetric about 0 wastes levels on values that lie on one side of it. For those
# there is a zero point $z$ besides, the integer that stands for 0, and all of 0 to 255:
#
# $$q = \mathrm{round}(x / s) + z, \qquad \hat x = s\,(q - z), \qquad
# s = \frac{\max x - \min x}{255}, \qquad z = \mathrm{round}(-\min x / s).$$
#
# ONNX Runtime stores embedding tables so, and rounds activations so. By hand, for the word embeddings:

# %%
table = teacher.get_input_embeddings().weight.detach()
step = (table.max() - table.min()) / 255
zero = torch.round(-table.min() / step)
for by_hand, library in zip((step, zero), quantize.asymmetric_scale(table), strict=True):
    torch.testing.assert_close(by_hand, library)
print(f"from {table.min():.3f} to {table.max():.3f}: s = {step:.5f}, z = {zero:.0f}")

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
# `run.ship` writes a model as ONNX, has ONNX Runtime round it where asked, and records what the file
# answers. First the control: torch and ONNX Runtime must agree before anything is rounded.

# %%
in_torch = run.predict(teacher, parts.test)
in_onnx = run.ship("teacher-onnx", teacher, "fp32", baseline="teacher")
onnx_folder = run.model_folder("teacher-onnx")
np.testing.assert_allclose(in_onnx, in_torch, atol=1e-3)
Markdown(f"Largest difference of a logit, FP32: {np.abs(in_onnx - in_torch).max():.1e}.")

# %%
exports = {"teacher": onnx_folder / "model.onnx"}
in_int8 = run.ship(
    "teacher-int8", teacher, "int8", baseline="teacher", onnx_file=exports["teacher"]
)
int8_folder = run.model_folder("teacher-int8")
stored = export.constants(int8_folder / "model.onnx")
words = f"{teacher.base_model_prefix}.embeddings.word_embeddings.weight"
np.testing.assert_allclose(stored[f"{words}_scale"], step, rtol=1e-6)
assert stored[f"{words}_zero_point"] == zero

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
# row of a linear layer 4 more for its scale and 1 for its zero point. The rest is the graph. By
# hand, and by the library:

# %%
in_matrices = sum(p.numel() for p in teacher.parameters() if p.ndim == 2)
tables = sum(isinstance(module, torch.nn.Embedding) for module in teacher.modules())
rows_of_linear = sum(len(matrix) for matrix in matrices.values())
by_hand = in_matrices + 4 * (baseline.params - in_matrices) + 5 * (rows_of_linear + tables)
assert by_hand == quantize.simulated_bytes(teacher, quantize.deployed())
int8_mb = export.size_mb(int8_folder / "model.onnx")
Markdown(
    f"Predicted {by_hand / 1e6:.2f} MB, counted **{int8_mb:.2f} MB**: the difference is the graph. "
    f"That is {baseline.size_mb / int8_mb:.2f} times smaller than the FP32 file."
)

# %% [markdown]
# ### Three ways of telling a size
#
# Bytes *counted* from parameters, bytes in the *file*, bytes *resident* in the memory of a process that
# holds the model: the seed study adds up one, ships the second, and its readers pay for the third. They
# differ, and every difference has a name: constants that belong to the graph, the graph itself, what the
# runtime makes of it (measured on a twin with the same operators and hardly any weights), pages that
# are partly free. The libraries, the runtime's own memory and the activations are left out here; the
# ruler of chapter 7 has them.

# %%
ways = {}
for name, folder in (("FP32", onnx_folder), ("INT8", int8_folder)) if sizes.measurable() else ():
    ways[name] = sizes.told(folder, teacher, run.tokenizer())
    run.table(ways[name], f"sizes-{name.lower()}")
    display(ways[name].style.format(precision=2, na_rep="").hide(axis="index").set_caption(name))

# %%
text = (
    "What is resident can be measured on Linux with the GNU C library, and this is another system."
)
if ways:
    totals = {name: table.set_index("part").loc["total"] for name, table in ways.items()}
    smaller_by = (totals["FP32"] / totals["INT8"]).round(2)
    shares = [share for table in ways.values() for share in sizes.unexplained(table).values()]
    left_open, n = max(shares), len(shares)
    if run.fold == 0:  # shapes are the same in every fold
        run.finding(
            "C14b", stats.Difference(left_open, left_open, left_open, p=np.nan, n=n, groups=n),
            variant="largest share of file or memory, FP32 and INT8, that nothing explains",
            baseline="none", unit="%", n_unit="totals",
        )  # fmt: skip
    text = (
        f"From FP32 to INT8 the teacher becomes {smaller_by['counted_mb']:.2f} times smaller as counted, "
        f"{smaller_by['file_mb']:.2f} times in its file, and {smaller_by['resident_mb']:.2f} times in "
        f"memory. What no line explains is {left_open:.1%} of a total at most."
    )
Markdown(text)

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
# ## An attempt to break it: sixteen bits
#
# On x86 processors without VNNI, ONNX Runtime's fast kernel multiplies two inputs with two weights and
# adds the products in 16 bits: up to 2 · 255 · 127 = 64,770, where 32,767 fits. It saturates and says
# nothing. Our folders ask for the exact kernel there (`session.x64quantprecision`). The usual way out
# costs half the resolution: weights of 7 bits (`reduce_range`), since 2 · 255 · 64 = 32,640 fits.
#
# What the fast kernel would do can be computed on any processor. Here are all linear layers of the
# teacher, each with its real weights and the real inputs of one sentence:


# %%
def in_16_bits(codes, weights):
    """Integers (t, in) times (in, out) with each pair of terms cut to 16 bits; how many pairs were."""
    product, cut = [], 0
    for row in codes[:, :, None]:  # one token at a time, to save memory
        pairs = row[0::2] * weights[0::2] + row[1::2] * weights[1::2]
        fitting = pairs.clip(-(2**15), 2**15 - 1)
        cut += int((fitting != pairs).sum())
        product.append(fitting.sum(0))
    return np.array(product), cut


inputs = {}
hooks = [
    teacher.get_submodule(name).register_forward_hook(
        lambda _, given, __, name=name: inputs.update({name: given[0].detach().flatten(0, -2)})
    )
    for name in matrices
]
with torch.no_grad():
    teacher(input_ids=torch.tensor([probe[0]]))
for hook in hooks:
    hook.remove()

rows = []
for name, x in inputs.items():
    matrix = matrices[name]
    x_scale, x_zero = quantize.asymmetric_scale(x)
    codes = quantize.quantize(x, x_scale, x_zero, 0, 255).numpy().astype(np.int32)
    row = {"matrix": name, "pairs": codes.size // 2 * len(matrix)}
    for bits, top in ((8, 127), (7, 64)):
        scale = matrix.abs().amax(1) / top
        weights = torch.round(matrix / scale[:, None]).numpy().astype(np.int32).T
        fast, row[f"cut, {bits} bits"] = in_16_bits(codes, weights)
        for kernel, product in (("exact", codes @ weights), ("fast", fast)):
            back = x_scale * scale * torch.from_numpy(product - int(x_zero) * weights.sum(0))
            row[f"error, {bits} bits, {kernel}"] = quantize.error(x @ matrix.T, back)
    assert row["cut, 7 bits"] == 0
    rows.append(row)
cuts = pd.DataFrame(rows)
run.table(cuts, "sixteen-bits")
as_percent = {name: "{:.2%}" for name in cuts if name.startswith("error")}
cuts.nlargest(5, "cut, 8 bits").style.format({"pairs": "{:,}"} | as_percent).hide(axis="index")

# %%
worst = cuts.loc[(cuts["error, 8 bits, fast"] - cuts["error, 8 bits, exact"]).idxmax()]
middle = cuts[["error, 8 bits, exact", "error, 7 bits, exact"]].median()
Markdown(
    f"Of {cuts['pairs'].sum():,} pairs {cuts['cut, 8 bits'].sum():,} do not fit, in "
    f"{(cuts['cut, 8 bits'] > 0).sum()} of {len(cuts)} products. "
    + (
        f"The most is lost in `{worst['matrix']}`: its relative error is "
        f"{worst['error, 8 bits, exact']:.1%} with exact sums and {worst['error, 8 bits, fast']:.1%} "
        f"with those that are cut. With weights of 7 bits it is {worst['error, 7 bits, exact']:.1%}. "
        if worst["cut, 8 bits"]
        else "Nothing would be lost on this sentence. "
    )
    + f"Seven bits move the median product's error from {middle.iloc[0]:.1%} to {middle.iloc[1]:.1%}. "
    "What this does not say: what such errors do to an answer. Each product had exact inputs here, and "
    "it is one sentence."
)

# %% [markdown]
# So the teacher's file once more, in a session that asks for nothing, as a user may open one, on the
# processor that runs this chapter:

# %%
in_session = bench.load_plain_session(int8_folder, run.threads)
in_plain = np.concatenate([in_session(*batch) for batch in bench.singles(test_ids)])
labels, exact, plain = parts.test["label"].to_numpy(), in_int8.argmax(1), in_plain.argmax(1)
d = stats.paired_difference(labels, plain, exact, parts.test["group"].to_numpy())
Markdown(
    f"Of {len(labels):,} labels {(plain != exact).sum()} are others than the shipped script's, logits "
    f"differ by {np.abs(in_plain - in_int8).max():.2g} at most, macro-F1 by {in_points(d)} points. "
    + (
        "This processor's fast kernel adds in 32 bits. On one that does not, that session would cut "
        "its sums"
        if bench.exact_int8()
        else "This processor has no VNNI, and that session takes the kernel that cuts its sums; how "
        "much time that saves is told in chapter 7"
    )
    + ". Elsewhere in this chapter nothing is cut. Results in INT8 belong to a kernel, so the "
    "processor's flags are part of every record."
)

# %% [markdown]
# ## Every model
#
# The students as the teacher: the control is exported first, and held against the FP32 model in
# torch; then the INT8 version is recorded against it.

# %%
fp32, logits = {"teacher": in_torch}, {"teacher-int8": in_int8}
for variant in variants[1:]:
    model = run.load(variant)
    fp32[variant] = run.predict(model, parts.test)
    folder = run.deploy(f"{variant}-onnx", model)
    control = export.OnnxClassifier(folder, run.threads).logits(test_ids)
    np.testing.assert_allclose(control, fp32[variant], atol=1e-3)
    exports[variant] = folder / "model.onnx"
    logits[f"{variant}-int8"] = run.ship(
        f"{variant}-int8", model, "int8", baseline=variant, onnx_file=exports[variant]
    )

# %% [markdown]
# ### Fewer bits, and fewer things rounded
#
# Is it the weights or the activations that suffer? In `-int8-weights` the same integers are
# multiplied with activations in FP32. In `-int4` weights have 16 levels, and every 32 of them that
# are multiplied with neighbouring inputs share a scale; activations stay in FP32, embeddings in INT8. All
# students are asked about the weights; about four bits, two models.

# %%
for variant in variants:
    model, file = run.load(variant), exports[variant]
    for precision in ("int8-weights", "int4") if variant in few_bits else ("int8-weights",):
        name = f"{variant}-{precision}"
        logits[name] = run.ship(name, model, precision, baseline=variant, onnx_file=file)

# %% [markdown]
# ### Fewer words
#
# Much of a small student is its table of word pieces, and most of these may never occur in financial
# news. Kept are the pieces of this fold's training part and of PhraseBank's sentences below full
# agreement that are near no labelled one, and every single character: any other word falls into
# shorter pieces, and is unknown only where it holds a character that the old vocabulary lacked. No
# piece is kept because of a sentence of the validation or test part. Positions beyond the greatest
# length that the study reads go, too.
#
# The words that are left are still a large part of an INT8 file, and nothing is multiplied with them: a
# row is looked up and made FP32. In `-int8-e4` (Shen et al. 2020 call the bits of embeddings so) the
# tables have 4 bits, every 32 dimensions of a token share a scale, and all else is as in `-int8`, the
# kernels of the products included. It joined the study when the INT8 file was found less than 10 times
# smaller than the teacher's: bytes were counted. What INT4 does to a teacher's tables on fold 0 (below,
# one module at a time) was known by then; no answer of this variant to a test sentence was.


# %%
def with_fewer_words(variant):
    """Record a model with fewer words, in FP32, INT8 and INT4 tables; return it, and its tokenizer."""
    name = f"{variant}-trimmed"
    model, pieces = vocabulary.trim(run.load(variant), run.tokenizer(), run.domain_texts())
    model = vocabulary.cut_positions(model, run.facts["max_length"])
    folder = run.save(name, model, pieces)
    fp32[name] = run.predict(model, parts.test, pieces)
    run.score(name, fp32[name], parts.test, model=model, folder=folder, baseline=variant)
    folder = run.deploy(f"{name}-onnx", model, tokenizer=pieces)
    ids = run.tokenize(parts.test, pieces).input_ids
    control = export.OnnxClassifier(folder, run.threads).logits(ids)
    np.testing.assert_allclose(control, fp32[name], atol=1e-3)
    for precision in ("int8", "int8-e4"):
        logits[f"{name}-{precision}"] = run.ship(
            f"{name}-{precision}", model, precision, baseline=name, tokenizer=pieces,
            onnx_file=folder / "model.onnx",
        )  # fmt: skip
    return model, pieces


with_fewer = {
    variant: with_fewer_words(variant)
    for variant in dict.fromkeys([trimmed, *trimmed_besides])
    if variant in variants
}
model, smaller = with_fewer.get(trimmed, (None, None))

# %%
text = f"There is no `{trimmed}` in this study."
if smaller is not None:
    whole, name = run.load(trimmed), f"{trimmed}-trimmed-int8"
    known = parts.train.head(500)
    ours, theirs = run.tokenize(known, smaller), run.tokenize(known)
    assert [*map(len, ours.input_ids)] == [*map(len, theirs.input_ids)]
    again, before = run.predict(model, known, smaller), run.predict(whole.cpu(), known)
    np.testing.assert_allclose(again, before, atol=1e-4)
    told = vocabulary.compare(run.tokenizer(), smaller, parts.test["text"])
    words_mb = 4 * whole.get_input_embeddings().weight.numel() / 1e6
    trimmed_mb = run.record(name).size_mb
    used = {i for ids in smaller(run.domain_texts()).input_ids for i in ids}
    spare = [
        piece
        for piece, i in smaller.get_vocab().items()
        if i not in used and len(piece.removeprefix("##")) == 1
    ]
    spare_mb = len(spare) * model.get_input_embeddings().embedding_dim / 1e6  # a byte each
    folder_mb = sum(file.stat().st_size for file in run.model_folder(name).iterdir()) / 1e6
    text = (
        f"The word pieces are {words_mb / run.record(trimmed).size_mb:.0%} of `{trimmed}`. "
        f"{told['pieces_before']:,.0f} of them become {told['pieces_after']:,.0f}, and the INT8 file of "
        f"{run.record(f'{trimmed}-int8').size_mb:.2f} MB becomes one of "
        f"**{trimmed_mb:.2f} MB**, {abs(10 - trimmed_mb):.2f} MB ({abs(1 - trimmed_mb / 10):.1%}) "
        f"{'below' if trimmed_mb < 10 else 'above'} the aim of 10 MB, which is of the model's file: with the "
        f"tokenizer's, the script and what describes it the folder has {folder_mb:.2f} MB. In reserve are {len(spare):,} of the "
        f"pieces, {spare_mb:.2f} MB: single characters that the domain's texts do not use, kept so that "
        "every other text stays readable. Sentences of the training part keep their tokens and "
        f"their logits (checked for {len(known)}). Of the test part's tokens {told['changed']:.1%} stand "
        f"in words that now fall into shorter pieces, and a sentence has {told['tokens_after']:.1f} "
        f"tokens instead of {told['tokens_before']:.1f}."
    )
    four = f"{name}-e4"
    expected_mb = quantize.simulated_bytes(model, quantize.deployed(embedding_bits=4)) / 1e6
    four_mb = run.record(four).size_mb
    differ = int((logits[four].argmax(1) != logits[name].argmax(1)).sum())
    text += (
        f"\n\nWith tables of 4 bits and their scales we count {expected_mb:.2f} MB without the graph; the file has "
        f"**{four_mb:.2f} MB** and is {baseline.size_mb / four_mb:.2f} times smaller than the teacher's in "
        f"FP32. Of {len(parts.test):,} labels {differ} differ from `{name}`'s."
    )
Markdown(text)

# %% [markdown]
# Words that the study's sentences may not have, before and after:

# %%
if smaller is not None:
    for text in ("Blockchain startups blossomed.", "Ein Gewinnsprung für Škoda", "利益"):
        print(" ".join(run.tokenizer().tokenize(text)), "|", " ".join(smaller.tokenize(text)))

# %% [markdown]
# ### The seed study's way
#
# `torch.ao` quantises linear layers alone, with one scale a matrix, and leaves the embeddings in
# FP32. It is deprecated, and here for one reason: the 9.1. That number came from adding up the
# model's *parameters*. Packed INT8 weights are not parameters in torch, so the sum leaves out
# exactly what was compressed.

# %%
ao = quantize.torch_dynamic(teacher)
score_ao = bench.torch_scorer(ao, run.threads)
ao_logits = np.concatenate([score_ao(*batch).numpy() for batch in bench.singles(test_ids)])
logits["teacher-torch-int8"] = ao_logits
run.score(
    "teacher-torch-int8", ao_logits, parts.test, size_mb=quantize.serialized_mb(ao),
    sizes=models.sizes(teacher) | {"macs": baseline.macs}, baseline="teacher",
    runtime="torch.ao", precision="int8",
).macro_f1  # fmt: skip


# %%
def seed_way(variant):
    """Megabytes of a model in torch.ao's INT8: its parameters added up, and its file."""
    rounded = quantize.torch_dynamic(run.load(variant))
    added = sum(4 * p.numel() for p in rounded.parameters()) / 1e6
    return {"variant": variant, "added up, MB": added, "file, MB": quantize.serialized_mb(rounded)}


# `student-kd` has the shape of the seed study's student.
counts = pd.DataFrame([seed_way(v) for v in ("teacher", "student-kd") if run.has(v)])
with torch.device("meta"):  # FinBERT's shape: its bytes, without its weights
    finbert = models.student(run.tokenizer().vocab_size, 12, 768, 12, 3072)
finbert_mb = 4 * sum(p.numel() for p in finbert.parameters()) / 1e6
for way in ("added up", "file"):
    counts[f"this teacher over it, {way}"] = baseline.size_mb / counts[f"{way}, MB"]
    counts[f"FinBERT over it, {way}"] = finbert_mb / counts[f"{way}, MB"]
run.table(counts, "added-up")
counts.round(2)

# %%
last = counts.iloc[-1]
short = last["added up, MB"] / last["file, MB"] - 1
if run.fold == 0:  # a count, the same in every fold
    run.finding(
        "C14a", stats.Difference(short, short, short, p=np.nan, n=1, groups=1),
        variant=f"{last['variant']} in torch.ao's INT8, parameters added up", baseline="its file",
        unit="%", n_unit="models",
    )  # fmt: skip
Markdown(
    f"By adding up parameters, `{last['variant']}` is {last['FinBERT over it, added up']:.1f} times "
    f"smaller than a teacher of FinBERT's size in FP32 (the seed study's was such a teacher); by its own "
    f"file {last['FinBERT over it, file']:.1f} times. The sum is {-100 * short:.1f} % short: it has the embeddings and leaves out the integers."
)

# %% [markdown]
# ## What came out

# %%
twins = {name: run.record(name).baseline for name in logits}
rows = []
for name, twin in twins.items():
    before, after = run.record(twin), run.record(name)
    flipped = fp32[twin].argmax(1) != logits[name].argmax(1)
    rows.append(
        {
            "variant": name,
            "FP32 MB": before.size_mb,
            "MB": after.size_mb,
            "times smaller": before.size_mb / after.size_mb,
            "FP32 macro-F1": before.macro_f1,
            "macro-F1": after.macro_f1,
            "FP32 ECE": before.ece,
            "ECE": after.ece,
            "changed labels": int(flipped.sum()),
            "changed, %": 100 * flipped.mean(),
        }
    )
outcome = pd.DataFrame(rows)
run.table(outcome, "outcome")
outcome.round(3)

# %%
halves = [(f"{v}-int8", f"{v}-int8-weights") for v in variants]
words = [(f"{v}-trimmed{end}", v) for v in with_fewer for end in ("", "-int8", "-int8-e4")]
found = {pair: run.contrast(*pair) for pair in [*twins.items(), *halves, *words]}
contrasts = chapter.contrast_table(found).assign(margin=claims.BY_ID["C10"].margin)
run.table(contrasts, "contrasts")
rounding = contrasts.iloc[: len(twins)]
rounding = rounding[[twins[v] in few_bits or not v.endswith("-weights") for v in twins]]
run.figure(
    plots.differences(rounding, title=f"Rounded minus FP32, fold {run.fold}"),
    "contrasts",
    "Paired differences in macro-F1 between each rounded model and its FP32 model, with intervals; "
    f"weights alone only for {' and '.join(few_bits)}",
    rounding,
)

# %%
still = [n for n, twin in twins.items() if (fp32[twin].argmax(1) == logits[n].argmax(1)).all()]
limit = 3 / len(parts.test)
Markdown(
    f"Without a single changed label: {', '.join(f'`{name}`' for name in still) or 'none'}."
    + (f" Their intervals have no width; what can be said is that fewer than about {limit:.1%} of such "
       "sentences would change (three in n)." if still else "")
)  # fmt: skip

# %% [markdown]
# What to notice: how long the intervals are compared with the half point (dotted) that the claim is
# about. What the figure does not show: whether the same sentences change in every model; and it is
# one fold, where the report pools them all.
#
# Weights or activations? Macro-F1 lost from FP32 to rounded weights, and from there to activations that
# are rounded as well:

# %%
activations_over_weights = {}
for variant in few_bits:
    steps = {
        "fp32": fp32[variant],
        "weights": logits[f"{variant}-int8-weights"],
        "both": logits[f"{variant}-int8"],
    }
    guesses = parts.test[["group", "label"]].assign(**{k: g.argmax(1) for k, g in steps.items()})
    activations_over_weights[variant] = curves.contrast(
        guesses, lambda f1: (f1["weights"] - f1["both"]) - (f1["fp32"] - f1["weights"])
    )
Markdown(
    "Points lost to activations minus points lost to weights: "
    + "; ".join(f"`{name}` {in_points(d)}" for name, d in activations_over_weights.items())
    + "."
)

# %% [markdown]
# The losses themselves, and what fewer words cost, in FP32 and together with INT8:

# %%
others = contrasts.iloc[len(twins) :]
run.figure(
    plots.differences(others, title=f"Activations, and words, fold {run.fold}"),
    "activations-and-words",
    "Paired differences in macro-F1: INT8 with rounded activations minus INT8 weights alone, and "
    "models with fewer words minus those with all, in FP32, INT8 and INT8 with tables in INT4",
    others,
)

# %% [markdown]
# What to compare: the first lines with zero. They have the same integers and differ in what these are
# multiplied with. What the figure does not show: the words that a user's sentences have and ours have
# not; chapter 7b has sentences of another domain.
#
# ## Which sentences change?
#
# If rounding is noise, it tips over those that were close to the edge. The margin of a sentence is
# the gap between its two largest FP32 probabilities.


# %%
def probabilities(logits):
    """Softmax in float64, (n, 3)."""
    return scipy.special.softmax(np.asarray(logits, dtype=float), axis=1)


margins = []
for name, twin in twins.items():
    top = np.sort(probabilities(fp32[twin]), axis=1)
    gap = top[:, -1] - top[:, -2]
    flipped = fp32[twin].argmax(1) != logits[name].argmax(1)
    medians = [np.median(gap[some]) if some.any() else np.nan for some in (~flipped, flipped)]
    margins.append((name, *medians, int(flipped.sum())))
columns = ["variant", "median margin, same label", "changed label", "changed labels"]
margins = pd.DataFrame(margins, columns=columns)
run.table(margins, "margins")
margins.round(3)

# %% [markdown]
# For the teacher in INT8, by the class that FP32 had given, and by how sure it had been:

# %%
was, now = in_torch.argmax(1), logits["teacher-int8"].argmax(1)
moves = pd.DataFrame({"FP32 said": np.array(LABELS)[was], "changed": was != now})
for k, label in enumerate(LABELS):
    moves[f"to {label}"] = (was != now) & (now == k)
by_class = moves.groupby("FP32 said").sum().assign(answers=moves.groupby("FP32 said").size())
by_class["changed, %"] = 100 * by_class["changed"] / by_class["answers"]
by_class = by_class.reindex(LABELS).reset_index()
run.table(by_class, "moves")
sure = pd.cut(probabilities(in_torch).max(1), [0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
by_confidence = moves["changed"].groupby(sure, observed=False).agg(["size", "sum", "mean"])
by_confidence = by_confidence.reset_index().set_axis(
    ["FP32 was sure", "answers", "changed", "share"], axis=1
)
run.table(by_confidence, "moves-by-confidence")
display(by_class.round(1))
by_confidence.style.format({"share": "{:.1%}", "answers": "{:,}"}).hide(axis="index")

# %% [markdown]
# The sentences:

# %%
for i in np.flatnonzero(was != now)[:errors_shown]:
    sentence = parts.test.iloc[i]
    print(
        f"[{sentence['source']}] {LABELS[was[i]]} -> {LABELS[now[i]]}, labelled {LABELS[sentence['label']]}"
    )
    print(f"    {sentence['text']}\n")
print(f"{int((was != now).sum())} changed in all")

# %% [markdown]
# And is a probability still what it says? The gap between confidence and accuracy (ECE) before and
# after is in the table above; here bin by bin for the teacher in INT8:

# %%
reliable = stats.reliability(parts.test["label"], probabilities(logits["teacher-int8"]))
run.figure(
    plots.reliability(reliable, title="The teacher in INT8", ece=run.record("teacher-int8").ece),
    "reliability",
    "Accuracy against confidence of the INT8 teacher, in bins, and the sentences in each bin",
    reliable,
)

# %%
excess = {
    name: probabilities(given).max(1).mean() - (given.argmax(1) == parts.test["label"]).mean()
    for name, given in (("FP32", in_torch), ("INT8", logits["teacher-int8"]))
}
Markdown(
    f"Mean confidence minus accuracy: {100 * excess['FP32']:+.1f} points in FP32, "
    f"{100 * excess['INT8']:+.1f} in INT8. What to notice in the figure: on which side of the diagonal the "
    "well-filled bins lie; bins of a handful of sentences say nothing. What it does not show: the FP32 "
    "teacher, whose figure is in chapter 2."
)

# %% [markdown]
# ## One module at a time
#
# Where is the teacher sensitive? One module after another has its weights in INT4, in blocks of 32, and
# all the others keep FP32. The embeddings are a module, too: unlike those of `-int4` they have 4 bits here.
# It is simulated: torch computes with the weights as they are read back.

# %%
scheme = quantize.weights_only(4, block=quantize.BLOCK, embedding_bits=4)
points = {"whole": in_torch}
for unit in quantize.one_by_one(teacher, scheme):
    points[f"int4 {unit}"] = run.predict(teacher, parts.test)
run.sweep("sensitivity", points, parts.test, teacher)

labels, sentence_groups = parts.test["label"].to_numpy(), parts.test["group"].to_numpy()
minus_whole, changed = {}, {}
for point in list(points)[1:]:
    unit, guesses = point.removeprefix("int4 "), points[point].argmax(1)
    minus_whole[unit, "teacher"] = stats.paired_difference(labels, guesses, was, sentence_groups)
    changed[unit] = int((guesses != was).sum())
one_module = chapter.contrast_table(minus_whole).assign(
    label=list(changed), changed=changed.values()
)
run.table(one_module, "one-module")
run.figure(
    plots.differences(
        one_module.assign(variant="teacher-int4"), title=f"One module in INT4, fold {run.fold}"
    ),
    "one-module",
    "Paired differences in macro-F1 from the FP32 teacher, with one module's weights in INT4, from the "
    "embeddings to the classifier, with 95 percent intervals",
    one_module,
)

# %% [markdown]
# What to notice: whether the first line and the last lie further to the left than those between. What the
# figure does not show: modules differ in size and in how well they round; chapter 4c looks at both, and
# at other numbers of bits.

# %%
ends = {unit: changed[unit] for unit in ("embeddings", "classifier")}
others = [n for unit, n in changed.items() if unit not in ends]
text = (
    f"Verdict on C12 here: **{run.verdicts(['C12'])['verdict here'].iloc[0]}**. Of {len(labels):,} answers "
    f"the embeddings change {ends['embeddings']} and the classifier {ends['classifier']}, each other "
    f"module {np.mean(others):.1f} on average."
)
if few := [f"the {unit}" for unit, n in ends.items() if n < 10]:
    text += (
        f" Fewer than ten changes are weak evidence on {' and '.join(few)}: other sentences could turn the "
        "sign."
    )
Markdown(text)

# %% [markdown]
# ### On sentences of another domain
#
# Models that may be shipped also answer sentences from elsewhere, for chapter 7b to judge.

# %%
may_be_shipped = ["teacher", "teacher-int8"]
small_files = ("-int8", "-trimmed-int8", "-trimmed-int8-e4")
may_be_shipped += [f"{v}{end}" for v in with_fewer for end in small_files]
run.ask_elsewhere("elsewhere-int8", [v for v in may_be_shipped if run.has(v)])

# %% [markdown]
# ## Something to deploy
#
# Each folder holds the model, its tokenizer, its label names and a script that needs neither
# torch nor transformers. Its README has the figures that were just measured; the smallest one's:

# %%
promised = ["teacher-int8"]
if smaller is not None:
    promised = [f"{trimmed}-trimmed-{precision}" for precision in ("int8", "int8-e4")]
described = (run.model_folder(promised[-1]) / "README.md").read_text(encoding="utf-8")
print(described.partition("## Licence")[0])

# %% [markdown]
# That is a promise, so we keep it: a fresh environment with ONNX Runtime, tokenizers and numpy and
# what these three need, nothing of this study, and the folder's own script. It gets the test part, an
# empty sentence and one of a thousand words on its standard input; its labels, read from what it prints,
# must be those that were recorded.

# %%
odd = ["", "profit " * 1000]
try:
    there = shipped.distributions()
except InputError as error:  # packages that did not come from pip
    text = f"No such environment can be made of what is installed here: {error}"
else:
    run.table(pd.DataFrame(there.items(), columns=["package", "version"]), "shipped-with")
    text = ""
    for name in promised:
        *answers, empty, long = shipped.answers(
            run.model_folder(name), [*parts.test["text"], *odd]
        )[0]
        assert answers == [LABELS[k] for k in logits[name].argmax(1)]
        f1 = stats.macro_f1(parts.test["label"], [LABELS.index(answer) for answer in answers])
        text += (
            f"`{name}` gives all {len(answers):,} labels as recorded, macro-F1 {f1:.4f}, calls the empty "
            f"sentence {empty} and cuts the long one ({long}). "
        )
    installed = ", ".join(f"{name} {version}" for name, version in there.items())
    text += f"Installed there: {installed}."
Markdown(text)

# %% [markdown]
# ## The answer

# %%
verdicts = run.verdicts(["C10", "C12", "C14a", "C14b"])
run.table(verdicts, "verdicts")
verdicts.round(2)

# %%
by_variant, d = outcome.set_index("variant"), found["teacher-int8", "teacher"]
first = by_variant.loc["teacher-int8"]
flips = margins.set_index("variant").loc["teacher-int8"]
close, medians = None, "no label that changed"
if flips["changed labels"]:
    medians = f"{flips['changed label']:.2f}, where the others have {flips['median margin, same label']:.2f}"
    close = flips["changed label"] < flips["median margin, same label"]
lines = [
    chapter.told(
        "The teacher's file in INT8", "close to 4 times smaller",
        f"{first['times smaller']:.2f} times, {first['MB']:.1f} MB",
        3.6 < first["times smaller"] < 4.4,
    ),
    chapter.told("The same file", "under 24 MB", f"{first['MB']:.2f} MB", first["MB"] < 24),
    chapter.told(
        "Its macro-F1", "less than half a point lost", in_points(d), within(d, -0.005)
    ),
    chapter.told(
        "And more than Q8BERT's", "more than 0.1 points lost", in_points(d),
        within(d, -np.inf, -0.001),
    ),
    chapter.told(
        "Its labels", "about one in a hundred changed", f"{first['changed, %']:.1f} in a hundred",
        0.003 <= first["changed, %"] / 100 <= 0.03,
    ),
    chapter.told("The margins of those", "smaller than the others'", medians, close),
    chapter.told(
        "The seed study's sum against its file", "more than 2 % off", f"{100 * short:+.1f} %",
        abs(short) > 0.02,
    ),
]  # fmt: skip
if ways:
    lines.append(
        chapter.told(
            "Size, told three ways",
            "2 % unexplained at most",
            f"{left_open:.1%}",
            left_open <= 0.02,
        )
    )
for variant in few_bits:
    d = found[f"{variant}-int4", variant]
    lines.append(
        chapter.told(f"`{variant}` in INT4", "a point lost at most", in_points(d), within(d, -0.01))
    )
    d, lost = activations_over_weights[variant], found[f"{variant}-int8", variant].high < 0
    lines.append(
        chapter.told(
            f"Lost to activations minus lost to weights (`{variant}`)", "above 0",
            in_points(d) if lost else f"{in_points(d)}, where no loss was seen",
            within(d, 0) if lost else None,
        )
    )  # fmt: skip
(unit, _), d = min(minus_whole.items(), key=lambda item: item[1].diff)
ends = ([getattr(one, end) for one in minus_whole.values()] for end in ("low", "high"))
lines.append(
    chapter.told(
        "One module in INT4", "a point lost at most", f"{in_points(d)} for the worst ({unit})",
        all_above(*ends, -0.01),
    )
)  # fmt: skip
if smaller is not None:
    d, mb = (
        found[f"{trimmed}-trimmed-int8", trimmed],
        by_variant.loc[f"{trimmed}-trimmed-int8", "MB"],
    )
    kept = told["pieces_after"] / told["pieces_before"]
    lines += [
        chapter.told(
            f"Word pieces of `{trimmed}`", "fewer than half left", f"{kept:.0%}", kept < 0.5
        ),
        chapter.told(f"`{trimmed}-trimmed-int8`", "under 10 MB", f"{mb:.2f} MB", mb < 10),
        chapter.told(
            "Against the FP32 student", "less than a point lost", in_points(d), within(d, -0.01)
        ),
    ]
    d, times = found[four, trimmed], baseline.size_mb / four_mb
    lines += [
        chapter.told(
            f"`{four}` against the FP32 teacher's file",
            "10 times smaller",
            f"{times:.2f} times",
            times >= 10,
        ),
        chapter.told(
            f"`{four}` against the FP32 student",
            "less than a point lost",
            in_points(d),
            within(d, -0.01),
        ),
    ]
Markdown("\n".join(lines) + "\n\nVerdicts here are this fold's alone; the report pools them all.")

# %% [markdown]
# What this cannot say: how it is with another teacher, another language, a processor of another kind.
#
# Do not round where a result must be the same on every machine and in every batch: FP32 differs in
# the last digits alone, INT8 is the same only where kernel and batching are. And do not expect speed
# from the size alone; whether one byte a weight is also faster is for chapter 7 to say.
#
# **Next:** these models were rounded as they were. Chapter 4b asks whether a model that is trained
# for it loses less, and chapter 4c which of its parts cannot do with few bits.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Zafrir, Boudoukh, Izsak and Wasserblat (2019). Q8BERT: Quantized 8Bit BERT. arXiv:1910.06188.
# - Shen et al. (2020). Q-BERT: Hessian based ultra low precision quantization of BERT.
#   arXiv:1909.05840.
# - Jacob et al. (2018). Quantization and training of neural networks for efficient
#   integer-arithmetic-only inference. arXiv:1712.05877. Scales and zero points are theirs.
# - ONNX Runtime, *Quantize ONNX models*: dynamic quantisation, and U8S8 saturation on x86.

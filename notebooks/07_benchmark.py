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
# # 7. What is really smaller, and what is really faster?
#
# The chapters before counted weights, heads and bytes. A user waits for milliseconds and pays for
# megabytes. This chapter holds one ruler to every model of fold 0: bytes of the file, resident
# memory, latency of one sentence, sentences a second in batches. It changes no model and chooses
# none.
#
# | | |
# |---|---|
# | reads | the test sentences, records and saved models of chapters 2 to 5, fold 0 |
# | writes | what the ruler read, one file a variant; the picture of score against latency |
# | takes | up to a minute a model and kind of reading, on a machine with nothing else to do |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/07_benchmark.ipynb)

# %% [markdown]
# ## What to expect
#
# - **Removed heads**: the seed study says that a pruned model's latency "stays about the same"
#   (C13). For zeroed heads that must be so, since the matrices keep their size. For removed ones,
#   arithmetic says otherwise: time should fall with the multiply-accumulates (MACs).
# - **INT8**: a quarter of the bytes. On time we expect less: Q8BERT (Zafrir et al. 2019) counts on
#   processors with integer instructions, and not all have them. **Between 1 and 2 times faster.**
# - **The smallest that is shipped** (parameter `smallest`: half the layers, fewer words, INT8, the
#   words themselves in INT4, which are looked up and not multiplied): **10
#   times as fast as the FP32 teacher in torch, or more**, on single sentences at their own lengths,
#   with a thread each, which is what the shipped script takes. The change of runtime counts there; the
#   ratio to the teacher in ONNX Runtime stands beside it, and that of both at their better number of
#   threads.
# - **Padding**: the seed study pads every sentence to 128 tokens before it takes the time. Our
#   sentences are far shorter, so padded times should be **several times** (more than twice) the
#   real ones.
# - **A second thread**: **less than twice** the speed on a single short sentence, whose operators
#   are too small to be shared; nearer to twice on 32 padded ones. INT8 should gain more at 128
#   tokens than at a sentence's own length: products are more of the work there.
#
# The controls are second copies of the teacher, in torch and in ONNX Runtime, measured as if they
# were other models. Whatever the ruler says they differ by is the ruler's error.

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
import time
from dataclasses import replace
from fnmatch import fnmatch

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from tokenizers import Tokenizer

from headcount import bench, chapter, claims, models, plots, prune, records
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
# the ruler
passed_over = [
    "heads-entropy-reversed-*",
    "heads-gradient-*",
    # Taught in other ways, and of the same shape as `student-hard` and `student-hard-init`.
    "student-hard-scratch*",
    "student-smooth*",
    "student-shuffled*",
    "student-kd-no-t2*",
    "student-intermediate*",
    "student-tinybert*",
    "student-map-*",
    # Trained further, and of the same shape as `student-small` in the same precision.
    "student-hard*-onnx",
    "student-hard*-weights",
    "student-kd*-onnx",
    "student-kd*-weights",
    "student-*-continued*",
    "student-*-qat*",
    "student-*-quant-noise",
]
ruler_threads = 1  # the shipped script's own; below, `closer` with each of `thread_counts`
warmup = 50
timed = 500
batches = 30
max_seconds = 60.0
pad_to = 128
batch_size = 32
# threads and batches
closer = [
    "teacher",
    "teacher-onnx",
    "teacher-int8",
    "teacher-torch-int8",
    "student-small",
    "student-small-torch-int8",
    "student-small-onnx",
    "student-small-int8",
    "student-small-trimmed-onnx",
    "student-small-trimmed-int8",
    "student-small-trimmed-int8-e4",
]
thread_counts = [1, 2]
closer_seconds = 20.0
# the answer and the figures
smallest = "student-small-trimmed-int8-e4"
drawn = [  # those whose names a figure has room for
    "teacher",
    "teacher-onnx",
    "teacher-int8",
    "student-small",
    "student-small-onnx",
    "student-small-int8",
    "student-small-trimmed",
    "student-small-trimmed-int8",
    "student-small-trimmed-int8-e4",
    "student-tiny",
    "student-tiny-int8",
    "student-tiny-trimmed",
    "student-tiny-trimmed-int8",
    "student-tiny-trimmed-int8-e4",
    "heads-entropy-50",
    "heads-random-50",
]

# %%
run = chapter.begin("07_benchmark", globals())
if run.fold != 0:
    raise InputError(
        f"fold={run.fold}: the ruler measures fold 0, whose models are shipped; set fold=0"
    )
for name, chosen in {"closer": closer, "drawn": drawn}.items():
    if "teacher" not in chosen:
        raise InputError(f"{name} {chosen}: leave teacher among them")

# %% [markdown]
# ## Sentences and contenders
#
# Every contender scores the same test sentences in the same random order, already tokenised: what
# is measured is the model.

# %%
parts = run.split()
ids = run.tokenize(parts.test).input_ids
order = np.random.default_rng(run.seed).permutation(len(ids))
sentences = [ids[i] for i in order]
lengths = np.array([len(sentence) for sentence in sentences])
for i in order[:2]:
    print(f"{len(ids[i]):3d} tokens: {parts.test['text'].iloc[i]}")

# %%
Markdown(
    f"{len(sentences):,} sentences of {lengths.min()} to {lengths.max()} tokens, "
    f"{lengths.mean():.1f} on average. Padding them to {pad_to} multiplies the tokens by "
    f"{pad_to / lengths.mean():.1f}."
)

# %% [markdown]
# A contender is a folder and a way to load it; the ruler does not know what was done to the model.
# An ONNX twin of a recorded model takes part under that model's score (their chapters asserted
# equal predictions). Of pruned models with equally many heads two ways of choosing them are enough:
# the parameter `passed_over` names the others, whose cost is the same and whose memory all of them
# would have to share.
#
# A model whose vocabulary was trimmed gets the same sentences as the token ids of its own
# tokenizer; their number differs a little, which is right, since its user pays for them as well.
#
# Chapter 5's results may have been taken as they are published, without its models. Then a stand-in
# is measured: the teacher without the same heads, which has the same bytes and the same operations.
# Its answers would be others, and nobody asks for them here.


# %%
def contender(variant, folder, record):
    """What the ruler needs to know about one variant; None where nothing was saved."""
    if record.runtime == "torch.ao":
        teacher = run.model_folder(record.baseline)
        loader = "headcount.quantize:load_torch_dynamic"
        return bench.Contender(variant, teacher, loader, "torch.ao", record.size_mb)
    if (folder / "model.onnx").exists():
        return bench.Contender(variant, folder, bench.ONNXRUNTIME, "onnxruntime")
    if (folder / "model.safetensors").exists():
        return bench.Contender(variant, folder)
    return None


def stand_in(record):
    """Save a model with the shape of one of chapter 5's, and the twin that it has; returns its name."""
    model, name = run.load("teacher"), f"{record.variant}-stand-in"
    if record.heads_alive < record.heads_total:
        removed = record.provenance.config["removed"]
        prune.remove(model, [(layer, head) for _, layer, head in removed])
    assert models.sizes(model)["params"] == record.params
    run.save(name, model)
    if record.variant == claims.BY_ID["C1"].evidence.variant:
        run.deploy(f"{name}-onnx", model)
    return name


def own_ids(folder):
    """The sentences as ids of the tokenizer that is shipped; None where they are the study's."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if tokenizer.get_vocab() == vocabulary:
        return None
    tokenizer.no_padding()
    tokenizer.enable_truncation(run.facts["max_length"])
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


vocabulary = run.tokenizer().get_vocab()
texts = [parts.test["text"].iloc[i] for i in order]
found = {r.variant: r for r in records.read(run.work, fold=0, seed=run.seed) if r.split == "test"}
absent = {v: r for v, r in found.items() if not run.model_folder(v).is_dir()}
lent = {v: stand_in(r) for v, r in absent.items() if r.chapter == "05_pruning"}
folders = {v: run.model_folder(lent.get(v, v)) for v in found}
onnx = {f"{v}-onnx": (run.model_folder(f"{lent.get(v, v)}-onnx"), r) for v, r in found.items()}
twins = {name: r for name, (folder, r) in onnx.items() if folder.is_dir() and name not in found}
recorded = found | twins
folders |= {name: onnx[name][0] for name in twins}
saved = [contender(v, folders[v], record) for v, record in recorded.items()]
saved = [replace(c, sentences=own_ids(c.folder)) for c in saved if c is not None]
contenders = [c for c in saved if not any(fnmatch(c.name, name) for name in passed_over)]
if "teacher" not in recorded:
    raise InputError(f"no record of teacher in {run.work}: run chapter 02_teacher first")

# %%
print(f"{len(contenders)} contenders: {', '.join(c.name for c in contenders)}")
print(f"passed over: {', '.join(c.name for c in saved if c not in contenders) or 'none'}")
print(f"by a stand-in: {', '.join(sorted(lent)) or 'none'}")
print(f"without a saved model: {', '.join(sorted(set(recorded) - {c.name for c in saved}))}")
for c in saved:
    if c.sentences is not None:
        mean = sum(map(len, c.sentences)) / len(sentences)
        print(f"with its own token ids: {c.name}, {mean:.1f} tokens a sentence on average")
print("{}: {}".format(*(bench.cpu()[0], ", ".join(bench.cpu()[1]))))

# %% [markdown]
# ## The idea, small: how long does one sentence take?
#
# Take the time, score, take the time again. Ten times over, same sentence, same model:

# %%
teacher = next(c for c in contenders if c.name == "teacher")
score = bench.load(teacher, ruler_threads)
batch = bench.pad(sentences[:1])
milliseconds = []
for _ in range(10):
    start = time.perf_counter()
    score(*batch)
    milliseconds.append(1000 * (time.perf_counter() - start))
print(" ".join(f"{ms:.1f}" for ms in milliseconds), "ms")

# %% [markdown]
# The first call may have work to do that the others find done, and the others vary. So the first
# ones are thrown away, and what is quoted is the median, with the 95th and 99th percentile for those
# who wait at the bad moments. By hand from the sorted times, and the library's:

# %%
ranked = sorted(milliseconds[1:])
slow = {p: np.interp(p / 100 * (len(ranked) - 1), range(len(ranked)), ranked) for p in (50, 95, 99)}
fast = bench.percentiles(np.array(milliseconds[1:]) / 1000, "latency")
for p, by_hand in slow.items():
    assert np.isclose(fast[f"latency_ms_p{p}"], by_hand)
    print(f"p{p}: {by_hand:.2f} ms")

# %% [markdown]
# A machine warms up, throttles, and has other things to do. If one model were measured after the
# other, the last would be measured on another machine than the first. So all of them are loaded at
# once and take turns, there and back:

# %%
print(" ".join(bench.there_and_back(["A", "B", "C"], 4)))
del score

# %% [markdown]
# ## Predictions, before anything is measured
#
# Bytes: 4 for each stored parameter in FP32; 1 for INT8, where nearly all parameters are entries of
# matrices (`torch.ao` leaves the embeddings in FP32, so it must miss); half a byte for INT4 (whose
# embeddings have a whole one, and INT8's half a one in `-int8-e4`: these must miss, too). Time:
# proportional to MACs at the mean length, relative to the FP32 teacher in the same runtime; the number
# format is left out, and so is that a file in ONNX computes its last layer for the first token alone,
# which nobody else's answer needs: the fewer the layers, the more that is.

# %%
base = recorded["teacher"]
predicted = pd.DataFrame(
    {
        "variant": c.name,
        "predicted_mb": recorded[c.name].params
        * {"int8": 1, "int4": 0.5}.get(recorded[c.name].precision, 4)
        / 1e6,
        "predicted_speedup": base.macs / recorded[c.name].macs,
    }
    for c in contenders
    if recorded[c.name].params
)
predicted.round(2)

# %% [markdown]
# ## The ruler, real
#
# One call: latency at each sentence's own length, latency padded, throughput in batches as they
# come, and the memory of each contender in a fresh process; all with `ruler_threads`. The names that
# end in `-again` are the controls.

# %%
originals = {c.name: c for c in contenders if c.name in ("teacher", "teacher-onnx")}
references = sorted(originals)
controls = [replace(originals[name], name=f"{name}-again") for name in references]
begun = time.perf_counter()
rows = bench.measure(
    [*contenders, *controls],
    sentences,
    threads=ruler_threads,
    warmup=warmup,
    timed=timed,
    batches=batches,
    max_seconds=max_seconds,
    pad_to=pad_to,
    batch_size=batch_size,
)
seconds = time.perf_counter() - begun

# %%
fields = records.Measure.model_fields
records.write_measures(
    run.work,
    (
        records.Measure(
            **{name: value for name, value in row.items() if name in fields},
            weights_sha256=None
            if recorded[row["variant"]].variant in lent
            else recorded[row["variant"]].weights_sha256,
        )
        for row in rows
        if row["variant"] in recorded
    ),
)
readings = pd.DataFrame(rows)
readings["cpu_flags"] = readings["cpu_flags"].str.join(" ")
run.table(readings, "readings")
shown = ["variant", "runtime", "size_mb", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99"]
shown += ["latency128_ms_p50", "throughput_sps", "peak_rss_mb", "timed", "timed128"]
readings[shown].round(2)

# %% [markdown]
# Milliseconds are this machine's own. Ratios travel better; 2 means half the bytes, or half the
# time, or twice the sentences a second. The two references are the FP32 teacher in torch and in
# ONNX Runtime: against the second, a change of runtime does not pass for a gain of compression.

# %%
ratios = bench.ratios(readings, references)
run.table(ratios, "ratios")
ratios.round(2)

# %% [markdown]
# ## How good is the ruler?

# %%
by_name = ratios.set_index("variant")
quantities = ["latency", "latency128", "throughput"]
equal = pd.DataFrame(
    {
        f"{name}-again": [by_name.loc[f"{name}-again", f"{q}_vs_{name}"] for q in quantities]
        for name in references
    },
    index=["latency", "latency, padded", "throughput"],
)
noise, noise_in_batches = bench.noise(equal.iloc[:2]), bench.noise(equal.iloc[2])
equal.T.round(3)

# %%
Markdown(
    "All of these should be 1: each is a model against itself. So differences of latency below about "
    f"**{noise:.1%}** are the ruler's own, and of throughput, of which it has fewer readings, "
    f"those below about **{noise_in_batches:.1%}**. These are the largest of a few readings each, not "
    "intervals. Below, what lies nearer to a bound than this error is called undecided."
)

# %% [markdown]
# ## Predicted and measured

# %%
against = predicted.merge(readings[["variant", "runtime", "size_mb"]], on="variant")
against = against.merge(ratios, on="variant")
in_onnx = (against["runtime"] == "onnxruntime") & ("teacher-onnx" in references)
against["speedup"] = against["latency_vs_teacher"]
if in_onnx.any():
    against.loc[in_onnx, "speedup"] = against["latency_vs_teacher-onnx"]
against["bytes_over_prediction"] = against["size_mb"] / against["predicted_mb"]
against["speed_over_prediction"] = against["speedup"] / against["predicted_speedup"]
columns = ["variant", "runtime", "predicted_mb", "size_mb", "bytes_over_prediction"]
columns += ["predicted_speedup", "speedup", "speed_over_prediction"]
run.table(against[columns], "predictions")
against[columns].round(2)

# %%
run.figure(
    plots.speedups(
        against[against["variant"].isin(drawn)], title="Does arithmetic decide the time?"
    ),
    "arithmetic",
    "Measured speed-up against the speed-up predicted from multiply-accumulates, by variant",
    against.loc[against["variant"].isin(drawn), columns],
)

# %% [markdown]
# The figure has the variants named in the parameter `drawn`: teachers, the two best students, those
# with fewer words, their INT8, and two pruned models. The others are in the table alone.
#
# What to notice: whether points follow the dashed line, in torch (discs) and in ONNX Runtime
# (squares). A point below it saved arithmetic that took less than its share of the time: one short
# sentence may spend much of it on reading weights and on starting operators. A point above saved
# something else, such as bytes. What the figure does not show is which of these it is; the padded
# times, below, have more arithmetic in them.
#
# ## Length
#
# The same readings, padded over real:

# %%
real = readings[readings["variant"].isin(recorded)]
length = real.assign(
    padding_costs=real["latency128_ms_p50"] / real["latency_ms_p50"],
    tail=real["latency_ms_p99"] / real["latency_ms_p50"],
)[["variant", "runtime", "padding_costs", "tail"]]
run.table(length, "length")
typical = length["padding_costs"].median()
Markdown(
    f"Padding to {pad_to} tokens makes the median contender {typical:.1f} times slower (from "
    f"{length['padding_costs'].min():.1f} to {length['padding_costs'].max():.1f}), with "
    f"{pad_to / lengths.mean():.1f} times the tokens. A ratio measured on padded sentences is "
    "in part a ratio about padding."
)

# %% [markdown]
# ## Threads and batches
#
# So far every contender had the same threads, and sentences came one at a time or in batches. Who
# deploys a model chooses both. A few contenders (`closer`) under every combination: one sentence or
# a batch at a time, at own lengths (a batch is padded to its longest) or padded, with one thread or
# two. ONNX Runtime optimises its graph in all of them, as it does for the user of a shipped folder.
# The controls take part, so that batches and single sentences each have an error of their own. INT8
# in torch needs no file of its own (`torch.ao` rounds as it loads), and no score to be timed. On an x86
# processor without VNNI the INT8 teacher takes part a second time, in a session that does not ask for
# exact sums (chapter 4).


# %%
in_torch = {"loader": "headcount.quantize:load_torch_dynamic", "runtime": "torch.ao"}
unscored = [
    replace(c, name=f"{c.name}-torch-int8", **in_torch) for c in saved if c.runtime == "torch"
]
timeable = {c.name: c for c in (*unscored, *saved)}
near = [timeable[name] for name in closer if name in timeable]
absent = [name for name in closer if name not in {c.name for c in near}]
if not bench.exact_int8() and "teacher-int8" in {c.name for c in near}:
    whole = timeable["teacher-int8"]
    near.append(replace(whole, name="teacher-int8-plain-session", loader=bench.PLAIN_SESSION))
counts = sorted({n for n in thread_counts if n <= bench.cores()})
left_out = [f"{n} threads" for n in thread_counts if n not in counts]
print(f"{len(near)} contenders: {', '.join(c.name for c in near) or 'none'}")
print(f"by a stand-in: {', '.join(sorted(lent)) or 'none'}")
print(f"without a saved model: {', '.join(absent) or 'none'}")
print(f"more than the {bench.cores()} cores of this machine: {', '.join(left_out) or 'none'}")
enough = len(near) > 1 and len(counts) > 0
told_counts = " or ".join(map(str, counts))
again = {c.name: c.name.removesuffix("-again") for c in controls}
copies = [c for c in controls if again[c.name] in {c.name for c in near}]
if not enough:
    print("There is nothing to compare: this section stays empty.")

# %%
if enough:
    grid = bench.grid(
        [*near, *copies],
        sentences,
        threads=counts,
        batch_sizes=(1, batch_size),
        pad_to=pad_to,
        warmup=warmup,
        timed=timed,
        batches=batches,
        max_seconds=closer_seconds,
    )
    run.table(grid, "threads")
    conditions, who = ["batch", "tokens", "threads"], ["variant", "runtime"]
    times = grid.pivot_table("ms_per_sentence_p50", who, conditions, sort=False)
    times = times.sort_index(axis=1, ascending=[True, False, True])
    display(times.round(2))

# %%
if enough:
    contended = grid[~grid["variant"].isin(again)]
    run.figure(
        plots.conditions(contended, title="What threads, batches and INT8 bring"),
        "threads",
        f"Milliseconds a sentence of {len(near)} contenders with {' and '.join(map(str, counts))} "
        "threads, a panel each for one sentence and a batch, at own lengths and padded",
        contended,
    )

# %% [markdown]
# What to notice: how long the lines are, and whether a hollow mark (fewest threads) is to the right
# of the full one at all; where it is not, threads waited for each other, or for another process.
# All panels have one axis, so a mark further to the left in the lower row than in the upper one is
# what a batch saves, and longer lines towards the right-hand panels say that larger products are
# easier to share. What the figure does not show: how certain a short line is. The controls tell the
# error of contenders, which take turns. Thread counts do not (torch has one for the whole process),
# so that the error of a gain by threads may be larger. The table's 95th percentiles are not drawn.


# %%
def counted(gains, error, what):
    """How many of them exceed the ruler's error, and how large all of them are."""
    low, high = gains.min(), gains.max()
    clear = int((gains > 1 + error).sum())
    return f"{clear} of {len(gains)} {what} ({low:.2f} to {high:.2f} times as fast)"


said, gained, errors = [], {}, {}
if enough:
    times = times.droplevel("runtime").T
    equal = pd.concat(times[again[c.name]] / times[c.name] for c in copies)
    errors = equal.groupby("batch").agg(bench.noise)
    if len(counts) > 1:
        fewest, most = (
            times.drop(columns=[c.name for c in copies]).xs(n, level="threads")
            for n in (counts[0], counts[-1])
        )
        for (batch, tokens), gains in (fewest / most).iterrows():
            gained[batch, tokens] = gains
            said.append(
                f"{counts[-1]} threads instead of {counts[0]}, {batch} at a time, "
                f"{'own lengths' if tokens == 'own' else f'{tokens} tokens'}: faster for "
                f"{counted(gains, errors[batch], 'contenders')}, median {gains.median():.2f}"
            )
    for name in (name for name in times if name.endswith("-int8")):
        whole = name.removesuffix("-int8")
        exact = whole.removesuffix("-torch") if whole.endswith("-torch") else f"{whole}-onnx"
        if exact not in times:
            said.append(f"`{name}` has no FP32 twin here in its runtime to be held against")
            continue
        for batch, gains in (times[exact] / times[name]).groupby("batch"):
            said.append(
                f"`{name}` instead of `{exact}`, {batch} at a time: faster under "
                f"{counted(gains, errors[batch], 'conditions')}"
            )
    if "teacher-int8-plain-session" in times:
        for batch, costs in (times["teacher-int8"] / times["teacher-int8-plain-session"]).groupby(
            "batch"
        ):
            said.append(
                f"exact sums instead of those that are cut to 16 bits, `teacher-int8`, {batch} at a "
                f"time: {costs.min():.2f} to {costs.max():.2f} times as long"
            )
    misses = " and ".join(f"{error:.1%} with {batch} at a time" for batch, error in errors.items())
    said.append(f"“faster” is by more than the ruler's own error, here {misses}")
Markdown("\n".join(f"- {line};" for line in said) or "Nothing to compare.")

# %% [markdown]
# ## Memory
#
# What is resident in a fresh process: first the libraries, then the model, then what scoring adds.

# %%
memory = readings[["variant", "runtime", "size_mb", "libraries_mb", "loaded_mb", "peak_rss_mb"]]
memory = memory.assign(model_mb=memory["loaded_mb"] - memory["libraries_mb"])
memory["model_over_file"] = memory["model_mb"] / memory["size_mb"]
run.table(memory, "memory")
memory.round(2)

# %%
measured = memory[memory["variant"].isin(recorded)].set_index("variant")
lighter = int((measured["model_mb"] < measured["libraries_mb"]).sum())
seen = f"{lighter} of {len(measured)} models weigh less in memory than the libraries they need."
if {"teacher-onnx", "teacher-int8"} <= set(measured.index):
    sizes = measured[["size_mb", "model_mb", "peak_rss_mb"]]
    smaller = sizes.loc["teacher-onnx"] / sizes.loc["teacher-int8"]
    seen += (
        f" In the same runtime, INT8 makes the teacher's file {smaller['size_mb']:.2f} times smaller, "
        f"the model in memory {smaller['model_mb']:.2f} times, and the process at its peak "
        f"{smaller['peak_rss_mb']:.2f} times."
    )
Markdown(seen)

# %% [markdown]
# What the table does not show: several processes on one machine share the libraries' pages, so that
# the second costs less than the first.
#
# ## The picture
#
# Macro-F1 on the test part against the median latency; the area is the file. Up and to the left is
# better, and smaller is lighter.

# %%
standing = run.standings().drop(columns=["params", "size_mb"]).set_index("variant")
columns = ["variant", "runtime", "latency_ms_p50", "size_mb"]
points = readings.loc[readings["variant"].isin(recorded), columns]
scored_as = [recorded[variant].variant for variant in points["variant"]]
for column in ("macro_f1", "ci_low", "ci_high"):
    points[column] = standing.loc[scored_as, column].to_numpy()
run.table(points, "pareto")
some = points[points["variant"].isin(drawn)]
run.figure(
    plots.pareto(some, title="Score, latency and size, fold 0"),
    "pareto",
    "Macro-F1 against latency, by variant; the area of a mark is its size in megabytes",
    some,
)

# %% [markdown]
# Again the variants of `drawn` alone. What to notice: who is on the upper left edge, and whether the
# intervals of the marks near it overlap in height. What the picture does not show: the paired
# differences, whose intervals are other ones, and the other folds; both are in the report.
#
# Of all variants, those that no other matches in score, time and bytes and beats in one of them:


# %%
judged = ["macro_f1", "latency_ms_p50", "size_mb"]


def beaten(point):
    """Whether another is at least as good in score, time and bytes, and better in one."""
    others = points[points["variant"] != point["variant"]]
    as_good = (
        (others["macro_f1"] >= point["macro_f1"])
        & (others["latency_ms_p50"] <= point["latency_ms_p50"])
        & (others["size_mb"] <= point["size_mb"])
    )
    same = (others[judged] == point[judged]).all(axis=1)
    return (as_good & ~same).any()


edge = points[[not beaten(point) for _, point in points.iterrows()]]
edge.sort_values("latency_ms_p50").round(3)

# %% [markdown]
# ## The answer

# %%
lines = []
pruned = against[
    [(recorded[v].heads_alive or 0) < (recorded[v].heads_total or 0) for v in against["variant"]]
]
if len(pruned):
    speedup, promised = pruned["speedup"], pruned["speed_over_prediction"]
    lines.append(
        chapter.told(
            f"Models without some of their heads ({len(pruned)}), in the same runtime",
            "faster than the teacher",
            f"{speedup.min():.2f} to {speedup.max():.2f} times as fast, "
            f"{promised.min():.2f} to {promised.max():.2f} of what was promised",
            bench.between(speedup, noise, low=1),
        )
    )
read = readings.set_index("variant")[["size_mb", "latency_ms_p50", "latency128_ms_p50"]]
twin_of = {v: v.removesuffix("-int8") + "-onnx" for v in read.index if v.endswith("-int8")}
eight = pd.DataFrame(
    {v: read.loc[twin] / read.loc[v] for v, twin in twin_of.items() if twin in read.index}
).T
if len(eight):
    own, smaller = eight["latency_ms_p50"], eight["size_mb"]
    longer = eight["latency128_ms_p50"] / own
    lines.append(
        chapter.told(
            f"INT8 files against FP32 ({len(eight)} models)",
            "4 times smaller, to a tenth",
            f"{smaller.min():.2f} to {smaller.max():.2f} times",
            bench.between(smaller, 0, 3.6, 4.4),
        )
    )
    lines.append(
        chapter.told(
            "The same models, both in ONNX Runtime",
            "1 to 2 times as fast",
            f"{own.min():.2f} (`{own.idxmin()}`) to {own.max():.2f} (`{own.idxmax()}`)",
            bench.between(own, noise, 1, 2),
        )
    )
    lines.append(
        chapter.told(
            f"The same gain at {pad_to} tokens",
            "larger than at own lengths",
            f"{longer.min():.2f} to {longer.max():.2f} times as large",
            # Of two ratios, each with its error.
            bench.between(longer, (1 + noise) ** 2 - 1, low=1),
        )
    )
if smallest in by_name.index:
    row, beside = by_name.loc[smallest], ""
    if "teacher-onnx" in references:
        beside = f" ({row['latency_vs_teacher-onnx']:.2f} times the teacher in ONNX Runtime)"
    lines.append(
        chapter.told(
            f"`{smallest}`",
            "10 times as fast as the FP32 teacher in torch, or more",
            f"{row['latency_vs_teacher']:.2f} times{beside}",
            bench.between(row["latency_vs_teacher"], noise, low=10),
        )
    )
    if enough and smallest in times:
        own_best = times.xs((1, "own"), level=("batch", "tokens")).min()
        best = own_best["teacher"] / own_best[smallest]
        lines.append(f"* Both at their better number of threads ({told_counts}): {best:.2f} times.")
else:
    lines.append(f"* `{smallest}` was not measured here.")
lines.append(
    chapter.told(
        f"Padding to {pad_to} tokens",
        "more than twice the time",
        f"{typical:.1f} times (median contender)",
        bench.between(typical, noise, low=2),
    )
)
if gained and counts == [1, 2]:
    alone, many = gained[1, "own"], gained[max(gained)[0], str(pad_to)]
    lines.append(
        chapter.told(
            "A second thread, one sentence at its own length",
            "less than twice as fast",
            f"{alone.min():.2f} to {alone.max():.2f} times",
            bench.between(alone, errors[1], high=2),
        )
    )
    more, error = many.median() / alone.median(), (1 + errors.max()) ** 2 - 1
    lines.append(
        chapter.told(
            f"The same gain on {max(gained)[0]} padded ones",
            "larger",
            f"{more:.2f} times as large (medians)",
            bench.between(more, error, low=1),
        )
    )
Markdown(
    "\n".join(lines)
    + f"\n\nThe ruler's own error is about {noise:.1%}, in batches {noise_in_batches:.1%}; all of "
    f"it took {seconds:.0f} s. C13 (“stays about the same”) is for chapter 5c, which times removed "
    "heads against zeroed ones."
)

# %% [markdown]
# Do not choose by this chapter where requests come in batches on a GPU, or where another process
# has the cores: other hardware has another order. What travels is the method, and the ratios within
# one runtime; the milliseconds stay here.
#
# **Next:** chapter 8 puts scores of all folds, intervals and these readings together, and passes
# the verdicts.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Zafrir, Boudoukh, Izsak and Wasserblat (2019). Q8BERT: Quantized 8Bit BERT. arXiv:1910.06188.
# - Michel, Levy and Neubig (2019). Are sixteen heads really better than one? arXiv:1905.10650.
# - FinCompress, the seed study: github.com/Rohanjain2312/FinCompress, commit 442af31.

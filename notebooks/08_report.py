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
# # What is left of a financial-sentiment BERT, and what did the cutting cost?

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/08_report.ipynb)

# %% [markdown] tags=["not-in-report"]
# Chapter 8 trains nothing and measures nothing. It reads the records that the other chapters left,
# pools the folds, judges the claims that have been put to the test, and becomes the report.
#
# | | |
# |---|---|
# | reads | records, predictions and measures of all folds |
# | writes | `results.csv`, `pooled.csv`, three figures, their tables |
# | takes | two or three seconds a variant on one core; no GPU |

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

# %% tags=["not-in-report"]
from IPython.display import Markdown, display

from headcount import chapter, claims, curves, plots, records, report

# %% tags=["parameters"]
# where and what
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# fixed
draws = 10_000

# %% tags=["not-in-report"]
run = chapter.begin("08_report", globals())

# %%
study = report.describe(run.work)
Markdown(study.line)

# %% [markdown]
# Scores are macro-F1: the unweighted mean of the F1 of negative, neutral and positive sentences,
# computed once on the test parts of all folds together. Brackets hold 95 % intervals from a
# bootstrap over groups of near-duplicate sentences. Differences are in points, hundredths of
# macro-F1, and paired: both models are scored on the same sentences. The intervals are conditional
# on the models that were trained; how far the folds lie apart stands beside them.

# %% [markdown] tags=["not-in-report"]
# Holm's correction runs over the primary contrasts alone: one for each claim, fixed before any run.
# All other differences are description, and get no p.

# %% tags=["not-in-report"]
results = records.table(run.work)
judged = claims.judge(run.work, draws=draws)
pooled = report.ordered(claims.with_holm(records.pool(run.work, draws=draws), judged), results)
for name, frame in {"results": results, "pooled": pooled}.items():
    records.write_text(run.work / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))

# %% [markdown]
# ## Verdicts so far
#
# Each claim has one contrast and one margin, fixed before any run. It is **supported** where the
# whole interval lies on the claim's side of the margin, else **refuted** where the whole interval
# lies on the other side, or leaves out the effect that was claimed, if a number was (it stands
# beside the margin). Else it is **undecided**, and the table says what difference such a study would
# have seen four times out of five. Holm's correction runs over the contrasts of this table; its p is
# of no difference at all, whatever the margin. No verdict rests on it; one that rests on the sign of a
# difference, and whose p is above 0.05, says so. "Right alone" counts the predictions (sentences times
# trainings) that only the first, and only the second, of the two models gets right.

# %%
tried = judged.dropna(subset="diff")
run.table(judged, "claims")
Markdown(report.markdown(report.contrasts(judged, study)) if len(tried) else "None has run.")

# %%
scored = tried[tried["unit"] == "points"]
if len(scored):
    run.figure(
        plots.differences(scored, title=f"Contrasts of the claims tried so far{study.mark}"),
        "claims",
        f"Differences in macro-F1 of {len(scored)} contrasts, with 95 % intervals{study.mark}",
        scored,
    )

# %%
if len(tried):
    display(
        Markdown(
            "An interval that crosses its margin decides nothing. What the picture does not show "
            f"is the luck of training, and any teacher but `{study.model}`: verdicts hold for it alone."
        )
    )
Markdown("Not yet run:\n\n" + report.open_claims(judged))

# %% [markdown]
# ## Aims
#
# What the study set out to reach. A difference is paired, on the pooled test parts. Its estimate
# decides, and the lower end of its interval where the aim names one; where it names none, the
# interval may reach beyond the limit. Files and layers are of fold 0's models. Speed is the
# teacher's median latency over the model's, one sentence at a time at its own length, in one run in
# which the models took turns. Against `teacher`, in torch, a change of runtime counts as well;
# against `teacher-onnx`, FP32 in ONNX Runtime, only the change of the model. An aim is undecided
# where what has run meets it and the rest has not run yet.

# %%
aims = report.aims(run.work, study, draws=draws)
run.table(aims, "aims")
if (aims["outcome"] == claims.NOT_RUN).all():
    display(Markdown("No chapter that an aim reads has run yet."))
elif study.model != report.AIMS_MODEL:
    told = f"The limits in megabytes and layers were set for the teacher `{report.AIMS_MODEL}`."
    display(Markdown(told))
Markdown(report.markdown(aims))

# %% [markdown]
# ## Scores
#
# Where several folds ran, *folds alone* gives the lowest and the highest score, and difference, of
# single folds. Rows without a Holm p are no primary contrast: read them as description.

# %%
run.table(pooled, "scores")
if simulated := report.simulated(results) & set(pooled["variant"]):
    display(
        Markdown(
            "A model marked *(simulated)* is no file that a runtime here could run: its answers come "
            "from FP32 arithmetic on rounded numbers."
        )
    )
Markdown(report.markdown(report.scores(pooled, results)))

# %%
tested = results[results["split"] == "test"]
alone = tested.groupby(["variant", "fold"])["macro_f1"].mean().groupby("variant").agg(list)
shown = pooled.assign(fold_scores=pooled["variant"].map(alone)) if len(study.folds) > 1 else pooled
run.figure(
    plots.scores(shown, title=f"Macro-F1 of every variant{study.mark}", reference="teacher"),
    "scores",
    f"Macro-F1 with 95 % intervals of {len(pooled)} variants, the teacher as a dashed line"
    f"{study.mark}",
    pooled,
)

# %% [markdown]
# Intervals of two models may overlap although their paired difference is clear: both rise and fall
# with the same hard sentences. Compare models by the differences in the table, not by the overlap
# in the picture.

# %%
if len(study.folds) > 1:
    run.table(tested.drop(columns="commit"), "folds")
    display(Markdown("### Fold by fold\n\n" + report.markdown(report.by_fold(results))))

# %% [markdown]
# ### By class and by source
#
# ECE is the expected calibration error over 15 bins: how far confidence and accuracy lie apart.

# %%
Markdown(report.markdown(report.by_class(run.work, pooled["variant"])))

# %%
sources = report.by_source(run.work, pooled["variant"])
Markdown(report.markdown(sources) if len(sources.columns) > 2 else "There is one source only.")

# %% [markdown]
# ## What a teacher gives
#
# What chapter 3 asks of its students, one thing at a time, pooled: as description, without a p. A
# verdict above on soft labels is to be read beside the lines on smoothed labels and on another
# sentence's advice, which know nothing of the sentence: advice softens as much there, smoothing less.

# %%
taught = report.beside(run.work, results, claims.TEACHING, draws=draws)
Markdown(report.markdown(taught) if len(taught) else "No student of chapter 3 has been taught yet.")

# %% [markdown]
# ## What INT8 changes
#
# Answers of each INT8 model that differ from those of the FP32 model that it was made from, by the
# class that the FP32 model had given, and by its confidence, the probability of that class. Cells
# give the changed answers among all such answers. A change may be for the better as well as for the
# worse; the table of scores has the balance.

# %%
changed = report.flips(run.work, results)
Markdown(report.markdown(changed) if len(changed) else "No INT8 model has been scored yet.")

# %% [markdown]
# Comparisons that the table of scores does not have, as description, without a p. A
# `-trimmed-int8` minus the FP32 model with its whole vocabulary is what trimming and rounding cost
# together, and an `-int8-e4` minus its `-int8` what 4 bits for its embeddings add. An `-int8` minus
# its `-int8-weights`, where activations stay in FP32, is what rounding the activations adds. A `-qat`
# minus the `-int8` of the same student is what a user gains who trains on for INT8: C11 compares it
# with equal training in FP32 instead, and training on may harm.

# %%
questions = report.int8_questions(results)
compared = report.beside(run.work, results, questions, draws=draws)
Markdown(report.markdown(compared) if len(compared) else "Neither has run yet.")

# %% [markdown]
# ## What is left: bytes, parameters, heads
#
# Megabytes are those of the model file that would be shipped, in millions of bytes; MACs are
# multiply-accumulate operations for a sentence of mean length, all layers whole (files in ONNX compute
# their last one for the first token alone). Both are of fold 0's models, which are the ones that would
# be shipped. A zero is no saving: it is stored and multiplied like any
# other number.

# %%
if simulated:
    display(
        Markdown(
            "Megabytes that are *computed* are not a file's: they are what the numbers of a model "
            "marked *(simulated)* would take, without a graph, and how many times smaller it is "
            "follows from them."
        )
    )
Markdown(report.markdown(report.sizes(results)))

# %% [markdown]
# ## Heads off, nothing trained

# %%
if records.read_sweeps(run.work, "one-shot"):
    pooled_sweep = curves.scores(records.sweep(run.work, "one-shot"))
    lines, whole = curves.lines(pooled_sweep), pooled_sweep.set_index("series")["score"]["whole"]
    run.figure(
        plots.sparsity_curves(
            lines, title=f"One shot, no recovery, all folds{study.mark}", reference=whole
        ),
        "one-shot",
        "Macro-F1 on the pooled test parts against the share of heads removed, for each criterion, "
        f"with the band of the random draws{study.mark}",
        lines,
    )
    below = (
        "The grey band spans the random draws; a criterion that stays inside it chooses no better than "
        "luck can. What the picture does not show is recovery: with training after each removal, the "
        "differences are those of the variants `heads-*` above."
    )
else:
    below = "Chapter 5 has not swept the heads yet."
Markdown(below)

# %% [markdown]
# ## What it costs to run
#
# One sentence at a time, at its own length, unless the column says otherwise; the same threads for
# all. Models took turns in one process on one machine. Ratios travel between machines, roughly;
# milliseconds do not.

# %%
measures = records.measures(run.work)
if len(measures):
    display(Markdown(report.markdown(report.latencies(measures, results))))
    where = measures.iloc[0]
    flags = ", ".join(where["cpu_flags"])
    display(Markdown(f"Processor: {where['cpu']} ({flags}); threads: {where['threads']}."))

# %%
costed = pooled.merge(measures, on="variant")
if len(costed):
    run.figure(
        plots.pareto(costed, title=f"Macro-F1 against latency{study.mark}"),
        "pareto",
        f"Macro-F1 against median latency of {len(costed)} variants, marks as large as the files"
        f"{study.mark}",
        costed,
    )
    below = (
        "Up and to the left is better, and so is a smaller disc. What the picture does not show is "
        "memory, throughput at larger batches, and any other processor."
    )
else:
    below = "The ruler of chapter 7 has not been put to these models yet."
Markdown(below)

# %% [markdown]
# ## What training took
#
# Mean over folds and seeds, as the chapters counted it: the training of the model that a variant
# started from is in that model's row.

# %%
Markdown(report.markdown(report.costs(results)))

# %%
chapters = report.chapters(run.work)
if len(chapters):
    display(
        Markdown(
            "Each chapter as a whole, when it last ran. A training that was finished before is "
            "loaded, not run again, and then costs no time here.\n\n" + report.markdown(chapters)
        )
    )

# %% [markdown]
# ## Limits

# %%
seeds = tested.groupby("variant")["seed"].nunique()
tuned_too = ""
if records.read_sweeps(run.work, "recipes"):
    tuned_too = ", but for the students of chapter 3b"
elif set(tested["variant"]) & {"student-small", "student-tiny"}:
    tuned_too = (
        "; `student-small` and `student-tiny` have recipes that another study, `minilm`, chose for its "
        "own teacher"
    )
several = ", ".join(f"`{variant}`" for variant in seeds[seeds > 1].index)
limits = {
    "The sentences are synthetic. What holds on them may fail on real ones.": study.synthetic,
    "The teacher had seen test sentences: absolute scores are too high.": study.teacher_saw_test,
    f"Folds that ran: {len(study.folds)}. With {study.sentences:,} test sentences, smaller "
    "differences than the intervals are wide stay unseen.": True,
    f"One seed a variant{f', but for {several}' if several else ''}: the luck of one training is in "
    "every other difference.": seeds.min() == 1,
    f"One teacher, `{study.model}`: a verdict names it, and holds for it alone.": True,
    "Learning rates, epochs and schedules were fixed, and not tuned again for each variant"
    f"{tuned_too}.": True,
    "Sentences have one label each, although annotators disagreed on some.": True,
}
Markdown("\n".join(f"- {limit}" for limit, holds in limits.items() if holds))

# %% [markdown]
# ## Where this comes from

# %%
Markdown(report.markdown(report.provenance(study)))

# %% [markdown]
# This page is [chapter 8](notebooks/fold0/08_report.ipynb), here with its code. The executed
# chapters before it, with the pictures and tables that each of them left:

# %%
Markdown(report.files(run.work))

# %% [markdown]
# All numbers: [results.csv](results.csv) has a row for each variant, fold and seed,
# [pooled.csv](pooled.csv) one for each variant. Definitions: Efron (1979) for the bootstrap, Yeh
# (2000) for the paired permutation, Holm (1979) for the correction, Guo et al. (2017) for ECE.

# %% tags=["not-in-report"]
run.finish()

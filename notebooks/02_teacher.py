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
# # 2. How good is the model that we are about to shrink?
#
# Chapter 1 settled which sentences are trained on, which are held out, and how small a difference
# they can show. This chapter makes the *teacher*: the fine-tuned encoder that every later chapter
# distils, quantises or prunes, and against which each of them is compared. A study of compression
# stands or falls with this model. If the teacher is weak, everything looks free; if it had already
# seen the test sentences, nothing that follows means what it seems to.
#
# | | |
# |---|---|
# | reads | sentences, folds and tokenizer of chapter 1 |
# | writes | the models' records and predictions, the teacher's weights |
# | takes | four epochs of fine-tuning; the last cell says how long that was here |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/02_teacher.ipynb)

# %% [markdown]
# ## What to expect
#
# Araci (2019) reports a macro-F1 of 0.95 for FinBERT on the PhraseBank sentences on which all
# annotators agree, and the seed study 0.888, on its validation part, for the same model on
# PhraseBank mixed with FiQA, whose posts and headlines are terser and whose scores are cut at an
# arbitrary 0.1. A six-layer encoder of a fifth of FinBERT's size should come close: fine-tuned on
# some 2,350 sentences we expect **0.85 to 0.90**. A bag of words and pairs of words knows the order
# of neighbours and no other, and should lose **some ten points**; always answering with the
# commonest class is the floor. Those three are the controls: a compressed model that falls to the
# level of a bag of words has been compressed for nothing.

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
import scipy.optimize
import scipy.special
from IPython.display import Markdown, display
from sklearn.dummy import DummyClassifier

from headcount import chapter, data, models, plots, stats, train

# %% tags=["parameters"]
# where
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# fixed: within the grid that Devlin et al. (2019) recommend for fine-tuning; not tuned here
epochs = 4
learning_rate = 5e-5
batch_size = 32

# %%
run = chapter.begin("02_teacher", globals())

# %% [markdown]
# ## The sentences of this fold
#
# The three parts have no group of near-duplicates in common. The validation part draws the curves
# below and fits one temperature; it chooses neither an epoch nor a model.

# %%
parts = run.split()
counts = pd.DataFrame(
    {name: part["label"].value_counts().sort_index() for name, part in vars(parts).items()}
)
counts.index = data.LABELS
counts.loc["all"] = counts.sum()
counts

# %% [markdown]
# Two of them, as the model will see them:

# %%
tokenizer = run.tokenizer()
for row in parts.train.iloc[[0, -1]].itertuples():
    print(f"[{row.source}, {data.LABELS[row.label]}] {row.text}")
    print("   ", " ".join(tokenizer.tokenize(row.text)), "\n")

# %% [markdown]
# ## Three controls
#
# **The majority class.** Macro-F1 averages over the three classes, so a model that knows one class
# alone gets a third of that class's F1, and no more.

# %%
majority = DummyClassifier(strategy="prior").fit(parts.train["text"], parts.train["label"])
log_probabilities = np.log(majority.predict_proba(parts.test["text"]))
run.score("majority", log_probabilities, parts.test, runtime="scikit-learn").macro_f1

# %% [markdown]
# **A bag of words.** Words and pairs of words, weighted by TF-IDF, under a logistic regression
# whose classes weigh the same. It fits in seconds, so that we can afford to see how much its score
# moves when nothing but the fold changes.


# %%
bag = models.bag_of_words().fit(parts.train["text"], parts.train["label"])
log_probabilities = bag.predict_log_proba(parts.test["text"])
run.score("tfidf", log_probabilities, parts.test, runtime="scikit-learn").macro_f1

# %%
spread = []
if run.facts["protocol"] == "folds":
    for k in range(run.facts["n_folds"]):
        other = data.split(run.sentences(), k)
        guesses = models.bag_of_words().fit(other.train["text"], other.train["label"])
        guesses = guesses.predict(other.test["text"])
        spread.append({"fold": k, "macro_f1": stats.macro_f1(other.test["label"], guesses)})
    spread = pd.DataFrame(spread)
    run.table(spread, "bag-of-words-by-fold")
    display(spread.set_index("fold").T.round(4))
    display(
        Markdown(
            f"The same recipe on {len(spread)} test parts: {spread['macro_f1'].min():.3f} to "
            f"{spread['macro_f1'].max():.3f}, a range of "
            f"**{100 * np.ptp(spread['macro_f1']):.1f} points** with nothing compressed at all."
        )
    )

# %% [markdown]
# Whoever compares two models on *different* splits is up against that range. Every comparison in
# this study is therefore paired: the same sentences, one model minus the other.
#
# **The pretrained model as published.** Some encoders come with a sentiment head of their own. Its
# labels are matched by name, because FinBERT's order is positive, negative, neutral, and ours is
# negative, neutral, positive. An encoder without such a head has nothing to say yet.

# %%
model = models.load_pretrained(
    run.facts["model"], tokenizer=tokenizer, revision=run.facts["model_revision"], seed=run.seed
).to(run.device)
if models.has_head(run.facts["model"], run.facts["model_revision"]):
    run.score("pretrained", run.predict(model, parts.test), parts.test, model=model)
    print("labels of the published head, as kept:", model.config.id2label)
else:
    print(f"{run.facts['model']} comes without a head for these labels: no row for it")

# %%
if run.facts["teacher_saw_test"]:
    display(
        Markdown(
            f"> **Contaminated.** `{run.facts['model']}` comes with a head for these labels: it was, "
            "or may have been, fine-tuned on PhraseBank before it was published, and may have met "
            "most of the test sentences. Its scores are shown to reproduce the seed study; no "
            "verdict rests on them."
        )
    )

# %% [markdown]
# ## The teacher
#
# Fine-tuning as everywhere else: all weights, AdamW, a linear warm-up over a tenth of the steps and
# a linear decay to zero. Batches hold sentences of like length and are padded to their own longest
# sentence. The last step is the model. There is no early stopping and no best epoch, since either
# would choose on sentences that later chapters use again.

# %%
recipe = train.Recipe(epochs, learning_rate, batch_size, seed=run.seed)
fitted = run.fit("teacher", model, recipe)
folder = run.save("teacher", fitted.model)
print(f"{fitted.steps} steps in {fitted.seconds:.0f} s")

# %%
curve = fitted.history
run.figure(
    plots.learning_curve(curve, title="The teacher learns"),
    "learning-curve",
    "Training and validation loss, and validation macro-F1, of the teacher by epoch",
    curve,
)

# %%
by_epoch = curve.dropna(subset="validation_loss")
Markdown(
    f"Validation loss is lowest after epoch {by_epoch['epoch'][by_epoch['validation_loss'].idxmin()]:.0f} "
    f"of {epochs} and macro-F1 highest after epoch "
    f"{by_epoch['epoch'][by_epoch['validation_macro_f1'].idxmax()]:.0f}. Where the two part, the "
    "model grows surer of itself faster than it grows better: that is what the calibration below "
    "is about. One curve on some hundreds of sentences does not show which epoch is best."
)

# %% [markdown]
# The test part is predicted once.

# %%
logits = run.predict(fitted.model, parts.test)
teacher = run.score(
    "teacher",
    logits,
    parts.test,
    model=fitted.model,
    folder=folder,
    fitted=fitted,
    baseline="tfidf",
)
standings = run.standings(
    ["majority", "tfidf", *(["pretrained"] if run.has("pretrained") else []), "teacher"]
)
run.table(standings, "standings")
standings.round(4)

# %%
run.figure(
    plots.scores(standings, title=f"Baselines and teacher, fold {run.fold}", reference="teacher"),
    "standings",
    "Macro-F1 with 95 percent intervals of the baselines and the teacher on this fold",
    standings,
)

# %%
gain = run.contrast("teacher", "tfidf")
Markdown(
    f"The teacher is **{100 * gain.diff:.1f} points** above the bag of words on the same "
    f"{gain.n} sentences (95 % interval {100 * gain.low:.1f} to {100 * gain.high:.1f}). The "
    f"intervals of single models in the figure are about "
    f"{50 * (standings['ci_high'] - standings['ci_low']).iloc[-1]:.1f} points to each side: they "
    "are the price of one fold, and may overlap where the paired difference is clear of 0."
)

# %% [markdown]
# ## Where it is right and where it is wrong

# %%
guesses = logits.argmax(1)
labels = parts.test["label"].to_numpy()
confusion = pd.DataFrame(
    [
        (i, j, n)
        for i, row in enumerate(stats.group_counts(labels, guesses).sum(0))
        for j, n in enumerate(row)
    ],
    columns=["label", "prediction", "n"],
)
run.figure(
    plots.confusion_matrix(confusion, title="The teacher's answers on the test part"),
    "confusion",
    "Confusion matrix of the teacher on the test part",
    confusion,
)

# %%
wrong = guesses != labels
opposite = np.abs(guesses - labels) == 2
Markdown(
    f"Of {wrong.sum()} errors, {opposite.sum()} take positive for negative or the reverse; the "
    "others are about whether a sentence is neutral at all, which is also where human annotators "
    "part. The matrix does not show how sure the model was."
)

# %% [markdown]
# By class, by source, and without the sentences whose publishers give them conflicting labels:

# %%
rows = [{"part": "all", "sentences": len(labels), "macro_f1": teacher.macro_f1}]
selections = {
    f"source: {name}": parts.test["source"] == name for name in parts.test["source"].unique()
}
if parts.test["conflict"].any():
    selections["without conflicting labels"] = ~parts.test["conflict"]
for name, chosen in selections.items():
    score = stats.macro_f1(labels[chosen], guesses[chosen])
    rows.append({"part": name, "sentences": int(chosen.sum()), "macro_f1": score})
for name in data.LABELS:
    n = int((labels == data.LABELS.index(name)).sum())
    rows.append(
        {"part": f"F1 of {name}", "sentences": n, "macro_f1": getattr(teacher, f"f1_{name}")}
    )
by_part = pd.DataFrame(rows)
run.table(by_part, "by-part")
by_part.round(4)

# %% [markdown]
# ## Does it know when it is wrong?
#
# Each bin of the diagram holds the sentences to which the model gave about that probability. A
# calibrated model lies on the diagonal. The expected calibration error (ECE) is the mean distance
# from it, weighted by sentences.

# %%
probabilities = scipy.special.softmax(logits.astype(float), axis=1)
reliability = stats.reliability(labels, probabilities)
run.figure(
    plots.reliability(reliability, title="Confidence of the teacher", ece=teacher.ece),
    "reliability",
    "Reliability diagram of the teacher on the test part",
    reliability,
)

# %% [markdown]
# Guo et al. (2017) mend it with one number: divide all logits by a temperature that is fitted on
# the validation part. It changes no prediction, so macro-F1 stays exactly as it is.


# %%
def negative_log_likelihood(temperature, logits, labels):
    log_p = scipy.special.log_softmax(logits / temperature, axis=1)
    return -log_p[np.arange(len(labels)), labels].mean()


held_out = run.predict(fitted.model, parts.validation)
temperature = scipy.optimize.minimize_scalar(
    negative_log_likelihood,
    bounds=(0.1, 10),
    args=(held_out.astype(float), parts.validation["label"].to_numpy()),
).x
cooled = scipy.special.softmax(logits / temperature, axis=1)
assert (cooled.argmax(1) == guesses).all()

# %%
left = stats.ece(labels, cooled) / teacher.ece
Markdown(
    f"Fitted on validation, T = {temperature:.2f}. Expected calibration error on the test part: "
    f"{teacher.ece:.3f} as trained, **{stats.ece(labels, cooled):.3f}** with the temperature. "
    + (f"One number mends {1 - left:.0%} of it." if left < 1 else "It does not help here.")
)

# %% [markdown]
# ## Ten errors worth reading
#
# The ten of which the teacher was most certain. Whose error each of them is, the model's or the
# annotators', is for the reader to judge.

# %%
surest = np.argsort(np.where(wrong, -probabilities.max(1), 0))[: min(10, wrong.sum())]
for i in surest:
    row = parts.test.iloc[i]
    print(
        f"[{row['source']}] said {data.LABELS[guesses[i]]} ({probabilities[i].max():.2f}), "
        f"labelled {data.LABELS[labels[i]]}\n    {row['text']}\n"
    )

# %% [markdown]
# ## An attempt to break it
#
# Predictions must not depend on what a sentence is batched with, or every later comparison would
# measure the batching too. Scored one by one, without any padding, the logits should be the same
# up to rounding.

# %%
alone = train.predict(fitted.model, run.tokenize(parts.test.head(64)), tokenizer, batch_size=1)
difference = np.abs(alone - logits[:64]).max()
assert difference < 1e-3
print(f"largest difference of a logit, alone against batched: {difference:.1e}")

# %% [markdown]
# ## The answer

# %%
real = run.facts["corpus"] == "phrasebank-fiqa"
kin = (
    f" (a lower bound here, where {teacher.n} sentences come in "
    f"{parts.test['group'].nunique()} template families)"
)
Markdown(
    f"The teacher of this fold reaches a macro-F1 of **{teacher.macro_f1:.3f}** on "
    f"{teacher.n} test sentences (95 % interval {standings['ci_low'].iloc[-1]:.3f} to "
    f"{standings['ci_high'].iloc[-1]:.3f}), {100 * gain.diff:.1f} points above a bag of words. It has "
    f"{teacher.params:,} parameters, {teacher.heads_total} attention heads in {teacher.layers} layers, "
    f"and takes {teacher.size_mb:.1f} MB. Training took {fitted.seconds:.0f} s. How "
    f"small a difference some 500 sentences can show, chapter 1 simulated{'' if real else kin}; the "
    "report pools the folds."
)

# %%
as_good = "inside" if 0.85 <= teacher.macro_f1 <= 0.90 else "outside"
as_far = "inside" if gain.low <= 0.10 <= gain.high else "outside"
made_for = (
    " Both were expected of six layers and real sentences; these are "
    f"{teacher.layers} layers and the corpus `{run.facts['corpus']}`."
)
Markdown(
    f"Expected of the teacher: 0.85 to 0.90; found: {teacher.macro_f1:.3f}, **{as_good}**. Expected "
    f"above the bag of words: ten points; found: {100 * gain.diff:+.1f}, with the ten **{as_far}** "
    f"its interval.{'' if real and teacher.layers == 6 else made_for}"
)

# %% [markdown]
# Do not use such a teacher where sentences are about several companies at once: it has one answer
# a sentence, and the labels of FiQA show that one is not always enough.
#
# **Next:** what does this model know that its labels do not say? Chapter 3 trains students on both.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Araci (2019). FinBERT: financial sentiment analysis with pre-trained language models.
#   arXiv:1908.10063.
# - Devlin, Chang, Lee and Toutanova (2019). BERT: pre-training of deep bidirectional transformers
#   for language understanding. NAACL.
# - Guo, Pleiss, Sun and Weinberger (2017). On calibration of modern neural networks. ICML.
# - Wang, Wei, Dong, Bao, Yang and Zhou (2020). MiniLM: deep self-attention distillation for
#   task-agnostic compression of pre-trained transformers. NeurIPS.

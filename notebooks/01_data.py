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
# # 1. How small a difference can these sentences show?
#
# A study that inspired this one removed half of the attention heads of a financial-sentiment model
# and reported that it got *better*, by 0.9 points of macro-F1, on the validation part that had also
# chosen the heads. Of its 506 test sentences the pruned model gets 467 right and the whole one 469.
# Before anything is distilled, quantised or pruned, this chapter looks at the sentences themselves:
# where they come from, who agreed on their labels, which of them are nearly the same, which the
# model may have met before. Then it asks the question on which all later ones depend. If two models
# differ by 0.9 points, would these sentences show it?
#
# | | |
# |---|---|
# | reads | Financial PhraseBank, FiQA, Twitter financial news; or the synthetic corpus |
# | writes | the labelled sentences with groups and folds, the tokenizer, the study's facts |
# | takes | a few minutes on two cores, mostly for the simulations at the end |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/01_data.ipynb)

# %% [markdown]
# ## What to expect
#
# - **Padding.** Sentences of news are short. Padded to 128 tokens, as the seed study does it, we
#   expect some three quarters of all positions to be padding.
# - **Leaks.** Elangovan, He and Verspoor (2021) found test sets of which a large part overlaps with
#   the training set, and scores that rest on it. News agencies repeat themselves; we expect **a few
#   per cent** of the test sentences to have a near-duplicate in a randomly drawn training part.
# - **Contamination.** `ProsusAI/finbert` was fine-tuned on 90 % of 80 % of PhraseBank. Any new test
#   part should therefore consist of **72 %** sentences that it was trained on, and 8 % on which its
#   checkpoint was chosen.
# - **Resolution.** If two models disagree on a share $d$ of $n$ sentences, the difference of their
#   accuracies has a standard error of at most $\sqrt{d/n}$. To be seen in four studies of five at
#   the 5 % level it must be $(1.96 + 0.84)\sqrt{d/n}$. With $d$ = 5 %, that is **2.8 points** for
#   506 sentences and **1.1** for 3,030.

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
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from scipy.stats import norm
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)

from headcount import chapter, data, models, plots, stats
from headcount import corpus as synthetic

# %% tags=["parameters"]
# where
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# studied
corpus = "synthetic"
sentences = 3000
model = "minilm"
model_revision = None
# fixed
n_folds = 5
protocol = "folds"
max_length = 128
simulated_studies = 400
# makes the corpus, the tune part and the folds. `seed` does not: runs with other seeds are tested on
# the same sentences
split_seed = 0

# %%
run = chapter.begin("01_data", globals())

# %% [markdown]
# ## The sentences
#
# One loader reads either corpus. PhraseBank (Malo et al. 2014) gives its sentences at four levels of
# agreement, and the study takes those on which all annotators agree. FiQA's scores are cut at ±0.1
# into three classes. What is not labelled for the study, PhraseBank's lower levels and Twitter, is
# kept beside it: for the grouping below, and for later chapters.

# %%
found = data.assemble(
    corpus,
    data_dir=run.data_dir,
    cache=run.artifacts / "data",
    sentences=sentences,
    seed=split_seed,
)
labelled, others = found
real = corpus == "phrasebank-fiqa"
everything = pd.concat([labelled, others], ignore_index=True)
pd.crosstab(labelled["source"], labelled["label"].map(dict(enumerate(data.LABELS))), margins=True)

# %%
if not real:
    display(
        Markdown(
            "> **Synthetic.** These sentences were made by a grammar, their companies are invented, "
            "and their annotators are simulated. They exercise the whole study without a download. "
            "No score on them says anything about real news."
        )
    )

# %% [markdown]
# Two of them, with their source:

# %%
for row in labelled.groupby("source").head(1).tail(1).itertuples():
    print(f"[{row.source}, {data.LABELS[row.label]}] {row.text}\n")
first = labelled[labelled["label"] == 0].iloc[0]
print(f"[{first['source']}, {data.LABELS[first['label']]}] {first['text']}")

# %%
if real:
    several = labelled["conflict"].sum()
    print(f"{several} FiQA sentences are about several companies and have conflicting labels;")
    print("they keep the first label and a flag. One of them:")
    print(" ", labelled.loc[labelled["conflict"], "text"].iloc[0])

# %% [markdown]
# ### Classes

# %%
outside = others[others["source"].str.startswith("twitter")]
mix = pd.concat([labelled, outside]).groupby(["source", "label"], as_index=False).size()
mix = mix.rename(columns={"size": "n"})
run.figure(
    plots.class_shares(mix, title="Classes by source"),
    "classes",
    "Share of negative, neutral and positive sentences in each source",
    mix,
)

# %%
shares = labelled["label"].value_counts(normalize=True).sort_index().to_numpy()
Markdown(
    f"Always answering *neutral* would be right on {shares[1]:.0%} of the labelled sentences. "
    f"Macro-F1 weighs the {shares[0]:.0%} that are negative as much as either other class, and that "
    "makes it a noisy score. The bars do not show how hard a class is."
)

# %% [markdown]
# ### Agreement
#
# Five to eight people labelled each sentence of PhraseBank. A sentence is counted here at the
# highest level that it reached.

# %%
voted = pd.concat([labelled, others]).dropna(subset="agreement")
names = {100: "all agree", 75: "75 % and more", 66: "66 % and more", 50: "50 % and more"}
levels = voted.groupby(["agreement", "label"], as_index=False).size().rename(columns={"size": "n"})
levels = levels.sort_values("agreement", ascending=False).assign(
    source=lambda frame: frame["agreement"].map(names)
)
run.figure(
    plots.class_shares(levels, title="Classes by agreement of the annotators"),
    "agreement",
    "Share of the classes among sentences with full and with lower agreement",
    levels[["source", "label", "n"]],
)

# %%
neutral = levels[levels["label"] == 1].set_index("agreement")["n"]
neutral = neutral / levels.groupby("agreement")["n"].sum()
Markdown(
    f"{(voted['agreement'] == 100).mean():.0%} of the voted sentences are unanimous; "
    f"{neutral[100]:.0%} of those are neutral, {neutral[50]:.0%} of the least certain ones. A study "
    "on unanimous sentences alone is a study of the easy ones. What the annotators would have said "
    "with a context longer than one sentence cannot be seen here."
)

# %% [markdown]
# A grammar knows what its sentences mean, so on the synthetic corpus the annotators can be marked.

# %%
if not real:
    path = run.artifacts / "data" / f"synthetic-{sentences}-{split_seed}.zip"
    key = synthetic.read_groups(path).set_index("sentence")["truth"]
    wrong = voted["label"].map(dict(enumerate(data.LABELS))) != voted["text"].map(key)
    wrong = wrong.groupby(voted["agreement"].map(names), sort=False).agg(["size", "mean"])
    wrong = wrong.loc[[name for name in names.values() if name in wrong.index]]
    wrong.columns = ["sentences", "share wrong"]
    display(wrong.round(3))
else:
    print("These annotators were real: there is nothing to mark them by.")

# %% [markdown]
# ## Tokens, and the cost of padding
#
# A transformer works on token positions, filled or not. Padding $m$ sentences of $n_1 \dots n_m$
# tokens to $N$ positions wastes the share $1 - \sum_i n_i / (m N)$ of the work.

# %%
tokenizer = models.pretrained_tokenizer(model, labelled["text"], model_revision)
tokens = data.tokenize(labelled["text"], labelled["label"], tokenizer, max_length)
lengths = pd.DataFrame({"source": labelled["source"], "tokens": tokens.lengths})
run.figure(
    plots.lengths(lengths, title="Lengths of the labelled sentences", padded_to=max_length),
    "lengths",
    "Histogram of sentence lengths in tokens, far below the length they are padded to",
    lengths.value_counts(["source", "tokens"]).reset_index(name="n").sort_values("tokens"),
)


# %%
def wasted(lengths, batch_size, to=None):
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    positions = sum(len(batch) * (to or batch.max()) for batch in batches)
    return 1 - lengths.sum() / positions


waste = {
    f"padded to {max_length}": wasted(tokens.lengths, 32, max_length),
    "padded to the batch's longest": wasted(tokens.lengths, 32),
    "the same, batches of like length": wasted(np.sort(tokens.lengths), 32),
}
pd.Series(waste, name="positions that are padding").map("{:.1%}".format).to_frame()

# %%
Markdown(
    f"Sentences have {tokens.lengths.mean():.1f} tokens on average, and "
    f"{(tokens.lengths == max_length).sum()} of them reach {max_length}, where longer ones are cut. "
    f"Padded to {max_length}, {next(iter(waste.values())):.0%} of the work is done on nothing, so this "
    "study pads by batch, in batches of like length. The table counts positions, not milliseconds: "
    "chapter 7 measures those."
)

# %% [markdown]
# ## The same sentence twice
#
# Two sentences are *near-duplicates* here when the sets of their character 5-grams, after lower-casing
# and dropping punctuation but **keeping digits**, have a Jaccard index of 0.7 and more:
#
# $$J(A, B) = \frac{|A \cap B|}{|A \cup B|} \ge 0.7$$


# %%
def jaccard(one, other):
    one, other = data.shingles(one), data.shingles(other)
    return len(one & other) / len(one | other)


said = "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn ."
for again in (
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn in 2006 .",
    "Operating profit fell to EUR 8.7 mn from EUR 13.1 mn .",
):
    print(f"{jaccard(said, again):.2f}  {again}")

# %% [markdown]
# The measure counts letters and knows nothing of meaning. Sentences linked by it form a *group* with
# everything they are linked to in turn, and no group is ever cut by a split. Slow and plain, on the
# first sentences, against the library:

# %%
few = [*labelled["text"].head(200), *labelled["text"].head(5).str.upper()]
slow = list(range(len(few)))
for i, text in enumerate(few):
    for j in range(i):
        if jaccard(text, few[j]) >= 0.7:
            slow = [slow[j] if g == slow[i] else g for g in slow]
assert (pd.factorize(np.array(slow))[0] == data.group_near_duplicates(few)).all()
print(f"{len(few)} sentences, {len(set(slow))} groups, found both ways")

# %% [markdown]
# On the real corpus the groups run over all sources at once. The synthetic corpus brings its own,
# much coarser ones: a group is all sentences of one template, so that a test sentence is built in
# a way that training never showed.

# %%
sizes = labelled.groupby("group").size()
mixed = (labelled.groupby("group")["label"].nunique() > 1).sum()
print(f"{len(labelled)} labelled sentences in {len(sizes)} groups;")
print(f"{(sizes > 1).sum()} groups have several sentences, the largest {sizes.max()}, and in")
print(
    f"{mixed} groups the labels differ. {others['group'].isin(sizes.index).sum()} of the "
    f"{len(others)} other sentences belong to one of them. From the largest:"
)
for row in labelled[labelled["group"] == sizes.idxmax()].head(3).itertuples():
    print(f"  [{row.source}, {data.LABELS[row.label]}] {row.text}")

# %% [markdown]
# ### The control: a split that ignores all this
#
# The usual way, and the seed study's, is to draw 15 % at random for testing, by class. How similar is
# each test sentence to the nearest sentence that is trained on? We look that up for the random split
# and for the first fold of this study's own.

# %%
labelled = data.assign_folds(labelled, n_folds, seed=split_seed)
splits = {
    "random split": data.seed_split(labelled),
    "split by groups": data.split(labelled, 0),
}


def nearest(test, train):
    """Largest Jaccard index of each test sentence with a training sentence."""
    grams = CountVectorizer(
        analyzer="char", ngram_range=(5, 5), preprocessor=data.normalize, binary=True
    ).fit([*test, *train])
    one, other = grams.transform(test), grams.transform(train)
    common = (one @ other.T).toarray()
    sizes = np.add.outer(np.ravel(one.sum(1)), np.ravel(other.sum(1)))
    return (common / (sizes - common)).max(1)


# %%
rows = []
for name, parts in splits.items():
    similarity = nearest(parts.test["text"], parts.train["text"])
    together = parts.test["group"].isin(parts.train["group"])
    rows.append(pd.DataFrame({"split": name, "similarity": similarity, "group": together}))
leaks = pd.concat(rows, ignore_index=True)
leaks["near_duplicate"] = leaks["similarity"] >= 0.7
table = leaks.groupby("split", sort=False).agg(
    test_sentences=("similarity", "size"),
    with_near_duplicate_in_train=("near_duplicate", "sum"),
    with_their_group_in_train=("group", "sum"),
)
run.table(table.reset_index(), "leaks")
table

# %%
with plots.style():
    figure = Figure(figsize=(plots.WIDTH, 3.6), layout="constrained")
    ax = figure.subplots()
    bins = np.arange(0, 1.0001, 0.05)
    colours = ["#D55E00", "#0072B2"]
    for (name, part), colour in zip(leaks.groupby("split", sort=False), colours, strict=True):
        ax.hist(
            part["similarity"], bins, weights=np.full(len(part), 1 / len(part)),
            histtype="step", linewidth=2, color=colour, label=name,
        )  # fmt: skip
    ax.axvline(0.7, color="#222", linestyle="--", linewidth=1.2)
    ax.text(0.71, ax.get_ylim()[1] * 0.92, "near-duplicate")
    ax.set(xlabel="similarity to the nearest training sentence", ylabel="share of test sentences")
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.85))
    ax.set_title("Test sentences that training has nearly seen")
run.figure(figure, "leaks", "Similarity of test sentences to training sentences, two splits", leaks)

# %%
Markdown(
    f"{table.iloc[0, 1]} of {table.iloc[0, 0]} randomly drawn test sentences "
    f"({table.iloc[0, 1] / table.iloc[0, 0]:.1%}) have a near-duplicate in the training part, and "
    f"{table.iloc[1, 1]} of {table.iloc[1, 0]} when groups are kept whole. The figure does not show "
    "whether a model gains from it. That is tried next."
)

# %% [markdown]
# ### An attempt to break it
#
# If leaks mattered, a model that can only memorise words should score better on random folds than on
# folds by groups. All sentences are predicted once each way.

# %%
bag = models.bag_of_words()
texts, labels, groups = (labelled[column] for column in ("text", "label", "group"))
at_random = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(texts, labels)
whole = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(texts, labels, groups)
guesses = {
    "random folds": cross_val_predict(bag, texts, labels, cv=list(at_random)),
    "folds by groups": cross_val_predict(bag, texts, labels, cv=list(whole)),
}
gain = stats.paired_difference(labels, *guesses.values(), groups)
Markdown(
    "A bag of words gains "
    f"**{100 * gain.diff:.1f} points** of macro-F1 from random folds (95 % interval over groups "
    f"{100 * gain.low:.1f} to {100 * gain.high:.1f}). "
    + (
        "An interval that holds 0 says that grouping is a precaution here, not a rescue."
        if gain.low <= 0 <= gain.high
        else "Scores from random folds and from folds by groups are not the same measurement."
    )
)

# %%
guess = guesses["folds by groups"]
for i in np.flatnonzero(guess != labelled["label"])[:3]:
    row = labelled.iloc[i]
    print(f"said {data.LABELS[guess[i]]}, labelled {data.LABELS[row['label']]}: {row['text']}\n")

# %% [markdown]
# A bag of words cannot take the direction of one word together with another word far from it. A
# pretrained encoder can; whether it mends errors like these is for chapter 2 to show.

# %% [markdown]
# ## The split
#
# A tenth of the groups, the *tune part*, is in no test part ever: grids choose on it. The rest is cut
# into folds. Every later chapter reads this assignment, and nothing else decides who is tested on what.

# %%
by_fold = pd.crosstab(
    labelled["fold"].replace({data.TUNE: "tune"}),
    labelled["label"].map(dict(enumerate(data.LABELS))),
)
by_fold["sentences"] = by_fold.sum(axis=1)
by_fold["groups"] = labelled.groupby(labelled["fold"].replace({data.TUNE: "tune"}))[
    "group"
].nunique()
run.table(by_fold.reset_index(), "folds")
by_fold

# %%
assert (labelled.groupby("group")["fold"].nunique() == 1).all()
for k in range(n_folds):
    parts = vars(data.split(labelled, k)).values()
    assert sum(part["group"].nunique() for part in parts) == len(sizes)
print(
    f"no group is cut: not by the folds, the tune part, or any fold's validation part ({protocol=})"
)

# %% [markdown]
# ## Had the teacher seen the test?
#
# FinBERT's authors publish the script that cut PhraseBank for them: 20 % of `Sentences_50Agree.txt`
# for testing, then 10 % of the rest for validation, both with `random_state=0`. The split can be
# rebuilt, and checked: the log of a run of theirs, in the same repository, gives the sizes of the
# parts and the first sentence of two of them.

# %%
if real:
    bank = data.load_phrasebank(data.locate(data.PHRASEBANK, run.data_dir), level=50)
    rest, theirs_test = train_test_split(bank, test_size=0.2, random_state=0)
    theirs_train, theirs_valid = train_test_split(rest, test_size=0.1, random_state=0)
    assert (len(theirs_train), len(theirs_valid)) == (3488, 388)
    assert theirs_train["text"].iloc[0].startswith("After the reporting period , BioTie")
    assert theirs_valid["text"].iloc[0].startswith("Our in-depth expertise extends to")
    print("rebuilt: sizes and first sentences are those of the authors' log")
else:
    print("The synthetic corpus holds no PhraseBank sentence: there is nothing to rebuild.")


# %%
def history(frame):
    """What FinBERT's authors had done with each sentence."""
    status = pd.Series("not in PhraseBank", index=frame.index)
    status[frame["text"].isin(theirs_test["text"])] = "held out by them"
    status[frame["text"].isin(theirs_valid["text"])] = "chose their checkpoint"
    status[frame["text"].isin(theirs_train["text"])] = "trained on"
    return status


if real:
    tested = {"this study's folds": labelled[labelled["fold"] != data.TUNE]}
    tested |= {"seed study's test part": splits["random split"].test}
    seen = pd.DataFrame({name: history(part).value_counts() for name, part in tested.items()})
    run.table(seen.rename_axis("finbert").reset_index(), "contamination")
    display(seen)

# %%
if real:
    trained = seen.loc["trained on"]
    share = trained / (seen.sum() - seen.loc["not in PhraseBank"])
    display(
        Markdown(
            f"`ProsusAI/finbert` had been trained on **{trained.iloc[1]} of the seed study's "
            f"{seen.iloc[:, 1].sum()} test sentences**, {share.iloc[1]:.0%} of those from PhraseBank, "
            f"and on {trained.iloc[0]} of the {seen.iloc[:, 0].sum()} tested here ({share.iloc[0]:.0%}). "
            "No verdict of this study rests on that teacher. The table counts equal sentences; "
            "near-duplicates come on top."
        )
    )

# %% [markdown]
# ## What can be seen at all
#
# Now the question of this chapter. Two models with an accuracy of 0.9 answer the same $n$ sentences,
# each of them a group of its own, and disagree on a share $d$. We simulate such studies, take the
# paired bootstrap interval of the difference in macro-F1 that all chapters use, and look for the
# smallest true difference that the interval tells from 0 in four studies of five.

# %%
tested_n = int((labelled["fold"] != data.TUNE).sum())
rows = []
for n in sorted({506, tested_n}):
    for disagreement in (0.02, 0.05, 0.1):
        seen_from = stats.detectable_difference(
            n, shares, 0.9, disagreement, studies=simulated_studies, seed=seed
        )
        rule = (norm.ppf(0.975) + norm.ppf(0.8)) * np.sqrt(disagreement / n)
        row = {"n": n, "disagreement": disagreement, "rule_of_thumb": rule}
        rows.append(row | {"simulated": seen_from})
resolution = pd.DataFrame(rows)
run.table(resolution, "resolution")
resolution.round(4)

# %%
with plots.style():
    figure = Figure(figsize=(plots.WIDTH, 3.8), layout="constrained")
    ax = figure.subplots()
    for (n, part), colour in zip(resolution.groupby("n"), ["#D55E00", "#0072B2"], strict=True):
        x = 100 * part["disagreement"]
        ax.plot(
            x, 100 * part["simulated"], "o-", color=colour, label=f"{n:,} independent sentences"
        )
        ax.plot(x, 100 * part["rule_of_thumb"], ":", color=colour)
    ax.plot([], [], ":", color="#777", label="rule of thumb")
    ax.axhline(0.9, color="#222", linestyle="--", linewidth=1.2)
    ax.text(10, 0.93, "what the seed study reports", ha="right", va="bottom")
    ax.set(xlabel="sentences on which two models disagree, in %", ylim=(0, None))
    ax.set_ylabel("smallest difference seen, points")
    ax.set_title("What a test part can show, in points of macro-F1")
    ax.legend(loc="upper left")
run.figure(figure, "resolution", "Smallest detectable difference by disagreement", resolution)

# %%
small = resolution[resolution["n"] == 506]["simulated"]
large = resolution[resolution["n"] == tested_n]["simulated"]
over = resolution["simulated"] / resolution["rule_of_thumb"]
Markdown(
    f"With 506 such sentences the smallest difference that shows is between {100 * small.min():.1f} and "
    f"{100 * small.max():.1f} points, with {tested_n:,} between {100 * large.min():.1f} and "
    f"{100 * large.max():.1f}. Models that agree more are easier to tell apart by a given "
    "difference. The rule of thumb is about accuracy, and macro-F1 gives the rarest class a third of "
    f"the weight: what is simulated is {over.min():.2f} to {over.max():.2f} times the rule's. "
    "Neither contains what another seed would change."
)

# %% [markdown]
# ## What the other chapters read
#
# A teacher that comes with a head for our three labels counts as one that saw the test sentences,
# wherever they are PhraseBank's: in a local folder, FinBERT cannot be told by its name.

# %%
teacher_saw_test = real and models.saw_phrasebank(model, model_revision)
tokenizer.save_pretrained(run.artifacts / "data" / "tokenizer")
facts = {
    "corpus": corpus,
    "synthetic": not real,
    "model": model,
    "model_revision": model_revision,
    "model_commit": models.published_commit(model, model_revision),
    "split_seed": split_seed,
    "teacher_saw_test": teacher_saw_test,
    "protocol": protocol,
    "n_folds": n_folds,
    "max_length": max_length,
    "mean_tokens": float(tokens.lengths.mean()),
}
data.save(run.artifacts / "data", data.Corpus(labelled, others), facts)
pd.Series(run.facts, name="fact").to_frame()

# %% [markdown]
# ## The answer

# %%
middle = resolution[resolution["disagreement"] == 0.05].set_index("n")["simulated"]
visible = resolution[resolution["simulated"] <= 0.009]
families = labelled.loc[labelled["fold"] != data.TUNE, "group"].nunique()
kin = (
    f" The {tested_n:,} test sentences of this corpus are not independent: they come in {families} "
    "template families, the sentences of a family share their fate, and for them the figure is a "
    "lower bound."
)
Markdown(
    f"If two models disagree on 5 % of the sentences, 506 independent ones show a difference of "
    f"**{100 * middle[506]:.1f} points** of macro-F1 and {tested_n:,}, as many as are tested here, "
    f"one of **{100 * middle[tested_n]:.1f}**.{'' if real else kin} The 0.9 points that the seed "
    "study reports are "
    + (
        "below both."
        if visible.empty
        else "visible only with "
        + " and ".join(
            f"{n:,} independent sentences and a disagreement of at most {part['disagreement'].max():.0%}"
            for n, part in visible.groupby("n")
        )
        + "."
    )
    + " This study therefore predicts every sentence once, pools the folds, and compares in pairs. "
    "Where an interval still contains 0 it says how large a difference could have hidden in it."
)

# %% [markdown]
# Do not use these numbers for sentences that come in large groups: a group may count for little
# more than one sentence. And all of it is conditional on the models as trained; only more seeds
# tell how much of a difference is luck in training.
#
# **Next:** how good is the model that we are about to shrink? Chapter 2 trains it.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Araci (2019). FinBERT: financial sentiment analysis with pre-trained language models.
#   arXiv:1908.10063. Its split: `scripts/datasets.py` and `notebooks/finbert_training.ipynb` of
#   github.com/ProsusAI/finBERT.
# - Elangovan, He and Verspoor (2021). Memorization vs. generalization: quantifying data leakage in NLP
#   performance evaluation. EACL.
# - Maia, Handschuh, Freitas, Davis, McDermott, Zarrouk and Balahur (2018). WWW'18 open challenge:
#   financial opinion mining and question answering. WWW Companion.
# - Malo, Sinha, Korhonen, Wallenius and Takala (2014). Good debt or bad debt: detecting semantic
#   orientations in economic texts. JASIST 65(4).

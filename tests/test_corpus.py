"""The synthetic corpus against rules written down a second time, and against a bag of words."""

import csv
import io
import itertools
import re
import zipfile

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from headcount import corpus, models
from headcount.data import group_near_duplicates
from headcount.errors import InputError

FOLDER = "FinancialPhraseBank-v1.0"
LEVELS = ("50", "66", "75", "All")  # from many sentences to few
LABELS = ["negative", "neutral", "positive"]

# The oracle's own idea of what is good, and of what goes up.
GOOD = ["net sales", "operating profit", "pretax profit", "order intake", "revenue", "cash flow"]
GOOD += ["market share", "deliveries", "subscriber numbers"]
BAD = ["operating costs", "net debt", "net loss", "loan losses", "interest expenses"]
BAD += ["defect rate", "staff turnover", "complaints"]
UP = "rose|risen|rising|rise|grew|grown|growing|grow|increased?|increasing|climb(?:ed|ing)?"
UP += "|went up|go up|surged?"
DOWN = "fell|fallen|falling|fall|declin(?:ed|ing|e)|decreas(?:ed|ing|e)|dropp?(?:ed|ing)?"
DOWN += "|went down|go down|narrowed?"
AMOUNT = r"EUR (\d+\.\d) mn|(\d+\.\d) %|\b(\d{1,3}(?:,\d{3})+|\d{3})\b"


def read(path):
    """The zip as four lists of (sentence, label) and a dict sentence -> (group, truth)."""
    with zipfile.ZipFile(path) as archive:
        levels = {}
        for name in LEVELS:
            content = archive.read(f"{FOLDER}/Sentences_{name}Agree.txt")
            assert content.endswith(b"\r\n")
            lines = content.decode("latin-1").removesuffix("\r\n").split("\r\n")
            levels[name] = [tuple(line.split("@")) for line in lines]
        rows = csv.DictReader(io.StringIO(archive.read(corpus.GROUPS_MEMBER).decode("utf-8")))
        return levels, {row["sentence"]: (row["group"], row["truth"]) for row in rows}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return read(corpus.write(tmp_path_factory.mktemp("corpus") / "a.zip", 3000, seed=0))


@pytest.fixture(scope="module")
def agreed(written):
    """Sentences, labels and groups on which all annotators agree, as arrays."""
    levels, groups = written
    texts, labels = zip(*levels["All"], strict=True)
    return np.array(texts), np.array(labels), np.array([groups[text][0] for text in texts])


@pytest.fixture(scope="module")
def folds(agreed):
    texts, labels, groups = agreed
    return list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(texts, labels, groups))


def of_kind(written, kind):
    """(family, sentence, true label) of one kind of families, votes left out."""
    found = [(g, s, t) for s, (g, t) in written[1].items() if g.rsplit("-", 1)[0] == kind]
    assert found
    return found


def matches(words, text):
    return re.findall(rf"\b(?:{'|'.join(words)})\b", text, re.IGNORECASE)


def news(text):
    """+1 for more of a good thing or less of a bad one, -1 for the reverse, None if unsure."""
    good, bad = matches(GOOD, text), matches(BAD, text)
    up, down = matches([UP], text), matches([DOWN], text)
    if len(good) + len(bad) != 1 or len(up) + len(down) != 1:
        return None
    return (1 if good else -1) * (1 if up else -1)


# --- the file -----------------------------------------------------------------------------------


def test_same_seed_same_bytes(tmp_path):
    names = [corpus.write(tmp_path / name, 150, seed) for name, seed in (("a", 1), ("b", 1))]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert corpus.write(tmp_path / "c", 150, 2).read_bytes() != names[0].read_bytes()


def test_layout_is_the_publishers(written):
    levels, groups = written
    assert len(levels["All"]) == 3000
    for name, rows in levels.items():
        assert len({text for text, _ in rows}) == len(rows), f"{name} repeats a sentence"
        assert {label for _, label in rows} == set(LABELS)
        assert all(text in groups for text, _ in rows)
    for more, fewer in itertools.pairwise(LEVELS):
        assert set(levels[fewer]) < set(levels[more])
    assert set(groups) == {text for text, _ in levels["50"]}
    assert any(ord(letter) > 127 for text in groups for letter in text), "nothing tests Latin-1"


def test_sentences_are_well_formed(written):
    for text in written[1]:
        assert not re.search(r"[{}\[\]|@]|\s\s|\ba [aeiou]|, \.|\bNone\b", text), text
        assert text.endswith(" .")


def test_at_least_one_sentence():
    with pytest.raises(InputError, match="corpus of 0 sentences"):
        corpus.generate(0, seed=0)


# --- labels -------------------------------------------------------------------------------------


def test_class_shares(agreed):
    shares = {name: np.mean(agreed[1] == name) for name in LABELS}
    assert shares["neutral"] == pytest.approx(0.45, abs=0.05)
    assert shares["positive"] == pytest.approx(0.35, abs=0.05)
    assert shares["negative"] == pytest.approx(0.20, abs=0.05)


def test_agreement_tells_how_noisy_the_labels_are(written):
    levels, groups = written
    rows = {name: set(levels[name]) for name in LEVELS}
    bands = [rows["50"] - rows["66"], rows["66"] - rows["All"], rows["All"]]
    noise = [np.mean([label != groups[text][1] for text, label in band]) for band in bands]
    assert noise[0] > noise[1] > noise[2]
    assert noise[0] > 0.1
    assert noise[2] < 0.01


@pytest.mark.parametrize(("kind", "sense"), [("trend", 1), ("hedge", 1), ("flip", -1)])
def test_two_words_decide(written, kind, sense):
    checked = {"positive": 0, "negative": 0}
    for _, text, truth in of_kind(written, kind):
        if sign := news(text):
            assert truth == ("positive" if sign * sense > 0 else "negative"), text
            checked[truth] += 1
    assert min(checked.values()) >= 5


def test_larger_number_is_good_or_bad_news(written):
    checked = dict.fromkeys(LABELS, 0)
    for family, text, truth in of_kind(written, "numbers"):
        amounts = [max(match) for match in re.findall(AMOUNT, text)]
        if not (matches(GOOD, text) or matches(BAD, text)) or len(amounts) != 2:
            continue
        now, then = (float(amount.replace(",", "")) for amount in amounts)
        if re.search("went from|Having been|Against a", text):
            now, then = then, now
        change = np.sign(now - then) * (1 if matches(GOOD, text) else -1)
        assert truth == LABELS[int(change) + 1], (family, text)
        checked[truth] += 1
    assert min(checked.values()) >= 3


def test_what_becomes_of_an_event_decides(written):
    good, bad = ["supply contract", "dividend", "export permit"], ["profit warning", "strike"]
    checked = 0
    for kind, sense in (("event", 1), ("event-flip", -1)):
        for _, text, truth in of_kind(written, kind):
            stays = matches(["confirmed", "renewed", "extended", "upheld"], text)
            goes = matches(["withdrawn", "cancelled", "lifted", "scrapped"], text)
            if (matches(good, text) or matches(bad, text)) and (stays or goes):
                sign = sense * (1 if matches(good, text) else -1) * (1 if stays else -1)
                assert truth == ("positive" if sign > 0 else "negative"), text
                checked += 1
    assert checked > 30


def test_rivals_news_does_not_decide(written):
    """Where the rival's clause can be cut off, the same rule holds for what is left."""
    checked = 0
    for _, text, truth in of_kind(written, "rival"):
        own = re.search("rival .* , (.* own .*)|(.*) ; at its competitor", text)
        if own and (sign := news(own[1] or own[2])):
            assert truth == ("positive" if sign > 0 else "negative"), text
            checked += 1
    assert checked >= 5


def test_open_questions_and_asides_are_neutral(written):
    for kind in ("open", "unchanged", "event-open", "aside", "fact"):
        assert {truth for _, _, truth in of_kind(written, kind)} == {"neutral"}


# --- hardness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [600, 3000])
def test_families_are_many_and_even(n):
    families = [s.family for s in corpus.generate(n, seed=3) if s.agreement == 100]
    _, counts = np.unique(families, return_counts=True)
    assert len(counts) >= 60
    assert counts.max() < 0.03 * n


def test_families_have_no_near_duplicates_in_each_other():
    sentences = corpus.generate(600, seed=0)
    links = group_near_duplicates([s.text for s in sentences])
    families = {}
    for sentence, link in zip(sentences, links, strict=True):
        assert families.setdefault(link, sentence.family) == sentence.family, sentence.text


def test_test_parts_bring_new_words(agreed, folds):
    def words(rows):
        return set(re.findall(r"\b[a-z]{3,}\b", " ".join(agreed[0][rows])))

    for train, test in folds:
        unseen = words(test) - words(train)
        assert len(unseen) > 0.1 * len(words(test))


def test_bag_of_words_stays_low(agreed, folds):
    """Well above the majority class, well under what a pretrained encoder reaches."""
    texts, labels, _ = agreed
    guesses = cross_val_predict(models.bag_of_words(), texts, labels, cv=folds)
    majority = f1_score(labels, np.full(len(labels), "neutral"), average="macro", zero_division=0)
    assert majority + 0.2 < f1_score(labels, guesses, average="macro") < 0.75

import itertools
import zipfile

import numpy as np
import pandas as pd
import pytest

from headcount import data
from headcount.errors import InputError


def write_zip(path, lines, names=None):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names or data.AGREEMENT_FILES.values():
            archive.writestr(
                f"FinancialPhraseBank-v1.0/{name}", "\r\n".join(lines).encode("latin-1")
            )
    return path


# --- reading ------------------------------------------------------------------------------------


def test_phrasebank_splits_at_the_last_at_sign_and_reads_latin_1(tmp_path):
    path = write_zip(
        tmp_path / "a.zip", ["Mail a@b.fi , said Hämäläinen@positive", "Flat .@neutral"]
    )
    frame = data.load_phrasebank(path)
    assert frame["text"].tolist() == ["Mail a@b.fi , said Hämäläinen", "Flat ."]
    assert frame["label"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["Fine .@positive", "no label here"], "line 2 has no '@'"),
        (["Fine .@positive", "Hm .@bullish"], "line 2: unknown label 'bullish'"),
        ([""], "is empty"),
    ],
)
def test_a_bad_line_is_told_in_one_line_with_its_number(tmp_path, lines, told):
    path = write_zip(tmp_path / "a.zip", lines)
    with pytest.raises(InputError, match=told) as caught:
        data.load_phrasebank(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_zip_is_told(tmp_path):
    path = write_zip(tmp_path / "a.zip", ["Fine .@positive"] * 1000)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="cut off; download it again"):
        data.load_phrasebank(path)


def test_a_zip_whose_bytes_are_damaged_is_told(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that a changed byte is a changed text
        for name in data.AGREEMENT_FILES.values():
            archive.writestr(f"x/{name}", "Sales were flat .@neutral\n" * 50)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="no readable zip"):
        data.load_phrasebank(path)


def test_a_zip_with_other_files_is_told(tmp_path):
    path = write_zip(tmp_path / "a.zip", ["Fine .@positive"], names=["README.txt"])
    with pytest.raises(InputError, match=r"holds no Sentences_AllAgree\.txt"):
        data.load_phrasebank(path)


def test_no_copy_and_no_network_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot get takala/financial_phrasebank") as caught:
        data.locate(data.PHRASEBANK, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot get pauri32/fiqa-2018"):
        data.load_fiqa(tmp_path)


def test_fiqa_is_cut_at_a_tenth_and_conflicts_keep_the_first_label(tmp_path):
    folder = tmp_path / "fiqa-2018"
    folder.mkdir()
    rows = [("a", 0.1), ("b", 0.11), ("c", -0.2), ("b", -0.5), ("a", 0.0)]
    frame = pd.DataFrame(rows, columns=["sentence", "sentiment_score"])
    frame[:3].to_csv(folder / "train.csv", index=False)
    frame[3:].to_csv(folder / "test.csv", index=False)
    read = data.load_fiqa(tmp_path)
    assert read["text"].tolist() == ["a", "b", "c"]
    assert read["label"].tolist() == [1, 2, 0]
    assert read["conflict"].tolist() == [False, True, False]


def test_twitter_labels_are_mapped_by_name(tmp_path):
    folder = tmp_path / "twitter-financial-news-sentiment"
    folder.mkdir()
    for part in ("train", "valid"):
        frame = pd.DataFrame({"text": ["down", "up", "flat"], "label": [0, 1, 2]})
        frame.to_csv(folder / f"sent_{part}.csv", index=False)
    read = data.load_twitter(tmp_path)
    assert [data.LABELS[i] for i in read["label"][:3]] == ["negative", "positive", "neutral"]


# --- groups -------------------------------------------------------------------------------------


def brute_force_groups(texts, threshold):
    group = list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        a, b = data.shingles(texts[i]), data.shingles(texts[j])
        if len(a & b) >= threshold * len(a | b):
            old, new = group[i], group[j]
            group = [new if g == old else g for g in group]
    return pd.factorize(np.array(group))[0]


def test_groups_equal_comparing_every_pair():
    generator = np.random.default_rng(0)
    words = ["profit", "sales", "rose", "fell", "to", "eur", "mn", "12", "13", "in", "the", "year"]
    texts = [" ".join(generator.choice(words, generator.integers(1, 9))) for _ in range(150)]
    texts += [t + " ." for t in texts[:20]] + [t.upper() for t in texts[20:40]] + ["", "ab", "AB"]
    for threshold in (0.5, 0.7, 0.9):
        found = data.group_near_duplicates(texts, threshold)
        assert found.tolist() == brute_force_groups(texts, threshold).tolist()


def test_digits_tell_sentences_apart():
    a, b = "Sales were EUR 12.4 mn", "Sales were EUR 98.7 mn"
    assert len(set(data.group_near_duplicates([a, b, a + " ."]))) == 2


# --- splits -------------------------------------------------------------------------------------


def grouped_frame(n=400, seed=0):
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(n)],
            "text": "x",
            "label": generator.choice(3, n, p=[0.2, 0.45, 0.35]),
            "group": generator.integers(0, n // 2, n),
        }
    )


def assert_no_group_is_cut(frame):
    assert frame.groupby("group")["fold"].nunique().max() == 1
    for fold in range(frame["fold"].max() + 1):
        parts = vars(data.split(frame, fold)).values()
        assert sum(len(part) for part in parts) == len(frame)
        for one, other in itertools.combinations(parts, 2):
            assert not set(one["group"]) & set(other["group"])
        test = data.split(frame, fold).test
        assert set(test["fold"]) == {fold}


def test_no_group_is_cut_by_tune_part_folds_or_validation():
    assert_no_group_is_cut(data.assign_folds(grouped_frame()))


def test_split_is_the_same_every_time_and_differs_with_the_fold():
    frame = data.assign_folds(grouped_frame())
    assert data.split(frame, 1).validation.equals(data.split(frame, 1).validation)
    assert not data.split(frame, 1).test.equals(data.split(frame, 2).test)


@pytest.mark.parametrize("fold", [-1, 5])
def test_a_fold_out_of_range_is_told(fold):
    with pytest.raises(InputError, match=f"fold {fold} is out of range: .* 0 to 4"):
        data.split(data.assign_folds(grouped_frame()), fold)


def test_an_unknown_protocol_is_told():
    with pytest.raises(InputError, match="unknown protocol 'fold'"):
        data.split(data.assign_folds(grouped_frame()), 0, protocol="fold")


def test_too_few_groups_are_told():
    with pytest.raises(InputError, match="cannot be cut into 10 parts"):
        data.assign_folds(grouped_frame(12))


def test_grids_choose_on_what_no_test_part_holds_and_train_without_it():
    frame = data.assign_folds(grouped_frame())
    parts = data.tuning_split(frame, 1)
    assert set(parts.validation["fold"]) == {data.TUNE}
    assert set(parts.test["fold"]) == {1}
    assert set(parts.train["fold"]) == {0, 2, 3, 4}
    assert sum(map(len, vars(parts).values())) == len(frame)
    for fold in range(5):
        assert not set(parts.validation["id"]) & set(data.split(frame, fold).test["id"])


def beside(sources, groups):
    frame = pd.DataFrame({"source": sources, "group": groups, "agreement": pd.NA})
    return frame.assign(id=[f"other-{i}" for i in range(len(frame))])


def test_transfer_text_is_near_no_labelled_sentence_and_near_none_from_elsewhere():
    others = beside(
        ["phrasebank", "phrasebank", "twitter-train", "twitter-train", "twitter-valid"],
        [1, 10, 11, 12, 12],
    )
    labelled = pd.DataFrame({"group": [1, 2, 3]})
    assert data.elsewhere(others)["id"].tolist() == ["other-4"]
    assert set(data.transfer(others, labelled, 2)["id"]) == {"other-1", "other-2"}
    with pytest.raises(InputError, match="3 sentences are asked for and there are 2"):
        data.transfer(others, labelled, 3)
    assert set(data.transfer(others, labelled, None)["id"]) == {"other-1", "other-2"}
    # other-2 stays barred: `elsewhere` is told from all sources, whichever are asked for.
    others = pd.concat([others, beside(["phrasebank"], [12]).assign(id="other-5")])
    assert data.transfer(others, labelled, None, ["phrasebank"])["id"].tolist() == ["other-1"]
    with pytest.raises(InputError, match="all sentences are asked for and there are 0"):
        data.transfer(others, labelled, None, ["fiqa"])


def test_where_there_is_no_twitter_elsewhere_is_what_annotators_disputed():
    others = beside(["synthetic"] * 4, range(4)).assign(agreement=[50, 66, 75, 50])
    assert data.elsewhere(others)["id"].tolist() == ["other-0", "other-3"]


# --- tokens -------------------------------------------------------------------------------------


def test_collate_pads_to_the_longest_and_masks_the_rest():
    tokens = data.Tokenized([[7, 8, 9], [5]], [2, 0])
    batch = data.collate([tokens[0], tokens[1]], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [2, 0]
    assert batch["index"].tolist() == [0, 1]


def test_save_and_load_keep_the_sentences(tmp_path):
    frame = data.assign_folds(grouped_frame())
    data.save(tmp_path, data.Corpus(frame, frame[:0]), {"protocol": "folds"})
    pd.testing.assert_frame_equal(data.load(tmp_path), frame)
    assert data.load_facts(tmp_path)["data_sha256"] == data.content_sha256(frame)
    with pytest.raises(InputError, match="run chapter 01_data"):
        data.load(tmp_path / "elsewhere")


# --- the real sentences -------------------------------------------------------------------------


def test_real_phrasebank_has_its_published_counts_and_nested_levels(real_data):
    path = real_data / data.PHRASEBANK.local
    levels = {level: data.load_phrasebank(path, level) for level in data.AGREEMENT_FILES}
    assert {k: len(v) for k, v in levels.items()} == {50: 4846, 66: 4217, 75: 3453, 100: 2264}
    assert set(levels[100]["text"]) < set(levels[75]["text"]) < set(levels[66]["text"])
    assert set(levels[66]["text"]) < set(levels[50]["text"])


def test_real_corpus_is_the_seed_studys_row_for_row(phrasebank_fiqa):
    frame = phrasebank_fiqa.labelled
    assert len(frame) == 3370
    assert frame["conflict"].sum() == 12
    parts = data.seed_split(frame)
    assert [len(part) for part in vars(parts).values()] == [2358, 506, 506]
    assert parts.test["label"].value_counts().sort_index().tolist() == [97, 221, 188]


def test_real_transfer_text_is_what_the_methods_name(phrasebank_fiqa):
    labelled, others = phrasebank_fiqa
    found = data.transfer(others, labelled, 5000)
    assert found["id"].is_unique
    assert set(found["source"]) == {"phrasebank", "twitter-train"}
    assert not set(found["group"]) & {*labelled["group"], *data.elsewhere(others)["group"]}
    assert set(data.elsewhere(others)["source"]) == {"twitter-valid"}
    pd.testing.assert_frame_equal(found, data.transfer(others, labelled, 5000))
    own = data.transfer(others, labelled, None, ["phrasebank"])
    assert set(own["source"]) == {"phrasebank"}
    assert len(own) > (found["source"] == "phrasebank").sum()


def test_no_group_of_real_sentences_is_cut(phrasebank_fiqa):
    frame = data.assign_folds(phrasebank_fiqa.labelled)
    assert_no_group_is_cut(frame)
    assert (frame["fold"] != data.TUNE).sum() == pytest.approx(3030, abs=10)
    shares = pd.crosstab(frame["fold"], frame["label"], normalize="index")
    assert (shares.max() - shares.min()).max() < 0.01

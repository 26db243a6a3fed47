"""Trimming against WordPiece written out by hand, and against the model that was trimmed."""

import random

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from transformers import (
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    TokenizersBackend,
)

from headcount import data, models, vocabulary
from headcount.errors import InputError

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "profit rose to EUR 13.1 mn",
    "Profits fell; profitability rose.",
    "Société Générale's profit",
    "",
    "they rose \u4e2d profit [MASK] 中文 [UNK]",
]
WORDS = ["profit", "profits", "rose", "fell", "to", "eur", "mn", "they", "societe", "loss"]
CONTINUED = ["##ability", "##able", "##s", "##fit", "##ale", "##13", "##ose", "##ility", "##ab"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;'[]#%-"


def bert_tokenizer(pieces, **options):
    pieces = dict.fromkeys(pieces)
    return BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}, **options)


def characters(text):
    return [*text, *(f"##{character}" for character in text)]


@pytest.fixture(scope="module")
def tokenizer():
    """Pieces that overlap, in no order of length; no piece for a Chinese character."""
    pieces = [*WORDS, *CONTINUED, *characters(CHARACTERS)]
    random.Random(0).shuffle(pieces)
    return bert_tokenizer([*SPECIAL, *pieces])


def classifier(kind, rows):
    if kind == "bert":
        return models.student(rows, layers=2, hidden=32, heads=4, ffn=64).eval()
    config = DistilBertConfig(
        vocab_size=rows, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=3
    )
    torch.manual_seed(0)
    return DistilBertForSequenceClassification(config).eval()


def trim(tokenizer, texts, rows=None):
    return vocabulary.trim(classifier("bert", rows or len(tokenizer)), tokenizer, texts)


def word_piece(word, pieces, longest=100):
    """Greedy longest match first, as BERT's authors wrote it down."""
    found, start = [], 0
    while start < len(word):
        fits = (f"{'##' * (start > 0)}{word[start:end]}" for end in range(len(word), start, -1))
        piece = next((piece for piece in fits if piece in pieces), None)
        if piece is None or len(word) > longest:
            return ["[UNK]"]
        found.append(piece)
        start += len(piece) - 2 * (start > 0)
    return found


def by_hand(tokenizer, text):
    backend = tokenizer.backend_tokenizer
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    pieces = tokenizer.get_vocab()
    return [piece for word, _ in words for piece in word_piece(word, pieces)]


def fuzz(alphabet, n, seed=0, longest=12):
    draw = random.Random(seed)
    return [
        " ".join(
            "".join(draw.choices(alphabet, k=draw.randint(1, longest)))
            for _ in range(draw.randint(0, 5))
        )
        for _ in range(n)
    ]


def logits(model, tokenizer, text):
    with torch.no_grad():
        return model(torch.tensor([tokenizer(text)["input_ids"]])).logits


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_texts_keep_their_tokens_and_their_logits_bit_for_bit(kind, tokenizer):
    model = classifier(kind, len(tokenizer))
    hashed, state = models.weights_sha256(model), tokenizer.backend_tokenizer.to_str()
    small, trimmed = vocabulary.trim(model, tokenizer, iter(TEXTS))
    for text in TEXTS:
        assert trimmed.tokenize(text) == tokenizer.tokenize(text)
        assert torch.equal(logits(small, trimmed, text), logits(model, tokenizer, text))
    assert len(trimmed) < len(tokenizer) - 5
    assert small.config.vocab_size == small.get_input_embeddings().num_embeddings == len(trimmed)
    assert not any(module.training for module in small.modules())
    assert not {"loss", "##ose", "[unused0]"} & set(trimmed.get_vocab())
    assert models.weights_sha256(model) == hashed
    assert tokenizer.backend_tokenizer.to_str() == state


def test_rows_are_the_old_ones_in_the_old_order_and_nothing_else_changes(tokenizer):
    model = classifier("bert", len(tokenizer))
    small, trimmed = vocabulary.trim(model, tokenizer, TEXTS)
    pieces = trimmed.convert_ids_to_tokens(range(len(trimmed)))
    rows = tokenizer.convert_tokens_to_ids(pieces)
    assert rows == sorted(rows)
    name = "bert.embeddings.word_embeddings.weight"
    old, new = model.state_dict(), small.state_dict()
    assert torch.equal(new.pop(name), old.pop(name)[rows])
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_all_special_tokens_and_characters_stay(tokenizer):
    _, trimmed = trim(tokenizer, [])
    expected = [piece for piece in SPECIAL if piece != "[unused0]"] + characters(CHARACTERS)
    assert set(trimmed.get_vocab()) == set(expected)


def test_an_unknown_word_of_the_texts_stays_unknown():
    """Without ``ab``, which no token of the text is, ``abx`` would become ``a ##bx``."""
    tokenizer = bert_tokenizer([*SPECIAL, *characters("ab"), "x", "ab", "##bx"])
    assert tokenizer.tokenize("abx bx abx") == ["[UNK]", "[UNK]", "[UNK]"]
    assert tokenizer.tokenize("abbx") == ["ab", "##bx"]
    _, trimmed = trim(tokenizer, ["abx", "abbx"])
    assert trimmed.tokenize("abx") == ["[UNK]"]
    _, without = trim(tokenizer, ["b"])
    assert "ab" not in without.get_vocab()


# --- other text ---------------------------------------------------------------------------------


def test_both_tokenizers_are_word_piece_by_hand(tokenizer):
    _, trimmed = trim(tokenizer, TEXTS)
    syllables = ["pro", "fit", "s", "ab", "ility", "rose", "13", "ale", "z", "\u4e2d", "É", "to"]
    for text in fuzz(syllables, 300, longest=5):
        for one in (tokenizer, trimmed):
            assert one.tokenize(text) == by_hand(one, text)
    changed = sum(tokenizer.tokenize(t) != trimmed.tokenize(t) for t in fuzz(syllables, 300))
    assert changed > 50  # or the line above would have been said of one tokenizer


def test_random_vocabularies_against_word_piece_by_hand():
    """Pieces of a few letters, dense enough that a greedy match often runs into a dead end."""
    for seed in range(15):
        draw = random.Random(seed)
        pieces = {"".join(draw.choices("abc", k=draw.randint(2, 4))) for _ in range(30)}
        pieces = {f"{draw.choice(['', '##'])}{piece}" for piece in pieces}
        singles = [piece for piece in characters("abc") if draw.random() < 0.7]
        tokenizer = bert_tokenizer([*SPECIAL, *singles, *sorted(pieces)])
        texts, others = fuzz("abc", 4, seed), fuzz("abc", 30, seed + 100)
        _, trimmed = trim(tokenizer, texts)
        for text in texts:
            assert trimmed.tokenize(text) == tokenizer.tokenize(text) == by_hand(trimmed, text)
        kept = trimmed.get_vocab()
        for word in " ".join(others).split():
            found, before = trimmed.tokenize(word), tokenizer.tokenize(word)
            assert found == word_piece(word, kept)
            if set(before) <= kept.keys() and before != ["[UNK]"]:
                assert found == before
            if found == ["[UNK]"]:
                places = [word[0], *(f"##{character}" for character in word[1:])]
                assert not {*places} <= {*singles}


def test_any_text_gives_ids_of_the_table(tokenizer):
    small, trimmed = trim(tokenizer, TEXTS)
    draw = random.Random(1)
    points = [c for c in map(chr, range(0x3100)) if not 0xD800 <= ord(c) < 0xE000]
    texts = [
        *fuzz(points, 300, seed=2),
        *fuzz("profitsable13.", 300, seed=3),
        "a" * 101,
        "a" * 9999,
    ]
    texts += ["".join(map(chr, draw.choices(range(0x10000, 0x110000), k=9))) for _ in range(50)]
    ids = trimmed(texts)["input_ids"]
    assert {*range(len(trimmed))} >= {i for row in ids for i in row}
    unknown = trimmed.unk_token_id
    old = tokenizer(texts)["input_ids"]
    assert [row.count(unknown) for row in ids] == [row.count(2) for row in old]
    with torch.no_grad():
        assert all(small(torch.tensor([row[:512]])).logits.isfinite().all() for row in ids[::20])


def test_case_and_accents_are_treated_as_before():
    pieces = [*SPECIAL, *characters("profitPROFITÉé"), "profit", "Profit", "##it", "##É"]
    cased = bert_tokenizer(pieces, do_lower_case=False)
    _, trimmed = trim(cased, ["Profit"])
    assert trimmed.tokenize("Profit profit É") == ["Profit", *by_hand(trimmed, "profit"), "É"]
    assert trimmed.tokenize("profit")[0] == "p"
    uncased = bert_tokenizer([*pieces, *characters("e")])
    _, trimmed = trim(uncased, ["Profit É"])
    assert trimmed.tokenize("PROFIT É é") == ["profit", "e", "e"]
    assert "Profit" not in trimmed.get_vocab()


# --- kept, and other shapes ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_trimmed_pair_is_saved_and_loaded(kind, tokenizer, tmp_path):
    small, trimmed = vocabulary.trim(classifier(kind, len(tokenizer)), tokenizer, TEXTS)
    models.save(small, trimmed, tmp_path / "m")
    model, loaded = models.load(tmp_path / "m")
    assert models.weights_sha256(model) == models.weights_sha256(small)
    assert loaded.get_vocab() == trimmed.get_vocab()
    alone = Tokenizer.from_file(str(tmp_path / "m/tokenizer.json"))
    for text in [*TEXTS, *fuzz(CHARACTERS + "É\u4e2d", 20)]:
        ids = trimmed(text)["input_ids"]
        assert loaded(text)["input_ids"] == alone.encode(text).ids == ids
        assert torch.equal(logits(model, loaded, text), logits(small, trimmed, text))
    rows = data.tokenize(TEXTS, [0] * len(TEXTS), loaded, max_length=4)
    assert max(rows.lengths) == 4
    again, same = vocabulary.trim(model, loaded, TEXTS)
    assert same.get_vocab() == loaded.get_vocab()
    assert models.weights_sha256(again) == models.weights_sha256(model)


def test_padding_that_is_not_the_first_piece_moves_with_its_row():
    pieces = ["unused", "profit", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters("abc")]
    tokenizer = bert_tokenizer(pieces)
    tokenizer.backend_tokenizer.enable_padding(pad_id=2, length=6)
    tokenizer.backend_tokenizer.enable_truncation(7)
    model = classifier("bert", len(pieces))
    model.config.pad_token_id = 2
    model.set_input_embeddings(torch.nn.Embedding(len(pieces), 32, padding_idx=2))
    small, trimmed = vocabulary.trim(model, tokenizer, ["a " * 9 + "profit"])
    assert trimmed.pad_token_id == small.config.pad_token_id == 1
    assert small.get_input_embeddings().padding_idx == 1
    assert trimmed.backend_tokenizer.encode("profit").ids == [3, 0, 4, 1, 1, 1]
    assert trimmed.backend_tokenizer.truncation["max_length"] == 7
    lengths = vocabulary.compare(tokenizer, trimmed, ["profit", "a " * 9])
    assert lengths["tokens_before"] == lengths["tokens_after"] == (3 + 11) / 2
    assert trimmed(["profit", "a b"], padding=True)["input_ids"] == [[3, 0, 4, 1], [3, 6, 7, 4]]


def test_added_tokens_and_old_post_processors(tokenizer):
    """A backend that names its special tokens as older files do, with a token of its own."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ends = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    backend.post_processor = processors.Sequence([ends])
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("EBITDA", "in no text")])
    wrapped = TokenizersBackend(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", bos_token=None
    )
    texts = [*TEXTS, "profitEBITDArose"]
    model = classifier("bert", len(wrapped) + 30)  # publishers pad their tables
    small, trimmed = vocabulary.trim(model, wrapped, texts)
    assert small.config.vocab_size == len(trimmed)
    assert trimmed.convert_ids_to_tokens(range(len(trimmed)))[-2:] == ["EBITDA", "in no text"]
    for text in texts:
        found = trimmed(text)["input_ids"]
        expected = wrapped.convert_ids_to_tokens(wrapped(text)["input_ids"])
        assert trimmed.convert_ids_to_tokens(found) == expected
        assert torch.equal(logits(small, trimmed, text), logits(model, wrapped, text))


def test_a_backend_that_declares_no_special_token():
    pieces = ["[UNK]", "loss", "profit", *characters("abc")]
    backend = Tokenizer(WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wrapped = TokenizersBackend(tokenizer_object=backend)
    model = classifier("bert", len(wrapped))
    model.config.pad_token_id = 1  # that of a piece which goes
    small, trimmed = vocabulary.trim(model, wrapped, ["profit"])
    assert trimmed.tokenize("Profit cab loss") == ["profit", "c", "##a", "##b", "[UNK]"]
    assert small.config.pad_token_id is None


def test_a_model_in_training_stays_so_and_a_frozen_table_frozen(tokenizer):
    model = classifier("bert", len(tokenizer)).train()
    model.get_input_embeddings().weight.requires_grad_(False)
    small, _ = vocabulary.trim(model, tokenizer, TEXTS)
    assert small.training
    assert small.get_input_embeddings().training
    assert not small.get_input_embeddings().weight.requires_grad


def test_what_cannot_be_trimmed_is_told_in_one_line(tokenizer):
    model = classifier("bert", len(tokenizer))
    bpe = TokenizersBackend(tokenizer_object=Tokenizer(BPE({"a": 0}, [], unk_token="a")))
    with pytest.raises(InputError, match=r"no BERT WordPiece tokenizer \(its model: BPE\)") as one:
        vocabulary.trim(model, bpe, TEXTS)
    with pytest.raises(InputError, match="no BERT WordPiece"):
        vocabulary.trim(model, object(), TEXTS)
    with pytest.raises(InputError, match="belongs to the model") as other:
        vocabulary.trim(classifier("bert", 20), tokenizer, TEXTS)
    assert "\n" not in f"{one.value}{other.value}"


# --- what it does to others ---------------------------------------------------------------------


def test_a_comparison_by_hand(tokenizer):
    _, trimmed = trim(tokenizer, ["profit rose"])
    found = vocabulary.compare(tokenizer, trimmed, ["Profit fell", "rose rose profits"])
    # "fell" (1 token) becomes 4 letters and "profits" (1) "profit ##s"; 3 of 5 words stay.
    assert found.pop("pieces_after") < found.pop("pieces_before") == len(tokenizer)
    assert found == {"changed": 2 / 5, "tokens_before": 9 / 2, "tokens_after": 13 / 2}
    same = vocabulary.compare(tokenizer, trimmed, ["profit", ""])
    assert (same["changed"], same["tokens_before"], same["tokens_after"]) == (0, 2.5, 2.5)
    assert vocabulary.compare(tokenizer, trimmed, [""])["changed"] == 0
    with pytest.raises(InputError, match="at least one sentence"):
        vocabulary.compare(tokenizer, trimmed, [])


def test_minilms_vocabulary_against_word_piece_by_hand():
    pytest.importorskip(models.MINILM_PACKAGE, reason="the package with MiniLM is not installed")
    tokenizer = models.pretrained_tokenizer("minilm")
    model = models.student(len(tokenizer), layers=1, hidden=8, heads=1, ffn=8).eval()
    texts = ["Operating profit rose to EUR 13.1 mn.", "Nokia's Q3 sales fell 5 %"]
    small, trimmed = vocabulary.trim(model, tokenizer, texts)
    assert (trimmed.pad_token_id, trimmed.unk_token_id) == (0, 1)
    assert 2 * 997 < len(trimmed) < 2 * 997 + 30  # characters twice, and the pieces of the texts
    for text in texts:
        assert torch.equal(logits(small, trimmed, text), logits(model, tokenizer, text))
    others = ["Unprofitable quarters, non-GAAP", "\u4e2d国の銀行 \U0001f600 Zürich", "x" * 101]
    for text in [*others, *fuzz([chr(i) for i in range(33, 0x500)], 200, longest=4)]:
        found = trimmed.tokenize(text)
        assert found == by_hand(trimmed, text)
        # Every character that the old pieces had stays: nothing becomes unknown that was not.
        assert found.count("[UNK]") == tokenizer.tokenize(text).count("[UNK]")
    mine = np.array([len(trimmed.tokenize(text)) for text in others])
    assert (mine >= [len(tokenizer.tokenize(text)) for text in others]).all()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_positions_that_nothing_reaches_can_go(kind, tokenizer, tmp_path):
    model = classifier(kind, len(tokenizer))
    cut = vocabulary.cut_positions(model, 9)
    hidden = model.get_input_embeddings().embedding_dim
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, cut))
    assert before - after == (512 - 9) * hidden
    models.save(cut, tokenizer, tmp_path)
    ids = torch.randint(len(tokenizer), (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        for one in (cut, models.load(tmp_path)[0]):
            assert torch.equal(one(input_ids=ids).logits, expected)
            with pytest.raises((IndexError, RuntimeError)):
                one(input_ids=torch.ones((1, 10), dtype=torch.long))
    assert model.config.max_position_embeddings == 512
    with pytest.raises(InputError, match="513 positions cannot be kept of 512"):
        vocabulary.cut_positions(model, 513)

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from headcount import models
from headcount.data import LABELS, collate
from headcount.errors import InputError
from headcount.prune import surgery
from headcount.train import predict


def published(folder, tiny, tokenizer, names):
    """A small model saved as a publisher would, with a head whose labels are `names`."""
    model = tiny(vocab=tokenizer.vocab_size)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    models.save(model, tokenizer, folder)
    return model


def test_a_published_head_is_matched_by_name(tmp_path, tiny, word_pieces):
    finbert_order = ["positive", "negative", "neutral"]
    model = published(tmp_path / "m", tiny, word_pieces, finbert_order)
    loaded = models.load_pretrained(str(tmp_path / "m")).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    theirs = dict(zip(finbert_order, model(ids).logits[0].tolist(), strict=True))
    ours = dict(zip(LABELS, loaded(ids).logits[0].tolist(), strict=True))
    assert ours == pytest.approx(theirs)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert models.has_head(str(tmp_path / "m"))


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], ["yes", "no", "maybe"]])
def test_any_other_head_is_replaced_and_by_the_seed(tmp_path, tiny, word_pieces, names):
    published(tmp_path / "m", tiny, word_pieces, names)
    name = str(tmp_path / "m")
    assert not models.has_head(name)
    one, same, other = (models.load_pretrained(name, seed=seed) for seed in (0, 0, 1))
    embeddings = [m.bert.embeddings.word_embeddings.weight for m in (one, other)]
    assert torch.equal(*embeddings)  # the encoder is the published one, the head is not
    assert models.weights_sha256(one) == models.weights_sha256(same)
    assert models.weights_sha256(one) != models.weights_sha256(other)
    assert one.config.id2label == dict(enumerate(LABELS))


def test_a_model_that_cannot_be_had_is_told_in_one_line():
    with pytest.raises(InputError, match="cannot load nobody/nothing") as caught:
        models.check({"model": "nobody/nothing"})
    assert "\n" not in str(caught.value)


def test_weights_with_another_checksum_are_refused(tmp_path):
    (tmp_path / "w").write_bytes(b"others")
    with pytest.raises(InputError, match="damaged or others"):
        models.check_sha256(tmp_path / "w", models.MINILM_SHA256)


def test_minilm_is_the_published_one():
    pytest.importorskip(models.MINILM_PACKAGE, reason="the package with MiniLM is not installed")
    model = models.load_pretrained("minilm")
    counted = models.sizes(model)
    assert counted["heads_total"] == 72
    # 22,713,216 of the encoder (its model card's 22.7 M) and 3 x 385 of the new head
    assert counted["params"] == 22_713_216 + 3 * 385


def test_the_seed_students_size():
    with torch.device("meta"):
        model = models.student(30_522)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(19.0e6, rel=0.01)


def test_even_layers_end_with_the_last():
    assert models.even_layers(6, 3) == [1, 3, 5]
    assert models.even_layers(12, 4) == [2, 5, 8, 11]
    assert models.even_layers(6, 4) == [1, 2, 4, 5]
    assert models.even_layers(12, 5) == [1, 4, 6, 9, 11]
    assert models.even_layers(2, 1) == [1]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_student_of_all_layers_is_its_teacher_and_shares_nothing(kind, tiny):
    config = DistilBertConfig(vocab_size=50, dim=32, n_heads=4, n_layers=2, hidden_dim=64)
    teacher = tiny() if kind == "bert" else DistilBert(config).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    same = models.student_from_layers(teacher, [0, 1])
    assert torch.equal(same(ids).logits, teacher(ids).logits)
    next(same.parameters()).data.zero_()
    assert next(teacher.parameters()).abs().sum() > 0
    assert models.sizes(models.student_from_layers(teacher, [1]))["layers"] == 1


def test_a_student_keeps_the_layers_that_are_named(tiny):
    teacher = tiny(layers=4)
    student = models.student_from_layers(teacher, [1, 3])
    for mine, theirs in zip(student.bert.encoder.layer, [1, 3], strict=True):
        weight = teacher.bert.encoder.layer[theirs].output.dense.weight
        assert torch.equal(mine.output.dense.weight, weight)
    surgery.remove(teacher, [(1, 0), (2, 0)])
    assert surgery.alive(models.student_from_layers(teacher, [1, 3])) == [[1, 2, 3], [0, 1, 2, 3]]
    with pytest.raises(InputError, match="not all in a model of 4"):
        models.student_from_layers(teacher, [1, 4])


def test_macs_are_what_torch_counts(tiny):
    """PyTorch's own counter, which watches the operations; it counts 2 FLOPs a MAC."""
    from torch.utils.flop_counter import FlopCounterMode

    model, tokens = tiny(layers=2, hidden=32, heads=4), 12
    surgery.remove(model, [(0, 1), (1, 0), (1, 2)])
    model.set_attn_implementation("eager")  # the counter knows no SDPA on CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones((1, tokens), dtype=torch.int64))
    assert models.macs(model, tokens) == counter.get_total_flops() / 2


def test_a_model_with_different_heads_in_each_layer_is_kept(tmp_path, tiny, word_pieces, sentences):
    model = tiny()
    surgery.remove(model, [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)])
    tokens = sentences(vocab=50)
    models.save(model, word_pieces, tmp_path / "m")
    loaded, tokenizer = models.load(tmp_path / "m")
    assert surgery.alive(loaded) == [[1, 3], []]
    assert models.weights_sha256(loaded) == models.weights_sha256(model)
    assert np.array_equal(predict(loaded, tokens, tokenizer), predict(model, tokens, word_pieces))
    assert models.size_mb(tmp_path / "m") == (tmp_path / "m/model.safetensors").stat().st_size / 1e6


def test_loading_changes_no_random_number_that_follows(tmp_path, tiny, word_pieces):
    models.save(tiny(), word_pieces, tmp_path / "m")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models.load(tmp_path / "m")
    assert torch.rand(1) == expected


def test_the_hash_sees_values_and_names_and_not_the_format(tmp_path, tiny):
    model, other = tiny(), tiny(seed=1)
    assert models.weights_sha256(model) != models.weights_sha256(other)
    save_file(model.state_dict(), tmp_path / "w")
    other.load_state_dict(load_file(tmp_path / "w"))
    assert models.weights_sha256(model) == models.weights_sha256(other)


def test_word_pieces_are_the_same_every_time():
    texts = [f"Profit rose {i} percent in quarter {i % 4}" for i in range(200)]
    one, same = (models.train_wordpiece(texts, vocab_size=120) for _ in range(2))
    assert one.get_vocab() == same.get_vocab()
    assert one.tokenize("profit rose zs") == ["profit", "rose", "[UNK]"]  # no z in the texts
    assert one.tokenize("quarters") == ["quarter", "##s"]


def test_padding_changes_no_logit(tiny, sentences):
    model, tokens = tiny(), sentences(8)
    batch = collate([tokens[i] for i in range(8)], 0)
    together = model(batch["input_ids"], batch["attention_mask"]).logits
    for i in range(8):
        alone = model(torch.tensor([tokens.input_ids[i]])).logits[0]
        assert torch.allclose(alone, together[i], atol=1e-5)


def test_nothing_of_a_missing_model_is_made_up(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        models.load(tmp_path)

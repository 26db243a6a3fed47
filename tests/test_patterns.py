"""Patterns by hand; a head without queries attends evenly; values averaged by hand; what stays."""

import copy
import json

import numpy as np
import pytest
import torch
from test_surgery import batch, build, logits
from transformers import AutoModelForSequenceClassification, BertConfig

from headcount.data import Tokenized
from headcount.distill import HardLabels, keys_mask
from headcount.errors import InputError
from headcount.prune import attention_layers, masked, remove
from headcount.prune.patterns import FIXED, constant, fixed_but_one, replaced
from headcount.train import Recipe, fingerprint, fit

BY_HAND = {
    "constant": [[1 / 4, 1 / 4, 1 / 4, 1 / 4]] * 4,
    "own_token": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "previous_token": [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "next_token": [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
    "left_context": [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1 / 9, 8 / 9, 0, 0]],
    "right_context": [[0, 0, 8 / 9, 1 / 9], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]],
    "sentence_end": [[0.01, 0.08, 0.27, 0.64]] * 4,
    "sentence_start": [[0.64, 0.27, 0.08, 0.01]] * 4,
}
PATTERNS = {pattern.__name__: pattern for pattern in (constant, *FIXED)}
CHOSEN = {(0, 0): FIXED[1], (0, 3): FIXED[3], (1, 2): constant, (2, 0): FIXED[5], (2, 2): FIXED[4]}


@pytest.fixture(params=["bert", "distilbert"])
def model(request):
    return build(request.param)


@pytest.mark.parametrize("name", list(BY_HAND))
def test_patterns_are_those_worked_out_by_hand(name):
    for before, after in ((0, 0), (0, 3), (2, 0), (1, 1)):
        mask = torch.tensor([[0] * before + [1] * 4 + [0] * after])
        (weights,) = PATTERNS[name](mask)
        assert weights.dtype == torch.float32
        real = mask[0].bool()
        torch.testing.assert_close(weights[real][:, real], torch.tensor(BY_HAND[name]).float())
        assert (weights[real][:, ~real] == 0).all()
        assert weights.isfinite().all()


def test_the_fixed_patterns_come_in_the_order_of_the_paper():
    assert [pattern.__name__ for pattern in FIXED] == list(BY_HAND)[1:]


@pytest.mark.parametrize("name", list(BY_HAND))
def test_rows_sum_to_1_and_a_sentence_does_not_see_its_neighbours(name):
    lengths = [1, 2, 3, 9, 200]
    mask = (torch.arange(200) < torch.tensor(lengths)[:, None]).long()
    weights = PATTERNS[name](mask)
    assert weights.shape == (5, 200, 200)
    assert weights.isfinite().all()
    for row, n in enumerate(lengths):
        assert (weights[row, :n, n:] == 0).all()
        torch.testing.assert_close(weights[row, :n].sum(-1), torch.ones(n))
        (alone,) = PATTERNS[name](torch.ones(1, n, dtype=torch.long))
        torch.testing.assert_close(weights[row, :n, :n], alone)


def masks_of(implementation):
    """One sentence or three, and each kind of mask that this implementation takes."""
    for lengths in ((7,), (5, 12, 9)):
        given = batch(lengths)
        mask = given["attention_mask"]
        yield given
        yield {"input_ids": given["input_ids"]}
        if implementation == "sdpa":
            yield given | {"attention_mask": keys_mask(mask)}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_constant_attention_is_a_head_without_queries(model, implementation):
    """All scores of such a head are 0, and the softmax spreads evenly over the real tokens."""
    model.set_attn_implementation(implementation)
    heads = [(0, 1), (1, 0), (1, 3)]
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for index, head in heads:
            layer = attention_layers(silent)[index]
            layer.query.weight[layer.block(head)] = 0
            layer.query.bias[layer.block(head)] = 0
    for given in masks_of(implementation):
        expected, before = logits(silent, given), logits(model, given)
        with replaced(model, dict.fromkeys(heads, constant)):
            assert torch.allclose(logits(model, given), expected, atol=1e-5, rtol=0)
        assert not torch.allclose(before, expected, atol=1e-2)
        assert torch.equal(logits(model, given), before)


def test_the_base_model_takes_its_mask_by_place(model):
    given, base = batch(), model.base_model
    with replaced(model, CHOSEN), torch.no_grad():
        expected = base(**given).last_hidden_state
        got = base(given["input_ids"], given["attention_mask"]).last_hidden_state
    assert torch.equal(got, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_values_are_averaged_by_the_pattern_head_by_head(model, implementation):
    """What goes into W_O of layer 0, with head 1 gone before, against NumPy."""
    model.set_attn_implementation(implementation)
    remove(model, [(0, 1)])
    layer, seen = attention_layers(model)[0], {}
    value = layer.value.register_forward_hook(lambda _, args, __: seen.update(x=args[0]))
    contexts = []

    def run():
        output = layer.output.register_forward_pre_hook(lambda _, args: contexts.append(args[0]))
        logits(model, batch((4, 4)))
        output.remove()

    run()
    with replaced(model, {(0, 2): PATTERNS["left_context"], (0, 3): PATTERNS["sentence_end"]}):
        run()
    value.remove()
    before, after = (context.numpy() for context in contexts)
    V = seen["x"].numpy() @ layer.value.weight.detach().numpy().T
    V += layer.value.bias.detach().numpy()
    # Blocks of 8: heads 0, 2 and 3 of the original four.
    np.testing.assert_array_equal(after[..., :8], before[..., :8])
    for at, name in ((1, "left_context"), (2, "sentence_end")):
        block = slice(8 * at, 8 * at + 8)
        expected = np.array(BY_HAND[name]) @ V[..., block]
        np.testing.assert_allclose(after[..., block], expected, atol=1e-5)
        assert not np.allclose(before[..., block], expected, atol=1e-2)


def test_padding_changes_nothing(model):
    whole = batch((5, 12, 9, 1, 2))
    patterns = {(i, h): FIXED[(3 * i + h) % 7] for i in range(3) for h in range(4)}
    with replaced(model, patterns):
        padded = logits(model, whole)
        for row, length in enumerate(whole["attention_mask"].sum(1).tolist()):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in whole.items()}
            assert torch.allclose(logits(model, alone)[0], padded[row], atol=1e-5)


def test_original_numbers_hold_in_a_pruned_model(model):
    gone = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 3)]
    with replaced(model, CHOSEN), masked(model, gone):
        expected = logits(model)
    remove(model, [*gone])
    with replaced(model, CHOSEN):
        assert torch.allclose(logits(model), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(logits(model), expected, atol=1e-2)


def test_training_reaches_values_and_no_queries_or_keys(model):
    model.train()
    with replaced(model, CHOSEN):
        model(**batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    for layer in attention_layers(model):
        for head in layer.heads:
            fixed = (layer.index, head) in CHOSEN
            rows = layer.block(head)
            for linear in (layer.query, layer.key):
                assert (linear.weight.grad[rows].abs().sum() == 0) == fixed
            assert layer.value.weight.grad[rows].abs().sum() > 0
            assert layer.output.weight.grad[:, rows].abs().sum() > 0


def test_gradients_are_those_of_a_head_without_queries(model):
    """Values and W_O of the head, and everything below, learn as in the exact stand-in."""
    silent = copy.deepcopy(model)
    layer = attention_layers(silent)[1]
    with torch.no_grad():
        layer.query.weight[layer.block(2)] = 0
        layer.query.bias[layer.block(2)] = 0
    given = batch() | {"labels": torch.tensor([0, 1, 2])}
    silent(**given).loss.backward()
    with replaced(model, {(1, 2): constant}):
        model(**given).loss.backward()
    expected = dict(silent.named_parameters())
    passed_over = {id(layer.query.weight), id(layer.query.bias)}  # their scores could still move
    for name, parameter in model.named_parameters():
        if id(expected[name]) not in passed_over:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-3)


def test_fit_moves_values_and_leaves_queries_and_keys(tiny, sentences, word_pieces, tmp_path):
    model, recipe = tiny(), Recipe(1, 1e-3, batch_size=8, weight_decay=0)
    before = copy.deepcopy(model)
    with replaced(model, {(0, 0): FIXED[1]}):
        fit(model, sentences(), recipe, tmp_path, tokenizer=word_pieces)
    layer, old = attention_layers(model)[0], attention_layers(before)[0]
    rows = layer.block(0)
    for name, moved in {"query": False, "key": False, "value": True}.items():
        new, was = getattr(layer, name).weight, getattr(old, name).weight
        assert torch.equal(new[rows], was[rows]) != moved
        assert not torch.equal(new[rows.stop :], was[rows.stop :])


def test_autocast_inference_mode_and_half_precision_pass(model):
    with replaced(model, CHOSEN):
        for given in (batch(), {"input_ids": batch()["input_ids"]}):
            with torch.autocast("cpu", torch.bfloat16):
                got = logits(model, given).float()
            assert torch.allclose(got, logits(model, given), atol=0.1, rtol=0)
        expected = logits(model)
        with torch.inference_mode():
            assert torch.equal(model(**batch()).logits, expected)
        model(**batch()).logits.sum().backward()
        assert torch.allclose(logits(model.bfloat16()).float(), expected, atol=0.2, rtol=0)


def test_the_configuration_tells_of_the_patterns_while_they_last(model):
    plain = copy.deepcopy(model.config.to_dict())
    data = Tokenized([[2, 9, 3]], [1])
    arguments = (data, None, Recipe(1, 1e-5), HardLabels())
    digest = fingerprint(model, *arguments)
    with replaced(model, {(0, 1): constant, (2, np.int64(3)): FIXED[0]}):
        listed = [[0, 1, "constant"], [2, 3, "own_token"]]
        assert json.loads(json.dumps(model.config.to_diff_dict()))["attention_patterns"] == listed
        first = fingerprint(model, *arguments)
    with replaced(model, {(0, 1): constant, (2, 3): FIXED[1]}):
        second = fingerprint(model, *arguments)
    assert len({digest, first, second, fingerprint(model, *arguments)}) == 3
    assert not hasattr(model.config, "attention_patterns")
    assert model.config.to_dict() == plain


def test_the_inner_context_has_the_last_word_and_both_end(model):
    before = logits(model)
    with replaced(model, {(0, 0): FIXED[2], (0, 1): constant}):
        expected = logits(model)
    with replaced(model, {(0, 0): FIXED[0], (0, 1): constant}):
        outer = logits(model)
        with replaced(model, {(0, 0): FIXED[2]}):
            assert torch.equal(logits(model), expected)
            assert len(model.config.attention_patterns) == 3
        assert torch.equal(logits(model), outer)
        assert model.config.attention_patterns == [[0, 0, "own_token"], [0, 1, "constant"]]
    with pytest.raises(KeyError), replaced(model, CHOSEN):
        raise KeyError
    assert torch.equal(logits(model), before)
    assert not hasattr(model.config, "attention_patterns")
    hooks = (
        m._forward_hooks | m._forward_pre_hooks | m._forward_pre_hooks_with_kwargs
        for m in model.modules()
    )
    assert not any(hooks)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ((0, 1), "head 1 of layer 0 has been removed already"),
        ((1, 0), "head 0 of layer 1 has been removed already"),
        ((0, 4), "no head 4 in layer 0"),
        ((3, 0), "no head 0 in layer 3"),
    ],
)
def test_heads_that_are_not_there_are_refused(model, head, said):
    remove(model, [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3)])
    with pytest.raises(InputError, match=said) as refused:
        replaced(model, {(0, 0): constant, head: constant}).__enter__()
    assert "\n" not in str(refused.value)
    assert not hasattr(model.config, "attention_patterns")


def test_masks_that_say_more_than_which_keys_are_refused(model):
    given = batch()
    added = torch.zeros(3, 1, 1, 12)
    by_query = torch.ones(3, 1, 12, 12, dtype=torch.bool)
    for mask in (added, by_query):
        with (
            replaced(model, {(0, 0): constant}),
            pytest.raises(InputError, match="cannot read an attention mask") as refused,
        ):
            model(input_ids=given["input_ids"], attention_mask=mask)
        assert "\n" not in str(refused.value)


def test_all_heads_of_a_layer_but_the_last_get_a_pattern():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(BertConfig())
    remove(model, [(1, 0), (1, 4), (1, 11), *((2, h) for h in range(11))])
    remove(model, [(3, head) for head in range(12)])
    every = fixed_but_one(model, 0)
    assert list(every) == [(0, head) for head in range(11)]
    assert list(every.values()) == [*FIXED, *FIXED[:4]]
    assert list(fixed_but_one(model, 1)) == [(1, head) for head in (1, 2, 3, 5, 6, 7, 8, 9)]
    assert list(fixed_but_one(model, 1).values()) == [*FIXED, FIXED[0]]
    assert fixed_but_one(model, 2) == fixed_but_one(model, 3) == {}

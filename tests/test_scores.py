"""Entropy against scipy, sentence by sentence; its two ends; order and ties of the selection."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from test_surgery import batch, build

from headcount import prune
from headcount.errors import InputError
from headcount.prune import SCORES, remove, select, tidy

LENGTHS = (5, 12, 9, 2, 1)


def singles(whole):
    """The sentences of a batch, one by one, without their padding."""
    return [
        {name: tensor[row : row + 1, :length] for name, tensor in whole.items()}
        for row, length in enumerate(whole["attention_mask"].sum(1).tolist())
    ]


def by_scipy(model, sentences):
    """1 - mean row entropy in units of log n, from transformers' own attention maps."""
    model.set_attn_implementation("eager")
    rows = []
    for sentence in sentences:
        n = sentence["input_ids"].shape[1]
        if n > 1:
            with torch.no_grad():
                maps = torch.stack(model(**sentence, output_attentions=True).attentions)
            # (layers, 1, heads, queries, keys) -> (queries, layers, heads)
            rows.append(np.moveaxis(scipy.stats.entropy(maps[:, 0], base=n, axis=-1), -1, 0))
    model.set_attn_implementation("sdpa")
    return 1 - np.concatenate(rows).mean(0)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_entropy_equals_scipy_padded_or_not(kind):
    model, whole = build(kind), batch(LENGTHS)
    model.train()
    padded = SCORES["entropy"](model, [whole])
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    model.eval()
    alone = SCORES["entropy"](model, singles(whole))
    expected = by_scipy(model, singles(whole))
    assert expected.std() > 0.01
    np.testing.assert_allclose(padded, expected, atol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    np.testing.assert_allclose(SCORES["entropy-reversed"](model, [whole]), 1 - padded, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_pruned_heads_have_no_score_and_the_others_keep_their_column(kind):
    model, whole = build(kind), batch(LENGTHS)
    whole["labels"] = torch.tensor([0, 1, 2, 1, 0])
    before = SCORES["entropy"](model, [whole])
    gone = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]
    remove(model, gone)
    for name, score in SCORES.items():
        scores = score(model, [whole])
        assert scores.shape == (3, 4), name
        assert {tuple(map(int, at)) for at in np.argwhere(np.isnan(scores))} == set(gone), name
    # Layer 0 sees the same input as before, so its live heads score what they scored.
    after = SCORES["entropy"](model, [whole])
    np.testing.assert_allclose(after[0, [0, 2, 3]], before[0, [0, 2, 3]], atol=1e-6)


def test_uniform_attention_scores_0_and_focused_attention_1():
    model = build("bert")
    layer = model.bert.encoder.layer[0].attention.self
    with torch.no_grad():
        layer.query.weight.zero_()
        layer.query.bias.zero_()
        # Heads 2 and 3 look at whichever token has the largest first key, and nowhere else.
        layer.query.bias[16::8] = 1e5
    scores = SCORES["entropy"](model, [batch(LENGTHS)])
    np.testing.assert_allclose(scores[0], [0, 0, 1, 1], atol=1e-6)


def rows_one_by_one(model, sentences):
    """(rows of one head in one sentence, layer, head), from transformers' own attention maps."""
    model.set_attn_implementation("eager")
    for sentence in sentences:
        if sentence["input_ids"].shape[1] > 1:
            with torch.no_grad():
                maps = model(**sentence, output_attentions=True).attentions
            for layer, layer_maps in enumerate(maps):
                for head, rows in enumerate(layer_maps[0].double().numpy()):
                    yield rows, layer, head
    model.set_attn_implementation("sdpa")


def slow_sparsity(row):
    root = math.sqrt(len(row))
    return (root - sum(row) / math.sqrt(sum(w * w for w in row))) / (root - 1)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize(
    ("name", "slow"),
    [("sparsity", slow_sparsity), ("distribution", lambda row: max(row[:-1]))],
)
def test_sparsity_and_distribution_equal_loops_over_rows(kind, name, slow):
    model, whole = build(kind), batch(LENGTHS)
    rows = {}
    for maps, layer, head in rows_one_by_one(model, singles(whole)):
        rows.setdefault((layer, head), []).extend(map(slow, maps))
    expected = np.array([np.mean(rows[divmod(i, 4)]) for i in range(12)]).reshape(3, 4)
    assert expected.std() > 0.01
    np.testing.assert_allclose(SCORES[name](model, [whole]), expected, atol=1e-5)
    np.testing.assert_allclose(SCORES[name](model, singles(whole)), expected, atol=1e-5)


def test_hoyer_s_ends_are_0_and_1():
    for n in (2, 7):
        assert slow_sparsity([1 / n] * n) == pytest.approx(0)
        assert slow_sparsity([1, *[0] * (n - 1)]) == pytest.approx(1)


def test_combined_is_the_mean_of_three_ranks():
    model, whole = build("bert"), batch(LENGTHS)
    remove(model, [(0, 1)])
    three = [SCORES[n](model, [whole]).ravel() for n in ("entropy", "sparsity", "distribution")]
    live = ~np.isnan(three[0])
    ranks = [scipy.stats.rankdata(scores[live]) for scores in three]
    found = SCORES["combined"](model, [whole]).ravel()
    np.testing.assert_allclose(found[live], np.mean(ranks, 0))
    assert np.isnan(found[~live]).all()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_magnitude_is_what_zeroing_a_head_takes_from_the_norms(kind):
    model = build(kind)
    layers = prune.attention_layers(model)
    before = [[m.weight.detach().clone() for m in (one.value, one.output)] for one in layers]
    found = SCORES["magnitude"](model)
    prune.zero(model, [(1, 2)])
    gone = [
        b - m.weight for b, m in zip(before[1], (layers[1].value, layers[1].output), strict=True)
    ]
    assert found[1, 2] == pytest.approx(
        sum(np.linalg.norm(g.detach().numpy()) for g in gone), rel=1e-5
    )


def test_all_criteria_in_one_pass_equal_each_by_itself():
    model, whole = build("bert"), batch(LENGTHS) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    together = prune.score_all(model, [whole])
    assert list(together) == list(SCORES)
    for name, score in SCORES.items():
        np.testing.assert_allclose(together[name], score(model, [whole]), atol=1e-12, err_msg=name)


def test_the_seed_s_entropy_counts_padding_and_takes_128_for_every_length():
    """By hand: all queries of the padded batch, in units of log 128."""
    model, whole = build("bert"), batch((5, 12, 9))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(model(**whole, output_attentions=True).attentions)
    model.set_attn_implementation("sdpa")
    expected = 1 - scipy.stats.entropy(maps, axis=-1).mean((1, 3)) / math.log(128)
    found = prune.entropy(model, [whole], padded_queries=True, base=128)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - SCORES["entropy"](model, [whole])).max() > 0.01


def test_nothing_to_score_and_diverged_models_are_refused():
    model = build("bert")
    for batches in ([], [batch((1,))]):
        with pytest.raises(InputError, match="no sentence to score heads on"):
            SCORES["entropy"](model, batches)
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.query.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="attention in layer 1 is not finite"):
        SCORES["entropy"](model, [batch()])


def test_random_is_a_function_of_the_seed_and_nested():
    model = build("bert")
    first = SCORES["random"](model, seed=1)
    assert np.array_equal(first, SCORES["random"](model, seed=1))
    assert not np.array_equal(first, SCORES["random"](model, seed=2))
    order = select(first, 8)
    remove(model, order[:3])
    assert select(SCORES["random"](model, seed=1), 5) == order[3:]


def test_selection_is_lowest_first_with_ties_in_order():
    scores = np.array([[0.5, np.nan, 0.2], [0.2, 0.2, -1.0]])
    assert select(scores, 0) == []
    assert select(scores, 4) == [(1, 2), (0, 2), (1, 0), (1, 1)]
    assert select(scores, 5)[-1] == (0, 0)
    for k in (6, -1):
        with pytest.raises(InputError, match="5 have a score"):
            select(scores, k)


def test_tidy_has_a_row_a_head():
    frame = tidy(np.array([[0.5, np.nan, 0.2], [0.2, 0.1, -1.0]]))
    assert frame.query("layer == 1 and head == 2")["score"].tolist() == [-1.0]
    assert frame.query("~alive")[["layer", "head"]].to_numpy().tolist() == [[0, 1]]

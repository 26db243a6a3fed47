"""Where the largest weights fall, against slow loops over sentences and rows one by one."""

from collections import Counter

import numpy as np
import pytest
import torch
from test_scores import singles
from test_surgery import batch, build

from headcount.errors import InputError
from headcount.prune import attention_layers, remove
from headcount.prune.roles import POSITIONAL, positional, rare, token_counts

LENGTHS = (5, 12, 9, 2, 1, 3)
OFFSETS = (-2, -1, 0, 1, 2)


@pytest.fixture(params=["bert", "distilbert"])
def model(request):
    return build(request.param)


def sentences(model, whole):
    """(ids, maps (layers, heads, n, n)) of each sentence of two tokens or more, from transformers.

    A layer without heads is missing from the maps.
    """
    model.set_attn_implementation("eager")
    found = []
    for sentence in singles(whole):
        if sentence["input_ids"].shape[1] > 1:
            with torch.no_grad():
                maps = model(**sentence, output_attentions=True).attentions
            ids = sentence["input_ids"][0].tolist()
            found.append((ids, [layer[0].numpy() for layer in maps]))
    model.set_attn_implementation("sdpa")
    return found


def share_by_loop(found, layer, head, offset):
    hits = [
        i + offset == int(np.argmax(maps[layer][head, i]))
        for ids, maps in found
        for i in range(len(ids))
    ]
    return np.mean(hits)


def rare_by_loop(found, layer, head, counts):
    hits, chances = [], []
    for ids, maps in found:
        candidates = range(1, len(ids) - 1)
        rarest = min(candidates, key=lambda j: counts[ids[j]], default=None)
        for row in maps[layer][head]:
            hits.append(rarest is not None and int(np.argmax(row)) == rarest)
            chances.append(1 / len(ids) if candidates else 0)
    return np.mean(hits) - np.mean(chances)


def test_positional_equals_the_loop_padded_or_not(model):
    whole = batch(LENGTHS)
    model.train()
    share, offset = positional(model, [whole])
    assert model.training
    found = sentences(model.eval(), whole)
    shares = np.array(
        [[[share_by_loop(found, i, h, o) for o in OFFSETS] for h in range(4)] for i in range(3)]
    )
    assert len(np.unique(shares.argmax(2))) > 1
    np.testing.assert_allclose(share, shares.max(2), atol=1e-12)
    np.testing.assert_array_equal(offset, np.array(OFFSETS)[shares.argmax(2)])
    for same in zip(positional(model, singles(whole)), (share, offset), strict=True):
        np.testing.assert_allclose(*same, atol=1e-12)
    share, offset = positional(model, [whole], offsets=[1])
    np.testing.assert_allclose(share, shares[..., 3], atol=1e-12)
    assert (offset == 1).all()


def test_rare_equals_the_loop_padded_or_not(model):
    whole = batch(LENGTHS)
    # Few unlike counts, hence many ties; the first and last tokens are the rarest of all.
    counts = np.random.default_rng(5).integers(1, 4, 99)
    for sentence in singles(whole):
        counts[sentence["input_ids"][0, [0, -1]]] = 0
    found = sentences(model, whole)
    expected = [[rare_by_loop(found, i, h, counts) for h in range(4)] for i in range(3)]
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(rare(model, [whole], counts), expected, atol=1e-7)
    np.testing.assert_allclose(rare(model, singles(whole), counts), expected, atol=1e-7)


def test_heads_that_do_one_thing_alone_are_told():
    """Layer 0 of BERT, its embeddings one-hot in the position."""
    model, n = build("bert"), 12
    embeddings, layer = model.bert.embeddings, attention_layers(model)[0]
    with torch.no_grad():
        for parameter in (*embeddings.parameters(), *layer.core.parameters()):
            parameter.zero_()
        embeddings.position_embeddings.weight[:n, :n] = torch.eye(n)
        embeddings.LayerNorm.weight.fill_(1)
        # Head size 8 holds no one-hot positions of 12: angles on a circle do. Head 0 looks one
        # back, head 1 at itself, head 2 two ahead; head 3 has no scores and looks evenly.
        angle = torch.arange(n) * 2 * torch.pi / n
        circle = torch.stack([angle.cos(), angle.sin()])
        for head, offset in enumerate((-1, 0, 2)):
            turned = angle + offset * 2 * torch.pi / n
            row = 8 * head
            layer.query.weight[row : row + 2, :n] = 100 * torch.stack([turned.cos(), turned.sin()])
            layer.key.weight[row : row + 2, :n] = circle
    share, offset = positional(model, [batch((n,))])
    # From the first token, one back on the circle is the last; from the last two, the first two.
    # Of even weights the first token's counts, which is at each offset to the left but once.
    np.testing.assert_allclose(share[0], [11 / 12, 1, 10 / 12, 1 / 12])
    np.testing.assert_array_equal(offset[0], [-1, 0, 2, -2])
    assert ((share[0] >= POSITIONAL) == [True, True, False, False]).all()


def test_a_head_on_rare_tokens_is_told():
    model = build("bert")
    embeddings, layer = model.bert.embeddings, attention_layers(model)[0]
    ids = torch.tensor([[7, 8, 9, 10, 6], [7, 9, 8, 11, 6], [7, 8, 6, 0, 0]])
    mask = (ids > 0).long()
    counts = np.full(99, 50)
    counts[[9, 10, 11]], counts[[6, 7]] = (3, 4, 3), 1
    with torch.no_grad():
        for parameter in (*embeddings.parameters(), *layer.core.parameters()):
            parameter.zero_()
        embeddings.word_embeddings.weight[9, 0] = 1
        embeddings.LayerNorm.weight.fill_(1)
        layer.query.bias.fill_(100)
        layer.key.weight[:8, 0] = 1
    scores = rare(model, [{"input_ids": ids, "attention_mask": mask}], counts)
    # Head 0 looks at token 9, the rarest (in the second sentence before token 11), and evenly in
    # the third, thus at its first token; the others look evenly throughout.
    chance = 3 / 13  # 5 rows of 1/5, twice, and 3 of 1/3
    np.testing.assert_allclose(scores[0], [10 / 13 - chance, *[-chance] * 3], atol=1e-7)
    # A sentence of two tokens has no rarest one: its rows add nothing.
    two = {"input_ids": ids[:1, :2], "attention_mask": mask[:1, :2]}
    np.testing.assert_array_equal(rare(model, [two], counts), np.zeros((3, 4)))


def test_pruned_heads_have_no_role_and_the_others_keep_their_column(model):
    whole, counts = batch(LENGTHS), np.arange(99)
    gone = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]
    share, offset = positional(model, [whole])
    scores = rare(model, [whole], counts)
    remove(model, gone)
    after = (*positional(model, [whole]), rare(model, [whole], counts))
    for before, array in zip((share, offset, scores), after, strict=True):
        assert array.shape == (3, 4)
        assert {tuple(map(int, at)) for at in np.argwhere(np.isnan(array))} == set(gone)
        np.testing.assert_allclose(array[0, [0, 2, 3]], before[0, [0, 2, 3]], atol=1e-6)
    found = sentences(model, whole)
    # Layer 2 is the second that has maps.
    np.testing.assert_allclose(
        after[2][2], [rare_by_loop(found, 1, head, counts) for head in range(4)], atol=1e-7
    )


def test_nothing_to_score_and_diverged_models_are_refused(model):
    acts = (lambda batches: positional(model, batches), lambda b: rare(model, b, np.ones(99)))
    for act in acts:
        with pytest.raises(InputError, match="no sentence to score heads on"):
            act([batch((1,))])
    with torch.no_grad():
        attention_layers(model)[1].query.bias.fill_(torch.nan)
    for act in acts:
        with pytest.raises(InputError, match="attention in layer 1 is not finite"):
            act([batch()])


def test_token_counts_are_counts():
    sentences = [[2, 9, 9, 3], [2, 4, 3], []]
    counts = token_counts(sentences, 12)
    told = Counter(i for ids in sentences for i in ids)
    assert counts.tolist() == [told[i] for i in range(12)]
    assert token_counts([], 5).tolist() == [0] * 5

"""The head count after every round, and what recovery is given."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_surgery import batch, build

from headcount import models
from headcount.errors import InputError
from headcount.prune import SCORES, alive, iterate, masked, seed_loop, silent, target, zero

TENTHS = [r / 10 for r in range(1, 11)]


def live(model):
    return sum(map(len, alive(model)))


def test_rounds_are_cumulatively_exact():
    # 72 heads: 7.2, 14.4, 21.6, 28.8, 36 rounded, so that half of the heads is half of the heads.
    assert [target(72, 0.1 * r) for r in range(6)] == [0, 7, 14, 22, 29, 36]
    assert [target(144, 0.1 * r) for r in (3, 5)] == [43, 72]


def test_a_constant_score_takes_heads_in_order_and_no_head_twice():
    seen, recovered = [], []

    def constant(model):
        scores = np.full((3, 4), np.nan)
        for layer, heads in enumerate(alive(model)):
            scores[layer, heads] = 0.0
        return scores

    def recover(model, number):
        recovered.append((number, live(model)))
        return model

    def on_round(number, model, going, scores):
        assert np.isfinite(scores).sum() == live(model) + len(going)
        seen.extend(going)

    model = iterate(build("bert"), constant, recover, TENTHS[1::2], on_round)
    assert recovered == [(1, 10), (2, 7), (3, 5), (4, 2), (5, 0)]
    assert seen == [(layer, head) for layer in range(3) for head in range(4)]
    assert live(model) == 0


def test_what_recovery_returns_goes_on():
    stand_in = build("bert")

    def score(model):
        return SCORES["random"](model, seed=5)

    def recover(model, number):
        if number > 1:
            return model
        iterate(stand_in, score, lambda m, _: m, [0.25])
        return stand_in

    assert iterate(build("bert"), score, recover, [0.25, 0.5]) is stand_in
    assert live(stand_in) == 6


def test_a_recovery_that_brings_heads_back_is_caught():
    with pytest.raises(AssertionError, match="12 heads alive after round 1, not 9"):
        iterate(build("bert"), SCORES["random"], lambda *_: build("bert"), [0.25])


@pytest.mark.parametrize("shares", [[0.5, 1.25], [0.5, 0.25], [-0.1]])
def test_shares_that_cannot_be_taken_are_refused(shares):
    model = build("bert")
    with pytest.raises(InputError, match=r"shares .* would remove .* heads of 12"):
        iterate(model, SCORES["random"], lambda m, _: m, shares)
    assert live(model) == 12


def test_the_seed_loop_chooses_the_same_heads_again_and_training_does_not_revive_them():
    """Two layers, by its own score and with steps of AdamW between the rounds."""
    model, chosen = build("bert", num_hidden_layers=2), []
    sentences, labels = batch((7, 5, 3)), torch.tensor([0, 1, 2])

    def entropy(model):
        return SCORES["entropy"](model, [sentences])

    def recover(model, number):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            F.cross_entropy(model(**sentences).logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    params = sum(p.numel() for p in model.parameters())
    seed_loop(model, entropy, recover, 3, 0.3, lambda n, m, going, s: chosen.append(set(going)))
    assert len(chosen[0]) == 2  # of 8 heads, 2.4 rounded down
    assert chosen[0] == chosen[1] == chosen[2] == set(silent(model))
    assert sum(p.numel() for p in model.parameters()) == params
    # What the loop takes for 75 % of the heads is 25 %; the loop without the error takes them all.
    assert live(iterate(build("bert"), SCORES["random"], lambda m, _: m, [0.25, 0.5, 0.75])) == 3


def test_zeroed_heads_are_those_that_masking_silences():
    model, sentences, heads = build("bert"), batch((7, 5)), [(0, 1), (2, 3)]
    with torch.no_grad(), masked(model, heads):
        expected = model(**sentences).logits
    zero(model, heads)
    assert silent(model) == heads
    with torch.no_grad():
        torch.testing.assert_close(model(**sentences).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("criterion", list(SCORES))
def test_every_criterion_takes_the_heads_of_every_architecture(
    kind, criterion, tmp_path, word_pieces
):
    """Round by round, scored afresh; what is left is saved, loaded, and answers the same."""
    sentences = batch((7, 5, 3)) | {"labels": torch.tensor([0, 1, 2])}
    chosen = []
    model = iterate(
        build(kind),
        lambda model: SCORES[criterion](model, [sentences]),
        lambda model, _: model,
        [0.25, 0.5, 0.75],
        lambda number, model, heads, scores: chosen.extend(heads),
    )
    assert len(set(chosen)) == len(chosen) == 9
    assert live(model) == 3
    models.save(model, word_pieces, tmp_path / "kept")
    again, _ = models.load(tmp_path / "kept")
    inputs = {name: sentences[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)

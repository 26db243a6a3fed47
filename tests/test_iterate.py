"""The head count after every round, and what recovery is given."""

import numpy as np
import pytest
from test_surgery import build

from headcount.errors import InputError
from headcount.prune import SCORES, alive, iterate, target


def live(model):
    return sum(map(len, alive(model)))


def test_rounds_are_cumulatively_exact():
    # 72 heads: 7.2, 14.4, 21.6, 28.8, 36 rounded, so that half of the heads is half of the heads.
    assert [target(72, r, 0.1) for r in range(6)] == [0, 7, 14, 22, 29, 36]
    assert [target(144, r, 0.1) for r in (3, 5)] == [43, 72]


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

    model = iterate(build("bert"), constant, recover, rounds=5, share=0.2, on_round=on_round)
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
        iterate(stand_in, score, lambda m, _: m, rounds=1, share=0.25)
        return stand_in

    assert iterate(build("bert"), score, recover, rounds=2, share=0.25) is stand_in
    assert live(stand_in) == 6


def test_a_recovery_that_brings_heads_back_is_caught():
    with pytest.raises(AssertionError, match="12 heads alive after round 1, not 9"):
        iterate(build("bert"), SCORES["random"], lambda *_: build("bert"), 1, 0.25)


def test_more_heads_than_there_are_is_refused():
    model = build("bert")
    with pytest.raises(InputError, match="5 rounds of 25% would remove 15 heads of 12"):
        iterate(model, SCORES["random"], lambda m, _: m, rounds=5, share=0.25)
    assert live(model) == 12

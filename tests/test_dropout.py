"""Our dropout against PyTorch's: the same law, other draws."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from headcount import models
from headcount.dropout import dropout, quick_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_of_p_is_zero_and_the_rest_enlarged(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 301, dtype=dtype)  # not a multiple of four
    y = dropout(x, p)
    dropped = int((y == 0).sum())
    assert stats.binomtest(dropped, x.numel(), p).pvalue > 1e-3
    assert y.dtype == dtype
    assert y.max().item() == pytest.approx(
        1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-4
    )


def test_neighbours_are_dropped_independently():
    """The four elements of one draw, and elements of neighbouring draws."""
    torch.manual_seed(1)
    gone = (dropout(torch.ones(4 * 50_000), 0.3) == 0).numpy()
    for lag in (1, 2, 3, 4):
        together = np.mean(gone[:-lag] & gone[lag:])
        assert together == pytest.approx(0.09, abs=4 * np.sqrt(0.09 * 0.91 / 200_000))


def test_gradients_flow_where_nothing_was_dropped():
    torch.manual_seed(2)
    x = torch.randn(64, 64, requires_grad=True)
    y = dropout(x, 0.25)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach())


def test_a_restored_generator_draws_the_same_masks():
    x = torch.ones(1000)
    state = torch.get_rng_state()
    first = dropout(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout(x, 0.5))


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False), (1.0, True)])
def test_where_there_is_nothing_to_draw_it_is_pytorchs(p, training):
    x = torch.randn(7, 5)
    assert torch.equal(dropout(x, p, training), F.dropout(x, p, training))


def test_a_probability_that_is_none_is_refused():
    with pytest.raises(ValueError, match="probability"):
        dropout(torch.ones(3), -0.1)


def test_within_the_context_a_models_dropout_is_ours_and_afterwards_it_is_as_before(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "headcount.dropout.dropout", lambda x, p=0.5, *_, **__: asked.append(p) or x
    )
    model = models.student(100, layers=1, hidden=8, heads=2, ffn=16, seed=0).train()
    before, implementation = F.dropout, model.config._attn_implementation
    ids = torch.arange(6)[None]
    with quick_dropout(model):
        model(input_ids=ids)
    modules = sum(isinstance(module, nn.Dropout) for module in model.modules())
    assert len(asked) == modules  # attention's module gives its p to the function that attends
    assert F.dropout is before
    assert model.config._attn_implementation == implementation
    model(input_ids=ids)
    assert len(asked) == modules


def test_a_failing_training_leaves_pytorchs_dropout_in_place():
    model = models.student(100, layers=1, hidden=8, heads=2, ffn=16, seed=0)
    before = F.dropout
    with pytest.raises(RuntimeError), quick_dropout(model):
        raise RuntimeError
    assert F.dropout is before


def test_elsewhere_than_on_the_cpu_nothing_changes():
    model = models.student(100, layers=1, hidden=8, heads=2, ffn=16, seed=0).to("meta")
    before = F.dropout, model.config._attn_implementation
    with quick_dropout(model):
        assert (F.dropout, model.config._attn_implementation) == before

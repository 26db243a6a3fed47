"""The curvature against the exact Hessian of a toy, and bits by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_surgery import CONFIGS, batch, build

from headcount import models, quantize
from headcount.errors import InputError
from headcount.prune import remove
from headcount.quantize import bits_by_sensitivity, eigenvalues, omega, top_eigenvalue

LAYERS = {"bert": "bert.encoder.layer", "distilbert": "distilbert.transformer.layer"}
TIGHT = {"tolerance": 1e-9}


def toy(kind):
    """Two layers of width 8 in float64: 320 weights each."""
    config = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 4}
    config |= {"num_attention_heads": 2, "n_layers": 2, "dim": 8, "hidden_dim": 4, "n_heads": 2}
    config = {key: value for key, value in config.items() if hasattr(CONFIGS[kind], key)}
    return build(kind, **config).double()


def labelled(lengths=(5, 12, 9)):
    return batch(lengths) | {"labels": torch.arange(len(lengths)) % 3}


def one_by_one(whole):
    lengths = whole["attention_mask"].sum(1).tolist()
    return [
        {name: (t[i : i + 1, :n] if t.ndim == 2 else t[i : i + 1]) for name, t in whole.items()}
        for i, n in enumerate(lengths)
    ]


def exact(model, whole, name):
    """All eigenvalues of the Hessian with respect to a part's matrices, ascending."""
    model.set_attn_implementation("eager")
    own = {n: p.detach() for n, p in model.named_parameters() if f"{n}.".startswith(f"{name}.")}
    own = {n: p for n, p in own.items() if p.ndim == 2}

    def loss(vector):
        parts = vector.split([p.numel() for p in own.values()])
        parts = {n: part.view_as(p) for part, (n, p) in zip(parts, own.items(), strict=True)}
        inputs = {key: whole[key] for key in ("input_ids", "attention_mask")}
        found = torch.func.functional_call(model, parts, kwargs=inputs).logits
        return F.cross_entropy(found, whole["labels"])

    vector = torch.cat([p.flatten() for p in own.values()])
    hessian = torch.autograd.functional.hessian(loss, vector)
    torch.testing.assert_close(hessian, hessian.T)
    model.set_attn_implementation("sdpa")
    return torch.linalg.eigvalsh(hessian).numpy()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("pruned", [False, True])
def test_the_largest_eigenvalue_is_found(kind, pruned):
    model, whole = toy(kind), labelled()
    if pruned:
        remove(model, [(0, 1), (1, 0), (1, 1)])
    for layer in (0, 1):
        name = f"{LAYERS[kind]}.{layer}"
        all_of_them = exact(model, whole, name)
        expected = all_of_them[np.abs(all_of_them).argmax()]
        for batches in ([whole], one_by_one(whole)):
            found = top_eigenvalue(model, batches, name, **TIGHT)
            assert found == pytest.approx(expected, rel=1e-4)
    rough = top_eigenvalue(model, [whole], name)
    assert rough == pytest.approx(expected, rel=0.02)


def test_the_eigenvalue_of_largest_magnitude_may_be_negative():
    model, whole = toy("bert"), labelled()
    for seed in range(20):
        whole["labels"] = torch.randint(3, (3,), generator=torch.Generator().manual_seed(seed))
        all_of_them = exact(model, whole, "bert.pooler")
        if all_of_them[0] < -1.1 * all_of_them[-1]:
            break
    found = top_eigenvalue(model, [whole], "bert.pooler", **TIGHT)
    assert found == pytest.approx(all_of_them[0], rel=1e-4)


def test_the_model_is_left_as_it_was():
    model = build("bert").train()
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    before, state = models.weights_sha256(model), torch.get_rng_state()
    one = top_eigenvalue(model, [labelled()], "bert.encoder.layer.1")
    assert one == top_eigenvalue(model, [labelled()], "bert.encoder.layer.1")
    assert models.weights_sha256(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert {id(p) for p in model.parameters() if not p.requires_grad} == {id(frozen)}
    assert all(p.grad is None for p in model.parameters())


def test_a_flat_loss_has_no_curvature():
    model = build("bert")
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert top_eigenvalue(model, [labelled()], "bert.encoder.layer.0") == 0


def test_what_has_no_curvature_is_told():
    model = build("bert")
    with pytest.raises(InputError, match="at least one batch with labels"):
        top_eigenvalue(model, [batch()], "bert.encoder.layer.0")
    with pytest.raises(InputError, match="at least one batch with labels"):
        top_eigenvalue(model, [], "bert.encoder.layer.0")
    with pytest.raises(InputError, match=r"names 'bert\.encoder\.layer\.7'"):
        top_eigenvalue(model, [labelled()], "bert.encoder.layer.7")
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite: the model has diverged"):
        top_eigenvalue(model, [labelled()], "bert.encoder.layer.0")


def test_each_subset_has_its_own_sentences(tiny, sentences, monkeypatch):
    model, data, seen = tiny(), sentences(40), []
    names = [f"bert.encoder.layer.{i}" for i in (0, 1)]
    original = quantize.hessian.top_eigenvalue

    def watched(model, batches, name, **arguments):
        seen.append([int(i) for one in batches for i in one["index"]])
        return original(model, batches, name, **arguments)

    monkeypatch.setattr(quantize.hessian, "top_eigenvalue", watched)
    found = eigenvalues(model, data, names, subsets=4, share=0.25, batch_size=8)
    assert list(found.index) == names
    assert found.shape == (2, 4)
    assert np.isfinite(found).all(axis=None)
    assert found.nunique(axis=1).eq(4).all()
    assert seen[0] == seen[1]
    assert sorted(i for rows in seen[::2] for i in rows) == list(range(40))
    with pytest.raises(InputError, match="4 subsets of 50% cannot be had from 40 sentences"):
        eigenvalues(model, data, names, subsets=4, share=0.5)


def test_omega_by_hand():
    found = omega(pd.DataFrame({0: [-1.0, 4.0], 1: [-3.0, 4.0]}, index=["a", "b"]))
    assert found.to_dict() == {"a": 2 + 1, "b": 4}


def test_high_omega_gets_more_bits_as_far_as_the_budget_goes():
    omegas = {"a": 0.1, "b": 3.0, "c": 1.0, "d": 2.0}
    assert bits_by_sensitivity(omegas) == {"a": 2, "b": 4, "c": 2, "d": 4}
    assert bits_by_sensitivity(omegas, average=2.0) == dict.fromkeys(omegas, 2)
    assert bits_by_sensitivity(omegas, average=8.0) == dict.fromkeys(omegas, 4)
    assert bits_by_sensitivity(omegas, low=4, high=8, average=5) == {"a": 4, "b": 8, "c": 4, "d": 4}
    # d would be the next and is too large for what is left; c, which would fit, matters less.
    sizes = {"a": 10, "b": 10, "c": 10, "d": 70}
    found = bits_by_sensitivity(omegas, sizes, average=2.5)
    assert found == {"a": 2, "b": 4, "c": 2, "d": 2}
    with pytest.raises(InputError, match="2 at least"):
        bits_by_sensitivity(omegas, average=1.5)
    with pytest.raises(InputError, match="0 parts"):
        bits_by_sensitivity({})


def test_the_bits_are_those_of_a_scheme():
    model = build("bert")
    names = [f"bert.encoder.layer.{i}" for i in range(3)]
    bits = bits_by_sensitivity(dict(zip(names, (1.0, 3.0, 2.0), strict=True)), average=2.7)
    scheme = replace(quantize.weights_only(4, groups=8), bits=bits)
    found = {name.rsplit(".", 1)[0]: grid.bits for name, _, grid in quantize.targets(model, scheme)}
    assert found["bert.encoder.layer.0.attention.self"] == 2
    assert found["bert.encoder.layer.1.attention.self"] == 4
    with quantize.simulated(model, scheme), torch.no_grad():
        assert torch.isfinite(model(**batch()).logits).all()

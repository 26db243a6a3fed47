"""Gates against masks, slopes against differences, textpruner and W_O; draws against integrals."""

import copy
import pickle

import numpy as np
import pytest
import scipy.integrate
import torch
import torch.nn.functional as F
from scipy.special import expit, logit
from test_scores import LENGTHS, singles
from test_surgery import CONFIGS, EMPTIED, batch, build, logits
from transformers import AutoModelForSequenceClassification

from headcount import distill, models, train
from headcount.errors import InputError
from headcount.prune import (
    L0,
    HardConcrete,
    alive,
    attach_gates,
    attention_layers,
    gated,
    gradient,
    masked,
    remove,
    settle_gates,
)

KINDS = ["bert", "distilbert"]
LABELS = torch.tensor([0, 1, 2, 0, 1])


def labelled(lengths=LENGTHS):
    return batch(lengths) | {"labels": LABELS[: len(lengths)]}


def one_by_one(whole):
    alone = singles({name: whole[name] for name in ("input_ids", "attention_mask")})
    labels = whole["labels"][:, None]
    return [one | {"labels": label} for one, label in zip(alone, labels, strict=True)]


def by_layer(scores):
    """Divided by the l2 norm of each layer."""
    return scores / np.linalg.norm(scores, axis=1, keepdims=True)


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


# --- given gates --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gates_of_one_change_nothing_and_gates_of_zero_mask_and_remove(kind):
    model = build(kind)
    before = logits(model)
    gates = torch.ones(3, 4)
    with gated(model, gates):
        assert torch.allclose(logits(model), before, atol=1e-6)
    for head in EMPTIED:
        gates[head] = 0
    with gated(model, gates):
        closed = logits(model)
    with masked(model, EMPTIED):
        assert torch.allclose(closed, logits(model), atol=1e-6)
    assert torch.equal(logits(model), before)
    remove(model, EMPTIED)
    assert torch.allclose(closed, logits(model), atol=1e-5)
    # Now gates stand for live heads by their original number, and those of others for nothing.
    for head in EMPTIED:
        gates[head] = torch.nan
    gates[2, 1] = 0
    with gated(model, gates):
        closed = logits(model)
    remove(model, [(2, 1)])
    assert torch.allclose(closed, logits(model), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_has_gates_of_its_own(kind):
    model = build(kind)
    gates = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0))
    with gated(model, gates):
        together = logits(model)
    for row in range(3):
        with gated(model, gates[row]):
            assert torch.allclose(logits(model)[row], together[row], atol=1e-5)


# --- the gradient as a score --------------------------------------------------------------------


def by_differences(model, sentences, step=1e-5):
    """Slope of each sentence's loss along each gate, (sentences, layers, heads), in float64."""
    slopes = np.empty((len(sentences), 3, 4))
    for row, layer, head in np.ndindex(slopes.shape):
        losses = []
        for sign in (1, -1):
            gates = torch.ones(3, 4, dtype=torch.float64)
            gates[layer, head] += sign * step
            with gated(model, gates), torch.no_grad():
                losses.append(model(**sentences[row]).loss.item())
        slopes[row, layer, head] = (losses[0] - losses[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_differences_padded_or_not(kind):
    model, whole = build(kind).double(), labelled()
    slopes = by_differences(model, one_by_one(whole))
    expected = by_layer(np.abs(slopes).mean(0))
    # The sentences disagree on the sign, so the absolute value of a mean is something else.
    assert np.abs(expected - by_layer(np.abs(slopes.mean(0)))).max() > 0.1
    np.testing.assert_allclose(gradient(model, [whole]), expected, atol=1e-7)
    np.testing.assert_allclose(gradient(model, one_by_one(whole)), expected, atol=1e-7)
    rows = [0], [1, 2, 3, 4]
    unequal = [{name: tensor[some] for name, tensor in whole.items()} for some in rows]
    np.testing.assert_allclose(gradient(model, unequal), expected, atol=1e-7)
    np.testing.assert_allclose(gradient(build(kind), [whole]), expected, atol=1e-4)


def by_output_weights(model, sentences):
    """Mean over sentences of |sum of W_O * dL/dW_O| over a head's columns."""
    scores = np.full((3, 4), np.nan)
    for layer in attention_layers(model):
        scores[layer.index, layer.heads] = 0
    for sentence in sentences:
        model.zero_grad()
        model(**sentence).loss.backward()
        for layer in attention_layers(model):
            for head in layer.heads:
                weight = layer.output.weight
                block = (weight * weight.grad)[:, layer.block(head)]
                scores[layer.index, head] += block.sum().abs().item() / len(sentences)
    model.zero_grad()
    return scores / np.sqrt(np.nansum(scores**2, axis=1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_output_weights_and_removed_heads_have_none(kind):
    model, whole = build(kind).double(), labelled()
    np.testing.assert_allclose(
        gradient(model, [whole]), by_output_weights(model, one_by_one(whole)), atol=1e-9
    )
    remove(model, [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)])
    scores = gradient(model, [whole])
    expected = by_output_weights(model, one_by_one(whole))
    np.testing.assert_array_equal(np.isnan(scores), [[0, 1, 0, 0], [1] * 4, [1, 1, 0, 0]])
    np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_gradient_equals_textpruners():
    # TransformerPruner.get_importance_score of textpruner 1.1.post2, with transformers 4.46.3 and
    # torch 2.13.0, over batches of one sentence; it does not normalise.
    expected = [
        [0.270655, 0.123891, 0.199272, 0.203836],
        [0.396767, 0.377283, 0.449298, 0.214711],
        [0.34484, 0.370673, 0.509679, 0.278528],
    ]
    config = copy.deepcopy(CONFIGS["bert"])
    model = AutoModelForSequenceClassification.from_config(config).double()
    with torch.no_grad():
        for at, (name, parameter) in enumerate(sorted(model.named_parameters())):
            index = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
            values = 0.4 * torch.sin(1.7 * index + index**2 / 97 + at)
            parameter.copy_(values + ("Norm.weight" in name))
    sentences = [
        {
            "input_ids": ((torch.arange(length) * 37 + 11 * row) % 94 + 5)[None],
            "attention_mask": torch.ones(1, length, dtype=torch.long),
            "labels": torch.tensor([row % 3]),
        }
        for row, length in enumerate((5, 12, 9, 7))
    ]
    np.testing.assert_allclose(gradient(model, sentences), by_layer(expected), atol=5e-6)


def test_scoring_leaves_the_model_as_it_was():
    model, whole = build("bert"), labelled() | {"index": torch.arange(5)}
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    model.train()
    wanted = []
    watch = model.register_forward_pre_hook(
        lambda *_: wanted.extend(p for p in model.parameters() if p.requires_grad)
    )
    scores = gradient(model, [whole])
    watch.remove()
    assert not wanted
    assert model.training
    assert {id(p) for p in model.parameters() if not p.requires_grad} == {id(frozen)}
    assert all(p.grad is None for p in model.parameters())
    np.testing.assert_array_equal(gradient(model.eval(), [whole]), scores)  # without dropout
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    model.train()
    with pytest.raises(InputError, match="gradient in layer 0 is not finite"):
        gradient(model, [whole])
    assert model.training
    assert {id(p) for p in model.parameters() if not p.requires_grad} == {id(frozen)}


def test_layers_that_matter_to_no_loss_score_zero_and_empty_ones_nothing():
    model = build("bert")
    with torch.no_grad():
        attention_layers(model)[1].output.weight.zero_()
    scores = gradient(model, [labelled()])
    assert not scores[1].any()
    np.testing.assert_allclose(np.linalg.norm(scores[[0, 2]], axis=1), 1)
    remove(model, [(layer, head) for layer in range(3) for head in range(4)])
    assert np.isnan(gradient(model, [labelled()])).all()


def test_nothing_to_score_is_refused():
    model = build("bert")
    for batches, said in (([], "no sentence to score heads on"), ([batch()], "have labels")):
        with pytest.raises(InputError, match=said) as refused:
            gradient(model, batches)
        assert "\n" not in str(refused.value)


# --- hard concrete ------------------------------------------------------------------------------


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 0.7, 3.0])
def test_draws_have_the_distribution(log_alpha):
    torch.manual_seed(0)
    gates = HardConcrete(200_000, 1, initial=log_alpha)
    draws = gates().detach().numpy()[:, 0].astype(float)
    assert (draws.min(), draws.max()) == (0, 1)
    # By the inverse of the sigmoid: a gate is over z where u is, for z stretched back.
    stretched = (0.0, 0.25, 0.5, 0.75, 1 - 1e-9)
    over = {z: expit(log_alpha - 0.33 * logit((z + 0.1) / 1.2)) for z in stretched}
    for z, probability in over.items():
        assert (draws > z).mean() == pytest.approx(probability, abs=0.005), z
    closed_form = gates.open_probability().detach().numpy()
    np.testing.assert_allclose(closed_form, over[0.0], rtol=1e-5)
    mean, _ = scipy.integrate.quad(
        lambda u: np.clip(1.2 * expit((logit(u) + log_alpha) / 0.33) - 0.1, 0, 1), 0, 1, limit=200
    )
    assert draws.mean() == pytest.approx(mean, abs=0.005)


def test_evaluation_gates_are_the_closed_form():
    gates = HardConcrete(2, 3).eval()
    assert gates().detach().numpy() == pytest.approx(1.2 / (1 + np.exp(-2)) - 0.1)
    gates.log_alpha.data = torch.tensor([[-3.0, -2.3, 0.0], [2.3, 2.5, -torch.inf]])
    expected = [[0, 1.2 * expit(-2.3) - 0.1, 0.5], [1.2 * expit(2.3) - 0.1, 1, 0]]
    np.testing.assert_allclose(gates().detach(), expected, atol=1e-6)
    np.testing.assert_array_equal(gates(1).detach(), gates()[1].detach())
    gates.train()()
    assert torch.isfinite(gates()).all()


def test_a_draw_serves_one_pass_and_all_of_its_batch():
    model = without_dropout(build("bert"))
    gates = attach_gates(model, initial=0.0)
    twice = {name: tensor.repeat(2, 1) for name, tensor in batch().items()}
    model.train()
    first, second = logits(model, twice), logits(model, twice)
    assert torch.allclose(first[:3], first[3:], atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-2)
    model.eval()
    assert torch.equal(logits(model), logits(model))
    fixed = gates()
    plain = copy.deepcopy(model)
    plain.load_state_dict(model.state_dict())
    for layer in attention_layers(plain):
        layer.output._forward_pre_hooks.clear()
    with gated(plain, fixed):
        assert torch.allclose(logits(model), logits(plain), atol=1e-5)
    assert not torch.allclose(logits(model), logits(plain), atol=1e-2)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_has_gates_of_its_own(copied):
    model = build("bert")
    attach_gates(model)
    model.train()(**labelled()).loss.backward()  # what was drawn must not hinder a copy
    before = logits(model.eval())
    other = copied(model)
    other.zero_grad()
    assert torch.equal(logits(other), before)
    other.head_gates.log_alpha.data.fill_(-9.0)
    assert torch.equal(logits(model), before)
    closed = logits(other)
    with masked(build("bert"), [(layer, head) for layer in range(3) for head in range(4)]) as bare:
        assert torch.allclose(closed, logits(bare), atol=1e-5)
    other.head_gates.log_alpha.data.fill_(1.0)
    model.zero_grad()
    other(**labelled()).loss.backward()
    assert other.head_gates.log_alpha.grad.abs().sum() > 0
    assert model.head_gates.log_alpha.grad is None
    settle_gates(other)
    assert torch.equal(logits(model), before)
    assert not any(module._forward_pre_hooks for module in other.modules())


# --- settling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_settled_gates_leave_a_plain_pruned_model(kind, word_pieces, tmp_path):
    model = build(kind)
    remove(model, [(0, 1), (2, 2)])
    keys = set(model.state_dict())
    gates = attach_gates(model)
    assert set(model.state_dict()) == keys | {"head_gates.log_alpha"}
    gates.log_alpha.data = torch.tensor(
        [[0.3, 9.0, -4.0, 5.0], [-3.0, -5.0, -9.0, -4.0], [-1.0, 0.0, 9.0, 1.0]]
    )
    model.train()
    expected = logits(model.eval())
    assert settle_gates(model) == [(0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert alive(model) == model.config.heads_alive == [[0, 3], [], [0, 1, 3]]
    assert torch.allclose(logits(model), expected, atol=1e-5)
    assert set(model.state_dict()) <= keys
    assert not any(module._forward_pre_hooks for module in model.modules())
    models.save(model, word_pieces, tmp_path / "model")
    again, _ = models.load(tmp_path / "model")
    assert torch.equal(logits(again), logits(model))


def test_gates_are_put_on_once_and_taken_off_once():
    model = build("bert")
    with pytest.raises(InputError, match="no gates"):
        settle_gates(model)
    attach_gates(model)
    with pytest.raises(InputError, match="has gates on its heads already"):
        attach_gates(model)
    settle_gates(model)
    attach_gates(model)


# --- training -----------------------------------------------------------------------------------


def test_the_penalty_is_the_expected_number_of_open_heads():
    model = build("bert")
    remove(model, EMPTIED)
    gates = attach_gates(model)
    inputs = labelled((5, 12, 9))
    terms = L0(0.3)(model, inputs)
    p = expit(2 - 0.33 * np.log(0.1 / 1.1))
    assert terms["open"].item() == pytest.approx((12 - len(EMPTIED)) * p, rel=1e-5)
    hard = F.cross_entropy(logits(model, inputs), inputs["labels"])
    assert terms["hard"].item() == pytest.approx(hard.item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(hard.item() + 0.3 * terms["open"].item(), rel=1e-5)
    terms["loss"].backward()
    model.zero_grad(set_to_none=False)
    gates.open_probability().sum().backward()
    slope = np.zeros((3, 4))
    for layer in attention_layers(model):
        slope[layer.index, layer.heads] = p * (1 - p)
    np.testing.assert_allclose(gates.log_alpha.grad, slope, rtol=1e-5)
    assert L0(0.3).describe() == L0(0.3).describe() != L0(0.4).describe()


GATED = train.Recipe(
    epochs=3, learning_rate=1e-3, batch_size=8, rates={"head_gates": 1.0, "classifier": 1e-2}
)


def fit_gates(tiny, sentences, tokenizer, folder, objective, recipe=GATED):
    model = tiny()
    attach_gates(model)
    validation = sentences(20, seed=1)
    return train.fit(
        model,
        sentences(),
        recipe,
        folder,
        tokenizer=tokenizer,
        objective=objective,
        validation=validation,
    )


def test_a_large_weight_closes_gates_and_a_small_one_does_not(
    tiny, sentences, word_pieces, tmp_path
):
    opened = {}
    for weight in (0.0, 10.0):
        fitted = fit_gates(tiny, sentences, word_pieces, tmp_path / str(weight), L0(weight))
        told = fitted.history["open"].dropna()
        assert fitted.history["hard"].notna().sum() == len(told)
        assert len(settle_gates(fitted.model)) + sum(map(len, alive(fitted.model))) == 8
        opened[weight] = told.iloc[0], told.iloc[-1], sum(map(len, alive(fitted.model)))
    assert opened[10.0][0] > 6 > 3 > opened[10.0][1]
    assert opened[10.0][2] == 0
    assert opened[0.0][1] > 6  # only the loss on random labels moves them: 7.5 at first
    assert opened[0.0][2] == 8


class KilledError(Exception):
    pass


class StopsAt(L0):
    """L0, until a step at which the process would be killed."""

    stop, calls = 0, 0

    def __call__(self, model, batch):
        StopsAt.calls += 1
        if StopsAt.calls == StopsAt.stop:
            raise KilledError
        return super().__call__(model, batch)


def test_a_killed_training_of_gates_goes_on_and_ends_the_same(
    tiny, sentences, word_pieces, tmp_path
):
    undisturbed = fit_gates(tiny, sentences, word_pieces, tmp_path / "whole", L0(0.5))
    StopsAt.stop, StopsAt.calls = 8, 0
    with pytest.raises(KilledError):
        fit_gates(tiny, sentences, word_pieces, tmp_path / "cut", StopsAt(0.5))
    StopsAt.stop, StopsAt.calls = 0, 0
    resumed = fit_gates(tiny, sentences, word_pieces, tmp_path / "cut", StopsAt(0.5))
    assert StopsAt.calls == 10  # the first epoch is not run again
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    columns = ["step", "loss", "open", "validation_loss"]
    assert resumed.history[columns].equals(undisturbed.history[columns])
    loaded = fit_gates(tiny, sentences, word_pieces, tmp_path / "cut", StopsAt(0.5))
    assert StopsAt.calls == 10
    assert loaded.weights_sha256 == undisturbed.weights_sha256


def test_rates_are_adamw_with_groups_of_their_own(
    tiny, sentences, word_pieces, tmp_path, monkeypatch
):
    """The whole training again, written out with torch alone, in FP32 as that is."""
    monkeypatch.setattr(train, "precision", lambda device: "fp32")
    recipe = train.Recipe(2, 1e-3, 8, warmup=0.2, weight_decay=0.1, rates={"classifier": 0.05})
    model, tokens = without_dropout(tiny()), sentences()
    by_hand = copy.deepcopy(model)
    train.fit(model, tokens, recipe, tmp_path, tokenizer=word_pieces)

    named = dict(by_hand.named_parameters())
    own = [n for n in named if n.startswith("classifier")]
    plain = [n for n in named if n.endswith(("bias", "LayerNorm.weight")) and n not in own]
    decayed = [n for n in named if n not in own + plain]
    assert len(own) == 2
    rates = [(decayed, 1e-3, 0.1), (plain, 1e-3, 0.0), (own, 0.05, 0.0)]
    optimizer = torch.optim.AdamW(
        {"params": [named[n] for n in names], "weight_decay": decay} for names, _, decay in rates
    )
    for step in range(10):
        sampler = train.LikeLengthBatches(tokens.lengths, 8, 0)
        sampler.set_epoch(step // 5)
        rows = list(sampler)[step % 5]
        for group, (_, rate, _) in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (step / 2 if step < 2 else (10 - step) / 8)
        optimizer.zero_grad()
        inputs = train.collate([tokens[i] for i in rows], word_pieces.pad_token_id)
        distill.HardLabels()(by_hand, inputs)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], atol=2e-6), name


def test_rates_count_in_the_fingerprint_and_must_name_something(
    tiny, sentences, word_pieces, tmp_path
):
    rates = ({}, {"classifier": 1e-2}, {"classifier": 2e-2})
    recipes = [train.Recipe(3, 1e-3, rates=chosen) for chosen in rates]
    arguments = (tiny(), sentences(), None)
    digests = {train.fingerprint(*arguments, one, distill.HardLabels()) for one in recipes}
    assert len(digests) == len(set(recipes)) == 3
    assert train.Recipe(3, 1e-3) == recipes[0]
    recipe = train.Recipe(1, 1e-3, rates={"head_gate": 0.1, "gate_heads": 0.1})
    with pytest.raises(InputError, match="has 'gate_heads' in it") as refused:
        fit_gates(tiny, sentences, word_pieces, tmp_path, L0(1.0), recipe)
    assert "\n" not in str(refused.value)

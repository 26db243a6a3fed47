"""The last layer at the first token alone, against the whole layer and against gradients."""

import pytest
import torch
from test_fake_quant import build

from headcount import distill, first_token, train
from headcount.prune import surgery


def padded():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 2:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def made(kind):
    """``pruned`` has lost one of its last layer's heads, ``without`` all of them."""
    model = build("distilbert" if kind == "distilbert" else "bert")
    last = len(surgery.alive(model)) - 1
    gone = {"pruned": [0], "without": surgery.alive(model)[last]}.get(kind, [])
    surgery.remove(model, [(last, head) for head in gone])
    return model.double().eval()


KINDS = ["bert", "pruned", "distilbert", "without"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_whole_layer(kind, attention):
    model = made(kind)
    model.config._attn_implementation = attention
    inputs = padded()
    with torch.no_grad():
        whole, width = model(**inputs).logits, model.base_model(**inputs)[0].shape[1]
        with first_token.alone(model):
            torch.testing.assert_close(model(**inputs).logits, whole)
            assert model.base_model(**inputs)[0].shape[1] == 1 < width
        assert model.base_model(**inputs)[0].shape[1] == width


@pytest.mark.parametrize("kind", KINDS[:3])
def test_no_logit_depends_on_the_other_positions(kind):
    """Of exactly those linear layers whose input has no gradient beyond the first position."""
    model, inputs_of = made(kind), {}

    def keep(module, args):
        own = args[0] * 1  # W_Q, W_K and W_V have one input, and here a gradient each
        own.retain_grad()
        inputs_of[module] = own
        return (own,)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(keep)
    with torch.enable_grad():
        logits = model(**{name: tensor[:1] for name, tensor in padded().items()}).logits
    logits.square().sum().backward()
    alone = {m for m, x in inputs_of.items() if x.ndim == 3 and not x.grad[:, 1:].any()}
    assert alone == set(first_token.linears(model))
    assert len(alone) == 4  # W_Q, W_O and two of the feed-forward network


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_training_gradients_are_those_of_the_whole_layer(kind, attention, monkeypatch):
    """With dropout asked for and kept from drawing, since its draws are others."""
    model, asked = made(kind), set()
    model.config._attn_implementation = attention
    inputs = padded()
    if attention == "sdpa":
        inputs["attention_mask"] = distill.keys_mask(inputs["attention_mask"])

    def undrawn(x, p=0.5, training=True, inplace=False):
        asked.add((tuple(x.shape[-2:]), p * training))
        return x

    def gradients():
        model.zero_grad()
        model(**inputs).logits.square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    whole = gradients()
    monkeypatch.setattr(torch.nn.functional, "dropout", undrawn)
    model.train()
    for layer in surgery.attention_layers(model)[:-1]:
        layer.core.eval()  # fused attention draws by itself
    with first_token.alone(model):
        torch.testing.assert_close(gradients(), whole)
    assert kind == "without" or ((1, 9), 0.1) in asked  # the last layer's attention, one query


def test_a_training_at_the_first_token_ends_as_one_with_the_whole_layer(
    tiny, sentences, word_pieces, tmp_path
):
    ends = {}
    for alone in (False, True):
        model = tiny()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        recipe = train.Recipe(4, 3e-3, batch_size=8, precision="fp32", first_token=alone)
        fitted = train.fit(model, sentences(), recipe, tmp_path / str(alone), tokenizer=word_pieces)
        ends[alone] = torch.from_numpy(train.predict(fitted.model, sentences(), word_pieces))
        before = torch.from_numpy(train.predict(tiny(), sentences(), word_pieces))
        assert (ends[alone] - before).abs().max() > 0.1
        inputs = {name: tensor.clamp(max=9) for name, tensor in padded().items()}
        assert fitted.model.base_model(**inputs)[0].shape[1] == 9  # whole again
    torch.testing.assert_close(ends[True], ends[False], rtol=0, atol=2e-3)

"""Removal against masking, a closed form for the count, and ONNX Runtime."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
)

from headcount.errors import InputError
from headcount.prune import (
    alive,
    apply_heads_alive,
    attention_layers,
    masked,
    parameters_per_head,
    remove,
)

CONFIGS = {
    "bert": BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        num_labels=3,
    ),
    "distilbert": DistilBertConfig(
        vocab_size=99,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=32,
        num_labels=3,
    ),
}
# Rounds of removal, in original indices: all layers, then unlike layers, then layer 1 to its end.
ROUNDS = [
    [(0, 1), (1, 0), (2, 3)],
    [(0, 3), (1, 3)],
    [(1, 1), (1, 2)],
]
EMPTIED = [head for heads in ROUNDS for head in heads]


@pytest.fixture(params=list(CONFIGS))
def model(request):
    return build(request.param)


def build(kind, **changes):
    torch.manual_seed(7)
    config = copy.deepcopy(CONFIGS[kind])
    config.update(changes)
    model = AutoModelForSequenceClassification.from_config(config)
    # Fresh biases are zero and fresh weights tiny: both would hide a wrong slice.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("orm.weight" in name), std=0.3)
    return model.eval()


def batch(lengths=(5, 12, 9)):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 99, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def logits(model, inputs=None):
    with torch.no_grad():
        return model(**(inputs or batch())).logits


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_removed_equals_masked_after_every_round(model, implementation):
    model.set_attn_implementation(implementation)
    full, gone = copy.deepcopy(model), []
    for heads in ROUNDS:
        remove(model, heads)
        gone += heads
        with masked(full, gone):
            expected = logits(full)
        assert torch.allclose(logits(model), expected, atol=1e-5, rtol=0)
        assert not torch.allclose(expected, logits(full), atol=1e-2)
        for layer, heads_left in enumerate(alive(model)):
            assert heads_left == [h for h in range(4) if (layer, h) not in gone]
    assert alive(model)[1] == []


def test_masking_a_pruned_model_equals_removing_more(model):
    remove(model, ROUNDS[0])
    with masked(model, ROUNDS[1]):
        expected = logits(model)
    remove(model, ROUNDS[1])
    assert torch.allclose(logits(model), expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing_in_a_pruned_model(model):
    remove(model, EMPTIED)
    whole = batch()
    for row, length in enumerate(whole["attention_mask"].sum(1).tolist()):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in whole.items()}
        assert torch.allclose(logits(model, alone)[0], logits(model, whole)[row], atol=1e-5)


def test_a_head_is_what_the_textbook_says():
    """One layer's context, head by head in NumPy, against the module with heads 0 and 2 gone."""
    model = build("bert")
    layer = attention_layers(model)[0]
    Q, K, V = (
        linear.weight.detach().numpy().reshape(4, 8, 32)
        for linear in (layer.query, layer.key, layer.value)
    )
    bq, bk, bv = (
        linear.bias.detach().numpy().reshape(4, 8)
        for linear in (layer.query, layer.key, layer.value)
    )
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    contexts = []
    for h in (1, 3):
        q, k, v = (x.numpy() @ W[h].T + b[h] for W, b in ((Q, bq), (K, bk), (V, bv)))
        weights = np.exp(q @ k.T / np.sqrt(8))
        contexts.append(weights / weights.sum(1, keepdims=True) @ v)
    remove(model, [(0, 0), (0, 2)])
    with torch.no_grad():
        context = attention_layers(model)[0].core(x[None])[0][0]
    np.testing.assert_allclose(context, np.concatenate(contexts, 1), atol=1e-4)


def test_parameters_fall_by_the_closed_form(model):
    before = model.num_parameters()
    # 8 rows of three 32-wide matrices with a bias each, 8 columns of one 32 high without.
    assert parameters_per_head(model) == 3 * (8 * 32 + 8) + 32 * 8
    for heads in ROUNDS:
        remove(model, heads)
    assert before - model.num_parameters() == len(EMPTIED) * parameters_per_head(model)


def test_seventy_heads_of_bert_base_are_thirteen_million_parameters():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(BertConfig())
    before = model.num_parameters()
    remove(model, [(layer, head) for layer in range(12) for head in range(12)][:70])
    assert before - model.num_parameters() == 70 * 196_800 == 13_776_000


def test_a_pruned_model_trains(model):
    remove(model, EMPTIED)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inputs = {**batch(), "labels": torch.tensor([0, 1, 2])}
    first = model(**inputs).loss.item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(20):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    # In evaluation mode, so that dropout does not blur the comparison.
    assert model.eval()(**inputs).loss.item() < first / 2
    for layer in attention_layers(model):
        assert layer.output.bias.grad.abs().sum() > 0
        assert not layer.heads or layer.query.weight.grad.abs().sum() > 0
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    # Rows of embeddings that no token used move by weight decay alone, hence every tensor does.
    assert moved == set(before)


@pytest.mark.parametrize("where", ["before", "after"])
def test_configuration_and_state_dict_rebuild_the_model(model, tmp_path, where):
    remove(model, EMPTIED)
    model.config.save_pretrained(tmp_path)
    config = type(model.config).from_pretrained(tmp_path)
    heads_alive = config.heads_alive
    if where == "after":
        del config.heads_alive
    again = AutoModelForSequenceClassification.from_config(config)
    apply_heads_alive(again, heads_alive)
    again.load_state_dict(model.state_dict(), strict=True)
    assert alive(again) == alive(model) == [[0, 2], [], [0, 1, 2]]
    assert torch.equal(logits(again.eval()), logits(model))


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_onnx_runtime_gives_the_same_logits(kind, tmp_path):
    model, inputs = build(kind), batch()
    remove(model, EMPTIED)
    torch.onnx.export(
        model,
        (inputs["input_ids"], inputs["attention_mask"]),
        tmp_path / "model.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"}),
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for lengths in ((5, 12, 9), (7, 3), (4,)):
        feed = batch(lengths)
        (got,) = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        np.testing.assert_allclose(got, logits(model, feed), atol=1e-4)


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ([(0, 1)], "head 1 of layer 0 has been removed already"),
        ([(0, 0), (0, 0)], "named 2 times"),
        ([(0, 4)], "no head 4 in layer 0"),
        ([(-1, 0)], "no head 0 in layer -1"),
    ],
)
def test_refusals_leave_the_model_whole(model, heads, said):
    remove(model, ROUNDS[0])
    before = model.num_parameters()
    for act in (lambda: remove(model, [(2, 0), *heads]), masked(model, heads).__enter__):
        with pytest.raises(InputError, match=said) as refused:
            act()
        assert "\n" not in str(refused.value)
    assert model.num_parameters() == before


def test_other_architectures_and_wrong_shapes_are_refused(model):
    config = RobertaConfig(
        vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
    )
    with pytest.raises(InputError, match="'roberta' model cannot be pruned"):
        alive(AutoModelForSequenceClassification.from_config(config))
    for heads_alive in ([[0]], [[0], [1], [4]], [[1, 0], [], []], [[0, 0], [], []]):
        with pytest.raises(InputError, match="heads_alive does not fit 3 layers of 4 heads"):
            apply_heads_alive(model, heads_alive)
    model.config.heads_alive = [[0], [0], [0]]
    with pytest.raises(InputError, match="layer 0 has 4 heads but"):
        attention_layers(model)


def test_a_model_that_lost_nothing_is_left_alone(model):
    before = copy.deepcopy(model.config.to_dict())
    apply_heads_alive(model, None)
    remove(model, [])
    assert alive(model) == [[0, 1, 2, 3]] * 3
    assert {**model.config.to_dict(), "heads_alive": 0} == {**before, "heads_alive": 0}


def test_masking_ends_with_the_context(model):
    before = logits(model)
    with pytest.raises(KeyError), masked(model, EMPTIED):
        raise KeyError
    assert torch.equal(logits(model), before)

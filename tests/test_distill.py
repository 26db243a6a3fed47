import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from headcount import distill
from headcount.data import collate


def test_equal_logits_teach_nothing():
    z = torch.randn(5, 3)
    assert distill.distillation_loss(z, z, 4.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_by_hand(temperature):
    generator = np.random.default_rng(0)
    s, z = generator.normal(size=(2, 6, 3))

    def softmax(x):
        return np.exp(x / temperature) / np.exp(x / temperature).sum(1, keepdims=True)

    p, q = softmax(z), softmax(s)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    loss = distill.distillation_loss(torch.tensor(s), torch.tensor(z), temperature)
    assert loss.item() == pytest.approx(expected)


def test_t_squared_keeps_the_gradients_size_to_first_order():
    """For high T the gradient tends to (s - z) / (c b), both centred (Hinton 2015, section 2.1)."""
    z = torch.randn(4, 3, dtype=torch.float64)
    s = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(distill.distillation_loss(s, z, 1000.0), s)
    difference = (s - z).detach()
    expected = (difference - difference.mean(1, keepdim=True)) / (3 * len(z))
    assert torch.allclose(gradient, expected, rtol=2e-2, atol=1e-4)


def test_vanilla_kd_mixes_both_terms_and_finds_each_sentences_row(tiny, sentences):
    from headcount.data import collate

    model, tokens = tiny(), sentences(10)
    rows = [tokens[i] for i in (7, 2, 5)]
    batch = collate(rows, 0)
    teacher = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    terms = distill.VanillaKD(teacher, temperature=2.0, alpha=0.3)(model, batch)
    logits = distill.student_logits(model, batch)
    hard = F.cross_entropy(logits, torch.tensor([row["label"] for row in rows]))
    soft = distill.distillation_loss(logits, torch.from_numpy(teacher[[7, 2, 5]]), 2.0)
    assert terms["loss"].item() == pytest.approx((0.3 * hard + 0.7 * soft).item(), rel=1e-5)


def test_describe_tells_objectives_apart():
    teacher = np.zeros((4, 3), dtype=np.float32)
    descriptions = [
        distill.HardLabels().describe(),
        distill.VanillaKD(teacher).describe(),
        distill.VanillaKD(teacher, temperature=2.0).describe(),
        distill.VanillaKD(teacher + 1).describe(),
    ]
    assert all(a != b for i, a in enumerate(descriptions) for b in descriptions[:i])
    assert distill.VanillaKD(teacher).describe() == distill.VanillaKD(teacher.copy()).describe()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_mask_for_gpus_is_the_same_mask(kind, tiny, sentences):
    if kind == "bert":
        model = tiny()
    else:
        config = DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
        model = DistilBertForSequenceClassification(config).eval()
    data = sentences(6)
    batch = collate([data[i] for i in range(6)], 0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert not mask.all()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        found = model(input_ids=ids, attention_mask=distill.keys_mask(mask)).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_does_not_wait_for_the_host(tiny, sentences):
    model, data = tiny().cuda(), sentences(8)
    batch = {k: v.cuda() for k, v in collate([data[i] for i in range(8)], 0).items()}
    objective = distill.VanillaKD(np.random.default_rng(0).normal(size=(8, 3)))
    objective(model, batch)["loss"].backward()  # the teacher's logits go there once
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(model, batch)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

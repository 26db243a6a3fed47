import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from headcount import distill, prune, train
from headcount.data import collate


def wave(*shape, phase=0.0, size=1.0):
    """Numbers that another program can be given: no generator."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (size * torch.sin(1.7 * i + i**2 / 97 + phase)).view(shape)


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


@pytest.mark.parametrize(
    ("temperature", "theirs"), [(4.0, 1.0804850359319487), (1.0, 1.2337919334107144)]
)
def test_divergence_equals_textbrewers(temperature, theirs):
    # kd_ce_loss of textbrewer 0.2.1.post1 with torch 2.13.0. It is the cross-entropy, which is the
    # divergence and the entropy of the teacher's softmax, and has no factor T^2.
    s, z = wave(6, 3, size=3), wave(6, 3, phase=1, size=3)
    entropy = torch.special.entr((z / temperature).softmax(-1)).sum(-1).mean().item()
    found = distill.divergence(s, z, temperature).mean().item()
    assert found == pytest.approx(theirs - entropy, rel=1e-9)
    squared = distill.distillation_loss(s, z, temperature).item()
    assert squared == pytest.approx(temperature**2 * found)


def test_t_squared_keeps_the_gradients_size_to_first_order():
    """For high T the gradient tends to (s - z) / (c b), both centred (Hinton 2015, section 2.1)."""
    z = torch.randn(4, 3, dtype=torch.float64)
    s = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(distill.distillation_loss(s, z, 1000.0), s)
    difference = (s - z).detach()
    expected = (difference - difference.mean(1, keepdim=True)) / (3 * len(z))
    assert torch.allclose(gradient, expected, rtol=2e-2, atol=1e-4)


def batch_of(tokens, rows, labels=None):
    batch = collate([tokens[i] for i in rows], 0)
    return batch if labels is None else batch | {"labels": torch.tensor(labels)}


def softened(logits, temperature):
    powers = np.exp(logits / temperature)
    return powers / powers.sum(-1, keepdims=True)


def divergence_by_hand(z, s, temperature):
    p, q = softened(z, temperature), softened(s, temperature)
    return (p * np.log(p / q)).sum(-1)


def test_vanilla_kd_mixes_both_terms_and_finds_each_sentences_row(tiny, sentences):
    model, tokens = tiny(), sentences(10)
    batch = batch_of(tokens, (7, 2, 5))
    teacher = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    terms = distill.VanillaKD(teacher, temperature=2.0, alpha=0.3)(model, batch)
    logits = distill.student_logits(model, batch)
    hard = F.cross_entropy(logits, torch.from_numpy(tokens.labels[[7, 2, 5]]))
    soft = distill.distillation_loss(logits, torch.from_numpy(teacher[[7, 2, 5]]), 2.0)
    assert terms["loss"].item() == pytest.approx((0.3 * hard + 0.7 * soft).item(), rel=1e-5)


def test_without_t_squared_the_divergence_is_bare(tiny, sentences):
    model, tokens = tiny(), sentences(10)
    batch, teacher = batch_of(tokens, range(10)), wave(10, 3, size=3).numpy()
    terms = distill.VanillaKD(teacher, 4.0, 0.3, squared=False)(model, batch)
    logits = distill.student_logits(model, batch).detach().double().numpy()
    soft = divergence_by_hand(teacher, logits, 4.0).mean()
    assert terms["soft"].item() == pytest.approx(0.7 * soft, rel=1e-4)
    hard = F.cross_entropy(torch.from_numpy(logits), batch["labels"]).item()
    assert terms["loss"].item() == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-4)


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.5), (2.0, 0.2)])
def test_leaving_t_squared_out_is_another_alpha(temperature, alpha, tiny, sentences):
    model, tokens = tiny().double(), sentences(10)
    batch, teacher = batch_of(tokens, range(10)), wave(10, 3, size=3).numpy()
    total = alpha * temperature**2 + 1 - alpha
    unscaled = distill.VanillaKD(teacher, temperature, alpha, squared=False)
    scaled = distill.VanillaKD(teacher, temperature, alpha * temperature**2 / total)
    gradients = []
    for objective in (unscaled, scaled):
        model.zero_grad()
        objective(model, batch)["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    factor = temperature**2 / total
    torch.testing.assert_close(factor * gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_unlabelled_sentences_learn_from_the_teacher_alone(tiny, sentences):
    model, tokens, none = tiny(), sentences(10), distill.UNLABELLED
    teacher = wave(10, 3, size=3).numpy()
    kd = distill.VanillaKD(teacher, temperature=2.0, alpha=0.3)
    for labels in ([1, none, 0, none, 2], [none] * 5, [0, 1, 2, 0, 1]):
        batch = batch_of(tokens, range(5), labels)
        terms = kd(model, batch)
        logits = distill.student_logits(model, batch).detach().double().numpy()
        soft = 4 * divergence_by_hand(teacher[:5], logits, 2.0)
        hard, teach = [], []
        for label, own, row in zip(labels, soft, logits, strict=True):
            hard.append(0 if label == none else -0.3 * np.log(softened(row, 1.0)[label]))
            teach.append(own if label == none else 0.7 * own)
        assert terms["hard"].item() == pytest.approx(np.mean(hard), rel=1e-4)
        assert terms["soft"].item() == pytest.approx(np.mean(teach), rel=1e-4)
        total = np.mean(hard) + np.mean(teach)
        assert terms["loss"].item() == pytest.approx(total, rel=1e-4)
        model.zero_grad()
        terms["loss"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_smoothed_labels_by_hand(tiny, sentences):
    model, tokens = tiny(), sentences(10)
    batch = batch_of(tokens, range(10))
    logs = distill.student_logits(model, batch).log_softmax(-1)
    targets = 0.7 * F.one_hot(batch["labels"], 3) + 0.3 / 3
    expected = -(targets * logs).sum(-1).mean().item()
    found = distill.HardLabels(label_smoothing=0.3)(model, batch)["loss"].item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_shuffled_teacher_keeps_classes_and_loses_sentences():
    logits = wave(60, 3, size=3).numpy()
    labels = np.arange(60) % 4 // 2
    before = logits.copy()
    shuffled = distill.shuffled_within(logits, labels, seed=1)
    for label in (0, 1):
        own, others = logits[labels == label], shuffled[labels == label]
        assert sorted(map(tuple, own)) == sorted(map(tuple, others))
        assert (own != others).any(1).mean() > 0.8
    assert np.array_equal(logits, before)
    assert np.array_equal(shuffled, distill.shuffled_within(logits, labels, seed=1))
    assert not np.array_equal(shuffled, distill.shuffled_within(logits, labels, seed=2))


def test_describe_tells_objectives_apart():
    teacher = np.zeros((4, 3), dtype=np.float32)
    descriptions = [
        distill.HardLabels().describe(),
        distill.HardLabels(0.1).describe(),
        distill.VanillaKD(teacher).describe(),
        distill.VanillaKD(teacher, temperature=2.0).describe(),
        distill.VanillaKD(teacher + 1).describe(),
        distill.VanillaKD(teacher, alpha=0.4).describe(),
        distill.VanillaKD(teacher, squared=False).describe(),
    ]
    assert all(a != b for i, a in enumerate(descriptions) for b in descriptions[:i])
    assert distill.VanillaKD(teacher).describe() == distill.VanillaKD(teacher.copy()).describe()


def test_a_fingerprint_tells_objectives_apart_and_reads_their_own_code(tiny, sentences):
    arguments = (tiny(), sentences(), None, train.Recipe(1, 1e-3))
    teacher = np.zeros((40, 3), dtype=np.float32)
    kd = distill.VanillaKD(teacher)
    unlike = [distill.HardLabels(), distill.HardLabels(0.1), kd, prune.L0(0.1)]
    digests = [train.fingerprint(*arguments, objective) for objective in unlike]
    assert len(set(digests)) == 4
    assert train.fingerprint(*arguments, distill.VanillaKD(teacher.copy())) == digests[2]
    states = distill.Recomputed(tiny(), [0], "seed")
    layers = distill.LayerLosses(kd, states, {0: 0}, "seed", 1.0, 1.0)

    class FromANotebook:
        __module__ = "__no_file__"

    for objective, own in (
        (kd, []),
        (layers, ["layers.py", "internals.py"]),
        (prune.L0(0.1), ["gates.py"]),
        (FromANotebook(), []),
    ):
        files = [path.name for path in train.training_code(objective)]
        assert files == ["train.py", "dropout.py", "objectives.py", *own]


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

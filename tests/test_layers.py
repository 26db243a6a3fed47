"""Layer losses against textbrewer, transformers' own maps, brute force and closed forms."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_surgery import EMPTIED, batch, build, logits

from headcount import data, distill, models, train
from headcount.errors import InputError
from headcount.prune import attention_layers, remove

ARCHITECTURES = ["bert", "distilbert"]
KINDS = ["seed", "tinybert"]
LENGTHS = (7, 3, 5)
MASK = (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long()


def wave(*shape, phase=0.0, size=1.0):
    """Numbers that another program can be given: no generator."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (size * torch.sin(1.7 * i + i**2 / 97 + phase)).view(shape)


def labelled(lengths=(5, 12, 9)):
    """A batch with all that objectives read."""
    rows = torch.arange(len(lengths))
    return batch(lengths) | {"labels": rows % 3, "index": rows}


def teachers_logits(rows=3):
    return wave(rows, 3, size=3).float().numpy()


def losses(teacher, kind, layer_map=None, prediction=None, weights=None, **others):
    layer_map = {0: 0, 1: 2} if layer_map is None else layer_map
    states = distill.Recomputed(teacher, layer_map.values(), kind)
    weights = weights or (2.0, 3.0, 0.0 if kind == "seed" else 5.0)
    return distill.LayerLosses(prediction, states, layer_map, kind, *weights, **others)


def other(kind, **changes):
    """Another model of an architecture than `build` gives, by its weights."""
    model = build(kind, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.flip(0))
    return model


# --- losses -------------------------------------------------------------------------------------


def test_losses_equal_textbrewers():
    # textbrewer 0.2.1.post1 with torch 2.13.0: hid_mse_loss, att_mse_loss and att_mse_sum_loss,
    # each given the mask, then a mask of ones. The last one was given probabilities, and sums heads
    # where ours averages them, so it is h^2 as large. (Without any mask, textbrewer's losses on
    # attention take whatever is below -0.001 for a masked score.)
    expected = {
        "hidden": (0.47088561391564954, 0.4632969994058606),
        "scores": (1.837007377811169, 1.8667753076863955),
        "probabilities": (0.1336459271321273, 0.10748720905050421),
    }
    H, G = wave(3, 7, 8), wave(3, 7, 8, phase=1)
    S, T = wave(3, 4, 7, 7, size=2), wave(3, 4, 7, 7, phase=1, size=2)
    for i, mask in enumerate((MASK, torch.ones_like(MASK))):
        found = {
            "hidden": distill.hidden_loss(H, G, mask),
            "scores": distill.score_loss(S, T, mask),
            "probabilities": 4**2 * distill.probability_loss(S, T, mask),
        }
        for name, loss in found.items():
            assert loss.item() == pytest.approx(expected[name][i], rel=1e-9), name


def test_losses_are_means_over_real_tokens_pairs_and_heads():
    H, G = wave(3, 7, 8), wave(3, 7, 8, phase=1)
    S, T = wave(3, 4, 7, 7, size=2), wave(3, 4, 7, 7, phase=1, size=2)
    hidden, scores, probabilities = [], [], []
    for b, n in enumerate(LENGTHS):
        hidden += [(H[b, q, i] - G[b, q, i]) ** 2 for q in range(n) for i in range(8)]
        for q in range(n):
            own, others = S[b, :, q, :n], T[b, :, q, :n]
            scores += [(own[h, k] - others[h, k]) ** 2 for h in range(4) for k in range(n)]
            own, others = (x.exp() / x.exp().sum(1, keepdim=True) for x in (own, others))
            probabilities += [(own[:, k].mean() - others[:, k].mean()) ** 2 for k in range(n)]
    for loss, expected in (
        (distill.hidden_loss(H, G, MASK), hidden),
        (distill.score_loss(S, T, MASK), scores),
        (distill.probability_loss(S, T, MASK), probabilities),
        (distill.probability_loss(S, distill.mean_probabilities(T, MASK), MASK), probabilities),
    ):
        assert loss.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_heads_are_averaged_where_their_numbers_differ():
    S, T = wave(3, 2, 7, 7), wave(3, 6, 7, 7, phase=1)
    groups = torch.stack([T[:, :3].mean(1), T[:, 3:].mean(1)], 1)
    expected = distill.score_loss(S, groups, MASK).item()
    assert distill.score_loss(S, T, MASK).item() == pytest.approx(expected)
    assert distill.score_loss(T, S, MASK).item() == pytest.approx(expected)
    S = wave(3, 4, 7, 7)  # neither number divides the other
    means = S.mean(1, keepdim=True), T.mean(1, keepdim=True)
    expected = distill.score_loss(*means, MASK).item()
    assert distill.score_loss(S, T, MASK).item() == pytest.approx(expected)


# --- looking into a model -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_is_observed_is_what_transformers_tells(kind):
    model, inputs = build(kind), batch()
    mask = inputs["attention_mask"]
    with distill.observed(model, range(3)) as seen:
        before = logits(model, inputs)
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks for m in model.modules())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        told = model(**inputs, output_attentions=True, output_hidden_states=True)
    real = mask.bool()
    for found, expected in zip(
        (seen.embeddings, *seen.hidden.values()), told.hidden_states, strict=True
    ):
        torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    for index in range(3):
        scores = seen.attention[index].masked_fill(mask[:, None, None] == 0, -torch.inf)
        rows = scores.softmax(-1).transpose(1, 2)[real]
        expected = told.attentions[index].transpose(1, 2)[real]
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)
    assert torch.allclose(before, told.logits, atol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_pruned_layers_can_be_observed(kind):
    full, pruned = build(kind), build(kind)
    remove(pruned, EMPTIED)
    with distill.observed(full, [0]) as before, distill.observed(pruned, [0]) as after:
        logits(full), logits(pruned)
    live = attention_layers(pruned)[0].heads
    assert len(live) < 4
    torch.testing.assert_close(after.attention[0], before.attention[0][:, live])
    with distill.observed(pruned, range(3), attention=False) as seen:
        pruned(**batch())
    assert [*seen.hidden] == [0, 1, 2]
    assert not seen.attention
    for layers, said in (([1], "layer 1 has lost all its heads"), ([0, 3], "no layer 3")):
        with (
            pytest.raises(InputError, match=said) as refused,
            distill.observed(pruned, layers),
        ):
            pass
        assert "\n" not in str(refused.value)
    assert not any(m._forward_hooks for m in pruned.modules())


def test_what_autocast_computed_is_compared_in_fp32():
    student, teacher, inputs = other("bert"), build("bert"), labelled()
    objective = losses(teacher, "tinybert")
    _, exact = objective.layer_terms(student, inputs)
    # As Accelerate does it: around the forward pass of the student alone.
    student.forward = torch.autocast("cpu", torch.bfloat16)(student.forward)
    with distill.observed(student, [1]) as seen:
        distill.student_logits(student, inputs)
    assert seen.attention[1].dtype == torch.float32
    assert not torch.equal(seen.attention[1], seen.attention[1].bfloat16())
    _, terms = objective.layer_terms(student, inputs)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert term.item() == pytest.approx(exact[name].item(), rel=0.05), name


# --- the teacher's side -------------------------------------------------------------------------


@pytest.fixture
def corpus(sentences):
    return sentences(30, vocab=99)


def batches(corpus, rows, size=8):
    return [
        data.collate([corpus[i] for i in rows[at : at + size]], 0)
        for at in range(0, len(rows), size)
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_recomputed_to_half_precision(architecture, kind, corpus, tmp_path):
    teacher = build(architecture).train()
    remove(teacher, [(0, 1), (2, 0), (2, 3)])  # layers with unlike numbers of heads
    again = distill.Recomputed(teacher, [0, 2], kind)
    shuffled = np.random.default_rng(1).permutation(30)
    with distill.Cached(teacher, corpus, [0, 2], kind, tmp_path / "new", batch_size=7) as kept:
        assert (kept.kind, kept.layers, kept.width) == (again.kind, again.layers, again.width)
        assert not list((tmp_path / "new").iterdir())  # nothing that another process could find
        n = corpus.lengths
        maps = 2 if kind == "seed" else 3 + 2
        assert kept.size_mb == 2 * (3 * 32 * n + maps * n**2).sum() / 1e6
        for inputs in batches(corpus, shuffled):
            mask = inputs["attention_mask"]
            tokens, pairs = mask[..., None], mask[:, :, None] * mask[:, None]
            found, expected = kept(inputs), again(inputs)
            torch.testing.assert_close(
                found.embeddings.float(), expected.embeddings * tokens, rtol=1e-3, atol=1e-4
            )
            for i in (0, 2):
                torch.testing.assert_close(
                    found.hidden[i].float(), expected.hidden[i] * tokens, rtol=1e-3, atol=1e-4
                )
                real = pairs if kind == "seed" else pairs[:, None]
                torch.testing.assert_close(
                    found.attention[i].float(), expected.attention[i] * real, rtol=1e-3, atol=1e-4
                )
        told = kept.describe(), again.describe()
        assert told[0]["teacher_sha256"] == told[1]["teacher_sha256"]
        assert told[0]["states"] != told[1]["states"]
        assert told[0]["data_sha256"] == corpus.sha256()
    with pytest.raises(InputError, match="cache them again"):
        kept(inputs)
    kept.close()


@pytest.mark.parametrize("kind", KINDS)
def test_objectives_agree_on_cached_and_recomputed_states(kind, corpus, tmp_path):
    student, objective = other("bert"), losses(build("bert"), kind)
    with distill.Cached(build("bert"), corpus, [0, 2], kind, tmp_path) as kept:
        cached = distill.LayerLosses(None, kept, objective.layer_map, kind, *(2.0, 3.0))
        for inputs in batches(corpus, range(30)):
            expected = objective(student, inputs)
            for name, term in cached(student, inputs).items():
                if name != "loss":
                    assert term.item() == pytest.approx(expected[name].item(), rel=1e-3), name


def test_a_cache_is_refused_where_it_would_be_wrong(corpus, tmp_path):
    teacher = build("bert")
    with distill.Cached(teacher, corpus, [0], "seed", tmp_path) as kept:
        inputs = batches(corpus, range(8))[0]
        for away in (8, 30):
            with pytest.raises(InputError, match="are not the cached ones"):
                kept(inputs | {"index": inputs["index"] + away})
    with pytest.raises(InputError, match="name at least one"):
        distill.Cached(teacher, corpus, [], "seed", tmp_path)
    with pytest.raises(InputError, match="there is no layer 3"):
        distill.Cached(teacher, corpus, [0, 3], "tinybert", tmp_path)
    with pytest.raises(InputError, match="unknown kind of layer losses 'tiny': did you mean"):
        distill.Recomputed(teacher, [0], "tiny")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep the teacher's states in .*file"):
        distill.Cached(teacher, corpus, [0], "seed", tmp_path / "file" / "folder")
    with torch.no_grad():
        attention_layers(teacher)[0].query.weight.mul_(1e5)  # scores beyond 65,504
    with pytest.raises(InputError, match="not finite in half precision"):
        distill.Cached(teacher, corpus, [0], "tinybert", tmp_path)
    distill.Cached(teacher, corpus, [0], "seed", tmp_path).close()  # probabilities are finite


# --- projections --------------------------------------------------------------------------------


class Mapped:
    """A teacher whose hidden states are a fixed linear map of the student's."""

    kind, layers, width = "tinybert", (0, 1, 2), 48

    def __init__(self, student):
        self.student = student
        self.weight, self.bias = wave(48, 32), wave(48, phase=2)

    def __call__(self, batch):
        with torch.no_grad(), distill.observed(self.student, self.layers) as seen:
            self.student(batch["input_ids"], batch["attention_mask"])
        seen.hidden = {i: F.linear(x, self.weight, self.bias) for i, x in seen.hidden.items()}
        return seen


def test_projections_recover_a_linear_map():
    student, inputs = build("bert").double(), labelled((32, 31, 30, 32, 31, 30))
    distill.attach_projections(student, 48, [0, 2])
    student.double()
    objective = distill.LayerLosses(None, Mapped(student), {0: 0, 2: 2}, "tinybert", 1.0, 0.0)
    start = objective(student, inputs)["loss"].item()
    real = inputs["attention_mask"].bool()
    others = objective.states(inputs)
    with distill.observed(student, [0, 2]) as own, torch.no_grad():
        distill.student_logits(student, inputs)
    for i in (0, 2):
        columns = F.pad(own.hidden[i][real], (0, 1), value=1.0)
        solution = torch.linalg.lstsq(columns, others.hidden[i][real], driver="gelsd").solution
        projection = student.layer_projections[str(i)]
        projection.weight.data, projection.bias.data = solution[:-1].T, solution[-1]
    loss = objective(student, inputs)["loss"]
    assert loss.item() < 1e-20 * start
    loss.backward()
    assert projection.weight.grad.abs().max() < 1e-9


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_projections_come_and_go(kind):
    model = build(kind)
    before, keys = logits(model), set(model.state_dict())
    state = torch.random.get_rng_state()
    distill.attach_projections(model, 48, [0, 2], embeddings=True, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    own = {
        f"layer_projections.{n}.{p}" for n in ("0", "2", "embeddings") for p in ("weight", "bias")
    }
    assert set(model.state_dict()) == keys | own
    assert torch.equal(logits(model), before)
    with pytest.raises(InputError, match="call detach_projections first"):
        distill.attach_projections(model, 48, [0])
    digests = [models.weights_sha256(model)]
    for seed in (3, 4):
        distill.detach_projections(model)
        distill.attach_projections(model, 48, [0, 2], embeddings=True, seed=seed)
        digests.append(models.weights_sha256(model))
    assert digests[0] == digests[1] != digests[2]
    distill.detach_projections(model)
    distill.detach_projections(model)
    assert set(model.state_dict()) == keys
    assert torch.equal(logits(model), before)
    distill.attach_projections(model, 32, [0, 2])
    assert not hasattr(model, "layer_projections")


def test_a_missing_projection_is_told():
    student, teacher = build("bert"), build("bert", hidden_size=48)
    objective = losses(teacher, "tinybert")
    with pytest.raises(InputError, match="width 32, the teacher's 48: call attach_projections"):
        objective(student, labelled())
    distill.attach_projections(student, 48, [0, 1])
    with pytest.raises(InputError, match="embeddings is missing"):
        objective(student, labelled())
    distill.detach_projections(student)
    distill.attach_projections(student, objective.states.width, objective.layer_map, True)
    assert objective(student, labelled())["loss"].isfinite()


# --- the objective ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(architecture, kind):
    model, inputs = build(architecture), labelled()
    objective = losses(model, kind, {0: 0, 1: 1, 2: 2})
    assert objective(model, inputs)["loss"].item() == 0
    shifted = losses(model, kind, {0: 1})(model, inputs)
    assert all(term.item() > 0 for name, term in shifted.items() if name != "embedding")


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_sum_of_what_is_logged(kind):
    student, teacher, inputs = other("bert"), build("bert"), labelled()
    kd = distill.VanillaKD(teachers_logits(), temperature=2.0, alpha=0.3)
    calls = []
    watch = student.register_forward_hook(lambda *_: calls.append(1))
    terms = losses(teacher, kind, prediction=kd)(student, inputs)
    watch.remove()
    assert len(calls) == 1
    expected = kd(student, inputs)
    assert (terms["hard"], terms["soft"]) == (expected["hard"], expected["soft"])
    total = sum(term.item() for name, term in terms.items() if name != "loss")
    assert terms["loss"].item() == pytest.approx(total, rel=1e-6)
    assert {name for name, term in terms.items() if term.requires_grad} == {"loss"}

    # Each by hand, from what transformers tells.
    mask = inputs["attention_mask"]
    model_inputs = {"input_ids": inputs["input_ids"], "attention_mask": mask}
    student.set_attn_implementation("eager"), teacher.set_attn_implementation("eager")
    with torch.no_grad():
        own, others = (
            m(**model_inputs, output_attentions=True, output_hidden_states=True)
            for m in (student, teacher)
        )
    real, pairs = mask.bool(), (mask[:, :, None] * mask[:, None]).bool()
    pairs_of = {0: 0, 1: 2}.items()

    def mean(tensors):
        return np.mean([(a - b).square().mean().item() for a, b in tensors])

    by_hand = mean(
        (own.hidden_states[j + 1][real], others.hidden_states[m + 1][real]) for j, m in pairs_of
    )
    assert terms["hidden"].item() == pytest.approx(2 * by_hand, rel=1e-4)
    if kind == "seed":
        by_hand = mean(
            (own.attentions[j].mean(1)[pairs], others.attentions[m].mean(1)[pairs])
            for j, m in pairs_of
        )
        assert terms["attention"].item() == pytest.approx(3 * by_hand, rel=1e-4)
    else:
        by_hand = mean([(own.hidden_states[0][real], others.hidden_states[0][real])])
        assert terms["embedding"].item() == pytest.approx(5 * by_hand, rel=1e-4)


def test_tinybert_learns_from_layers_first_and_from_predictions_afterwards():
    student, inputs = other("bert"), labelled()
    kd = distill.VanillaKD(teachers_logits())
    whole = {"loss", "hard", "soft", "hidden", "attention"}
    for kind, early in (("tinybert", whole - {"hard", "soft"}), ("seed", whole)):
        objective = losses(build("bert"), kind, prediction=kd, weights=(2.0, 3.0))
        for progress, expected in ((0.0, early), (0.49, early), (0.5, whole), (0.99, whole)):
            terms = objective(student, inputs | {"progress": progress})
            assert set(terms) == expected, (kind, progress)
            total = sum(term.item() for name, term in terms.items() if name != "loss")
            assert terms["loss"].item() == pytest.approx(total, rel=1e-6)
            throughout = dataclasses.replace(objective, throughout=True)
            assert set(throughout(student, inputs | {"progress": progress})) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    student, inputs = other("bert"), labelled()
    objective = losses(build("bert"), kind)
    padded = inputs | {n: F.pad(inputs[n], (0, 6)) for n in ("input_ids", "attention_mask")}
    padded["input_ids"][:, 12:] = 42
    expected = objective(student, inputs)
    for name, term in objective(student, padded).items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_a_loss_is_about(kind):
    teacher, inputs = build("bert"), labelled()

    def touched(*weights):
        student = other("bert")
        losses(teacher, kind, weights=weights)(student, inputs)["loss"].backward()
        return {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}

    embeddings = "bert.embeddings.word_embeddings.weight"
    layer = "bert.encoder.layer.{}.attention.self.{}.weight"
    attention = touched(0.0, 1.0)
    assert {embeddings, layer.format(1, "query"), layer.format(1, "key")} <= attention
    assert layer.format(1, "value") not in attention  # the last that it compares
    hidden = touched(1.0, 0.0)
    assert {embeddings, layer.format(1, "query"), layer.format(1, "value")} <= hidden
    assert not any("layer.2" in name or "classifier" in name for name in attention | hidden)
    if kind == "tinybert":
        assert {n for n in touched(0.0, 0.0, 1.0) if "embeddings" not in n} == set()
    assert all(p.grad is None for p in teacher.parameters())


def test_losses_of_weight_zero_are_off():
    student, teacher, inputs = other("bert"), build("bert"), labelled()
    remove(student, EMPTIED)  # its layer 1 has no attention to compare
    kd = distill.VanillaKD(teachers_logits())
    terms = losses(teacher, "seed", prediction=kd, weights=(1.0, 0.0))(student, inputs)
    assert set(terms) == {"loss", "hard", "soft", "hidden"}
    terms = losses(teacher, "seed", {}, prediction=kd)(student, inputs)
    assert set(terms) == {"loss", "hard", "soft"}
    assert terms["loss"].item() == kd(student, inputs)["loss"].item()
    terms = losses(teacher, "tinybert", {}, weights=(1.0, 1.0, 1.0))(student, inputs)
    assert set(terms) == {"loss", "embedding"}
    smooth = distill.HardLabels(0.1)
    terms = losses(teacher, "tinybert", {}, smooth, weights=(1.0, 1.0, 0.5))(student, inputs)
    expected = smooth(student, inputs)["loss"] + terms["embedding"]
    assert set(terms) == {"loss", "hard", "embedding"}
    assert terms["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "tinybert"}, "of kind 'tinybert' cannot use the teacher's states of kind 'seed'"),
        ({"kind": "sead"}, "unknown kind of layer losses 'sead': did you mean 'seed'"),
        ({"embedding_weight": 1.0}, "have no embeddings"),
        ({"layer_map": {0: 1, 1: 0}}, "states have no layer 1"),
        ({"hidden_weight": 0.0, "attention_weight": 0.0}, "no loss is left"),
        ({"layer_map": {}}, "no loss is left"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, said):
    states = distill.Recomputed(build("bert"), [0, 2], "seed")
    fields = {"layer_map": {0: 0, 1: 2}, "kind": "seed", "hidden_weight": 1.0}
    fields |= {"attention_weight": 1.0} | changes
    with pytest.raises(InputError, match=said) as refused:
        distill.LayerLosses(None, states, **fields)
    assert "\n" not in str(refused.value)


def test_descriptions_tell_objectives_apart(corpus, tmp_path):
    teacher, kd = build("bert"), distill.VanillaKD(teachers_logits())
    objectives = [
        losses(teacher, "seed"),
        losses(teacher, "tinybert"),
        losses(other("bert"), "seed"),
        losses(teacher, "seed", prediction=kd),
        losses(teacher, "seed", prediction=distill.VanillaKD(teachers_logits(), 2.0)),
        losses(teacher, "seed", {0: 0, 1: 1}),
        losses(teacher, "seed", weights=(2.0, 1.0)),
        losses(teacher, "seed", weights=(1.0, 3.0)),
        losses(teacher, "tinybert", weights=(2.0, 3.0)),
        losses(teacher, "tinybert", throughout=True),
    ]
    for part in (corpus, data.Tokenized(corpus.input_ids, corpus.labels[::-1])):
        with distill.Cached(teacher, part, [0, 2], "seed", tmp_path) as kept:
            objectives.append(distill.LayerLosses(None, kept, {0: 0, 1: 2}, "seed", 2.0, 3.0))
    told = [objective.describe() for objective in objectives]
    assert all(a != b for i, a in enumerate(told) for b in told[:i])
    assert losses(copy.deepcopy(teacher), "seed").describe() == told[0]
    assert losses(teacher, "seed", throughout=True).describe() == told[0]  # it always is
    arguments = (teacher, corpus, None, train.Recipe(1, 1e-3))
    assert len({train.fingerprint(*arguments, objective) for objective in objectives}) == len(told)


def test_layer_maps():
    def pairs(name, student, teacher):
        return list(distill.layer_map(name, student, teacher).items())

    assert pairs("even", 4, 12) == [(0, 2), (1, 5), (2, 8), (3, 11)]
    assert pairs("reversed", 4, 12) == [(0, 11), (1, 8), (2, 5), (3, 2)]
    assert pairs("last", 4, 12) == [(0, 8), (1, 9), (2, 10), (3, 11)]
    assert pairs("first", 4, 12) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert pairs("none", 4, 12) == []
    for name in ("even", "last", "first"):
        assert pairs(name, 3, 3) == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(InputError, match="unknown layer map 'evn': did you mean 'even'"):
        distill.layer_map("evn", 4, 12)
    with pytest.raises(InputError, match="13 layers cannot learn from 12"):
        distill.layer_map("last", 13, 12)


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("taught", [True, False])
def test_balanced_losses_start_as_a_share_of_the_prediction(taught, corpus):
    student, teacher = other("bert").train(), build("bert")
    kd = distill.VanillaKD(teachers_logits(30)) if taught else None
    given = batches(corpus, range(30))
    plain = losses(teacher, "tinybert", prediction=kd, weights=(1.0, 1.0, 1.0))
    found = distill.balanced(plain, student, given, 0.3)
    assert student.training
    student.eval()
    rows = [{n: t.item() for n, t in plain(student, inputs).items()} for inputs in given]
    if taught:
        expected = np.mean([row["hard"] + row["soft"] for row in rows])
    else:
        expected = np.mean([distill.HardLabels()(student, b)["loss"].item() for b in given])
    assert set(found.weights) == {"hidden", "attention", "embedding"}
    for name, weight in found.weights.items():
        exact = 0.3 * expected / np.mean([row[name] for row in rows])
        assert weight == float(f"{exact:.2g}")
    assert (found.prediction, found.states) == (plain.prediction, plain.states)
    once = distill.balanced(found, student, given, 0.3)  # whatever they were
    assert once.describe() == found.describe()


def test_balanced_leaves_off_what_is_off_or_zero(corpus, tmp_path):
    teacher, given = build("bert"), batches(corpus, range(16))
    kd = distill.VanillaKD(teachers_logits(30))
    off = losses(teacher, "tinybert", prediction=kd, weights=(1.0, 0.0, 0.0))
    assert set(distill.balanced(off, other("bert"), given, 0.1).weights) == {"hidden"}
    same = losses(teacher, "tinybert", {0: 1}, prediction=kd)
    assert set(distill.balanced(same, teacher, given, 0.1).weights) == {"hidden", "attention"}
    # Cut from the very layers that teach it, it differs from what was kept by rounding alone.
    student = models.student_from_layers(teacher, [0, 1])
    with distill.Cached(teacher, corpus, [0, 1], "tinybert", tmp_path) as kept:
        rounded = distill.LayerLosses(kd, kept, {0: 0, 1: 1}, "tinybert", 1.0, 1.0, 1.0)
        assert 0 < rounded(student, given[0])["hidden"] < 1e-4
        assert distill.balanced(rounded, student, given, 0.1).weights == {}
    unlabelled = [b | {"labels": torch.full_like(b["labels"], distill.UNLABELLED)} for b in given]
    for wrong in ([], unlabelled):
        with pytest.raises(InputError, match="no prediction loss"):
            distill.balanced(losses(teacher, "seed"), other("bert"), wrong, 0.1)


# --- training -----------------------------------------------------------------------------------


class KilledError(Exception):
    pass


class StopsAt(distill.LayerLosses):
    """Layer losses, until a step at which the process would be killed."""

    stop, calls = 0, 0

    def __call__(self, model, batch):
        StopsAt.calls += 1
        if StopsAt.calls == StopsAt.stop:
            raise KilledError
        return super().__call__(model, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_goes_on_and_ends_the_same(kind, tiny, sentences, word_pieces, tmp_path):
    teacher, part = tiny(layers=3, hidden=48, seed=5), sentences()
    kd = distill.VanillaKD(train.predict(teacher, part, word_pieces))
    recipe = train.Recipe(2, 1e-3, batch_size=8, rates={"layer_projections": 1e-2})
    layer_map = distill.layer_map("even", 2, 3)

    def fit(name, stop=0):
        StopsAt.stop, StopsAt.calls = stop, 0
        student = tiny()
        distill.attach_projections(student, 48, layer_map, embeddings=kind == "tinybert")
        start = copy.deepcopy(student.layer_projections.state_dict())
        with distill.Cached(teacher, part, layer_map.values(), kind, tmp_path / "states") as kept:
            weights = (0.5, 0.5, 0.5 * (kind == "tinybert"))
            objective = StopsAt(kd, kept, layer_map, kind, *weights)
            fitted = train.fit(
                student, part, recipe, tmp_path / name, tokenizer=word_pieces, objective=objective
            )
        for name, weight in student.layer_projections.state_dict().items():
            assert not torch.equal(weight, start[name])
        return fitted, StopsAt.calls

    undisturbed, calls = fit("whole")
    assert calls == 10
    with pytest.raises(KilledError):
        fit("cut", stop=8)
    resumed, calls = fit("cut")
    assert calls == 5  # the first epoch is not run again
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    assert resumed.history[["step", "loss", "hidden"]].equals(
        undisturbed.history[["step", "loss", "hidden"]]
    )
    logged = undisturbed.history.dropna(subset="loss")
    terms = (
        [*distill.layers.TERMS] if kind == "tinybert" else ["hard", "soft", "hidden", "attention"]
    )
    assert np.allclose(logged["loss"], logged[terms].sum(axis=1))
    assert logged["hard"].isna().tolist() == [kind == "tinybert", False]  # layers alone, at first
    assert logged["hidden"].iloc[-1] < logged["hidden"].iloc[0]
    before = logits(undisturbed.model, {"input_ids": torch.tensor([[5, 6, 7]])})
    distill.detach_projections(undisturbed.model)
    assert models.sizes(undisturbed.model)["params"] == models.sizes(tiny())["params"]
    assert torch.equal(logits(undisturbed.model, {"input_ids": torch.tensor([[5, 6, 7]])}), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_gpu_does_not_wait_for_the_host(kind):
    student, inputs = other("bert").cuda(), {k: v.cuda() for k, v in labelled().items()}
    objective = losses(build("bert"), kind, prediction=distill.VanillaKD(teachers_logits()))
    objective(student, inputs)["loss"].backward()  # the teacher goes there once
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(student, inputs)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_was_cached_goes_where_the_batch_is(corpus, tmp_path):
    teacher, inputs = build("bert"), batches(corpus, [4, 2, 9])[0]
    with distill.Cached(teacher.cuda(), corpus, [1], "tinybert", tmp_path) as kept:
        there = kept({name: tensor.cuda() for name, tensor in inputs.items()})
        assert there.hidden[1].is_cuda
        torch.testing.assert_close(there.attention[1].cpu(), kept(inputs).attention[1])


def test_every_module_can_be_imported_first():
    """`prune` needs objectives, and objectives over layers need `prune`."""
    names = ["distill", "prune", "models"]
    program = f"""
import importlib, sys
for name in {names}:
    for loaded in [n for n in sys.modules if n.split(".")[0] == "headcount"]:
        del sys.modules[loaded]
    importlib.import_module("headcount." + name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shares_are_of_the_loss_at_each_point():
    first = {"hidden": 0.5, "attention": 1.5}  # a stage without the prediction loss
    second = {"hard": 1.0, "soft": 0.5, "hidden": 2.0, "attention": 0.5}
    third = {"hard": 1.0, "soft": 0.5, "hidden": 0.5, "attention": 0.0}
    rows = [first | {"loss": 2.0}, second | {"loss": 4.0}, third | {"loss": 2.0}]
    history = pd.DataFrame([*rows, {"validation_loss": 1.0}]).assign(epoch=[0.5, 1.0, 1.5, 1.5])
    found = distill.shares(history).pivot(index="epoch", columns="term", values="share")
    assert found.loc[0.5].dropna().to_dict() == {"hidden states": 0.25, "attention": 0.75}
    expected = {"labels": 0.25, "teacher's answers": 0.125, "hidden states": 0.5}
    assert found.loc[1.0].to_dict() == expected | {"attention": 0.125}
    # Of layer losses, over the two points at which all terms are on.
    typical = distill.typical_shares(history).to_dict()
    assert typical == pytest.approx({"hidden states": 0.375, "attention": 0.0625})
    assert distill.typical_shares(history.drop(columns=["hidden", "attention"])).empty

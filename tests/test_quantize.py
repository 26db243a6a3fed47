"""The arithmetic by hand against torch's own, and the size of torch.ao's INT8."""

import io

import numpy as np
import pytest
import torch

from headcount import models, quantize


@pytest.fixture
def weight():
    generator = torch.Generator().manual_seed(0)
    rows = torch.logspace(-2, 1, 40)[:, None]  # rows of very different size
    return torch.randn(40, 96, generator=generator) * rows


def read_back(x, scale, zero_point=0, low=-127, high=127):
    q = quantize.quantize(x, scale, zero_point, low, high)
    return quantize.dequantize(q, scale, zero_point)


def test_per_channel_equals_torch(weight):
    scale = quantize.symmetric_scale(weight, axis=0)
    zeros = torch.zeros(40, dtype=torch.int32)
    oracle = torch.fake_quantize_per_channel_affine(weight, scale[:, 0], zeros, 0, -127, 127)
    found = read_back(weight, scale)
    assert ((found - oracle).abs() <= scale * 1.001).all()  # torch multiplies by 1 / s: ties differ
    assert (found != oracle).float().mean() < 1e-3


def test_per_tensor_equals_torch(weight):
    scale = quantize.symmetric_scale(weight)
    oracle = torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, -127, 127)
    torch.testing.assert_close(read_back(weight, scale), oracle)


def test_activations_equal_torch_and_keep_zero(weight):
    x = weight + 3
    scale, zero_point = quantize.asymmetric_scale(x)
    oracle = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), 0, 255)
    assert (read_back(x, scale, zero_point, 0, 255) - oracle).abs().max() <= scale * 1.001
    assert read_back(torch.zeros(1), scale, zero_point, 0, 255) == 0
    assert quantize.asymmetric_scale(torch.zeros(3)) == (1, 0)


def test_error_is_half_a_step_at_most_and_smaller_per_channel(weight):
    whole, rows = quantize.symmetric_scale(weight), quantize.symmetric_scale(weight, axis=0)
    for scale in (whole, rows):
        assert ((read_back(weight, scale) - weight).abs() <= scale / 2 * 1.0001).all()
    # The relative error of one row by one scale: a uniform error of one step, s / sqrt(12).
    row = weight[:1]
    expected = float(rows[0]) / 12**0.5 / float(row.square().mean().sqrt())
    assert quantize.error(row, read_back(row, rows[:1])) == pytest.approx(expected, rel=0.2)
    by_row = [quantize.error(w, read_back(w, quantize.symmetric_scale(w))) for w in weight]
    smallest_row_by_whole_scale = quantize.error(weight[0], read_back(weight[0], whole))
    assert max(by_row) < 0.02 < smallest_row_by_whole_scale


def test_fewer_bits_and_zero_rows():
    weight = torch.tensor([[0.0, 0.0], [7.0, -3.5]])
    scale = quantize.symmetric_scale(weight, axis=0, bits=4)
    assert scale[:, 0].tolist() == [1.0, 1.0]
    assert quantize.quantize(weight, scale, low=-7, high=7).tolist() == [[0, 0], [7, -4]]


@pytest.fixture(scope="module")
def model():
    return models.student(500, layers=2, hidden=64, heads=4, ffn=256).eval()


def test_torch_dynamic_counts_its_packed_weights(model, recwarn):
    quantized = quantize.torch_dynamic(model)
    assert not recwarn.list
    embeddings = sum(p.numel() for p in model.bert.embeddings.parameters())
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(p.numel() for p in quantized.parameters()) < sum(
        p.numel() for p in model.parameters()
    ) - sum(m.weight.numel() for m in linears)
    expected = 4 * embeddings + sum(m.weight.numel() + 4 * m.bias.numel() for m in linears)
    assert quantize.serialized_mb(quantized) * 1e6 == pytest.approx(expected, rel=0.15)
    assert quantize.serialized_mb(quantized) * 1e6 > expected
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert quantize.serialized_mb(model) == file.tell() / 1e6


def test_torch_dynamic_leaves_the_model_alone_and_stays_close(model):
    before = models.weights_sha256(model)
    quantized = quantize.torch_dynamic(model)
    assert models.weights_sha256(model) == before
    ids = torch.randint(5, 500, (4, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, found = model(ids).logits, quantized(ids).logits
    assert 0 < (exact - found).abs().max() < 0.05


def test_loader_for_the_ruler(model, tmp_path):
    tokenizer = models.train_wordpiece(["profit rose", "sales fell"])
    models.save(model, tokenizer, tmp_path / "teacher")
    score = quantize.load_torch_dynamic(tmp_path / "teacher", threads=1)
    ids = np.array([[2, 7, 8, 3]])
    with torch.no_grad():
        expected = quantize.torch_dynamic(model)(torch.tensor(ids)).logits
    torch.testing.assert_close(score(ids, np.ones_like(ids)), expected)

"""The arithmetic by hand and grids against torch's own, and the size of torch.ao's INT8."""

import io

import numpy as np
import pytest
import torch

from headcount import models, quantize
from headcount.errors import InputError
from headcount.quantize import Grid
from headcount.quantize.grids import normal_step


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


# --- grids --------------------------------------------------------------------------------------


def slopes_of(function, weight):
    """What ``function`` returns, and the gradient of a sum with unequal weights through it."""
    weight = weight.clone().requires_grad_()
    found = function(weight)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return found.detach(), weight.grad


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("shrink", [1.0, 0.4])
def test_fake_quantize_equals_torch_and_so_does_its_gradient(weight, bits, shrink):
    """``shrink`` makes scales so small that much is clipped."""
    top = 2 ** (bits - 1) - 1
    scale = shrink * quantize.symmetric_scale(weight, axis=0, bits=bits)
    found, slope = slopes_of(
        lambda w: quantize.fake_quantize(w, scale, torch.zeros_like(scale), -top, top), weight
    )
    zeros = torch.zeros(40, dtype=torch.int32)
    oracle, expected = slopes_of(
        lambda w: torch.fake_quantize_per_channel_affine(w, scale[:, 0], zeros, 0, -top, top),
        weight,
    )
    # torch multiplies by 1 / s: where that falls on another side of a tie, codes differ by one.
    same = (found - oracle).abs() < scale / 2
    assert (~same).float().mean() < 1e-3
    torch.testing.assert_close(found[same], oracle[same])
    assert ((slope == expected) | ~same).all()
    assert (slope == 0).any() == (shrink < 1)


def test_a_table_equals_torch_and_so_does_its_gradient(weight):
    table = weight + 3
    grid = Grid(reach="tensor", asymmetric=True)
    scale, zero_point = quantize.asymmetric_scale(table)
    found, slope = slopes_of(grid.read_back, table)
    oracle, expected = slopes_of(
        lambda w: torch.fake_quantize_per_tensor_affine(w, float(scale), int(zero_point), 0, 255),
        table,
    )
    same = (found - oracle).abs() < scale / 2
    assert (~same).float().mean() < 1e-3
    assert ((slope == expected) | ~same).all()
    assert torch.equal(grid.codes(table), quantize.quantize(table, scale, zero_point, 0, 255))


def test_a_slope_passes_inside_the_range_and_nowhere_else():
    x = torch.tensor([-9.0, -7.4, -0.3, 0.0, 2.6, 7.4, 7.6], requires_grad=True)
    found = quantize.fake_quantize(x, torch.ones(1), torch.zeros(1), -7, 7)
    assert found.tolist() == [-7, -7, 0, 0, 3, 7, 7]
    found.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_a_share_of_the_entries_is_rounded():
    x = torch.full((100, 100), 0.3, requires_grad=True)
    arguments = torch.full((1,), 0.01), torch.zeros(1), -7, 7  # all is clipped, to 0.07

    def rounded(share):
        torch.manual_seed(0)
        found = quantize.fake_quantize(x, *arguments, share)
        (slope,) = torch.autograd.grad(found.sum(), x)
        assert torch.equal(slope == 0, found != x)
        return found != x

    assert not rounded(0.0).any()
    assert rounded(1.0).all()
    assert rounded(0.5).float().mean() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(rounded(0.5), rounded(0.5))


@pytest.mark.parametrize(
    ("grid", "scales"),
    [
        (Grid(4, "tensor"), 1),
        (Grid(4), 40),
        (Grid(4, "group", 8), 8),
        (Grid(4, "group", 12), 10),  # of 4 rows each: 12 groups of equal size cannot be had
        (Grid(4, "group", 128), 40),
        (Grid(4, "block", 32), 120),
        (Grid(4, "block", 64), 80),  # the second block of a row has 32 inputs
    ],
)
def test_a_scale_reaches_as_far_as_it_says(weight, grid, scales):
    rows = {"tensor": 40, "channel": 1, "group": -(-40 // max(grid.size, 1)), "block": 1}
    rows, columns = rows[grid.reach], grid.size if grid.reach == "block" else 96
    expected = torch.empty_like(weight)
    for i in range(0, 40, rows):
        for j in range(0, 96, columns):
            part = weight[i : i + rows, j : j + columns]
            scale = quantize.symmetric_scale(part, bits=4)
            if grid.reach == "block":
                scale = part.flatten()[part.abs().argmax()] / -8
            low = -8 if grid.reach == "block" else -7
            expected[i : i + rows, j : j + columns] = read_back(part, scale, 0, low, 7)
    torch.testing.assert_close(grid.read_back(weight), expected)
    assert grid.scales(weight.shape) == grid.scale(weight)[0].numel() == scales
    assert set(grid.codes(weight).unique().tolist()) <= set(range(-8, 8))


def test_blocks_use_the_level_that_symmetric_grids_leave_out():
    grid = Grid(4, "block", 4)
    weight = torch.tensor([[0.5, 4.0, -4.1, 0.0, 4.2, 0.0], [0, 0, 0, 0, 0, 0]])
    scale, _ = grid.scale(weight)
    torch.testing.assert_close(scale[0, :, 0], torch.tensor([4.1 / 8, -4.2 / 8]))
    assert grid.codes(weight).tolist() == [[1, 7, -8, 0, -8, 0], [0] * 6]
    assert grid.read_back(weight)[1].tolist() == [0] * 6


def test_more_bits_and_smaller_parts_leave_less_error(weight):
    def error(*grid):
        return quantize.error(weight, Grid(*grid).read_back(weight))

    assert error(8) < error(4) < error(2)
    assert error(4) < error(4, "group", 10) < error(4, "tensor")
    assert error(4, "block", 32) < error(4)


def test_steps_for_normal_numbers_are_those_of_max():
    """Max (1960), table II: N and the spacing of outputs."""
    published = {2: 1.596, 3: 1.224, 4: 0.9957, 7: 0.6508, 8: 0.5860, 15: 0.3534, 16: 0.3352}
    for levels, step in published.items():
        assert normal_step(levels) == pytest.approx(step, abs=6e-5 if step < 1 else 6e-4)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_scale_rounds_normal_weights_better_than_the_clipped_one(bits):
    weight = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    grid = Grid(bits, clip=True)
    low, high = grid.levels
    scale = grid.scale(weight)[0]
    others = torch.linspace(0.2, 3, 57).tolist()
    errors = [quantize.error(weight, read_back(weight, k * scale, 0, low, high)) for k in others]
    assert quantize.error(weight, grid.read_back(weight)) < 1.001 * min(errors)
    assert quantize.error(weight, Grid(bits).read_back(weight)) > 1.3 * min(errors)


def test_nothing_is_clipped_where_the_largest_weight_is_no_exception():
    weight = torch.tensor([[1.0, -1, 1, 0, 0, -1], [0, 0, 0, 0, 0, 0]])
    for reach, size in (("channel", 0), ("group", 2), ("tensor", 0)):
        assert Grid(2, reach, size, clip=True).read_back(weight).tolist() == weight.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "to 1 bits: choose 2 to 8"),
        ({"reach": "block", "size": 8, "clip": True}, "only a symmetric grid clips"),
        ({"reach": "row"}, "it is one of block, channel, group, tensor"),
        ({"reach": "block"}, "size 0 does not fit reach 'block'"),
        ({"size": 4}, "size 4 does not fit"),
        ({"asymmetric": True}, "choose 'tensor'"),
    ],
)
def test_grids_that_there_are_not_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Grid(**arguments)


# --- the seed study's way ------------------------------------------------------------------------


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

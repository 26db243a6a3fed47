"""Three sizes of one model against each other, and the ruler of memory against known sizes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from headcount import export, models, quantize, sizes
from headcount.errors import InputError
from headcount.prune import surgery

linux = pytest.mark.skipif(
    not sizes.measurable(), reason="resident memory is read on Linux with the GNU C library"
)
PRECISIONS = ["fp32", "int8"]


def lively(model):
    """All parameters differ, as trained ones do: the exporter stores equal ones once."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer():
    return models.train_wordpiece(["Sales rose by 5 % in 2009 ."] * 3, vocab_size=100)


@pytest.fixture(scope="module")
def model():
    """Three layers, one of them without attention and one with a head less."""
    model = lively(models.student(9_000, layers=3, hidden=384, heads=6, ffn=1536))
    surgery.remove(model, [*((0, head) for head in range(6)), (1, 2)])
    return model


@pytest.fixture(scope="module")
def folders(model, tokenizer, tmp_path_factory):
    whole = tmp_path_factory.mktemp("sizes")
    made, file = {}, None
    for name in [*PRECISIONS, "int4"]:
        made[name] = export.deployable(
            whole / name, model, tokenizer, name=name, precision=name, onnx_file=file
        )
        file = made["fp32"] / "model.onnx"
    return made


@pytest.fixture(scope="module")
def tables(folders, model, tokenizer):
    return {name: sizes.told(folders[name], model, tokenizer) for name in PRECISIONS}


def parts(table, column):
    return table.set_index("part")[column].dropna()


# --- reconciled -----------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("precision", PRECISIONS)
def test_at_most_two_percent_is_unexplained(tables, precision):
    shares = sizes.unexplained(tables[precision])
    assert shares.keys() == {"file_mb", "resident_mb"}
    assert shares["file_mb"] < 0.001
    assert shares["resident_mb"] < 0.02


@linux
@pytest.mark.parametrize("precision", PRECISIONS)
def test_parts_and_what_is_unexplained_are_the_total(tables, folders, model, precision):
    table = tables[precision]
    counts = quantize.byte_counts(model, sizes.schemes()[precision])
    counted, file, resident = (parts(table, column) for column in sizes.SIZES)
    assert counted["total"] == pytest.approx(sum(counts.values()) / 1e6, abs=1e-9)
    assert file["total"] == (folders[precision] / "model.onnx").stat().st_size / 1e6
    for column in (counted, file, resident):
        assert column.drop("total").sum() == pytest.approx(column["total"], abs=1e-9)
    if precision == "fp32":
        assert counted.index[0] == "FP32 parameters"  # none of the rows that would be 0
        assert counted["total"] == 4e-6 * sum(p.numel() for p in model.parameters())
    assert "graph in the file" in set(file.index) - set(resident.index)
    assert {"graph in memory", "holes in the heap"} <= set(resident.index) - set(file.index)


@linux
def test_graph_and_holes_are_worth_a_row(tables):
    resident = parts(tables["int8"], "resident_mb")
    assert 8 < parts(tables["int8"], "file_mb")["total"] < 9
    for part in ("graph in memory", "holes in the heap"):
        assert resident[part] + resident["unexplained"] > 0.02 * resident["total"]


@pytest.mark.parametrize("precision", [*PRECISIONS, "int4"])
def test_counted_is_exactly_what_the_constants_of_the_file_hold(folders, model, precision):
    stored = export.constants(folders[precision] / "model.onnx")
    of_parameters = {k: v for k, v in stored.items() if k.startswith(("bert.", "classifier."))}
    positions = of_parameters.pop("bert.embeddings.position_ids")
    counts = quantize.byte_counts(model, sizes.schemes()[precision])
    assert sum(array.nbytes for array in of_parameters.values()) == sum(counts.values())
    others = [array for name, array in stored.items() if name not in of_parameters]
    integers = sum(array.nbytes for array in others if array.dtype == np.int64)
    assert integers >= positions.nbytes == 8 * 512
    assert sum(array.nbytes for array in others) - integers <= 16  # numbers that are added
    shapes, _ = sizes._shapes_and_graph(folders[precision] / "model.onnx")
    assert shapes == integers / 1e6


@pytest.fixture
def as_measured(monkeypatch, tables):
    """Tells INT8 anew with what was measured before."""
    resident = parts(tables["int8"], "resident_mb")
    held = {"resident_mb": resident["total"], "holes_mb": resident["holes in the heap"]}
    monkeypatch.setattr(sizes, "resident", lambda folder: held)
    monkeypatch.setattr(sizes, "graph_mb", lambda *arguments: resident["graph in memory"])
    return sizes.told


@linux
def test_leaving_packed_weights_out_is_seen(as_measured, monkeypatch, folders, model, tokenizer):
    """The seed study's mistake: packed INT8 weights are no parameters, so that a sum misses them.

    What it left is what `byte_counts` has when linear layers weigh nothing.
    """
    counts = quantize.byte_counts(model, quantize.deployed())
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    kept = sum(p.numel() for p in quantize.torch_dynamic(model).parameters())
    everything = sum(p.numel() for p in model.parameters())
    assert everything - kept >= linear > 0.5 * counts["codes"]
    short = counts | {"codes": counts["codes"] - linear}
    assert max(sizes.unexplained(as_measured(folders["int8"], model, tokenizer)).values()) < 0.02
    monkeypatch.setattr(quantize, "byte_counts", lambda *arguments: short)
    assert min(sizes.unexplained(as_measured(folders["int8"], model, tokenizer)).values()) > 0.02


@linux
def test_another_models_folder_is_seen(as_measured, folders, tokenizer):
    shorter = models.student(6_000, layers=3, hidden=384, heads=6, ffn=1536)
    shares = sizes.unexplained(as_measured(folders["int8"], shorter, tokenizer))
    assert min(shares.values()) > 0.02


# --- the twin -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distilbert(tokenizer):
    config = DistilBertConfig(
        vocab_size=tokenizer.vocab_size, dim=64, n_layers=1, n_heads=4, hidden_dim=96, num_labels=3
    )
    return lively(DistilBertForSequenceClassification(config))


def graph_of(path):
    """Operators in their order, and the names of the parameters."""
    graph = onnx.load(path).graph
    names = {constant.name for constant in graph.initializer}
    return [node.op_type for node in graph.node], {n for n in names if not n.startswith("val_")}


def assert_twin(model, tokenizer, file, path):
    state = torch.get_rng_state()
    twin = sizes.twin(model)
    assert torch.equal(torch.get_rng_state(), state)
    weights, few = (sum(p.numel() for p in m.base_model.parameters()) for m in (model, twin))
    assert few < weights / 4
    export.to_onnx(twin, tokenizer, path)
    assert graph_of(path) == graph_of(file)


def test_a_twin_has_the_same_graph_and_hardly_any_weights(model, folders, tokenizer, tmp_path):
    assert_twin(model, tokenizer, folders["fp32"] / "model.onnx", tmp_path / "twin.onnx")


def test_a_twin_of_distilbert(distilbert, tokenizer, tmp_path):
    export.to_onnx(distilbert, tokenizer, tmp_path / "model.onnx")
    assert_twin(distilbert, tokenizer, tmp_path / "model.onnx", tmp_path / "twin.onnx")


# --- the ruler of memory --------------------------------------------------------------------------


@pytest.fixture
def one_node(tmp_path):
    """A function that makes a folder whose model adds a constant of some float32 numbers."""

    def make(numbers):
        folder = tmp_path / str(numbers)
        folder.mkdir()
        x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [numbers]) for n in "xy")
        constant = numpy_helper.from_array(np.arange(numbers, dtype=np.float32), "w")
        node = helper.make_node("Add", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "one", [x], [y], [constant])
        opset = helper.make_opsetid("", export.OPSET)
        made = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        onnx.save(made, folder / "model.onnx")
        return folder

    return make


@linux
@pytest.mark.parametrize("numbers", [1, 2_000_000])
def test_a_constant_is_resident_once_and_the_runtime_is_not(one_node, numbers):
    held = sizes.resident(one_node(numbers))
    assert held.keys() == {"resident_mb", "holes_mb"}
    assert held["resident_mb"] == pytest.approx(4e-6 * numbers, abs=0.15)
    assert abs(held["holes_mb"]) < 0.1


@linux
def test_holes_are_what_is_free_and_not_given_back():
    """Every second of a thousand blocks is freed: the pages at their ends stay."""
    script = """
import ctypes
from headcount import sizes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 10_000
blocks = [ctypes.c_void_p(libc.malloc(size)) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, size)
before = sizes._held()
for block in blocks[::2]:
    libc.free(block)
after = sizes._held()
for name in before:
    print(after[name] - before[name])
"""
    resident, holes = map(float, run_python(script).split())
    assert holes == pytest.approx(500 * 4096 / 1e6, rel=0.05)
    assert holes - resident == pytest.approx(500 * 10_016 / 1e6, rel=0.05)


def run_python(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@linux
def test_the_measured_process_has_the_runtime_alone(one_node):
    script = """
import sys
from pathlib import Path
from headcount import sizes
sizes._measure(Path(sys.argv[1]))
print(*{"torch", "transformers", "pandas", "tokenizers"} & set(sys.modules))
"""
    assert run_python(script, one_node(1)).split() == []


def test_the_session_is_the_one_that_is_deployed(folders):
    deployed = export.OnnxClassifier(folders["int8"]).session.get_session_options()
    measured = sizes._session(folders["int8"] / "model.onnx").get_session_options()
    default = ort.SessionOptions()
    for name in dir(default):
        if isinstance(getattr(default, name), (bool, int, str)):
            assert getattr(measured, name) == getattr(deployed, name), name
    for name in ("session.x64quantprecision",):
        assert measured.get_session_config_entry(name) == deployed.get_session_config_entry(name)


# --- failures -------------------------------------------------------------------------------------


def assert_one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@linux
def test_a_damaged_file_is_told_in_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"others")
    with pytest.raises(InputError) as caught:
        sizes.resident(tmp_path)
    assert_one_line(caught, f"memory of {tmp_path.name} could not be measured", "make the folder")


@linux
def test_a_folder_without_model_is_told_before_a_process_is_started(tmp_path, monkeypatch):
    monkeypatch.delattr(subprocess, "run")
    with pytest.raises(InputError) as caught:
        sizes.resident(tmp_path)
    assert_one_line(caught, str(tmp_path), "lacks model.onnx: run the chapter")


@pytest.mark.parametrize("name", ["model.onnx", "config.json"])
def test_a_folder_that_lacks_a_file_is_told_in_one_line(folders, model, tokenizer, tmp_path, name):
    folder = shutil.copytree(folders["int4"], tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(InputError) as caught:
        sizes.told(folder, model, tokenizer)
    assert_one_line(caught, f"{folder} lacks {name}: run the chapter")


def test_a_precision_that_no_scheme_counts_is_told_in_one_line(model, tokenizer, tmp_path):
    (tmp_path / "model.onnx").touch()
    words, _ = export.PRECISIONS["int8-weights"]
    (tmp_path / "config.json").write_text(json.dumps({"precision": words}))
    with pytest.raises(InputError) as caught:
        sizes.told(tmp_path, model, tokenizer)
    assert_one_line(caught, "'int8-weights'", "it is one of fp32, int4, int8")


def test_a_system_that_does_not_tell_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "SMAPS", Path("/proc/self/no-such-file"))
    assert not sizes.measurable()
    with pytest.raises(InputError) as caught:
        sizes.resident(tmp_path)
    assert_one_line(caught, "/proc/self/no-such-file", "measure resident memory on Linux")


@linux
def test_another_allocator_is_not_measured(one_node, monkeypatch):
    """Colab preloads one; blocks that the C library did not hand out are no holes of its own."""
    seen = []

    def run(command, *, env, **arguments):
        seen.append(env)
        return subprocess.CompletedProcess(command, 0, "{}", "")

    monkeypatch.setenv("LD_PRELOAD", "libtcmalloc.so.4")
    monkeypatch.setattr(subprocess, "run", run)
    sizes.resident(one_node(1))
    assert "LD_PRELOAD" not in seen[0]
    assert "PATH" in seen[0]

"""The size of a model told three ways: counted, in its file, and held in memory; and reconciled.

*Counted* are the bytes of the parameters, :func:`headcount.quantize.byte_counts`. The *file* is
``model.onnx``: what is counted, the constants that belong to the graph, and the graph. *Resident*
is what ONNX Runtime holds of the file in a process of its own; the interpreter, the libraries, the
runtime itself and the tokenizer are left out. It is read there by::

    python -m headcount.sizes FOLDER

:func:`told` says what each of the three consists of, and how much of it stays unexplained.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import mmap
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from headcount.errors import InputError
from headcount.parameters import known

if TYPE_CHECKING:  # the process that is measured imports the runtime alone
    import onnxruntime as ort
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from headcount.quantize import Scheme

SMAPS = Path("/proc/self/smaps_rollup")
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE of linux/prctl.h
COUNTED = {
    "codes": "codes",
    "scales": "scales",
    "zero_points": "zero points",
    "fp32": "FP32 parameters",
}
"""Parts of `quantize.byte_counts`, and what the table calls them."""
SIZES = ["counted_mb", "file_mb", "resident_mb"]


# --- reconciled -----------------------------------------------------------------------------------


def schemes() -> dict[str, Scheme]:
    """What is counted of a deployable folder, by its precision: a key of `export.PRECISIONS`."""
    from headcount import quantize

    return {
        "fp32": quantize.Scheme(),
        "int8": quantize.deployed(),
        "int4": quantize.weights_only(4, block=quantize.BLOCK),
    }


def told(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """Parts of a deployed model's three sizes in 10^6 bytes.

    Columns: part, counted_mb, file_mb, resident_mb; NaN where a part does not belong to a size.
    Rows, those that the precision has:

    - codes, scales, zero points, FP32 parameters: `byte_counts`, the same in all three;
    - position ids and shapes: the integer constants of the graph;
    - graph in the file: operators and names, i.e. the file without the values of its constants;
    - graph in memory: what the runtime makes of them, measured on a twin (:func:`graph_mb`);
    - holes in the heap: what was needed for loading alone and shares its pages with what is still
      needed (:func:`resident`);
    - unexplained: what is left of the total; negative where the parts are more than the whole;
    - total: counted, the size of the file, and what was measured in memory.

    :func:`unexplained` makes shares of it. In memory less than 0.1 MB stays unexplained, whatever
    the model; INT8's kernels, for one, keep the sum of each output row, 4 bytes. It is a small
    share of 8 MB, and a large one of a toy. What is resident of one file differs by as much from
    one process to the next, and the holes differ with it.

    Args:
        folder: of `export.deployable`, FP32, INT8 or INT4.
        model: what was deployed there, in FP32: BERT or DistilBERT, with whatever heads are left.
        tokenizer: the model's own.

    Raises:
        InputError: the folder lacks a file, its precision is not among `schemes`, or resident
            memory cannot be measured.
    """
    import pandas as pd

    from headcount import export, quantize

    precision = _precision(folder)
    file = folder / export.MODEL_FILE
    counts = quantize.byte_counts(model, schemes()[precision])
    held = resident(folder)
    shapes, graph = _shapes_and_graph(file)
    table = pd.DataFrame(
        [
            *((name, *[counts[key] / 1e6] * 3) for key, name in COUNTED.items() if counts[key]),
            ("position ids and shapes", None, shapes, shapes),
            ("graph in the file", None, graph, None),
            ("graph in memory", None, None, graph_mb(model, tokenizer, precision)),
            ("holes in the heap", None, None, held["holes_mb"]),
        ],
        columns=["part", *SIZES],
    ).astype(dict.fromkeys(SIZES, float))
    explained = table[SIZES].sum()
    totals = [explained["counted_mb"], export.size_mb(file), held["resident_mb"]]
    table.loc[len(table)] = ["unexplained", *(totals - explained)]
    table.loc[len(table)] = ["total", *totals]
    return table


def unexplained(table: pd.DataFrame) -> dict[str, float]:
    """Shares (1 = all) of ``file_mb`` and ``resident_mb`` that :func:`told` leaves unexplained."""
    rows = table.set_index("part")[SIZES[1:]]
    return (rows.loc["unexplained"] / rows.loc["total"]).abs().to_dict()


def _precision(folder: Path) -> str:
    from headcount import export

    for name in (export.MODEL_FILE, "config.json"):
        if not (folder / name).exists():
            raise InputError(f"{folder} lacks {name}: run the chapter that makes it again")
    words = json.loads((folder / "config.json").read_text(encoding="utf-8"))["precision"]
    precision = next((key for key, (told, _) in export.PRECISIONS.items() if told == words), words)
    return known(precision, schemes(), f"{folder}: no scheme counts the bytes of precision")


def _shapes_and_graph(path: Path) -> tuple[float, float]:
    """10^6 bytes of a file's integer constants, and of the file without its constants' values."""
    import onnx

    model = onnx.load(path)
    shapes = 0
    for constant in model.graph.initializer:
        if constant.data_type == onnx.TensorProto.INT64:  # which no parameter is
            shapes += onnx.numpy_helper.to_array(constant).nbytes
        for values in ("raw_data", "float_data", "int32_data", "int64_data"):
            constant.ClearField(values)
    return shapes / 1e6, model.ByteSize() / 1e6


# --- the graph in memory --------------------------------------------------------------------------


def graph_mb(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: str) -> float:
    """10^6 bytes that the runtime needs for a model's graph, whatever its weights are.

    Measured on the model's :func:`twin`, exported at the same precision: what is resident of it,
    less its constants and holes.

    Raises:
        InputError: resident memory cannot be measured.
    """
    from headcount import export

    _, quantize = export.PRECISIONS[known(precision, export.PRECISIONS, "unknown precision")]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / export.MODEL_FILE
        export.to_onnx(twin(model), tokenizer, file)
        if quantize is not None:
            quantize(file, file.with_name("quantized.onnx"))
            file.with_name("quantized.onnx").replace(file)
        held = resident(file.parent)
        constants = sum(array.nbytes for array in export.constants(file).values())
    return held["resident_mb"] - held["holes_mb"] - constants / 1e6


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same layers, heads and vocabulary with hardly any weights: heads of size 2."""
    import torch

    from headcount.prune import surgery

    config = copy.deepcopy(model.config)
    config.hidden_size = 2 * config.num_attention_heads  # DistilBERT maps this name to its own
    for width in ("intermediate_size", "hidden_dim"):
        if hasattr(config, width):
            setattr(config, width, config.hidden_size)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        small = type(model)(config).eval()
        surgery.apply_heads_alive(small, getattr(config, "heads_alive", None))
        for parameter in small.parameters():
            parameter.normal_()  # the exporter drops zeros that are added, and stores equals once
    return small


# --- in memory ------------------------------------------------------------------------------------


def measurable() -> bool:
    """Whether :func:`resident` works here: on Linux with the GNU C library."""
    return SMAPS.exists() and hasattr(ctypes.CDLL(None), "malloc_info")


def resident(folder: Path) -> dict[str, float]:
    """What ONNX Runtime holds of a folder's ``model.onnx``, in a fresh process; 10^6 bytes.

    Read after a model of one node was loaded and run, with the options of ``predict.py``, and
    again after the folder's was loaded: memory that is no file's copy ("Anonymous"), when the C
    library has given back all that it can. The difference is

    - ``resident_mb``: all that loading added;
    - ``holes_mb``: the part of it that is free but cannot be given back, because the system takes
      whole pages. A free block keeps up to one page at its two ends, or all of it where it is
      smaller than that.

    Raises:
        InputError: this system does not tell, the folder has no model, or the process failed.
    """
    from headcount import bench

    if not measurable():
        raise InputError(
            f"{SMAPS} or the GNU C library is missing here: measure resident memory on Linux"
        )
    if not (folder / "model.onnx").exists():
        raise InputError(f"{folder} lacks model.onnx: run the chapter that makes it again")
    # Another allocator in the C library's place, as on Colab, has holes of another kind; so has the
    # C library's own in huge pages, which a study trains with.
    other = ("LD_PRELOAD", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if name not in other}
    command = [sys.executable, "-m", "headcount.sizes", str(folder)]
    return bench.measured_apart(command, folder.name, "make the folder again", env=environment)


def _measure(folder: Path) -> dict[str, float]:
    import numpy as np

    ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0)  # with them memory comes by the 2 MiB
    runtime = _session(_one_node())
    runtime.run(None, {"x": np.ones((1, 4), np.float32)})
    before = _held()
    model = _session(folder / "model.onnx")
    after = _held()
    del model, runtime  # not before
    return {name: after[name] - before[name] for name in after}


def _session(source: Path | bytes) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(source, options)


def _one_node() -> bytes:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 4]) for n in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph([node], "one", [x], [y], [weight])
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def _held() -> dict[str, float]:
    ctypes.CDLL(None).malloc_trim(0)
    fields = dict(line.split(":", 1) for line in SMAPS.read_text().splitlines()[1:])
    kib = int(fields["Anonymous"].split()[0])
    return {"resident_mb": kib * 1024 / 1e6, "holes_mb": _holes() / 1e6}


def _holes() -> int:
    libc = ctypes.CDLL(None)
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    free = ElementTree.fromstring(text.value)
    blocks = [block.attrib for kind in ("size", "unsorted") for block in free.iter(kind)]
    return sum(min(int(b["total"]), int(b["count"]) * mmap.PAGESIZE) for b in blocks)


def main(arguments: list[str] | None = None) -> None:
    """``python -m headcount.sizes FOLDER``: print :func:`resident` as JSON."""
    parser = argparse.ArgumentParser(prog="python -m headcount.sizes")
    parser.add_argument("folder", type=Path)
    print(json.dumps(_measure(parser.parse_args(arguments).folder)))


if __name__ == "__main__":
    main()

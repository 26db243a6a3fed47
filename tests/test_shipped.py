"""Deployable folders in an environment that holds what their README installs, and nothing else."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.utils import canonicalize_name

from headcount import export, models, predict, shipped
from headcount.data import LABELS
from headcount.errors import InputError

TEXTS = [
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn.",
    "",
    "Sales fell.",
    "profit " * 5000,
    " \t ",
    "Tab\tand\nnew\r\nlines\n\n",
    "Übernahme 5 % – \u4e2d \U0001f600 next\x85line\u2028end",
    "The company did not disclose the price of the deal.",
]


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    tokenizer = models.train_wordpiece(TEXTS * 3, vocab_size=200)
    model = models.student(tokenizer.vocab_size, layers=1, hidden=32, heads=2, ffn=64).eval()
    with torch.no_grad():  # as they begin, every text gets nearly the same answer
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    folder = tmp_path_factory.mktemp("int8") / "a folder, élan"
    return export.deployable(folder, model, tokenizer, int8=True, name="tiny", max_length=20)


@pytest.fixture(scope="module")
def python():
    with shipped.environment() as python:
        yield python


def run(python, code):
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_answers_are_those_of_the_study(int8, python):
    labels, probabilities = shipped.answers(int8, TEXTS, python)
    logits = export.OnnxClassifier(int8).logits(TEXTS)
    expected = torch.tensor(logits).double().softmax(1).numpy()
    assert np.ptp(expected, axis=0).min() > 0.05  # the same answer to all would pass, too
    assert labels == [LABELS[row.argmax()] for row in logits]
    np.testing.assert_allclose(probabilities, expected, atol=5.1e-5)


def test_long_and_blank_texts_are_answered_as_what_is_left_of_them(int8, python):
    """18 words are what 20 tokens hold, and without any a text is the empty one."""
    _, p = shipped.answers(
        int8, ["profit " * 5000, "profit " * 18, "profit", "", "\n", " "], python
    )
    np.testing.assert_array_equal(p[[0, 4, 5]], p[[1, 3, 3]])
    assert len({tuple(row) for row in p[1:4]}) == 3


def test_no_texts_no_answers(int8, python):
    labels, probabilities = shipped.answers(int8, [], python)
    assert labels == []
    assert probabilities.shape == (0, 3)


def test_an_environment_is_made_where_none_is_given_and_removed(int8, monkeypatch):
    made, make = [], shipped.environment

    def environment():
        made.append(make())
        return made[-1]

    monkeypatch.setattr(shipped, "environment", environment)
    assert len(shipped.answers(int8, TEXTS[:1])[0]) == len(made) == 1
    with make() as python:
        assert python.exists()
        assert not python.is_relative_to(sys.prefix)
    assert not python.parents[1].exists()


IMPORTABLE = """
import importlib, json, sys
found = []
for name in {names}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == name, error
    else:
        found.append(name)
print(json.dumps(found))
"""


def test_nothing_else_can_be_imported(python):
    absent = ["torch", "transformers", "pandas", "scipy", "sklearn", "onnx", "headcount"]
    assert all(map(importlib.util.find_spec, absent))  # here they can
    found = run(python, IMPORTABLE.format(names=[*shipped.NEEDED, "yaml", *absent]))
    assert found == [*shipped.NEEDED, "yaml"]  # yaml: huggingface-hub asks for it


def test_what_is_there_is_what_is_told(python):
    code = """
import importlib.metadata, json
print(json.dumps([[d.name, d.version] for d in importlib.metadata.distributions()]))
"""
    there = {canonicalize_name(name): version for name, version in run(python, code)}
    assert there == shipped.distributions()
    assert {*shipped.NEEDED, "protobuf", "huggingface-hub"} <= there.keys()
    assert list(shipped.distributions()) == sorted(there)


def test_needed_is_what_the_script_imports_and_the_readme_installs():
    tree = ast.parse(Path(predict.__file__).read_text("utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported - sys.stdlib_module_names == {*shipped.NEEDED}
    assert f"pip install {' '.join(shipped.NEEDED)}\n" in export.README


# --- what fails ---------------------------------------------------------------------------------


def told(folder, python, texts=TEXTS[:2]):
    with pytest.raises(InputError) as caught:
        shipped.answers(folder, texts, python)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
def test_a_damaged_folder_is_told_in_the_words_of_its_script(int8, python, tmp_path, name):
    folder = shutil.copytree(int8, tmp_path / "copy")
    (folder / name).write_bytes(b"others")
    message = told(folder, python)
    assert message.startswith(
        f"{folder} does not run as it is shipped (ValueError: {folder / name}"
    )
    assert message.endswith("make it again")


def test_a_folder_without_script_is_told(python, tmp_path):
    assert "predict.py" in told(tmp_path, python)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import pandas", "No module named 'pandas'"),
        ("raise SystemExit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
        ("print('neutral', 0, 1, 0, 'a', sep='\\t')", "printed 1 rows"),
        ("print('hello\\nneutral\\t0\\t1\\t0\\tb')", "printed 2 rows"),
        ("for s in 'ba': print('neutral', 0, 1, 0, s, sep='\\t')", "in their order"),
    ],
)
def test_a_script_that_fails_or_answers_others_is_told(python, tmp_path, script, message):
    (tmp_path / "predict.py").write_text(script)
    assert message in told(tmp_path, python, ["a", "b"])


def test_neither_variables_nor_the_folder_bring_other_modules(python, tmp_path, monkeypatch):
    """PYTHONPATH, and a module beside the script, which plain Python would find."""
    monkeypatch.setenv("PYTHONPATH", str(Path(shipped.__file__).parents[1]))
    (tmp_path / "beside.py").touch()
    for name in ("headcount", "beside"):
        (tmp_path / "predict.py").write_text(f"import {name}")
        assert f"No module named '{name}'" in told(tmp_path, python)


# --- distributions made by hand -----------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a distribution by hand, as pip would leave it."""

    def make(name, files, requires=(), version="1.0", site="site", record=True, extra=()):
        folder = tmp_path / site
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        for path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(f"WHOSE = {name!r}\n")
        listed = [*files, *extra, f"{info.name}/METADATA", f"{info.name}/RECORD"]
        if record:
            (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
        monkeypatch.syspath_prepend(folder)
        return info

    return make


def names(*packages):
    return set(shipped.distributions(packages))


def test_requirements_are_followed_with_their_markers_and_extras(install):
    install(
        "A_a",
        ["a/__init__.py"],
        [
            "B.b>=1",
            "absent; python_version < '3'",
            f"here; sys_platform == '{sys.platform}'",
            "absent; extra == 'all'",
            "extras[one,Two_2]",
        ],
    )
    install("b-b", ["b.py"], ["A-A", "c"], version="1.0.dev1")  # a circle, and a pre-release
    install("here", ["here.py"])
    install("c", ["c.py"], version="0.5")
    extras = ["one; extra == 'one'", "two; extra == 'two-2'", "absent; extra == 'three'"]
    install("extras", ["extras.py"], extras)
    install("one", ["one.py"])
    install("two", ["two.py"])
    install("stranger", ["stranger.py"])
    with pytest.raises(
        InputError, match=r"^b-b 1.0.dev1 is installed .* a-a wants B.b>=1: pip ins"
    ):
        names("a-a")
    install("b-b", ["b.py"], ["A-A", "c"], version="1.1.dev1", site="first")
    assert names("a-a") == {"a-a", "b-b", "c", "extras", "here", "one", "two"}
    assert names("extras") == {"extras"}
    assert names("extras", "extras[one]") == names("extras[one]", "extras") == {"extras", "one"}
    assert shipped.distributions(["B_B"]).items() >= {"b-b": "1.1.dev1", "c": "0.5"}.items()


def test_a_folder_that_several_share_brings_the_wanted_files_alone(install, tmp_path):
    install("one", ["shared/one.py", "shared/pack/__init__.py", "one.libs/lib.so"])
    install("two", ["shared/two.py", "shared/sub/deep.py"], ["one"], site="other")
    install("guest", ["shared/guest.py", "shared/pack/plugin.py", "shared/sub/guest.py"])
    before = sorted(tmp_path.rglob("*"))
    with shipped.environment(["two"]) as python:
        site = site_of(python)
        found = {str(p.relative_to(site)) for p in site.rglob("*.*") if not p.is_dir()}
        assert {path for path in found if "dist-info" not in path} == {
            "shared/one.py",
            "shared/two.py",
            "shared/pack/__init__.py",
            "shared/sub/deep.py",
            "one.libs/lib.so",
        }
        code = "import json, shared.one, shared.sub.deep as two; print(json.dumps(two.WHOSE))"
        assert run(python, code) == "two"
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before


def site_of(python):
    return next(python.parents[1].glob("[lL]ib/**/site-packages"))


def test_of_two_that_list_the_same_file_the_originals_stay(install, tmp_path):
    install("one", ["same/__init__.py"])
    install("two", ["same/__init__.py", "same/two.py"], ["one"], site="other")
    with shipped.environment(["two"]):
        pass
    assert "one" in (tmp_path / "site" / "same" / "__init__.py").read_text()
    assert not (tmp_path / "site" / "same" / "two.py").exists()


@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
def test_a_whole_package_is_added_to_a_part_of_one(install, tmp_path, order):
    install("one", ["same/__init__.py"])
    install("guest", ["same/guest.py"])
    install("two", ["same/__init__.py", "same/two.py"], site="other")
    with shipped.environment(order) as python:
        found = {path.name for path in (site_of(python) / "same").iterdir()}
    assert found == {"__init__.py", "two.py"}
    assert "one" in (tmp_path / "site" / "same" / "__init__.py").read_text()


def test_scripts_caches_and_files_elsewhere_or_gone_are_left_out(install, tmp_path, monkeypatch):
    (tmp_path / "outside.py").touch()
    gone = [
        str(tmp_path / "outside.py"),
        "../outside.py",
        "pack/__pycache__/a.pyc",
        "__pycache__/tool.pyc",
        "gone.py",
        "no/a.py",
    ]
    install("one", ["pack/__init__.py", "pack/a.py", "tool.py"], extra=gone)
    walked, walk = [], os.walk
    monkeypatch.setattr(os, "walk", lambda top: walked.append(Path(top)) or walk(top))
    with shipped.environment(["one"]) as python:
        found = {path.name for path in site_of(python).iterdir()}
    assert found == {"pack", "tool.py", "one-1.0.dist-info"}
    assert tmp_path / "site" / "pack" in walked
    assert Path(tmp_path.anchor) not in walked  # where an absolute path would lead


def test_files_are_copied_where_links_are_not_allowed(install, monkeypatch):
    install("one", ["pack/__init__.py", "pack/a.py", "tool.py", "open/a.py"])

    def forbidden(*_):
        raise OSError("a privilege is missing")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    with shipped.environment(["one"]) as python:
        assert not [path for path in site_of(python).rglob("*") if path.is_symlink()]
        code = "import json, pack.a, tool, open.a; print(json.dumps(tool.WHOSE))"
        assert run(python, code) == "one"


def test_what_cannot_be_shipped_from_here_is_told(install):
    install("one", ["one.py"], ["nowhere>=2"])
    install("bare", ["bare.py"], record=False)
    info = install("edited", ["edited.py"])
    (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    for package, message in {
        "one": "nowhere, which one needs, is not here: pip install nowhere",
        "absent": "absent, which predict.py needs, is not here: pip install absent",
        "bare": "bare 1.0 came without a list of its files (RECORD) and cannot be shipped from "
        "here: pip install --ignore-installed bare==1.0",
        "edited": "edited 1.0 is an editable installation and cannot be shipped from here: "
        "pip install --force-reinstall edited==1.0",
    }.items():
        with pytest.raises(InputError) as caught:
            shipped.distributions([package])
        assert str(caught.value) == message

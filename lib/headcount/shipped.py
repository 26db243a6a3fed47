"""A deployable folder where it would be deployed: with nothing but what its README installs.

The environment is made of the distributions that are installed here, so that it needs no network:
a virtual environment without pip, into which the files are linked that were installed with ONNX
Runtime, tokenizers, NumPy and what these require. torch, transformers and this library are not
there, and the folder is scored by its own ``predict.py`` in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headcount.errors import InputError

NEEDED = ("onnxruntime", "tokenizers", "numpy")
"""What ``predict.py`` imports, and what the README of every deployable folder installs."""


def answers(
    folder: Path, texts: Sequence[str], python: Path | None = None
) -> tuple[list[str], np.ndarray]:
    """What a folder's ``predict.py`` says of n texts: labels (n,), probabilities (n, 3).

    Probabilities are in the order of the folder's labels and as printed, to 4 decimals. The script
    reads one text a line, so that a line feed in a text is sent as a space: the tokenizers of BERT
    take both for the same.

    Args:
        python: an interpreter of :func:`environment`; by default one is made for this call.

    Raises:
        InputError: the script failed, or did not answer every text.
    """
    if python is None:
        with environment() as python:
            return answers(folder, texts, python)
    lines = "".join(text.replace("\n", " ") + "\n" for text in texts).encode()
    command = [python, "-I", folder / "predict.py"]
    done = subprocess.run(command, input=lines, capture_output=True, check=False)
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = told[-1] if told else f"status {done.returncode}"
        raise InputError(f"{folder} does not run as it is shipped ({reason}): make it again")
    rows = [row.rstrip("\r").split("\t") for row in done.stdout.decode().split("\n")[:-1]]
    if [row[4:] for row in rows] != [[" ".join(text.split())] for text in texts]:
        raise InputError(
            f"{folder / 'predict.py'} printed {len(rows)} rows, which are not one for each of "
            f"{len(texts)} texts in their order: make the folder again"
        )
    return [row[0] for row in rows], np.array([row[1:4] for row in rows], float).reshape(-1, 3)


@contextmanager
def environment(packages: Sequence[str] = NEEDED) -> Iterator[Path]:
    """The interpreter of an environment with ``packages`` and what they require, nothing else.

    It lies in a temporary folder, which is removed afterwards.

    Raises:
        InputError: as :func:`distributions`.
    """
    found = _closure(packages)
    with tempfile.TemporaryDirectory(prefix="headcount-shipped-") as root:
        venv.create(root, symlinks=os.name != "nt")
        # The scheme that venv itself asks for: where things lie depends on the platform.
        paths = sysconfig.get_paths("venv", vars={"base": root, "platbase": root})
        for dist in found.values():
            _install(dist, Path(paths["purelib"]))
        yield Path(paths["scripts"], "python.exe" if os.name == "nt" else "python")


def distributions(packages: Sequence[str] = NEEDED) -> dict[str, str]:
    """Names and versions of all that :func:`environment` holds, in alphabetical order.

    They are what ``pip install`` of ``packages`` brings, in the versions that are installed here.

    Raises:
        InputError: one is missing here, or not in the version that another wants, or cannot be
            linked from here (an editable one, or one without a list of its files).
    """
    return {name: dist.version for name, dist in sorted(_closure(packages).items())}


def _closure(packages: Sequence[str]) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    done = set()
    wanted = [(Requirement(name), "predict.py") for name in packages]
    while wanted:
        requirement, by = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = _installed(name, by)
        if not requirement.specifier.contains(found[name].version, prereleases=True):
            raise InputError(
                f"{name} {found[name].version} is installed here, but {by} wants {requirement}: "
                f"pip install '{name}{requirement.specifier}'"
            )
        for extra in {"", *requirement.extras}:  # "" is for what is required without any
            if (name, extra) in done:
                continue
            done.add((name, extra))
            for needed in map(Requirement, found[name].requires or []):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted.append((needed, name))
    return found


def _installed(name: str, by: str) -> Distribution:
    try:
        dist = distribution(name)
    except PackageNotFoundError:
        raise InputError(f"{name}, which {by} needs, is not here: pip install {name}") from None
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        reason, option = "is an editable installation", "--force-reinstall"
    elif not dist.read_text("RECORD"):  # Debian's packages, and eggs
        reason, option = "came without a list of its files (RECORD)", "--ignore-installed"
    else:
        return dist
    raise InputError(
        f"{name} {dist.version} {reason} and cannot be shipped from here: "
        f"pip install {option} {name}=={dist.version}"
    )


def _install(dist: Distribution, site: Path) -> None:
    """Link what was installed with ``dist``, its scripts left out, into ``site``."""
    origin = Path(dist.locate_file("")).absolute()
    listed = [file for file in dist.files or [] if not {"..", "__pycache__"} & {*file.parts}]
    listed = [file for file in listed if origin in (origin / file).parents]  # some are absolute
    files = {origin / file for file in listed if (origin / file).exists()}
    for name in sorted({file.parts[0] for file in listed}):
        _link(origin / name, site / name, files)


def _link(source: Path, target: Path, files: set[Path]) -> None:
    """Link those of ``files`` that are at or below ``source``, whole packages where that is all.

    A package's folder may hold other distributions' files as well. A folder that is no package
    (``google``) may lie in several places; were it linked whole, the next distribution's part
    would be written into the original.
    """
    if target.is_symlink() or target.is_file():
        return  # two distributions list it: the first has it
    inside = {
        Path(folder, name)
        for folder, _, names in os.walk(source)
        for name in names
        if not folder.endswith("__pycache__")
    }
    whole = source / "__init__.py" in files and inside <= files and not target.exists()
    if source in files or whole:
        try:
            target.symlink_to(source)
        except OSError:  # Windows lets only some users do it
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, target)
    elif inside & files:
        target.mkdir(exist_ok=True)
        for child in source.iterdir():
            _link(child, target / child.name, files)

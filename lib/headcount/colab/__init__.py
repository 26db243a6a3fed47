"""Google Colab: install beside what is there, keep a copy on Drive, run what a chapter reads.

The first cell of a chapter clones the repository and calls :func:`set_up`. Until that is done the
libraries of the study may be missing: nothing but the standard library is imported here.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from headcount.errors import InputError
from headcount.parameters import BACKUP_VARIABLE, LOG_VARIABLE

DRIVE = Path("/content/drive/MyDrive")
COLABS_OWN = (
    *("torch", "torchvision", "torchaudio", "numpy", "pandas", "scipy", "scikit-learn"),
    *("matplotlib", "ipython", "ipykernel"),
)
"""What the running session is built on and may have loaded: these versions stay as they are."""


def opened_alone() -> bool:
    """Whether a chapter was opened on Colab by itself, and is not run by a study."""
    return "google.colab" in sys.modules and LOG_VARIABLE not in os.environ


def set_up() -> None:
    """Install, in the clone, what the study needs and Colab lacks. May be called again.

    Raises:
        InputError: a version that Colab has is outside of what the study accepts, or there is no
            network.
    """
    own = {name: version for name in COLABS_OWN if (version := _version(name))}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{name}=={own[name]}\n" for name in own))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(constraints)]
        done = subprocess.run([*command, "-e", "."], capture_output=True, text=True)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if "ERROR" in line]
        raise InputError(
            f"cannot install the study beside Colab's own libraries ({(told or ['pip failed'])[0]})"
            ": choose another runtime version in the menu Runtime, or check the network"
        )
    print(", ".join(f"{name} {version}" for name, version in own.items()), "left as they were")
    if place := _backup():
        print(f"finished chapters of a study are kept in {place}")
    else:
        print("Google Drive is not mounted: what is computed here is lost with this runtime")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backup() -> str | None:
    """Where finished chapters are kept: on Drive, if that is mounted by now."""
    on_drive = str(DRIVE / "headcount") if DRIVE.is_dir() else None
    return os.environ.get(BACKUP_VARIABLE) or on_drive


def run_study(profile: str, folds: str = "", *arguments: str) -> None:
    """Run a study, or go on with it, and print its progress.

    Args:
        folds: such as ``"0,1"``; the profile's own where empty.
        arguments: further ones of ``python -m headcount.study run``.

    Raises:
        InputError: it failed; the line says where and why.
    """
    command = [sys.executable, "-m", "headcount.study", "run", "--profile", profile, *arguments]
    if folds:
        command += ["--folds", folds]
    if place := _backup():
        command += ["--backup", place]
    environment = dict(os.environ)
    if "HF_TOKEN" not in environment:  # else the Hub's client asks the page, which hears no study
        environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "bufsize": 1}
    process = subprocess.Popen(command, env=environment, **streams)
    told = ""
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("headcount: ") and not told:  # the line after it says where to read
                told = line.removeprefix("headcount: ").strip()
        status = process.wait()
    finally:
        if process.poll() is None:  # the cell was interrupted: the study stops, and can go on
            process.terminate()
            process.wait()
    if status:
        raise InputError(told or f"the study stopped with status {status}: see the lines above")


def run_inputs(chapter: str, profile: str, fold: int) -> None:
    """Let a study run what ``chapter`` of ``fold`` reads, where that has not run yet."""
    print(f"{chapter} reads what other chapters leave: those that no study has run yet run first")
    run_study(profile, f"0,{fold}" if fold else "0", "--before", chapter)

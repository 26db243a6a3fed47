"""Which code runs, and on what."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch


@cache
def commit() -> str:
    """The commit of the code that runs, ``-dirty`` where lib/ or notebooks/ differ from it."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head, root = git("rev-parse", "HEAD"), git("rev-parse", "--show-toplevel")
        paths = [f"{root}/{name}" for name in ("lib", "notebooks")]
        return f"{head}-dirty" if git("status", "--porcelain", "--", *paths) else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "transformers", "onnxruntime", "scikit-learn")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def device_name(device: str) -> str:
    """The card's name, or ``cpu``."""
    return torch.cuda.get_device_name() if device == "cuda" else device

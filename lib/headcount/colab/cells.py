"""The badge and the set-up cell of every chapter, written with the repository's address.

The address stands in ``pyproject.toml`` alone; ``python -m headcount.colab write`` puts it into the
sources, the executed notebooks, the README and ``reports/colab.ipynb``, and ``check`` says whether
they agree.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from headcount.errors import InputError
from headcount.records import write_text

TAG = "colab"
STUDY = "minilm"
"""The profile whose executed notebooks the badges of the sources open."""
WHOLE = "reports/colab.ipynb"
BRANCH = "main"
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/{branch}/{path})"
)
SET_UP = """\
# On Colab: clone the study and install what Colab lacks; its torch stays. Elsewhere: nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules and "HEADCOUNT_LOG" not in os.environ:
    address = "{address}"
    if not os.path.exists("Snakefile"):
        if not os.path.exists("headcount"):
            clone = ["git", "clone", "--quiet", "--depth=1", address, "headcount"]
            subprocess.run(clone, check=True)
        os.chdir("headcount")
    sys.path.insert(0, os.path.abspath("lib"))
    from headcount import colab

    colab.set_up()"""
CELL = "# %%"
BADGE_LINE = re.compile(r"\[!\[Open in Colab\]\(\S+\)\]\(\S+\)")


def address(project: Path = Path("pyproject.toml")) -> str:
    """The repository's public address.

    Raises:
        InputError: ``project`` does not name one on github.com, which is what Colab opens.
    """
    urls = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {})
    found = urls.get("Repository", "")
    if not re.fullmatch(r"https://github\.com/[^/\s]+/[^/\s]+", found):
        raise InputError(
            f"{project}: Repository {found!r} in [project.urls] is no https://github.com/OWNER/NAME"
        )
    return found


def badge(path: str, address: str) -> str:
    """Markdown of the badge that opens ``path`` of the repository on Colab."""
    repository = address.removeprefix("https://github.com/")
    return BADGE.format(repository=repository, branch=BRANCH, path=path)


def repointed(executed: str, study: str) -> str:
    """The text of an executed notebook whose badge opens ``study``'s copy of it."""
    return executed.replace(
        f"/blob/{BRANCH}/reports/{STUDY}/notebooks/", f"/blob/{BRANCH}/reports/{study}/notebooks/"
    )


def stamp(notebook: NotebookNode, path: str, address: str) -> None:
    """Put the two cells into a notebook, or renew them where they are.

    New ones come after the title and before the first code.
    """
    hidden = {"tags": [TAG, "not-in-report"]}
    badge_cell = nbformat.v4.new_markdown_cell(badge(path, address), metadata=hidden)
    set_up_cell = nbformat.v4.new_code_cell(SET_UP.format(address=address), metadata=hidden)
    ours = {cell.cell_type: cell for cell in notebook.cells if TAG in cell.metadata.get("tags", ())}
    if "markdown" in ours:
        ours["markdown"].source = badge_cell.source
    else:
        notebook.cells.insert(1, badge_cell)
    if "code" in ours:
        ours["code"].source = set_up_cell.source
    else:
        kinds = [cell.cell_type for cell in notebook.cells]
        notebook.cells.insert(kinds.index("code"), set_up_cell)


def written(root: Path) -> dict[Path, str]:
    """What every file with a badge or a set-up cell has to hold, by its path."""
    where = address(root / "pyproject.toml")
    texts = {}
    for source in sorted((root / "notebooks").glob("*.py")):
        path = f"reports/{STUDY}/notebooks/fold0/{source.stem}.ipynb"
        texts[source] = _source(source, WHOLE if source.stem == TAG else path, where)
    for executed in sorted((root / "reports").glob("*/notebooks/fold*/*.ipynb")):
        text = executed.read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)
        stamp(notebook, executed.relative_to(root).as_posix(), where)
        end = "\n" if text.endswith("\n") else ""
        texts[executed] = nbformat.writes(notebook) + end
    notebook = jupytext.reads(texts[root / "notebooks" / "colab.py"], fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # else random, and never the same
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["accelerator"] = "GPU"  # what Colab gives it, if it has one
    texts[root / WHOLE] = nbformat.writes(notebook) + "\n"
    readme = root / "README.md"
    text, badges = BADGE_LINE.subn(badge(WHOLE, where), readme.read_text(encoding="utf-8"))
    if not badges:
        raise InputError(f"{readme} has no badge [![Open in Colab](...)](...): put one in")
    texts[readme] = text
    return texts


def _source(path: Path, opens: str, address: str) -> str:
    """A chapter's text with its two cells; its header, and all else, stay as they were typed."""
    text = path.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    # Where no cell has tags yet, Jupytext would write none.
    notebook.metadata.setdefault("jupytext", {})["cell_metadata_filter"] = "tags,-all"
    stamp(notebook, opens, address)
    renewed = jupytext.writes(notebook, fmt="py:percent")
    return text[: text.index(CELL)] + renewed[renewed.index(CELL) :]


def write(root: Path = Path(), *, check: bool = False) -> list[Path]:
    """Write what is not as it has to be; returns those files. With ``check`` nothing is written."""
    stale = []
    for path, text in written(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                write_text(path, text)
    return stale

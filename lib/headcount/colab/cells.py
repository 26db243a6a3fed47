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


def cells(path: str, address: str) -> tuple[NotebookNode, NotebookNode]:
    """The badge that opens ``path``, and the set-up cell."""
    hidden = {"tags": [TAG, "not-in-report"]}
    return (
        nbformat.v4.new_markdown_cell(badge(path, address), metadata=hidden),
        nbformat.v4.new_code_cell(SET_UP.format(address=address), metadata=hidden),
    )


def repointed(executed: str, study: str) -> str:
    """The text of an executed notebook whose badge opens ``study``'s copy of it."""
    return executed.replace(
        f"/blob/{BRANCH}/reports/{STUDY}/notebooks/", f"/blob/{BRANCH}/reports/{study}/notebooks/"
    )


def stamp(notebook: NotebookNode, path: str, address: str) -> None:
    """Put the two cells into a notebook, or renew them where they are.

    New ones come after the title and before the first code.
    """
    new_badge, new_set_up = cells(path, address)
    ours = {cell.cell_type: cell for cell in notebook.cells if TAG in cell.metadata.get("tags", ())}
    if "markdown" in ours:
        ours["markdown"].source = new_badge.source
    else:
        notebook.cells.insert(1, new_badge)
    if "code" in ours:
        ours["code"].source = new_set_up.source
    else:
        kinds = [cell.cell_type for cell in notebook.cells]
        notebook.cells.insert(kinds.index("code"), new_set_up)


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
    """A chapter's text with its two cells; all else stays as it was typed."""
    text = path.read_text(encoding="utf-8")
    head, *parts = re.split(r"^(?=# %%)", text, flags=re.MULTILINE)
    new_badge, new_set_up = cells(opens, address)
    tags = f'tags=["{TAG}", "not-in-report"]'
    blocks = {
        f"# %% [markdown] {tags}\n": f"# {new_badge.source}\n\n",
        f"# %% {tags}\n": f"{new_set_up.source}\n\n",
    }
    for place, (marker, body) in enumerate(blocks.items()):
        mine = [i for i, part in enumerate(parts) if part.startswith(marker)]
        if mine:
            parts[mine[0]] = marker + body
        elif place == 0:
            parts.insert(1, marker + body)
        else:
            code = [i for i, part in enumerate(parts) if not part.startswith("# %% [markdown]")]
            parts.insert(code[0], marker + body)
    return head + "".join(parts)


def write(root: Path = Path(), *, check: bool = False) -> list[Path]:
    """Write what is not as it has to be; returns those files. With ``check`` nothing is written."""
    stale = []
    for path, text in written(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                write_text(path, text)
    return stale

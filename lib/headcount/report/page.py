"""An executed chapter 8 as two pages that need nothing else: report.html and report.md."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable
from copy import deepcopy
from importlib.resources import files
from pathlib import Path

import nbformat
from jinja2 import Environment
from nbconvert import HTMLExporter, MarkdownExporter
from nbformat import NotebookNode

from headcount.colab.cells import TAG
from headcount.errors import InputError
from headcount.records import write_text

NOT_IN_REPORT = "not-in-report"
HEADING = re.compile(r"<h2>(.*?)</h2>", re.DOTALL)


def render(notebook: Path, folder: Path) -> list[Path]:
    """Write `folder`/report.html (pictures inside) and report.md (pictures as links into it).

    Code, printed text and cells tagged `not-in-report` are left out. Returns the two paths.

    Raises:
        InputError: the notebook is not there, was not executed to its end, or shows a picture
            without an alternative text or that is not among `folder`'s figures.
    """
    nb = _read(notebook)
    pictures = {
        hashlib.sha256(path.read_bytes()).digest(): path.relative_to(folder).as_posix()
        for path in sorted((folder / "figures").rglob("*.png"))
    }

    def linked(png: bytes, alt: str) -> dict[str, str]:
        path = pictures.get(hashlib.sha256(png).digest())
        if path is None:
            raise InputError(f"{notebook} shows a picture ({alt}) that is not in {folder}/figures: "
                             "run chapter 08_report again")  # fmt: skip
        return {"text/markdown": f"![{alt}]({path})"}

    pages = {"report.html": _html(_shown(nb, notebook, _embedded)),
             "report.md": _markdown(_shown(nb, notebook, linked))}  # fmt: skip
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / name for name in pages]


def _read(notebook: Path) -> NotebookNode:
    if not notebook.exists():
        raise InputError(f"{notebook} is missing: run chapter 08_report first")
    nb = nbformat.read(notebook, as_version=4)
    for cell in nb.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if TAG in cell.metadata.get("tags", []):
            continue  # may have been put in later, and does nothing elsewhere
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed or cell.execution_count is None:
            state = "failed" if failed else "was not executed"
            raise InputError(f"{notebook}: a cell {state}: run chapter 08_report again")
    return nb


def _shown(
    nb: NotebookNode, notebook: Path, picture: Callable[[bytes, str], dict[str, str]]
) -> NotebookNode:
    """A copy with what readers see alone; each picture as what `picture` makes of it."""
    nb = deepcopy(nb)
    nb.cells = [cell for cell in nb.cells if NOT_IN_REPORT not in cell.metadata.get("tags", [])]
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
        for output in cell.outputs:
            if "image/png" in output.data:
                alt = output.metadata.get("image/png", {}).get("alt", "")
                if not alt:
                    raise InputError(f"{notebook} shows a picture without alternative text: "
                                     "draw it with run.figure(..., alt=...)")  # fmt: skip
                output.data = picture(base64.b64decode(output.data["image/png"]), alt)
    return nb


def _embedded(png: bytes, alt: str) -> dict[str, str]:
    code = base64.b64encode(png).decode()
    source = f"data:image/png;base64,{code}"
    picture = f'<img src="{source}" alt="{html.escape(alt)}">'
    return {"text/html": f'<figure aria-label="picture" tabindex="0">{picture}</figure>'}


def _html(nb: NotebookNode) -> str:
    body, _ = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    ).from_notebook_node(nb)
    # A wide table scrolls inside its own box; the page itself never does.
    body = re.sub(r"<table.*?</table>", _scrolling, body, flags=re.DOTALL)
    source = files("headcount.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    names = HEADING.findall(body)
    body = HEADING.sub(lambda match: f'<h2 id="{_slug(match[1])}">{match[1]}</h2>', body)
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL)
    opening, heading, rest = body.partition("<h2")
    return (
        Environment(autoescape=False)
        .from_string(source)
        .render(
            title=re.sub(r"<[^>]+>", "", title[1]) if title else "Report",
            sections=[(_slug(name), name) for name in names],
            opening=opening,
            rest=heading + rest,
        )
    )


def _slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _scrolling(table: re.Match) -> str:
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{table[0]}</div>'


def _markdown(nb: NotebookNode) -> str:
    text, _ = MarkdownExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    ).from_notebook_node(nb)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

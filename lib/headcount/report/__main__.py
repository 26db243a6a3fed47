"""Command line: ``python -m headcount.report {render,pages,headline,age,check}``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from headcount.errors import run_command
from headcount.report.headline import ages, write_headline
from headcount.report.page import render


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (stale) or 2 (bad input)."""
    return run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m headcount.report", allow_abbrev=False)
    commands = top.add_subparsers(required=True)

    def add(name: str, command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        return sub

    sub = add("render", render_page, "write report.html and report.md")
    sub.add_argument("notebook", type=Path, help="an executed 08_report.ipynb")
    sub.add_argument("folder", type=Path, help="the study's folder: figures inside, pages go there")
    sub = add("pages", render_all, "render the pages of every committed report again")
    sub.add_argument("reports", type=Path, nargs="?", default=Path("reports"))
    for name, command, text in (
        ("headline", update_headline, "write the README's headline"),
        ("check", check, "fail when the headline is stale; say which reports are old"),
    ):
        sub = add(name, command, text)
        sub.add_argument("reports", type=Path, nargs="?", default=Path("reports"))
        sub.add_argument("readme", type=Path, nargs="?", default=Path("README.md"))
        if name == "headline":
            sub.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    sub = add("age", show_ages, "say which reports are older than the code")
    sub.add_argument("reports", type=Path, nargs="?", default=Path("reports"))
    return top


def render_page(options: argparse.Namespace) -> int:
    """``render``."""
    print("\n".join(map(str, render(options.notebook, options.folder))))
    return 0


def render_all(options: argparse.Namespace) -> int:
    """``pages``."""
    for notebook in sorted(options.reports.glob("*/notebooks/fold0/08_report.ipynb")):
        print("\n".join(map(str, render(notebook, notebook.parents[2]))))
    return 0


def update_headline(options: argparse.Namespace) -> int:
    """``headline``."""
    stale = write_headline(options.reports, options.readme, check=options.check)
    if options.check and stale:
        print(
            f"headcount: the headline of {options.readme} is not that of {options.reports}: "
            "run make report",
            file=sys.stderr,
        )
        return 1
    return 0


def show_ages(options: argparse.Namespace) -> int:
    """``age``."""
    for line in ages(options.reports):
        print(line)
    return 0


def check(options: argparse.Namespace) -> int:
    """``check``."""
    options.check = True
    return update_headline(options) or show_ages(options)


if __name__ == "__main__":
    sys.exit(main())

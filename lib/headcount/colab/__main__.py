"""Command line: ``python -m headcount.colab {write,check}``."""

from __future__ import annotations

import argparse
import sys

from headcount.colab.cells import write
from headcount.errors import run_command


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (stale) or 2 (bad input)."""
    top = argparse.ArgumentParser(prog="python -m headcount.colab", allow_abbrev=False)
    commands = top.add_subparsers(required=True)
    for name, command, text in (
        ("write", write_cells, "put badges and set-up cells, with the address, where they belong"),
        ("check", check_cells, "fail where one of them is missing or has another address"),
    ):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
    return run_command(top, arguments)


def write_cells(_: argparse.Namespace) -> int:
    """``write``."""
    for path in write():
        print(path)
    return 0


def check_cells(_: argparse.Namespace) -> int:
    """``check``."""
    stale = write(check=True)
    if stale:
        names = ", ".join(map(str, stale))
        print(f"headcount: {names}: run python -m headcount.colab write", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())

"""The one exception that speaks to the user, and how a command line passes it on."""

from __future__ import annotations

import argparse
import sys


class InputError(ValueError):
    """Something the user can mend, told in one line: what is wrong, where, and what to do.

    Notebooks show that line alone: a stack of frames would bury it.
    """

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for its own rendering under this name.
        return [f"InputError: {self}"]


def run_command(parser: argparse.ArgumentParser, arguments: list[str] | None) -> int:
    """Run the ``command`` that ``parser`` finds; returns its exit status, or 2 on bad input."""
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except InputError as error:
        print(f"headcount: {error}", file=sys.stderr)
        return 2

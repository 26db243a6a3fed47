"""Command line: ``python -m headcount.study {run,parameters,publish}``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import yaml

from headcount.errors import InputError, run_command
from headcount.parameters import BACKUP_VARIABLE, DATA_VARIABLE, check_writable, known
from headcount.study import plan as plans
from headcount.study.publish import publish


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (a chapter failed) or 2 (bad input)."""
    return run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m headcount.study", allow_abbrev=False)
    commands = top.add_subparsers(required=True)

    def add(name: str, command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--profile", default="offline", help="a file in notebooks/profiles")
        sub.set_defaults(command=command)
        return sub

    for name, command, text in (
        ("run", run_study, "check, run what is not up to date, publish"),
        ("parameters", show_parameters, "print a chapter's checked parameters, for papermill -f"),
    ):
        sub = add(name, command, text)
        sub.add_argument("--folds", help="such as 0,1 instead of the profile's")
        sub.add_argument(
            "--data",
            help=f"folder searched for the publishers' files before the Hub (or {DATA_VARIABLE})",
        )
        sub.add_argument("--without", help="chapters to leave out, such as 03b_recipes,05b_heads")
        sub.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="default: all")
        sub.add_argument(
            "--jobs",
            type=int,
            default=1,
            help="chapters at a time, each on its share of the cores: several folds end sooner "
            "(default: 1; those that measure time always run alone)",
        )
        sub.add_argument(
            "-p",
            dest="given",
            nargs=2,
            action="append",
            default=[],
            metavar=("NAME", "VALUE"),
            help="beats the profile, in every chapter that has the parameter",
        )
        if name == "parameters":
            sub.add_argument("--chapter", required=True, help="such as 05_pruning")
        else:
            sub.add_argument("--before", metavar="CHAPTER", help="run only what this chapter reads")
            sub.add_argument(
                "--keep",
                action="store_true",
                help="take results in reports/ that were made from the same sentences, parameters "
                "and teacher, instead of making them again",
            )
            sub.add_argument(
                "--backup",
                type=Path,
                default=os.environ.get(BACKUP_VARIABLE) or None,
                help="folder that outlives this machine: a copy is kept there after each chapter, "
                "and a study that has never run here goes on from it; for one machine at a time "
                f"(or {BACKUP_VARIABLE})",
            )
    add("publish", publish_study, "copy a finished study into reports/ (the last step of a run)")
    return top


def make_plan(options: argparse.Namespace) -> plans.Plan:
    """The checked plan that the options describe."""
    folds = None
    if options.folds is not None:
        texts = re.split(r"[,\s]+", options.folds.strip())
        folds = [int(text) if re.fullmatch(r"-?\d+", text) else text for text in texts]
    return plans.make(
        options.profile,
        folds=folds,
        data=options.data,
        cores=options.cores,
        jobs=options.jobs,
        given=dict(options.given),
        without=[name for name in re.split(r"[,\s]+", options.without or "") if name],
    )


def run_study(options: argparse.Namespace) -> int:
    """``run``."""
    from headcount.study.run import run

    plan = make_plan(options)
    if options.before:
        known(options.before, plan.chapters, "unknown chapter")
        if options.keep:
            raise InputError("--before and --keep: give one of them, a whole study keeps results")
    if options.backup:
        check_writable(options.backup)
    plans.check_inputs(plan)
    return run(plan, before=options.before, backup=options.backup, keep=options.keep)


def show_parameters(options: argparse.Namespace) -> int:
    """``parameters``."""
    plan = make_plan(options)
    known(options.chapter, plan.chapters, "unknown chapter")
    print(plan.text(options.chapter), end="")
    if options.data is not None:  # by hand there is no runner that sets HEADCOUNT_DATA
        print(yaml.safe_dump({"data_dir": options.data}, allow_unicode=True), end="")
    return 0


def publish_study(options: argparse.Namespace) -> int:
    """``publish``."""
    print(publish(Path("work") / options.profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())

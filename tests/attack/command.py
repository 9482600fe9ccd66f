"""
Shared by the commands of this suite: their options and their end.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from tests.figures import Figures
from tests.planted.bugs import plant

# When a run fails, most violations have the same cause.
_MOST_SHOWN = 10


def parser(description: str | None) -> ArgumentParser:
    """
    A parser with the options that every command has.
    """
    made = ArgumentParser(description=(description or "").strip().split("\n\n")[0])
    made.add_argument("--plant", metavar="NAME", help="plant a bug of tests.planted")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    return made


def begin(made: ArgumentParser, arguments: Sequence[str] | None) -> Namespace:
    """
    Read the command line, and plant a bug in this process if one is asked for.
    """
    options = made.parse_args(arguments)
    plant(options.plant)
    return options


def end(
    options: Namespace, figures: Figures, violations: Sequence[str], sound: str
) -> int:
    """
    Print the measurements and the verdict.

    @return: The exit status.
    """
    figures.show(options.json)
    for each in violations[1:_MOST_SHOWN]:
        print(f"also: {each}")
    if violations:
        print(f"VIOLATION: {violations[0]} ({len(violations)} in all)")
        return 1
    print(f"sound: {sound}")
    return 0

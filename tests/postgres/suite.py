"""
What all suites of several nodes have in common: their options, and their last line.
"""

import asyncio
import secrets
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from tests.figures import Figures
from tests.planted.bugs import BUGS
from tests.postgres.judge import Violation


def parser(description: str) -> ArgumentParser:
    """
    The options that each of them has.
    """
    parser = ArgumentParser(description=description)
    add = parser.add_argument
    add("--seed", type=int, default=secrets.randbelow(10**6))
    add("--part", action="append", metavar="NAME", help="only this one")
    add("--plant", choices=BUGS, metavar="NAME", help="plant a bug")
    add("--json", type=Path, help="write the figures to this file")
    return parser


def run(
    options: Namespace,
    parts: Sequence[Callable[[Namespace, Figures], Coroutine[Any, Any, None]]],
) -> None:
    """
    Run the parts of a suite, up to the first violation, and end the process.

    @param parts: Each adds its figures.
    """
    figures = Figures(seed=options.seed)
    if options.part:
        parts = [each for each in parts if each.__name__ in options.part]
    violation = None
    for part in parts:
        started = time.monotonic()
        try:
            asyncio.run(part(options, figures))
        except Violation as e:
            violation = f"{part.__name__}: {e}"
            break
        seconds = round(time.monotonic() - started, 1)
        figures[f"{part.__name__}: seconds"] = seconds
        print(f"{part.__name__}: {seconds} s", flush=True)
    figures.show(options.json)
    if violation is not None:
        print("VIOLATION: " + " ".join(violation.split()))
        sys.exit(1)
    print(f"sound: {', '.join(part.__name__ for part in parts)}")

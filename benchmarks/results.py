"""
What a command has measured, for people: as tables on the screen, as JSON, and
as pictures.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from attrs import define

from benchmarks import figures, goals
from benchmarks.plot import Bars

Results: TypeAlias = Mapping[str, Any]


@define(frozen=True)
class Table:
    """
    A table.

    @ivar rows: The first one is the head.
    """

    title: str
    rows: list[list[object]]


@define(frozen=True)
class View:
    """
    How the results of one command are shown.

    @ivar tables: Gives its tables.
    @ivar plots: Gives its pictures, by the names of their files.
    """

    tables: Callable[[Results], Iterable[Table]]
    plots: Callable[[Results], Mapping[str, Bars]]


def goalsOf(results: Results) -> Iterator[Table]:
    """
    The goals that these results have something to say of, if there are any.
    """
    reached: list[list[object]] = [list(each) for each in goals.reached(results)]
    if reached:
        yield Table("Goals", [["goal", "figure", "wanted", ""], *reached])


def save(results: Results, view: View, options: argparse.Namespace) -> None:
    """
    Print the tables, and write JSON and pictures where the options say.
    """
    for name, value in results["where"].items():
        print(f"{name}: {value}")
    for table in (*view.tables(results), *goalsOf(results)):
        print(f"\n{table.title}\n{figures.aligned(table.rows)}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, view, options.plot or options.json.parent)
    print(f"\nEverything measured is in {options.json}.")


def draw(results: Results, view: View, folder: Path) -> list[Path]:
    """
    Write the pictures into a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, bars in view.plots(results).items():
        path = folder / f"{name}.svg"
        path.write_text(bars.svg(), "utf-8")
        written.append(path)
    return written

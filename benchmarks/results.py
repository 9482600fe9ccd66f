"""
The results of a command: as tables on the screen, and as JSON.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from attrs import define

from benchmarks import figures, goals

Results: TypeAlias = Mapping[str, Any]


@define(frozen=True)
class Table:
    """
    A table.

    @ivar rows: The first one is the header.
    """

    title: str
    rows: list[list[object]]


def goalsOf(results: Results) -> Iterator[Table]:
    """
    The goals for which these results have figures, if there are any.
    """
    reached: list[list[object]] = [list(each) for each in goals.reached(results)]
    if reached:
        yield Table("Goals", [["goal", "figure", "wanted", ""], *reached])


def save(
    results: Results, tables: Iterable[Table], options: argparse.Namespace
) -> None:
    """
    Print the tables, and write everything as JSON to the file in the options.
    """
    for name, value in results["where"].items():
        print(f"{name}: {value}")
    for table in (*tables, *goalsOf(results)):
        print(f"\n{table.title}\n{figures.aligned(table.rows)}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nEverything measured is in {options.json}.")

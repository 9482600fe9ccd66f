"""
The check of a whole bulk file before anything is booked.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

from attrs import define

from creditsync._cli.bulk.duplicates import KeyIndex
from creditsync._cli.bulk.rows import BulkFile, check, checkPoint
from creditsync._cli.bulk.spreadsheet import RowProblem, Unreadable
from creditsync._cli.connection import exitWith
from creditsync._cli.statuses import USAGE
from creditsync.validation import Schemas

# How many problems of a file are reported.
MAX_PROBLEMS: Final = 100


@define
class Extent:
    """
    The size of a file.

    @ivar lines: The number of the line on which the last row begins.
    """

    rows: int = 0
    lines: int = 1


def checkFile(options: Namespace, rows: BulkFile) -> Extent:
    """
    Check all of the file.

    @raise SystemExit: There are problems, which have been printed.
    """
    extent = Extent()
    problems = 0
    for problem in _problems(options, rows, extent):
        print(f"{options.file}: {problem}", file=sys.stderr)
        problems += 1
        if problems == MAX_PROBLEMS:
            exitWith(options, USAGE, "too many problems; nothing was booked")
    if problems:
        exitWith(options, USAGE, f"problems: {problems}; nothing was booked")
    if not extent.rows:
        exitWith(options, USAGE, f"{options.file} has no rows")
    return extent


def _problems(
    options: Namespace, rows: BulkFile, extent: Extent
) -> Iterator[RowProblem]:
    schemas = Schemas()
    keys = KeyIndex()
    try:
        for row in rows.rows():
            if isinstance(row, RowProblem):
                yield row
                continue
            extent.rows += 1
            extent.lines = row.line
            if rows.hasOwnKey(row):
                keys.add(row.key)
            try:
                check(row, schemas)
                if not options.three_decimals:
                    checkPoint(row)
            except RowProblem as e:
                yield e
        yield from keys.repeats(rows.rows(), MAX_PROBLEMS)
    except Unreadable as e:
        yield e

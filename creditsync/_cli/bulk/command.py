"""
The subcommand: its arguments, the steps of a run, and its exit status.
"""

import fcntl
import os
import stat
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, BinaryIO, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from creditsync._cli.bulk.checking import Extent, checkFile
from creditsync._cli.bulk.progress import progress
from creditsync._cli.bulk.results import Results, WrongResults
from creditsync._cli.bulk.rows import (
    COMMANDS,
    DEFAULT_COMMAND,
    NEED_COMMENT,
    BulkFile,
    Row,
)
from creditsync._cli.bulk.sending import BulkRun
from creditsync._cli.bulk.spreadsheet import RowProblem
from creditsync._cli.connection import (
    addConnection,
    exitWith,
    principalOf,
    readToken,
    reportError,
    runWithClient,
)
from creditsync._cli.output import printLine
from creditsync._cli.statuses import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    UNKNOWN,
    USAGE,
)
from creditsync.client import CreditClient

# Seconds that the rows in flight have to end when the run is interrupted.
GRACE: Final = 5.0


def _listed(commands: Sequence[str]) -> str:
    """
    Names, on several lines where they need more than one.
    """
    return fill(", ".join(commands), 65, subsequent_indent=" " * 11)


_DESCRIPTION = f"""\
Book the rows of a CSV file. The header has the names of the columns, separated
by commas, semicolons or tabs:

  login    the account
  amount   greater than 0, with a decimal point and at most 8 decimals, and
           without a sign in withdrawals too
  comment  needed for {_listed(NEED_COMMENT)}
  command  one of {_listed(COMMANDS)};
           this column is optional (default: {DEFAULT_COMMAND})
  key      the idempotency key, which no other row may have; this column is
           optional (default: made from the content of the file and the line)
  order    an order to update; this column is optional

All of the file is checked first, and nothing is booked if a line is wrong.
The run may be interrupted, killed and repeated at any time. As long as the file
and the id in the token are the same, no row is ever booked twice; rows that were
refused are tried again. Rows are sent in their order, but many at a time: what
depends on another row belongs in a separate file.
"""

_STATUSES = """\
exit status:
  0    all rows are booked
  1    rows are left, as the server could not be reached or something else went
       wrong: run it again
  2    the command line or the file is wrong: nothing was booked
  3    all rows were answered, and some were refused
  4    the outcome of some rows is unknown, they may be booked: run it again
  130  interrupted, and rows are left: run it again
"""


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "bulk",
        help="book the rows of a CSV file",
        description=_DESCRIPTION,
        epilog=_STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE.csv", type=Path)
    parser.add_argument(
        "--command", choices=COMMANDS, help="the command of all rows (see above)"
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        type=Path,
        help="where the order or the error of each row is written (default:"
        " FILE.results.csv)",
    )
    parser.add_argument(
        "--in-flight",
        metavar="N",
        type=_inFlight,
        default=256,
        help="how many rows are in flight at a time, up to 900 (default: 256)",
    )
    parser.add_argument(
        "--three-decimals",
        action="store_true",
        help="read amounts such as 1.000 and 12.500 as 1 and 12.5; without this they"
        " are refused, as they could be meant as 1000 and 12500",
    )
    addConnection(parser)
    parser.set_defaults(name="bulk", run=run)


def _inFlight(text: str) -> int:
    # By default the server accepts 1000 pending requests of one session.
    if not text.isdecimal() or not 1 <= int(text) <= 900:
        raise ArgumentTypeError(f"must be a number from 1 to 900: {text}")
    return int(text)


def run(options: Namespace) -> None:
    """
    Check the file, book what is left of it, and print a summary.
    """
    try:
        _run(options)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OSError as e:
        exitWith(options, FAILED, str(e))


def _run(options: Namespace) -> None:
    token = readToken(options)
    with _open(options) as file:
        rows = BulkFile(file, options.command, principalOf(token))
        extent = checkFile(options, rows)
        path = options.results or options.file.with_suffix(".results.csv")
        try:
            results = Results(path, rows.name, extent.lines)
        except WrongResults as e:
            exitWith(options, USAGE, str(e))
        with results:
            if results.count == extent.rows:
                printLine(f"all {extent.rows} rows were done by earlier runs: {path}")
                raise SystemExit(DONE)
            work = partial(book, options, rows, extent, results)
            runWithClient(options, token, work, maxInFlight=options.in_flight)


def _open(options: Namespace) -> BinaryIO:
    """
    Open the file, and lock it for this run.
    """
    try:
        file: BinaryIO = options.file.open("rb")
    except OSError as e:
        exitWith(options, USAGE, f"{options.file} can't be read: {e.strerror}")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        exitWith(options, USAGE, f"{options.file} is not a regular file")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        exitWith(options, FAILED, f"another run of {options.file} is in progress")
    except OSError:
        # Some file systems have no locks. Two runs at once still book each row
        # once; only results may be lost.
        pass
    return file


async def book(
    options: Namespace,
    rows: BulkFile,
    extent: Extent,
    results: Results,
    clock: IReactorTime,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Book the rows that are left.

    @return: The exit status.
    """
    shown = progress(extent.rows, results.count, clock)
    run = BulkRun(client, _left(rows, results), results, options.in_flight, shown)
    ended = run.start()

    def interrupt(_: object) -> None:
        run.stop("interrupted")
        ended.addTimeout(GRACE, clock)

    stopped.addCallback(interrupt)
    await ended
    shown.close()
    return _summarize(options, run, extent.rows, results)


def _left(rows: BulkFile, results: Results) -> Iterator[Row]:
    """
    The rows that no earlier run has booked.
    """
    for row in rows.rows():
        if isinstance(row, RowProblem):
            raise row
        if not results.isDone(row.line):
            yield row


def _summarize(options: Namespace, run: BulkRun, rows: int, results: Results) -> int:
    """
    Print what was done.

    @return: The exit status.
    """
    left = rows - results.count - run.answered
    printLine(
        f"booked {run.booked}, replayed {run.replayed}, refused {run.refused},"
        f" unknown {run.unknown}, done by earlier runs {results.count}, left {left}"
        f" of {rows} rows: {results.path}"
    )
    if run.cause and (left or run.unknown):
        reportError(options, f"{run.cause}; run it again for the rest")
    elif run.lacksResults:
        reportError(options, f"{run.cause}; {results.path} lacks results of this run")
    if run.unknown:
        return UNKNOWN
    if run.cause == "interrupted" and left:
        return INTERRUPTED
    if left:
        return FAILED
    return REFUSED if run.refused else DONE

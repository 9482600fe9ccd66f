"""
C{creditsync bulk}: many operations from a CSV file, each of them once.

The file is checked as a whole and then booked, a bounded number of rows at a
time (L{BulkRun}). What becomes of each row goes to a file of results as it
becomes known (L{Results}), from which the next run of the same file takes what
is left to do. That is for speed only: what makes a second run safe is the key
of each row (L{creditsync._cli.rows}), for which a result that was never written
is a replay.
"""

import fcntl
import os
import stat
import sys
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

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from creditsync._cli.connection import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    UNKNOWN,
    USAGE,
    addConnection,
    complain,
    end,
    principalOf,
    readToken,
    talk,
)
from creditsync._cli.keys import Keys
from creditsync._cli.output import say
from creditsync._cli.progress import Progress, progress
from creditsync._cli.results import NotTheseResults, Results
from creditsync._cli.rows import (
    COMMANDS,
    DEFAULT_COMMAND,
    NEED_COMMENT,
    BulkFile,
    Row,
    check,
    checkPoint,
)
from creditsync._cli.spreadsheet import Problem, Unreadable
from creditsync.client import Answer, CreditClient, OutcomeUnknown, Refused
from creditsync.validation import Schemas

# How many problems of a file are told.
MAX_PROBLEMS: Final = 100

# Seconds that the rows under way have to end when the run is interrupted.
GRACE: Final = 5.0

# Statuses of refusals that the next row would get too: of the token, and of a
# server that has had no place for a row for as long as we try.
_HOPELESS: Final = frozenset({401, 403, 429, 503})


def _listed(commands: Sequence[str]) -> str:
    """
    Names, below one another where they need more than a line.
    """
    return fill(", ".join(commands), 65, subsequent_indent=" " * 11)


_DESCRIPTION = f"""\
Book the rows of a CSV file. The header has the names of the columns, separated
by commas, semicolons or tabs:

  login    the account
  amount   what is put in or taken out: greater than 0, with a decimal point and
           at most 8 decimals
  comment  what it is for; needed for {_listed(NEED_COMMENT)}
  command  one of {_listed(COMMANDS)},
           if there is this column (default: {DEFAULT_COMMAND})
  key      the idempotency key, of one row only, if there is one (default: made
           of the content of the file and the line)
  order    an order to update, if there is one

All of the file is checked first, and nothing is booked if a line is wrong.
The run may be interrupted, killed and repeated at any time. As long as the file
is the same, and the id in the token, no row is ever booked twice; rows that were
refused are tried again. Rows are sent in their order, but many at a time: what
depends on another row belongs in a separate file.
"""

_STATUSES = """\
exit status:
  0    all rows are booked
  1    rows are left, as the server could not be reached or something else went
       wrong: run it again
  2    the command line or the file is wrong: nothing was booked
  3    all rows have had an answer, and some were refused
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
        help="where the order or the error of each row goes (default:"
        " FILE.results.csv)",
    )
    parser.add_argument(
        "--in-flight",
        metavar="N",
        type=_inFlight,
        default=256,
        help="how many rows are under way at a time, up to 900 (default: 256)",
    )
    parser.add_argument(
        "--three-decimals",
        action="store_true",
        help="take amounts such as 1.000 and 12.500 for 1 and 12.5, which could be"
        " meant as 1000 and 12500 and are refused otherwise",
    )
    addConnection(parser)
    parser.set_defaults(name="bulk", run=run)


def _inFlight(text: str) -> int:
    # The server takes 1000 of one session, if it was not told otherwise.
    if not text.isdecimal() or not 1 <= int(text) <= 900:
        raise ArgumentTypeError(f"must be a number from 1 to 900: {text}")
    return int(text)


def run(options: Namespace) -> None:
    """
    Check the file, book what is left to do of it, and say what came of it.
    """
    try:
        _run(options)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OSError as e:
        end(options, FAILED, str(e))


def _run(options: Namespace) -> None:
    token = readToken(options)
    with _open(options) as file:
        rows = BulkFile(file, options.command, principalOf(token))
        extent = _checked(options, rows)
        path = options.results or options.file.with_suffix(".results.csv")
        try:
            results = Results(path, rows.name, extent.lines)
        except NotTheseResults as e:
            end(options, USAGE, str(e))
        with results:
            if results.count == extent.rows:
                say(f"all {extent.rows} rows were done by earlier runs: {path}")
                raise SystemExit(DONE)
            work = partial(book, options, rows, extent, results)
            talk(options, token, work, maxInFlight=options.in_flight)


def _open(options: Namespace) -> BinaryIO:
    """
    Open the file, and have it to ourselves.
    """
    try:
        file: BinaryIO = options.file.open("rb")
    except OSError as e:
        end(options, USAGE, f"{options.file} can't be read: {e.strerror}")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        end(options, USAGE, f"{options.file} is not a regular file")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        end(options, FAILED, f"another run of {options.file} is under way")
    except OSError:
        # There are file systems without locks. Two runs then book each row
        # once all the same, and only results may be lost.
        pass
    return file


@define
class Extent:
    """
    How much there is in a file.

    @ivar lines: The number of the line on which the last row begins.
    """

    rows: int = 0
    lines: int = 1


def _checked(options: Namespace, rows: BulkFile) -> Extent:
    """
    Check all of the file.

    @raise SystemExit: There are problems, which have been told.
    """
    extent = Extent()
    problems = 0
    for problem in _problems(options, rows, extent):
        print(f"{options.file}: {problem}", file=sys.stderr)
        problems += 1
        if problems == MAX_PROBLEMS:
            end(options, USAGE, "that is enough; nothing was booked")
    if problems:
        end(options, USAGE, f"problems: {problems}; nothing was booked")
    if not extent.rows:
        end(options, USAGE, f"{options.file} has no rows")
    return extent


def _problems(options: Namespace, rows: BulkFile, extent: Extent) -> Iterator[Problem]:
    schemas = Schemas()
    keys = Keys()
    try:
        for row in rows.rows():
            if isinstance(row, Problem):
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
            except Problem as e:
                yield e
        yield from keys.repeats(rows.rows(), MAX_PROBLEMS)
    except Unreadable as e:
        yield e


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
    Book what is left to do.

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
        if isinstance(row, Problem):
            raise row
        if not results.isDone(row.line):
            yield row


@define(eq=False)
class BulkRun:
    """
    Sends rows, so many at a time, and writes down what becomes of each.

    @ivar cause: Why rows are left, if any are.
    @ivar lacksResults: Whether some results could not be written.
    """

    _client: CreditClient
    _rows: Iterator[Row]
    _results: Results
    _window: int
    _progress: Progress
    booked: int = field(default=0, init=False)
    replayed: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    unknown: int = field(default=0, init=False)
    cause: str = field(default="", init=False)
    lacksResults: bool = field(default=False, init=False)
    _inFlight: int = field(default=0, init=False)
    # The line that was sent first under each key that is under way.
    _first: dict[str, int] = field(factory=dict, init=False)
    _isFilling: bool = field(default=False, init=False)
    _ended: "Deferred[None]" = field(init=False)

    @property
    def answered(self) -> int:
        """
        How many rows had an answer, or none for certain.
        """
        return self.booked + self.replayed + self.refused + self.unknown

    def start(self) -> "Deferred[None]":
        """
        Begin.

        @return: Fires when no row is under way any more. To cancel it is to
            stop the client, with which all that is under way ends.
        """
        self._ended = Deferred(self._cancel)
        self._fill()
        return self._ended

    def _cancel(self, ended: "Deferred[None]") -> None:
        self._client.stopService()

    def stop(self, cause: str) -> None:
        """
        Take no more rows.
        """
        self._rows = iter(())
        self.cause = self.cause or cause

    def _fill(self) -> None:
        # An answer may be there at once, and come back to here.
        if self._isFilling:
            return
        self._isFilling = True
        try:
            while self._inFlight < self._window:
                row = next(self._rows, None)
                if row is None:
                    break
                self._inFlight += 1
                self._first.setdefault(row.key, row.line)
                asked = self._client.request(row.command, row.data, row.key)
                asked.addBoth(self._answered, row)
        except (Problem, OSError) as e:
            self.stop(str(e))
        finally:
            self._isFilling = False
        if not self._inFlight and not self._ended.called:
            self._ended.callback(None)

    def _answered(self, answer: Answer | Failure, row: Row) -> None:
        self._inFlight -= 1
        isFirst = self._first.get(row.key) == row.line
        if isFirst:
            del self._first[row.key]
        try:
            if isinstance(answer, Failure):
                self._failed(answer, row)
            else:
                # One that has attached to another row's operation gets the
                # same answer as that row.
                self._booked(answer, row, answer.isReplay or not isFirst)
            self._progress.update()
        except Exception as e:
            # Nothing has happened, or the results can't be written, and then
            # the row will be a replay.
            self.lacksResults |= isinstance(e, OSError)
            self.stop(str(e))
        self._fill()

    def _booked(self, data: Answer, row: Row, isReplay: bool) -> None:
        if isReplay:
            self.replayed += 1
        else:
            self.booked += 1
        self._results.write(row, data.get("order"))

    def _failed(self, why: Failure, row: Row) -> None:
        """
        @raise Exception: There is nothing to be written down.
        """
        e = why.value
        if isinstance(e, Refused):
            self.refused += 1
            if e.status in _HOPELESS:
                self.stop(e.message)
            self._results.write(row, None, e.error, e.message)
        elif isinstance(e, OutcomeUnknown):
            self.unknown += 1
            self.stop("the outcome of some rows is unknown")
            self._results.write(row, e.order, e.error, e.message)
        else:
            why.raiseException()


def _summarize(options: Namespace, run: BulkRun, rows: int, results: Results) -> int:
    """
    Say what came of it.

    @return: The exit status.
    """
    left = rows - results.count - run.answered
    say(
        f"booked {run.booked}, replayed {run.replayed}, refused {run.refused},"
        f" unknown {run.unknown}, done by earlier runs {results.count}, left {left}"
        f" of {rows} rows: {results.path}"
    )
    if run.cause and (left or run.unknown):
        complain(options, f"{run.cause}; run it again for the rest")
    elif run.lacksResults:
        complain(options, f"{run.cause}; {results.path} lacks results of this run")
    if run.unknown:
        return UNKNOWN
    if run.cause == "interrupted" and left:
        return INTERRUPTED
    if left:
        return FAILED
    return REFUSED if run.refused else DONE

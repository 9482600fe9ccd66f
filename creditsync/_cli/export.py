"""
C{creditsync export}: writes trades as CSV, or the journal as JSON lines.
"""

import csv
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, Final

from creditsync._cli.arguments import login
from creditsync._cli.ledger import addLedger, addPeriod, asISO, errorsAsExit
from creditsync._cursor import FIRST
from creditsync._money import fromUnits
from creditsync.ledger._history import changes
from creditsync.ledger._reading import reading, trades
from creditsync.methods import TOTALS
from creditsync.records import TRADE_MEMBERS, Trade

# The columns of the journal that are written in another form.
_AMOUNTS: Final = ("profit", *TOTALS)
_TIMES: Final = (
    "open_time",
    "close_time",
    "timestamp",
    "asked_open_time",
    "asked_close_time",
)


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "export",
        help="write trades as CSV, or the journal as JSON lines",
        description="Write trades as CSV (UTF-8) to standard output, in the order of"
        " their numbers, all as they were at one moment. profit is the exact amount,"
        " signed; state is 3 for a booked trade, 6 for a deleted one, 17 for a finance"
        " request that waits for approval and 18 for a declined one. Prefer a file"
        " to a pipe that is read slowly: until the export ends, the ledger's file that"
        " ends in -wal grows with what the server books. With --journal, write"
        " everything that was booked, change by change, as JSON lines: each has the"
        " cursor with which a later export goes on behind it.",
    )
    parser.add_argument(
        "--login", metavar="LOGIN", type=login, help="only trades of this account"
    )
    addPeriod(parser)
    parser.add_argument(
        "--iso",
        action="store_true",
        help="write times as 2026-01-31T12:30:00Z instead of UNIX seconds",
    )
    parser.add_argument(
        "--journal",
        action="store_true",
        help="write the journal, in the order of booking",
    )
    parser.add_argument(
        "--since",
        metavar="CURSOR",
        help="with --journal, only what was booked behind this place",
    )
    addLedger(parser)
    parser.set_defaults(name="export", run=run, parser=parser)


def run(options: Namespace) -> None:
    """
    Write a row for each trade, or a line for each row of the journal.
    """
    if options.journal and (options.start, options.end) != (None, None):
        options.parser.error("--from and --to select trades: not with --journal")
    if options.since is not None and not options.journal:
        options.parser.error("--since is for --journal")
    # It is for programs, so the encoding does not depend on the locale.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if options.journal:
        _writeJournal(options)
    else:
        _writeTrades(options)


def _writeJournal(options: Namespace) -> None:
    time = asISO if options.iso else int
    with errorsAsExit(options):
        # An empty text is no cursor: a script may have lost it.
        since = FIRST if options.since is None else options.since
        for each in changes(options.ledger, since, options.login):
            members = each.members
            for name in _TIMES:
                members[name] = _unlessNone(members[name], time)
            members["hash"] = _unlessNone(members["hash"], bytes.hex)
            amounts = {name: _unlessNone(members[name], fromUnits) for name in _AMOUNTS}
            pairs = (
                f"{json.dumps(name)}:{amounts.get(name) or json.dumps(value)}"
                for name, value in {"cursor": each.cursor, **members}.items()
            )
            print(f"{{{','.join(pairs)}}}")


def _unlessNone(value: Any, write: Callable[[Any], Any]) -> Any:
    return None if value is None else write(value)


def _writeTrades(options: Namespace) -> None:
    time = asISO if options.iso else str
    writers: dict[str, Callable[[Any], str]] = {
        "profit": fromUnits,
        **dict.fromkeys(("openTime", "closeTime", "timestamp"), time),
    }
    # The attributes are in the order of the members.
    columns = [(name, writers.get(name, str)) for name in Trade.__struct_fields__]
    with errorsAsExit(options), reading(options.ledger) as ledger:
        rows = csv.writer(sys.stdout)
        rows.writerow(TRADE_MEMBERS)
        rows.writerows(
            [write(getattr(each, name)) for name, write in columns]
            for each in trades(ledger, options.login, options.start, options.end)
        )

"""
C{creditsync export}: writes trades as CSV.
"""

import csv
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

from creditsync._cli.arguments import login
from creditsync._cli.ledger import addLedger, addPeriod, asISO, errorsAsExit
from creditsync._money import fromUnits
from creditsync.ledger._reading import reading, trades
from creditsync.records import TRADE_MEMBERS, Trade


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "export",
        help="write trades as CSV",
        description="Write trades as CSV (UTF-8) to standard output, in the order of"
        " their numbers, all as they were at one moment. profit is the exact amount,"
        " signed; state is 3 for a booked trade and 6 for a deleted one. Prefer a file"
        " to a pipe that is read slowly: until the export ends, the ledger's file that"
        " ends in -wal grows with what the server books.",
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
    addLedger(parser)
    parser.set_defaults(name="export", run=run)


def run(options: Namespace) -> None:
    """
    Write a row for each trade.
    """
    time = asISO if options.iso else str
    writers: dict[str, Callable[[Any], str]] = {
        "profit": fromUnits,
        **dict.fromkeys(("openTime", "closeTime", "timestamp"), time),
    }
    # The attributes are in the order of the members.
    columns = [(name, writers.get(name, str)) for name in Trade.__struct_fields__]
    # It is for programs, so the encoding does not depend on the locale.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    with errorsAsExit(options), reading(options.ledger) as ledger:
        rows = csv.writer(sys.stdout)
        rows.writerow(TRADE_MEMBERS)
        rows.writerows(
            [write(getattr(each, name)) for name, write in columns]
            for each in trades(ledger, options.login, options.start, options.end)
        )

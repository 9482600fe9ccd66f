"""
C{creditsync statement}: prints an account's trades and totals.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from typing import Any, Final

from creditsync import codes
from creditsync._cli.arguments import login
from creditsync._cli.ledger import addLedger, addPeriod, asISO, errorsAsExit, moment
from creditsync._cli.wording import changeName, cmdName, exact, printable
from creditsync.ledger._history import Change, history, totalsAt
from creditsync.ledger._reading import reading, statement
from creditsync.methods import TOTALS
from creditsync.records import Account, Trade

_HEADINGS: Final = ("order", "time", "what", "amount", "balance", "credit", "comment")

_HISTORY_HEADINGS: Final = (
    "cursor",
    "booked",
    "order",
    "change",
    "amount",
    "balance",
    "credit",
    "requested by",
    "comment",
)
_HISTORY: Final = "{:>18}  {:20}  {:>10}  {:19}  {:>14}  {:>14}  {:>14}  {}  {}"
_REQUESTED_BY: Final = ("principal", "command")


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "statement",
        help="print an account's trades and totals",
        description="Print the trades of an account by their open_time, each with the"
        " balance and the credit after it. Trades are shown as they are now: an updated"
        " one with its new amount; a deleted one, and a finance request that was not"
        " approved, in parentheses and without effect on the totals. A month is"
        " --from 2026-01-01 --to 2026-02-01. With --history,"
        " print instead what was booked, change by change, each with the totals after"
        " it and who requested it; --from and --to then select by the time of booking."
        " With --at, print only the totals as they were then.",
    )
    parser.add_argument("login", metavar="LOGIN", type=login)
    addPeriod(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--history",
        action="store_true",
        help="print every change of each trade, in the order of booking",
    )
    what.add_argument(
        "--at",
        metavar="TIME",
        type=moment,
        help="print the totals after all that was booked up to this time",
    )
    addLedger(parser)
    parser.set_defaults(name="statement", run=run, parser=parser)


def run(options: Namespace) -> None:
    """
    Print what is asked for.
    """
    if options.at is not None and (options.start, options.end) != (None, None):
        options.parser.error("--at is one moment: it can't be used with --from or --to")
    with errorsAsExit(options), reading(options.ledger) as ledger:
        if options.history:
            period = options.start, options.end
            _printHistory(history(ledger, options.ledger, options.login, *period))
        elif options.at is not None:
            totals = totalsAt(ledger, options.login, options.at)
            _print(*_HEADINGS)
            _printTotals("totals", totals, asISO(options.at))
        else:
            _printTrades(options, ledger)


def _printTrades(options: Namespace, ledger: Any) -> None:
    """
    Print a line for each trade, between the totals before and after.
    """
    found = statement(ledger, options.login, options.start, options.end)
    _print(*_HEADINGS)
    totals = found.opening
    _printTotals("opening", totals)
    for trade, totals in found.lines:
        _printTrade(trade, totals)
    _printTotals("closing", totals)


def _printHistory(changes: Iterable[Change]) -> None:
    """
    Print a line for each change.
    """
    print(_HISTORY.format(*_HISTORY_HEADINGS))
    for change in changes:
        trade, members = change.trade, change.members
        line = _HISTORY.format(
            change.cursor,
            asISO(trade.timestamp),
            trade.order,
            f"{_changeOf(change)} {cmdName(trade.cmd)}",
            exact(trade.profit),
            *(_recorded(members[name], exact) for name in TOTALS),
            " ".join(_recorded(members[name], str) for name in _REQUESTED_BY),
            printable(trade.comment),
        )
        print(line.rstrip())


def _changeOf(change: Change) -> str:
    members = change.members
    return changeName(members["type"], change.trade.state, members["command"])


def _recorded(value: Any, write: Callable[[Any], str]) -> str:
    """
    A value, or a dash where an older version of the ledger did not record it.
    """
    return "-" if value is None else write(value)


def _printTrade(trade: Trade, after: Account) -> None:
    amount = exact(trade.profit)
    _print(
        str(trade.order),
        asISO(trade.openTime),
        cmdName(trade.cmd),
        amount if trade.state == codes.TS_CLOSED_NORMAL else f"({amount})",
        exact(after.balance),
        exact(after.credit),
        printable(trade.comment),
    )


def _printTotals(what: str, totals: Account, time: str = "") -> None:
    _print("", time, what, "", exact(totals.balance), exact(totals.credit), "")


def _print(
    order: str, time: str, what: str, amount: str, balance: str, credit: str, rest: str
) -> None:
    line = (
        f"{order:>10}  {time:20}  {what:11}  {amount:>14}  {balance:>14}  {credit:>14}"
        f"  {rest}"
    )
    print(line.rstrip())

"""
C{creditsync statement}: prints an account's trades and totals.
"""

from argparse import ArgumentParser, Namespace
from typing import Any, Final

from creditsync import codes
from creditsync._cli.arguments import login
from creditsync._cli.ledger import addLedger, addPeriod, asISO, errorsAsExit
from creditsync._cli.wording import cmdName, printable
from creditsync._money import fromUnits
from creditsync.ledger._reading import reading, statement
from creditsync.records import Account, Trade

_HEADINGS: Final = ("order", "time", "what", "amount", "balance", "credit", "comment")


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "statement",
        help="print an account's trades and totals",
        description="Print the trades of an account by their open_time, each with the"
        " balance and the credit after it. Trades are shown as they are now: an updated"
        " one with its new amount; a deleted one in parentheses, and without effect on"
        " the totals. A month is --from 2026-01-01 --to 2026-02-01.",
    )
    parser.add_argument("login", metavar="LOGIN", type=login)
    addPeriod(parser)
    addLedger(parser)
    parser.set_defaults(name="statement", run=run)


def run(options: Namespace) -> None:
    """
    Print a line for each trade, between the totals before and after.
    """
    with errorsAsExit(options), reading(options.ledger) as ledger:
        found = statement(ledger, options.login, options.start, options.end)
        _print(*_HEADINGS)
        totals = found.opening
        _printTotals("opening", totals)
        for trade, totals in found.lines:
            _printTrade(trade, totals)
        _printTotals("closing", totals)


def _printTrade(trade: Trade, after: Account) -> None:
    amount = _amount(trade.profit)
    _print(
        str(trade.order),
        asISO(trade.openTime),
        cmdName(trade.cmd),
        amount if trade.state == codes.TS_CLOSED_NORMAL else f"({amount})",
        _amount(after.balance),
        _amount(after.credit),
        printable(trade.comment),
    )


def _printTotals(what: str, totals: Account) -> None:
    _print("", "", what, "", _amount(totals.balance), _amount(totals.credit), "")


def _print(
    order: str, time: str, what: str, amount: str, balance: str, credit: str, rest: str
) -> None:
    line = (
        f"{order:>10}  {time:20}  {what:11}  {amount:>14}  {balance:>14}  {credit:>14}"
        f"  {rest}"
    )
    print(line.rstrip())


def _amount(units: int) -> str:
    """
    An amount, exactly, with at least two decimals.
    """
    text = fromUnits(units)
    return text + "0" if text[-2] == "." else text

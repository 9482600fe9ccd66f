"""
C{creditsync account}: adds accounts to a ledger that no server has open, or on
PostgreSQL, moves them to groups while a server runs, and lists them.
"""

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Container
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred

from creditsync._cli.arguments import group, login
from creditsync._cli.connection import (
    addConnection,
    carriedOut,
    readToken,
    runWithClient,
)
from creditsync._cli.ledger import DOUBTFUL, addLedger, errorsAsExit, ledger, opened
from creditsync._cli.output import printLine
from creditsync._cli.statuses import DONE, STATUSES
from creditsync._cli.wording import exact, printable
from creditsync._process.address import isPostgres, withPsycopg
from creditsync._process.defaults import DEFAULT_LEDGER
from creditsync.client import CreditClient
from creditsync.ledger._reading import accounts
from creditsync.ledger.sqlite import SQLiteLedger

_LINE: Final = "{:>16}  {:>14}  {:>14}  {}"


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser("account", help="add and list accounts, set groups")
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    _addAdd(actions)
    _addSet(actions)
    _addList(actions)


def _addAdd(actions: Any) -> None:
    add = actions.add_parser(
        "add",
        help="add accounts",
        description="Add accounts that do not exist yet, for a server that runs with"
        " --accounts known. The server must be stopped meanwhile; the nodes on a"
        " PostgreSQL need not be.",
    )
    add.add_argument("logins", metavar="LOGIN", type=login, nargs="+")
    add.add_argument(
        "--group",
        type=group,
        default="",
        help="the group of the new accounts (default: none)",
    )
    add.add_argument(
        "--ledger",
        metavar="LEDGER",
        type=ledger,
        default=DEFAULT_LEDGER,
        help="the ledger's file, created if missing, or the address of a PostgreSQL"
        " (default: %(default)s)",
    )
    add.set_defaults(name="account add", run=_runAdd)


def _addSet(actions: Any) -> None:
    parser: ArgumentParser = actions.add_parser(
        "set",
        help="move an account to a group",
        description="Move an account to a group, through a server that runs. The token"
        " must be an admin's.",
        epilog=STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("login", metavar="LOGIN", type=login)
    parser.add_argument(
        "--group", type=group, required=True, help='the group, or "" for none'
    )
    addConnection(parser)
    parser.set_defaults(name="account set", run=_runSet)


def _addList(actions: Any) -> None:
    parser = actions.add_parser(
        "list",
        help="print all accounts",
        description="Print each account with its balance, its credit and its group.",
    )
    addLedger(parser)
    parser.set_defaults(name="account list", run=_runList)


def _runAdd(options: Namespace) -> None:
    """
    Add the accounts and print which of them are new.
    """
    add = _addOnPostgres if isPostgres(options.ledger) else _addToFile
    with errorsAsExit(options):
        added = add(options)
    for each in dict.fromkeys(options.logins):
        printLine(f"{each} {'added' if each in added else 'already exists'}")


def _addToFile(options: Namespace) -> Container[int]:
    file = SQLiteLedger(os.path.abspath(options.ledger), maybeDeferred)
    file.open()
    try:
        return file.addAccounts(options.logins, options.group)
    finally:
        file.close()


def _addOnPostgres(options: Namespace) -> Container[int]:
    with withPsycopg():
        from creditsync.postgres._accounts import addAccounts
        from creditsync.postgres._blocking import connected
    with connected(options.ledger, options.name) as session:
        added = addAccounts(session, options.logins, options.group)
    if added.isDoubtful:
        printLine(f"creditsync {options.name}: warning: {DOUBTFUL}", sys.stderr)
    return added.logins


def _runSet(options: Namespace) -> None:
    runWithClient(options, readToken(options), partial(setGroup, options))


async def setGroup(
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Move the account, and print where it is.

    @return: The exit status.
    """
    data = {"login": options.login, "group": options.group}
    sending = partial(client.request, "MngSetAccountGroup", data)
    await carriedOut(options, client, stopped, sending)
    where = f"in group {options.group}" if options.group else "in no group"
    printLine(f"{options.login} is {where}")
    return DONE


def _runList(options: Namespace) -> None:
    """
    Print a line for each account.
    """
    with errorsAsExit(options), opened(options) as source:
        print(_LINE.format("login", "balance", "credit", "group"))
        for each in accounts(source):
            line = _LINE.format(
                each.login,
                exact(each.balance),
                exact(each.credit),
                printable(each.group),
            )
            print(line.rstrip())

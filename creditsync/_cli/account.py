"""
C{creditsync account}: the accounts of a ledger that no server has open.
"""

import os
from argparse import Namespace
from typing import Any

from twisted.internet.defer import maybeDeferred

from creditsync._cli.ledger import readLogin
from creditsync._cli.output import say
from creditsync.errors import LedgerProblem
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.tap import DEFAULT_LEDGER


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser("account", help="add accounts to a ledger")
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    add = actions.add_parser(
        "add",
        help="add accounts",
        description="Add accounts that are not there yet, for a server that runs with"
        " --accounts known. It has to be stopped meanwhile.",
    )
    add.add_argument("logins", metavar="LOGIN", type=readLogin, nargs="+")
    add.add_argument(
        "--ledger",
        metavar="FILE",
        default=DEFAULT_LEDGER,
        help="the ledger's file, made if there is none (default: %(default)s)",
    )
    add.set_defaults(run=run)


def run(options: Namespace) -> None:
    """
    Add the accounts and say which of them are new.
    """
    ledger = SQLiteLedger(os.path.abspath(options.ledger), maybeDeferred)
    try:
        ledger.open()
        try:
            added = ledger.addAccounts(options.logins)
        finally:
            ledger.close()
    except LedgerProblem as e:
        raise SystemExit(f"creditsync account add: {e}") from e
    for login in dict.fromkeys(options.logins):
        say(f"{login} {'added' if login in added else 'was there already'}")

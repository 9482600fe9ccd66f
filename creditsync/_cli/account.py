"""
C{creditsync account}: adds accounts to a ledger that no server has open.
"""

import os
from argparse import Namespace
from typing import Any

from twisted.internet.defer import maybeDeferred

from creditsync._cli.arguments import login
from creditsync._cli.ledger import errorsAsExit
from creditsync._cli.output import printLine
from creditsync._process.defaults import DEFAULT_LEDGER
from creditsync.ledger.sqlite import SQLiteLedger


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser("account", help="add accounts to a ledger")
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    add = actions.add_parser(
        "add",
        help="add accounts",
        description="Add accounts that do not exist yet, for a server that runs with"
        " --accounts known. The server must be stopped meanwhile.",
    )
    add.add_argument("logins", metavar="LOGIN", type=login, nargs="+")
    add.add_argument(
        "--ledger",
        metavar="FILE",
        default=DEFAULT_LEDGER,
        help="the ledger's file, created if missing (default: %(default)s)",
    )
    add.set_defaults(name="account add", run=run)


def run(options: Namespace) -> None:
    """
    Add the accounts and print which of them are new.
    """
    ledger = SQLiteLedger(os.path.abspath(options.ledger), maybeDeferred)
    with errorsAsExit(options):
        ledger.open()
        try:
            added = ledger.addAccounts(options.logins)
        finally:
            ledger.close()
    for each in dict.fromkeys(options.logins):
        printLine(f"{each} {'added' if each in added else 'already exists'}")

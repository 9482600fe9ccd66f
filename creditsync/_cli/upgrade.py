"""
C{creditsync upgrade}: upgrades a ledger without starting the server.
"""

import os
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from twisted.internet.defer import maybeDeferred

from creditsync._cli.ledger import errorsAsExit, ledger
from creditsync._cli.output import printLine
from creditsync._process.address import isPostgres
from creditsync._process.defaults import DEFAULT_LEDGER
from creditsync.errors import LedgerProblem
from creditsync.ledger._schema import SCRIPTS
from creditsync.ledger.sqlite import SQLiteLedger

# Seconds between two lines.
_PAUSE = 2.0


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "upgrade",
        help="upgrade a ledger of an older version",
        description="Upgrade a ledger to the version of this creditsync, as the server"
        " does at its start. The server must be stopped meanwhile. The old ledger is"
        " kept beside it, as FILE.v and its version. The upgrade may be interrupted at"
        " any point, and is then done by the next start.",
    )
    parser.add_argument(
        "--ledger",
        metavar="FILE",
        default=DEFAULT_LEDGER,
        type=ledger,
        help="the ledger's file (default: %(default)s)",
    )
    parser.set_defaults(name="upgrade", run=run)


def run(options: Namespace) -> None:
    """
    Upgrade, and print how far it is.
    """
    path = options.ledger
    with errorsAsExit(options):
        if isPostgres(path):
            raise LedgerProblem(
                "it upgrades a file: creditsync init brings the tables of a PostgreSQL"
                " up to date"
            )
        if not os.path.exists(path):
            raise LedgerProblem(f"there is no ledger {path}: name another file")
        if not os.path.getsize(path):
            raise LedgerProblem(f"{path} is an empty file, not a ledger: name another")
        last = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _PAUSE:
                last = time.monotonic()
                printLine(f"{done} of {total} rows")

        opened = SQLiteLedger(os.path.abspath(path), maybeDeferred, progress)
        opened.open()
        version = opened.versionFound
        opened.close()
    newest = len(SCRIPTS)
    if version == newest:
        printLine(f"{path} has version {version} already")
    else:
        # It is beside the file to which a link leads.
        file = os.path.realpath(path) if os.path.islink(path) else path
        printLine(
            f"{path} was upgraded from version {version} to {newest}; the old"
            f" ledger is {file}.v{version}"
        )

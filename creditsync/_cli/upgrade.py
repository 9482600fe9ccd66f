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
from creditsync._process.address import isPostgres, withPsycopg
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
        " any point, and is then done by the next start. On PostgreSQL the nodes need"
        " not be stopped, and nothing is kept.",
    )
    parser.add_argument(
        "--ledger",
        metavar="LEDGER",
        type=ledger,
        default=DEFAULT_LEDGER,
        help="the ledger's file, or the address of a PostgreSQL (default: %(default)s)",
    )
    parser.set_defaults(name="upgrade", run=run)


def run(options: Namespace) -> None:
    """
    Upgrade, and print how far it is.
    """
    if isPostgres(options.ledger):
        _upgradePostgres(options)
    else:
        _upgradeFile(options)


def _upgradePostgres(options: Namespace) -> None:
    with errorsAsExit(options):
        with withPsycopg():
            from creditsync.postgres._blocking import connected
            from creditsync.postgres._reading import versionOf
        with connected(options.ledger, options.name) as session:
            former, place = versionOf(session), session.place
            if not former:
                raise LedgerProblem(
                    f"{place} has no tables: run creditsync init as their owner, or"
                    " start a node"
                )
            session.check()
            version = versionOf(session)
    if version == former:
        printLine(f"{place} has version {version} already")
    else:
        printLine(f"{place} was upgraded from version {former} to {version}")


def _upgradeFile(options: Namespace) -> None:
    path = options.ledger
    with errorsAsExit(options):
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

        file = SQLiteLedger(os.path.abspath(path), maybeDeferred, progress)
        file.open()
        version = file.versionFound
        file.close()
    newest = len(SCRIPTS)
    if version == newest:
        printLine(f"{path} has version {version} already")
    else:
        # It is beside the file to which a link leads.
        target = os.path.realpath(path) if os.path.islink(path) else path
        printLine(
            f"{path} was upgraded from version {version} to {newest}; the old"
            f" ledger is {target}.v{version}"
        )

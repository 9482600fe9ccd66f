"""
C{creditsync init} makes the tables of a ledger on PostgreSQL, and C{creditsync import}
moves a ledger from SQLite to them.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from creditsync._cli.ledger import DOUBTFUL, address, errorsAsExit
from creditsync._cli.output import printLine
from creditsync._process.address import withPsycopg

# Seconds between two lines.
_PAUSE = 2.0


def addCommand(commands: Any) -> None:
    """
    Add the subcommands to the command line.
    """
    init: ArgumentParser = commands.add_parser(
        "init",
        help="make the tables of a ledger on PostgreSQL",
        description="Make the tables of a ledger on PostgreSQL, or bring them up to"
        " date, as the first node does at its start: for a site whose nodes have a"
        " role that may not. What keeps nodes from booking there, and what they would"
        " warn of, is said here too.",
    )
    init.add_argument(
        "--restored",
        action="store_true",
        help="the database was restored from a backup, or has lost something in a"
        " failover: begin another epoch, in which cursors of before are recognized,"
        " and shut out all nodes; start them again afterwards",
    )
    init.add_argument(
        "--gateway",
        action="store_true",
        help="make the tables that a gateway needs besides: the ledger is a gateway's"
        " from then on, for ever",
    )
    init.set_defaults(name="init", run=_init)
    move: ArgumentParser = commands.add_parser(
        "import",
        help="move a ledger from SQLite to PostgreSQL",
        description="Move a ledger from SQLite to PostgreSQL: its journal with places,"
        " hashes, keys and epoch, its accounts with their groups, and its order"
        " numbers. The server of FILE must be stopped, and no node started. All of it"
        " is one transaction, in which both ledgers are read and compared before the"
        " commit; if anything fails, nothing was moved, and FILE is never changed.",
    )
    move.add_argument("file", metavar="FILE")
    move.set_defaults(name="import", run=_import)
    for parser in (init, move):
        parser.add_argument(
            "--ledger",
            metavar="ADDRESS",
            required=True,
            type=address,
            help="where PostgreSQL is, such as postgresql://user@host/database; its"
            " password comes from PGPASSWORD or ~/.pgpass",
        )


def _init(options: Namespace) -> None:
    with errorsAsExit(options):
        with withPsycopg():
            from creditsync.postgres._blocking import connected
            from creditsync.postgres._restoring import beginLife
            from creditsync.postgres._starting import (
                GATEWAYS_LOSS,
                LOSS,
                RIGHTS,
                TO_RESTORE,
            )
        rights = TO_RESTORE if options.restored else RIGHTS
        with connected(options.ledger, "init") as session:
            loss = GATEWAYS_LOSS if options.gateway else LOSS
            _warn(options, session.check(rights, loss))
            if options.gateway:
                session.makeGateway()
            place = session.place
            printLine(f"{place} has the tables of a ledger")
            if options.restored:
                life = beginLife(session, time.time)
                printLine(f"it begins the life {life.epoch} behind place {life.head}")
                if life.isDoubtful:
                    _warn(
                        options, [f"{DOUBTFUL}: run it again before a node is started"]
                    )


def _import(options: Namespace) -> None:
    with errorsAsExit(options):
        with withPsycopg():
            from creditsync.postgres._blocking import connected
            from creditsync.postgres._importing import importLedger
            from creditsync.postgres._starting import TO_IMPORT
        with connected(options.ledger, "import") as session:
            warnings = session.check(TO_IMPORT)
            imported = importLedger(options.file, session, _reporting())
            place = session.place
    _warn(options, warnings)
    printLine(
        f"{options.file} was imported to {place}: {imported.trades} trades,"
        f" {imported.accounts} accounts"
    )
    printLine(f"head: place {imported.head}, hash {imported.hash.hex()}")
    if imported.isDoubtful:
        _warn(
            options,
            [
                "The commit did not wait until a standby had it. Don't delete"
                f" {options.file} before one has."
            ],
        )
    printLine(f"Start no server on {options.file} any more.")


def _warn(options: Namespace, warnings: list[str]) -> None:
    for each in warnings:
        print(f"creditsync {options.name}: warning: {each}", file=sys.stderr)


def _reporting() -> Any:
    """
    What prints how far it is, now and then.
    """
    last = time.monotonic()

    def report(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PAUSE:
            last = time.monotonic()
            printLine(text)

    return report

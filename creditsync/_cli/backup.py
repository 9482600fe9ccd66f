"""
C{creditsync backup}: copies a ledger, which may be in use.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from creditsync._cli.ledger import addLedger, errorsAsExit
from creditsync._cli.output import printLine
from creditsync._process.address import isPostgres
from creditsync.errors import LedgerProblem
from creditsync.ledger._copying import backUp


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "backup",
        help="copy a ledger, even while it is in use",
        description="Copy a ledger as it is at this moment, with the server running"
        " or not. The copy is one file. It is checked as creditsync check does; until"
        " it is sound and completely on disk, its name ends in .part.",
    )
    parser.add_argument("copy", metavar="FILE")
    parser.add_argument(
        "--force", action="store_true", help="replace FILE if it exists"
    )
    addLedger(parser)
    parser.set_defaults(name="backup", run=run)


def run(options: Namespace) -> None:
    """
    Make the copy.
    """
    with errorsAsExit(options):
        if isPostgres(options.ledger):
            raise LedgerProblem(
                "it copies a file: of a PostgreSQL take pg_basebackup with an archive"
                " of its WAL, pg_dump, or your provider's backups, and see"
                ' docs/cluster.rst, "Backup and restore"'
            )
        backUp(options.ledger, options.copy, options.force)
        printLine(f"{options.copy} is a sound copy of {options.ledger}")

"""
C{creditsync backup}: a copy of a ledger, also of one in use.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from creditsync._cli.ledger import addLedger, told
from creditsync._cli.output import say
from creditsync.ledger._copying import backUp


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "backup",
        help="copy a ledger, also one in use",
        description="Copy a ledger as it is at this moment, with the server running"
        " or not. The copy is one file; it is checked as creditsync check does, and"
        " gets its name only when it is sound and all of it is on disk. Until then it"
        " has .part after its name.",
    )
    parser.add_argument("copy", metavar="FILE")
    parser.add_argument("--force", action="store_true", help="replace a FILE")
    addLedger(parser)
    parser.set_defaults(name="backup", run=run)


def run(options: Namespace) -> None:
    """
    Make the copy.
    """
    with told(options):
        backUp(options.ledger, options.copy, options.force)
        say(f"{options.copy} is a sound copy of {options.ledger}")

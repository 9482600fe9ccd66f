"""
C{creditsync check}: proves that a ledger is sound.
"""

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from typing import Any

from creditsync._cli.ledger import addLedger, errorsAsExit
from creditsync.ledger._checking import Finding, findings
from creditsync.ledger._reading import counts, reading

_DESCRIPTION = """\
Prove that a ledger is sound: SQLite's own check of the file, the schema, totals
that are the sums of their trades and not below zero, order numbers below the
mark, legal trades, and keys that agree with the trades they booked.

It prints a line for each problem. While it runs, the file that ends in -wal
grows with what the server books.
"""

_STATUSES = """\
exit status:
  0    sound
  1    there is a problem, or the ledger can't be read
  2    the command line is wrong
"""


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "check",
        help="prove that a ledger is sound",
        description=_DESCRIPTION,
        epilog=_STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    addLedger(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead"
    )
    parser.set_defaults(name="check", run=run)


def run(options: Namespace) -> None:
    """
    Check, and end with status 1 if there is a problem.
    """
    found: list[Finding] = []
    with errorsAsExit(options):
        with reading(options.ledger) as ledger:
            for problem in findings(ledger):
                found.append(problem)
                if not options.json:
                    print(f"{problem.rule}: {problem.message}")
            size = {} if found else counts(ledger)
        # Not inside reading(): its end raises if the ledger has changed meanwhile.
        if options.json:
            print(json.dumps({"sound": not found, "problems": _members(found)}))
        elif not found:
            text = ", ".join(f"{n} {what}" for what, n in size.items())
            print(f"{options.ledger} is sound: {text}")
    if found:
        raise SystemExit(1)


def _members(found: list[Finding]) -> list[dict[str, str]]:
    return [{"rule": each.rule, "message": each.message} for each in found]

"""
C{creditsync check}: proves that a ledger is sound.
"""

import json
import re
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from creditsync._cli.ledger import addLedger, errorsAsExit, pictured
from creditsync._process.address import isPostgres
from creditsync.ledger._checking import Finding, findings
from creditsync.ledger._journal import journalEnd
from creditsync.ledger._reading import counts, reading

_DESCRIPTION = """\
Prove that a ledger is sound: SQLite's own check of the file, the schema, totals
that are the sums of their trades and not below zero, order numbers below the
mark, and legal trades. Prove that the journal has no gap, that its hashes are
those of its rows, and that trades and totals are what it adds up to.

It prints a line for each problem. If there is none, it prints the journal's last
place and its hash: note the hash elsewhere, and --head HASH proves later that
nothing up to there was rewritten. While it runs, the file that ends in -wal grows
with what the server books.
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
    parser.add_argument(
        "--head",
        metavar="HASH",
        type=_hash,
        help="prove too that the journal continues the one that had this last hash",
    )
    parser.set_defaults(name="check", run=run)


def _hash(argument: str) -> bytes:
    """
    Read a hash of the journal.
    """
    if not re.fullmatch("[0-9A-Fa-f]{64}", argument):
        raise ArgumentTypeError(f"a hash has 64 hexadecimal digits: {argument}")
    return bytes.fromhex(argument)


def run(options: Namespace) -> None:
    """
    Check, and end with status 1 if there is a problem.
    """
    found: list[Finding] = []
    with errorsAsExit(options):
        with _file(options) as (path, others), reading(path) as ledger:
            for problem in chain(others, findings(ledger, options.head)):
                found.append(problem)
                if not options.json:
                    print(f"{problem.rule}: {problem.message}")
            size = {} if found else counts(ledger)
            head = None if found else _head(ledger, path)
        # Not inside reading(): its end raises if the ledger has changed meanwhile.
        if options.json:
            members = {"sound": not found, "problems": _members(found), "head": head}
            print(json.dumps(members))
        elif head is not None:
            text = ", ".join(f"{n} {what}" for what, n in size.items())
            print(f"{options.ledger} is sound: {text}")
            print(f"head: place {head['place']}, hash {head['hash']}")
    if found:
        raise SystemExit(1)


@contextmanager
def _file(options: Namespace) -> Iterator[tuple[str, list[Finding]]]:
    """
    The ledger's file, and what is wrong with what no file has.
    """
    if not isPostgres(options.ledger):
        yield options.ledger, []
        return
    with pictured(options) as (path, broken):
        yield path, [Finding(*each) for each in broken]


def _head(ledger: Any, path: str) -> dict[str, int | str]:
    _, place, hash = journalEnd(ledger, path)
    return {"place": place, "hash": hash.hex()}


def _members(found: list[Finding]) -> list[dict[str, str]]:
    return [{"rule": each.rule, "message": each.message} for each in found]

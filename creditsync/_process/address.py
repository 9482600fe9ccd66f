"""
What C{--ledger} names: a file, or a PostgreSQL.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

from creditsync.errors import LedgerProblem

_SCHEMES: Final = ("postgresql://", "postgres://")

# What is not the name of a file either: another scheme, or the form that psql takes.
# A file of that name would be made, and with it a password be written.
_NO_FILE: Final = re.compile(
    r"\s*([a-z][a-z0-9+.-]*://"
    r"|(host|hostaddr|port|user|dbname|password|passfile|service)\s*=)",
    re.IGNORECASE,
)
_SECRETS: Final = {"password", "sslpassword"}

# A node's name stands in tables, in logs and in the names of connections.
NODE: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def isPostgres(ledger: str) -> bool:
    """
    Whether this is the address of a PostgreSQL and not a file.
    """
    return ledger.startswith(_SCHEMES)


def hasPassword(ledger: str) -> bool:
    """
    Whether an address has a password in it, which on a command line everybody on the
    machine can read.
    """
    try:
        parts = urlsplit(ledger)
        given = parts.password is not None
    except ValueError:
        # It is malformed, which is found out later, without repeating it.
        return False
    return given or not _SECRETS.isdisjoint(parse_qs(parts.query))


def isNeither(ledger: str) -> bool:
    """
    Whether this is neither the address of a PostgreSQL nor the name of a file, but a
    connection string in another form, or misspelt.
    """
    return not isPostgres(ledger) and _NO_FILE.match(ledger) is not None


# It is not repeated: there may be a password in it.
NEITHER: Final = (
    "this is not the name of a file, nor an address that begins with postgresql://"
)

PASSWORD_GIVEN: Final = (
    "everybody on this machine can read a password on a command line: leave it out of"
    " the address, and give it in PGPASSWORD or ~/.pgpass"
)


@contextmanager
def withPsycopg() -> Iterator[None]:
    """
    Import what needs psycopg.

    @raise LedgerProblem: It isn't there, or can't be loaded.
    """
    try:
        yield
    except ImportError as e:
        raise LedgerProblem(
            f"a ledger on PostgreSQL needs the package psycopg ({e}): pip install"
            " 'creditsync[postgres]'"
        ) from e

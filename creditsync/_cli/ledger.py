"""
What the commands that open a ledger share: the options that select the ledger
and a period, how times are written, and how errors become an exit status.

All of them but C{creditsync account add} and C{creditsync upgrade} open it read-only,
with a server running on it or not.
"""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from creditsync._process.address import (
    NEITHER,
    PASSWORD_GIVEN,
    hasPassword,
    isNeither,
    isPostgres,
    withPsycopg,
)
from creditsync._process.defaults import DEFAULT_LEDGER
from creditsync.codes import MAX_SAFE_INTEGER, MAX_TIME
from creditsync.errors import LedgerProblem
from creditsync.ledger._reading import reading
from creditsync.ledger._source import Source

# What a commit on PostgreSQL has said.
DOUBTFUL: Final = "the commit did not wait until a standby had it"


def addLedger(parser: ArgumentParser) -> None:
    """
    Add the option that names the ledger.
    """
    parser.add_argument(
        "--ledger",
        metavar="LEDGER",
        type=ledger,
        default=DEFAULT_LEDGER,
        help="the ledger's file, or the address of a PostgreSQL, such as"
        " postgresql://user@host/database; it is only read, and may be in use"
        " (default: %(default)s)",
    )


def address(text: str) -> str:
    """
    The type of an argument that names a PostgreSQL.
    """
    if not isPostgres(text):
        raise ArgumentTypeError(
            "must be an address such as postgresql://user@host/database"
        )
    return ledger(text)


def ledger(text: str) -> str:
    """
    The type of an argument that names a ledger.
    """
    if isNeither(text):
        raise ArgumentTypeError(NEITHER)
    if isPostgres(text) and hasPassword(text):
        raise ArgumentTypeError(PASSWORD_GIVEN)
    return text


@contextmanager
def opened(options: Namespace) -> Iterator[Source]:
    """
    Open the ledger to read it as it is at this moment.

    @raise LedgerProblem: It can't be read.
    """
    if isPostgres(options.ledger):
        with withPsycopg():
            from creditsync.postgres import _reading
        with _reading.reading(options.ledger, options.name) as source:
            yield source
    else:
        with reading(options.ledger) as file:
            yield file


def addPeriod(parser: ArgumentParser) -> None:
    """
    Add the options for the beginning and the end of a period.
    """
    for name, dest, which in [
        ("--from", "start", "with this open_time or a later one"),
        ("--to", "end", "with an earlier open_time than this"),
    ]:
        parser.add_argument(
            name,
            dest=dest,
            metavar="TIME",
            type=moment,
            help=f"only trades {which}: 2026-01-31, 2026-01-31T12:30:00 (UTC, unless"
            " it has another offset) or UNIX seconds",
        )


def moment(text: str) -> int:
    """
    Read a time as UNIX seconds. A fraction is rounded up, which selects the same
    trades, as their times are whole seconds.
    """
    try:
        if text.isdecimal() and len(text) != len("20260131"):
            return min(int(text), MAX_SAFE_INTEGER)
        if text.isdecimal():
            raise ValueError
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"must be a time such as 2026-01-31, 2026-01-31T12:30:00 or UNIX seconds:"
            f" {text}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return math.ceil(moment.timestamp())


# The three times of a trade are usually the same.
@lru_cache(maxsize=1024)
def asISO(seconds: int) -> str:
    """
    A time in UTC; as UNIX seconds where its year does not have four digits.
    """
    if not 0 <= seconds <= MAX_TIME:
        return str(seconds)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


@contextmanager
def errorsAsExit(options: Namespace) -> Iterator[None]:
    """
    Exit with a sentence and status 1 if the ledger can't be used.
    """
    try:
        yield
    except LedgerProblem as e:
        raise SystemExit(f"creditsync {options.name}: {e}") from e

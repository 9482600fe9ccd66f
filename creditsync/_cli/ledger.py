"""
What the commands that read a ledger have in common: which one, from when to
when, how it is told, and what becomes of it as an exit status.

They open it read-only, with a server running on it or not.
"""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerProblem
from creditsync.tap import DEFAULT_LEDGER

# Beyond it, in UNIX seconds, are the years with five digits.
_LAST: Final = 253402300799


def addLedger(parser: ArgumentParser) -> None:
    """
    Add the option that names the ledger.
    """
    parser.add_argument(
        "--ledger",
        metavar="FILE",
        default=DEFAULT_LEDGER,
        help="the ledger's file; it is only read, and may be in use (default:"
        " %(default)s)",
    )


def readLogin(text: str) -> int:
    """
    Read the login of an account.
    """
    if not text.isdecimal() or not 1 <= int(text) <= MAX_SAFE_INTEGER:
        raise ArgumentTypeError(f"a login is a number from 1 to 2^53-1: {text}")
    return int(text)


def addPeriod(parser: ArgumentParser) -> None:
    """
    Add the options that say from when to when.
    """
    for name, dest, which in [
        ("--from", "start", "with this open_time or a later one"),
        ("--to", "end", "with an earlier open_time than this"),
    ]:
        parser.add_argument(
            name,
            dest=dest,
            metavar="TIME",
            type=_moment,
            help=f"only trades {which}: 2026-01-31, 2026-01-31T12:30:00 (UTC, unless"
            " it says otherwise) or UNIX seconds",
        )


def _moment(text: str) -> int:
    """
    UNIX seconds; as times of trades are whole ones, the next whole one is as
    good.
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


# The times of a trade are mostly one and the same.
@lru_cache(maxsize=1024)
def asISO(seconds: int) -> str:
    """
    A time in UTC; one that has no four-digit year stays what it is.
    """
    if not 0 <= seconds <= _LAST:
        return str(seconds)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


@contextmanager
def told(options: Namespace) -> Iterator[None]:
    """
    End with a sentence and status 1 if something is wrong with the ledger.
    """
    try:
        yield
    except LedgerProblem as e:
        raise SystemExit(f"creditsync {options.name}: {e}") from e

"""
The content that a ledger must have after each of a series of operations, and
whether it has it.

Whatever happened to the server, its ledger has exactly the result of the first
n operations, where n is at least the number acknowledged and at most the
number requested.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define
from msgspec.structs import astuple
from twisted.internet.defer import execute

from creditsync.errors import LedgerProblem
from creditsync.ledger._opening import connectReader
from creditsync.ledger.sqlite import SQLiteLedger
from tests.auditor import Auditor
from tests.crash.asked import PRINCIPAL
from tests.crash.dialogue import Booking
from tests.crash.record import Violation
from tests.family import COLUMNS, Trade, totals

_TRADES: Final = f"SELECT {COLUMNS}, revision FROM trade"
_KEYS: Final = (
    f"SELECT key, command, type, {COLUMNS} FROM journal"
    " WHERE principal = ? AND key IS NOT NULL"
)
_ACCOUNTS: Final = "SELECT login, balance, credit FROM account"

# How many of the last keys are looked up as for a repeated request.
_REPLAYS: Final = 5

# How many events are read from the journal at a time.
_PAGE: Final = 16


@define(eq=False)
class _Contents:
    """
    The content of a ledger: the rows of its tables by their keys.
    """

    trades: dict[int, tuple[Any, ...]] = Factory(dict)
    keys: dict[str, tuple[Any, ...]] = Factory(dict)

    def add(self, asked: Booking) -> "_Contents":
        """
        Add the result of one more operation.
        """
        trade = asked.trade
        assert trade is not None, asked
        before = self.trades.get(trade.order)
        row = (*trade, 0 if before is None else before[-1] + 1)
        contents = _Contents({**self.trades, trade.order: row}, self.keys)
        if asked.key is not None:
            contents.keys = {
                **self.keys,
                asked.key: (asked.command, asked.type, *trade),
            }
        return contents

    @cached_property
    def accounts(self) -> dict[int, tuple[int, int]]:
        """
        The totals of each login.
        """
        return totals(Trade(*row) for *row, _ in self.trades.values())


class Ledgers:
    """
    The content of a ledger after each operation.
    """

    def __init__(self, booked: Iterable[Booking]) -> None:
        """
        @param booked: The operations in their order, each with its trade.
        """
        self._contents = [_Contents()]
        self._booked = list(booked)
        for asked in self._booked:
            self._contents.append(self._contents[-1].add(asked))

    def check(self, path: Path, fewest: int, most: int, last: int) -> None:
        """
        Open a ledger as the server does, and check its content.

        @param fewest: The number of operations that it must have at least.
        @param most: The number at most.
        @param last: The highest order number that was ever sent.
        @raise Violation: A check fails.
        """
        ledger = SQLiteLedger(str(path), execute)
        try:
            ledger.open()
        except (LedgerProblem, sqlite3.Error) as e:
            raise Violation(f"it does not open: {e!r}") from e
        try:
            with closing(connectReader(str(path))) as reader:
                count = self._checkRows(reader, fewest, most)
            self._checkReplays(ledger, self._contents[count])
            self._checkEvents(ledger, count)
            if ledger.newOrder() <= last:
                raise Violation(f"the number {last} was told, and is given out again")
        finally:
            ledger.close()

    def _checkRows(self, reader: sqlite3.Connection, fewest: int, most: int) -> int:
        """
        @return: How many operations it has.
        """
        trades = {row[0]: row for row in reader.execute(_TRADES)}
        count = sum(1 + row[-1] for row in trades.values())
        if not fewest <= count <= most:
            raise Violation(
                f"{fewest} operations were acknowledged and {most} asked for, and it"
                f" has {count}"
            )
        contents = self._contents[count]
        _compare("trades", trades, contents.trades)
        keys = {row[0]: row[1:] for row in reader.execute(_KEYS, (PRINCIPAL,))}
        _compare("keys", keys, contents.keys)
        accounts = {row[0]: row[1:] for row in reader.execute(_ACCOUNTS)}
        _compare("accounts", accounts, contents.accounts)
        [[found]] = reader.execute("PRAGMA integrity_check(1)")
        if found != "ok":
            raise Violation(f"SQLite finds its file damaged: {found}")
        flaw = Auditor().flaw(lambda each: reader.execute(each).fetchall())
        if flaw is not None:
            raise Violation(f"of its journal: {flaw}")
        return count

    def _checkReplays(self, ledger: SQLiteLedger, contents: _Contents) -> None:
        """
        Check that a repeated request gets its first reply.
        """
        for key in list(contents.keys)[-_REPLAYS:]:
            _, type, *row = contents.keys[key]
            replay = ledger.replay(PRINCIPAL, key)
            told = None if replay is None else (replay.eventType, astuple(replay.trade))
            if told != (type, tuple(row)):
                raise Violation(f"the key {key} is of {(type, row)}, it tells {told}")

    def _checkEvents(self, ledger: SQLiteLedger, count: int) -> None:
        """
        Check that a client that goes on behind any place gets all events behind it,
        and that each cursor that was told is of its operation's place.
        """
        if ledger.head != count:
            raise Violation(f"its journal ends at {ledger.head}, and has {count}")
        for place, asked in enumerate(self._booked[:count], 1):
            if asked.cursor not in (None, f"{ledger.epoch}-{place}"):
                raise Violation(
                    f"{asked} was told {asked.cursor}, and is at {place} of"
                    f" {ledger.epoch}"
                )
        for after in range(0, count, _PAGE):
            page = [
                (each.type, each.place, astuple(each.data))
                for each in ledger.events(after, _PAGE)
            ]
            booked = enumerate(self._booked[after : after + _PAGE], after + 1)
            wanted = [(a.type, place, a.trade) for place, a in booked if place <= count]
            if page != wanted:
                raise Violation(f"behind place {after} are {page}, not {wanted}")


def _compare(what: str, found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> None:
    if found == wanted:
        return
    for key in found.keys() | wanted.keys():
        one, other = found.get(key), wanted.get(key)
        if one != other:
            raise Violation(f"of its {what} {key} is {one} and should be {other}")

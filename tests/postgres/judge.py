"""
A judge of a ledger on PostgreSQL, who reads its tables and shares no code with the
server.

L{judge} recomputes what the journal has to be: places without a gap, one hash for each
batch, totals after each row, trades and accounts that are what the rows add up to, and
one row for each key.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import psycopg
from attrs import define
from psycopg.rows import namedtuple_row

from tests.family import ADD, BOOKED, DELETE, DELETED, TOTALS

# The columns that a hash is made of, in their order.
_HASHED: Final = (
    *("seq", "type", "order", "login", "cmd", "state", "profit", "comment"),
    *("open_time", "close_time", "timestamp", "balance", "credit", "principal"),
    *("role", "command", "asked_order", "key", "asked_open_time", "asked_close_time"),
)
# In the slot of its account is each order.
_SLOTS: Final = 64


class Violation(Exception):
    """
    A promise was broken; the message says which.
    """


class Event(NamedTuple):
    """
    A row of the journal.
    """

    seq: int
    type: int
    order: int
    login: int
    cmd: int
    state: int
    profit: int
    comment: str
    open_time: int
    close_time: int
    timestamp: int
    balance: int
    credit: int
    principal: int
    role: int
    command: str
    asked_order: int
    key: str | None
    asked_open_time: int | None
    asked_close_time: int | None
    node: int
    batch: int
    item: int


@define
class Journal:
    """
    What a ledger has.

    @ivar events: By their places, from 1.
    """

    epoch: str
    events: list[Event]

    def at(self, place: int) -> Event | None:
        """
        The event with a place.
        """
        return self.events[place - 1] if 0 < place <= len(self.events) else None


def judge(dsn: str) -> Journal:
    """
    Read a ledger, in one snapshot.

    @raise Violation: It is not as it has to be.
    """
    with psycopg.connect(dsn, row_factory=namedtuple_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        read = _Reading(connection)
        for problem in read.problems():
            raise Violation(problem)
    return Journal(read.epoch, read.events)


class _Reading:
    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        columns = ", ".join(f'"{name}"' for name in Event._fields)
        rows = self._select(connection, f"SELECT {columns} FROM event ORDER BY seq")
        self.events = [Event(*row) for row in rows]
        self.links = self._select(connection, "SELECT * FROM link ORDER BY hi")
        self.trades = self._select(connection, "SELECT * FROM trade")
        self.accounts = self._select(connection, "SELECT * FROM account")
        self.keyed = self._select(connection, "SELECT * FROM keyed")
        [[self.next]] = self._select(connection, "SELECT next FROM block")
        [[self.epoch]] = self._select(connection, "SELECT epoch FROM stream")

    def _select(
        self, connection: "psycopg.Connection[Any]", statement: str
    ) -> Sequence[Any]:
        return connection.execute(statement.encode()).fetchall()

    def problems(self) -> Iterator[str]:
        """
        What is wrong.
        """
        yield from self._places()
        yield from self._chain()
        yield from self._states()
        yield from self._keys()

    def _places(self) -> Iterator[str]:
        for place, event in enumerate(self.events, 1):
            if event.seq != place:
                yield f"the journal has place {event.seq} where {place} should be"
        end = 0
        for link in self.links:
            if link.lo != end + 1 or link.hi < link.lo:
                yield f"a batch has the places {link.lo} to {link.hi}, behind {end}"
            end = link.hi
            of = {
                (each.node, each.batch) for each in self.events[link.lo - 1 : link.hi]
            }
            if of != {(link.node, link.batch)}:
                yield f"batch {link.batch} of node {link.node} has rows of {of}"
        if end != len(self.events):
            yield f"the last batch ends with place {end} of {len(self.events)}"
        twice = Counter((each.node, each.batch, each.item) for each in self.events)
        for source, count in twice.items():
            if count > 1:
                yield f"operation {source} has {count} places"

    def _chain(self) -> Iterator[str]:
        hash = bytes(32)
        for link in self.links:
            text = "".join(
                json.dumps(
                    [getattr(event, name) for name in _HASHED],
                    ensure_ascii=False,
                    separators=(",", ":"),
                )
                + "\n"
                for event in self.events[link.lo - 1 : link.hi]
            )
            hash = sha256(hash + text.encode()).digest()
            if hash != link.hash:
                yield f"the hash of the batch that ends with place {link.hi} is wrong"

    def _states(self) -> Iterator[str]:
        last: dict[int, Event] = {}
        changes: Counter[int] = Counter()
        totals: dict[int, dict[str, int]] = {}
        for event in self.events:
            before = last.get(event.order)
            yield from self._change(before, event)
            total = totals.setdefault(event.login, {"balance": 0, "credit": 0})
            total[TOTALS[event.cmd]] += _counted(event) - _counted(before)
            if (event.balance, event.credit) != (total["balance"], total["credit"]):
                yield f"the totals at place {event.seq} are not {total}: {event}"
            if min(total.values()) < 0:
                yield f"a total of login {event.login} is {total} at place {event.seq}"
            last[event.order] = event
            changes[event.order] += 1
        yield from self._present(last, changes)
        found = {each.login: (each.balance, each.credit) for each in self.accounts}
        for login, total in totals.items():
            if found.pop(login, None) != (total["balance"], total["credit"]):
                yield f"login {login} does not have {total}"
        for login, amounts in found.items():
            if amounts != (0, 0):
                yield f"login {login} has {amounts}, and no trades"

    def _change(self, before: Event | None, event: Event) -> Iterator[str]:
        if (event.type == ADD) != (before is None):
            yield f"{event} comes after {before}"
        elif before is not None and (
            before.type == DELETE
            or (before.login, before.cmd) != (event.login, event.cmd)
        ):
            yield f"{event} can't follow {before}"
        if (event.state == DELETED) != (event.type == DELETE):
            yield f"{event} has a wrong state"
        if event.order >= self.next or event.order % _SLOTS != event.login % _SLOTS:
            yield f"{event} has an order that no node can have reserved for it"

    def _present(
        self, last: Mapping[int, Event], changes: Mapping[int, int]
    ) -> Iterator[str]:
        trades = {each.order: each for each in self.trades}
        if trades.keys() != last.keys():
            yield f"trades without events: {trades.keys() ^ last.keys()}"
        for order, event in last.items():
            trade = trades[order]
            wanted = (*event[2:11], changes[order] - 1, event.seq)
            if tuple(trade) != wanted:
                yield f"order {order} is {trade}, and should be {wanted}"

    def _keys(self) -> Iterator[str]:
        booked: dict[tuple[int, str], int] = {}
        for event in self.events:
            if event.key is None:
                continue
            before = booked.setdefault((event.principal, event.key), event.seq)
            if before != event.seq:
                yield f"key {event.key} was booked at {before} and at {event.seq}"
        found = {(each.principal, each.key): each.seq for each in self.keyed}
        for key in booked.keys() | found.keys():
            if booked.get(key) != found.get(key):
                yield f"{key} is at {booked.get(key)}, noted at {found.get(key)}"


def _counted(event: Event | None) -> int:
    return event.profit if event is not None and event.state == BOOKED else 0

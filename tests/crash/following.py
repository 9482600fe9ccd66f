"""
Clients that follow the journal over kills and restarts.

A L{Follower} keeps the place of the last event that it got, and goes on behind it on
its next connection. What it got must be the journal, event by event: no place is left
out, none comes twice, and each is what the ledger of the dead server has there.
"""

import sqlite3
from collections import Counter
from json import dumps
from typing import Any, Final

from attrs import Factory, define

from tests.crash.load import Connection
from tests.crash.record import Violation
from tests.family import COLUMNS, Trade, tradeOf

_JOURNAL: Final = (
    f"SELECT type, {COLUMNS} FROM journal WHERE place > ? AND place <= ? ORDER BY place"
)


@define(eq=False)
class Follower:
    """
    One client, which has one connection at a time.

    @ivar place: That of the last event that it got, or at which it began.
    @ivar epoch: That of the ledger, once it has an event.
    """

    token: str
    place: int = 0
    epoch: str | None = None
    connection: Connection | None = None
    _resumed: int = 0
    _events: int = 0
    # Whether the reply to its command has come: the events before it don't count.
    _isFollowing: bool = False
    # Those that were not yet compared with the ledger.
    _new: list[tuple[int, Trade]] = Factory(list)

    @property
    def counts(self) -> Counter[str]:
        """
        For the figures.
        """
        return Counter(
            {
                "times a place was resumed": self._resumed,
                "events behind it": self._events,
            }
        )

    def connect(self, port: int) -> None:
        """
        Go on behind its place.

        @raise ConnectionError: No server listens.
        """
        self.connection = Connection(port)
        self._isFollowing = False
        self._resumed += 1
        since = "first" if self.epoch is None else f"{self.epoch}-{self.place}"
        data = {"chanels": ["trade:event"], "since": since}
        request = {"command": "Subscribe", "extID": "s", "__token": self.token}
        self.connection.send(dumps({**request, "data": data}).encode() + b"\r\n")

    def receive(self) -> bool:
        """
        Receive what there is.

        @return: Whether the connection is still open.
        """
        assert self.connection is not None
        for message in self.connection.receive():
            self._take(message)
        return self.connection.isOpen

    def drop(self, isDead: bool = False) -> None:
        """
        Lose the connection, wherever the server is in what it sends.

        @param isDead: Whether the server is dead, so that what it has left is all.
        """
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if not isDead:
            connection.socket.close()
            return
        for message in connection.drain():
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "event" not in message:
            if message["status"] not in (200, 503):
                raise Violation(f"behind place {self.place}: {message}")
            self._isFollowing = message["status"] == 200
            return
        if not self._isFollowing:
            return
        data = message["data"]
        epoch, _, place = data.get("cursor", "").partition("-")
        if epoch != (self.epoch or epoch) or place != str(self.place + 1):
            raise Violation(f"after place {self.place} of {self.epoch}: {message}")
        self.epoch, self.place = epoch, int(place)
        self._new.append((message["type"], tradeOf(data)))
        self._events += 1

    def check(self, ledger: sqlite3.Connection) -> None:
        """
        Compare what it got with the ledger of a dead server.

        @raise Violation: That has something else.
        """
        new, self._new = self._new, []
        first = self.place - len(new)
        rows = ledger.execute(_JOURNAL, (first, self.place)).fetchall()
        booked = [(type, Trade(*row)) for type, *row in rows]
        if booked == new:
            return
        for place, told in enumerate(new, first + 1):
            there = booked[place - first - 1] if place - first <= len(booked) else None
            if there != told:
                raise Violation(f"place {place} has {there}, and {told} was told")

"""
The requests of one client, and the replies that it received.

A L{Dialogue} has one connection at a time, so operations are booked in the
order in which they are sent, and it shares no logic with the server: the
result of an operation is what a reply or an event says.
"""

from collections.abc import Mapping
from json import dumps
from random import Random
from typing import Any

from attrs import Factory, define

from tests.crash.asked import requestOf
from tests.crash.record import Violation
from tests.family import (
    ADD,
    DELETE,
    DELETIONS,
    METHODS,
    UPDATE,
    Trade,
    made,
    tradeOf,
)


@define(eq=False)
class Booking:
    """
    An operation, and its known results.

    @ivar type: The type of its event.
    @ivar trade: The trade as it made it.
    @ivar cursor: The cursor of its event.
    @ivar order: The order in its reply or event.
    @ivar status: The status of its last reply, or of the first that was 200.
    """

    number: int
    command: str
    type: int
    data: dict[str, Any]
    key: str | None
    sent: int = 0
    order: int = 0
    status: int | None = None
    trade: Trade | None = None
    cursor: str | None = None

    @property
    def isRefused(self) -> bool:
        """
        Whether a reply said that nothing was booked.
        """
        return self.status not in (None, 200, 504)


@define(eq=False)
class Dialogue:
    """
    A client over all lives of a server.

    @ivar isCareful: Whether everything is sent with a key and for a reply with
        the trade, so that it can be repeated after a crash.
    @ivar last: The highest order number received.
    """

    token: str
    random: Random
    isCareful: bool = False
    last: int = 0
    asked: list[Booking] = Factory(list)
    _waiting: dict[str, Booking] = Factory(dict)
    # Orders that can be changed, each with the operation that made it, and
    # deletions by their orders.
    _made: dict[int, Booking] = Factory(dict)
    _deletions: dict[int, Booking] = Factory(dict)

    @property
    def waiting(self) -> int:
        """
        How many replies are pending.
        """
        return len(self._waiting)

    @property
    def isQuiet(self) -> bool:
        """
        Whether every outcome that can be known is known.
        """
        return not self._waiting and not self._unknown()

    def _unknown(self) -> list[Booking]:
        return [each for each in self.booked() if each.trade is None]

    def ask(self, count: int) -> bytes:
        """
        The lines of some new operations.
        """
        return b"".join(self._line(self._next()) for _ in range(count))

    def askAgain(self) -> bytes:
        """
        The lines of all operations with an unknown outcome, in order, to be
        sent to the next life of the server.
        """
        self._waiting.clear()
        return b"".join(map(self._line, self._unknown()))

    def _next(self) -> Booking:
        chance = self.random.random()
        keyed = [each for each in self.asked[-50:] if each.key and each.status == 200]
        if chance < 0.08 and keyed:
            return self.random.choice(keyed)
        if chance < 0.35 and self._made:
            return self._change(self.random.choice(list(self._made)))
        if chance < 0.45 and self._made:
            return self._delete(self.random.choice(list(self._made)))
        method = self.random.choices(list(METHODS), (3, 5, 1, 1))[0]
        return self._new(method, ADD, login=self.random.randint(1001, 1006))

    def _change(self, order: int) -> Booking:
        maker = self._made[order]
        method = maker.command.removesuffix("Sync")
        return self._new(method, UPDATE, login=maker.data["login"], order=order)

    def _delete(self, order: int) -> Booking:
        maker = self._made.pop(order)
        total = METHODS[maker.command.removesuffix("Sync")].total
        asked = self._new(DELETIONS[total], DELETE, order=order)
        self._deletions[order] = asked
        return asked

    def _new(self, method: str, type: int, **data: int) -> Booking:
        number = len(self.asked)
        command, key = method, None
        if self.isCareful or self.random.random() < 0.6:
            command += "Sync"
        if self.isCareful or self.random.random() < 0.6:
            key = f"key-{number}"
        members: dict[str, Any] = dict(data)
        if method in METHODS:
            sign = METHODS[method].sign
            size = 1000_00 if sign > 0 else 20_00
            members["amount"] = sign * self.random.randint(1, size) / 100
            members["comment"] = f"{number} it's for you, \u20ac"
        asked = Booking(number, command, type, members, key)
        self.asked.append(asked)
        return asked

    def _line(self, asked: Booking) -> bytes:
        asked.sent += 1
        extID = f"{asked.number}.{asked.sent}"
        self._waiting[extID] = asked
        request = {
            "command": asked.command,
            "extID": extID,
            "__token": self.token,
            "data": asked.data,
        }
        if asked.key is not None:
            request["idempotencyKey"] = asked.key
        return dumps(request).encode() + b"\r\n"

    # What it is told.

    def take(self, message: Mapping[str, Any]) -> None:
        """
        Record a reply or an event.

        @raise Violation: It can't be true.
        """
        asked = self.about(message)
        if asked is None:
            raise Violation(f"nobody asked for this: {message}")
        self.last = max(self.last, orderIn(message))
        if "event" in message:
            self._makes(asked, message["data"])
            return
        if self._waiting.pop(message["extID"], None) is None:
            raise Violation(f"nobody waits for this: {message}")
        asked.order = asked.order or orderIn(message)
        if asked.status != 200:
            asked.status = message["status"]
        if message["status"] == 200 and asked.command.endswith("Sync"):
            self._makes(asked, message["data"])

    def about(self, message: Mapping[str, Any]) -> Booking | None:
        """
        The operation that a message belongs to, if any.
        """
        if "event" not in message:
            number = str(message["extID"]).partition(".")[0]
        elif message["type"] == DELETE:
            return self._deletions.get(orderIn(message))
        else:
            number = message["data"]["comment"].partition(" ")[0]
        return self.asked[int(number)] if number.isdecimal() else None

    def _makes(self, asked: Booking, data: Mapping[str, Any]) -> None:
        trade = tradeOf(data)
        if asked.trade not in (None, trade):
            raise Violation(f"{asked} made {trade}, and {asked.trade} was told before")
        cursor = data.get("cursor")
        if cursor is None or asked.cursor not in (None, cursor):
            raise Violation(f"{asked} is at {cursor}, and was at {asked.cursor}")
        asked.trade, asked.cursor = trade, cursor
        if asked.type == ADD and trade.order not in self._deletions:
            self._made[trade.order] = asked

    def booked(self) -> list[Booking]:
        """
        The operations that are booked in the end, or may be, in their order.
        """
        return [each for each in self.asked if not each.isRefused]

    def suppose(self, now: int) -> list[Booking]:
        """
        Like L{booked}, if everything was sent at one time, and of some
        operations only the order is known: the trades that they make if they
        are booked.
        """
        trades: dict[int, Trade] = {}
        for asked in self.booked():
            if asked.trade is None:
                before = trades.get(asked.order)
                request = requestOf(asked.command, asked.data)
                asked.trade = made(request, before, asked.order, now)
            trades[asked.trade.order] = asked.trade
        return self.booked()


def orderIn(message: Mapping[str, Any]) -> int:
    """
    The order in a reply or an event, or 0.
    """
    order: int = message.get("data", {}).get("order", 0)
    return order

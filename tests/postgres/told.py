"""
What the clients of several nodes were told, and whether the ledger agrees.

Everything here came over a socket. L{Told.compare} holds it against what a
L{Journal<tests.postgres.judge.Journal>} has: nobody was told anything untrue, whatever
was disturbed meanwhile.
"""

from collections import Counter
from collections.abc import Mapping
from json import dumps
from typing import Any, Final

from attrs import Factory, define

from tests.family import ADD, DELETE, METHODS, REQUESTED, UPDATE, tradeOf, units
from tests.postgres.judge import Event, Journal, Violation

# The token's id, to which keys belong.
PRINCIPAL: Final = 7
_TRADE: Final = slice(2, 11)


@define(eq=False)
class Asked:
    """
    One operation of a client, sent once or more often.

    @ivar number: With which its comment begins.
    @ivar sent: How often it was sent.
    @ivar unknown: How many of those had no certain answer: a 504, or none at all.
    @ivar answers: The data of each 200.
    @ivar first: How many of those were no replays.
    @ivar refusal: The error by which it was refused for good.
    """

    number: int
    command: str
    data: dict[str, Any]
    key: str | None
    sent: int = 0
    unknown: int = 0
    first: int = 0
    answers: list[dict[str, Any]] = Factory(list)
    refusal: str | None = None

    def __str__(self) -> str:
        key = "no key" if self.key is None else f"the key {self.key}"
        return f"operation {self.number} ({self.command} with {key}, {self.data})"

    @property
    def type(self) -> int:
        """
        The type of its event.
        """
        if self.command.startswith("Delete"):
            return DELETE
        return UPDATE if self.data.get("order") else ADD

    @property
    def isSync(self) -> bool:
        """
        Whether it is answered with its event's data.
        """
        return self.command.endswith("Sync")

    @property
    def isSettled(self) -> bool:
        """
        Whether its client has nothing more to ask.
        """
        return bool(self.answers) or self.refusal is not None

    def line(self, extID: str, token: str) -> bytes:
        """
        What sends it.
        """
        members = {"command": self.command, "extID": extID, "__token": token}
        if self.key is not None:
            members["idempotencyKey"] = self.key
        return dumps({**members, "data": self.data}).encode() + b"\r\n"

    def made(self, event: Event) -> bool:
        """
        Whether an event can be its own.
        """
        data = self.data
        if event.type != self.type or event.command != self.command:
            return False
        if self.type == DELETE:
            return event.order == data["order"]
        return (
            (event.login, event.profit, event.comment)
            == (data["login"], units(data["amount"]), data["comment"])
            and event.cmd == METHODS[self.command.removesuffix("Sync")].cmd
            and data.get("order", event.order) == event.order
        )


@define(eq=False)
class Told:
    """
    All that was asked, and all that was told.

    @ivar events: What was heard, by place; each node tells the same.
    @ivar counts: For the figures.
    @ivar orders: Each order that was told, with the operation that it is of.
    """

    asked: list[Asked] = Factory(list)
    events: dict[int, tuple[int, dict[str, Any]]] = Factory(dict)
    counts: Counter[str] = Factory(Counter)
    orders: dict[int, Asked] = Factory(dict)
    epoch: str | None = None

    def ask(self, command: str, hasKey: bool = True, **data: Any) -> Asked:
        """
        Note a new operation.
        """
        number = len(self.asked)
        if not command.startswith("Delete"):
            data["comment"] = f'{number} it\'s for \u20ac 5,}} "\\"\t\U0001f4b6'
        key = f"key-{number}" if hasKey else None
        asked = Asked(number, command, data, key)
        self.asked.append(asked)
        return asked

    def heard(self, message: Mapping[str, Any]) -> int:
        """
        Note an event.

        @return: Its place.
        """
        data = message["data"]
        place = self._place(data)
        event = message["type"], data
        if self.events.setdefault(place, event) != event:
            raise Violation(f"place {place} is {self.events[place]} and {event}")
        self.counts["events heard"] += 1
        return place

    def _place(self, data: Mapping[str, Any]) -> int:
        epoch, _, place = data["cursor"].partition("-")
        self.epoch = self.epoch or epoch
        if epoch != self.epoch:
            raise Violation(f"the epochs {self.epoch} and {epoch}")
        return int(place)

    def replied(self, asked: Asked, reply: Mapping[str, Any]) -> int | None:
        """
        Note the reply to an operation.

        @return: The place that it tells, if it is its event's data.
        """
        status, error = reply["status"], reply.get("error")
        self.counts[f"replies {status}"] += 1
        if status == 200:
            return self._succeeded(asked, reply)
        if status == 504:
            asked.unknown += 1
            self._orderTold(asked, reply.get("data", {}).get("order", 0))
        elif status == 409 and error in ("TRADE_NO_MONEY", "INCORRECT_ORDER"):
            if asked.answers:
                raise Violation(f"booked, and then refused with {error}: {asked}")
            asked.refusal = error
        elif status != 503:
            raise Violation(f"{asked} was answered {dumps(reply)}")
        return None

    def _succeeded(self, asked: Asked, reply: Mapping[str, Any]) -> int | None:
        data = reply["data"]
        isReplay = reply.get("replayed", False)
        if isReplay and asked.sent < 2:
            raise Violation(f"a replay of what was sent once: {asked}")
        self.counts["replays"] += isReplay
        asked.first += not isReplay
        if asked.refusal is not None and not asked.unknown:
            raise Violation(f"refused with {asked.refusal}, and booked: {asked}")
        if asked.answers and asked.answers[0] != data:
            raise Violation(f"answered {asked.answers[0]}, and {data}: {asked}")
        self.counts["acknowledged"] += not asked.answers
        asked.answers.append(data)
        self._orderTold(asked, data["order"])
        if not asked.isSync:
            return None
        place = self._place(data)
        if place in self.events and self.events[place] != (asked.type, data):
            raise Violation(f"{asked} was answered {data}, not {self.events[place]}")
        return place

    def _orderTold(self, asked: Asked, order: int) -> None:
        if order and asked.type == ADD:
            of = self.orders.setdefault(order, asked)
            if of is not asked:
                raise Violation(f"order {order} was told of {of} and of {asked}")

    # What the ledger says.

    def compare(self, journal: Journal) -> None:
        """
        Compare all of it with the ledger.

        @raise Violation: Something untrue was told.
        """
        if self.epoch not in (None, journal.epoch):
            raise Violation(f"the epoch {self.epoch} was told of {journal.epoch}")
        for place, (type, data) in self.events.items():
            there = journal.at(place)
            if there is None or not _isSame(there, type, data):
                raise Violation(f"place {place} was told as {data}, and has {there}")
        rows: dict[int, list[Event]] = {}
        for event in journal.events:
            number = self._number(event)
            if number is None:
                continue
            if not self.asked[number].made(event):
                raise Violation(f"{event} is not what was asked: {self.asked[number]}")
            rows.setdefault(number, []).append(event)
            of = self.orders.get(event.order)
            if event.type == ADD and of not in (None, self.asked[number]):
                raise Violation(f"order {event.order} was told of {of}: {event}")
        for asked in self.asked:
            self._compare(asked, rows.get(asked.number, []))

    def _number(self, event: Event) -> int | None:
        """
        The number of the operation that has made an event.
        """
        text = event.comment.partition(" ")[0]
        if event.type == DELETE:
            text = (event.key or "").removeprefix("key-")
        return int(text) if text.isdecimal() else None

    def _compare(self, asked: Asked, rows: list[Event]) -> None:
        most = 1 if asked.key is not None else asked.first + asked.unknown
        if len(rows) > most:
            raise Violation(f"booked {len(rows)} times: {asked}: {rows}")
        isLost = asked.answers and not rows
        if isLost or (asked.key is None and len(rows) < asked.first):
            raise Violation(f"acknowledged, and not in the ledger: {asked}")
        if asked.refusal and not asked.unknown and not asked.answers and rows:
            raise Violation(f"refused with {asked.refusal}, and in the ledger: {asked}")
        for data in asked.answers:
            if not any(_answers(asked, data, event) for event in rows):
                raise Violation(f"answered {data}, and booked {rows}: {asked}")


def _isSame(event: Event, type: int, data: Mapping[str, Any]) -> bool:
    return event.type == type and tradeOf(data) == tuple(event[_TRADE])


def _answers(asked: Asked, data: Mapping[str, Any], event: Event) -> bool:
    """
    Whether a reply is that of an event.
    """
    if asked.isSync:
        place = int(data["cursor"].partition("-")[2])
        return place == event.seq and _isSame(event, asked.type, data)
    return (data["order"], data["login"], data["state"], units(data["amount"])) == (
        event.order,
        event.login,
        REQUESTED[asked.type],
        event.profit,
    )

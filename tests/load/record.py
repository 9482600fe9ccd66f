"""
The requests and replies of a client, and whether the ledger agrees.

A request's serial number is its C{extID}, and with the record's name it is the
C{comment} of its credit: so a reply, an event and a row of the ledger can each
be matched with their request. Serials count from 0, and requests are kept in
arrays, so that a record of millions stays small.
"""

import time
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from attrs import Factory, define, field

from creditsync.auth import mint
from tests.integration.processes import SECRET

YEARS: Final = 365 * 86400.0
# The maximum number of problems that are kept: one fault causes thousands of
# them.
MOST: Final = 20
# The possible statuses of a reply to a good request.
STATUSES: Final = frozenset({200, 401, 429, 503, 504})
# After these, nothing was booked (docs/protocol.rst, "Errors").
REFUSALS: Final = frozenset({401, 429, 503})


class Data(msgspec.Struct):
    """
    The members of C{data} in a reply or an event that are needed here.
    """

    order: int = 0
    comment: str = ""
    timestamp: int = 0
    retry_after_ms: int | None = None
    uptime: int = 0
    pending: int = 0


class Message(msgspec.Struct):
    """
    A line from the server.
    """

    extID: int | str | None = None
    status: int = 0
    error: str = ""
    event: str | None = None
    data: Data = msgspec.field(default_factory=Data)


# extID and the serial in the comment are equal.
_LINE: Final = (
    b'{"command":"CreditInSync","extID":%d,"__token":"TOKEN","data":'
    b'{"login":%d,"amount":300.0,"comment":"NAME-%d"}}\r\n'
)

decode = msgspec.json.Decoder(Message).decode


def token(
    *, start: float | None = None, lasts: float = 60 * YEARS, jti: str = "load"
) -> str:
    """
    A manager's token.

    @param start: The UNIX time from which it is good; by default 30 years ago,
        for clocks that step.
    """
    begin = time.time() - 30 * YEARS if start is None else start
    return mint(SECRET, id=7, role=1, expires=lasts, now=begin, jti=jti)


def health(token: str, extID: str = "health") -> bytes:
    """
    The line of a C{HealthCheck}.
    """
    return (
        f'{{"command":"HealthCheck","extID":"{extID}","__token":"{token}"}}\r\n'
    ).encode()


def unsubscribe(token: str) -> bytes:
    """
    The line that unsubscribes a session from events.
    """
    return (
        f'{{"command":"Unsubscribe","extID":"quiet","__token":"{token}"'
        ',"data":{"chanels":["trade:event"]}}\r\n'
    ).encode()


@define(eq=False)
class Record:
    """
    The requests of one client, which may have several connections.

    @ivar name: No other record on the same ledger has it.
    @ivar sent: When each request was handed over for sending, by the monotonic
        clock.
    @ivar statuses: What each was answered, 0 as long as it is not.
    @ivar orders: Which order each answer named, 0 for none.
    @ivar arrived: When each answer was read.
    @ivar answers: How many have an answer.
    @ivar problems: What no server may ever do, in sentences.
    """

    name: str
    sent: "array[float]" = Factory(lambda: array("d"))
    statuses: "array[int]" = Factory(lambda: array("H"))
    orders: "array[int]" = Factory(lambda: array("q"))
    arrived: "array[float]" = Factory(lambda: array("d"))
    answers: int = 0
    problems: list[str] = Factory(list)
    _line: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._line = _LINE.replace(b"TOKEN", token().encode()).replace(
            b"NAME", self.name.encode()
        )

    def ask(self) -> bytes:
        """
        Add a request, and return its line.
        """
        serial = len(self.sent)
        self.sent.append(time.monotonic())
        self.statuses.append(0)
        self.orders.append(0)
        self.arrived.append(0.0)
        return self._line % (serial, 1000 + serial % 1000, serial)

    def answered(self, reply: Message) -> int:
        """
        Add a reply.

        @return: The serial of its request, or -1 if it matches none.
        """
        serial, now = reply.extID, time.monotonic()
        if type(serial) is not int or not 0 <= serial < len(self.sent):
            self.wrong(f"an answer under extID {serial!r}, which was not asked")
            return -1
        if self.statuses[serial]:
            self.wrong(f"{self.name}-{serial} is answered a second time")
            return -1
        self.answers += 1
        self.statuses[serial] = reply.status
        self.orders[serial] = reply.data.order
        self.arrived[serial] = now
        if reply.status not in STATUSES:
            self.wrong(f"{self.name}-{serial} is answered {reply.status}")
        if reply.status == 503 and not (reply.data.retry_after_ms or 0) > 0:
            self.wrong(f"the 503 of {self.name}-{serial} lacks retry_after_ms")
        if reply.status == 200 and reply.data.comment != f"{self.name}-{serial}":
            self.wrong(f"{self.name}-{serial} is told of {reply.data.comment!r}")
        return serial

    def wrong(self, sentence: str) -> None:
        """
        Note a problem.
        """
        if len(self.problems) < MOST:
            self.problems.append(sentence)

    def latencies(self, *statuses: int) -> list[float]:
        """
        The seconds from request to reply, in ascending order, of the requests
        with such a reply.
        """
        return sorted(
            self.arrived[serial] - self.sent[serial]
            for serial, status in enumerate(self.statuses)
            if status in statuses
        )

    @property
    def inFlight(self) -> int:
        """
        How many have no answer.
        """
        return len(self.sent) - self.answers

    def unanswered(self) -> list[int]:
        """
        The serials of the requests that have no answer.
        """
        return [serial for serial, status in enumerate(self.statuses) if not status]


def compare(rows: Iterable[tuple[int, str]], records: Sequence[Record]) -> list[str]:
    """
    Hold records against the ledger: what was answered by 200 is in it, once
    and under that order; what was refused is not; a 504 or no answer may be
    either, but under no other order than the one that was told.

    @param rows: Order and comment of each trade; those of other clients are
        passed over.
    @return: What is wrong, in sentences.
    """
    found: list[str] = []
    byName = {record.name: record for record in records}
    booked = {record.name: bytearray(len(record.sent)) for record in records}
    for order, comment in rows:
        name, _, serial = comment.rpartition("-")
        record = byName.get(name)
        if record is None:
            continue
        number = int(serial)
        if not number < len(record.sent):
            found.append(f"{comment} was never asked for, and is booked")
            continue
        if booked[name][number]:
            found.append(f"{comment} is booked twice")
        booked[name][number] = 1
        if record.orders[number] not in (0, order):
            told = record.orders[number]
            found.append(f"{comment} is booked as order {order}, told was {told}")
        if record.statuses[number] in REFUSALS:
            status = record.statuses[number]
            found.append(f"{comment} was refused with {status}, and is booked")
    for record in records:
        found += [
            f"{record.name}-{serial} was answered by 200, and is not booked"
            for serial, status in enumerate(record.statuses)
            if status == 200 and not booked[record.name][serial]
        ]
    return found

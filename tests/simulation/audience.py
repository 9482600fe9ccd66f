"""
The rules of events: after their commit, in booking order, once each, to every
session whose token is good and may see the account, and to nobody else; and from the
place at which a session asked to begin.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import define, field

from tests.family import eventData
from tests.simulation.hearing import MAY, MUST, NOT, Hearing, InForce
from tests.simulation.history import (
    Attempt,
    Booking,
    History,
    Moment,
    Publication,
    Talk,
    parse,
)
from tests.simulation.places import Places
from tests.simulation.rights import Rights
from tests.simulation.world import Violation, World

# Characters that one of the platform's clients would corrupt.
_SPOILT = re.compile(rb",\s*[}\]]|'|[^\x20-\x7e]")

_FIRST = ["order", "login", "cmd", "state", "profit", "comment"]


# An event line, its position among all lines, and the moment when it left the server.
_Line = tuple[bytes, int, Moment]

# An event and its position among all lines, and those before it.
_Way = tuple[Publication, int, "_Way | None"]


@define(eq=False)
class _Part:
    """
    The events of a connection between two commands that decide where they come from.

    @ivar begun: The command before them, if there is one.
    @ivar ended: The command after them, if there is one.
    """

    lines: Sequence[_Line]
    begun: Attempt | None
    ended: Attempt | None

    @property
    def isResumed(self) -> bool:
        """
        Whether they go on behind a place.
        """
        return self.begun is not None and self.begun.intent.resumes

    def within(self, moment: Moment, state: str) -> str:
        """
        What remains of a state at the edges of this part: on which side of a command
        an event comes is unknown while that is on its way.
        """
        isEdge = False
        if self.begun is not None:
            delivered, written = _span(self.begun)
            if moment < delivered:
                return NOT
            isEdge = moment <= written
        if self.ended is not None:
            delivered, written = _span(self.ended)
            if moment > written:
                return NOT
            isEdge = isEdge or moment >= delivered
        return MAY if isEdge else state


def _span(attempt: Attempt) -> tuple[Moment, Moment]:
    assert attempt.delivered is not None and attempt.reply is not None
    return attempt.delivered, attempt.reply.written


def _partsOf(talk: Talk) -> Iterator[_Part]:
    """
    Divide the events of a connection.
    """
    first, begun = 0, None
    changes = [each for each in talk.attempts if each.status == 200]
    for attempt in sorted(changes, key=_position):
        command = attempt.intent.command
        isResumed = begun is not None and begun.intent.resumes
        if attempt.intent.resumes or (isResumed and command == "Unsubscribe"):
            last = first
            while last < len(talk.events) and talk.events[last][1] < _position(attempt):
                last += 1
            yield _Part(talk.events[first:last], begun, attempt)
            first, begun = last, attempt
    yield _Part(talk.events[first:], begun, None)


def _position(attempt: Attempt) -> int:
    assert attempt.reply is not None
    return attempt.reply.position


@define(eq=False)
class Audience:
    """
    The events that each session must receive, and those that it received.

    @ivar positions: The place of each event among a connection's lines, but for those
        that a session may get after their replies, as it reads the journal.
    @ivar _followed: Up to which place each of these connections had got everything, and
        when.
    """

    _world: World
    _history: History
    _places: Places
    _rights: Rights
    _followed: dict[Talk, tuple[int, Moment]]
    positions: dict[tuple[Talk, Publication], int] = field(factory=dict)
    _judged: dict[bytes, tuple[int, dict[str, Any]]] = field(factory=dict)

    def check(self) -> None:
        """
        Check all events.
        """
        if not self._history.isForeign:
            self._checkOrder()
            self._checkAll()
        published: dict[int, list[Publication]] = {}
        for each in self._history.publications:
            published.setdefault(each.generation, []).append(each)
        for talk in self._history.talks:
            inForce = InForce(self._world, self._rights, talk)
            for part in _partsOf(talk):
                if part.isResumed:
                    self._checkResumed(talk, part)
                else:
                    here = published.get(talk.generation, [])
                    self._checkLive(part, Hearing(talk, inForce), talk, here)

    def _checkOrder(self) -> None:
        """
        Every event has its booking, which is on disk, and they have one order.
        """
        numbers = {b: n for n, b in enumerate(self._history.bookings)}
        last = -1
        for each in self._history.publications:
            booking, about = each.booking, (str(each.data.order),)
            if booking is None:
                raise Violation("event", f"an event of no booking: {each.data}", about)
            if booking.applied is None or booking.applied > each.at:
                raise Violation(
                    "event-after-commit", f"{each.data} is not on disk", about
                )
            if (each.type, each.data) != (booking.type, booking.trade):
                raise Violation("event", f"{each.data} is not {booking.trade}", about)
            if numbers[booking] <= last:
                raise Violation("event-order", f"{each.data} comes late", about)
            last = numbers[booking]

    def _checkAll(self) -> None:
        """
        Every booking is published, unless its process had no time left.
        """
        for booking in self._history.bookings:
            generation = self._history.generations[booking.generation]
            if generation.hasCrashed or generation.hasFailed:
                continue
            if booking.applied and not booking.isLost and booking.published is None:
                raise Violation(
                    "event",
                    f"no event of {booking.trade}",
                    (str(booking.trade.order),),
                )

    def _checkResumed(self, talk: Talk, part: _Part) -> None:
        """
        Check that a connection got the events behind its place, each once and in
        order, and those since then without a seam, but for those that its token was
        not for when they were sent.
        """
        assert part.begun is not None and part.begun.delivered is not None
        begun = part.begun.delivered
        last = self._places.at(part.begun.intent.data["since"])
        about = talk.name, part.begun.extID
        if last is None:
            raise Violation("no-seam", "it goes on behind no place", about)
        journal = self._places.journal
        inForce = InForce(self._world, self._rights, talk, part.begun)

        def isMissing(place: int, moment: Moment) -> bool:
            """
            Whether there is a place before this one that had to be sent by now.
            """
            # Without a valid token events stop, and go on with those of then.
            return not inForce.wasLimited(begun, moment) and any(
                each.applied is not None
                and False
                not in inForce.mayGet(
                    each.trade.login, max(begun, each.applied), moment
                )
                for each in journal[last : place - 1]
            )

        for line, _, written in part.lines:
            place = self._places.at(self._judge(line)[1].get("cursor"))
            if place is None or place <= last or isMissing(place, written):
                raise Violation(
                    "no-seam", f"place {place} comes after {last}: {line!r}", about
                )
            last = place
            booking = journal[place - 1] if place <= len(journal) else None
            if booking is None or not self._isIt(line, booking):
                raise Violation("no-seam", f"{line!r} is not of place {place}", about)
            assert booking.applied is not None
            if written < booking.applied:
                raise Violation(
                    "event-after-commit", f"{line!r} was not on disk", about
                )
            sent = max(begun, booking.applied)
            if True not in inForce.mayGet(booking.trade.login, sent, written):
                raise Violation("no-other-event", f"{line!r} was not for it", about)
        if talk in self._followed and part.ended is None:
            head, moment = self._followed[talk]
            if isMissing(head + 1, moment):
                raise Violation(
                    "no-seam", f"not all events up to {head} came after {last}", about
                )

    def _checkLive(
        self, part: _Part, hearing: Hearing, talk: Talk, published: list[Publication]
    ) -> None:
        """
        Compare what was published with what a connection received.
        """
        lines = part.lines
        isLost = talk.lostAt < float("inf")
        # How many lines may have been told so far, each with how. There is more than
        # one way only where an event need not be received: another runtime may publish
        # the same one again.
        ways: dict[int, _Way | None] = {0: None}
        for each in published:
            state = part.within(each.at, hearing.at(each))
            found: dict[int, _Way | None] = {}
            for told, way in ways.items():
                line = lines[told] if told < len(lines) else None
                isIt = line is not None and self._isIt(line[0], each)
                if line is not None and isIt and state != NOT and line[2] >= each.at:
                    found.setdefault(told + 1, (each, line[1], way))
                if state != MUST or (line is None and isLost):
                    found.setdefault(told, way)
            if not found:
                raise Violation(
                    "every-session",
                    f"{talk.name} got no event of {each.data}, or too early",
                    (talk.name, str(each.data.order)),
                )
            ways = found
        if len(lines) not in ways:
            line = lines[max(ways)]
            raise Violation(
                "no-other-event",
                f"{talk.name} got an event that was not for it, or was spoilt, or came"
                f" twice or in the wrong order: {line[0]!r}",
                (talk.name,),
            )
        way = ways[len(lines)]
        while way is not None:
            each, position, way = way
            self.positions[talk, each] = position

    def _isIt(self, line: bytes, event: Publication | Booking) -> bool:
        """
        Whether a line is this event's: it is the same for all sessions of all
        processes.
        """
        if event.raw is not None:
            return line == event.raw
        isBooking = isinstance(event, Booking)
        type, data = self._judge(line)
        data = dict(data)
        cursor = data.pop("cursor", None)
        trade = event.trade if isBooking else event.data
        if type != event.type or data != eventData(trade):
            return False
        self._places.checkEvent(
            event if isBooking else event.booking, cursor, str(trade.order)
        )
        event.raw = line
        return True

    def _judge(self, line: bytes) -> tuple[int, dict[str, Any]]:
        found = self._judged.get(line)
        if found is None:
            event = parse(line.decode())
            isGood = (
                list(event) == ["event", "type", "data"]
                and event["event"] == "trade:event"
                and list(event["data"])[:6] == _FIRST
            )
            if not isGood or spoilt(line):
                raise Violation("wire", f"no event as the contract has it: {line!r}")
            self._judged[line] = found = event["type"], event["data"]
        return found


def spoilt(line: bytes) -> bool:
    """
    Whether a client of the platform could not read a line (C{docs/protocol.rst},
    "What the server writes").
    """
    return _SPOILT.search(line) is not None

"""
The rules of events: after their commit, in booking order, once each, to every
session whose token is good, and to nobody else; and from the place at which a session
asked to begin.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import define, field

from tests.family import eventData
from tests.simulation.history import (
    NEVER,
    Attempt,
    Booking,
    History,
    Moment,
    Publication,
    Reply,
    Talk,
    parse,
)
from tests.simulation.places import Places
from tests.simulation.world import Violation, World

# Whether a session must receive an event that is published now.
_NOT, _MAY, _MUST = "not", "maybe", "yes"
# Seconds for which a revoked token may still receive events.
_RECHECK = 1.0
# Characters that one of the platform's clients would corrupt.
_SPOILT = re.compile(rb",\s*[}\]]|'|[^\x20-\x7e]")

_FIRST = ["order", "login", "cmd", "state", "profit", "comment"]


# An event line, its position among all lines, and the moment when it left the server.
_Line = tuple[bytes, int, Moment]


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
                return _NOT
            isEdge = moment <= written
        if self.ended is not None:
            delivered, written = _span(self.ended)
            if moment > written:
                return _NOT
            isEdge = isEdge or moment >= delivered
        return _MAY if isEdge else state


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
    """

    _world: World
    _history: History
    _places: Places
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
            for part in _partsOf(talk):
                if part.isResumed:
                    self._checkResumed(talk, part)
                else:
                    self._checkLive(talk, part, published.get(talk.generation, []))

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
        order, and those since then without a seam.
        """
        assert part.begun is not None
        last = self._places.at(part.begun.intent.data["since"])
        about = talk.name, part.begun.extID
        if last is None:
            raise Violation("no-seam", "it goes on behind no place", about)
        for line, _, written in part.lines:
            place = self._places.at(self._judge(line)[1].get("cursor"))
            # Without a valid token events stop, and go on with those of then.
            mayMiss = talk.token.isLimited
            if place is None or place <= last or (place > last + 1 and not mayMiss):
                raise Violation(
                    "no-seam", f"place {place} comes after {last}: {line!r}", about
                )
            last = place
            journal = self._places.journal
            booking = journal[place - 1] if place <= len(journal) else None
            if booking is None or not self._isIt(line, booking):
                raise Violation("no-seam", f"{line!r} is not of place {place}", about)
            assert booking.applied is not None
            if written < booking.applied:
                raise Violation(
                    "event-after-commit", f"{line!r} was not on disk", about
                )

    def _checkLive(self, talk: Talk, part: _Part, published: list[Publication]) -> None:
        """
        Compare what was published with what a connection received.
        """
        got = iter(part.lines)
        line = next(got, None)
        states = _States(self._world, talk)
        isLost = talk.lostAt < float("inf")
        for each in published:
            isIt = line is not None and self._isIt(line[0], each)
            state = part.within(each.at, states.at(each))
            about = (talk.name, str(each.data.order))
            if isIt and state != _NOT:
                assert line is not None
                self.positions[talk, each] = line[1]
                if line[2] < each.at:
                    raise Violation("event", f"{line[0]!r} comes too early", about)
                line = next(got, None)
            elif not isIt and state == _MUST and (line is not None or not isLost):
                raise Violation(
                    "every-session", f"{talk.name} got no event of {each.data}", about
                )
        if line is not None:
            raise Violation(
                "no-other-event",
                f"{talk.name} got an event that was not for it, or was spoilt, or came"
                f" twice or in the wrong order: {line[0]!r}",
                (talk.name,),
            )

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


class _States:
    """
    The times at which a connection must receive events.
    """

    def __init__(self, world: World, talk: Talk) -> None:
        self._world = world
        self._talk = talk
        self._good = sorted(
            each.reply.written
            for each in talk.attempts
            if each.reply is not None and each.status == 200
        )
        # The time at which its token was accepted, whenever the reply was
        # sent.
        self._shown = [
            each.delivered
            for each in talk.attempts
            if each.delivered is not None and each.status == 200
        ]
        self._changes = sorted(self._changesOf(talk), key=lambda change: change[0])
        self._next = 0
        self._state = _NOT

    def _changesOf(self, talk: Talk) -> Iterator[tuple[Moment, str]]:
        """
        From its first good reply on a connection receives events, until it
        unsubscribes. While such a command is on its way, either is allowed.
        """
        state = _MUST
        for attempt in talk.attempts[:1]:
            yield attempt.delivered or NEVER, _MAY
        for good in self._good[:1]:
            yield good, state
        for attempt in talk.attempts:
            if attempt.intent.command not in ("Subscribe", "Unsubscribe"):
                continue
            yield attempt.delivered or NEVER, _MAY
            if attempt.reply is None:
                return
            if attempt.status == 200:
                isSubscribed = attempt.intent.command == "Subscribe"
                state = _MUST if isSubscribed else _NOT
            yield attempt.reply.written, state if self._isIn(attempt.reply) else _MAY

    def _isIn(self, reply: Reply) -> bool:
        """
        Whether a valid token was sent by then.
        """
        return bool(self._good) and self._good[0] <= reply.written

    def at(self, published: Publication) -> str:
        """
        Whether the connection must receive this event.
        """
        moment, changes, talk = published.at, self._changes, self._talk
        while self._next < len(changes) and changes[self._next][0] < moment:
            self._state = changes[self._next][1]
            self._next += 1
        state = self._state
        if self._next < len(changes) and changes[self._next][0] == moment:
            state = _MAY
        if moment >= min(talk.goodbye, talk.closed):
            return _MAY
        if state == _NOT or not talk.token.isLimited:
            return state
        return self._ofToken(published, state)

    def _ofToken(self, published: Publication, state: str) -> str:
        """
        The part of a state that remains if its token expires or was revoked.
        """
        token, now = self._talk.token, published.at[0]
        if token.revoked is not None and now >= token.revoked:
            return _NOT if now > token.revoked + _RECHECK else _MAY
        if token.expires is None:
            return state
        if published.wall >= token.expires:
            return _NOT
        last = max(
            (each[0] for each in self._shown if each < published.at), default=0.0
        )
        if self._world.wallBetween(last, now)[1] >= token.expires:
            # It was invalid for a while: the session has to send it again.
            return _MAY
        return state

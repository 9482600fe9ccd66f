"""
Who receives trade events.

A session does from the moment at which one of its tokens is accepted, unless it
has unsubscribed, and for as long as that token is valid (docs/protocol.rst,
"Trade events"). An event is encoded once: the sessions get it as a line, and the
requests that were waiting for it get its data as their replies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime

from creditsync import _wire as wire
from creditsync._conversation.catchups import CatchUps
from creditsync._conversation.waiters import Waiters
from creditsync._cursor import FIRST, cursorOf, placeIn
from creditsync.counters import Counters
from creditsync.errors import CursorGone, InvalidData
from creditsync.interfaces import IAuthenticator, IJournal, ISession
from creditsync.records import Located, Principal, Trade, TradeEvent


@define(eq=False, repr=False)
class Broadcast:
    """
    The sessions that receive trade events, each with the principal whose token
    allows it.
    """

    _authenticator: IAuthenticator
    _waiters: Waiters
    _counters: Counters | None = None
    _journal: IJournal | None = None
    _catchUps: CatchUps | None = None
    _receivers: dict[ISession, Principal] = Factory(dict)

    def start(self, clock: IReactorTime, journal: IJournal) -> None:
        """
        Publish the events of a journal from now on: all that it has were published.
        """
        self._journal = journal
        self._catchUps = CatchUps(
            clock, journal, self._authenticator.isCurrent, self.add, journal.head
        )

    def withCursor(self) -> dict[str, str]:
        """
        The member of a reply that has the place of the last event that was
        published, if events have places.
        """
        if self._journal is None or self._catchUps is None:
            return {}
        return {"cursor": cursorOf(self._journal.epoch, self._catchUps.published)}

    def located(self, data: Trade | Mapping[str, Any], place: int | None) -> Located:
        """
        A trade with the cursor of its last change, if that has a place.
        """
        if self._journal is None or place is None:
            return Located(data, None)
        return Located(data, cursorOf(self._journal.epoch, place))

    def placeOf(self, order: int) -> int | None:
        """
        The place of the last booked change of an order, if it has one.
        """
        return None if self._journal is None else self._journal.placeOf(order)

    def placeAt(self, cursor: str) -> int:
        """
        The place that a client has from an event.

        @raise InvalidData: Events have no places here.
        @raise CursorGone: It is of another journal, or ahead of this one.
        """
        if self._journal is None or self._catchUps is None:
            raise InvalidData(
                "data.since can't be used: this server's trading runtime has no journal"
            )
        if cursor == FIRST:
            return 0
        published = self._catchUps.published
        place = placeIn(cursor, self._journal.epoch, published)
        if place is None:
            raise CursorGone(cursorOf(self._journal.epoch, published))
        return place

    def add(
        self, session: ISession, principal: Principal, after: int | None = None
    ) -> None:
        """
        Send events to a session for as long as this principal is current.

        @param after: A place: begin with all events behind it.
        """
        if self._catchUps is not None:
            if after is not None:
                self._receivers.pop(session, None)
                self._catchUps.begin(session, principal, after)
                return
            if session in self._catchUps:
                self._catchUps.renew(session, principal)
                return
        self._receivers[session] = principal

    def remove(self, session: ISession) -> None:
        """
        Send no more events to a session.
        """
        self._receivers.pop(session, None)
        if self._catchUps is not None:
            self._catchUps.stop(session)

    def readOn(self, session: ISession) -> None:
        """
        The client of a session has read what it was sent.
        """
        if self._catchUps is not None:
            self._catchUps.readOn(session)

    def tradeEvents(self, events: Sequence[TradeEvent]) -> None:
        """
        Send events to all sessions that receive them, then answer the requests
        that were waiting for them: an event's line comes before its reply's.
        """
        if self._counters is not None:
            self._counters.publishing(events)
        epoch = None if self._journal is None else self._journal.epoch
        could, encoded = wire.encodeEvents(events, epoch)
        receivers = self._currentReceivers()
        if receivers and encoded:
            lines = wire.events([event.type for event in could], encoded)
            for session in receivers:
                session.send(lines)
        if self._catchUps is not None and events and events[-1].place is not None:
            self._catchUps.published = events[-1].place
        self._waiters.match(could, encoded)

    def _currentReceivers(self) -> list[ISession]:
        """
        The sessions whose token is still valid; the others are removed, until
        they send a valid one.
        """
        receivers = self._receivers
        isCurrent = self._authenticator.isCurrent
        for session in [s for s in receivers if not isCurrent(receivers[s])]:
            session.principal = None
            del receivers[session]
        return list(receivers)

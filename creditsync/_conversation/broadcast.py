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
from creditsync._cursor import FIRST, placeIn
from creditsync.counters import Counters
from creditsync.errors import CursorGone, InvalidData
from creditsync.interfaces import IAuthenticator, IJournal, ISession
from creditsync.records import Located, Principal, Response, Trade, TradeEvent


@define(eq=False, repr=False)
class Broadcast:
    """
    The sessions that receive trade events, each with the principal whose token
    allows it.
    """

    _authenticator: IAuthenticator
    _waiters: Waiters
    _counters: Counters | None = None
    # Of the journal in which events have their places, if there is one.
    _catchUps: CatchUps | None = None
    _receivers: dict[ISession, Principal] = Factory(dict)

    def start(self, clock: IReactorTime, journal: IJournal) -> None:
        """
        Publish the events of a journal from now on: all that it has were published.

        @param journal: It is open.
        """
        self._catchUps = CatchUps(
            clock,
            journal,
            self._authenticator.isCurrent,
            self.add,
            self._waiters,
            journal.head,
        )

    @property
    def catchingUp(self) -> int:
        """
        How many sessions are reading the journal.
        """
        return 0 if self._catchUps is None else len(self._catchUps)

    def withCursor(self) -> dict[str, str]:
        """
        The member of a reply that has the place of the last event that was
        published, if events have places.
        """
        catchUps = self._catchUps
        if catchUps is None:
            return {}
        return {"cursor": catchUps.cursorOf(catchUps.published)}

    def located(self, data: Trade | Mapping[str, Any], place: int | None) -> Response:
        """
        A trade with the cursor of its last change, if that has a place.
        """
        if self._catchUps is None or place is None:
            return data
        return Located(data, self._catchUps.cursorOf(place))

    def placeOf(self, order: int) -> int | None:
        """
        The place of the last booked change of an order, if it has one; if that is
        just being published, a place before it, so that none is ahead of L{placeAt}.
        """
        catchUps = self._catchUps
        place = None if catchUps is None else catchUps.journal.placeOf(order)
        if catchUps is None or place is None:
            return None
        return min(place, catchUps.published)

    def placeAt(self, cursor: str) -> int:
        """
        The place that a client has from an event.

        @raise InvalidData: Events have no places here.
        @raise CursorGone: It is of another journal, or ahead of this one.
        """
        catchUps = self._catchUps
        if catchUps is None:
            raise InvalidData(
                "data.since can't be used: this server's trading runtime has no journal"
            )
        if cursor == FIRST:
            return 0
        place = placeIn(cursor, catchUps.journal.epoch, catchUps.published)
        if place is None:
            raise CursorGone(catchUps.cursorOf(catchUps.published))
        return place

    def add(
        self, session: ISession, principal: Principal, after: int | None = None
    ) -> None:
        """
        Send events to a session for as long as this principal is current. One that
        is catching up goes on with that.

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

    def stop(self) -> None:
        """
        Read the journal no more: it will be closed.
        """
        if self._catchUps is not None:
            self._catchUps.stopAll()

    def tradeEvents(self, events: Sequence[TradeEvent]) -> None:
        """
        Send events to all sessions that receive them, then answer the requests
        that were waiting for them: an event's line comes before its reply's.
        """
        if self._counters is not None:
            self._counters.publishing(events)
        catchUps = self._catchUps
        epoch = None if catchUps is None else catchUps.journal.epoch
        could, encoded = wire.encodeEvents(events, epoch)
        receivers = self._currentReceivers()
        if receivers and encoded:
            lines = wire.events([event.type for event in could], encoded)
            for session in receivers:
                session.send(lines)
        if catchUps is not None and events and events[-1].place is not None:
            catchUps.published = events[-1].place
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

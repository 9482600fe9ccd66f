"""
Who receives trade events.

A session does from the moment at which one of its tokens is accepted, unless it
has unsubscribed, and for as long as that token is valid (docs/protocol.rst,
"Trade events"). It receives the events of the accounts that the token may see
(docs/protocol.rst, "Rights"). An event is encoded once: the sessions get it as a line,
and the requests that were waiting for it get its data as their replies.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from creditsync import _wire as wire
from creditsync._conversation.catchups import CatchUps
from creditsync._conversation.restricted import RestrictedReceivers
from creditsync._conversation.rights import Rights
from creditsync._conversation.waiters import Waiters
from creditsync._cursor import FIRST, placeIn
from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.counters import Counters
from creditsync.errors import Busy, CursorGone, InvalidData
from creditsync.interfaces import IAuthenticator, IClustered, IJournal, ISession
from creditsync.records import Located, Principal, Response, Trade, TradeEvent

# Seconds for which a place of another server is waited for.
_AHEAD: Final = 1.0


@define(eq=False, repr=False)
class Broadcast:
    """
    The sessions that receive trade events, each with the principal whose token
    allows it.

    @ivar _receivers: Those that may see all accounts.
    @ivar _ahead: Those that wait for a place which another server has published.
    """

    _authenticator: IAuthenticator
    _waiters: Waiters
    _counters: Counters | None = None
    _rights: Rights = Factory(Rights)
    # Of the journal in which events have their places, if there is one.
    _catchUps: CatchUps | None = None
    _receivers: dict[ISession, Principal] = Factory(dict)
    _ahead: "dict[ISession, Deferred[None]]" = Factory(dict)
    _restricted: RestrictedReceivers = Factory(
        lambda self: RestrictedReceivers(self._rights, self._authenticator.isCurrent),
        takes_self=True,
    )

    def start(self, clock: IReactorTime, journal: IJournal) -> None:
        """
        Publish the events of a journal from now on: all that it has were published.

        @param journal: It is open.
        """
        self._catchUps = CatchUps(
            clock,
            journal,
            self._authenticator.isCurrent,
            self._rights,
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

    def whenPublished(self, session: ISession, cursor: str) -> "Deferred[None] | None":
        """
        Wait for a place that a client may have from another server, which was quicker
        to publish it. What the session asks for meanwhile ends the wait.

        @return: Fires when L{placeAt} can tell, or L{None} if it can now. Fails with
            L{Busy} if that takes too long.
        """
        catchUps = self._catchUps
        if catchUps is None or not IClustered.providedBy(catchUps.journal):
            return None
        place = placeIn(cursor, catchUps.journal.epoch, MAX_SAFE_INTEGER)
        if place is None or place <= catchUps.published:
            return None
        self._forgetAhead(session)
        waiting: Deferred[None] = catchUps.journal.whenPublished(place)
        self._ahead[session] = waiting
        waiting.addTimeout(_AHEAD, catchUps.clock)

        def end(result: Any) -> Any:
            if self._ahead.get(session) is waiting:
                del self._ahead[session]
            return result

        return waiting.addBoth(end).addErrback(_stillAhead)

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
                self._forgetAhead(session)
                self._forget(session)
                self._catchUps.begin(session, principal, after)
                return
            if session in self._catchUps:
                self._catchUps.renew(session, principal)
                return
        self._forget(session)
        if self._rights.accounts(principal) is None:
            self._receivers[session] = principal
        else:
            self._restricted.add(session, principal)

    def remove(self, session: ISession) -> None:
        """
        Send no more events to a session.
        """
        self._forgetAhead(session)
        self._forget(session)
        if self._catchUps is not None:
            self._catchUps.stop(session)

    def _forgetAhead(self, session: ISession) -> None:
        waiting = self._ahead.pop(session, None)
        if waiting is not None:
            waiting.cancel()

    def _forget(self, session: ISession) -> None:
        self._receivers.pop(session, None)
        self._restricted.remove(session)

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
        Send events to all sessions that may see them, then answer the requests
        that were waiting for them: an event's line comes before its reply's.
        """
        if self._counters is not None:
            self._counters.publishing(events)
        catchUps = self._catchUps
        epoch = None if catchUps is None else catchUps.journal.epoch
        could, encoded = wire.encodeEvents(events, epoch)
        receivers, restricted = self._currentReceivers(), self._restricted
        if (receivers or restricted) and encoded:
            lines = wire.events([event.type for event in could], encoded)
            for session in receivers:
                session.send(lines)
            if restricted:
                restricted.send([event.login for event in could], lines)
        if catchUps is not None and events and events[-1].place is not None:
            catchUps.published = events[-1].place
        self._waiters.match(could, encoded)

    def _currentReceivers(self) -> list[ISession]:
        """
        The sessions that may see all accounts and whose token is still valid; the
        others are removed, until they send a valid one.
        """
        receivers = self._receivers
        isCurrent = self._authenticator.isCurrent
        for session in [s for s in receivers if not isCurrent(receivers[s])]:
            session.principal = None
            del receivers[session]
        return list(receivers)


def _stillAhead(why: Failure) -> None:
    """
    @raise Busy: The wait was ended before it was over.
    """
    why.trap(CancelledError, TimeoutError)
    raise Busy("this server has not yet heard of data.since") from why.value

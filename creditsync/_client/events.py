"""
The client's subscription to trade events.

It is made on each new connection, behind the last event that was taken, and kept
up while that lasts: the server stops sending events, without a notice, when the
token of the last command expires.

A server sends events to a connection as soon as it has accepted a token there.
Between a C{Subscribe} with C{since} and its reply they are ignored: whatever stands
behind that place comes after the reply, each event once and in order.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from creditsync._client.backoff import Backoff
from creditsync._client.cursors import Places, cursorOf
from creditsync._client.deliveries import Deliveries, Observer
from creditsync._client.lines import decodeEvent, encode
from creditsync._client.outcomes import Answer, CursorGone, Data, Refused
from creditsync._client.request import TEMPORARY, retryAfter
from creditsync.codes import TRADE_EVENT

# Seconds between two renewals.
RENEWAL = 30.0

# How a server refuses C{since} if its events have no cursors.
_UNSUPPORTED = frozenset({400, 404})

_log = Logger("creditsync.client")


class Subscription:
    """
    The trade events of one client.

    @ivar resumes: Whether the server's events have cursors; L{None} until it is
        known.
    @ivar _send: Sends an encoded command that belongs to no request, and returns
        its C{extID}.
    @ivar _place: Behind which event the next one is expected.
    @ivar _isCurrent: Whether what arrives comes next behind that place.
    @ivar _isHeld: Whether the server has been asked for a pause, since enough
        events wait for the observer.
    @ivar _asked: The C{extID} of the command that is to begin or end the events,
        while it has no reply.
    @ivar _since: The place behind which the last subscription asked for events.
    @ivar _isTokenRefused: Whether a token was refused since then, so that the server
        may have stopped the events.
    @ivar _refusal: Why events behind the place were refused, while it is to be
        found out whether the server has cursors at all.
    """

    def __init__(
        self,
        clock: IReactorTime,
        backoff: Backoff,
        send: Callable[[bytes], str],
    ) -> None:
        self.resumes: bool | None = None
        self._clock = clock
        self._backoff = backoff
        self._send = send
        self._deliveries: Deliveries | None = None
        self._places = Places()
        self._place: str | None = None
        self._isConnected = False
        self._isCurrent = False
        self._isHeld = False
        self._asked: str | None = None
        self._since: str | None = None
        self._refusal: Refused | None = None
        self._isTokenRefused = False
        self._failures = 0
        self._renewal: IDelayedCall | None = None
        self._hasComplained = False

    # The observer.

    def observe(self, observer: Observer, since: str | None) -> "Deferred[None]":
        """
        See L{CreditClient.events<creditsync.client.CreditClient.events>}.
        """
        if self._observed() is not None:
            raise RuntimeError("the trade events have an observer")
        ended: Deferred[None] = Deferred(lambda _: self._cancel())
        self._deliveries = Deliveries(
            self._clock, observer, self._drained, ended, since
        )
        self._places = Places()
        self._place = since
        self._isHeld = False
        if self._isConnected:
            self._ask()
        return ended

    @property
    def cursor(self) -> str | None:
        """
        See L{CreditClient.cursor<creditsync.client.CreditClient.cursor>}.
        """
        return None if self._deliveries is None else self._deliveries.cursor

    def _observed(self) -> Deliveries | None:
        """
        Where events go, if anyone wants them.
        """
        deliveries = self._deliveries
        return None if deliveries is None or deliveries.isOver else deliveries

    def _drained(self) -> None:
        if self._isHeld:
            self._isHeld = False
            if self._isConnected:
                self._ask()

    def _fail(self, error: Exception) -> None:
        deliveries = self._observed()
        assert deliveries is not None
        self._isCurrent = False
        deliveries.isOver = True
        self._ask()
        deliveries.end(error)

    def _cancel(self) -> None:
        assert self._deliveries is not None
        self._isCurrent = self._isHeld = False
        self._deliveries.isOver = True
        self._deliveries.drop()
        if self._isConnected:
            self._ask()

    def stop(self) -> None:
        """
        The client is stopped. If it is started again, the events go on behind the
        last one that the observer was called with.
        """
        self._isHeld = False
        self._places = Places()
        if self._deliveries is not None:
            self._deliveries.drop()
            self._place = self._deliveries.given

    # The way out.

    def begin(self) -> None:
        """
        Subscribe on a new connection; or unsubscribe if nobody observes, since the
        server sends events to every connection that has shown a valid token.
        """
        self._isConnected = True
        self._hasComplained = False
        self._failures = 0
        self._ask()

    def _ask(self, refusal: Refused | None = None) -> None:
        """
        Ask for the events behind the place, or for none.

        @param refusal: Why those behind the place were refused: ask for those from
            now on.
        """
        self._refusal = refusal
        self._asked = None
        self._isTokenRefused = False
        data: Data = {"chanels": [TRADE_EVENT]}
        if self._observed() is None or self._isHeld:
            self._isCurrent = False
            self._stopRenewal()
            self._tell("Unsubscribe", data)
            return
        self._isCurrent = self._place is None
        self._since = self._place if refusal is None else None
        if self._since is not None:
            data["since"] = self._since
        self._renewIn(RENEWAL)
        self._asked = self._tell("Subscribe", data)

    def _tell(self, command: str, data: Data) -> str | None:
        with _log.failureHandler("the subscription was not sent"):
            return self._send(encode(command, data))
        return None

    def _renewIn(self, seconds: float) -> None:
        self._stopRenewal()
        self._renewal = self._clock.callLater(seconds, self._renew)

    def _stopRenewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _renew(self) -> None:
        self._renewal = None
        # A connection that has lasted this long is a good one.
        self._backoff.reset()
        if not self._isCurrent or self._place is None:
            self._ask()
            return
        # Any command renews the token. Another C{Subscribe} would begin anew in
        # the middle of what is on its way.
        self._renewIn(RENEWAL)
        self._tell("HealthCheck", {})

    def end(self) -> None:
        """
        The connection is gone.
        """
        self._isConnected = self._isCurrent = False
        self._asked = None
        self._stopRenewal()

    # The way in.

    def received(self, members: Data) -> None:
        """
        Pass an event on to the observer.

        @raise UnexpectedLine: It is a malformed trade event.
        """
        deliveries = self._observed()
        if members["event"] != TRADE_EVENT or deliveries is None:
            return
        type, data = decodeEvent(members)
        cursor = cursorOf(data)
        self._backoff.reset()
        if cursor is not None and not self._takes(cursor, deliveries):
            return
        self._place = cursor
        deliveries.add(type, data)

    def _takes(self, cursor: str, deliveries: Deliveries) -> bool:
        """
        Whether the observer is to get this event now, and not after another
        subscription.
        """
        if not self._isCurrent:
            return False
        if cursor in self._places:
            self._complain("{cursor} came twice, the second is ignored", cursor=cursor)
            return False
        if deliveries.isFull:
            self._isHeld = True
            self._ask()
            return False
        if self._places.isBehind(cursor):
            self._complain("{cursor} came too late", cursor=cursor)
        self._places.add(cursor)
        return True

    def _complain(self, what: str, **values: Any) -> None:
        """
        Log a mistake of the server, the first one of a connection.
        """
        if not self._hasComplained:
            self._hasComplained = True
            _log.error(f"the server sends wrong events: {what}", **values)

    def replied(self, extID: str, reply: Answer | Refused) -> None:
        """
        A command that was sent here has its reply.
        """
        if isinstance(reply, Refused):
            _log.warn("the subscription was refused: {answer}", answer=reply)
            self.tokenJudged(reply)
            if extID == self._asked:
                self._asked = None
                self._refused(reply)
        elif extID == self._asked:
            self._asked = None
            self._subscribed(cursorOf(reply))

    def tokenJudged(self, reply: Answer | Refused) -> None:
        """
        Any request has its reply. If the server does not accept a token, it has
        stopped the events; once it accepts one again, those in between are to be
        asked for.
        """
        if self._place is None or self._observed() is None:
            return
        if isinstance(reply, Refused):
            if reply.status == 401:
                self._isTokenRefused = True
                self._isCurrent = False
        elif self._isTokenRefused and not self._isHeld and self._asked is None:
            self._ask()

    def _subscribed(self, head: str | None) -> None:
        """
        The events begin.

        @param head: The cursor of the newest one, if the server has cursors.
        """
        self._failures = 0
        if head is None:
            self._isCurrent = True
            self._hasNoCursors()
        elif self._refusal is not None:
            # So it is this place that the server does not accept.
            self._fail(self._refusal)
        else:
            self.resumes = self._isCurrent = True
            if self._place is None and self._deliveries is not None:
                self._place = head
                self._deliveries.beginAt(head)

    def _hasNoCursors(self) -> None:
        if self.resumes is not False:
            self.resumes = False
            _log.warn(
                "the events of this server have no cursors: those between two"
                " connections are missed"
            )

    def _refused(self, refusal: Refused) -> None:
        """
        The events don't begin. Without another try here, they will with the next
        renewal, or when the server accepts a token again.
        """
        if refusal.status == 410 and self._since is not None:
            self._fail(CursorGone(self._since, refusal))
        elif refusal.status in TEMPORARY:
            self._failures += 1
            self._renewIn(retryAfter(refusal) + self._backoff.delay(self._failures))
        elif refusal.status in _UNSUPPORTED and self._since is not None:
            self._ask(refusal)

"""
The client's subscription to trade events.

It is made on each new connection and renewed while that lasts: the server stops
sending events, without a notice, when the token of the last command expires.
"""

from collections.abc import Callable

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from creditsync._client.backoff import Backoff
from creditsync._client.lines import decodeEvent, encode
from creditsync._client.outcomes import Data
from creditsync.codes import TRADE_EVENT

# Seconds between two renewals.
RENEWAL = 30.0

_log = Logger("creditsync.client")


@define(eq=False)
class Subscription:
    """
    The trade events of one client.

    @ivar _observer: Called with the type and the data of each, if anyone wants
        them.
    @ivar _send: Sends an encoded command that belongs to no request.
    """

    _clock: IReactorTime
    _observer: Callable[[int, Data], object] | None
    _backoff: Backoff
    _send: Callable[[bytes], object]
    _renewal: IDelayedCall | None = None

    def begin(self) -> None:
        """
        Subscribe; or unsubscribe if nobody observes, since the server sends
        events to every connection that has shown a valid token.
        """
        command = "Unsubscribe" if self._observer is None else "Subscribe"
        body = encode(command, {"chanels": [TRADE_EVENT]})
        with _log.failureHandler("the subscription was not sent"):
            self._send(body)
        if self._observer is not None:
            self._renewal = self._clock.callLater(RENEWAL, self._renew)

    def _renew(self) -> None:
        # A connection that has lasted this long is a good one.
        self._backoff.reset()
        self.begin()

    def end(self) -> None:
        """
        The connection is gone.
        """
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def received(self, members: Data) -> None:
        """
        Pass an event on to the observer.

        @raise UnexpectedLine: It is a malformed trade event.
        """
        if members["event"] != TRADE_EVENT or self._observer is None:
            return
        type, data = decodeEvent(members)
        self._backoff.reset()
        with _log.failureHandler("the observer of trade events failed"):
            self._observer(type, data)

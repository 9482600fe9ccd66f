"""
A connection to the platform that is made again, with jitter, whenever it is lost. A
gateway has one for its operations, and one for the commands that it passes on.
"""

import os
from collections.abc import Callable
from itertools import count
from typing import Final

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from creditsync._client.backoff import Backoff
from creditsync._client.connection import Connection
from creditsync._timeouts import EqualTimeouts
from creditsync.gateway._tokenfile import TokenFile

# Seconds without any line after which a connection on which a reply is overdue is given
# up.
SILENCE: Final = 10.0


class Link:
    """
    What every such connection has.

    @ivar problem: Why there is no connection, for people.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        token: TokenFile,
        random: Callable[[], float],
        timeout: float,
    ) -> None:
        """
        @param token: The gateway's own.
        @param random: Returns a number from 0 to 1.
        @param timeout: Seconds to wait for a reply, after which its outcome is unknown.
        """
        self._clock = clock
        self._token = token
        self._backoff = Backoff(random)
        self._connection: Connection | None = None
        self.problem = "the gateway has not connected yet"
        # No reply to an earlier process can be taken for one to this.
        self._prefix = os.urandom(4).hex()
        self._numbers = count(1)
        self._timeouts: EqualTimeouts[str] = EqualTimeouts(
            clock, timeout, self._timedOut
        )
        factory = Factory.forProtocol(lambda: Connection(self, clock, SILENCE))
        factory.noisy = False
        self._service = ClientService(
            endpoint, factory, self._backoff.reconnectDelay, clock
        )

    def _newExtID(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def stop(self) -> "Deferred[None]":
        """
        Disconnect. The outcome of what is in flight is unknown then.
        """
        stopped: Deferred[None] = self._service.stopService()
        if self._connection is not None:
            connection = self._connection
            self.disconnected(connection)
            connection.cutOff()
        return stopped

    def connected(self, connection: Connection) -> None:
        """
        See L{Owner.connected<creditsync._client.connection.Owner.connected>}.
        """
        if not self._service.running:
            connection.cutOff()
            return
        self._connection = connection
        self._opened()

    def _opened(self) -> None:
        """
        There is a new connection.
        """
        raise NotImplementedError

    def disconnected(self, connection: Connection) -> None:
        """
        See L{Owner.disconnected<creditsync._client.connection.Owner.disconnected>}.
        """
        raise NotImplementedError

    def uselessConnection(self, cause: str, isPermanent: bool) -> None:
        """
        See L{Owner.uselessConnection
        <creditsync._client.connection.Owner.uselessConnection>}.
        """
        self.problem = cause

    def lineReceived(self, line: bytes) -> None:
        """
        See L{Owner.lineReceived<creditsync._client.connection.Owner.lineReceived>}.
        """
        raise NotImplementedError

    def lineTooLong(self, beginning: bytes) -> None:
        """
        See L{Owner.lineTooLong<creditsync._client.connection.Owner.lineTooLong>}.
        Another connection would bring such a line again.
        """
        raise NotImplementedError

    def _timedOut(self, extID: str) -> None:
        """
        The reply to a request is overdue.
        """
        raise NotImplementedError

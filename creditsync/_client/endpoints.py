"""
Several servers that act as one, for a client that needs only one of them.
"""

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from zope.interface import implementer

# Seconds that each of several may take: a machine that is gone does not refuse.
_TIMEOUT: Final = 3.0


@implementer(IStreamClientEndpoint)
class InTurn:
    """
    Endpoints that are tried in turn. Each attempt begins behind the one that was
    connected last, and fails when all have.
    """

    def __init__(
        self, endpoints: Sequence[IStreamClientEndpoint], clock: IReactorTime
    ) -> None:
        self._endpoints = list(endpoints)
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[IProtocol]":
        """
        See L{IStreamClientEndpoint.connect}.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        endpoints = self._endpoints
        left = len(endpoints)
        while True:
            left -= 1
            # Whatever becomes of it, the next one is tried next.
            endpoints.append(endpoint := endpoints.pop(0))
            try:
                connecting: Deferred[IProtocol] = endpoint.connect(factory)
                return await connecting.addTimeout(_TIMEOUT, self._clock)
            except CancelledError:
                raise
            except Exception:
                if not left:
                    raise

"""
Why there is no connection to the platform, in words.

What fails before a connection is made is learned here; what ends one, as a certificate
that can't be verified, is learned from the connection itself.
"""

from collections.abc import Callable

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

_REASONS: dict[type[Exception], str] = {
    ConnectionRefusedError: "it refuses the connection: is that its port?",
    DNSLookupError: "its name is not known",
    TimeoutError: "it does not take the connection in time",
    TCPTimedOutError: "it does not take the connection in time",
}


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Explained:
    """
    An endpoint that tells why it could not connect.

    @ivar _failed: Called with the reason.
    """

    _endpoint: IStreamClientEndpoint
    _failed: Callable[[str], object]

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[IProtocol]":
        """
        See L{IStreamClientEndpoint.connect}.
        """
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connecting.addErrback(self._explain)

    def _explain(self, why: Failure) -> Failure:
        if not why.check(CancelledError):
            kind = why.check(*_REASONS)
            self._failed(why.getErrorMessage() if kind is None else _REASONS[kind])
        return why

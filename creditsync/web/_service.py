"""
The site as a service: what C{--web} adds to a server.
"""

import re
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure
from twisted.web.server import Request, Site

from creditsync._transport import listening
from creditsync.web.root import Root

# Bytes in the body of a request: nothing longer than a token is ever sent.
_MAX_BODY: Final = 16_384

# What an endpoint that names no interface listens on.
_LOOPBACK: Final = {"tcp": "127.0.0.1", "ssl": "127.0.0.1", "tcp6": r"\:\:1"}


def onLoopback(description: str) -> str:
    """
    The description of an endpoint, on loopback if it names no interface; for all
    interfaces use C{interface=0.0.0.0}.
    """
    kind, *parts = re.split(r"(?<!\\):", description)
    unnamed = [part for part in parts if "=" not in part]
    isAround = kind == "ssl" and unnamed and not unnamed[0].isdigit()
    if isAround or kind == "haproxy":
        # It wraps an endpoint of another kind.
        return f"{kind}:{onLoopback(description.removeprefix(f'{kind}:'))}"
    isNamed = any(part.startswith("interface=") for part in parts)
    # It may also be given without a name, as in tcp:8081:127.0.0.1.
    if kind not in _LOOPBACK or isNamed or len(unnamed) > 1:
        return description
    return f"{description}:interface={_LOOPBACK[kind]}"


class BoundedRequest(Request):
    """
    A request with a bounded body.
    """

    _isTooLong = False

    def handleContentChunk(self, data: bytes) -> None:
        """
        Take a part of the body, or end the connection if it is too long.
        """
        length = 0 if self.content is None else self.content.tell()
        if self._isTooLong or length + len(data) > _MAX_BODY:
            self._isTooLong = True
            self.channel.forceAbortClient()
            return
        super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Process the request, unless its body was too long.
        """
        if not self._isTooLong:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]


class WebSite(Site):
    """
    A site without an access log: it gets requests every few seconds.
    """

    requestFactory = BoundedRequest
    noisy = False

    def log(self, request: Any) -> None:
        """
        See L{twisted.web.http.HTTPFactory.log}.
        """


class Web(Service):
    """
    The site of one server, on one endpoint.
    """

    name = "web"

    def __init__(self, reactor: Any, description: str, root: Root) -> None:
        """
        @param description: As L{onLoopback} takes it.
        """
        self._root = root
        self._site = WebSite(root, reactor=reactor)  # type: ignore[no-untyped-call]
        self._endpoint = listening.endpoint(reactor, onLoopback(description))
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """
        Take the port.

        @raise twisted.internet.error.CannotListenError: It is taken.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        outcome: list[IListeningPort | Failure] = []
        # All of Twisted's endpoints listen at once.
        self._endpoint.listen(self._site).addBoth(outcome.append)
        for port in outcome:
            if isinstance(port, Failure):
                port.raiseException()
            else:
                self._port = port

    def startService(self) -> None:
        """
        Start measuring, and serve.
        """
        super().startService()  # type: ignore[no-untyped-call]
        self._root.start()
        if self._port is None:
            self.privilegedStartService()

    def reload(self) -> None:
        """
        Read the certificate of the endpoint again.
        """
        listening.reload([self._endpoint])

    def stopService(self) -> "Deferred[None]":
        """
        Close the port, and end the feeds.

        @return: Fires when the port is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._root.stop()
        port, self._port = self._port, None
        stopped = None if port is None else port.stopListening()
        return succeed(None) if stopped is None else stopped

"""
The yardstick: the least that a Twisted server does for a line.

A bare L{LineReceiver}, which answers each line with one canned reply under the
line's own C{extID}, after one canned event to whoever has subscribed. Its lines
are as long as those of creditsync.

C{python -m benchmarks.peers.echo PORT}
"""

import sys
from typing import Any

from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver

from benchmarks.canned import EVENT, HEAD, TAIL
from benchmarks.traffic import EXT_ID

_event = EVENT.removesuffix(b"\r\n")
_tail = TAIL.removesuffix(b"\r\n")
_audience: "set[Echo]" = set()


class Echo(LineReceiver):
    """
    One connection.
    """

    MAX_LENGTH = 65536
    transport: Any

    def connectionMade(self) -> None:
        """
        Disable Nagle's algorithm, as creditsync does.
        """
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line: bytes) -> None:
        """
        Reply to the first line, which is a subscription, and from then on to
        all others.
        """
        if b'"command":"Subscribe"' in line:
            _audience.add(self)
        self.lineReceived = self._lineReceived  # type: ignore[method-assign]
        self._reply(line)

    def _lineReceived(self, line: bytes) -> None:
        for each in _audience:
            each.sendLine(_event)  # type: ignore[no-untyped-call]
        self._reply(line)

    def _reply(self, line: bytes) -> None:
        self.sendLine(HEAD + line[EXT_ID] + _tail)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: object = None) -> None:
        """
        Stop sending it events.
        """
        _audience.discard(self)


def main() -> None:
    """
    Serve on the port on the command line.
    """
    from twisted.internet import reactor

    port = int(sys.argv[1])
    factory = ServerFactory.forProtocol(Echo)
    reactor.listenTCP(port, factory, 1024, "127.0.0.1")  # type: ignore[arg-type]
    reactor.run()


if __name__ == "__main__":
    main()

"""
The yardstick: the least that a Twisted server does for a line.

A bare L{LineReceiver}, which answers each line with one canned reply under the
line's own C{extID}. Lines and replies are as long as those of creditsync.
"""

import sys
from typing import Any

from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver

from benchmarks.canned import HEAD, TAIL
from benchmarks.traffic import EXT_ID

_tail = TAIL.removesuffix(b"\r\n")


class Echo(LineReceiver):
    """
    One connection.
    """

    MAX_LENGTH = 65536
    transport: Any

    def connectionMade(self) -> None:
        """
        Send at once, as creditsync does.
        """
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line: bytes) -> None:
        """
        Answer.
        """
        self.sendLine(HEAD + line[EXT_ID] + _tail)  # type: ignore[no-untyped-call]


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

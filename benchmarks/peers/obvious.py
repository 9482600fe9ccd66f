"""
The obvious Twisted server: each step as the documentation of its library shows
it, one C{callLater} for each request.

C{python -m benchmarks.peers.obvious PORT KEYFILE LEDGER [group]}: one commit for
each request, or for all that were queued in one turn of the reactor.
"""

import json
import sys
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver

from benchmarks.peers import common


class Conversation(LineReceiver):
    """
    One connection.
    """

    MAX_LENGTH = 65536
    factory: "Server"
    transport: Any

    def connectionMade(self) -> None:
        """
        Every session receives every event, until it unsubscribes.
        """
        self.transport.setTcpNoDelay(True)
        self.factory.audience.add(self)

    def connectionLost(self, reason: object = None) -> None:
        """
        Stop sending it events.
        """
        self.factory.audience.discard(self)

    def lineReceived(self, line: bytes) -> None:
        """
        Handle one request.
        """
        request = {}
        try:
            request = json.loads(line)
            self.factory.requests.validate(request)
            self.factory.tokens.check(request["__token"])
            self.factory.execute(self, request)
        except Exception as e:
            refusal = {"status": 400, "error": "INVALID_DATA", "message": str(e)}
            self.send(common.encode({"extID": request.get("extID"), **refusal}))

    def send(self, line: bytes) -> None:
        """
        Send a line.
        """
        self.sendLine(line)  # type: ignore[no-untyped-call]


class Server(ServerFactory):
    """
    The state that all connections share.
    """

    protocol = Conversation  # type: ignore[assignment]

    def __init__(
        self, reactor: Any, tokens: common.Tokens, ledger: common.Ledger, group: bool
    ) -> None:
        self.audience: set[Conversation] = set()
        self.tokens = tokens
        self.requests = common.validator("request")
        self._credits = common.validator("credit_in")
        self._reactor = reactor
        self._ledger = ledger
        self._inGroups = group
        self._queue: list[dict[str, Any]] = []
        self._waiters: dict[int, tuple[Conversation, object, IDelayedCall]] = {}

    def execute(self, session: Conversation, request: dict[str, Any]) -> None:
        """
        Execute one request.
        """
        command, extID = request["command"], request["extID"]
        if command == "CreditInSync":
            self._credit(session, extID, request["data"])
        elif command in common.SUBSCRIPTIONS:
            change = "add" if command == "Subscribe" else "discard"
            getattr(self.audience, change)(session)
            session.send(common.reply(extID, {}))
        else:
            raise ValueError("unknown command")

    def _credit(
        self, session: Conversation, extID: object, data: dict[str, Any]
    ) -> None:
        self._credits.validate(data)
        trade = self._ledger.trade(data)
        timer = self._reactor.callLater(common.TIMEOUT, self._timedOut, trade["order"])
        self._waiters[trade["order"]] = session, extID, timer
        self._queue.append(trade)
        if not self._inGroups:
            self._commit()
        elif len(self._queue) == 1:
            self._reactor.callLater(0, self._commit)

    def _commit(self) -> None:
        trades, self._queue = self._queue, []
        self._ledger.book(trades)
        for trade in trades:
            self._publish(trade)

    def _publish(self, trade: dict[str, Any]) -> None:
        if self.audience:
            event = common.event(trade)
            for each in self.audience:
                each.send(event)
        waiter = self._waiters.pop(trade["order"], None)
        if waiter is not None:
            session, extID, timer = waiter
            timer.cancel()
            session.send(common.reply(extID, trade))

    def _timedOut(self, order: int) -> None:
        session, extID, _ = self._waiters.pop(order)
        timeout = {"status": 504, "error": "SYNC_TIMEOUT", "data": {"order": order}}
        session.send(common.encode({"extID": extID, **timeout}))


def main() -> None:
    """
    Serve as the command line says.
    """
    from twisted.internet import reactor

    port, key, ledger, *group = sys.argv[1:]
    factory = Server(
        reactor,
        common.Tokens.fromFile(key),
        common.Ledger.create(ledger),
        bool(group),
    )
    reactor.listenTCP(int(port), factory, 1024, "127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()

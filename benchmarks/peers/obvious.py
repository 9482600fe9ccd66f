"""
The obvious Twisted version: each step as the documentation of its library
shows it, one C{callLater} for each request.

C{python -m benchmarks.peers.obvious PORT KEYFILE LEDGER [group]}: one commit for
each request, or for all that came in one turn of the reactor.
"""

import json
import sys
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver

from benchmarks.peers import house


class Conversation(LineReceiver):
    """
    One connection.
    """

    MAX_LENGTH = 65536
    factory: "House"
    transport: Any

    def connectionMade(self) -> None:
        """
        Every session receives every event, until it says otherwise.
        """
        self.transport.setTcpNoDelay(True)
        self.factory.audience.add(self)

    def connectionLost(self, reason: object = None) -> None:
        """
        It listens no longer.
        """
        self.factory.audience.discard(self)

    def lineReceived(self, line: bytes) -> None:
        """
        Take one request.
        """
        request = {}
        try:
            request = json.loads(line)
            self.factory.requests.validate(request)
            self.factory.tokens.check(request["__token"])
            self.factory.execute(self, request)
        except Exception as e:
            refusal = {"status": 400, "error": "INVALID_DATA", "message": str(e)}
            self.say(house.encode({"extID": request.get("extID"), **refusal}))

    def say(self, line: bytes) -> None:
        """
        Send a line.
        """
        self.sendLine(line)  # type: ignore[no-untyped-call]


class House(ServerFactory):
    """
    All that the connections share.
    """

    protocol = Conversation  # type: ignore[assignment]

    def __init__(
        self, reactor: Any, tokens: house.Tokens, ledger: house.Ledger, group: bool
    ) -> None:
        self.audience: set[Conversation] = set()
        self.tokens = tokens
        self.requests = house.validator("request")
        self._credits = house.validator("credit_in")
        self._reactor = reactor
        self._ledger = ledger
        self._inGroups = group
        self._queue: list[dict[str, Any]] = []
        self._waiters: dict[int, tuple[Conversation, object, IDelayedCall]] = {}

    def execute(self, session: Conversation, request: dict[str, Any]) -> None:
        """
        Carry one request out.
        """
        command, extID = request["command"], request["extID"]
        if command == "CreditInSync":
            self._credit(session, extID, request["data"])
        elif command in house.SUBSCRIPTIONS:
            change = "add" if command == "Subscribe" else "discard"
            getattr(self.audience, change)(session)
            session.say(house.reply(extID, {}))
        else:
            raise ValueError("no such command")

    def _credit(
        self, session: Conversation, extID: object, data: dict[str, Any]
    ) -> None:
        self._credits.validate(data)
        trade = self._ledger.trade(data)
        timer = self._reactor.callLater(house.TIMEOUT, self._timedOut, trade["order"])
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
            event = house.event(trade)
            for each in self.audience:
                each.say(event)
        waiter = self._waiters.pop(trade["order"], None)
        if waiter is not None:
            session, extID, timer = waiter
            timer.cancel()
            session.say(house.reply(extID, trade))

    def _timedOut(self, order: int) -> None:
        session, extID, _ = self._waiters.pop(order)
        timeout = {"status": 504, "error": "SYNC_TIMEOUT", "data": {"order": order}}
        session.say(house.encode({"extID": extID, **timeout}))


def main() -> None:
    """
    Serve as the command line says.
    """
    from twisted.internet import reactor

    port, key, ledger, *group = sys.argv[1:]
    factory = House(
        reactor,
        house.Tokens.fromFile(key),
        house.Ledger.create(ledger),
        bool(group),
    )
    reactor.listenTCP(int(port), factory, 1024, "127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()

"""
Tests for L{tests.crash.following}.
"""

import json
import socket
import sqlite3
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from creditsync.ledger._opening import upgrade
from creditsync.ledger._schema import SCRIPTS
from tests.crash.following import Follower
from tests.crash.record import Violation

NOW = 1_790_000_000
SUBSCRIBED = {"extID": "s", "status": 200, "data": {"chanels": ["trade:event"]}}


class FollowerTests(SynchronousTestCase):
    """
    Tests for L{Follower}, with a server that sends what a test says.
    """

    def setUp(self) -> None:
        """
        Make a ledger whose journal has two credits, and follow it.
        """
        self.ledger = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.ledger.close)
        upgrade(self.ledger, ":memory:", SCRIPTS)
        for place in (1, 2):
            self.ledger.execute(
                f"INSERT INTO journal VALUES ({', '.join('?' * 21)})",
                [
                    *(place, 0, place, 1001, 7, 3, 300_00000000 * place, "x"),
                    *(NOW, NOW, NOW, 0, 0),
                    *(7, 1, "CreditIn", 0, None, None, None, bytes(32)),
                ],
            )
        self.port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.port.close)
        self.follower = Follower("TOKEN")
        self.server = self.accept()

    def accept(self) -> socket.socket:
        """
        Have the follower connect.
        """
        self.follower.connect(self.port.getsockname()[1])
        server, _ = self.port.accept()
        self.addCleanup(server.close)
        return server

    def say(self, *messages: dict[str, Any]) -> None:
        """
        Send lines, and have the follower receive them.
        """
        lines = [json.dumps(each).encode() + b"\r\n" for each in messages]
        self.server.sendall(b"".join(lines))
        self.follower.receive()

    def event(self, place: int, profit: float = 0.0) -> dict[str, Any]:
        """
        The event of a place.
        """
        data = {
            "order": place,
            "login": 1001,
            "cmd": 7,
            "state": 3,
            "profit": profit or 300.0 * place,
            "comment": "x",
            "open_time": NOW,
            "close_time": NOW,
            "timestamp": NOW,
            "cursor": f"9f3c1a7e-{place}",
        }
        return {"event": "trade:event", "type": 0, "data": data}

    def assertViolation(self, words: str, *messages: dict[str, Any]) -> None:
        """
        Send lines, and assert that they are a violation.
        """
        with self.assertRaisesRegex(Violation, words):
            self.say(*messages)

    def test_begins(self) -> None:
        """
        It asks for all of the journal first.
        """
        request = json.loads(self.server.recv(1000))
        self.assertEqual(request["data"]["since"], "first")

    def test_resumes(self) -> None:
        """
        On its next connection it goes on behind the last event, and what comes before
        the reply does not count.
        """
        self.say(SUBSCRIBED, self.event(1))
        self.follower.drop()
        self.server = self.accept()
        request = json.loads(self.server.recv(1000))
        self.assertEqual(request["data"]["since"], "9f3c1a7e-1")
        self.say(self.event(7), SUBSCRIBED, self.event(2))
        self.assertEqual(self.follower.place, 2)
        self.follower.check(self.ledger)

    def test_deadServer(self) -> None:
        """
        What a dead server has sent is received too, but for a line that was cut off.
        """
        lines = [SUBSCRIBED, self.event(1), self.event(2)]
        text = b"\r\n".join(json.dumps(each).encode() for each in lines)
        self.server.sendall(text)
        self.server.close()
        self.follower.drop(isDead=True)
        self.assertEqual(self.follower.place, 1)

    def test_gap(self) -> None:
        """
        A place that is left out is a violation.
        """
        self.assertViolation("after place 0 of None", SUBSCRIBED, self.event(2))

    def test_twice(self) -> None:
        """
        An event that comes twice is a violation.
        """
        twice = self.event(1), self.event(1)
        self.assertViolation("after place 1 of 9f3c1a7e", SUBSCRIBED, *twice)

    def test_otherEpoch(self) -> None:
        """
        A cursor of another life of the ledger is a violation.
        """
        other = self.event(2)
        other["data"]["cursor"] = "0badcafe-2"
        self.assertViolation("after place 1", SUBSCRIBED, self.event(1), other)

    def test_gone(self) -> None:
        """
        A place that is refused is a violation.
        """
        gone = {"extID": "s", "status": 410, "error": "CURSOR_GONE", "message": "x"}
        self.assertViolation("behind place 0", gone)

    def test_otherTrade(self) -> None:
        """
        An event that is not what the ledger has at its place is a violation.
        """
        self.say(SUBSCRIBED, self.event(1), self.event(2, profit=5.0))
        with self.assertRaisesRegex(Violation, "^place 2 has "):
            self.follower.check(self.ledger)

    def test_notOnDisk(self) -> None:
        """
        An event that the ledger does not have is a violation.
        """
        self.say(SUBSCRIBED, *map(self.event, (1, 2, 3)))
        with self.assertRaisesRegex(Violation, "^place 3 has None"):
            self.follower.check(self.ledger)

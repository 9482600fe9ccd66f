"""
Tests for lines of the platform that are longer than any that the gateway reads, which
here have more than a hundred bytes.
"""

from typing import Any

from twisted.logger import globalLogPublisher

from creditsync._client import lines
from creditsync.gateway._outcomes import Kind
from tests.test_gateway_passing import PassingTestCase
from tests.test_gateway_upstream import UpstreamTestCase

# The rest of a line, but for its end.
REST = b"x" * 200


class PassedTests(PassingTestCase):
    """
    The connection for commands that are passed on.
    """

    def setUp(self) -> None:
        """
        Have two clients' commands in flight.
        """
        super().setUp()
        self.patch(lines, "MAX_REPLY_LENGTH", 100)
        self.send(extID=1)
        self.send(extID=2)
        self.first, self.second = [each["extID"] for each in self.passed()]

    def platform(self, data: bytes) -> None:
        """
        Have the platform send some bytes.
        """
        self.endpoint.protocols[-1].dataReceived(data)
        self.wait(0)

    def test_dropped(self) -> None:
        """
        A reply that is too long ends nothing but what it is the reply to, as soon as
        that is known. What is in it is never taken for another line.
        """
        begun = b'{"extID":"%s","status":200,"data":"' % self.first.encode()
        for piece in (begun, REST, REST):
            self.platform(piece)
        [unknown] = self.received()
        self.assertEqual((unknown["extID"], unknown["status"]), (1, 504))
        reply = b'{"extID":"%s","status":200,"data":%d}\r\n'
        self.platform(reply % (self.second.encode(), 6))
        self.assertEqual(self.received(), [])
        self.platform(reply % (self.second.encode(), 5))
        self.assertEqual(self.received(), [{"extID": 2, "status": 200, "data": 5}])
        self.assertEqual(len(self.endpoint.transports), 1)
        self.assertFalse(self.endpoint.transports[0].disconnecting)

    def test_atOnce(self) -> None:
        """
        So does one that arrives at once, between other lines.
        """
        long, short = (
            b'{"extID":"%s","status":200,"data":"%s"}\r\n' % (extID.encode(), data)
            for extID, data in ((self.first, REST), (self.second, b"5"))
        )
        self.platform(short + long)
        self.assertEqual(self.refusals(), [(200, ""), (504, "SYNC_TIMEOUT")])

    def test_endless(self) -> None:
        """
        One that never ends is not waited for longer than any other reply.
        """
        for _ in range(16):
            self.platform(REST)
            self.wait(1)
        self.assertEqual(self.refusals(), [(504, "SYNC_TIMEOUT")] * 2)
        self.send(extID=3)
        for _ in range(16):
            self.send(extID=4)
            self.platform(REST)
            self.wait(1)
        self.assertTrue(self.endpoint.transports[0].disconnecting)


class LongUpstreamTests(UpstreamTestCase):
    """
    The connection of operations.
    """

    def test_tooLong(self) -> None:
        """
        A line that is too long is dropped, which is logged and counted. What is in
        flight goes on, and the connection does.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.sent()
        logged: list[Any] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        self.patch(lines, "MAX_REPLY_LENGTH", 100)
        self.receive(b'{"event":"symbols","data":"' + REST + REST + b'"}')
        self.reply(200, {"order": 5})
        self.assertIs(self.successResultOf(asked).kind, Kind.DONE)
        self.assertEqual(self.upstream.figures.dropped, 1)
        self.assertTrue(self.upstream.isConnected)
        self.assertIn(
            "a line of the platform is dropped: it has more than",
            [each["log_format"][:51] for each in logged],
        )

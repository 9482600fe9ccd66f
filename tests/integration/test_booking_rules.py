"""
Tests for rules of a site with a real server: they hold over a kill, and are read again
at SIGHUP.
"""

import signal

import pytest
from processes import LISTEN, SERVE, Server
from test_operations import OperationsTestCase

pytestmark = pytest.mark.timeout(60, method="thread")

ADAY = """
[[limit]]
name = "a day"
max-per-day = 1000
"""


class BookingRulesTests(OperationsTestCase):
    """
    Tests for C{--limits}.
    """

    def setUp(self) -> None:
        """
        Write a file of rules.
        """
        super().setUp()
        self.rules = self.site.folder / "limits.toml"
        self.rules.write_text(ADAY)

    def serve(self) -> Server:
        """
        Start a server.
        """
        server = self.launch(*SERVE, *LISTEN, "--limits", str(self.rules))
        server.waitForPort()
        return server

    def credits(self, server: Server, count: int) -> list[tuple[int, str]]:
        """
        Ask for credits of 300 at once.

        @return: The status of each and what was refused, in the order of the status.
        """
        client = server.connect()
        client.send(*(f"c{number}" for number in range(count)))
        replies = client.replies()
        found = [next(replies) for _ in range(count)]
        client.close()
        return sorted((each["status"], each.get("message", "")) for each in found)

    def test_killed(self) -> None:
        """
        What was booked before the server was killed counts after the next start.
        """
        server = self.serve()
        assert self.credits(server, 2) == [(200, ""), (200, "")]
        server.signal(signal.SIGKILL)
        server.end()
        server = self.serve()
        assert self.credits(server, 3) == [
            (200, ""),
            *[
                (
                    409,
                    'the limit "a day" allows at most 1000.0 a day for each principal,'
                    " which this would exceed",
                )
            ]
            * 2,
        ]
        assert "Traceback" not in self.log(server)

    def test_reloaded(self) -> None:
        """
        At SIGHUP new rules come into force, which count what was booked before; a
        wrong file changes nothing.
        """
        server = self.serve()
        assert [status for status, _ in self.credits(server, 4)] == [200, 200, 200, 409]
        self.rules.write_text(ADAY.replace("1000", "1500"))
        server.signal(signal.SIGHUP)
        self.waitForLine(server, "limits.toml are in force: a day.")
        assert [status for status, _ in self.credits(server, 3)] == [200, 200, 409]
        self.rules.write_text(ADAY + 'limit = "none"')
        server.signal(signal.SIGHUP)
        self.waitForLine(
            server, "limit 1: unknown member limit; the previous ones stay in force."
        )
        assert [status for status, _ in self.credits(server, 1)] == [409]
        self.rules.write_text("limit = []")
        server.signal(signal.SIGHUP)
        self.waitForLine(server, "limits.toml are in force: none.")
        assert [status for status, _ in self.credits(server, 2)] == [200, 200]
        assert "Traceback" not in self.log(server)

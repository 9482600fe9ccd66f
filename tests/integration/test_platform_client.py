"""
Tests of the finance methods with a client that reads as the platform's own
clients do: C{platform_client.js}, written after their observed behaviour.
"""

import json
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import skipUnless

import pytest
from processes import LISTEN, SECRET, SERVE, Server, Site
from twisted.trial.unittest import SynchronousTestCase

from creditsync.auth import mint

pytestmark = pytest.mark.proof

CLIENT = Path(__file__).parent / "platform_client.js"
NODE = shutil.which("node")

ADD, UPDATE, DELETE = 0, 1, 2
BOOKED, DELETED = 3, 6
BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9

# Characters that a client that "repairs" a line before it parses it, or that
# reads packet by packet, would corrupt.
COMMENTS = (
    "it's his 'bonus'",
    "'},{'",
    "a,}b,]c",
    "a, }b,  ]c",
    "a,\t}b,\n]c,\r\n}",
    "a,\u00a0}b,\u2003]c",
    '{"event":"trade:event","extID":"e1"}',
    "Prämie für Łukasz: 300 €",
    "🎉" * 255,
    "\u2028\u2029\ufeff",
    '"quoted" \\ \\u0027 \\n',
    "\\",
    " two  spaces ",
    "\ttab\r\nline\n",
)


class PlatformClient:
    """
    The client's process.
    """

    def __init__(self, port: int) -> None:
        assert NODE is not None
        self.process = subprocess.Popen(
            [NODE, str(CLIENT), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.token = mint(SECRET, id=7, role=1, expires=86400, now=time.time())
        self.events: list[dict[str, Any]] = []
        self._sent = 0

    def ask(self, command: str, extID: Any = None, **data: Any) -> dict[str, Any]:
        """
        Send a request as these clients do, and wait for its reply.
        """
        assert self.process.stdin is not None
        self._sent += 1
        extID = f"ext-{self._sent}" if extID is None else extID
        request = {
            "command": command,
            "data": {"__access": {"type": 3}, **data},
            "from": "crm",
            "extID": extID,
            "__token": self.token,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = self._reply()
        assert reply.pop("extID") == extID
        return reply

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, message = json.loads(line)
            if what == "event":
                self.events.append(message)
                continue
            assert what == "reply", message
            reply: dict[str, Any] = message
            return reply
        raise AssertionError("the client has ended")

    def close(self) -> None:
        """
        End it.
        """
        self.process.kill()
        self.process.communicate(timeout=10)


def _brief(trade: dict[str, Any]) -> tuple[Any, ...]:
    """
    The members of a trade that depend on the command.
    """
    names = ("order", "cmd", "state", "profit", "comment")
    return tuple(trade[name] for name in names)


@skipUnless(NODE, "there is no node on PATH")
class PlatformClientTests(SynchronousTestCase):
    """
    Tests with the real server and a client of the platform.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Site(Path(folder.name))
        self.addCleanup(self.site.killAll)
        self.server: Server = self.site.start(*SERVE, *LISTEN)
        self.client = PlatformClient(self.server.port)
        self.addCleanup(self.client.close)

    def booked(self, eventType: int, command: str, **data: Any) -> dict[str, Any]:
        """
        Send a request that is booked, and check its event and its reply.
        """
        seen = len(self.client.events)
        reply = self.client.ask(command, **data)
        (event,) = self.client.events[seen:]
        assert event == {
            "event": "trade:event",
            "type": eventType,
            "data": event["data"],
        }
        trade: dict[str, Any] = event["data"]
        if command.endswith("Sync"):
            assert reply == {"status": 200, "data": trade}
        else:
            assert reply == {
                "status": 200,
                "data": {
                    "accepted": True,
                    "order": trade["order"],
                    "state": 10 + eventType,
                    "login": trade["login"],
                    "cmd": trade["cmd"],
                    "amount": trade["profit"],
                },
            }
        return trade

    def test_family(self) -> None:
        """
        Each command books, updates or deletes as its name says, in both its
        forms.
        """
        for form in ("Sync", ""):
            for method, cmd, amount, corrected in (
                ("CreditIn", CREDIT_IN, 300.25, 150),
                ("CreditOut", CREDIT_OUT, -0.00000001, -149.99999999),
                ("BalanceIn", BALANCE_IN, 1000, 0.1),
                ("BalanceOut", BALANCE_OUT, -0.01, -0.1),
            ):
                command = f"{method}{form}"
                new = self.booked(
                    ADD, command, login=1001, amount=amount, comment="first"
                )
                order = new["order"]
                updated = self.booked(
                    *(UPDATE, command),
                    login=1001,
                    amount=corrected,
                    comment="second",
                    order=order,
                )
                assert _brief(new) == (order, cmd, BOOKED, amount, "first")
                assert _brief(updated) == (order, cmd, BOOKED, corrected, "second")
                if cmd in (CREDIT_OUT, BALANCE_OUT):
                    kind = method.removesuffix("Out")
                    deleted = self.booked(DELETE, f"Delete{kind}{form}", order=order)
                    assert _brief(deleted) == (order, cmd, DELETED, corrected, "second")

    def test_defaultComment(self) -> None:
        """
        A balance operation without a comment has the platform's.
        """
        trade = self.booked(ADD, "BalanceInSync", login=1001, amount=5)
        assert trade["comment"] == "Finance"

    def test_comments(self) -> None:
        """
        Every comment comes back unchanged, in events and in replies.
        """
        for comment in COMMENTS:
            trade = self.booked(
                ADD, "CreditInSync", login=1001, amount=1, comment=comment
            )
            assert trade["comment"] == comment

    def test_extIDs(self) -> None:
        """
        The client's own C{extID} comes back with its type.
        """
        for extID in (1, -(2**53) + 1, "1", "it's,}é🎉", " ", "\\"):
            assert self.client.ask("HealthCheck", extID)["status"] == 200

    def test_errors(self) -> None:
        """
        Each refusal is a reply that the client can read, and the connection
        stays open after it.
        """
        order = self.booked(ADD, "CreditInSync", login=1001, amount=1, comment="one")[
            "order"
        ]
        credit = {"login": 1001, "amount": 1, "comment": "it's"}
        for status, error, command, data in (
            (400, "INVALID_DATA", "CreditInSync", {**credit, "amount": -1}),
            (400, "INVALID_DATA", "CreditIn", {**credit, "comment": ""}),
            (400, "INVALID_DATA", "BalanceOut", {"login": "it's", "amount": -1}),
            (404, "UNKNOWN_COMMAND", "AddUser", {}),
            (404, "NOT_FOUND", "DeleteCredit", {"order": order + 1}),
            (404, "NOT_FOUND", "GetOperation", {"order": order + 1}),
            (404, "NOT_FOUND", "Subscribe", {"chanels": ["EURUSD"]}),
            (409, "INCORRECT_ORDER", "DeleteBalanceSync", {"order": order}),
            (
                409,
                "INCORRECT_ORDER",
                "CreditIn",
                {**credit, "order": order, "login": 2},
            ),
            (409, "TRADE_NO_MONEY", "CreditOutSync", {**credit, "amount": -2}),
        ):
            reply = self.client.ask(command, **data)
            assert (reply["status"], reply["error"]) == (status, error)
            assert reply["message"]
        assert self.client.ask("GetOperation", order=order)["data"]["profit"] == 1

    def test_badToken(self) -> None:
        """
        A bad token is answered under the request's C{extID}, and a good one on
        the same connection is accepted afterwards.
        """
        good, self.client.token = self.client.token, "expired"
        assert self.client.ask("HealthCheck")["error"] == "UNAUTHORIZED"
        self.client.token = mint(SECRET, id=8, role=0, expires=60, now=time.time())
        reply = self.client.ask("CreditIn", login=1001, amount=1, comment="mine")
        assert reply["error"] == "FORBIDDEN"
        assert "'" in reply["message"]
        self.client.token = good
        assert self.client.ask("HealthCheck")["data"]["status"] == "ok"

    def test_subscription(self) -> None:
        """
        Events can be turned off and on, for this connection only.
        """
        other = self.server.connect()
        other.sendUntilTaken("other")
        self.client.ask("Unsubscribe", chanels=["trade:event"])
        seen = len(self.client.events)
        self.client.ask("BalanceInSync", login=1001, amount=5)
        assert len(self.client.events) == seen
        self.client.ask("Subscribe", chanels=["trade:event"])
        self.booked(ADD, "BalanceInSync", login=1001, amount=6)
        events = (message for message in other.messages() if "event" in message)
        profits = [next(events)["data"]["profit"] for _ in range(3)]
        assert profits == [300, 5, 6]
        other.close()

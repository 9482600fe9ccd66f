"""
Tests for L{creditsync._cli.requests}.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred

from creditsync._cli import requests
from creditsync.client import Answer, OutcomeUnknown, Refused, Unanswered
from tests.test_cli_operations import TRADE, ClientTestCase, full

# As the client gives what the server has accepted.
ACCEPTED = {
    "accepted": True,
    "order": 1242284,
    "state": 17,
    "login": 1001,
    "cmd": 7,
    "amount": Decimal("25000.0"),
}
CREATE = (
    *("requests", "create", "credit-in", "--login", "1001"),
    *("--amount", "25000", "--comment", "For the move"),
)
STRUCTURE = [
    "order",
    "login",
    "cmd",
    "state",
    "profit",
    "comment",
    "timestamp",
    "group",
]
# Made at 2026-11-22 15:44:00 UTC.
ROW = [1242284, 1001, 7, 17, Decimal("25000.0"), "For the move", 1795362240, "real"]


def found(*rows: list[Any]) -> Answer:
    """
    What a search has found.
    """
    return Answer({"structure": STRUCTURE, "rows": list(rows)}, False)


class CreateTests(ClientTestCase):
    """
    C{creditsync requests create}.
    """

    def answer(self, *arguments: str) -> str:
        """
        Run a command that is accepted, and return what it prints.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            ended = self.begin(*arguments)
            self.client.answers[-1].callback(Answer(ACCEPTED, False))
        self.assertEqual(self.successResultOf(ended), 0)
        return said.getvalue()

    def test_request(self) -> None:
        """
        Each kind has its C{cmd}, and withdrawals have negative amounts.
        """
        for kind, more, data in (
            (
                "credit-in",
                ("--comment", "x", "--key=k"),
                {"login": 1001, "cmd": 7, "amount": Decimal("0.1"), "comment": "x"},
            ),
            (
                "credit-out",
                ("--comment", "x", "--key=k"),
                {"login": 1001, "cmd": 9, "amount": Decimal("-0.1"), "comment": "x"},
            ),
            (
                "balance-in",
                ("--key=k",),
                {"login": 1001, "cmd": 6, "amount": Decimal("0.1")},
            ),
            (
                "balance-out",
                ("--key=k",),
                {"login": 1001, "cmd": 8, "amount": Decimal("-0.1")},
            ),
        ):
            self.begin(
                *("requests", "create", kind, "--login=1001", "--amount=0.1", *more)
            )
            self.assertEqual(
                self.client.requests.pop(), ("MngCreateFinanceRequest", data, "k")
            )

    def test_text(self) -> None:
        """
        The request is printed on one line, like a trade.
        """
        self.assertEqual(
            self.answer(*CREATE),
            "order 1242284  login 1001  credit-in 25000.0  For the move"
            "  waits for approval\n",
        )

    def test_defaultComment(self) -> None:
        """
        The server's own comment of a balance operation is printed too.
        """
        said = self.answer("requests", "create", "balance-in", *CREATE[3:7])
        self.assertIn("  Finance  waits for approval\n", said)

    def test_json(self) -> None:
        """
        With C{--json} the line is exactly the data of the reply.
        """
        self.assertEqual(
            self.answer(*CREATE, "--json"),
            '{"accepted":true,"order":1242284,"state":17,"login":1001,"cmd":7,'
            '"amount":25000.0}\n',
        )

    def test_status(self) -> None:
        """
        Until the answer comes, the outcome is unknown.
        """
        options, _, work = self.command(*CREATE)
        ended = Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))
        self.assertEqual(options.status, 4)
        with full() as out, redirect_stdout(out), redirect_stderr(io.StringIO()):
            self.client.answers[-1].callback(Answer(ACCEPTED, False))
        self.assertEqual(options.status, 0)
        self.assertEqual(self.successResultOf(ended), 0)

    def test_mistakes(self) -> None:
        """
        What is wrong on the command line is named.
        """
        for arguments, named in (
            (["requests"], "ACTION"),
            (["requests", "create"], "kind"),
            (["requests", "create", "promotion", *CREATE[3:]], "kind"),
            (["requests", "create", "credit-in", *CREATE[5:]], "--login"),
            (["requests", "create", "credit-in", *CREATE[3:5]], "--amount"),
            ([*CREATE, "--login=0"], "--login"),
            ([*CREATE, "--amount=-5"], "--amount"),
            ([*CREATE, "--comment=caf\udce9"], "--comment"),
            (["requests", "create", "credit-out", *CREATE[3:7]], "--comment"),
            (["requests", "approve"], "ORDER"),
            (["requests", "approve", "5", "0"], "ORDER"),
            (["requests", "decline"], "ORDER"),
            (["requests", "decline", "5", "--comment=caf\udce9"], "--comment"),
            (["requests", "list", "5"], "5"),
        ):
            *_, said = self.assertMistake(*arguments).splitlines()
            self.assertIn("error: ", said)
            self.assertIn(named, said)


class ListTests(ClientTestCase):
    """
    C{creditsync requests list}.
    """

    def test_text(self) -> None:
        """
        A line for each request that waits has its time, its account with its group, and
        what is asked for.
        """
        withdrawal = [1242285, 1002, 8, 17, Decimal("-0.5"), "a\nb", 1795362241, ""]
        said = io.StringIO()
        with redirect_stdout(said):
            ended = self.begin("requests", "list")
            self.client.answers[0].callback(found(ROW, withdrawal))
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(
            said.getvalue(),
            "since                      order       login  group         kind"
            "                 amount  comment\n"
            "2026-11-22T15:44:00Z     1242284        1001  real          credit-in"
            "          25000.00  For the move\n"
            "2026-11-22T15:44:01Z     1242285        1002                balance-out"
            "           -0.50  a\\nb\n",
        )

    def test_json(self) -> None:
        """
        With C{--json} each request is a JSON object on a line of its own.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            ended = self.begin("requests", "list", "--json")
            self.client.answers[0].callback(found(ROW, ROW))
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(
            said.getvalue(),
            '{"order":1242284,"login":1001,"cmd":7,"state":17,"profit":25000.0,'
            '"comment":"For the move","timestamp":1795362240,"group":"real"}\n' * 2,
        )

    def test_pages(self) -> None:
        """
        A page that is full is followed by one behind its last order, until one is not
        full.
        """
        self.patch(requests, "_PAGE", 2)
        said = io.StringIO()
        with redirect_stdout(said):
            ended = self.begin("requests", "list")
            self.client.answers[0].callback(found([5, *ROW[1:]], [8, *ROW[1:]]))
            self.assertNoResult(ended)
            self.client.answers[1].callback(found())
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(
            self.client.requests,
            [
                (
                    "MngGetTradesByFilter",
                    {"where": [["state", "==", 17], ["order", ">", last]], "limit": 2},
                    None,
                )
                for last in (0, 8)
            ],
        )
        lines = said.getvalue().splitlines()
        self.assertEqual([line.split()[1] for line in lines], ["order", "5", "8"])

    def test_unprintable(self) -> None:
        """
        A list that can't be printed has failed.
        """
        with full() as out, redirect_stdout(out):
            ended = self.begin("requests", "list")
            self.client.answers[0].callback(found(ROW))
        self.failureResultOf(ended, OSError)


class DecideTests(ClientTestCase):
    """
    C{creditsync requests approve} and C{creditsync requests decline}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.out, self.complaint = io.StringIO(), io.StringIO()
        self.enter = [redirect_stdout(self.out), redirect_stderr(self.complaint)]

    def decide(self, *arguments: str) -> "Deferred[int]":
        """
        Begin to decide about orders.
        """
        for each in self.enter:
            each.__enter__()
            self.addCleanup(each.__exit__, None, None, None)
        return self.begin("requests", *arguments)

    def booked(self, order: int) -> Answer:
        """
        The data of a reply.
        """
        return Answer({**TRADE, "order": order}, False)

    def test_approve(self) -> None:
        """
        An order is approved by the C{Sync} command, and the booked trade is printed.
        """
        ended = self.decide("approve", "1242281")
        [(command, data, _)] = self.client.requests
        self.assertEqual(
            (command, data), ("MngApproveFinanceRequestSync", {"order": 1242281})
        )
        self.client.answers[0].callback(Answer(TRADE, False))
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(
            self.out.getvalue(),
            "order 1242281  login 1001  credit-in 300.0  Promotion credit  booked\n",
        )

    def test_decline(self) -> None:
        """
        An order is declined with a comment or without one.
        """
        reply = {**ACCEPTED, "state": 18}
        for more, data, comment in (
            ((), {"order": 1242284}, ""),
            (("--comment", "No"), {"order": 1242284, "comment": "No"}, "No  "),
        ):
            ended = self.decide("decline", "1242284", *more)
            (command, asked, _) = self.client.requests[-1]
            self.assertEqual((command, asked), ("MngDeclineFinanceRequest", data))
            self.client.answers[-1].callback(Answer(reply, False))
            self.assertEqual(self.successResultOf(ended), 0)
            self.assertEqual(
                self.out.getvalue().splitlines()[-1],
                f"order 1242284  login 1001  credit-in 25000.0  {comment}declined",
            )

    def test_several(self) -> None:
        """
        Several orders are decided one after the other, each once, also those behind one
        that is refused.
        """
        ended = self.decide("approve", "5", "6", "5", "7")
        self.assertEqual(len(self.client.requests), 1)
        self.client.answers[0].callback(self.booked(5))
        self.client.answers[1].errback(Refused(409, "TRADE_NO_MONEY", "no money"))
        self.client.answers[2].callback(self.booked(7))
        self.assertEqual(self.successResultOf(ended), 3)
        self.assertEqual([d["order"] for _, d, _ in self.client.requests], [5, 6, 7])
        self.assertEqual(
            [line.split()[1] for line in self.out.getvalue().splitlines()], ["5", "7"]
        )
        self.assertEqual(
            self.complaint.getvalue(),
            "creditsync requests approve: order 6: refused: no money (409"
            " TRADE_NO_MONEY)\n",
        )

    def test_unknown(self) -> None:
        """
        An unknown outcome is the worst, and names its order and its key.
        """
        ended = self.decide("approve", "5", "6", "7")
        self.client.answers[0].errback(OutcomeUnknown("silence", None, "k1"))
        self.client.answers[1].errback(Refused(404, "NOT_FOUND", "no order"))
        self.client.answers[2].callback(self.booked(7))
        self.assertEqual(self.successResultOf(ended), 4)
        said = self.complaint.getvalue()
        self.assertIn("approve: order 5: silence", said)
        self.assertIn("(idempotencyKey k1)", said)

    def test_unanswered(self) -> None:
        """
        If the server can't be reached any more, the orders that are left are printed,
        and what was done before stays printed.
        """
        ended = self.decide("approve", "5", "6", "7")
        self.client.answers[0].callback(self.booked(5))
        self.client.answers[1].errback(Unanswered("no answer in time"))
        self.assertEqual(self.successResultOf(ended), 1)
        self.assertEqual(
            self.complaint.getvalue(),
            "creditsync requests approve: no answer in time; left: 6, 7\n",
        )
        self.assertIn("order 5", self.out.getvalue())

    def test_stopped(self) -> None:
        """
        A signal leaves the outcome of the order that is asked for unknown, and the
        others are left.
        """
        options, _, work = self.command("requests", "approve", "5", "6")
        for each in self.enter:
            each.__enter__()
            self.addCleanup(each.__exit__, None, None, None)
        ended = Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))
        self.assertEqual(options.status, 4)
        self.stopped.callback(None)
        self.assertEqual(self.successResultOf(ended), 4)
        unknown, left = self.complaint.getvalue().splitlines()
        self.assertIn("approve: order 5: the client was stopped", unknown)
        self.assertEqual(left, "creditsync requests approve: interrupted; left: 6")

"""
Tests for L{creditsync._cli.call}.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred

from creditsync._cli import call
from creditsync.client import OutcomeUnknown
from tests.test_cli_operations import ClientTestCase, full


class CallTests(ClientTestCase):
    """
    C{creditsync call}.
    """

    def setUp(self) -> None:
        """
        Have the fake client note calls too.
        """
        super().setUp()
        self.patch(
            call, "runWithClient", lambda *arguments: self.runs.append(arguments)
        )
        self.client.call = self.client.request

    def answer(self, data: Any) -> str:
        """
        What is printed if the platform replies so.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            ended = self.begin("call", "GetSymbols")
            self.client.answers[-1].callback(data)
        self.assertEqual(self.successResultOf(ended), 0)
        return said.getvalue()

    def test_request(self) -> None:
        """
        The command and its data are sent as they are given.
        """
        self.begin("call", "MngGetUserStats", "--data", '{"login":1001,"at":0.1}')
        self.begin("call", "GetSymbols")
        (_, data, _), _ = self.client.requests
        self.assertEqual(
            self.client.requests,
            [
                ("MngGetUserStats", {"login": 1001, "at": data["at"]}, None),
                ("GetSymbols", {}, None),
            ],
        )

    def test_printed(self) -> None:
        """
        The data of the reply is printed as JSON on one line, in ASCII and with every
        digit.
        """
        for data, printed in (
            ([["EURUSD", Decimal("1.10")]], '[["EURUSD",1.10]]\n'),
            ({"name": "Zürich\n"}, '{"name":"Z\\u00fcrich\\n"}\n'),
            (None, "null\n"),
            ("}", '"}"\n'),
        ):
            self.assertEqual(self.answer(data), printed)

    def test_status(self) -> None:
        """
        A signal ends it with the status for an unknown outcome once it is sent, and
        with 0 once it is answered. What can't be printed changes nothing.
        """
        options, _, work = self.command("call", "GetSymbols")
        with (
            full() as out,
            redirect_stdout(out),
            redirect_stderr(io.StringIO()) as said,
        ):
            ended = Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))
            self.assertEqual(options.status, 4)
            self.client.answers[-1].callback([1])
        self.assertEqual(options.status, 0)
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertIn("No space left on device): [1]", said.getvalue())

    def test_stopped(self) -> None:
        """
        A signal stops the client, which tells whether it may have been carried out.
        """
        ended = self.begin("call", "GetSymbols")
        self.stopped.callback(None)
        self.failureResultOf(ended, OutcomeUnknown)

    def test_mistakes(self) -> None:
        """
        Data that is not an object of I-JSON is refused, and so is what moves money:
        without a key it could be booked twice.
        """
        for arguments, why in (
            (("GetSymbols", "--data", "[1]"), "--data: is not a JSON object: [1]"),
            (("GetSymbols", "--data", "{"), "--data: is not valid JSON: "),
            (
                ("GetSymbols", "--data", '{"n":9007199254740993}'),
                "--data: an integer is not between",
            ),
            (("GetSymbols", "--data", '{"c":"\udce9"}'), "--data: must be UTF-8"),
            (("CreditInSync",), "CreditInSync moves money, which needs a key"),
            ((), "the following arguments are required: COMMAND"),
        ):
            self.assertIn(why, self.assertMistake("call", *arguments))

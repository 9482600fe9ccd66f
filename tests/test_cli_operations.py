"""
Tests for L{creditsync._cli.connection}, L{creditsync._cli.operations} and
L{creditsync._cli.watch}.
"""

import contextlib
import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import main
from creditsync._cli import (
    account,
    connection,
    operations,
    requests,
    show,
    stopping,
    watch,
)
from creditsync._cli.connection import principalOf, workAndExit
from creditsync._client.approving import FinanceRequests
from creditsync.client import Answer, CursorGone, OutcomeUnknown, Refused, Unanswered

# As the client gives it.
TRADE = {
    "order": 1242281,
    "login": 1001,
    "cmd": 7,
    "state": 3,
    "profit": Decimal("300.0"),
    "comment": "Promotion credit",
}
# At 2026-11-22 15:44:00 UTC.
EVENT = {**TRADE, "timestamp": 1795362240}
# The payload is {"id":7,"role":1,"exp":9999999999}.
TOKEN = "e30.eyJpZCI6Nywicm9sZSI6MSwiZXhwIjo5OTk5OTk5OTk5fQ.c2ln"


@contextlib.contextmanager
def full() -> Iterator[TextIO]:
    """
    A stream to a disk that is full.
    """
    with contextlib.suppress(OSError), open("/dev/full", "w") as stream:
        yield stream


class FakeClient(FinanceRequests):
    """
    A client that notes its requests.

    @ivar requests: The command, data and key of each request.
    @ivar answers: The Deferreds of their answers, in the same order.
    """

    def __init__(self, reactor: Any = None) -> None:
        self.running = False
        self.connected: Deferred[None] = Deferred()
        self.health: list[Deferred[Any]] = []
        self.requests: list[tuple[str, Mapping[str, Any], str | None]] = []
        self.answers: list[Deferred[Any]] = []
        self.stops = 0
        self.cursor: str | None = None
        self.resumes: bool | None = None

    def startService(self) -> None:
        """
        Run.
        """
        self.running = True

    def whenConnected(self, failAfterFailures: int) -> "Deferred[None]":
        """
        Return L{connected}, the result of the first attempt.
        """
        assert failAfterFailures == 1
        return self.connected

    def healthCheck(self) -> "Deferred[Any]":
        """
        Note a health check.
        """
        self.health.append(Deferred())
        return self.health[-1]

    def events(
        self, observer: Callable[[int, Any], object], since: str | None = None
    ) -> "Deferred[None]":
        """
        Note an observer.
        """
        self.observer, self.since = observer, since
        self.cursor = since
        self.ended: Deferred[None] = Deferred()
        return self.ended

    def observe(self, type: int, data: dict[str, Any]) -> None:
        """
        Call the observer, and note the event's cursor.
        """
        if not self.ended.called:
            self.observer(type, data)
            self.cursor = data.get("cursor")

    def request(
        self, command: str, data: Mapping[str, Any], key: str | None = None
    ) -> "Deferred[Any]":
        """
        Note a request.
        """
        if self.stops:
            return fail(Unanswered(f"{command}: the client is not running"))
        self.requests.append((command, data, key))
        self.answers.append(Deferred())
        return self.answers[-1]

    def getOperation(
        self, *, order: int | None = None, key: str | None = None
    ) -> "Deferred[Any]":
        """
        Note a look-up.
        """
        return self.request("GetOperation", {"order": order, "key": key})

    def getTradesByFilter(self, **members: Any) -> "Deferred[Any]":
        """
        Note a search.
        """
        return self.request("MngGetTradesByFilter", members)

    def stopService(self) -> "Deferred[None]":
        """
        End what is pending, as the real client does.
        """
        self.running = False
        self.stops += 1
        for answer in self.answers:
            if not answer.called:
                answer.errback(OutcomeUnknown("the client was stopped", 5, "k1"))
        return succeed(None)


class Reactor(MemoryReactorClock):
    """
    A reactor that can also remove a trigger before its stop.
    """

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """
        Remove it.
        """
        self.triggers["before"]["shutdown"].clear()


class ClientTestCase(SynchronousTestCase):
    """
    A test of commands that talk to a server, with a fake client.
    """

    def setUp(self) -> None:
        """
        Put a token in the environment, and nothing else.
        """
        self.patch(os, "environ", {"CREDITSYNC_TOKEN": TOKEN})
        self.patch(connection, "settleProcess", lambda reactor: None)
        self.patch(stopping, "handleSignals", lambda reactor, status: None)
        self.client: Any = FakeClient()
        self.clock = Clock()
        self.stopped: Deferred[None] = Deferred()
        self.runs: list[tuple[Any, ...]] = []
        for module in (account, operations, requests, show, watch):
            self.patch(
                module, "runWithClient", lambda *arguments: self.runs.append(arguments)
            )

    def command(self, *arguments: str) -> tuple[Any, ...]:
        """
        Run the command until it would connect. Returns the arguments of
        C{runWithClient}: the options, the token, the work, and more.
        """
        self.patch(sys, "argv", ["creditsync", *arguments])
        main()
        return self.runs.pop()

    def begin(self, *arguments: str) -> "Deferred[int]":
        """
        Run the command, and start its work.
        """
        work = self.command(*arguments)[2]
        return Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))

    def assertMistake(self, *arguments: str) -> str:
        """
        The command exits with status 2. Returns what it prints to stderr.
        """
        said = io.StringIO()
        with redirect_stderr(said):
            e = self.assertRaises(SystemExit, self.command, *arguments)
        self.assertEqual(e.code, 2)
        return said.getvalue()


class RequestTests(ClientTestCase):
    """
    The requests that each command sends.
    """

    def requestOf(self, *arguments: str) -> tuple[str, dict[str, Any], str | None]:
        """
        The request that a command sends.
        """
        self.begin(*arguments)
        (request,) = self.client.requests
        self.client.requests.clear()
        return request  # type: ignore[no-any-return]

    def test_bookings(self) -> None:
        """
        Each method has its own command, and withdrawals have negative amounts.
        """
        for arguments, command, data in [
            (
                ("credit-in", "1001", "300", "Promotion credit"),
                "CreditInSync",
                {"login": 1001, "amount": 300, "comment": "Promotion credit"},
            ),
            (
                ("credit-out", "1001", "5", "Back"),
                "CreditOutSync",
                {"login": 1001, "amount": -5, "comment": "Back"},
            ),
            (
                ("balance-in", "1001", "300"),
                "BalanceInSync",
                {"login": 1001, "amount": 300},
            ),
            (
                ("balance-out", "1001", "5", "Card"),
                "BalanceOutSync",
                {"login": 1001, "amount": -5, "comment": "Card"},
            ),
        ]:
            self.assertEqual(self.requestOf(*arguments), (command, data, None))

    def test_amountIsExact(self) -> None:
        """
        An amount keeps all of its digits, with and without a sign.
        """
        digits = "123456789012345678901234567890.12345678"
        for name, sign in (("credit-in", ""), ("credit-out", "-")):
            _, data, _ = self.requestOf(name, "1", digits, "x")
            self.assertEqual(str(data["amount"]), sign + digits)

    def test_options(self) -> None:
        """
        The order, the times and the key are sent if they are given.
        """
        self.assertEqual(
            self.requestOf(
                *("credit-in", "1001", "0.1", "x", "--order=5", "--key=k 1"),
                *("--open-time=1700000000", "--close-time=1700000001"),
            ),
            (
                "CreditInSync",
                {
                    "login": 1001,
                    "amount": Decimal("0.1"),
                    "comment": "x",
                    "order": 5,
                    "open_time": 1700000000,
                    "close_time": 1700000001,
                },
                "k 1",
            ),
        )

    def test_delete(self) -> None:
        """
        Credits and balances are each deleted by their own command.
        """
        self.assertEqual(
            self.requestOf("delete", "credit", "5"),
            ("DeleteCreditSync", {"order": 5}, None),
        )
        self.assertEqual(
            self.requestOf("delete", "balance", "5", "--key", "k1"),
            ("DeleteBalanceSync", {"order": 5}, "k1"),
        )

    def test_show(self) -> None:
        """
        C{show} looks a trade up by its order or by a key.
        """
        self.assertEqual(
            self.requestOf("show", "5"),
            ("GetOperation", {"order": 5, "key": None}, None),
        )
        self.assertEqual(
            self.requestOf("show", "--key", "k1"),
            ("GetOperation", {"order": None, "key": "k1"}, None),
        )

    def test_accountSet(self) -> None:
        """
        C{account set} moves an account to a group, or to none.
        """
        for group in ("real\\gold", ""):
            self.assertEqual(
                self.requestOf("account", "set", "1001", "--group", group),
                ("MngSetAccountGroup", {"login": 1001, "group": group}, None),
            )

    def test_mistakes(self) -> None:
        """
        Arguments that can't make a valid request are refused.
        """
        for arguments in [
            ["account", "set", "1001"],
            ["account", "set", "--group=a"],
            ["account", "set", "0", "--group=a"],
            ["account", "set", "1001", "--group=a*"],
            ["account", "set", "1001", "1002", "--group=a"],
            ["credit-in", "1001", "300"],
            ["credit-in", "0", "300", "x"],
            ["credit-in", "1.0", "300", "x"],
            ["credit-in", "9007199254740992", "300", "x"],
            ["credit-in", "1001", "0", "x"],
            ["credit-in", "1001", "0.00", "x"],
            ["credit-in", "1001", "-5", "x"],
            ["credit-out", "1001", "-5", "x"],
            ["credit-in", "1001", "1e2", "x"],
            ["credit-in", "1001", "1,000", "x"],
            ["credit-in", "1001", "NaN", "x"],
            ["credit-in", "1001", ".", "x"],
            ["credit-in", "1001", "٣", "x"],
            ["credit-in", "1001", "5", "x", "--order=0"],
            ["credit-in", "1001", "5", "x", "--timeout=0"],
            ["credit-in", "1001", "5", "x", "--timeout=nan"],
            ["delete", "promotion", "5"],
            ["delete", "credit"],
            ["show"],
            ["show", "5", "--key=k"],
        ]:
            self.assertIn("error: ", self.assertMistake(*arguments))


class AnswerTests(ClientTestCase):
    """
    What each command prints, and how it ends.
    """

    def answer(self, data: dict[str, Any], *arguments: str) -> str:
        """
        Run a command that gets this answer, and return what it prints.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            ended = self.begin(*arguments)
            members = dict(data)
            isReplay = members.pop("replayed", False)
            self.client.answers[-1].callback(Answer(members, isReplay))
        self.assertEqual(self.successResultOf(ended), 0)
        return said.getvalue()

    def test_text(self) -> None:
        """
        The trade is printed on one line.
        """
        self.assertEqual(
            self.answer(TRADE, "credit-in", "1001", "300", "Promotion credit"),
            "order 1242281  login 1001  credit-in 300.0  Promotion credit  booked\n",
        )

    def test_kinds(self) -> None:
        """
        Each kind of trade and each state has its name; an unknown one has its
        number.
        """
        for cmd, state, words in [
            (6, 3, ("balance-in", "booked")),
            (8, 6, ("balance-out", "deleted")),
            (9, 6, ("credit-out", "deleted")),
            (1, 10, ("cmd 1", "state 10")),
        ]:
            trade = {**TRADE, "cmd": cmd, "state": state, "profit": Decimal("-0.1")}
            self.assertEqual(
                self.answer(trade, "show", "1242281"),
                f"order 1242281  login 1001  {words[0]} -0.1  Promotion credit"
                f"  {words[1]}\n",
            )

    def test_accountSet(self) -> None:
        """
        C{account set} says where the account is. Until the answer comes, the outcome is
        unknown.
        """
        for group, where in (("real", "in group real"), ("", "in no group")):
            said = io.StringIO()
            with redirect_stdout(said):
                options, _, work = self.command(
                    "account", "set", "1001", "--group", group
                )[:3]
                client: Any = FakeClient()
                status = Deferred.fromCoroutine(work(self.clock, client, Deferred()))
                self.assertEqual(options.status, 4)
                client.answers[0].callback({"login": 1001, "group": group})
            self.assertEqual(self.successResultOf(status), 0)
            self.assertEqual(options.status, 0)
            self.assertEqual(said.getvalue(), f"1001 is {where}\n")

    def test_smallAmount(self) -> None:
        """
        Amounts are never printed with an exponent.
        """
        trade = {**TRADE, "profit": Decimal("1E-8")}
        self.assertIn(" 0.00000001 ", self.answer(trade, "show", "5"))

    def test_comment(self) -> None:
        """
        Whatever a comment contains, it stays on its line.
        """
        trade = {**TRADE, "comment": "a\r\nb\tc\x1b[2J\u202e é"}
        self.assertIn(
            "  a\\r\\nb\\tc\\x1b[2J\\u202e é  ", self.answer(trade, "show", "5")
        )

    def test_json(self) -> None:
        """
        With C{--json} the line is exactly the data of the reply.
        """
        self.assertEqual(
            self.answer(
                {**TRADE, "profit": Decimal("10000000000.00000001")},
                *("credit-in", "1001", "300", "x", "--json"),
            ),
            '{"order":1242281,"login":1001,"cmd":7,"state":3,'
            '"profit":10000000000.00000001,"comment":"Promotion credit"}\n',
        )

    def test_replay(self) -> None:
        """
        A replay is marked as one for people; with C{--json} there is only the
        data.
        """
        replay = {**TRADE, "replayed": True}
        self.assertEqual(
            self.answer(replay, "credit-in", "1001", "300", "x", "--key=k"),
            "order 1242281  login 1001  credit-in 300.0  Promotion credit  booked,"
            " earlier under the same key\n",
        )
        said = self.answer(replay, "credit-in", "1", "3", "x", "--key=k", "--json")
        self.assertNotIn("replayed", said)

    def test_unprintable(self) -> None:
        """
        If the answer to a booked operation can't be printed to stdout, it goes
        to stderr or nowhere, and the status is still 0.
        """
        for arguments in [
            ("credit-in", "1001", "300", "x"),
            ("balance-out", "1001", "300", "--json"),
            ("delete", "credit", "1242281"),
        ]:
            for canComplain in (True, False):
                complaint = io.StringIO()
                with (
                    full() as out,
                    full() as nowhere,
                    redirect_stdout(out),
                    redirect_stderr(complaint if canComplain else nowhere),
                ):
                    ended = self.begin(*arguments)
                    self.client.answers[-1].callback(Answer(TRADE, False))
                self.assertEqual(self.successResultOf(ended), 0)
                if canComplain:
                    self.assertIn(
                        "creditsync: standard output can't be written (No space left"
                        " on device): ",
                        complaint.getvalue(),
                    )
                    self.assertIn("1242281", complaint.getvalue())

    def test_unprintableLookUp(self) -> None:
        """
        A look-up that can't be printed has failed.
        """
        with full() as out, redirect_stdout(out):
            ended = self.begin("show", "5")
            self.client.answers[-1].callback(Answer(TRADE, False))
        self.failureResultOf(ended, OSError)

    def test_status(self) -> None:
        """
        A signal ends an operation with the status for an unknown outcome once
        the request is sent, and with 0 once it is answered. It never changes
        the status of a look-up.
        """
        options, _, work = self.command("credit-in", "1001", "300", "x")
        Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))
        self.assertEqual(options.status, 4)
        with redirect_stdout(io.StringIO()):
            self.client.answers[-1].callback(Answer(TRADE, False))
        self.assertEqual(options.status, 0)

    def test_notUTF8(self) -> None:
        """
        Text that is not UTF-8 is refused, with the name of the argument.
        """
        for name, arguments in [
            ("COMMENT", ("credit-in", "1001", "300", "caf\udce9")),
            ("COMMENT", ("balance-in", "1001", "300", "caf\udce9")),
            ("--key", ("credit-in", "1001", "300", "x", "--key=caf\udce9")),
            ("--key", ("delete", "credit", "5", "--key=caf\udce9")),
            ("--key", ("show", "--key=caf\udce9")),
            ("--connect", ("show", "5", "--connect=caf\udce9")),
        ]:
            self.assertIn(
                f"error: argument {name}: must be UTF-8: caf\\xe9\n",
                self.assertMistake(*arguments),
            )

    def test_otherLocale(self) -> None:
        """
        UTF-8 that Python could not decode under its locale is accepted all the
        same.
        """
        given = "Łódź".encode().decode("ascii", "surrogateescape")
        self.patch(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
        self.begin("credit-in", "1001", "300", given)
        self.assertEqual(self.client.requests[-1][1]["comment"], "Łódź")

    def test_stopped(self) -> None:
        """
        An operation that is interrupted reports an unknown outcome.
        """
        ended = self.begin("credit-in", "1001", "300", "x")
        self.stopped.callback(None)
        self.assertEqual(self.failureResultOf(ended, OutcomeUnknown).value.key, "k1")


class TokenTests(ClientTestCase):
    """
    Where the token comes from.
    """

    def setUp(self) -> None:
        """
        Use a folder of its own.
        """
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "token")

    def test_environment(self) -> None:
        """
        The token is in the environment.
        """
        self.assertEqual(self.command("show", "5")[1], TOKEN)

    def test_file(self) -> None:
        """
        The file of C{--token} takes precedence over the environment.
        """
        self.file.write_text("a.b.c\n")
        self.assertEqual(
            self.command("show", "5", "--token", str(self.file))[1], "a.b.c"
        )

    def test_none(self) -> None:
        """
        Without a token the message says what to do.
        """
        os.environ.clear()
        self.assertEqual(
            self.assertMistake("show", "5"),
            "creditsync show: a token is needed: name its file with --token, or put"
            " it in CREDITSYNC_TOKEN; creditsync token mints one\n",
        )

    def test_unreadable(self) -> None:
        """
        The name of a file that can't be read is in the message.
        """
        said = self.assertMistake("show", "5", "--token", str(self.file))
        self.assertIn(f"the token can't be read from {self.file}: ", said)
        for content in (b"\xff", "a.b.c\n".encode("utf-16")):
            self.file.write_bytes(content)
            self.assertEqual(
                self.assertMistake("show", "5", "--token", str(self.file)),
                f"creditsync show: the token in {self.file} is not ASCII text\n",
            )

    def test_byteOrderMark(self) -> None:
        """
        A byte order mark before the token is no part of it.
        """
        self.file.write_bytes(b"\xef\xbb\xbfa.b.c\r\n")
        self.assertEqual(
            self.command("show", "5", "--token", str(self.file))[1], "a.b.c"
        )

    def test_malformed(self) -> None:
        """
        A token with characters that can't be sent on a line is refused.
        """
        os.environ["CREDITSYNC_TOKEN"] = "a\nb"
        self.assertIn("the token is malformed", self.assertMistake("show", "5"))

    def test_principal(self) -> None:
        """
        The principal's id is read from the token; it is empty if the token has
        none.
        """
        self.assertEqual(principalOf(TOKEN), "7")
        for text in ("", "opaque", "a.b.c", "a.W10.c", "e30.e30.e30"):
            self.assertEqual((text, principalOf(text)), (text, ""))


class EndpointTests(ClientTestCase):
    """
    The address of the server.
    """

    def where(self, *arguments: str) -> str:
        """
        The endpoint to which a command connects, as text.
        """
        options = self.command("show", "5", *arguments)[0]
        reactor = MemoryReactorClock()
        return " ".join(
            repr(connection._endpoint(reactor, options, where))
            for where in connection.servers(options)
        )

    def test_default(self) -> None:
        """
        The default is port 8080 of this machine.
        """
        self.assertEqual(self.where(), "<HostnameEndpoint 127.0.0.1:8080>")

    def test_environment(self) -> None:
        """
        The environment has the address, unless there is an option.
        """
        os.environ["CREDITSYNC_CONNECT"] = "one.example:1"
        self.assertEqual(self.where(), "<HostnameEndpoint one.example:1>")
        self.assertEqual(
            self.where("--connect", "two.example:2"), "<HostnameEndpoint two.example:2>"
        )

    def test_several(self) -> None:
        """
        There may be several servers, in the environment too.
        """
        both = "<HostnameEndpoint a.example:1> <HostnameEndpoint b.example:2>"
        given = ("--connect", "a.example:1", "--connect", "b.example:2")
        self.assertEqual(self.where(*given), both)
        os.environ["CREDITSYNC_CONNECT"] = "a.example:1 b.example:2"
        self.assertEqual(self.where(), both)

    def test_ipv6(self) -> None:
        """
        An IPv6 address is in brackets.
        """
        self.assertEqual(
            self.where("--connect", "[::1]:5"), "<HostnameEndpoint [::1]:5>"
        )

    def test_endpoint(self) -> None:
        """
        Any client endpoint of Twisted can be used.
        """
        reactor = MemoryReactorClock()
        options = self.command("show", "5", "--connect", "unix:/run/creditsync")[0]
        [where] = connection.servers(options)
        connection._endpoint(reactor, options, where).connect(None)  # type: ignore[arg-type]
        self.assertEqual(reactor.unixClients[0][0], "/run/creditsync")

    def test_mistakes(self) -> None:
        """
        What is neither HOST:PORT nor an endpoint is refused.
        """
        for text in ("8080", "host", "nope:host:1", "host:x", "tcp:host:x"):
            options = self.command("show", "5", "--connect", text)[0]
            said = io.StringIO()
            with redirect_stderr(said):
                e = self.assertRaises(
                    *(SystemExit, connection._endpoint),
                    *(MemoryReactorClock(), options, text),
                )
            self.assertEqual(e.code, 2)
            self.assertIn("--connect takes HOST:PORT or an endpoint", said.getvalue())


class WorkTests(ClientTestCase):
    """
    From the connection to the exit status.
    """

    def setUp(self) -> None:
        """
        Start work whose result is a Deferred.
        """
        super().setUp()
        self.reactor = Reactor()
        self.said = io.StringIO()
        self.work: Deferred[int] = Deferred()
        self.works: list[tuple[Any, ...]] = []
        self.options = options = Namespace(name="credit-in", connect=["127.0.0.1:8080"])

        async def work(*arguments: Any) -> int:
            self.works.append(arguments)
            return await self.work

        self.ended = Deferred.fromCoroutine(
            workAndExit(self.reactor, options, lambda reactor: self.client, work)
        )

    def do(self, step: Callable[[], object]) -> None:
        """
        Do something that ends the command.
        """
        with redirect_stderr(self.said):
            step()
            self.reactor.advance(0)

    def assertEnded(self, status: int, said: str) -> None:
        """
        The command has ended with this status and this message on stderr, the
        client was stopped, and nothing is left behind.
        """
        self.assertEqual(
            self.failureResultOf(self.ended, SystemExit).value.code, status
        )
        self.assertEqual(self.said.getvalue(), said)
        self.assertEqual(self.client.stops, 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def connect(self) -> None:
        """
        Connect, and answer the health check.
        """
        self.client.connected.callback(None)
        self.client.health[0].callback({})

    def test_work(self) -> None:
        """
        The work starts when the server has answered the health check, and its
        status is that of the process.
        """
        self.assertTrue(self.client.running)
        self.client.connected.callback(None)
        self.assertEqual(self.works, [])
        self.client.health[0].callback({})
        self.assertEqual(self.works[0][:2], (self.reactor, self.client))
        self.do(lambda: self.work.callback(0))
        self.assertEnded(0, "")

    def test_noConnection(self) -> None:
        """
        There is only one attempt to connect.
        """
        self.do(lambda: self.client.connected.errback(ConnectionRefusedError("no")))
        self.assertEnded(
            1,
            "creditsync credit-in: no connection to 127.0.0.1:8080: Connection was"
            " refused by other side: no.\n",
        )

    def test_noAnswer(self) -> None:
        """
        If the server does not answer the health check, nothing is sent to be
        booked.
        """
        self.client.connected.callback(None)
        self.do(lambda: self.client.health[0].errback(Unanswered("no answer in time")))
        self.assertEnded(1, "creditsync credit-in: no answer in time\n")
        self.assertEqual(self.works, [])

    def test_badToken(self) -> None:
        """
        A token that the server refuses is reported before anything is sent to
        be booked.
        """
        self.client.connected.callback(None)
        why = Refused(401, "UNAUTHORIZED", "the token has expired")
        self.do(lambda: self.client.health[0].errback(why))
        self.assertEnded(
            3,
            "creditsync credit-in: refused: the token has expired (401 UNAUTHORIZED)\n",
        )
        self.assertEqual(self.works, [])

    def test_refused(self) -> None:
        """
        A refusal is status 3.
        """
        self.connect()
        why = Refused(409, "TRADE_NO_MONEY", "account 1 does not have enough credit")
        self.do(lambda: self.work.errback(why))
        self.assertEnded(
            3,
            "creditsync credit-in: refused: account 1 does not have enough credit"
            " (409 TRADE_NO_MONEY)\n",
        )

    def test_unknown(self) -> None:
        """
        An unknown outcome is status 4, and the message has what is needed to
        look it up.
        """
        self.connect()
        why = OutcomeUnknown("CreditInSync: no answer in time", 5, "k1")
        self.do(lambda: self.work.errback(why))
        self.assertEnded(
            4,
            "creditsync credit-in: CreditInSync: no answer in time (idempotencyKey"
            " k1): the outcome of order 5 is unknown, it may still be booked; ask with"
            " GetOperation, or repeat the request under its idempotencyKey\n",
        )

    def test_unanswered(self) -> None:
        """
        If there is no answer and nothing can have been booked, the status is
        1.
        """
        self.connect()
        self.do(lambda: self.work.errback(Unanswered("GetOperation: no answer")))
        self.assertEnded(1, "creditsync credit-in: GetOperation: no answer\n")

    def test_interrupted(self) -> None:
        """
        An interruption before anything was sent is status 130.
        """
        self.do(lambda: self.reactor.triggers["before"]["shutdown"][0][0]())
        self.assertEnded(130, "")

    def test_interruptedHealthCheck(self) -> None:
        """
        An interruption during the health check is status 130.
        """
        self.client.connected.callback(None)
        self.do(lambda: self.reactor.triggers["before"]["shutdown"][0][0]())
        self.assertEnded(130, "")

    def test_fault(self) -> None:
        """
        A bug in the command itself is status 1 if nothing was sent, and does
        not change the status otherwise.
        """
        self.connect()
        self.do(lambda: self.work.errback(ZeroDivisionError("a fault")))
        self.assertEqual(self.failureResultOf(self.ended, SystemExit).value.code, 1)
        self.assertIn("ZeroDivisionError: a fault", self.said.getvalue())
        for status in (0, 4):
            self.setUp()
            self.connect()
            self.options.status = status
            self.do(lambda: self.work.errback(ZeroDivisionError("a fault")))
            self.assertEqual(
                self.failureResultOf(self.ended, SystemExit).value.code, status
            )

    def test_stderrIsFull(self) -> None:
        """
        A refusal that can't be printed is still status 3.
        """
        self.connect()
        with full() as nowhere:
            self.said = nowhere  # type: ignore[assignment]
            self.do(lambda: self.work.errback(Refused(409, "TRADE_NO_MONEY", "m")))
        self.assertEqual(self.failureResultOf(self.ended, SystemExit).value.code, 3)

    def test_clientIsNotStopped(self) -> None:
        """
        The status stays the same if the client then fails to stop.
        """
        self.connect()
        self.patch(FakeClient, "stopService", lambda self: fail(ZeroDivisionError()))
        self.do(lambda: self.work.callback(0))
        self.assertEqual(self.failureResultOf(self.ended, SystemExit).value.code, 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_interruptedWork(self) -> None:
        """
        An interruption is passed on to the work, and the reactor waits for its
        end.
        """
        self.connect()
        stopped = self.works[0][2]
        self.assertNoResult(stopped)
        mayStop = self.reactor.triggers["before"]["shutdown"][0][0]()
        self.assertTrue(stopped.called)
        self.assertNoResult(mayStop)
        self.do(lambda: self.work.callback(4))
        self.successResultOf(mayStop)
        self.assertEnded(4, "")


def gone(data: Any) -> CursorGone:
    """
    The answer of a server that does not have a place.
    """
    return CursorGone("9f3c1a7e-8", Refused(410, "CURSOR_GONE", "a sentence", data))


class WatchTestCase(ClientTestCase):
    """
    A test of C{creditsync watch}.
    """

    def watch(self, *arguments: str) -> "Deferred[int]":
        """
        Start to watch, and stop at the end of the test at the latest.
        """
        self.addCleanup(lambda: self.stopped.called or self.stopped.callback(None))
        _, _, work = self.command("watch", *arguments)
        return Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))

    def observe(self, type: int, data: dict[str, Any]) -> str:
        """
        Receive an event, and return what is printed.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            self.client.observe(type, data)
        return said.getvalue()


class WatchTests(WatchTestCase):
    """
    C{creditsync watch}.
    """

    def test_text(self) -> None:
        """
        Each event is a line with its time and its type.
        """
        self.watch()
        for type, name in [(0, "add   "), (1, "update"), (2, "delete"), (9, "type 9")]:
            self.assertEqual(
                self.observe(type, EVENT),
                f"2026-11-22T15:44:00Z  {name}  order 1242281  login 1001"
                "  credit-in 300.0  Promotion credit  booked\n",
            )

    def test_strangeTime(self) -> None:
        """
        An event with an invalid time is printed all the same.
        """
        self.watch()
        for time in (None, 1e300, "x"):
            said = self.observe(0, {**TRADE, "timestamp": time})
            self.assertTrue(said.startswith(f"{time}  add     order 1242281"), said)

    def test_json(self) -> None:
        """
        With C{--json} each line is the event as an object.
        """
        self.watch("--json")
        self.assertEqual(
            self.observe(1, {"order": 5, "profit": Decimal("0.10")}),
            '{"event":"trade:event","type":1,"data":{"order":5,"profit":0.10}}\n',
        )

    def test_cursor(self) -> None:
        """
        With C{--json} each line has the event's cursor.
        """
        self.watch("--json")
        self.assertEqual(
            self.observe(0, {"order": 5, "cursor": "9f3c1a7e-8"}),
            '{"event":"trade:event","type":0,"data":{"order":5,'
            '"cursor":"9f3c1a7e-8"}}\n',
        )

    def test_since(self) -> None:
        """
        Events begin behind the place that C{--since} names, or now.
        """
        for arguments, since in [
            ((), None),
            (("--since", "first"), "first"),
            (("--since", "9f3c1a7e-8"), "9f3c1a7e-8"),
        ]:
            self.watch(*arguments)
            self.assertEqual(self.client.since, since)

    def test_noCursor(self) -> None:
        """
        What can't be a cursor is a mistake of the command line.
        """
        said = self.assertMistake("watch", "--since", "a b")
        self.assertIn("--since: must be a cursor, or first: a b", said)

    def test_stopped(self) -> None:
        """
        Ctrl-C ends it with status 0, and no event is printed afterwards.
        """
        ended = self.watch()
        self.assertNoResult(ended)
        self.stopped.callback(None)
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.observe(0, EVENT), "")

    def test_heartbeat(self) -> None:
        """
        It sends a health check every ten seconds, each one after the answer to
        the last.
        """
        self.watch()
        self.assertEqual(len(self.client.health), 1)
        self.clock.advance(10)
        self.assertEqual(len(self.client.health), 1)
        self.client.health[0].callback({})
        self.clock.advance(10)
        self.assertEqual(len(self.client.health), 2)

    def test_tokenExpires(self) -> None:
        """
        It ends when the token is no longer valid, as no more events would
        come.
        """
        ended = self.watch()
        self.client.health[0].errback(Refused(401, "UNAUTHORIZED", "expired"))
        self.assertEqual(self.failureResultOf(ended, Refused).value.status, 401)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_serverAway(self) -> None:
        """
        It goes on while the server is away, and reports that events are
        missed.
        """
        self.client.running = True
        ended = self.watch()
        said = io.StringIO()
        with redirect_stderr(said):
            self.client.health[0].errback(Unanswered("HealthCheck: no answer in time"))
        self.assertEqual(
            said.getvalue(),
            "creditsync watch: HealthCheck: no answer in time; events are missed"
            " meanwhile\n",
        )
        self.assertNoResult(ended)

    def test_serverAwayWithCursors(self) -> None:
        """
        If the server's events have cursors, it says that they will follow.
        """
        self.client.running = True
        self.watch("--since", "9f3c1a7e-8")
        said = io.StringIO()
        with redirect_stderr(said):
            self.client.health[0].errback(Unanswered("HealthCheck: no answer in time"))
        self.assertEqual(
            said.getvalue(),
            "creditsync watch: HealthCheck: no answer in time; events will follow\n",
        )

    def test_unsupported(self) -> None:
        """
        If it was to begin somewhere and the server's events have no cursors, it
        says so once, and goes on.
        """
        ended = self.watch("--since", "first")
        self.client.resumes = False
        said = io.StringIO()
        with redirect_stderr(said):
            self.client.health[0].callback({})
            self.clock.advance(10)
            self.client.health[1].callback({})
        self.assertEqual(
            said.getvalue(),
            "creditsync watch: the events of this server have no cursors: they begin"
            " now, and those between two connections are missed\n",
        )
        self.assertNoResult(ended)

    def test_unsupportedUnasked(self) -> None:
        """
        It says nothing if it was to begin now.
        """
        self.watch()
        self.client.resumes = False
        said = io.StringIO()
        with redirect_stderr(said):
            self.client.health[0].callback({})
        self.assertEqual(said.getvalue(), "")

    def test_gone(self) -> None:
        """
        It ends if the server does not have the place, and says what to do.
        """
        ended = self.watch("--since", "9f3c1a7e-8")
        said = io.StringIO()
        with redirect_stderr(said):
            self.client.ended.errback(gone({"head": "0badcafe-3"}))
        self.failureResultOf(ended, CursorGone)
        self.assertEqual(
            said.getvalue(),
            "creditsync watch: the ledger does not have the place 9f3c1a7e-8, perhaps"
            " because a backup was restored: look up what matters, and go on with"
            " --since 0badcafe-3\n",
        )

    def test_nobodyReads(self) -> None:
        """
        It ends with status 0 when the reader of its output has closed the
        pipe.
        """
        reading, writing = os.pipe()
        os.close(reading)
        ended = self.watch()
        with os.fdopen(writing, "w") as pipe, redirect_stdout(pipe):
            self.client.observe(0, EVENT)
            self.client.observe(0, EVENT)
        self.assertEqual(self.successResultOf(ended), 0)

    def test_full(self) -> None:
        """
        It ends with the cause if its output can't be written.
        """
        ended = self.watch()
        with full() as out, redirect_stdout(out):
            self.client.observe(0, EVENT)
        why = self.failureResultOf(ended, OSError).value
        self.assertEqual(why.strerror, "No space left on device")


class PlaceTests(WatchTestCase):
    """
    C{creditsync watch --state}.
    """

    def setUp(self) -> None:
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.state = self.folder / "place"

    def start(self, *arguments: str) -> "Deferred[int]":
        """
        Start to watch with the file.
        """
        return self.watch("--state", str(self.state), *arguments)

    def event(self, place: int) -> str:
        """
        Receive an event, and return what is printed.
        """
        return self.observe(0, {**EVENT, "cursor": f"9f3c1a7e-{place}"})

    def kept(self) -> str:
        """
        The content of the file, which is the only one in its folder.
        """
        self.assertEqual(os.listdir(self.folder), ["place"])
        return self.state.read_text("ascii")

    def test_missing(self) -> None:
        """
        Without the file, events begin as C{--since} says, and the file is made.
        """
        self.start()
        self.assertIsNone(self.client.since)
        self.start("--since", "first")
        self.assertEqual(self.client.since, "first")
        self.event(8)
        self.assertEqual(os.listdir(self.folder), [])
        self.clock.advance(0)
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-8"}\n')

    def test_goesOn(self) -> None:
        """
        The place in the file takes precedence over C{--since}.
        """
        self.state.write_text('{"cursor":"9f3c1a7e-8"}\n')
        self.start("--since", "first")
        self.assertEqual(self.client.since, "9f3c1a7e-8")

    def test_oneTurn(self) -> None:
        """
        What is printed in one turn of the reactor is kept once, so that a kill
        repeats at most that.
        """
        self.start()
        self.event(8)
        self.clock.advance(0)
        replaced = self.state.stat().st_ino
        self.event(9)
        self.event(10)
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-8"}\n')
        self.clock.advance(0)
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-10"}\n')
        self.assertNotEqual(self.state.stat().st_ino, replaced)

    def test_stopped(self) -> None:
        """
        Ctrl-C keeps the last place, and leaves no call behind.
        """
        ended = self.start()
        self.client.health[0].callback({})
        self.event(7)
        self.event(8)
        self.stopped.callback(None)
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-8"}\n')
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_noEvent(self) -> None:
        """
        Before the first event, the place where the events begin is kept.
        """
        self.start()
        self.client.cursor = "9f3c1a7e-7"
        self.client.health[0].callback({})
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-7"}\n')

    def test_unprinted(self) -> None:
        """
        An event that can't be printed is not behind the place that is kept, but
        the ones before it are.
        """
        for error in (True, False):
            ended = self.start()
            self.event(8)
            if error:
                with full() as out, redirect_stdout(out):
                    self.client.observe(0, {**EVENT, "cursor": "9f3c1a7e-9"})
                self.failureResultOf(ended, OSError)
            else:
                reading, writing = os.pipe()
                os.close(reading)
                with os.fdopen(writing, "w") as pipe, redirect_stdout(pipe):
                    self.client.observe(0, {**EVENT, "cursor": "9f3c1a7e-9"})
                self.assertEqual(self.successResultOf(ended), 0)
            self.client.observe(0, {**EVENT, "cursor": "9f3c1a7e-10"})
            self.clock.advance(0)
            self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-8"}\n')

    def test_foreign(self) -> None:
        """
        A file that has something else, or only the beginning of a place, is a
        mistake, and it is not overwritten.
        """
        for content in (
            *(b"", b'{"cursor":"9f3c1a', b"9f3c1a7e-8\n", b"[]", b"{}", b"\xff"),
            *(b'{"cursor":8}', b'{"cursor":null}', b'{"cursor":"a b"}'),
        ):
            self.state.write_bytes(content)
            said = self.assertMistake("watch", "--state", str(self.state))
            self.assertEqual(
                said,
                f"creditsync watch: --state: {self.state} is not a file that watch has"
                " written: remove it, or name another one\n",
            )
            self.assertEqual(self.state.read_bytes(), content)

    def test_unreadable(self) -> None:
        """
        A file that can't be read, or be there, is a mistake too.
        """
        nowhere = self.folder / "none"
        for state, why in (
            (self.folder, f"{self.folder} can't be read: Is a directory"),
            (nowhere / "place", f"there is no folder {nowhere}"),
        ):
            said = self.assertMistake("watch", "--state", str(state))
            self.assertEqual(said, f"creditsync watch: --state: {why}\n")

    def test_unwritable(self) -> None:
        """
        It ends with the cause if the place can't be kept, at the end too.
        """
        gone = self.folder / "gone"
        self.state = gone / "place"
        gone.mkdir()
        ended = self.start()
        gone.rmdir()
        self.event(8)
        self.clock.advance(0)
        self.assertEqual(
            self.failureResultOf(ended, OSError).getErrorMessage(),
            f"--state: {self.state} can't be written: No such file or directory",
        )
        gone.mkdir()
        ended = self.start()
        gone.rmdir()
        self.event(8)
        self.stopped.callback(None)
        self.failureResultOf(ended, OSError)

    def test_torn(self) -> None:
        """
        What a killed process has left of a new place does not count.
        """
        self.state.write_text('{"cursor":"9f3c1a7e-8"}\n')
        (self.folder / ".place.part").write_text('{"cur')
        self.start()
        self.assertEqual(self.client.since, "9f3c1a7e-8")
        self.event(9)
        self.clock.advance(0)
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-9"}\n')

    def test_syncedBeforeItIsThere(self) -> None:
        """
        Events in a file are on disk before their place, and the new content before it
        takes the place of the old; at the end the folder is synced.
        """
        said = self.folder.with_suffix(".events").open("w+")
        self.addCleanup(os.unlink, said.name)
        self.addCleanup(said.close)
        paths = {os.fstat(said.fileno()).st_ino: "events"}
        paths[self.folder.stat().st_ino] = "folder"
        calls: list[str] = []
        for name in ("fsync", "replace"):
            call = getattr(os, name)

            def note(
                first: Any, *others: Any, name: str = name, call: Any = call
            ) -> None:
                file = paths.get(os.stat(first).st_ino, "place")
                calls.append(f"{name} {file}")
                call(first, *others)

            self.patch(os, name, note)
        self.start()
        with redirect_stdout(said):
            self.client.observe(0, {**EVENT, "cursor": "9f3c1a7e-8"})
            self.clock.advance(0)
        self.assertEqual(
            calls, ["fsync events", "fsync place", "replace place", "fsync folder"]
        )
        self.event(8)
        self.clock.advance(0)
        self.assertEqual(calls.count("replace place"), 1)

    def test_gone(self) -> None:
        """
        If the server does not have the place, the file stays as it is, and the
        message says what to do with it.
        """
        self.state.write_text('{"cursor":"9f3c1a7e-8"}\n')
        ended = self.start()
        said = io.StringIO()
        with redirect_stderr(said):
            self.client.ended.errback(gone(None))
        self.failureResultOf(ended, CursorGone)
        self.assertIn(
            f"look up what matters, remove {self.state}, and go on without --since\n",
            said.getvalue(),
        )
        self.assertEqual(self.kept(), '{"cursor":"9f3c1a7e-8"}\n')


class FakeClientTests(SynchronousTestCase):
    """
    What the fake client must have in common with the real one.
    """

    def test_cancelled(self) -> None:
        """
        A Deferred that is cancelled fails as L{workAndExit} expects.
        """
        connected = FakeClient().whenConnected(failAfterFailures=1)
        connected.cancel()
        self.failureResultOf(connected, CancelledError)
        self.failureResultOf(fail(CancelledError()), CancelledError)

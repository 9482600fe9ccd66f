"""
Tests for L{creditsync._cli.connection}, L{creditsync._cli.operations} and
L{creditsync._cli.watch}.
"""

import contextlib
import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
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
from creditsync._cli import connection, operations, stopping, watch
from creditsync._cli.connection import converse, principalOf
from creditsync.client import Answer, OutcomeUnknown, Refused, Unanswered

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


class FakeClient:
    """
    A client that notes what it is asked, and answers what it is told to.

    @ivar requests: Command, data and key of each request.
    @ivar answers: The Deferred of each, in the same order.
    """

    def __init__(self, reactor: Any = None) -> None:
        self.running = False
        self.connected: Deferred[None] = Deferred()
        self.health: list[Deferred[Any]] = []
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.answers: list[Deferred[Any]] = []
        self.stops = 0

    def startService(self) -> None:
        """
        Run.
        """
        self.running = True

    def whenConnected(self, failAfterFailures: int) -> "Deferred[None]":
        """
        Give L{connected}, which is that of the first attempt.
        """
        assert failAfterFailures == 1
        return self.connected

    def healthCheck(self) -> "Deferred[Any]":
        """
        Take a health check.
        """
        self.health.append(Deferred())
        return self.health[-1]

    def request(
        self, command: str, data: dict[str, Any], key: str | None = None
    ) -> "Deferred[Any]":
        """
        Take a request.
        """
        self.requests.append((command, data, key))
        self.answers.append(Deferred())
        return self.answers[-1]

    def getOperation(
        self, *, order: int | None = None, key: str | None = None
    ) -> "Deferred[Any]":
        """
        Take a question.
        """
        return self.request("GetOperation", {"order": order, "key": key})

    def stopService(self) -> "Deferred[None]":
        """
        End what is under way, as the real client does.
        """
        self.running = False
        self.stops += 1
        for answer in self.answers:
            if not answer.called:
                answer.errback(OutcomeUnknown("the client was stopped", 5, "k1"))
        return succeed(None)


class Reactor(MemoryReactorClock):
    """
    A reactor that can also forget what to do before it stops.
    """

    def removeSystemEventTrigger(self, triggerID: Any) -> None:
        """
        Forget it.
        """
        self.triggers["before"]["shutdown"].clear()


class TalkTestCase(SynchronousTestCase):
    """
    A test of commands that talk, to a client that is none.
    """

    def setUp(self) -> None:
        """
        Have a token in the environment, and nothing else.
        """
        self.patch(os, "environ", {"CREDITSYNC_TOKEN": TOKEN})
        self.patch(connection, "settleProcess", lambda reactor: None)
        self.patch(stopping, "takeSignals", lambda reactor, status: None)
        self.client: Any = FakeClient()
        self.clock = Clock()
        self.stopped: Deferred[None] = Deferred()
        self.talks: list[tuple[Any, ...]] = []
        for module in (operations, watch):
            self.patch(module, "talk", lambda *arguments: self.talks.append(arguments))

    def command(self, *arguments: str) -> tuple[Any, ...]:
        """
        Run the command up to where it would talk, and give what it would
        talk with: the options, the token, the work, and more.
        """
        self.patch(sys, "argv", ["creditsync", *arguments])
        main()
        return self.talks.pop()

    def begin(self, *arguments: str) -> "Deferred[int]":
        """
        Run the command, and begin its work.
        """
        work = self.command(*arguments)[2]
        return Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))

    def assertMistake(self, *arguments: str) -> str:
        """
        The command ends with status 2; gives what it says.
        """
        said = io.StringIO()
        with redirect_stderr(said):
            e = self.assertRaises(SystemExit, self.command, *arguments)
        self.assertEqual(e.code, 2)
        return said.getvalue()


class RequestTests(TalkTestCase):
    """
    What each command asks for.
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
        Each booking is its C{Sync} command, and what is taken out is negative.
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
        Not a digit of an amount is lost, however many there are, and its sign
        costs none either.
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
        Credits and balances have each their own command to delete them.
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
        An order is shown by its number, or by the key of its operation.
        """
        self.assertEqual(
            self.requestOf("show", "5"),
            ("GetOperation", {"order": 5, "key": None}, None),
        )
        self.assertEqual(
            self.requestOf("show", "--key", "k1"),
            ("GetOperation", {"order": None, "key": "k1"}, None),
        )

    def test_mistakes(self) -> None:
        """
        What can be no request is a mistake in the command line.
        """
        for arguments in [
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


class AnswerTests(TalkTestCase):
    """
    What each command prints, and how it ends.
    """

    def answer(self, data: dict[str, Any], *arguments: str) -> str:
        """
        Run a command that has this answer; gives what it prints.
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
        The trade is one line.
        """
        self.assertEqual(
            self.answer(TRADE, "credit-in", "1001", "300", "Promotion credit"),
            "order 1242281  login 1001  credit-in 300.0  Promotion credit  booked\n",
        )

    def test_kinds(self) -> None:
        """
        Every kind of trade and each state has its name, and one that is not
        known its number.
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

    def test_smallAmount(self) -> None:
        """
        Amounts are never printed with an exponent.
        """
        trade = {**TRADE, "profit": Decimal("1E-8")}
        self.assertIn(" 0.00000001 ", self.answer(trade, "show", "5"))

    def test_comment(self) -> None:
        """
        A comment stays on its line, whatever is in it.
        """
        trade = {**TRADE, "comment": "a\r\nb\tc\x1b[2J\u202e é"}
        self.assertIn(
            "  a\\r\\nb\\tc\\x1b[2J\\u202e é  ", self.answer(trade, "show", "5")
        )

    def test_json(self) -> None:
        """
        For machines it is the data of the reply, exactly.
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
        People are told that it had been booked before; machines get the data.
        """
        replay = {**TRADE, "replayed": True}
        self.assertEqual(
            self.answer(replay, "credit-in", "1001", "300", "x", "--key=k"),
            "order 1242281  login 1001  credit-in 300.0  Promotion credit  booked,"
            " before this and under the same key\n",
        )
        said = self.answer(replay, "credit-in", "1", "3", "x", "--key=k", "--json")
        self.assertNotIn("replayed", said)

    def test_unprintable(self) -> None:
        """
        An operation that is booked is done, whatever becomes of its answer: what
        can't be printed goes to stderr, or nowhere.
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
        What a signal would end an operation with is unknown once it is asked for,
        and done once it is answered. A look-up leaves it alone.
        """
        options, _, work = self.command("credit-in", "1001", "300", "x")
        Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))
        self.assertEqual(options.status, 4)
        with redirect_stdout(io.StringIO()):
            self.client.answers[-1].callback(Answer(TRADE, False))
        self.assertEqual(options.status, 0)

    def test_notUTF8(self) -> None:
        """
        Text that is not UTF-8 is a mistake, and the argument is named.
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
        UTF-8 that Python could not read under its locale is read all the same.
        """
        given = "Łódź".encode().decode("ascii", "surrogateescape")
        self.patch(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
        self.begin("credit-in", "1001", "300", given)
        self.assertEqual(self.client.requests[-1][1]["comment"], "Łódź")

    def test_stopped(self) -> None:
        """
        Who interrupts an operation is told that its outcome is unknown.
        """
        ended = self.begin("credit-in", "1001", "300", "x")
        self.stopped.callback(None)
        self.assertEqual(self.failureResultOf(ended, OutcomeUnknown).value.key, "k1")


class TokenTests(TalkTestCase):
    """
    Where the token comes from.
    """

    def setUp(self) -> None:
        """
        Be in a folder of our own.
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
        Or it is in a file, which comes first.
        """
        self.file.write_text("a.b.c\n")
        self.assertEqual(
            self.command("show", "5", "--token", str(self.file))[1], "a.b.c"
        )

    def test_none(self) -> None:
        """
        Without one there is a sentence that says what to do.
        """
        os.environ.clear()
        self.assertEqual(
            self.assertMistake("show", "5"),
            "creditsync show: a token is needed: name its file with --token, or put"
            " it into CREDITSYNC_TOKEN; creditsync token mints one\n",
        )

    def test_unreadable(self) -> None:
        """
        A file that can't be read is named.
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
        What can stand in no line is no token.
        """
        os.environ["CREDITSYNC_TOKEN"] = "a\nb"
        self.assertIn("the token is malformed", self.assertMistake("show", "5"))

    def test_principal(self) -> None:
        """
        A token says for whom it speaks; what says nothing is nobody's.
        """
        self.assertEqual(principalOf(TOKEN), "7")
        for text in ("", "opaque", "a.b.c", "a.W10.c", "e30.e30.e30"):
            self.assertEqual((text, principalOf(text)), (text, ""))


class EndpointTests(TalkTestCase):
    """
    Where the server is.
    """

    def where(self, *arguments: str) -> str:
        """
        What a command connects to, as its endpoint has it.
        """
        options = self.command("show", "5", *arguments)[0]
        return repr(connection._endpoint(MemoryReactorClock(), options))

    def test_default(self) -> None:
        """
        It is this machine's port 8080.
        """
        self.assertEqual(self.where(), "<HostnameEndpoint 127.0.0.1:8080>")

    def test_environment(self) -> None:
        """
        It is in the environment, unless an option says otherwise.
        """
        os.environ["CREDITSYNC_CONNECT"] = "one.example:1"
        self.assertEqual(self.where(), "<HostnameEndpoint one.example:1>")
        self.assertEqual(
            self.where("--connect", "two.example:2"), "<HostnameEndpoint two.example:2>"
        )

    def test_ipv6(self) -> None:
        """
        An IPv6 address is in brackets.
        """
        self.assertEqual(
            self.where("--connect", "[::1]:5"), "<HostnameEndpoint [::1]:5>"
        )

    def test_endpoint(self) -> None:
        """
        Any of Twisted's endpoints will do.
        """
        reactor = MemoryReactorClock()
        options = self.command("show", "5", "--connect", "unix:/run/creditsync")[0]
        connection._endpoint(reactor, options).connect(None)  # type: ignore[arg-type]
        self.assertEqual(reactor.unixClients[0][0], "/run/creditsync")

    def test_mistakes(self) -> None:
        """
        What is neither is a mistake.
        """
        for text in ("8080", "host", "nope:host:1", "host:x", "tcp:host:x"):
            options = self.command("show", "5", "--connect", text)[0]
            said = io.StringIO()
            with redirect_stderr(said):
                e = self.assertRaises(
                    SystemExit, connection._endpoint, MemoryReactorClock(), options
                )
            self.assertEqual(e.code, 2)
            self.assertIn("--connect takes HOST:PORT or an endpoint", said.getvalue())


class ConverseTests(TalkTestCase):
    """
    From the connection to the exit status.
    """

    def setUp(self) -> None:
        """
        Begin a conversation whose work is a Deferred's.
        """
        super().setUp()
        self.reactor = Reactor()
        self.said = io.StringIO()
        self.work: Deferred[int] = Deferred()
        self.works: list[tuple[Any, ...]] = []
        self.options = options = Namespace(name="credit-in", connect="127.0.0.1:8080")

        async def work(*arguments: Any) -> int:
            self.works.append(arguments)
            return await self.work

        self.ended = Deferred.fromCoroutine(
            converse(self.reactor, options, lambda reactor: self.client, work)
        )

    def do(self, step: Callable[[], object]) -> None:
        """
        Do something that is to end the conversation.
        """
        with redirect_stderr(self.said):
            step()
            self.reactor.advance(0)

    def assertEnded(self, status: int, said: str) -> None:
        """
        It has ended with this status, and this sentence on stderr; the client
        was stopped and nothing is left behind.
        """
        self.assertEqual(
            self.failureResultOf(self.ended, SystemExit).value.code, status
        )
        self.assertEqual(self.said.getvalue(), said)
        self.assertEqual(self.client.stops, 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def connect(self) -> None:
        """
        Have the connection, and the answer of a server.
        """
        self.client.connected.callback(None)
        self.client.health[0].callback({})

    def test_work(self) -> None:
        """
        The work begins when the server has answered, and its status is that
        of the process.
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
        The first attempt to connect is the last one.
        """
        self.do(lambda: self.client.connected.errback(ConnectionRefusedError("no")))
        self.assertEnded(
            1,
            "creditsync credit-in: no connection to 127.0.0.1:8080: Connection was"
            " refused by other side: no.\n",
        )

    def test_noAnswer(self) -> None:
        """
        A server that says nothing is found out before it is asked to book.
        """
        self.client.connected.callback(None)
        self.do(lambda: self.client.health[0].errback(Unanswered("no answer in time")))
        self.assertEnded(1, "creditsync credit-in: no answer in time\n")
        self.assertEqual(self.works, [])

    def test_badToken(self) -> None:
        """
        So is a token that the server does not take.
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
        why = Refused(409, "TRADE_NO_MONEY", "account 1 has not enough credit")
        self.do(lambda: self.work.errback(why))
        self.assertEnded(
            3,
            "creditsync credit-in: refused: account 1 has not enough credit"
            " (409 TRADE_NO_MONEY)\n",
        )

    def test_unknown(self) -> None:
        """
        An unknown outcome is status 4, and says what to ask for.
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
        No answer to what has not happened is status 1.
        """
        self.connect()
        self.do(lambda: self.work.errback(Unanswered("GetOperation: no answer")))
        self.assertEnded(1, "creditsync credit-in: GetOperation: no answer\n")

    def test_interrupted(self) -> None:
        """
        Whoever interrupts it before anything is asked for gets status 130.
        """
        self.do(lambda: self.reactor.triggers["before"]["shutdown"][0][0]())
        self.assertEnded(130, "")

    def test_interruptedHealthCheck(self) -> None:
        """
        The same while the server is silent.
        """
        self.client.connected.callback(None)
        self.do(lambda: self.reactor.triggers["before"]["shutdown"][0][0]())
        self.assertEnded(130, "")

    def test_fault(self) -> None:
        """
        A fault of the command itself is status 1 if nothing was sent, and leaves
        the status alone if something was.
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
        A refusal stays one where it can't be told.
        """
        self.connect()
        with full() as nowhere:
            self.said = nowhere  # type: ignore[assignment]
            self.do(lambda: self.work.errback(Refused(409, "TRADE_NO_MONEY", "m")))
        self.assertEqual(self.failureResultOf(self.ended, SystemExit).value.code, 3)

    def test_clientIsNotStopped(self) -> None:
        """
        The status stays when the client then fails to stop.
        """
        self.connect()
        self.patch(FakeClient, "stopService", lambda self: fail(ZeroDivisionError()))
        self.do(lambda: self.work.callback(0))
        self.assertEqual(self.failureResultOf(self.ended, SystemExit).value.code, 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_interruptedWork(self) -> None:
        """
        The work is told, and the reactor waits for its end.
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


class WatchTests(TalkTestCase):
    """
    C{creditsync watch}.
    """

    def watch(self, *arguments: str) -> "Deferred[int]":
        """
        Begin to watch, until the test's end at the latest.
        """
        self.addCleanup(lambda: self.stopped.called or self.stopped.callback(None))
        _, _, work, self.observer = self.command("watch", *arguments)
        return Deferred.fromCoroutine(work(self.clock, self.client, self.stopped))

    def observe(self, type: int, data: dict[str, Any]) -> str:
        """
        Have an event; gives what is printed.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            self.observer(type, data)
        return said.getvalue()

    def test_text(self) -> None:
        """
        Each event is a line, with its time and its type.
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
        An event whose time is none is printed all the same.
        """
        self.watch()
        for time in (None, 1e300, "x"):
            said = self.observe(0, {**TRADE, "timestamp": time})
            self.assertTrue(said.startswith(f"{time}  add     order 1242281"), said)

    def test_json(self) -> None:
        """
        For machines it is the event's object.
        """
        self.watch("--json")
        self.assertEqual(
            self.observe(1, {"order": 5, "profit": Decimal("0.10")}),
            '{"event":"trade:event","type":1,"data":{"order":5,"profit":0.10}}\n',
        )

    def test_stopped(self) -> None:
        """
        Ctrl-C is how it ends well.
        """
        ended = self.watch()
        self.assertNoResult(ended)
        self.stopped.callback(None)
        self.assertEqual(self.successResultOf(ended), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_heartbeat(self) -> None:
        """
        The server is asked again and again, each time after an answer.
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
        It ends when the token is no longer good, as no events come any more.
        """
        ended = self.watch()
        self.client.health[0].errback(Refused(401, "UNAUTHORIZED", "expired"))
        self.assertEqual(self.failureResultOf(ended, Refused).value.status, 401)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_serverAway(self) -> None:
        """
        It goes on while the server is away, and says so.
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

    def test_nobodyReads(self) -> None:
        """
        It ends well when what it prints is no longer read.
        """
        reading, writing = os.pipe()
        os.close(reading)
        ended = self.watch()
        with os.fdopen(writing, "w") as pipe, redirect_stdout(pipe):
            self.observer(0, EVENT)
            self.observer(0, EVENT)
        self.assertEqual(self.successResultOf(ended), 0)

    def test_full(self) -> None:
        """
        It ends with the cause when what it prints can't be written.
        """
        ended = self.watch()
        with full() as out, redirect_stdout(out):
            self.observer(0, EVENT)
        why = self.failureResultOf(ended, OSError).value
        self.assertEqual(why.strerror, "No space left on device")


class FakeClientTests(SynchronousTestCase):
    """
    What the fake has to share with the real one.
    """

    def test_cancelled(self) -> None:
        """
        A Deferred that is given up fails as L{converse} expects it.
        """
        connected = FakeClient().whenConnected(failAfterFailures=1)
        connected.cancel()
        self.failureResultOf(connected, CancelledError)
        self.failureResultOf(fail(CancelledError()), CancelledError)

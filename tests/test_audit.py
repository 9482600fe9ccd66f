"""
Tests for L{creditsync.audit}.
"""

import json
import os
import socket
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync import audit
from creditsync.audit import AuditTrail, checkKind
from creditsync.errors import Busy
from creditsync.events import TradeEvents
from creditsync.interfaces import ITradingRuntime
from creditsync.records import TradeEvent
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime, HeldLedger
from tests.test_service import Client, Reactor
from tests.test_session import SlowRuntime
from tests.test_tap import logTo

# What the clock of the trail shows: 2026-01-01.
NOW = 1767225600.25
TIME = "2026-01-01T00:00:00.250000Z"
# Who asks, in the first and the second session.
FIRST = {"principal": 7, "session": 1, "peer": "192.0.2.1:4242"}
SECOND = {"principal": 7, "session": 2, "peer": "192.0.2.1:4242"}


class FullDisk:
    """
    An C{os.write} on a disk with room for so many bytes.
    """

    def __init__(self) -> None:
        self.write = os.write
        self.room = 10**9

    def __call__(self, file: int, data: bytes) -> int:
        if not self.room:
            raise OSError(ENOSPC, "No space left on device")
        written = self.write(file, data[: self.room])
        self.room -= written
        return written


class AuditTestCase(SynchronousTestCase):
    """
    A server with an audit trail, on a ledger that commits when it is told to.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "audit")
        self.reactor = Reactor()
        self.events = TradeEvents()
        self.ledger = HeldLedger()
        self.trail = AuditTrail(self.path, self.reactor, lambda: NOW, execute)
        self.server = self.start(
            TradingRuntime(
                self.reactor,
                self.ledger,
                self.events,
                now=lambda: NOW,
                maxQueued=100,
            )
        )
        self.client = self.connect()

    def start(self, runtime: ITradingRuntime) -> CreditSync:
        """
        Start a server on this runtime.
        """
        server = CreditSync(
            self.reactor,
            runtime=runtime,
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=["tcp:8080"],
            audit=self.trail,
        )
        server.startService()
        return server

    def connect(self) -> Client:
        """
        Be one more client.
        """
        address = IPv4Address("TCP", "192.0.2.1", 4242)
        return Client(self.server, StringTransport(peerAddress=address, lenient=True))

    def asks(self, extID: str, amount: float = 300.0, /, **members: Any) -> None:
        """
        Send one credit.
        """
        request = {
            "command": "CreditInSync" if amount > 0 else "CreditOutSync",
            "extID": extID,
            "__token": "manager",
            "data": {"login": 1001, "amount": amount, "comment": "Promotion"},
            **members,
        }
        request = {name: value for name, value in request.items() if value is not None}
        self.client.protocol.dataReceived(json.dumps(request).encode() + b"\n")

    def commit(self) -> None:
        """
        Let what was asked for be booked.
        """
        self.reactor.advance(0)
        self.ledger.release()
        self.reactor.advance(0)

    def lines(self) -> list[dict[str, Any]]:
        """
        What the trail has.
        """
        text = self.path.read_bytes()
        assert text.isascii() and text[-1:] in (b"", b"\n")
        return [json.loads(line) for line in text.splitlines()]


class TrailTests(AuditTestCase):
    """
    What is told of money operations.
    """

    def booked(self, extID: str, order: int, /, **members: Any) -> dict[str, Any]:
        """
        The line of a credit that was booked.
        """
        return {
            "time": TIME,
            "outcome": "booked",
            "command": "CreditInSync",
            **FIRST,
            "extID": extID,
            "done": "add",
            "order": order,
            "login": 1001,
            "cmd": 7,
            "amount": 300.0,
            "comment": "Promotion",
            **members,
        }

    def refused(self, extID: str, /, **members: Any) -> dict[str, Any]:
        """
        The line of a request that was refused.
        """
        return {
            "time": TIME,
            "outcome": "refused",
            "command": "CreditOutSync",
            **FIRST,
            "extID": extID,
            "login": 1001,
            "amount": -300.0,
            **members,
        }

    def test_booked(self) -> None:
        """
        A credit has its line when it is on disk, and not before.
        """
        self.asks("a")
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [])
        self.ledger.release()
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [self.booked("a", 1)])

    def test_order(self) -> None:
        """
        The lines are in the ledger's order, over all sessions and commits.
        """
        self.asks("a")
        self.reactor.advance(0)
        first, self.client = self.client, self.connect()
        self.asks("b")
        self.client = first
        self.asks("c", data={"order": 1}, command="DeleteCreditSync")
        self.commit()
        self.commit()
        self.assertEqual(
            self.lines(),
            [
                self.booked("a", 1),
                self.booked("b", 2, **SECOND),
                self.booked("c", 1, command="DeleteCreditSync", done="delete"),
            ],
        )

    def test_exact(self) -> None:
        """
        Amounts are exact, texts are what the client sent, and an extID keeps
        its type.
        """
        data = {
            "login": 1001,
            "amount": 9999999.00000001,
            "comment": 'a"\n\N{EURO SIGN}\\',
        }
        self.asks("a", data=data, extID=7)
        self.commit()
        self.assertIn(b'"amount":9999999.00000001,', self.path.read_bytes())
        [line] = self.lines()
        self.assertEqual(line["comment"], data["comment"])
        self.assertEqual(line["extID"], 7)

    def test_asynchronous(self) -> None:
        """
        An asynchronous command, whose client need give no extID, has its line
        too.
        """
        self.asks("a", command="CreditIn", extID=None)
        self.commit()
        self.assertEqual(
            self.lines(), [self.booked("a", 1, command="CreditIn", extID=None)]
        )

    def test_refused(self) -> None:
        """
        What the runtime refuses has its line with the cause.
        """
        self.asks("a", -300.0)
        self.reactor.advance(0)
        self.assertEqual(
            self.lines(),
            [
                self.refused(
                    "a",
                    status=409,
                    error="TRADE_NO_MONEY",
                    message="account 1001 has not enough credit",
                )
            ],
        )

    def test_refusedBefore(self) -> None:
        """
        So has what doesn't come so far. Who has no good token is nobody, and
        the token is told nowhere.
        """
        self.asks("a")
        self.asks("b", -300.0, __token="stolen")
        self.asks("c", -300.0, __token="user")
        self.asks("d", 300.0, data={"login": "1001", "amount": -5})
        self.commit()
        unauthorized, forbidden, invalid, _ = self.lines()
        self.assertEqual(
            unauthorized,
            self.refused(
                "b",
                principal=None,
                status=401,
                error="UNAUTHORIZED",
                message="__token is not good",
            ),
        )
        self.assertEqual((forbidden["principal"], forbidden["status"]), (10, 403))
        self.assertEqual(
            (invalid["extID"], invalid["status"], invalid["amount"]), ("d", 400, -5)
        )
        self.assertNotIn("login", invalid)
        self.assertNotIn(b"stolen", self.path.read_bytes())

    def test_onlyMoney(self) -> None:
        """
        What is no money operation, or not known to be one, has no line.
        """
        self.asks("a", command="HealthCheck")
        self.asks("b", command="GetOperation", data={"order": 5})
        self.asks("c", command="Nonsense")
        self.asks("d", command=["CreditIn"])
        self.client.protocol.dataReceived(b"rubbish\n")
        self.client.protocol.dataReceived(b"x" * 70_000)
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [])

    def test_unknown(self) -> None:
        """
        Who was told that the outcome is unknown has a line for that, and
        another one when it is booked all the same.
        """
        self.asks("a")
        self.reactor.advance(0)
        self.reactor.advance(5)
        self.commit()
        unknown, booked = self.lines()
        self.assertEqual(
            {name: unknown[name] for name in ("outcome", "extID", "order", "status")},
            {"outcome": "unknown", "extID": "a", "order": 1, "status": 504},
        )
        self.assertEqual(booked, self.booked("a", 1))

    def test_replayed(self) -> None:
        """
        A repetition under the same key is not booked again, and its line says
        so: while the first is under way and after it was booked.
        """
        self.asks("a", idempotencyKey="k")
        self.asks("b", idempotencyKey="k")
        self.commit()
        self.asks("c", idempotencyKey="k")
        self.reactor.advance(0)
        attached, booked, replayed = self.lines()
        self.assertEqual(booked, self.booked("a", 1, idempotencyKey="k"))
        for line, extID in ((attached, "b"), (replayed, "c")):
            self.assertEqual(
                line,
                {
                    "time": TIME,
                    "outcome": "replayed",
                    "command": "CreditInSync",
                    **FIRST,
                    "extID": extID,
                    "order": 1,
                },
            )

    def test_withoutSession(self) -> None:
        """
        What is booked after its session has ended keeps its asker.
        """
        self.asks("a")
        self.client.goes()
        self.commit()
        self.assertEqual(self.lines(), [self.booked("a", 1)])

    def test_stop(self) -> None:
        """
        What is booked at the very end has its line, and the file is closed.
        """
        self.asks("a")
        self.client.goes()
        stopped = self.server.stopService()
        self.reactor.advance(0.2)
        self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual(self.lines(), [self.booked("a", 1)])
        self.assertIsNone(self.trail._file)
        self.assertEqual(self.events._observers, [])

    def test_atRest(self) -> None:
        """
        Nothing is remembered of what is done.
        """
        self.asks("a")
        self.commit()
        self.asks("b", -900.0)
        self.reactor.advance(0)
        self.assertEqual((self.trail._askers, self.trail._lines), ({}, []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class LaterTests(AuditTestCase):
    """
    The trail of a server whose trading runtime does not reserve at once.
    """

    def setUp(self) -> None:
        super().setUp()
        self.runtime = SlowRuntime()
        self.trail = AuditTrail(self.path, self.reactor, lambda: NOW, execute)
        self.server = self.start(self.runtime)
        self.client = self.connect()

    def replayed(self, extID: str, order: int, command: str) -> dict[str, Any]:
        """
        The line of a replay.
        """
        return {
            "time": TIME,
            "outcome": "replayed",
            "command": command,
            **FIRST,
            "extID": extID,
            "order": order,
        }

    def test_replayed(self) -> None:
        """
        A repetition that is known later has its line, once.
        """
        self.asks("a", idempotencyKey="k")
        self.asks("b", command="CreditIn", idempotencyKey="k")
        self.runtime.reserve(77, isReplay=True)
        self.runtime.reserve(77, isReplay=True)
        self.reactor.advance(0)
        self.assertEqual(
            self.lines(),
            [
                self.replayed("a", 77, "CreditInSync"),
                self.replayed("b", 77, "CreditIn"),
            ],
        )

    def test_attached(self) -> None:
        """
        So has one whose first is still under way.
        """
        self.asks("a", idempotencyKey="k")
        self.asks("b", idempotencyKey="k")
        reservation = self.runtime.reserve(77)
        [(_, answer)] = self.runtime.asked
        answer.callback(reservation)
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [self.replayed("b", 77, "CreditInSync")])

    def test_afterItsTime(self) -> None:
        """
        After a 504 the line says what became of the request.
        """
        self.asks("a", idempotencyKey="k")
        self.reactor.advance(5)
        self.runtime.reserve(77, isReplay=True)
        self.reactor.advance(0)
        unknown, replayed = self.lines()
        self.assertEqual((unknown["outcome"], unknown["extID"]), ("unknown", "a"))
        self.assertEqual(replayed, self.replayed("a", 77, "CreditInSync"))

    def test_unwritable(self) -> None:
        """
        A replay that can't be written is a refusal, and has no other line.
        """
        self.patch(wire, "replay", lambda *_: 1 / 0)
        self.asks("a", idempotencyKey="k")
        self.runtime.reserve(77, isReplay=True)
        self.reactor.advance(0)
        self.flushLoggedErrors(ZeroDivisionError)
        [line] = self.lines()
        self.assertEqual((line["outcome"], line["extID"]), ("refused", "a"))


class ForeignTests(AuditTestCase):
    """
    The trail of a server on another trading runtime.
    """

    def setUp(self) -> None:
        super().setUp()
        self.events = TradeEvents()
        self.runtime = FakeTradingRuntime(self.events)
        self.trail = AuditTrail(self.path, self.reactor, lambda: NOW, execute)
        self.server = self.start(self.runtime)
        self.client = self.connect()

    def test_unmarked(self) -> None:
        """
        An event that nobody here has asked for is told as it is.
        """
        self.events.publish([TradeEvent(1, {"order": 5, "login": 1})])
        [line] = self.lines()
        self.assertEqual(
            line, {"time": TIME, "outcome": "booked", "done": "update", "order": 5}
        )

    def test_refused(self) -> None:
        """
        What it refuses has its line.
        """
        self.runtime.refusal = Busy("enough")
        self.asks("a")
        self.reactor.advance(0)
        [line] = self.lines()
        self.assertEqual((line["extID"], line["error"]), ("a", "BUSY"))


class PeerTests(AuditTestCase):
    """
    The address of the client, as the trail shows it.
    """

    def peers(self, address: Any, *received: bytes, proxied: bool = True) -> list[str]:
        """
        The peers in the lines of a request that is booked and of one that is
        refused.

        @param address: Of the connection.
        @param received: What comes on it before the requests.
        """
        wire = StringTransport(peerAddress=address, lenient=True)
        factory: Any = self.server.factory
        if proxied:
            factory = HAProxyWrappingFactory(factory)
        protocol = factory.buildProtocol(address)
        protocol.makeConnection(wire)
        for data in received:
            protocol.dataReceived(data)
        self.client.protocol = protocol
        self.asks("a")
        self.asks("b", -900.0)
        self.commit()
        return [line["peer"] for line in self.lines()]

    def test_IPv6(self) -> None:
        """
        An IPv6 address is in brackets, so that the port can be told from it.
        """
        address = IPv6Address("TCP", "2001:db8::1", 4242)
        self.assertEqual(self.peers(address, proxied=False), ["[2001:db8::1]:4242"] * 2)

    def test_UNIX(self) -> None:
        """
        The client of a UNIX socket is local.
        """
        self.assertEqual(self.peers(UNIXAddress(None), proxied=False), ["local"] * 2)

    def test_proxied(self) -> None:
        """
        Behind a proxy that sends the PROXY header it is the client's, whether
        the header comes alone or in two pieces.
        """
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(
            self.peers(proxy, b"PROXY TCP4 203.0.113.5 192.0.2.99 51", b"23 8443\r\n"),
            ["203.0.113.5:5123"] * 2,
        )

    def test_proxiedIPv6(self) -> None:
        """
        The binary header of version 2 is understood too.
        """
        header = (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
            + bytes.fromhex("20010db8000000000000000000000001")
            + bytes.fromhex("20010db8000000000000000000000002")
            + b"\x14\x03\x20\xfb"
        )
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(self.peers(proxy, header), ["[2001:db8::1]:5123"] * 2)

    def test_unknownClient(self) -> None:
        """
        Where the proxy does not say, as for a connection of its own, it is the
        proxy's.
        """
        header = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(self.peers(proxy, header), ["192.0.2.99:80"] * 2)

    def test_forged(self) -> None:
        """
        Whatever stands in a header, a line of the trail stays one JSON object
        with the members that we gave it.
        """
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(
            self.peers(proxy, b'PROXY TCP4 ","order":1,"x":" 192.0.2.99 1 2\r\n'),
            ['[","order":1,"x":"]:1'] * 2,
        )


class FileTests(AuditTestCase):
    """
    The file, and what becomes of money when it can't be written.
    """

    def setUp(self) -> None:
        super().setUp()
        self.disk = FullDisk()
        self.patch(os, "write", self.disk)
        self.log = logTo(self)

    def credit(self, extID: str) -> None:
        """
        Have a credit booked and answered.
        """
        self.asks(extID)
        self.commit()
        [reply] = self.client.replies()
        self.assertEqual((reply["extID"], reply["status"]), (extID, 200))

    def told(self) -> list[Any]:
        """
        The extIDs of the lines, or how many lines are missing there.
        """
        return [line.get("extID", line.get("lines")) for line in self.lines()]

    def test_appended(self) -> None:
        """
        A server goes on where the one before it ended, in a file that not
        everybody can read.
        """
        self.path.write_bytes(b'{"extID":"before"}\n')
        self.credit("a")
        self.assertEqual(self.told(), ["before", "a"])
        self.path.unlink()
        self.trail.reopen()
        self.assertEqual(self.path.stat().st_mode & 0o027, 0)

    def test_reopened(self) -> None:
        """
        After the file was moved away and opened again the lines go to a new
        one, and none is lost.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.credit("b")
        self.server.reload()
        self.credit("c")
        self.assertEqual(self.told(), ["c"])
        self.path = moved
        self.assertEqual(self.told(), ["a", "b"])

    def test_notReopened(self) -> None:
        """
        If it can't be opened again, the old file goes on, and the log says so.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.path.mkdir()
        self.server.reload()
        self.credit("b")
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    f"The audit trail {self.path} can't be opened again, the old file"
                    f" goes on: {self.path} is a folder, and the trail needs a regular"
                    " file",
                )
            ],
        )
        self.path = moved
        self.assertEqual(self.told(), ["a", "b"])

    def test_full(self) -> None:
        """
        A full disk costs lines and no money; the log says so once, and again
        when it is over; the trail itself says how many are missing.
        """
        self.credit("a")
        self.disk.room = 0
        for extID in ("b", "c", "d"):
            self.credit(extID)
        self.disk.room = 10**9
        self.credit("e")
        self.assertEqual(self.told(), ["a", 3, "e"])
        self.assertEqual(self.trail.lost, 3)
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    f"The audit trail {self.path} can't be written, lines are dropped"
                    " until it can be written again; bookings are not affected: No"
                    " space left on device",
                ),
                (
                    "warn",
                    f"The audit trail {self.path} is written again; 3 lines were lost.",
                ),
            ],
        )

    def test_halfALine(self) -> None:
        """
        A line for which there was only half the room does not spoil the next.
        """
        self.credit("a")
        self.disk.room = 100
        self.credit("b")
        self.disk.room = 10**9
        self.credit("c")
        first, half, *rest = self.path.read_bytes().splitlines()
        self.assertEqual((json.loads(first)["extID"], len(half)), ("a", 100))
        self.path.write_bytes(b"".join(line + b"\n" for line in rest))
        self.assertEqual(self.told(), [1, "c"])

    def test_halfABatch(self) -> None:
        """
        Of a batch that was cut, the lines that are there are not missing.
        """
        self.credit("a")
        size = self.path.stat().st_size
        for extID in ("b", "c", "d"):
            self.asks(extID)
        self.disk.room = size + 50
        self.commit()
        self.disk.room = 10**9
        self.assertEqual(len(self.client.replies()), 3)
        self.credit("e")
        *whole, _, gap, last = self.path.read_bytes().splitlines()
        self.assertEqual([json.loads(line)["extID"] for line in whole], ["a", "b"])
        self.assertEqual(json.loads(gap)["lines"], 2)
        self.assertEqual(json.loads(last)["extID"], "e")


class KindTests(AuditTestCase):
    """
    What can't be a trail.
    """

    def kinds(self) -> list[tuple[str, str]]:
        """
        A path of each kind, and what the kind is called.
        """
        folder = self.path.parent
        os.mkfifo(folder / "pipe")
        # A pipe that somebody reads could be opened, and would block later.
        os.mkfifo(folder / "read")
        reader = os.open(folder / "read", os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        bound.bind(str(folder / "socket"))
        (folder / "link").symlink_to("pipe")
        return [
            (f"{folder}/pipe", "a pipe"),
            (f"{folder}/read", "a pipe"),
            (f"{folder}/link", "a pipe"),
            (f"{folder}/socket", "a socket"),
            ("/dev/null", "a device"),
            ("/dev/full", "a device"),
            (str(folder), "a folder"),
        ]

    def test_options(self) -> None:
        """
        Only a regular file is taken for one, and any other is told by its kind.
        """
        for path, kind in self.kinds():
            e = self.assertRaises(ValueError, checkKind, Path(path))
            self.assertEqual(
                str(e), f"{path} is {kind}, and the trail needs a regular file"
            )
        checkKind(self.path)
        checkKind(self.path.parent / "new")

    def test_opened(self) -> None:
        """
        It is found out too if it has become one since the options were read, and
        nothing waits for it.
        """
        for path, kind in self.kinds():
            trail = AuditTrail(Path(path), self.reactor, lambda: NOW, execute)
            e = self.assertRaises(OSError, trail.open)
            self.assertIn(f"{path} is {kind}, and", str(e))

    def test_raced(self) -> None:
        """
        So it is if it becomes one in the very last moment, where nothing is
        waited for, written to it or stays open.
        """
        self.kinds()
        self.patch(audit, "checkKind", lambda path: None)
        before = os.listdir("/proc/self/fd")
        for name in ("pipe", "read"):
            path = self.path.parent / name
            trail = AuditTrail(path, self.reactor, lambda: NOW, execute)
            self.assertRaises(OSError, trail.open)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_reopened(self) -> None:
        """
        After a rotation that has put something else there the old file goes on.
        """
        log = logTo(self)
        moved = self.path.rename(f"{self.path}.1")
        os.mkfifo(self.path)
        self.server.reload()
        self.asks("a")
        self.commit()
        self.assertEqual(len(self.client.replies()), 1)
        self.assertIn(f"{self.path} is a pipe, and the trail needs", log[0][1])
        self.path = moved
        self.assertEqual(len(self.lines()), 1)

    def test_noFolder(self) -> None:
        """
        A file that can't be made is told in a sentence.
        """
        trail = AuditTrail(Path("/nowhere/audit"), self.reactor, lambda: NOW, execute)
        e = self.assertRaises(OSError, trail.open)
        self.assertEqual(
            str(e),
            "the audit trail /nowhere/audit can't be written: No such file or"
            " directory",
        )


class SlowTests(AuditTestCase):
    """
    A file system that takes its time.
    """

    def setUp(self) -> None:
        super().setUp()
        self.log = logTo(self)
        self.waiting: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.trail._run = self.hold

    def hold(self, function: Callable[[], None]) -> "Deferred[None]":
        """
        Have the file system take its time for this.
        """
        done: Deferred[None] = Deferred()
        self.waiting.append((function, done))
        return done

    def goOn(self) -> None:
        """
        Let it do one thing.
        """
        [(function, done)] = self.waiting
        self.waiting.clear()
        execute(function).chainDeferred(done)

    def credit(self, *extIDs: str) -> None:
        """
        Have credits booked and answered.
        """
        for extID in extIDs:
            self.asks(extID)
        self.commit()
        self.assertEqual(
            [(reply["extID"], reply["status"]) for reply in self.client.replies()],
            [(extID, 200) for extID in extIDs],
        )

    def told(self) -> list[Any]:
        """
        The extIDs of the lines, or how many lines are missing there.
        """
        return [line.get("extID", line.get("lines")) for line in self.lines()]

    def test_nobodyWaits(self) -> None:
        """
        Credits are booked and answered meanwhile, and their lines follow, in
        order and all at once.
        """
        self.credit("a")
        self.credit("b")
        self.credit("c", "d")
        self.assertEqual(self.told(), [])
        self.goOn()
        self.assertEqual(self.told(), ["a"])
        self.goOn()
        self.assertEqual(self.told(), ["a", "b", "c", "d"])
        self.assertEqual(self.waiting, [])

    def test_reopened(self) -> None:
        """
        What was booked before a reload but not yet written goes to the new file,
        and what was being written to the old one.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.server.reload()
        self.credit("b")
        for _ in range(3):
            self.goOn()
        self.assertEqual(self.told(), ["b"])
        self.path = moved
        self.assertEqual(self.told(), ["a"])

    def test_bound(self) -> None:
        """
        There is a bound to what waits. Beyond it lines are lost, which are
        counted, and the trail says so where they would have been.
        """
        self.patch(audit, "_MAX_WAITING", 3)
        self.credit("a")
        self.credit("b", "c", "d")
        self.credit("e")
        self.credit("f")
        self.goOn()
        self.goOn()
        self.assertEqual(self.told(), ["a", 4, "f"])
        self.assertEqual(self.trail.lost, 4)
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    f"The audit trail {self.path} can't be written, lines are dropped"
                    " until it can be written again; bookings are not affected: it is"
                    " written too slowly",
                ),
                (
                    "warn",
                    f"The audit trail {self.path} is written again; 4 lines were lost.",
                ),
            ],
        )

    def test_stop(self) -> None:
        """
        The stop waits for what is still to be written.
        """
        self.credit("a")
        self.credit("b")
        self.client.goes()
        stopped = self.server.stopService()
        self.reactor.advance(0.2)
        self.assertNoResult(stopped)
        for _ in range(3):
            self.goOn()
        self.successResultOf(stopped)
        self.assertEqual(self.told(), ["a", "b"])
        self.assertIsNone(self.trail._file)

    def test_stopIsBounded(self) -> None:
        """
        But not for ever, and the log says how it ended.
        """
        self.credit("a")
        self.credit("b")
        self.client.goes()
        stopped = self.server.stopService()
        self.reactor.advance(0.2)
        self.reactor.advance(2)
        self.successResultOf(stopped)
        self.assertIsNone(self.trail._file)
        self.assertEqual(self.trail.lost, 2)
        self.assertIn("it has not kept up until the end", self.log[0][1])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

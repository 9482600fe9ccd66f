"""
Tests for L{benchmarks}: the calculations and checks that its figures depend
on.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from io import StringIO
from pathlib import Path
from socket import SHUT_RDWR, socket, socketpair
from threading import Thread
from typing import Any
from unittest import skipUnless

from docutils.core import publish_string
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import benchmarks
from benchmarks import (
    canned,
    comparison,
    components,
    contenders,
    figures,
    goals,
    report,
    throughput,
    traffic,
)
from benchmarks.audience import Audience
from benchmarks.bench import Bench, Shape, pythonBuild
from benchmarks.broadcast import slopes
from benchmarks.ceiling import Answers
from benchmarks.counting import counted
from benchmarks.fill import fill
from benchmarks.load import Connection, Load, Ring, Unexpected, verified
from benchmarks.peers import common
from benchmarks.peers.forgetful import FORGOTTEN, forgetting
from benchmarks.processes import Wrong, freePort, module, running
from benchmarks.readers import Reader, Readers
from creditsync.auth import mint
from creditsync.events import TradeEvents
from creditsync.ledger._checking import findings
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Account, Operation
from creditsync.runtime import TradingRuntime

TOKEN = b"a.b.c"
OUTCOME = b'"login":1001,"cmd":7,"state":3,"profit":201.25,"comment":"Promotion credit"'
REPLY = (
    b'{"extID":10000001,"status":200,"data":{"order":5,"login":1001,"cmd":7,'
    b'"state":3,"profit":201.25,"comment":"Promotion credit","timestamp":1}}\r\n'
)
EVENT = (
    b'{"event":"trade:event","type":0,"data":{"order":5,"login":1001,"cmd":7,'
    b'"state":3,"profit":201.25,"comment":"Promotion credit","timestamp":1}}\r\n'
)
RESPONSE = b"HTTP/1.1 200 OK\r\nserver: any\r\n\r\n"


def folderFor(test: SynchronousTestCase) -> Path:
    """
    A temporary folder for a test.
    """
    made = tempfile.TemporaryDirectory()
    test.addCleanup(made.cleanup)
    return Path(made.name)


def ringFrom(first: int, length: int) -> Ring:
    """
    The requests of one connection.
    """
    serials = range(first, first + length)
    return Ring.make(
        serials,
        [traffic.request(serial, TOKEN) for serial in serials],
        [traffic.outcome(serial) for serial in serials],
    )


class PercentileTests(SynchronousTestCase):
    """
    Tests for L{figures.percentile}.
    """

    def test_middleOfFour(self) -> None:
        """
        The 50th percentile of an even number of values is the lower middle
        one.
        """
        self.assertEqual(figures.percentile([1.0, 2.0, 3.0, 4.0], 50), 2.0)

    def test_middleOfThree(self) -> None:
        """
        The 50th percentile of an odd number of values is the middle one.
        """
        self.assertEqual(figures.percentile([1.0, 2.0, 3.0], 50), 2.0)

    def test_nearTheEnd(self) -> None:
        """
        Of a hundred values, one exceeds the 99th percentile.
        """
        values = [float(each) for each in range(1, 101)]
        self.assertEqual(figures.percentile(values, 99), 99.0)

    def test_single(self) -> None:
        """
        Every percentile of a single value is that value.
        """
        self.assertEqual(figures.percentile([7.0], 99.9), 7.0)


def rounds(*rates: float) -> list[dict[str, Any]]:
    """
    Rounds of one peer.
    """
    names = ("cpu", "p50", "p90", "p99", "p999", "max", "late", "busy", "others")
    return [{"rate": rate} | dict.fromkeys(names, 0.0) for rate in rates]


class SummaryTests(SynchronousTestCase):
    """
    Tests for L{figures.summary}.
    """

    def setUp(self) -> None:
        """
        Three rounds, in the last of which the machine was slow.
        """
        self.summary = figures.summary(
            rounds(50.0, 60.0, 10.0), rounds(100.0, 100.0, 20.0), rounds(25, 30, 5)
        )

    def test_median(self) -> None:
        """
        The rate is that of the middle round.
        """
        self.assertEqual(self.summary["rate"], 50.0)

    def test_ratioWithinRounds(self) -> None:
        """
        The ratio is the median of each round's ratio (0.5, 0.6 and 0.5), so a
        slow moment of the machine does not change it.
        """
        self.assertEqual(self.summary["ofEcho"], 0.5)

    def test_timesDurable(self) -> None:
        """
        A peer twice as fast as creditsync has 0.5 in the column of
        creditsync's ratio.
        """
        self.assertEqual(self.summary["durable"], 0.5)

    def test_spread(self) -> None:
        """
        The slowest and the fastest round are reported.
        """
        spread = self.summary["slowest"], self.summary["fastest"]
        self.assertEqual(spread, (10.0, 60.0))


class AlignedTests(SynchronousTestCase):
    """
    Tests for L{figures.aligned}.
    """

    def test_columns(self) -> None:
        """
        Texts are aligned to the left, numbers to the right, with four digits.
        """
        shown = figures.aligned([["name", "x"], ["a", 12345.6], ["bcdef", 0.123456]])
        lines = ["name        x", "a      12,346", "bcdef  0.1235"]
        self.assertEqual(shown.splitlines(), lines)


class GoalTests(SynchronousTestCase):
    """
    Tests for L{goals.reached}.
    """

    def reached(self, durable: float) -> dict[str, str]:
        """
        The verdicts for this rate of creditsync if the echo has 100.
        """
        peers = {
            "echo": rounds(100.0),
            "memory": rounds(50.0),
            "durable": rounds(durable),
            "rust": rounds(100.0),
        }
        results = {"command": "throughput", "rounds": {"16x16": peers}}
        return {name: met for name, _, _, met in goals.reached(results)}

    def test_met(self) -> None:
        """
        A goal that is reached exactly is met.
        """
        met = self.reached(25.0)
        self.assertEqual(met["memory ledger, of echo, 16x16"], "met")
        self.assertEqual(met["durable, of echo, 16x16"], "met")

    def test_notMet(self) -> None:
        """
        A goal that is just missed is not met.
        """
        met = self.reached(24.9)
        self.assertEqual(met["durable, of echo, 16x16"], "not met")
        self.assertEqual(met["durable, of Rust, worst shape"], "not met")

    def test_leftOut(self) -> None:
        """
        A peer that was left out has no goal.
        """
        self.assertNotIn("durable, of Node.js, 16x16", self.reached(25.0))

    def test_everyShape(self) -> None:
        """
        A run with the shapes that are measured by default has a figure for each
        goal.
        """
        names = ("echo", "memory", "durable", "watched", "obvious-group", "node")
        peers = {name: [{"rate": 80.0, "p50": 2.0, "p99": 3.0}] for name in names}
        peers["node"] = peers["rust"] = [{"rate": 100.0, "p50": 1.0, "p99": 2.0}]
        shapes = throughput._options([]).shapes
        results = {
            "command": "throughput",
            "rounds": {str(shape): peers for shape in shapes},
            "open": peers,
            "commits": [{"p50": 0.5}],
        }
        reached = {name: (value, met) for name, value, _, met in goals.reached(results)}
        wanted = [each.name for each in goals.GOALS if each.command == "throughput"]
        self.assertEqual(list(reached), wanted)
        self.assertEqual(reached["durable, of Node.js, 1x64"], (0.8, "met"))
        self.assertEqual(reached["p50 at 1x1, of one row's commit"], (4.0, "not met"))

    def test_atMost(self) -> None:
        """
        A goal may be an upper bound.
        """
        sessions, waiters = {"100": 1.0, "1000": 2049.0}, {"1000": 1024.0}
        each = {"sessions": sessions, "waiters": waiters}
        results = {"command": "scale", "bytesEach": each}
        met = {name: met for name, _, _, met in goals.reached(results)}
        self.assertEqual(met["memory of an idle session, KiB"], "not met")
        self.assertEqual(met["memory of a pending waiter, KiB"], "met")

    def test_start(self) -> None:
        """
        Of a start, the port and the first answer have goals of their own: the
        medians with the largest ledger.
        """
        small = [{"open": 9.0, "answer": 9.0}]
        large = [
            {"open": 0.4, "answer": 5.2},
            {"open": 0.6, "answer": 4.0},
            {"open": 0.5, "answer": 5.1},
        ]
        rounds = {"trades": {"1000": small, "10000000": large}}
        results = {"command": "scale", "rounds": rounds}
        found = {name: (value, met) for name, value, _, met in goals.reached(results)}
        name = "start with most trades in the ledger, "
        self.assertEqual(found[name + "port open, s"], (0.5, "met"))
        self.assertEqual(found[name + "first answer, s"], (5.1, "not met"))


class TrafficTests(SynchronousTestCase):
    """
    Tests for L{traffic}.
    """

    def test_request(self) -> None:
        """
        A request has its extID, and the login and amount that belong to it.
        """
        self.assertEqual(
            traffic.request(10_000_001, TOKEN),
            b'{"extID":10000001,"command":"CreditInSync","__token":"a.b.c","data":'
            b'{"login":1001,"amount":201.25,"comment":"Promotion credit"}}\r\n',
        )

    def test_post(self) -> None:
        """
        By HTTP the request is the content of a POST, with its length in the
        header.
        """
        head, _, content = traffic.post(b"{}\r\n").partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST / HTTP/1.1\r\n"))
        self.assertIn(b"Content-Length: 4", head)
        self.assertEqual(content, b"{}\r\n")

    def test_outcome(self) -> None:
        """
        The outcome has the same login and amount.
        """
        self.assertEqual(traffic.outcome(10_000_001), OUTCOME)

    def test_equalLength(self) -> None:
        """
        All requests have the same length: otherwise slices of a ring would be
        wrong.
        """
        lengths = {
            len(traffic.request(traffic.FIRST + each, TOKEN)) for each in range(2000)
        }
        self.assertEqual(len(lengths), 1)

    def test_cannedReply(self) -> None:
        """
        The canned reply is accepted as the reply to the first request, and the
        canned event as its event.
        """
        line = canned.EVENT + canned.HEAD + b"10000000" + canned.TAIL
        expected = {b"10000000": traffic.outcome(10_000_000)}
        self.assertEqual(
            verified(line, expected), ((b"10000000",), (b"12345",), [b"12345"])
        )


class VerifiedTests(SynchronousTestCase):
    """
    Tests for L{verified}.
    """

    def test_replyAndEvent(self) -> None:
        """
        Replies yield their extIDs and orders, events their orders.
        """
        self.assertEqual(
            verified(EVENT + REPLY, {b"10000001": OUTCOME}),
            ((b"10000001",), (b"5",), [b"5"]),
        )

    def test_eventsOnly(self) -> None:
        """
        A chunk may consist of events only.
        """
        self.assertEqual(verified(EVENT + EVENT, {}), ((), (), [b"5", b"5"]))

    def test_response(self) -> None:
        """
        The lines of an HTTP response around the reply are skipped.
        """
        self.assertEqual(
            verified(RESPONSE + EVENT + REPLY, {b"10000001": OUTCOME}),
            ((b"10000001",), (b"5",), [b"5"]),
        )

    def test_unwelcomeResponse(self) -> None:
        """
        An HTTP response with an error status is reported.
        """
        refusal = RESPONSE.replace(b"200 OK", b"422 No")
        self.assertRaises(Unexpected, verified, refusal, {})

    def test_wrongAmount(self) -> None:
        """
        A reply with an amount other than the request's is reported.
        """
        wrong = REPLY.replace(b"201.25", b"202.25")
        self.assertRaises(Unexpected, verified, wrong, {b"10000001": OUTCOME})

    def test_strangeExtID(self) -> None:
        """
        A reply that belongs to another connection is reported.
        """
        self.assertRaises(Unexpected, verified, REPLY, {b"10000002": OUTCOME})

    def test_refusal(self) -> None:
        """
        An error reply among good ones is reported, with its text.
        """
        refusal = b'{"extID":10000001,"status":503,"error":"BUSY","message":""}\r\n'
        lines = REPLY + refusal + REPLY
        e = self.assertRaises(Unexpected, verified, lines, {b"10000001": OUTCOME})
        self.assertIn("503", str(e))

    def test_bareLineFeed(self) -> None:
        """
        A line that does not end in CR LF is reported.
        """
        bare = REPLY.replace(b"\r", b"")
        self.assertRaises(Unexpected, verified, bare, {b"10000001": OUTCOME})


class RingTests(SynchronousTestCase):
    """
    Tests for L{Ring} and L{Answers}.
    """

    def test_aroundTheEnd(self) -> None:
        """
        After the last request comes the first, in one slice.
        """
        ring = ringFrom(10_000_000, 4)
        ring.take(3)
        extIDs, lines = ring.take(2)
        self.assertEqual(extIDs, [b"10000003", b"10000000"])
        self.assertEqual(
            bytes(lines),
            traffic.request(10_000_003, TOKEN) + traffic.request(10_000_000, TOKEN),
        )

    def test_roundAndRound(self) -> None:
        """
        The ring never ends, however many requests are taken.
        """
        ring = ringFrom(10_000_000, 4)
        for _ in range(4):
            ring.take(3)
        self.assertEqual(ring.take(3)[0], [b"10000000", b"10000001", b"10000002"])

    def test_answersInStep(self) -> None:
        """
        The canned responder answers in the same order as the ring asks.
        """
        answers = Answers.make(10_000_000, 4)
        answers.take(3)
        self.assertEqual(
            bytes(answers.take(2)),
            canned.HEAD
            + b"10000003"
            + canned.TAIL
            + canned.HEAD
            + b"10000000"
            + canned.TAIL,
        )


class LoadTests(SynchronousTestCase):
    """
    Tests for L{Load}, on a pair of sockets.
    """

    def setUp(self) -> None:
        """
        One connection with one outstanding request, which receives events.
        """
        ours, self.server = socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.server.close)
        self.server.settimeout(5)
        ours.setblocking(False)
        connection = Connection(ours, ringFrom(10_000_001, 4), set())
        self.load = Load({ours.fileno(): connection})

    def test_drained(self) -> None:
        """
        Outstanding replies are waited for, in however many packets they come.
        """
        self.load.start(1)
        self.server.sendall(EVENT + REPLY[:20])
        self.load.exchange(0.0)
        self.server.sendall(REPLY[20:])
        self.load.drain(1)
        self.assertEqual((self.load.orders, self.load.events), ([b"5"], [b"5"]))

    def test_answeredTwice(self) -> None:
        """
        A second reply to one request is reported.
        """
        self.load.start(1)
        self.server.sendall(EVENT + REPLY * 2)
        self.assertRaises(Unexpected, self.load.drain, 1)

    def test_eventAfterReply(self) -> None:
        """
        An event that comes after its reply is reported, even if both are read
        at once.
        """
        self.load.start(1)
        self.server.sendall(REPLY + EVENT)
        self.assertRaises(Unexpected, self.load.drain, 1)

    def test_closed(self) -> None:
        """
        A server that closes the connection is reported.
        """
        self.load.start(1)
        self.server.recv(4096)
        self.server.close()
        self.assertRaises(Unexpected, self.load.drain, 1)

    def test_latencyFromWhenItWasDue(self) -> None:
        """
        In an open loop the latency of a request counts from when it was due,
        even if it was sent late.
        """
        clock = Clock()
        standing = Standing(self.load._connections, clock.seconds)
        standing.clock = clock
        standing.pace(0.03, 100.0)
        [connection] = self.load._connections.values()
        due = list(connection.outstanding.values())
        self.assertEqual(due, [0.0, 0.01, 0.02])
        late = [round(each, 6) for each in standing.late]
        self.assertEqual(late, [0.0, 0.015, 0.005])


class Standing(Load):
    """
    A load that pauses for a while in each turn.
    """

    clock: Clock

    def _turn(self, patience: float, asking: bool) -> None:
        self.clock.advance(0.025)


RUSTC = shutil.which("rustc")


def message(extID: int, order: int) -> tuple[bytes, bytes]:
    """
    The event and the reply of one request.
    """
    data = b'{"order":%d,%b,"timestamp":1}' % (order, traffic.outcome(extID))
    event = b'{"event":"trade:event","type":0,"data":%b}\r\n' % data
    return event, b'{"extID":%d,"status":200,"data":%b}\r\n' % (extID, data)


@skipUnless(RUSTC, "there is no rustc")
class NativeTests(SynchronousTestCase):
    """
    Tests for C{load.rs}, which takes over one end of a pair of sockets.
    """

    folder: "tempfile.TemporaryDirectory[str]"
    program: str

    @classmethod
    def setUpClass(cls) -> None:
        """
        Compile the program, once for all tests.
        """
        cls.folder = tempfile.TemporaryDirectory()
        cls.program = str(Path(cls.folder.name) / "load")
        source = Path(benchmarks.__file__).parent / "load.rs"
        command = [str(RUSTC), "-o", cls.program, str(source)]
        subprocess.run(command, check=True, timeout=50)

    @classmethod
    def tearDownClass(cls) -> None:
        """
        Remove the compiled program.
        """
        cls.folder.cleanup()

    def load(
        self, say: Callable[[bytes, bytes], bytes]
    ) -> "subprocess.CompletedProcess[str]":
        """
        Have the program send requests for a moment.

        @param say: What to send in place of an event and its reply.
        """
        ring = folderFor(self) / "ring"
        serials = range(10_000_001, 10_000_033)
        lines = [traffic.request(each, TOKEN) for each in serials]
        outcomes = [traffic.outcome(each) for each in serials]
        ring.write_bytes(b"".join(lines + outcomes))
        ours, server = socketpair()
        answering = Thread(target=_answer, args=(server, say))
        with ours, server, ring.open("rb") as file:
            answering.start()
            size = len(lines[0]), len(outcomes[0])
            options = [file.fileno(), serials.start, len(lines), *size, 2, 0.01, 0.05]
            options += [0, 1]
            done = subprocess.run(
                [self.program, *map(str, options), "lines", str(ours.fileno())],
                pass_fds=(file.fileno(), ours.fileno()),
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            ours.shutdown(SHUT_RDWR)
            answering.join(10)
        return done

    def assertNoticed(self, said: bytes, *because: str) -> None:
        """
        Assert that this ends the load with the right error.
        """
        done = self.load(lambda event, reply: said)
        self.assertEqual(done.returncode, 1)
        self.assertTrue(any(each in done.stderr for each in because), done.stderr)

    def test_good(self) -> None:
        """
        Good replies are counted, and their orders and events are added up.
        """
        done = self.load(lambda event, reply: event + reply)
        self.assertEqual(done.stderr, "")
        measured = json.loads(done.stdout)
        answered = measured["answered"]
        self.assertGreater(answered, 2)
        self.assertEqual(measured["orders"], answered)
        self.assertEqual(measured["events"], answered)
        self.assertEqual(measured["sumOfOrders"], answered * (answered + 1) // 2)
        self.assertEqual(measured["sumOfEvents"], measured["sumOfOrders"])

    def test_lies(self) -> None:
        """
        Each kind of wrong reply or event ends the load.
        """
        event, reply = message(10_000_001, 5)
        wrong = reply.replace(b"201.25", b"202.25")
        self.assertNoticed(event + wrong, "no good reply")
        self.assertNoticed(event + reply * 2, "not outstanding")
        self.assertNoticed(reply + event, "before its event")
        self.assertNoticed(event + reply.replace(b"\r", b""), "no good reply")
        strange = message(10_000_032, 5)
        self.assertNoticed(b"".join(strange), "not outstanding")
        refusal = b'{"extID":10000001,"status":503,"error":"BUSY","message":""}\r\n'
        self.assertNoticed(refusal, "503")


def _answer(server: socket, say: Callable[[bytes, bytes], bytes]) -> None:
    """
    Answer each line of a connection until it ends.
    """
    order = 0
    with server.makefile("rb") as lines:
        try:
            for line in lines:
                order += 1
                server.sendall(say(*message(int(line[traffic.EXT_ID]), order)))
        except OSError:
            return


class CheckTests(SynchronousTestCase):
    """
    Tests for what is checked after each round.
    """

    def setUp(self) -> None:
        """
        A round of a durable peer with three credits, each with its event.
        """
        folder = folderFor(self)
        self.bench = Bench(folder, b"k" * 32, None, None, None)
        tokens = {"login": 1001, "amount": 201.25, "comment": "c"}
        self.ledger = common.Ledger.create(str(self.bench.ledger))
        self.ledger.book([self.ledger.trade(tokens) for _ in range(3)])
        self.measured = {"answered": 3, "orders": 3, "sumOfOrders": 6}
        self.measured |= {"events": 3, "sumOfEvents": 6}

    def check(self, **other: int) -> None:
        """
        Check the round with other numbers.
        """
        measured = self.measured | other
        options = Namespace(events="one")
        throughput._check(self.bench, contenders.PEERS["rust"], measured, options)

    def test_good(self) -> None:
        """
        A round is sound if the ledger has the orders in the replies.
        """
        self.check()

    def test_lostRow(self) -> None:
        """
        An order in a reply that is not in the ledger is reported.
        """
        self.assertRaises(
            Wrong, self.check, answered=4, orders=4, sumOfOrders=10, events=4
        )

    def test_lostEvent(self) -> None:
        """
        A missing event is reported.
        """
        self.assertRaises(Wrong, self.check, events=2, sumOfEvents=3)

    def test_otherEvent(self) -> None:
        """
        An event of another order is reported.
        """
        self.assertRaises(Wrong, self.check, sumOfEvents=7)

    def test_orderTwice(self) -> None:
        """
        An order number that was used twice is reported.
        """
        self.assertRaises(Wrong, self.check, orders=2)


class PeerTests(SynchronousTestCase):
    """
    Tests for L{contenders} and L{common}.
    """

    def test_leftOut(self) -> None:
        """
        A peer whose library is not installed is left out, and the reason is
        given.
        """
        odd = contenders.Peer(contenders.durable, contenders._imports("no_such_one"))
        self.patch(throughput, "PEERS", {"odd": odd})
        peers, left = throughput.prepared(["odd"])
        self.assertEqual(peers, {})
        self.assertIn("there is no no_such_one", left["odd"])

    def test_failedBuild(self) -> None:
        """
        A peer whose compiler fails is left out, and the run goes on.
        """
        said: list[str] = []
        self.patch(contenders, "note", said.append)
        command = [sys.executable, "-c", "raise SystemExit('no such crate')"]
        self.assertRaises(contenders.Missing, contenders._build, command, Path("."))
        self.assertEqual(said, ["no such crate"])

    def test_token(self) -> None:
        """
        The peers in Python accept a good token and refuse another.
        """
        tokens = common.Tokens(b"k" * 32)
        now = time.time()
        tokens.check(mint("k" * 32, id=7, role=1, expires=60, now=now))
        other = mint("x" * 32, id=7, role=1, expires=60, now=now)
        self.assertRaises(ValueError, tokens.check, other)
        user = mint("k" * 32, id=7, role=0, expires=60, now=now)
        self.assertRaises(ValueError, tokens.check, user)

    def test_sameBytes(self) -> None:
        """
        The event and reply of the peers in Python are creditsync's, byte for
        byte.
        """
        ledger = common.Ledger.create(str(folderFor(self) / "ledger.db"))
        trade = ledger.trade(
            {"login": 1000, "amount": 200.25, "comment": "Promotion credit"}
        )
        times = dict.fromkeys(("open_time", "close_time", "timestamp"), 1_700_000_000)
        trade |= {"order": 12345, "cursor": "9f3c1a7e-12345", **times}
        self.assertEqual(common.event(trade) + b"\r\n", canned.EVENT)
        self.assertEqual(
            common.reply(traffic.FIRST, trade) + b"\r\n",
            canned.HEAD + b"10000000" + canned.TAIL,
        )

    def test_totals(self) -> None:
        """
        The ledger of the peers in Python keeps the totals of its accounts.
        """
        path = str(folderFor(self) / "ledger.db")
        ledger = common.Ledger.create(path)
        credit = {"login": 1000, "amount": 200.25, "comment": "c"}
        ledger.book([ledger.trade(credit), ledger.trade(credit)])
        with closing(sqlite3.connect(path)) as connection:
            totals = connection.execute("SELECT * FROM account").fetchall()
        self.assertEqual(totals, [(1000, 40050000000)])


class BeforeTests(SynchronousTestCase):
    """
    Tests for the comparison with another checkout.
    """

    def test_itsModules(self) -> None:
        """
        Its server runs in that checkout, and so with its modules.
        """
        folder, port = folderFor(self), freePort()
        (folder / "there.py").write_text(
            "import socket, sys, time\n"
            "there = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
            "time.sleep(60)\n"
        )
        with running(module("there", str(port)), None, port, folder=folder) as pid:
            self.assertEqual(Path(f"/proc/{pid}/cwd").resolve(), folder.resolve())

    def test_peers(self) -> None:
        """
        It adds two peers, which differ from ours in nothing but the folder.
        """
        peers = contenders.earlier(Path("."))
        self.assertEqual(list(peers), ["memory-before", "durable-before"])
        for each in peers.values():
            self.assertEqual(each.folder, Path.cwd())
        self.assertIs(
            peers["durable-before"].command, contenders.PEERS["durable"].command
        )

    def test_noCheckout(self) -> None:
        """
        A folder that has no creditsync is refused.
        """
        self.patch(sys, "stderr", StringIO())
        folder = str(folderFor(self))
        self.assertRaises(SystemExit, throughput._options, ["--against", folder])

    def test_ratios(self) -> None:
        """
        The table has the ratio of each round's figures, as a median.
        """
        peers = {
            "echo": rounds(1000.0, 1000.0, 1000.0),
            "durable": rounds(300.0, 100.0, 200.0),
            "durable-before": rounds(100.0, 50.0, 160.0),
        }
        for each in peers["durable-before"]:
            each |= {"cpu": 40.0, "p50": 2.0, "p99": 4.0}
        for each in peers["durable"]:
            each |= {"cpu": 10.0, "p50": 1.0, "p99": 5.0}
        results = {"rounds": {"16x16": peers}, "open": {}}
        [table] = comparison._beforeAndAfter(results)
        self.assertEqual(table.rows[1:], [["durable", "16x16", 2.0, 0.25, 0.5, 1.25]])

    def test_order(self) -> None:
        """
        Of two peers each is measured before the other in some of the rounds.
        """
        names = dict.fromkeys(
            ["echo", "memory", "durable", *contenders.earlier(Path())]
        )
        run: Any = throughput.Run(None, None, names, {})  # type: ignore[arg-type]
        first = [
            order.index("durable") < order.index("durable-before")
            for order in map(run._order, range(5))
        ]
        self.assertEqual(first, [True, False, True, True, False])


class PythonBuildTests(SynchronousTestCase):
    """
    Tests for L{pythonBuild}.
    """

    def built(self, options: str | None, prefix: str) -> str:
        """
        What is told of a Python that was configured with these options.
        """
        self.patch(sysconfig, "get_config_var", {"CONFIG_ARGS": options}.get)
        self.patch(sys, "base_prefix", prefix)
        return pythonBuild()

    def test_optimized(self) -> None:
        """
        Both optimizations are named, or the one that was chosen.
        """
        options = "'--enable-shared' '--enable-optimizations' '--with-lto=full'"
        self.assertEqual(self.built(options, "/opt"), "built with PGO and LTO")
        options = "'--enable-optimizations' 'LDFLAGS=-L/usr/lib -Wl,-z'"
        self.assertEqual(self.built(options, "/usr"), "built with PGO")

    def test_plain(self) -> None:
        """
        A build of pyenv's default has none of them.
        """
        self.assertEqual(
            self.built("'--prefix=/root/x' '--enable-shared'", "/root/x"),
            "built without PGO and LTO",
        )

    def test_systems(self) -> None:
        """
        Debian's options say nothing of it.
        """
        self.assertEqual(
            self.built("'--prefix=/usr' '--enable-shared'", "/usr"),
            "the system's own build",
        )


class BroadcastTests(SynchronousTestCase):
    """
    Tests for L{Audience} and L{slopes}.
    """

    def setUp(self) -> None:
        """
        Two sessions that receive events.
        """
        pairs = [socketpair(), socketpair()]
        for pair in pairs:
            for each in pair:
                self.addCleanup(each.close)
        self.servers = [server for _, server in pairs]
        self.audience = Audience({ours.fileno(): ours for ours, _ in pairs})

    def test_received(self) -> None:
        """
        L{Audience.readAll} returns once each session has received each event.
        """
        for server in self.servers:
            server.sendall(EVENT * 2)
        self.audience.readAll(2)
        self.assertEqual(list(self.audience.received.values()), [2, 2])

    def test_twice(self) -> None:
        """
        An event that a session receives twice is reported.
        """
        self.servers[0].sendall(EVENT)
        self.servers[1].sendall(EVENT * 2)
        self.assertRaises(Wrong, self.audience.readAll, 1)

    def test_cutOff(self) -> None:
        """
        A session that is cut off is noticed.
        """
        self.servers[0].close()
        self.assertRaises(Wrong, self.audience.read, 1.0)

    def test_slopes(self) -> None:
        """
        A cost that does not grow with the audience is not a cost of the
        subscribers.
        """
        cpu = {"10": [120.0, 520.0], "110": [320.0, 720.0], "1010": [2120.0, 2520.0]}
        self.assertEqual(slopes(cpu), {"110": 2.0, "1010": 2.0})


class CatchUpTests(SynchronousTestCase):
    """
    Tests for the sessions of L{benchmarks.catchup}.
    """

    REPLY = b'{"extID":"r","status":200,"data":{"chanels":["trade:event"]}}\r\n'

    def setUp(self) -> None:
        """
        A session that reads, and its server.
        """
        ours, self.server = socketpair()
        self.addCleanup(self.server.close)
        self.addCleanup(ours.close)
        self.readers = Readers()
        self.reader = Reader(ours, 0, 3)
        self.readers.add(self.reader)

    def send(self, *places: int, reply: bytes = REPLY) -> None:
        """
        Send a reply, and events with these places.
        """
        line = (
            b'{"event":"trade:event","type":0,"data":{"order":5,"cursor":"e-%d"}}\r\n'
        )
        self.server.sendall(reply + b"".join(line % each for each in places))

    def test_first(self) -> None:
        """
        A session asks for everything, and is disconnected when it has got it.
        """
        self.reader.begin("e-0", TOKEN)
        self.assertIn(b'"since":"first"', self.server.recv(4096))
        self.send(1, 2, 3)
        self.readers.read()
        self.assertEqual(self.readers.reading, {})
        self.assertEqual(self.server.recv(1), b"")

    def test_part(self) -> None:
        """
        A session that begins behind a place names it, and counts from there.
        """
        self.reader.place, self.reader.last = 7, 9
        self.reader.begin("e-7", TOKEN)
        self.assertIn(b'"since":"e-7"', self.server.recv(4096))
        self.send(8, 9)
        self.readers.read()
        self.assertEqual(self.reader.place, 9)

    def test_inPieces(self) -> None:
        """
        Lines may come in any pieces.
        """
        self.send(1, 2, 3)
        buffer = bytearray(4096)
        received = self.reader.socket.recv(4096)
        done = []
        for start in range(0, len(received), 100):
            piece = received[start : start + 100]
            buffer[: len(piece)] = piece
            done.append(self.reader.take(buffer, len(piece)))
        self.assertEqual(done, [False, False, True])

    def test_missing(self) -> None:
        """
        An event that is missing, or that comes twice, is noticed at the end.
        """
        for places in ((1, 3, 4), (1, 2, 2)):
            reader = Reader(self.reader.socket, 0, 3)
            self.send(*places)
            buffer = bytearray(4096)
            size = self.reader.socket.recv_into(buffer)
            self.assertRaises(Wrong, reader.take, buffer, size)

    def test_refused(self) -> None:
        """
        A session that is refused is noticed.
        """
        self.send(reply=b'{"extID":"r","status":410,"error":"CURSOR_GONE"}\r\n')
        self.assertRaises(Wrong, self.readers.read)

    def test_cutOff(self) -> None:
        """
        A connection that ends before everything has come is noticed.
        """
        self.send(1, 2)
        self.server.close()
        self.assertRaises(Wrong, self.readers.read)

    def test_goals(self) -> None:
        """
        The goals have the medians of all rounds, and the most memory.
        """
        each = {"p99": 5.0, "rate": 2e6, "before": 60 << 20, "peak": 70 << 20}
        slow = {**each, "p99": 30.0, "peak": 125 << 20}
        results = {
            "command": "catchup",
            "rounds": {
                "alone": [{"before": 60 << 20, "peak": 60 << 20}],
                "all read the same": [each, slow, each],
                "each reads a part": [slow, slow, each],
            },
        }
        self.assertEqual(
            [(value, bound, met) for _, value, bound, met in goals.reached(results)],
            [
                (5.0, "≤ 20", "met"),
                (30.0, "≤ 20", "not met"),
                (2e6, "≥ 1,000,000", "met"),
                (65.0, "≤ 64", "not met"),
            ],
        )


class FillTests(SynchronousTestCase):
    """
    Tests for L{fill}.
    """

    def test_asIfBooked(self) -> None:
        """
        The server's ledger accepts a filled file: nothing in it is wrong, the
        totals are there, and the next order comes after the last.
        """
        path = folderFor(self) / "ledger.db"
        fill(path, 2000, 1000)
        with closing(sqlite3.connect(path)) as connection:
            self.assertEqual(list(findings(connection)), [])
            [count] = connection.execute("SELECT count(*) FROM trade").fetchone()
        self.assertEqual(count, 2000)
        ledger = SQLiteLedger(str(path), maybeDeferred)
        ledger.open()
        self.addCleanup(ledger.close)
        # The account has orders 700 and 1700, of 800 and of 900.
        self.assertEqual(ledger.account(1700), Account(1700, 0, 170_000_000_000))
        self.assertEqual(ledger.newOrder(), 2001)


class ForgettingTests(SynchronousTestCase):
    """
    Tests for L{forgetting}.
    """

    def test_forgotten(self) -> None:
        """
        Operations for some logins get an order and are never booked; others
        are booked.
        """
        clock, events, published = Clock(), TradeEvents(), []
        events.addObserver(published.extend)
        runtime = TradingRuntime(
            clock, MemoryLedger(), events, now=lambda: 0.0, maxQueued=10
        )
        runtime.startService()
        submit = forgetting(TradingRuntime.submit)
        asked = [
            Operation("CreditInSync", 7, login, 100, "c") for login in (FORGOTTEN, 1001)
        ]
        forgotten, booked = [submit(runtime, each) for each in asked]
        clock.advance(0)
        self.assertNotEqual(forgotten.order, booked.order)
        self.assertEqual([each.order for each in published], [booked.order])


class ComponentTests(SynchronousTestCase):
    """
    Tests for L{components}.
    """

    def setUp(self) -> None:
        """
        A bench that is not pinned to a processor.
        """
        folder = folderFor(self)
        self.steps = components.Steps(Bench(folder, b"k" * 32, None, None, None))

    def test_allSteps(self) -> None:
        """
        Each step runs, and takes some time.
        """
        for name in components.STEPS:
            self.assertGreater(
                components.nanoseconds(getattr(self.steps, name), 1), 0.0, name
            )

    def test_observed(self) -> None:
        """
        The whole way runs with each of its observers.
        """
        took = components.observed(self.steps, 1)
        self.assertEqual(list(took), list(components.OBSERVED))
        self.assertTrue(all(0 < each < 1e9 for each in took.values()))
        trail = Path(self.steps._place.folder, "audit").read_bytes()
        self.assertIn(b'"outcome":"booked"', trail)

    def test_sameEveryTime(self) -> None:
        """
        The counts are the same in every run.
        """
        first = counted(self.steps.whole, components.BATCH)
        self.assertEqual(counted(self.steps.whole, components.BATCH), first)
        self.assertIn("_conversation.session", first["instructions"])

    def test_regression(self) -> None:
        """
        Wasted work shows in the module that does it, and in no other of
        creditsync's.
        """
        before = counted(self.steps.whole, components.BATCH)["calls"]
        original = MemoryLedger.newOrder

        def newOrder(ledger: MemoryLedger) -> int:
            ledger.trade(1)
            return original(ledger)

        self.patch(MemoryLedger, "newOrder", newOrder)
        after = counted(self.steps.whole, components.BATCH)["calls"]
        grown = {name for name in after if after[name] > before.get(name, 0.0)}
        self.assertIn("ledger.memory", grown)
        self.assertEqual(grown - {"ledger.memory", "(others)"}, set())


class ReportTests(SynchronousTestCase):
    """
    Tests for L{report}.
    """

    def setUp(self) -> None:
        """
        Results of two commands, and a page.
        """
        self.folder = folderFor(self)
        peers = {"echo": rounds(100.0), "memory": rounds(49.0), "durable": rounds(30.0)}
        measured: dict[str, Any] = {
            "command": "throughput",
            "where": {"system": "Linux *6"},
            "left": {"rust": "there is no *cargo"},
            "commits": [{"p50": 0.2}],
            "rounds": {"16x16": peers},
            "open": {},
        }
        measured["summary"] = comparison.summaries(measured)
        (self.folder / "throughput.json").write_text(json.dumps(measured))
        self.page = self.folder / "page.rst"
        self.page.write_text(
            "Page\n====\n\nFigures\n-------\n\n"
            f"{report._BEGIN}\nold\n\n{report._END}\nafter\n"
        )

    def write(self) -> str:
        """
        Write the results into the page.
        """
        lines = "\n".join(report.page(self.folder))
        return report.put(lines + "\n", self.page.read_text())

    def test_page(self) -> None:
        """
        New figures replace the old ones, and the rest of the page stays.
        """
        page = self.write()
        self.assertNotIn("old", page)
        self.assertTrue(page.endswith("after\n"))
        self.assertIn("     - 0.49\n     - ≥ 0.5\n     - not met\n", page)
        self.assertIn("     - 0.3\n     - ≥ 0.25\n     - met\n", page)

    def test_again(self) -> None:
        """
        Writing the same results twice changes nothing.
        """
        once = self.write()
        self.page.write_text(once)
        self.assertEqual(self.write(), once)

    def test_renders(self) -> None:
        """
        A table is valid reStructuredText, whatever its cells contain.
        """
        settings = {"report_level": 1, "halt_level": 2}
        shown = publish_string(
            self.write(), writer="html5", settings_overrides=settings
        )
        self.assertIn(b"Linux *6", shown)

    def test_noPlace(self) -> None:
        """
        A page without the two comments is left alone.
        """
        self.assertRaises(SystemExit, report.put, "new", "Page\n====\n")


class ShapeTests(SynchronousTestCase):
    """
    Tests for L{Shape}.
    """

    def test_fromString(self) -> None:
        """
        In the text of a shape the connections come first, then the requests
        outstanding on each.
        """
        self.assertEqual(Shape.fromString("256x1"), Shape(256, 1))

"""
Tests for L{benchmarks}: what its figures rest on.
"""

from socket import socketpair

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import canned, figures, traffic
from benchmarks.ceiling import Answers
from benchmarks.generator import Connection, Load, Ring, Unexpected, verified
from benchmarks.throughput import Shape

TOKEN = b"a.b.c"
OUTCOME = b'"login":1001,"cmd":7,"state":3,"profit":201.25,"comment":"Promotion credit"'
REPLY = (
    b'{"extID":10000001,"status":200,"data":{"order":5,"login":1001,"cmd":7,'
    b'"state":3,"profit":201.25,"comment":"Promotion credit","timestamp":1}}\r\n'
)
EVENT = b'{"event":"trade:event","type":0,"data":{"order":5,"login":1001}}\r\n'


class PercentileTests(SynchronousTestCase):
    """
    Tests for L{figures.percentile}.
    """

    def test_middleOfFour(self) -> None:
        """
        The median of an even number of values is the lower middle one.
        """
        self.assertEqual(figures.percentile([1.0, 2.0, 3.0, 4.0], 50), 2.0)

    def test_middleOfThree(self) -> None:
        """
        The median of an odd number of values is the middle one.
        """
        self.assertEqual(figures.percentile([1.0, 2.0, 3.0], 50), 2.0)

    def test_nearTheEnd(self) -> None:
        """
        Of a hundred values, one passes the 99th percentile.
        """
        values = [float(each) for each in range(1, 101)]
        self.assertEqual(figures.percentile(values, 99), 99.0)

    def test_single(self) -> None:
        """
        A single value is all its percentiles.
        """
        self.assertEqual(figures.percentile([7.0], 99), 7.0)


class SummaryTests(SynchronousTestCase):
    """
    Tests for L{figures.summary}.
    """

    def setUp(self) -> None:
        """
        Three rounds, in the last of which the machine was slow.
        """
        self.ours = [_round(rate) for rate in (50.0, 60.0, 10.0)]
        self.echo = [_round(rate) for rate in (100.0, 100.0, 20.0)]

    def test_median(self) -> None:
        """
        The rate is that of the middle round.
        """
        self.assertEqual(figures.summary(self.ours, self.echo)["rate"], 50.0)

    def test_ratioWithinRounds(self) -> None:
        """
        The ratio is the middle one of 0.5, 0.6 and 0.5, so that a slow moment
        of the machine leaves it alone.
        """
        self.assertEqual(figures.summary(self.ours, self.echo)["ofEcho"], 0.5)

    def test_spread(self) -> None:
        """
        The slowest and the fastest round are told.
        """
        summary = figures.summary(self.ours, self.echo)
        self.assertEqual((summary["slowest"], summary["fastest"]), (10.0, 60.0))


def _round(rate: float) -> dict[str, float]:
    return {"rate": rate} | dict.fromkeys(("p50", "p99", "busy", "events", "others"), 0)


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

    def test_outcome(self) -> None:
        """
        The outcome has the same login and amount.
        """
        self.assertEqual(traffic.outcome(10_000_001), OUTCOME)

    def test_equalLength(self) -> None:
        """
        Requests are equally long, or slices of a ring would be wrong.
        """
        lengths = {
            len(traffic.request(traffic.FIRST + each, TOKEN)) for each in range(2000)
        }
        self.assertEqual(len(lengths), 1)

    def test_cannedReply(self) -> None:
        """
        The canned reply passes for the reply to the first request.
        """
        line = canned.HEAD + b"10000000" + canned.TAIL
        expected = {b"10000000": traffic.outcome(10_000_000)}
        self.assertEqual(verified(line, expected), ((b"10000000",), (b"12345",), 0))


class VerifiedTests(SynchronousTestCase):
    """
    Tests for L{verified}.
    """

    def test_replyAndEvent(self) -> None:
        """
        Replies give their extIDs and orders; events are counted.
        """
        self.assertEqual(
            verified(EVENT + REPLY, {b"10000001": OUTCOME}),
            ((b"10000001",), (b"5",), 1),
        )

    def test_eventsOnly(self) -> None:
        """
        There may be no reply among the lines.
        """
        self.assertEqual(verified(EVENT + EVENT, {}), ((), (), 2))

    def test_wrongAmount(self) -> None:
        """
        An amount that is not the request's is noticed.
        """
        wrong = REPLY.replace(b"201.25", b"202.25")
        self.assertRaises(Unexpected, verified, wrong, {b"10000001": OUTCOME})

    def test_strangeExtID(self) -> None:
        """
        A reply that belongs to another connection is noticed.
        """
        self.assertRaises(Unexpected, verified, REPLY, {b"10000002": OUTCOME})

    def test_refusal(self) -> None:
        """
        A refusal among good replies is noticed, and told.
        """
        refusal = b'{"extID":10000001,"status":503,"error":"BUSY","message":""}\r\n'
        lines = REPLY + refusal + REPLY
        e = self.assertRaises(Unexpected, verified, lines, {b"10000001": OUTCOME})
        self.assertIn("503", str(e))

    def test_bareLineFeed(self) -> None:
        """
        A line that does not end in CR LF is noticed.
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
        ring = Ring.make(10_000_000, 4, TOKEN, canned=False)
        ring.take(3)
        extIDs, lines = ring.take(2)
        self.assertEqual(extIDs, [b"10000003", b"10000000"])
        self.assertEqual(
            bytes(lines),
            traffic.request(10_000_003, TOKEN) + traffic.request(10_000_000, TOKEN),
        )

    def test_roundAndRound(self) -> None:
        """
        The ring does not end, however often it is gone round.
        """
        ring = Ring.make(10_000_000, 4, TOKEN, canned=False)
        for _ in range(4):
            ring.take(3)
        self.assertEqual(ring.take(3)[0], [b"10000000", b"10000001", b"10000002"])

    def test_answersInStep(self) -> None:
        """
        The fastest responder answers in the same order.
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
        One connection with one request outstanding.
        """
        ours, self.server = socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.server.close)
        self.server.settimeout(5)
        ours.setblocking(False)
        ring = Ring.make(10_000_001, 4, TOKEN, canned=False)
        self.load = Load({ours.fileno(): Connection(ours, ring)})
        self.load.start(1)

    def test_drained(self) -> None:
        """
        What is outstanding is waited for, in however many packets it comes.
        """
        self.server.sendall(REPLY[:20])
        self.load.exchange(0.0)
        self.server.sendall(REPLY[20:])
        self.load.drain()
        self.assertEqual(self.load.orders, [b"5"])

    def test_answeredTwice(self) -> None:
        """
        A second reply to one request is noticed.
        """
        self.server.sendall(REPLY * 2)
        self.assertRaises(Unexpected, self.load.drain)

    def test_closed(self) -> None:
        """
        A server that goes away is noticed.
        """
        self.server.recv(4096)
        self.server.close()
        self.assertRaises(Unexpected, self.load.drain)


class ShapeTests(SynchronousTestCase):
    """
    Tests for L{Shape}.
    """

    def test_fromString(self) -> None:
        """
        The connections come first, then what is outstanding on each.
        """
        self.assertEqual(Shape.fromString("256x1"), Shape(256, 1))

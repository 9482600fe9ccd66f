"""
Tests for L{creditsync._transport.protocol} and L{creditsync._transport.factory},
with all that a connection is made of.
"""

import json
from collections.abc import Callable
from itertools import pairwise, takewhile
from types import SimpleNamespace
from typing import Any

from attrs import Factory, define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import main
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IPullProducer,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import (
    MemoryReactor,
    MemoryReactorClock,
    StringTransport,
    StringTransportWithDisconnection,
)
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer
from zope.interface.verify import verifyObject

from creditsync import _wire as wire
from creditsync._transport.factory import LineFactory
from creditsync._transport.protocol import LineProtocol
from creditsync.errors import OutcomeUnknown, Refusal
from creditsync.events import TradeEvents
from creditsync.interfaces import ITradingRuntime
from creditsync.records import (
    Deletion,
    Limits,
    Operation,
    Principal,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime

HEALTH = b'{"command":"HealthCheck","extID":"h","__token":"manager"}\r\n'
CREDIT = (
    b'{"command":"CreditInSync","extID":"c","__token":"manager",'
    b'"data":{"login":1001,"amount":300.0,"comment":"Promotion credit"}}\r\n'
)


@implementer(IHalfCloseableDescriptor)
class Wire(StringTransport):
    """
    A connection in memory that can be closed in one direction.

    @ivar writes: What was written, each write by itself.
    @ivar halfClosed: Whether the server has said good-bye.
    """

    def __init__(self) -> None:
        super().__init__(lenient=True)
        self.writes: list[bytes] = []
        self.halfClosed = False

    def write(self, data: bytes) -> None:
        """
        See L{ITransport.write}.
        """
        self.writes.append(data)

    def loseWriteConnection(self) -> None:
        """
        See L{ITCPTransport.loseWriteConnection}.
        """
        self.halfClosed = True

    def readConnectionLost(self, reason: object) -> None:
        """
        See L{IHalfCloseableDescriptor.readConnectionLost}.
        """

    def writeConnectionLost(self, reason: object) -> None:
        """
        See L{IHalfCloseableDescriptor.writeConnectionLost}.
        """


class Socket(FileDescriptor):
    """
    Twisted's own transport, on a socket in memory.

    @ivar room: How many bytes the system still takes.
    @ivar isLost: Whether the connection is lost, of which nobody was told yet.
    @ivar sent: What the system took, each time by itself.
    @ivar given: What was left to the transport, each time by itself.
    @ivar halfClosed: Whether the server has said good-bye.
    """

    def __init__(self, room: int = 1_000_000) -> None:
        super().__init__(MemoryReactor())
        self.connected = 1
        self.room = room
        self.isLost = False
        self.sent: list[bytes] = []
        self.given: list[bytes] = []
        self.halfClosed = False

    def writeSomeData(self, data: bytes) -> int | BaseException:
        """
        See L{FileDescriptor.writeSomeData}.
        """
        if self.isLost:
            return main.CONNECTION_LOST
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.sent.append(taken)
        return len(taken)

    def write(self, data: bytes) -> None:
        """
        See L{FileDescriptor.write}.
        """
        self.given.append(data)
        super().write(data)

    def drains(self, room: int = 1_000_000) -> object:
        """
        Let the system take so much, and tell the transport if it waits for that.

        @return: The transport's answer.
        """
        self.room = room
        return self.doWrite() if self.isWaited else None

    @property
    def isWaited(self) -> bool:
        """
        Whether the transport waits until it may send.
        """
        return self in self.reactor.writers

    @property
    def isRead(self) -> bool:
        """
        Whether the server reads.
        """
        return self in self.reactor.readers

    def getPeer(self) -> str:
        """
        See L{ITransport.getPeer}.
        """
        return "somebody"

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """
        See L{ITCPTransport.setTcpKeepAlive}.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        See L{ITCPTransport.setTcpNoDelay}.
        """

    def _closeWriteConnection(self) -> None:
        self.halfClosed = True


@define(eq=False)
class Recorder:
    """
    A session that takes lines and says what the test wants.

    @ivar takes: Whether it takes a line together with others; by default it takes
        none.
    @ivar windows: The lines that it was offered together, with their ends.
    @ivar taken: The lines that it took together, with their ends.
    @ivar lines: The lines that came by themselves.
    @ivar unread: Those that are refused as they are.
    @ivar isIdle: Whether all of them are answered.
    @ivar hasEnded: Whether it was told that its client is gone.
    @ivar principal: For whom the client speaks.
    @ivar isStalled: Whether it was told that its client does not read.
    @ivar readOns: How often it was told that its client has read on.
    """

    send: Callable[[bytes], None]
    received: Callable[[bytes], None] = lambda line: None
    takes: Callable[[bytes], bool] = lambda lines: False
    windows: list[bytes] = Factory(list)
    taken: list[bytes] = Factory(list)
    lines: list[bytes] = Factory(list)
    unread: list[bytes] = Factory(list)
    isIdle: bool = True
    hasEnded: bool = False
    principal: Principal | None = None
    peer: object = None
    isStalled: bool = False
    readOns: int = 0

    def readOn(self) -> None:
        """
        Count it.
        """
        self.readOns += 1

    def linesReceived(self, lines: bytes) -> int:
        """
        Take lines together, up to the first that it does not take so.
        """
        self.windows.append(lines)
        each = [line + b"\n" for line in lines.split(b"\n")[:-1]]
        taken = list(takewhile(self.takes, each))
        if taken:
            self.taken.append(b"".join(taken))
            self.received(b"".join(taken))
        return len(taken)

    def lineReceived(self, line: bytes) -> None:
        """
        Take a line.
        """
        self.lines.append(line)
        self.received(line)

    def refuseUnread(self, line: bytes, refusal: Refusal) -> None:
        """
        Say that a line is refused.
        """
        self.unread.append(line)
        self.send(wire.refusal(None, refusal))

    def ended(self) -> None:
        """
        The client is gone.
        """
        self.hasEnded = True


@define(eq=False)
class Connection:
    """
    One client's side of a connection.
    """

    factory: LineFactory
    wire: Any = Factory(Wire)
    protocol: LineProtocol = field(init=False)

    def __attrs_post_init__(self) -> None:
        address = IPv4Address("TCP", "192.0.2.7", 5123)
        protocol = self.factory.buildProtocol(address)
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(self.wire)

    @property
    def session(self) -> Any:
        """
        The conversation on the other side.
        """
        return self.protocol._session

    @property
    def isRead(self) -> bool:
        """
        Whether the server reads.
        """
        return bool(self.wire.producerState == "producing")

    def says(self, *chunks: bytes) -> None:
        """
        Send bytes, packet by packet.
        """
        for chunk in chunks:
            self.protocol.dataReceived(chunk)

    def saysNoMore(self) -> None:
        """
        Close this side, and read on: C{nc -N}.
        """
        self.protocol.readConnectionLost()

    def isGone(self) -> None:
        """
        Lose the connection.
        """
        self.protocol.connectionLost()

    def hears(self) -> bytes:
        """
        Take what was written since the last time.
        """
        written = b"".join(self.wire.writes)
        self.wire.writes.clear()
        return written

    def outcomes(self) -> list[tuple[Any, int, str | None]]:
        """
        Take the replies, each as its extID, status and error.
        """
        lines = [json.loads(line) for line in self.hears().splitlines()]
        return [
            (reply.get("extID"), reply["status"], reply.get("error"))
            for reply in lines
            if "event" not in reply
        ]


class RecordedTestCase(SynchronousTestCase):
    """
    Connections whose sessions only record.
    """

    def setUp(self) -> None:
        """
        Make their factory with the limits of a server.
        """
        self.clock = Clock()
        self.limit()

    def limit(self, **limits: Any) -> None:
        """
        Make the factory anew, with other limits.
        """

        class Recorders:
            open = Recorder
            counters = None

        self.factory = LineFactory(
            self.clock,
            Recorders(),  # type: ignore[arg-type]
            Limits(**limits),
            7.0,
        )
        self.factory.serve()

    def connect(self, wire: object = None) -> Connection:
        """
        Open a connection.
        """
        if wire is None:
            return Connection(self.factory)
        return Connection(self.factory, wire)

    def assertAtRest(self) -> None:
        """
        Nothing is left for the clock.
        """
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FramingTests(RecordedTestCase):
    """
    From bytes to lines.
    """

    def test_interfaces(self) -> None:
        """
        A connection provides what its transport calls.
        """
        protocol = self.connect().protocol
        verifyObject(IHalfCloseableProtocol, protocol)
        verifyObject(IPushProducer, protocol)
        verifyObject(IPullProducer, protocol)

    def test_lineEnds(self) -> None:
        """
        CR LF and a bare LF end a line, and belong to none.
        """
        client = self.connect()
        client.says(b"one\r\ntwo\nthree\r\n")
        self.assertEqual(client.session.lines, [b"one", b"two", b"three"])

    def test_loneCR(self) -> None:
        """
        A CR alone ends no line.
        """
        client = self.connect()
        client.says(b"o\rne\r\r\n")
        self.assertEqual(client.session.lines, [b"o\rne\r"])

    def test_blankLines(self) -> None:
        """
        Blank lines are ignored, white space in them too.
        """
        client = self.connect()
        client.says(b"\r\n\n  \t\r\none\n\n")
        self.assertEqual(client.session.lines, [b"one"])

    def test_split(self) -> None:
        """
        A line may come in any number of packets.
        """
        client = self.connect()
        client.says(b"o", b"n", b"e", b"\r", b"\n", b"tw", b"o\nthr", b"ee\r\n")
        self.assertEqual(client.session.lines, [b"one", b"two", b"three"])

    def test_unfinished(self) -> None:
        """
        What has no end yet is no line yet.
        """
        client = self.connect()
        client.says(b"one\ntw")
        self.assertEqual(client.session.lines, [b"one"])

    def test_tlsWherePlainIsSpoken(self) -> None:
        """
        The beginning of a TLS handshake is a line at once, so that the client,
        which waits for an answer, gets one.
        """
        client = self.connect()
        client.says(b"\x16\x03\x01\x02\x00\x01")
        self.assertEqual(client.session.lines, [b"\x16\x03\x01\x02\x00\x01"])
        client.isGone()
        self.assertAtRest()

    @given(st.data())
    def test_anySplitting(self, data: st.DataObject) -> None:
        """
        However a stream is cut into packets, its lines are the same.
        """
        text = st.binary(min_size=1, max_size=12).map(
            lambda line: b"x" + line.replace(b"\n", b"") + b"x"
        )
        lines = data.draw(st.lists(text, max_size=12))
        ends = st.sampled_from([b"\n", b"\r\n", b"\r\n\r\n", b"\n \n"])
        stream = b"".join(line + data.draw(ends) for line in lines)
        cuts = data.draw(st.lists(st.integers(0, len(stream))))
        bounds = [0, *sorted(cuts), len(stream)]
        # Fourteen is exactly what the longest of these lines has.
        self.limit(maxLineLength=14, linesPerTurn=3)
        client = self.connect()
        for start, end in pairwise(bounds):
            if start != end:
                client.says(stream[start:end])
        self.clock.advance(0)
        self.assertEqual(client.session.lines, lines)
        self.assertEqual(client.hears(), b"")
        client.isGone()
        self.assertAtRest()

    @given(st.data())
    def test_anySplittingOfALongLine(self, data: st.DataObject) -> None:
        """
        However it is cut, a stream with a line that is too long gives the
        lines before it, one 413, and nothing of what follows.
        """
        before = data.draw(st.integers(0, 5))
        stream = b"abc\r\n" * before + b"x" * 15 + b"\r\nabc\n"
        cuts = data.draw(st.lists(st.integers(1, len(stream) - 1)))
        bounds = [0, *sorted(cuts), len(stream)]
        self.limit(maxLineLength=14, linesPerTurn=3)
        client = self.connect()
        for start, end in pairwise(bounds):
            if start != end:
                client.says(stream[start:end])
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"abc"] * before)
        self.assertEqual(client.outcomes(), [(None, 413, "LINE_TOO_LONG")])
        client.isGone()
        self.assertAtRest()


class LineLimitTests(RecordedTestCase):
    """
    A line longer than the limit is answered 413, and the connection ends.
    """

    def setUp(self) -> None:
        """
        Let a line have ten bytes.
        """
        super().setUp()
        self.limit(maxLineLength=10)

    def assertTooLong(self, *chunks: bytes) -> None:
        """
        These packets are a 413 and the end.
        """
        client = self.connect()
        client.says(*chunks)
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [])
        self.assertEqual(
            client.hears(),
            b'{"status":413,"error":"LINE_TOO_LONG",'
            b'"message":"a line has at most 10 bytes"}\r\n',
        )
        self.assertTrue(client.wire.halfClosed)

    def assertTaken(self, *chunks: bytes) -> None:
        """
        These packets are one line of ten bytes.
        """
        client = self.connect()
        client.says(*chunks)
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"0123456789"])
        self.assertEqual(client.hears(), b"")
        self.assertFalse(client.wire.halfClosed)

    def test_exact(self) -> None:
        """
        A line of exactly the limit is taken; its end does not count.
        """
        self.assertTaken(b"0123456789\n")
        self.assertTaken(b"0123456789\r\n")
        self.assertTaken(b"0123456789", b"\n")
        self.assertTaken(b"0123456789", b"\r", b"\n")
        self.assertTaken(b"0123456789\r", b"\n")
        self.assertTaken(b"01234", b"56789\r", b"\n")

    def test_oneMore(self) -> None:
        """
        One byte more is too long.
        """
        self.assertTooLong(b"0123456789A\n")
        self.assertTooLong(b"0123456789A\r\n")
        self.assertTooLong(b"0123456789A", b"\n")
        self.assertTooLong(b"0123456789A\r", b"\n")
        self.assertTooLong(b"0123456789\r", b"A\n")
        self.assertTooLong(b"0123456789\r\r\n")

    def test_unfinished(self) -> None:
        """
        It need not end to be too long.
        """
        self.assertTooLong(b"0123456789AB")
        self.assertTooLong(b"0123456789", b"AB")

    def test_readAsFarAsItCame(self) -> None:
        """
        The session is given what there is of the line, to find out whose it
        is.
        """
        client = self.connect()
        client.says(b"0123456", b"789ABCDEF\nrest\n")
        self.assertEqual(client.session.unread, [b"0123456789ABCDEF"])
        client = self.connect()
        client.says(b"0123456", b"789ABC")
        self.assertEqual(client.session.unread, [b"0123456789ABC"])

    def test_unfinishedAfterAnotherLine(self) -> None:
        """
        An unfinished line that is too long is refused whatever came before it in
        its packet.
        """
        self.assertTooLong(b"\n0123456789AB")

    def test_default(self) -> None:
        """
        Unless set otherwise the limit is 64 KiB.
        """
        self.limit()
        client = self.connect()
        client.says(b"x" * 65536 + b"\r\n")
        self.assertEqual(client.session.lines, [b"x" * 65536])
        client.says(b"x" * 65537 + b"\r\n")
        self.clock.advance(0)
        self.assertEqual(client.outcomes(), [(None, 413, "LINE_TOO_LONG")])

    def test_nothingAfterIt(self) -> None:
        """
        What comes after it is not handled, in its packet or later.
        """
        client = self.connect()
        client.says(b"one\n0123456789A\ntwo\n", b"three\n")
        self.clock.advance(0)
        client.says(b"four\n", b"x" * 100)
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"one"])
        self.assertEqual(client.outcomes(), [(None, 413, "LINE_TOO_LONG")])

    def test_earlierRepliesFirst(self) -> None:
        """
        What was said before it arrives before it.
        """
        client = self.connect()
        client.session.received = client.session.send
        client.says(b"one\n0123456789A\n")
        self.clock.advance(0)
        self.assertTrue(client.hears().startswith(b'one{"status":413,'))

    def test_staysUntilAllIsAnswered(self) -> None:
        """
        The connection ends when the last request that came in is answered.
        """
        client = self.connect()
        client.session.isIdle = False
        client.says(b"one\n0123456789A\n")
        self.clock.advance(6.9)
        self.assertEqual(client.outcomes(), [(None, 413, "LINE_TOO_LONG")])
        self.assertFalse(client.wire.halfClosed)
        client.session.isIdle = True
        client.session.send(b"late reply")
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"late reply")
        self.assertTrue(client.wire.halfClosed)

    def test_goodbyeReadsOn(self) -> None:
        """
        After the good-bye the server reads on and drops it all: closing a
        socket with unread input would destroy the 413 under way.
        """
        client = self.connect()
        client.says(b"0123456789A\n")
        self.clock.advance(0)
        self.assertTrue(client.isRead)
        self.assertFalse(client.wire.disconnecting)
        client.says(b"more\n")
        client.saysNoMore()
        self.assertTrue(client.wire.disconnecting)
        client.isGone()
        self.assertAtRest()

    def test_clientThatStays(self) -> None:
        """
        A client that does not go is cut off.
        """
        client = self.connect()
        client.says(b"0123456789A\n")
        self.clock.advance(6.9)
        self.assertFalse(client.wire.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(client.wire.disconnected)
        client.isGone()
        self.assertAtRest()


class TurnTests(RecordedTestCase):
    """
    A flood of lines does not hold up the others.
    """

    def test_budget(self) -> None:
        """
        No more than so many lines are handled in one turn, and no more are
        read than a few before these are done.
        """
        client = self.connect()
        client.says(b"x\n" * 100)
        self.assertEqual(len(client.session.lines), 32)
        client.says(b"x\n")
        self.assertFalse(client.isRead)
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"x"] * 101)
        self.assertTrue(client.isRead)
        client.isGone()
        self.assertAtRest()

    def test_fairness(self) -> None:
        """
        Two connections take turns.
        """
        turns: list[str] = []
        first, second = self.connect(), self.connect()
        first.session.received = lambda line: turns.append("1")
        second.session.received = lambda line: turns.append("2")
        first.says(b"x\n" * 70)
        second.says(b"x\n" * 40)
        self.clock.advance(0)
        self.assertEqual(
            "".join(turns), "1" * 32 + "2" * 32 + "1" * 32 + "2" * 8 + "1" * 6
        )

    def test_manyConnections(self) -> None:
        """
        Nor do many connections with a few lines each: together they have 128
        in a turn, and one who has said little is next.
        """
        turns: list[str] = []
        quiet = self.connect()
        quiet.session.principal = Principal(7, 1, 2e9)
        quiet.says(b"zero\n")
        flood = [self.connect() for _ in range(20)]
        for each in flood:
            each.session.received = lambda line: turns.append("x")
            each.says(b"x\n" * 100)
        self.assertEqual(len(turns), 128)
        quiet.session.received = lambda line: turns.append("quiet")
        quiet.says(b"one\n")
        self.assertEqual(len(turns), 128)
        self.clock.advance(0)
        self.assertEqual(len(turns), 2001)
        self.assertEqual(turns.index("quiet"), 128)
        for each in (*flood, quiet):
            each.isGone()
        self.assertAtRest()

    def test_whoseTime(self) -> None:
        """
        Connections use the time of their principal, together, and those
        without one that of nobody.
        """
        one, two, other, nobody = (self.connect() for _ in range(4))
        for client, id in ((one, 7), (two, 7), (other, 8)):
            client.session.principal = Principal(id, 1, 2e9)
        for client in (one, two, other, nobody):
            client.says(b"x\n")
        self.assertIs(one.protocol.share, two.protocol.share)
        self.assertEqual(
            len({c.protocol.share for c in (one, other, nobody, self.connect())}), 3
        )

    def test_accepts(self) -> None:
        """
        A port that has taken more connections in each turn takes no more than
        ten in the next.
        """
        port = SimpleNamespace(numberAccepts=130)
        self.factory.ports.append(port)
        self.connect()
        self.clock.advance(0)
        self.assertEqual(port.numberAccepts, 10)

    def test_lostInALine(self) -> None:
        """
        What a lost connection had not finished saying is not kept until the
        rest of it is found to be garbage.
        """
        client = self.connect()
        client.says(b"x" * 60_000)
        client.isGone()
        self.assertEqual(client.protocol._input._partial, b"")
        self.assertAtRest()

    def test_queuedIsNotRead(self) -> None:
        """
        Who has to wait for its turn is not read from meanwhile if it says
        much, or more all the same.
        """
        for _ in range(8):
            self.connect().says(b"x\n" * 100)
        late, much = self.connect(), self.connect()
        late.says(b"x\n")
        much.says(b"x" * 4095 + b"\n")
        self.assertEqual(late.session.lines + much.session.lines, [])
        self.assertTrue(late.isRead)
        self.assertTrue(much.isRead)
        late.says(b"y\n")
        self.assertFalse(late.isRead)
        much.isGone()
        much = self.connect()
        much.says(b"x" * 16384 + b"\n")
        self.assertFalse(much.isRead)
        self.clock.advance(0)
        self.assertEqual(late.session.lines, [b"x", b"y"])
        self.assertTrue(late.isRead)
        self.assertTrue(much.isRead)

    def test_moreInput(self) -> None:
        """
        What arrives all the same is handled in its order, and not at once.
        """
        client = self.connect()
        client.says(b"x\n" * 40, b"last\n")
        self.assertEqual(len(client.session.lines), 32)
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"x"] * 40 + [b"last"])

    def test_lostInBetween(self) -> None:
        """
        When the connection is lost the lines that are left are not handled.
        """
        client = self.connect()
        client.says(b"x\n" * 100)
        client.isGone()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(client.session.lines), 32)

    def test_oneWrite(self) -> None:
        """
        What is said in one turn is one write.
        """
        client = self.connect()
        client.session.received = client.session.send
        client.says(b"a\nb\nc\n")
        self.assertEqual(client.wire.writes, [])
        self.clock.advance(0)
        self.assertEqual(client.wire.writes, [b"abc"])
        client.isGone()
        self.assertAtRest()

    def test_flush(self) -> None:
        """
        The factory writes at once, to every connection, if it is asked to.
        """
        first, second = self.connect(), self.connect()
        first.session.send(b"1")
        second.session.send(b"2")
        self.factory.flush()
        self.assertEqual((first.hears(), second.hears()), (b"1", b"2"))


class WindowTests(RecordedTestCase):
    """
    Lines that the session takes together: those that it is offered up to the first
    that it does not take so.
    """

    def setUp(self) -> None:
        """
        Open a connection to a session that takes everything but lines with an C{odd}.
        """
        super().setUp()
        self.open()

    def open(self, **limits: Any) -> None:
        """
        Open the connection with other limits.

        C{self.received} is what the session took, either way, one line after the
        other.
        """
        self.limit(**limits)
        self.client = self.connect()
        self.session = self.client.session
        self.session.takes = lambda line: b"odd" not in line
        self.received: list[bytes] = []

        def received(lines: bytes) -> None:
            self.received += lines.removesuffix(b"\n").split(b"\n")

        self.session.received = received

    def test_together(self) -> None:
        """
        The lines of a read are offered together, as they came, and are not handled
        again by themselves.
        """
        self.client.says(b"a\r\nb\nc\r\n")
        self.assertEqual(self.session.windows, [b"a\r\nb\nc\r\n"])
        self.assertEqual(self.session.lines, [])
        self.client.isGone()
        self.assertAtRest()

    def test_refused(self) -> None:
        """
        A line that is not taken with those before it is handled by itself, and the
        next ones are offered together again.
        """
        self.client.says(b"a\r\nodd\nb\r\nc\n")
        self.assertEqual(self.session.windows, [b"a\r\nodd\nb\r\nc\n", b"b\r\nc\n"])
        self.assertEqual(self.session.taken, [b"a\r\n", b"b\r\nc\n"])
        self.assertEqual(self.session.lines, [b"odd"])

    def test_refusedFirst(self) -> None:
        """
        The same holds if it is the first one, or all of them are like it.
        """
        self.client.says(b"odd1\nodd2\na\nodd3\n")
        self.assertEqual(self.received, [b"odd1", b"odd2", b"a", b"odd3"])
        self.assertEqual(self.session.lines, [b"odd1", b"odd2", b"odd3"])
        self.assertEqual(self.session.taken, [b"a\n"])

    def test_narrow(self) -> None:
        """
        After a line that was not taken few bytes are offered together, and more
        again with each time that all are taken: who sends many such lines has
        hardly any read twice.
        """
        self.open(linesPerTurn=1000)
        line = b"x" * 63 + b"\n"
        self.client.says(b"odd\n" + line * 300)
        self.clock.advance(0)
        self.assertEqual(
            [len(each) for each in self.session.windows],
            [8132, 256, 512, 1024, 2048, 4096, 8192, 3072],
        )

    def test_single(self) -> None:
        """
        A line that is refused and was alone is not offered again.
        """
        self.client.says(b"odd\n")
        self.assertEqual(self.session.windows, [b"odd\n"])
        self.assertEqual(self.session.lines, [b"odd"])

    def test_togetherAgain(self) -> None:
        """
        After lines that were refused the next ones are offered together again.
        """
        self.client.says(b"odd\na\n")
        self.session.windows.clear()
        self.client.says(b"b\nc\n")
        self.assertEqual(self.session.windows, [b"b\nc\n"])

    def test_blankLines(self) -> None:
        """
        A blank line among others is ignored, though the session takes no blank
        line together with others.
        """
        self.session.takes = lambda line: not line.isspace()
        self.client.says(b"a\n\r\n \nb\n")
        self.assertEqual(self.received, [b"a", b"b"])
        self.assertEqual(self.session.lines, [])

    def test_brokenOverReads(self) -> None:
        """
        A line that comes in two reads is offered whole, with those behind it.
        """
        self.client.says(b"a\nb", b"b\nc\n")
        self.assertEqual(self.session.windows, [b"a\n", b"bb\nc\n"])

    def test_wholeLines(self) -> None:
        """
        No more than 8 KiB are offered together, and never a part of a line.
        """
        lines = [b"%d" % number * 3000 + b"\n" for number in range(5)]
        self.client.says(b"".join(lines))
        self.clock.advance(0)
        self.assertEqual(
            self.session.windows,
            [b"".join(lines[:2]), b"".join(lines[2:4]), lines[4]],
        )
        self.session.windows.clear()
        self.client.says(b"x" * 8191 + b"\n", b"x" * 4095 + b"\n" + b"y" * 4095 + b"\n")
        self.clock.advance(0)
        self.assertEqual([len(each) for each in self.session.windows], [8192, 8192])

    def test_longLine(self) -> None:
        """
        A line longer than that is handled by itself, between others that are not.
        """
        self.client.says(b"a\n" + b"x" * 8192 + b"\nb\n")
        self.assertEqual(self.session.windows, [b"a\n", b"b\n"])
        self.assertEqual(self.session.lines, [b"x" * 8192])
        self.assertEqual(self.received, [b"a", b"x" * 8192, b"b"])

    def test_tooLong(self) -> None:
        """
        A line longer than the limit is refused, although the session would take it:
        alone, behind others and among those that were refused. What came before it
        is handled, and nothing that follows.
        """
        for before in (b"", b"a\nb\n", b"a\nodd\nb\n"):
            self.open(maxLineLength=10)
            self.client.says(before + b"0123456789A\nc\nd\n")
            self.clock.advance(0)
            self.assertEqual(self.received, before.splitlines())
            self.assertEqual(self.session.unread, [b"0123456789A"])
            self.assertEqual(self.client.outcomes(), [(None, 413, "LINE_TOO_LONG")])
            self.client.says(b"e\n")
            self.assertEqual(self.received, before.splitlines())

    def test_budget(self) -> None:
        """
        More lines than a turn may have are not handled in it, offered together or
        not.
        """
        for line in (b"x\n", b"odd\n", b"y" * 3000 + b"\n"):
            self.open(linesPerTurn=3)
            self.client.says(line * 10)
            self.assertEqual(len(self.received), 3)
            self.clock.advance(0)
            self.assertEqual(self.received, [line[:-1]] * 10)
        self.open(linesPerTurn=3)
        self.client.says(b"1\nodd\n2\n3\n4\n")
        self.assertEqual(self.received, [b"1", b"odd", b"2"])
        self.clock.advance(0)
        self.assertEqual(self.received, [b"1", b"odd", b"2", b"3", b"4"])

    def test_time(self) -> None:
        """
        No more lines are offered in a turn whose time is over.
        """

        def slow(lines: bytes) -> None:
            self.clock.rightNow += 1

        self.session.received = slow
        self.client.says((b"x" * 4095 + b"\n") * 6)
        self.assertEqual(len(self.session.windows), 1)
        self.clock.advance(0)
        self.assertEqual(len(self.session.windows), 3)

    def test_fairness(self) -> None:
        """
        Two connections take turns, with as many lines as one may have in a turn.
        """
        turns: list[str] = []
        first, second = self.connect(), self.connect()
        for client, name in ((first, "1"), (second, "2")):
            client.session.takes = lambda line: True

            def received(lines: bytes, name: str = name) -> None:
                turns.append(name * lines.count(b"\n"))

            client.session.received = received
        # Twenty lines are offered together, and 32 are handled in a turn.
        first.says((b"x" * 399 + b"\n") * 60)
        second.says((b"x" * 399 + b"\n") * 40)
        self.clock.advance(0)
        self.assertEqual("".join(turns), "1" * 32 + "2" * 32 + "1" * 28 + "2" * 8)

    def test_stalled(self) -> None:
        """
        While the client does not read nothing is offered, and afterwards all of
        what came meanwhile.
        """
        self.client.protocol.pauseProducing()
        self.client.says(b"a\n", b"b\n")
        self.clock.advance(0)
        self.assertEqual(self.session.windows, [])
        self.client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(self.session.windows, [b"a\nb\n"])

    def test_stalledInBetween(self) -> None:
        """
        If the client is found not to read, the next lines are not offered until it
        does.
        """
        self.session.received = lambda lines: self.client.protocol.pauseProducing()
        self.client.says((b"x" * 4095 + b"\n") * 4)
        self.clock.advance(0)
        self.assertEqual(len(self.session.windows), 1)
        self.client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(len(self.session.windows), 2)

    def test_lostInBetween(self) -> None:
        """
        When the connection is lost the lines that are left are not handled, offered
        together or one by one.
        """
        for lines in ((b"x" * 8191 + b"\n") * 2, b"a\nodd\nb\n", b"odd\nb\n"):
            self.open()
            self.session.received = lambda lines: self.client.isGone()
            self.client.says(lines)
            self.clock.advance(0)
            self.assertEqual(len(self.session.taken) + len(self.session.lines), 1)
        self.assertAtRest()

    def test_halfClosed(self) -> None:
        """
        Lines that wait for their turn when the client closes its side are offered
        all the same.
        """
        self.client.protocol.pauseProducing()
        self.client.says(b"a\nb\nc")
        self.client.saysNoMore()
        self.client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(self.session.taken, [b"a\nb\n"])
        self.assertTrue(self.client.wire.disconnecting)

    @given(st.data())
    def test_anySplitting(self, data: st.DataObject) -> None:
        """
        However a stream is cut into packets, and whatever the session takes
        together, each line is handled once, in its order; and what is offered in
        vain is little.
        """
        kinds = st.sampled_from([b"a", b"bb", b"odd", b"c" * 3000, b"odd" * 999])
        lines = data.draw(st.lists(kinds, max_size=20))
        lines = [b"%d-%b" % each for each in enumerate(lines)]
        ends = st.sampled_from([b"\n", b"\r\n", b"\n\r\n", b"\n \n"])
        stream = b"".join(line + data.draw(ends) for line in lines)
        cuts = data.draw(st.lists(st.integers(0, len(stream))))
        bounds = [0, *sorted(cuts), len(stream)]
        self.open(linesPerTurn=data.draw(st.sampled_from([1, 2, 3, 32])))
        for start, end in pairwise(bounds):
            if start != end:
                self.client.says(stream[start:end])
        self.clock.advance(0)
        received = [line.removesuffix(b"\r") for line in self.received]
        self.assertEqual([line for line in received if line.strip()], lines)
        offered = sum(map(len, self.session.windows))
        self.assertLessEqual(offered, 2 * len(stream) + 8192 + 256 * len(lines))
        self.client.isGone()
        self.assertAtRest()


class LineTimeoutTests(RecordedTestCase):
    """
    A line must end 30 s after its first byte; idling is no offence.
    """

    def test_unfinished(self) -> None:
        """
        A line that does not end in time ends the connection.
        """
        client = self.connect()
        client.says(b"x")
        self.clock.advance(29.9)
        self.assertFalse(client.wire.halfClosed)
        self.clock.advance(0.1)
        self.assertTrue(client.wire.halfClosed)
        self.assertEqual(client.hears(), b"")
        client.isGone()
        self.assertAtRest()

    def test_drip(self) -> None:
        """
        It counts from the first byte, however many follow one by one.
        """
        client = self.connect()
        for _ in range(29):
            client.says(b"x")
            self.clock.advance(1)
        self.assertFalse(client.wire.halfClosed)
        client.says(b"x")
        self.clock.advance(1)
        self.assertTrue(client.wire.halfClosed)

    def test_afterAnotherLine(self) -> None:
        """
        The rest of a packet counts from its arrival.
        """
        client = self.connect()
        client.says(b"x")
        self.clock.advance(29)
        client.says(b"\ny")
        self.clock.advance(29)
        self.assertFalse(client.wire.halfClosed)
        self.clock.advance(1)
        self.assertTrue(client.wire.halfClosed)

    def test_idle(self) -> None:
        """
        Without an unfinished line there is no timer at all.
        """
        client = self.connect()
        self.assertAtRest()
        client.says(b"x\n")
        self.assertAtRest()
        client.says(b"x", b"\n")
        self.assertAtRest()
        client.says(b"x\ny", b"\n")
        self.assertAtRest()

    def test_notRead(self) -> None:
        """
        The time in which the server itself does not read does not count.
        """
        client = self.connect()
        client.says(b"x")
        client.protocol.pauseProducing()
        self.clock.advance(30)
        self.assertFalse(client.wire.halfClosed)
        client.protocol.resumeProducing()
        client.says(b"\n")
        self.assertEqual(client.session.lines, [b"x"])
        client.isGone()
        self.assertAtRest()

    def test_readAgain(self) -> None:
        """
        Once it reads again, the line has its time again, and no more.
        """
        client = self.connect()
        client.says(b"x")
        client.protocol.pauseProducing()
        self.clock.advance(30)
        client.protocol.resumeProducing()
        self.clock.advance(29.9)
        self.assertFalse(client.wire.halfClosed)
        self.clock.advance(0.1)
        self.assertTrue(client.wire.halfClosed)

    def test_finished(self) -> None:
        """
        A connection whose input has ended has no line to wait for.
        """
        client = self.connect()
        client.session.isIdle = False
        client.says(b"x")
        client.saysNoMore()
        self.clock.advance(0)
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [7])

    def test_lost(self) -> None:
        """
        A lost connection has no timer any more.
        """
        client = self.connect()
        client.says(b"x")
        client.isGone()
        self.assertAtRest()
        self.assertTrue(client.session.hasEnded)

    def test_pendingRepliesFirst(self) -> None:
        """
        Requests that came in before the unfinished line get their replies.
        """
        client = self.connect()
        client.session.isIdle = False
        client.says(b"one\nx")
        self.clock.advance(30)
        self.assertFalse(client.wire.halfClosed)
        client.session.isIdle = True
        client.session.send(b"reply")
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"reply")
        self.assertTrue(client.wire.halfClosed)


class UnreadTests(RecordedTestCase):
    """
    A client that does not read.
    """

    def setUp(self) -> None:
        """
        Let a client leave a hundred bytes unread.
        """
        super().setUp()
        self.limit(maxUnread=100)

    def test_producer(self) -> None:
        """
        Each connection asks to hear of a full write buffer.
        """
        client = self.connect()
        self.assertIs(client.wire.producer, client.protocol)
        self.assertTrue(client.wire.streaming)

    def test_notReadFrom(self) -> None:
        """
        It is not read from either, and what was read is left for later.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        self.assertFalse(client.isRead)
        client.says(b"one\n")
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [])
        client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertTrue(client.isRead)
        self.assertEqual(client.session.lines, [b"one"])

    def test_inTheMiddleOfATurn(self) -> None:
        """
        A turn ends when the write buffer is found to be full in it.
        """
        client = self.connect()
        client.session.received = lambda line: client.protocol.pauseProducing()
        client.says(b"one\ntwo\n")
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"one"])
        client.session.received = lambda line: None
        client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"one", b"two"])

    def test_oneBufferAtATime(self) -> None:
        """
        One that reads a little is given no more than its write buffer takes;
        the rest is still what it has not read.
        """
        self.limit(maxUnread=400_000)
        client = self.connect()
        write = client.wire.write

        def full(data: bytes) -> None:
            write(data)
            client.protocol.pauseProducing()

        self.patch(client.wire, "write", full)
        client.protocol.pauseProducing()
        for _ in range(20):
            client.session.send(b"x" * 20_000)
        client.protocol.resumeProducing()
        self.assertEqual([len(data) for data in client.wire.writes], [60_000])
        for _ in range(3):
            client.session.send(b"x" * 20_000)
            self.assertFalse(client.wire.disconnected)
        client.session.send(b"x" * 20_000)
        self.assertTrue(client.wire.disconnected)

    def stalls(self, line: bytes) -> Connection:
        """
        Connect a client whose write buffer is full after the first write, and send
        it a line.
        """
        client = self.connect()
        write = client.wire.write

        def full(data: bytes) -> None:
            write(data)
            client.protocol.pauseProducing()

        self.patch(client.wire, "write", full)
        client.session.send(line)
        self.clock.advance(0)
        self.assertEqual([len(data) for data in client.wire.writes], [65_536])
        return client

    def test_longReply(self) -> None:
        """
        A reply that is longer than what it may leave unread is written as it reads.
        Only what was sent besides counts.
        """
        client = self.stalls(b"x" * 199_999 + b"\n")
        client.session.send(b"y" * 100)
        self.assertFalse(client.wire.disconnected)
        for _ in range(3):
            client.protocol.resumeProducing()
        self.assertEqual(
            [len(data) for data in client.wire.writes],
            [65_536, 65_536, 65_536, 200_000 - 3 * 65_536 + 100],
        )
        client.session.send(b"y" * 101)
        self.assertTrue(client.wire.disconnected)

    def test_besideALongReply(self) -> None:
        """
        What was sent besides a long reply has its bound.
        """
        client = self.stalls(b"x" * 199_999 + b"\n")
        client.session.send(b"y" * 101)
        self.assertTrue(client.wire.disconnected)

    def test_longReplyUnread(self) -> None:
        """
        One that reads nothing of it for as long as a line may take to arrive is cut
        off; each time that it reads something it has as long again.
        """
        client = self.stalls(b"x" * 199_999 + b"\n")
        for _ in range(2):
            self.clock.advance(29)
            client.protocol.resumeProducing()
        self.clock.advance(29)
        self.assertFalse(client.wire.disconnected)
        self.clock.advance(1)
        self.assertTrue(client.wire.disconnected)

    def test_longReplyAlmostRead(self) -> None:
        """
        It has all the time for what the transport has already.
        """
        client = self.stalls(b"x" * 99_999 + b"\n")
        client.protocol.resumeProducing()
        self.clock.advance(1000)
        self.assertFalse(client.wire.disconnected)

    def test_longReplyRead(self) -> None:
        """
        No time is kept of one that has read all of it.
        """
        client = self.stalls(b"x" * 99_999 + b"\n")
        self.patch(client.wire, "write", lambda data: None)
        client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertAtRest()

    def test_longReplyLater(self) -> None:
        """
        The time begins with a reply that comes when the client has stopped to read.
        """
        client = self.stalls(b"x" * 65_536)
        self.clock.advance(1000)
        self.assertFalse(client.wire.disconnected)
        client.session.send(b"x" * 99_999 + b"\n")
        self.clock.advance(30)
        self.assertTrue(client.wire.disconnected)

    def test_longReplyLost(self) -> None:
        """
        No time is kept of a connection that is lost.
        """
        client = self.stalls(b"x" * 199_999 + b"\n")
        client.isGone()
        self.assertAtRest()

    def test_longEvents(self) -> None:
        """
        Several lines are no reply, however long they are together.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        client.session.send((b"x" * 99_999 + b"\n") * 2)
        self.assertTrue(client.wire.disconnected)

    def test_heldBack(self) -> None:
        """
        What is said meanwhile is held back, and written when it reads again.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        client.session.send(b"one")
        client.session.send(b"two")
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"")
        client.protocol.resumeProducing()
        self.assertEqual(client.wire.writes, [b"onetwo"])

    def test_bound(self) -> None:
        """
        Up to its bound it is waited for, beyond it the client is cut off, and
        the log says who.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        client.session.send(b"x" * 100)
        self.assertFalse(client.wire.disconnected)
        with capturedLogs() as logs:
            client.session.send(b"x")
        self.assertTrue(client.wire.disconnected)
        self.assertEqual(len(logs), 1)
        self.assertEqual(logs[0]["peer"], "192.0.2.7:5123")
        client.isGone()
        self.assertAtRest()

    def test_boundCountsWhatIsUnread(self) -> None:
        """
        What it has read in the meantime does not count.
        """
        client = self.connect()
        for _ in range(3):
            client.protocol.pauseProducing()
            client.session.send(b"x" * 100)
            client.protocol.resumeProducing()
        self.assertFalse(client.wire.disconnected)

    def test_noBoundInOneTurn(self) -> None:
        """
        A client that reads is not cut off for a great reply.
        """
        client = self.connect()
        client.session.send(b"x" * 1000)
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"x" * 1000)

    def test_nothingAfterTheCut(self) -> None:
        """
        After it was cut off nothing is said to it any more.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        client.session.send(b"x" * 101)
        client.session.send(b"x" * 101)
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"")

    def test_goodbyeWaits(self) -> None:
        """
        The good-bye comes after all that was said, once it is read.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        client.session.send(b"reply")
        client.protocol.finish()
        self.clock.advance(0)
        self.assertFalse(client.wire.halfClosed)
        client.protocol.resumeProducing()
        self.assertEqual(client.hears(), b"reply")
        self.assertTrue(client.wire.halfClosed)
        self.assertIsNone(client.wire.producer)

    def test_goodbyeThatFillsTheBuffer(self) -> None:
        """
        When its last words fill the write buffer the server still says
        good-bye, and reads on to hear the client's.
        """
        client = self.connect()
        write = client.wire.write

        def full(data: bytes) -> None:
            write(data)
            client.protocol.pauseProducing()

        self.patch(client.wire, "write", full)
        client.session.send(b"last words")
        client.protocol.finish()
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"last words")
        self.assertTrue(client.wire.halfClosed)
        self.assertTrue(client.isRead)

    def test_goodbyeIsBounded(self) -> None:
        """
        A client that never reads is cut off, be it that the connection ends.
        """
        client = self.connect()
        client.protocol.pauseProducing()
        client.session.send(b"reply")
        client.protocol.finish()
        self.clock.advance(7)
        self.assertTrue(client.wire.disconnected)
        client.isGone()
        self.assertAtRest()

    def test_stop(self) -> None:
        """
        A transport that stops its producer loses the connection, and does no
        harm before it tells so.
        """
        client = self.connect()
        client.protocol.stopProducing()
        client.isGone()
        self.assertAtRest()


class LateServiceTests(RecordedTestCase):
    """
    Connections from before the time when lines are handled.
    """

    def setUp(self) -> None:
        """
        Make a factory that does not handle lines yet.
        """
        super().setUp()
        self.factory = LineFactory(
            self.clock,
            self.factory.sessions,
            Limits(),
            7.0,
        )

    def test_inputEnds(self) -> None:
        """
        A client that has closed its side has the whole time for its replies, from
        the moment when its lines are handled.
        """
        client = self.connect()
        client.says(b"one\n")
        client.saysNoMore()
        self.clock.advance(6)
        client.session.isIdle = False
        self.factory.serve()
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"one"])
        self.clock.pump([3.4, 3.4])
        self.assertFalse(client.wire.disconnected)
        self.clock.advance(0.3)
        self.assertTrue(client.wire.disconnected)
        client.isGone()
        self.assertAtRest()


class AtOnceTests(RecordedTestCase):
    """
    What is said through a socket is sent at once, as far as the system takes it.
    """

    def setUp(self) -> None:
        """
        Open a connection.
        """
        super().setUp()
        self.socket = Socket()
        # As the reactor has done when it accepts one.
        self.socket.startReading()
        self.client = self.connect(self.socket)
        self.session = self.client.session

    def says(self, *data: bytes) -> None:
        """
        Let the server say this in one turn.
        """
        for each in data:
            self.session.send(each)
        self.clock.advance(0)

    def test_nothing(self) -> None:
        """
        As long as nothing is said there is nothing to do.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.socket.isWaited)

    def test_all(self) -> None:
        """
        What the system takes never meets the transport.
        """
        self.says(b"event\n", b"reply\n")
        self.assertEqual(self.socket.sent, [b"event\nreply\n"])
        self.assertEqual(self.socket.given, [])
        self.assertFalse(self.socket.isWaited)
        self.assertFalse(self.client.protocol.isStalled)

    def test_part(self) -> None:
        """
        What the system does not take waits, and until it has left the client is
        not read from, nor is anything else sent.
        """
        self.socket.room = 4
        self.says(b"first,")
        self.assertEqual((self.socket.sent, self.socket.given), ([b"firs"], [b"t,"]))
        self.assertEqual(self.client.protocol.unread, 2)
        self.assertFalse(self.socket.isRead)
        self.says(b"second,")
        self.assertEqual(self.client.protocol.unread, 9)
        self.socket.drains(1)
        self.assertTrue(self.client.protocol.isStalled)
        self.socket.drains()
        self.assertEqual(self.socket.sent, [b"firs", b"t", b",", b"second,"])
        self.assertEqual(self.socket.given, [b"t,"])
        self.assertEqual(self.client.protocol.unread, 0)
        self.assertTrue(self.socket.isRead)
        self.assertFalse(self.socket.isWaited)

    def test_none(self) -> None:
        """
        So it is when it takes nothing at all.
        """
        self.socket.room = 0
        self.says(b"reply")
        self.assertEqual(self.socket.given, [b"reply"])
        self.assertTrue(self.client.protocol.isStalled)
        self.socket.drains()
        self.assertEqual(b"".join(self.socket.sent), b"reply")
        self.assertFalse(self.client.protocol.isStalled)

    def test_lost(self) -> None:
        """
        That a connection is lost is left for the reactor to find out and tell.
        """
        self.socket.isLost = True
        self.says(b"reply")
        self.assertFalse(self.session.hasEnded)
        self.assertTrue(self.socket.isWaited)
        self.assertIs(self.socket.drains(), main.CONNECTION_LOST)

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30))))
    def test_inOrder(self, steps: list[tuple[int, int]]) -> None:
        """
        However much of it leaves at a time, no byte is lost or overtaken.
        """
        socket = Socket(0)
        client = self.connect(socket)
        said = b""
        for size, room in steps:
            data = bytes(range(len(said) % 200, len(said) % 200 + size))
            said += data
            client.session.send(data)
            self.clock.advance(0)
            socket.drains(room)
            sent = b"".join(socket.sent)
            self.assertEqual(sent, said[: len(sent)])
            self.assertEqual(len(sent) + client.protocol.unread, len(said))
        socket.drains()
        self.assertEqual(b"".join(socket.sent), said)
        self.assertEqual(client.protocol.unread, 0)
        client.isGone()

    def test_bound(self) -> None:
        """
        Of all that is said to one that does not read only a little is copied
        for it, and at its bound it is cut off.
        """
        self.limit(maxUnread=400_000)
        socket = Socket(100_000)
        cut: list[None] = []
        socket.abortConnection = lambda: cut.append(None)  # type: ignore[attr-defined]
        client = self.connect(socket)
        for _ in range(27):
            client.session.send(b"x" * 20_000)
        self.clock.advance(0)
        self.assertEqual([len(data) for data in socket.sent], [60_000, 40_000])
        self.assertEqual([len(data) for data in socket.given], [20_000])
        self.assertEqual(cut, [])
        client.session.send(b"x")
        self.assertEqual(cut, [None])

    def test_goodbye(self) -> None:
        """
        The good-bye follows the last words, though these were sent already.
        """
        self.session.send(b"last words")
        self.client.protocol.finish()
        self.clock.advance(0)
        self.assertEqual(self.socket.sent, [b"last words"])
        self.assertFalse(self.socket.halfClosed)
        self.socket.drains()
        self.assertTrue(self.socket.halfClosed)
        self.assertTrue(self.socket.isRead)

    def test_goodbyeWaits(self) -> None:
        """
        It waits with what waits.
        """
        self.socket.room = 5
        self.session.send(b"last words")
        self.client.protocol.finish()
        self.clock.advance(0)
        self.socket.drains(1)
        self.assertFalse(self.socket.halfClosed)
        self.socket.drains()
        self.assertEqual(b"".join(self.socket.sent), b"last words")
        self.assertTrue(self.socket.halfClosed)
        self.assertTrue(self.socket.isRead)

    def test_goodbyeOfBoth(self) -> None:
        """
        To a client that has ended its side nothing more is said then.
        """
        self.socket.room = 5
        self.session.send(b"last words")
        self.client.saysNoMore()
        self.clock.advance(0)
        self.assertIs(self.socket.drains(), main.CONNECTION_DONE)
        self.assertEqual(b"".join(self.socket.sent), b"last words")

    def test_encrypted(self) -> None:
        """
        Past the encryption of a transport nothing is sent.
        """
        socket = Socket()
        directlyProvides(socket, ISSLTransport)
        client = self.connect(socket)
        client.session.send(b"secret")
        self.clock.advance(0)
        self.assertEqual((socket.sent, socket.given), ([], [b"secret"]))
        client.isGone()

    def test_wrapped(self) -> None:
        """
        Nor past one that wraps the other, and shows it.
        """
        socket = Socket()

        class Wrapper(Wire):
            writeSomeData = socket.writeSomeData

        client = self.connect(Wrapper())
        client.session.send(b"secret")
        self.clock.advance(0)
        self.assertEqual((socket.sent, client.hears()), ([], b"secret"))


class HalfCloseTests(RecordedTestCase):
    """
    The client has said all, and reads on: C{nc -N}.
    """

    def test_pendingRepliesArrive(self) -> None:
        """
        Replies that are still to come arrive, and then the connection ends.
        """
        client = self.connect()
        client.session.isIdle = False
        client.says(b"one\n")
        client.saysNoMore()
        self.clock.advance(5)
        self.assertFalse(client.wire.disconnecting)
        client.session.isIdle = True
        client.session.send(b"reply")
        self.clock.advance(0)
        self.assertEqual(client.hears(), b"reply")
        self.assertTrue(client.wire.disconnecting)
        client.isGone()
        self.assertAtRest()

    def test_linesAreHandled(self) -> None:
        """
        Lines that have come are handled, though more of them than one turn
        takes.
        """
        client = self.connect()
        client.says(b"x\n" * 100)
        client.saysNoMore()
        self.clock.advance(0)
        self.assertEqual(len(client.session.lines), 100)
        self.assertTrue(client.wire.disconnecting)

    def test_unfinishedLine(self) -> None:
        """
        A line without an end is none, and its timer is gone.
        """
        client = self.connect()
        client.says(b"one\ntwo")
        client.saysNoMore()
        self.clock.advance(0)
        self.assertEqual(client.session.lines, [b"one"])
        self.assertTrue(client.wire.disconnecting)
        client.isGone()
        self.assertAtRest()

    def test_notReadAgain(self) -> None:
        """
        An input that has ended is not read again: a reactor would find it
        ready for ever.
        """
        client = self.connect()
        client.wire.producerState = "stopped"
        client.saysNoMore()
        client.protocol.pauseProducing()
        client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(client.wire.producerState, "stopped")

    def test_nothingAsked(self) -> None:
        """
        Who asked nothing gets the end at once.
        """
        client = self.connect()
        client.saysNoMore()
        self.clock.advance(0)
        self.assertTrue(client.wire.disconnecting)

    def test_tooLong(self) -> None:
        """
        A line that is too long is 413 in this state as well.
        """
        self.limit(maxLineLength=10, linesPerTurn=1)
        client = self.connect()
        client.says(b"one\n0123456789A\ntwo\n")
        client.saysNoMore()
        self.clock.advance(0)
        self.assertEqual(client.outcomes(), [(None, 413, "LINE_TOO_LONG")])
        self.assertEqual(client.session.lines, [b"one"])
        self.assertTrue(client.wire.disconnecting)

    def test_goodbyeFirst(self) -> None:
        """
        When the server was first to say good-bye, the client's ends it.
        """
        client = self.connect()
        client.protocol.finish()
        self.clock.advance(0)
        self.assertTrue(client.wire.halfClosed)
        self.assertFalse(client.wire.disconnecting)
        client.saysNoMore()
        self.assertTrue(client.wire.disconnecting)

    def test_transportThatCannot(self) -> None:
        """
        A transport that has no half-close is closed as a whole.
        """
        client = self.connect(StringTransport(lenient=True))
        client.protocol.finish()
        self.clock.advance(0)
        self.assertTrue(client.wire.disconnecting)
        client.isGone()
        self.assertAtRest()


class FactoryTests(RecordedTestCase):
    """
    All connections of a server.
    """

    def test_connectionLimit(self) -> None:
        """
        A connection over the limit is closed at once, and the log says so.
        """
        self.limit(maxConnections=2)
        first, _ = self.connect(), self.connect()
        with capturedLogs() as logs:
            unwelcome = self.factory.buildProtocol(None)
        self.assertEqual(len(logs), 1)
        transport = StringTransport()
        unwelcome.makeConnection(transport)
        self.assertTrue(transport.disconnected)
        first.isGone()
        self.assertIsInstance(self.factory.buildProtocol(None), LineProtocol)

    def test_keepAlive(self) -> None:
        """
        TCP keep-alive is on, and small writes are not held back.
        """

        class TCP(Wire):
            options: tuple[object, ...] = ()

            def setTcpKeepAlive(self, enabled: object) -> None:
                self.options += ("keepalive", enabled)

            def setTcpNoDelay(self, enabled: object) -> None:
                self.options += ("nodelay", enabled)

        wire = TCP()
        directlyProvides(wire, ITCPTransport)
        self.connect(wire)
        self.assertEqual(wire.options, ("keepalive", True, "nodelay", True))

    def test_finish(self) -> None:
        """
        All connections end in order; it is told when the last is closed.
        """
        first, second = self.connect(), self.connect()
        second.session.isIdle = False
        finished = self.factory.finish()
        self.clock.advance(0)
        self.assertTrue(first.wire.halfClosed)
        self.assertFalse(second.wire.halfClosed)
        first.isGone()
        self.assertNoResult(finished)
        second.isGone()
        self.successResultOf(finished)
        self.assertAtRest()

    def test_finishNone(self) -> None:
        """
        Without connections there is nothing to wait for.
        """
        self.successResultOf(self.factory.finish())

    def test_finishHandlesWhatCame(self) -> None:
        """
        Each line that was received is handled before its connection ends.
        """
        client = self.connect()
        client.says(b"x\n" * 100)
        self.factory.finish()
        self.clock.advance(0)
        self.assertEqual(len(client.session.lines), 100)
        self.assertTrue(client.wire.halfClosed)

    def test_cutOff(self) -> None:
        """
        All connections end at once.
        """
        first, second = self.connect(), self.connect()
        first.session.send(b"never read")
        self.factory.cutOff()
        self.assertTrue(first.wire.disconnected)
        self.assertTrue(second.wire.disconnected)
        first.isGone()
        second.isGone()
        self.assertAtRest()
        self.assertEqual(first.hears(), b"")

    def test_lostInsideACallback(self) -> None:
        """
        A transport that loses its connection at once when it is told to does
        no harm.
        """
        wire = StringTransportWithDisconnection()
        client = self.connect(wire)
        wire.protocol = client.protocol
        client.says(b"one\n")
        finished = self.factory.finish()
        self.clock.advance(0)
        self.successResultOf(finished)
        self.assertAtRest()


class ServerTestCase(SynchronousTestCase):
    """
    Connections of a whole server in memory.
    """

    def setUp(self) -> None:
        """
        Start a server on fakes.
        """
        self.reactor = MemoryReactorClock()
        self.events = TradeEvents()
        self.runtime = FakeTradingRuntime(self.events)
        self.serve(self.runtime)

    def serve(self, runtime: ITradingRuntime, limits: Limits | None = None) -> None:
        """
        Start a server on this runtime.
        """
        self.server = CreditSync(
            self.reactor,
            runtime=runtime,
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=[],
            limits=limits,
        )
        self.server.startService()

    def connect(self) -> Connection:
        """
        Open a connection.
        """
        return Connection(self.server.factory)

    def assertAtRest(self) -> None:
        """
        Nothing waits, and nothing is left for the clock.
        """
        self.reactor.advance(0)
        self.assertEqual(self.server.sessions.pending, 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ConversationTests(ServerTestCase):
    """
    What a client sees of the whole server.
    """

    def test_pipelined(self) -> None:
        """
        Many commands in one packet each get their reply, event line before
        reply line, in one write.
        """
        client = self.connect()
        client.says(CREDIT + HEALTH)
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("h", 200, None)])
        self.runtime.book(self.runtime.reserved[0])
        [write] = client.wire.writes
        event, reply, rest = write.split(b"\r\n")
        self.assertTrue(event.startswith(b'{"event":"trade:event","type":0,'))
        self.assertTrue(reply.startswith(b'{"extID":"c","status":200,'))
        self.assertEqual(rest, b"")

    def test_window(self) -> None:
        """
        Each of several plain requests in one packet gets its own reply, and a line
        among them that is not plain spoils none and has nothing done twice.
        """
        lines = [CREDIT.replace(b'"c"', b"%d" % number) for number in range(5)]
        for odd, outcome in (
            (b"{}\r\n", (None, 400, "INVALID_DATA")),
            (b"\xff\n", (None, 400, "INVALID_JSON")),
            (HEALTH, ("h", 200, None)),
            (CREDIT.replace(b"manager", b"user"), ("c", 403, "FORBIDDEN")),
            (CREDIT.replace(b"manager", b"x"), ("c", 401, "UNAUTHORIZED")),
            (CREDIT.replace(b"300.0", b"1e400"), ("c", 400, "INVALID_JSON")),
            (lines[4], (4, 409, "DUPLICATE_EXTID")),
        ):
            for place in (0, 3, 5):
                client = self.connect()
                # The last of them must come first to be there twice.
                packet = [*lines[::-1]]
                packet.insert(max(place, 1) if odd is lines[4] else place, odd)
                client.says(b"".join(packet))
                self.reactor.advance(0)
                self.assertEqual(client.outcomes(), [outcome])
                self.assertEqual(len(self.runtime.reserved), 5)
                for reservation in list(self.runtime.reserved):
                    self.runtime.book(reservation)
                self.reactor.advance(0)
                self.assertEqual(
                    client.outcomes(),
                    [(number, 200, None) for number in (4, 3, 2, 1, 0)],
                )
                client.isGone()
        self.assertAtRest()

    def test_whiteSpaceBetween(self) -> None:
        """
        A request that is broken over two lines, and two on one line, are refused,
        also beside plain ones.
        """
        broken = CREDIT.replace(b',"data"', b',\n"data"')
        double = CREDIT.strip() + b" " + CREDIT
        for bad, refusals in ((broken, 2), (double, 1)):
            for packet in (bad, CREDIT + bad, bad + CREDIT):
                client = self.connect()
                client.says(packet)
                self.reactor.advance(0)
                outcomes = client.outcomes()
                self.assertEqual(
                    [(status, error) for _, status, error in outcomes],
                    [(400, "INVALID_JSON")] * refusals,
                )
                count = 0 if packet is bad else 1
                self.assertEqual(len(self.runtime.reserved), count)
                self.runtime.reserved.clear()
                client.isGone()
        self.assertAtRest()

    def test_halfClosed(self) -> None:
        """
        C{nc -N} gets its credit.
        """
        client = self.connect()
        client.says(CREDIT)
        client.saysNoMore()
        self.reactor.advance(4)
        self.runtime.book(self.runtime.reserved[0])
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("c", 200, None)])
        self.assertTrue(client.wire.disconnecting)
        client.isGone()
        self.assertAtRest()

    def test_halfClosedAndTimedOut(self) -> None:
        """
        Or its 504, before the time to say good-bye is over.
        """
        client = self.connect()
        client.says(CREDIT)
        client.saysNoMore()
        self.reactor.advance(5)
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("c", 504, "SYNC_TIMEOUT")])
        self.assertTrue(client.wire.disconnecting)
        self.assertFalse(client.wire.disconnected)

    def test_halfClosedOnASlowRuntime(self) -> None:
        """
        So it does when the runtime took nearly all of the time to reserve.
        """

        class Slow(FakeTradingRuntime):
            held: "Deferred[Reservation]"

            def submit(  # type: ignore[override]
                self, operation: Operation | Deletion
            ) -> "Deferred[Reservation]":
                self.held = Deferred()
                return self.held

        runtime = Slow(self.events)
        self.serve(runtime)
        client = self.connect()
        client.says(CREDIT)
        client.saysNoMore()
        self.reactor.advance(4.9)
        trade = Trade(77, 1001, 7, 3, 1, "x", 0, 0, 0)
        operation = Operation("CreditInSync", 7, 1001, 1, "x")
        runtime.held.callback(Reservation(0, trade, operation))
        while not client.wire.disconnecting:
            self.reactor.advance(0.1)
        self.assertEqual(client.outcomes(), [("c", 504, "SYNC_TIMEOUT")])
        self.assertFalse(client.wire.disconnected)

    def test_tooLongAfterARequest(self) -> None:
        """
        After a 413 the earlier request still gets its reply, and then the
        connection ends.
        """
        client = self.connect()
        client.says(CREDIT + b"x" * 65537 + b"\n" + HEALTH)
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [(None, 413, "LINE_TOO_LONG")])
        self.assertFalse(client.wire.halfClosed)
        self.runtime.book(self.runtime.reserved[0])
        self.assertEqual(client.outcomes(), [("c", 200, None)])
        self.reactor.advance(0)
        self.assertTrue(client.wire.halfClosed)

    def test_gone(self) -> None:
        """
        A client that is gone leaves nothing, and its credit is booked.
        """
        client = self.connect()
        client.says(CREDIT)
        client.isGone()
        self.assertAtRest()
        self.runtime.book(self.runtime.reserved[0])
        self.reactor.advance(0)
        self.assertEqual(client.hears(), b"")
        self.assertAtRest()

    def test_unreadEvents(self) -> None:
        """
        A listener that does not read is cut off; the others are served.
        """
        self.serve(self.runtime, Limits(maxUnread=1000))
        deaf, asking = self.connect(), self.connect()
        deaf.says(HEALTH)
        self.reactor.advance(0)
        deaf.protocol.pauseProducing()
        for order in range(40):
            self.events.publish([TradeEvent(0, {"order": order})])
        self.assertTrue(deaf.wire.disconnected)
        deaf.isGone()
        asking.says(HEALTH)
        self.reactor.advance(0)
        self.assertEqual(asking.outcomes(), [("h", 200, None)])

    def test_outcomeUnknownWhenUnread(self) -> None:
        """
        A stalled client's requests end in time all the same, and are read
        when it reads again.
        """
        client = self.connect()
        client.says(CREDIT)
        client.protocol.pauseProducing()
        self.reactor.advance(5)
        self.assertEqual(self.server.sessions.pending, 0)
        self.assertEqual(client.hears(), b"")
        client.protocol.resumeProducing()
        [outcome] = client.outcomes()
        self.assertEqual(outcome, ("c", OutcomeUnknown.status, "SYNC_TIMEOUT"))

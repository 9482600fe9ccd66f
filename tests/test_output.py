"""
Tests for L{creditsync._transport.output}, without a connection.
"""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from creditsync._transport.output import Output


class Counted(bytes):
    """
    Bytes that count how often their length is asked for.
    """

    asked = 0

    def __len__(self) -> int:
        """
        The length.
        """
        Counted.asked += 1
        return super().__len__()


class Transport(StringTransport):
    """
    A transport that says when a write filled it.

    @ivar writes: What was written, each write by itself.
    @ivar isFull: Whether the next write fills it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.isFull = False

    def write(self, data: bytes) -> None:
        """
        See L{ITransport.write}.
        """
        self.writes.append(data)
        if self.isFull:
            self.producer.pauseProducing()


class Producer:
    """
    What a connection does for its output.
    """

    output: Output

    def pauseProducing(self) -> None:
        """
        What was written does not leave.
        """
        self.output.isStalled = True

    def resumeProducing(self) -> None:
        """
        All of it has left.
        """
        self.output.isStalled = False
        self.output.flush()

    def stopProducing(self) -> None:
        """
        Not used.
        """


class OutputTests(SynchronousTestCase):
    """
    Tests for L{Output}.
    """

    def setUp(self) -> None:
        """
        Make an output that nothing was sent by.
        """
        self.open()

    def open(self) -> None:
        """
        Make a new one.
        """
        self.producer = Producer()
        self.output = self.producer.output = Output(self.producer)
        self.transport: Any = Transport()
        self.output.begin(self.transport)
        Counted.asked = 0

    def test_joined(self) -> None:
        """
        What was sent since the last time is one write.
        """
        self.output.chunks += [b"a", b"bc"]
        self.output.flush()
        self.output.flush()
        self.assertEqual(self.transport.writes, [b"abc"])
        self.assertEqual((self.output.size, self.output.unread), (0, 0))

    def test_size(self) -> None:
        """
        The size is that of all chunks that were not written, whenever it is asked
        for.
        """
        self.assertEqual(self.output.size, 0)
        self.output.chunks.append(b"abc")
        self.assertEqual(self.output.size, 3)
        self.assertEqual(self.output.size, 3)
        self.output.chunks += [b"", b"defg"]
        self.assertEqual(self.output.size, 7)
        self.output.clear()
        self.assertEqual(self.output.size, 0)
        self.output.chunks.append(b"h")
        self.assertEqual(self.output.size, 1)

    def test_atMost(self) -> None:
        """
        No write has more than 65,536 bytes, except for a single chunk that has; and
        no chunk is torn.
        """
        sizes = [30_000, 30_000, 5_536, 1, 65_536, 70_000, 3, 65_534]
        self.output.chunks += [b"x" * size for size in sizes]
        self.output.flush()
        self.assertEqual(
            [len(data) for data in self.transport.writes],
            [65_536, 1, 65_536, 70_000, 3, 65_534],
        )

    def test_stalls(self) -> None:
        """
        When a write does not leave the next one waits, and goes on where it was.
        """
        self.transport.isFull = True
        self.output.chunks += [b"a" * 40_000, b"b" * 40_000, b"c" * 40_000]
        self.output.flush()
        self.assertEqual(self.transport.writes, [b"a" * 40_000])
        # Not asked for before: that would count all there is.
        self.output.chunks.append(b"d")
        self.output.flush()
        self.assertEqual(self.output.size, 80_001)
        self.transport.isFull = False
        self.producer.resumeProducing()
        self.assertEqual(
            self.transport.writes, [b"a" * 40_000, b"b" * 40_000, b"c" * 40_000 + b"d"]
        )
        self.assertEqual(self.output.size, 0)

    def test_notCountedNeedlessly(self) -> None:
        """
        Nothing is counted when something is sent, and each chunk once when it is
        written.
        """
        self.output.chunks += [Counted(b"x" * 100) for _ in range(50)]
        self.assertEqual(Counted.asked, 0)
        self.output.flush()
        self.assertLessEqual(Counted.asked, 50)

    def test_notQuadratic(self) -> None:
        """
        For a client that does not read, each chunk is counted once as the size is
        asked for after each of them, and a few times more as they are written.
        """
        self.output.isStalled = True
        for number in range(3000):
            self.output.chunks.append(Counted(b"x" * 100))
            self.assertEqual(self.output.size, 100 * number + 100)
        self.assertLessEqual(Counted.asked, 3000)
        self.output.isStalled = False
        self.output.flush()
        self.assertLessEqual(Counted.asked, 5 * 3000)
        self.assertEqual(sum(map(len, self.transport.writes)), 300_000)

    @settings(derandomize=True, database=None, deadline=None)
    @given(
        st.lists(
            st.sampled_from([0, 1, 30_000, 65_535, 65_536, 65_537, 100_000])
            | st.sampled_from(["size", "full", "roomy", "resume", "flush", "clear"])
        )
    )
    def test_anyOrder(self, steps: list[int | str]) -> None:
        """
        Whatever is sent, written, stalled, resumed and forgotten in whatever order,
        the size is right, and no byte is lost, repeated or overtaken.
        """
        self.open()
        sent = 0
        forgotten = b""
        everything = b""
        for step in steps:
            if isinstance(step, int):
                data = b"%d" % (sent % 10) * step
                sent += 1
                everything += data
                self.output.chunks.append(data)
            elif step in ("full", "roomy"):
                self.transport.isFull = step == "full"
            elif step == "resume" and self.output.isStalled:
                self.producer.resumeProducing()
            elif step == "flush":
                self.output.flush()
            elif step == "clear":
                forgotten = b"".join(self.output.chunks)
                self.output.clear()
                everything = everything[: len(everything) - len(forgotten)]
            elif step == "size":
                self.assertEqual(self.output.size, sum(map(len, self.output.chunks)))
        self.assertEqual(self.output.size, sum(map(len, self.output.chunks)))
        waiting = b"".join(self.output.chunks)
        self.assertEqual(b"".join(self.transport.writes) + waiting, everything)

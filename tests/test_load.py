"""
Tests for L{tests.load}: its commands detect wrong answers.
"""

import time
from array import array
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync.errors import Busy, OutcomeUnknown, Refusal, TooManyRequests
from tests.load import flood, overload
from tests.load.clients import Client, Stubborn
from tests.load.disturbing import Holding
from tests.load.record import Data, Message, Record, compare, decode
from tests.load.slow_readers import BOUND, HIDDEN, Reader
from tests.load.stepping import shared
from tests.load.talks import Conversation
from tests.load.wall import STEPS, Wall


def booked(serial: int, order: int, name: str = "r") -> Message:
    """
    The reply to a credit that was booked.
    """
    return Message(serial, 200, data=Data(order, f"{name}-{serial}"))


def refused(serial: int, refusal: Refusal) -> Message:
    """
    A refusal as the server writes it.
    """
    return decode(wire.refusal(serial, refusal))


class RecordTests(SynchronousTestCase):
    """
    Tests for L{Record} and L{compare}.
    """

    def setUp(self) -> None:
        """
        Request four credits.
        """
        self.record = Record("r")
        for _ in range(4):
            self.record.ask()

    def test_lines(self) -> None:
        """
        A request's serial number is its C{extID} and a part of its comment.
        """
        line = self.record.ask()
        self.assertTrue(line.startswith(b'{"command":"CreditInSync","extID":4,'))
        self.assertTrue(line.endswith(b'"comment":"r-4"}}\r\n'))

    def test_sound(self) -> None:
        """
        A 200 that is booked, a refusal that is not, and a 504 and a missing
        answer that may be either: nothing is reported.
        """
        self.record.answered(booked(0, 11))
        self.record.answered(refused(1, Busy("too much")))
        self.record.answered(refused(2, OutcomeUnknown("too slow", 12)))
        rows = [(11, "r-0"), (12, "r-2"), (13, "r-3"), (14, "another's credit")]
        self.assertEqual(compare(rows, [self.record]), [])
        self.assertEqual(compare(rows[:1], [self.record]), [])
        self.assertEqual(self.record.problems, [])
        self.assertEqual(self.record.unanswered(), [3])
        self.assertEqual(self.record.inFlight, 1)

    def test_twoAnswers(self) -> None:
        """
        A second answer is reported, even if it is the same.
        """
        self.record.answered(booked(0, 11))
        self.record.answered(booked(0, 11))
        self.assertEqual(self.record.problems, ["r-0 is answered a second time"])

    def test_notAsked(self) -> None:
        """
        An answer without a request is reported, and so is one to another
        session.
        """
        self.record.answered(booked(4, 11))
        self.record.answered(Message("0", 200))
        self.record.answered(Message(0, 200, data=Data(11, "r-1")))
        self.assertEqual(
            self.record.problems,
            [
                "an answer under extID 4, which was not asked",
                "an answer under extID '0', which was not asked",
                "r-0 is told of 'r-1'",
            ],
        )

    def test_noRetryAfter(self) -> None:
        """
        A 503 without C{retryAfter} is reported; a 429 may lack it.
        """
        self.record.answered(refused(0, Busy("too much")))
        self.record.answered(refused(1, TooManyRequests("too many")))
        self.assertEqual(self.record.problems, [])
        self.record.answered(Message(2, 503))
        self.assertEqual(self.record.problems, ["the 503 of r-2 lacks retry_after_ms"])

    def test_fault(self) -> None:
        """
        A 500 in reply to a good request is reported.
        """
        self.record.answered(Message(0, 500))
        self.assertEqual(self.record.problems, ["r-0 is answered 500"])

    def test_ledgerDisagrees(self) -> None:
        """
        Answers are compared with the ledger, row by row.
        """
        self.record.answered(booked(0, 11))
        self.record.answered(booked(1, 12))
        self.record.answered(refused(2, Busy("too much")))
        rows = [(13, "r-1"), (12, "r-1"), (14, "r-2"), (15, "r-7")]
        self.assertEqual(
            compare(rows, [self.record]),
            [
                "r-1 is booked as order 13, told was 12",
                "r-1 is booked twice",
                "r-2 was refused with 503, and is booked",
                "r-7 was never asked for, and is booked",
                "r-0 was answered by 200, and is not booked",
            ],
        )


class ReaderTests(SynchronousTestCase):
    """
    Tests for L{Reader}: the checks of a session that reads slowly.
    """

    EVENTS: ClassVar = [11, 12, 13]

    def reader(self, **values: Any) -> Reader:
        """
        A reader on a server that sends nothing.
        """
        with flood.sink() as port:
            conversation = Conversation(port)
        self.addCleanup(conversation.close)
        return Reader(conversation, **values)

    def wrong(self, **values: Any) -> str:
        """
        The faults found after 100 MB were published.
        """
        return self.reader(**values).wrong(self.EVENTS, 100_000_000)

    def test_cutOff(self) -> None:
        """
        A reader that does not read is cut off at the bound.
        """
        self.assertEqual(self.wrong(unreadAtEnd=BOUND + HIDDEN), "")
        self.assertEqual(self.wrong(unreadAtEnd=BOUND), "")

    def test_notCutOff(self) -> None:
        """
        A reader that stays, or is cut off too early or too late, is reported.
        """
        self.assertIn("still there", self.wrong())
        self.assertIn("cut off with only", self.wrong(unreadAtEnd=BOUND // 2))
        self.assertIn("cut off late", self.wrong(unreadAtEnd=BOUND + HIDDEN + 1))

    def test_steady(self) -> None:
        """
        A steady reader receives everything.
        """
        self.assertEqual(self.wrong(share=1.0, orders=[11, 12, 13]), "")
        self.assertIn("2 of 3", self.wrong(share=1.0, orders=[11, 12]))
        got = self.wrong(share=1.0, orders=[11, 12, 13], unreadAtEnd=BOUND)
        self.assertIn("was steady", got)

    def test_order(self) -> None:
        """
        A reader that is cut off has received the first events without a gap
        and without repetition.
        """
        good = {"share": 0.1, "unreadAtEnd": BOUND}
        self.assertEqual(self.wrong(orders=[11, 12], **good), "")
        for orders in ([11, 11], [12], [11, 13]):
            self.assertIn("once, in order", self.wrong(orders=orders, **good))


class OverloadTests(SynchronousTestCase):
    """
    Tests for L{overload.judge}.
    """

    GOOD: ClassVar = {
        "capacity, requests a second": 20_000,
        "the senders could offer, a second": 200_000,
        "a refusal's processor time, of a credit's": 0.4,
        "capacity afterwards, of before": 1.0,
        "flood, answered by 429": 10,
        "flood, answered by 503": 1000,
        "polite, refused p99 ms": 20.0,
    }

    def test_good(self) -> None:
        """
        A server that keeps its capacity passes.
        """
        self.assertEqual(overload.judge(self.GOOD), [])

    def test_bad(self) -> None:
        """
        Each figure can fail the check.
        """
        for bad in (
            {"the senders could offer, a second": 100_000},
            {"a refusal's processor time, of a credit's": 1.1},
            {"capacity afterwards, of before": 0.2},
            {"flood, answered by 429": 0, "flood, answered by 503": 0},
            {"polite, refused p99 ms": 600.0},
        ):
            self.assertEqual(len(overload.judge({**self.GOOD, **bad})), 1, bad)


class ClientTests(SynchronousTestCase):
    """
    Tests for L{Client} and L{Stubborn}: which requests must be answered at a
    stop.
    """

    def test_missing(self) -> None:
        """
        A client that stops when it receives C{SHUTDOWN} must get all answers;
        one that does not, those to requests sent before the signal.
        """
        with flood.sink() as port:
            conversation = Conversation(port)
        self.addCleanup(conversation.close)
        record = Record("r")
        for _ in range(3):
            record.ask()
        record.sent[:] = array("d", [1.0, 2.0, 3.0])
        record.answered(booked(0, 11))
        self.assertEqual(Client(conversation, record, False).missing(2.5), [1, 2])
        self.assertEqual(Stubborn(conversation, record, False).missing(2.5), [1])


class HoldingTests(SynchronousTestCase):
    """
    Tests for L{Holding}: answers while the ledger is held from 10 to 20, with
    a timeout of 5 seconds.
    """

    def setUp(self) -> None:
        """
        Hold the ledger.
        """
        self.holding = Holding(Path(":memory:"), 5.0)
        self.addCleanup(self.holding.close)
        self.holding.stretches.append((10.0, 20.0))

    def test_inTime(self) -> None:
        """
        A 504 at its time, and a 200 at once or as soon as the ledger is free,
        are in time.
        """
        for answer in ((504, 12.0, 17.0), (504, 12.0, 17.5), (200, 5.0, 5.1)):
            self.assertEqual(self.holding.wrong(*answer), "")
        self.assertEqual(self.holding.wrong(200, 16.0, 20.3), "")

    def test_notInTime(self) -> None:
        """
        An early, late or needless answer is reported.
        """
        for answer, wrong in (
            ((504, 12.0, 16.9), "after 4.900 s"),
            ((504, 12.0, 18.0), "after 6.000 s"),
            ((504, 2.0, 7.0), "while the ledger was free"),
            ((200, 5.0, 6.0), "1.000 s late"),
            ((200, 16.0, 22.0), "2.000 s late"),
            ((503, 5.0, 5.1), "answered 503"),
            ((0, 5.0, 0.0), "no answer"),
        ):
            self.assertIn(wrong, self.holding.wrong(*answer))


class WallTests(SynchronousTestCase):
    """
    Tests for L{Wall}.
    """

    def test_steps(self) -> None:
        """
        Each step is made in both directions, and is in the file at once; the
        clock's time is known for each stretch between two steps.
        """
        with TemporaryDirectory() as folder:
            wall = Wall(Path(folder) / "clock")
            offset = shared(wall.file)
            right, start = wall.now, time.monotonic()
            made = []
            for _ in range(2 * len(STEPS)):
                before = offset[0]
                wall.step()
                made.append(offset[0] - before)
            self.assertEqual(sorted(map(abs, made)), sorted([*STEPS, *STEPS]))
            self.assertEqual(sum(made), 0.0)
            said = wall.said(start, time.monotonic())
            self.assertEqual(len(said), 2 * len(STEPS) + 1)
            self.assertLess(abs(said[1][0] - right - made[0]), 0.5)

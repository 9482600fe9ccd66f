"""
L{tests.attack.paths}, for a short while: the fast path of a line and the long one
agree, and its checks detect where they don't.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.attack import paths
from tests.attack.lines import Lines
from tests.attack.paths import Conversation, Difference, main, watchFastPath
from tests.attack.stack import Stack

pytestmark = pytest.mark.proof


class AgreementTests(SynchronousTestCase):
    """
    Tests for the fast path, by whole conversations.
    """

    def test_volume(self) -> None:
        """
        Ten thousand lines are the same by both paths, and most of them take the
        fast one.
        """
        conversation = Conversation(Random(1))
        conversation.run(10_000)
        self.assertGreater(conversation.taken, 0.5 * conversation.lines)

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=100,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def test_shapes(self, random: Random) -> None:
        """
        So are windows of a few lines, each choice of which is hypothesis's.
        """
        Conversation(random).run(10)


class LinesTests(SynchronousTestCase):
    """
    Tests for the lines that are sent.
    """

    def test_mostlyFast(self) -> None:
        """
        More than half of the windows have nothing that keeps one of their lines
        from the fast path.
        """
        lines, stack = Lines(Random(1)), Stack()
        counts = watchFastPath(stack, True)
        connection, clean = stack.connect(), 0
        for _ in range(300):
            window = lines.window(5)
            before = counts["taken"]
            connection.say(b"".join(line + b"\n" for line in window))
            clean += counts["taken"] - before == len(window)
        self.assertGreater(clean, 150)


class DetectionTests(SynchronousTestCase):
    """
    Tests for the comparison itself.
    """

    def assertFound(self, change: "contextlib.AbstractContextManager[object]") -> str:
        """
        Fail unless a fault of the server with the fast path is reported.

        @return: What is reported.
        """
        with change:
            raised = self.assertRaises(Difference, Conversation(Random(1)).run, 500)
        return str(raised)

    def breaking(
        self, fault: "Callable[[Stack], object]"
    ) -> "contextlib.AbstractContextManager[object]":
        """
        Have the server with the fast path begin with a fault.
        """

        def watch(stack: Stack, isOpen: bool) -> "Counter[str]":
            if isOpen:
                fault(stack)
            return watchFastPath(stack, isOpen)

        return mock.patch.object(paths, "watchFastPath", watch)

    def test_sent(self) -> None:
        """
        Replies that differ are reported, and the line that is enough for it.
        """
        wrong = self.assertFound(self.breaking(lambda stack: stack.ledger.newOrder()))
        self.assertIn('"order":2,', wrong)
        self.assertIn("; alone the fast path gives", wrong)

    def test_counted(self) -> None:
        """
        Counts that differ are reported.
        """

        def miscount(stack: Stack) -> None:
            stack.counters.unmatched = 7

        wrong = self.assertFound(self.breaking(miscount))
        self.assertEqual(
            wrong, "the fast path has unmatched: 7, the long one unmatched: 0"
        )

    def test_sound(self) -> None:
        """
        A run without a difference is sound, and says what share was fast.
        """
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self.assertEqual(main(["--lines", "100", "--seed", "1"]), 0)
        self.assertRegex(printed.getvalue(), r"by the fast path  [5-9]\d\.\d%")
        self.assertIn("lines, the same by both paths", printed.getvalue())

    def test_failed(self) -> None:
        """
        An exception that no server handles is reported, and not raised.
        """

        def fail(stack: Stack) -> None:
            factory: Any = stack.service.factory
            factory.hasLines = None

        with (
            self.breaking(fail),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            self.assertEqual(main(["--lines", "100", "--seed", "1"]), 1)
        self.assertIn("--seed 1: a server failed: TypeError", printed.getvalue())

    def test_tooFew(self) -> None:
        """
        A run in which hardly a line takes the fast path is no proof.
        """

        def closed(stack: Stack, isOpen: bool) -> "Counter[str]":
            return watchFastPath(stack, False)

        with (
            mock.patch.object(paths, "watchFastPath", closed),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            self.assertEqual(main(["--lines", "100", "--seed", "1"]), 1)
        self.assertIn(
            "VIOLATION: only 0% of the lines took the fast path", printed.getvalue()
        )

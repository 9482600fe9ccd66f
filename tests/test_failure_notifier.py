"""
Tests for L{creditsync._failing}.
"""

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._failing import FailureNotifier


class FailingTests(SynchronousTestCase):
    """
    Tests for L{FailureNotifier}.
    """

    def test_everybodyIsTold(self) -> None:
        """
        Every caller is notified of the failure, even if another one raises.
        """
        failing = FailureNotifier()
        one, other = failing.whenFailed(), failing.whenFailed()
        one.addErrback(lambda _: None)
        self.assertNoResult(other)
        failing.fail(Failure(ZeroDivisionError()))
        self.successResultOf(one)
        self.failureResultOf(other, ZeroDivisionError)

    def test_late(self) -> None:
        """
        A caller that asks after the failure is notified at once.
        """
        failing = FailureNotifier()
        failing.fail(Failure(ZeroDivisionError()))
        self.failureResultOf(failing.whenFailed(), ZeroDivisionError)

    def test_firstCounts(self) -> None:
        """
        A second failure is ignored.
        """
        failing = FailureNotifier()
        told = failing.whenFailed()
        failing.fail(Failure(ZeroDivisionError()))
        failing.fail(Failure(KeyError()))
        self.failureResultOf(told, ZeroDivisionError)
        self.failureResultOf(failing.whenFailed(), ZeroDivisionError)

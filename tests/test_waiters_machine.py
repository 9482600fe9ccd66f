"""
The state machines of L{tests.attack.waiters}, for a short while.
"""

from collections.abc import Iterator
from unittest import mock

from hypothesis import Phase
from hypothesis.stateful import RuleBasedStateMachine
from twisted.internet.defer import AlreadyCalledError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync._timeouts import EqualTimeouts
from creditsync.errors import OutcomeUnknown
from creditsync.records import TradeEvent
from tests.attack.ends import TIMEOUT
from tests.attack.timeouts import TimeoutsMachine
from tests.attack.waiters import WaitersMachine, run


class MachineTests(SynchronousTestCase):
    """
    Tests for both machines.
    """

    def test_waiters(self) -> None:
        """
        Whatever is done to waits, each that has to end does, once.
        """
        run(WaitersMachine, 1000, Phase.generate)

    def test_timeouts(self) -> None:
        """
        Whatever is done to timeouts, each is on time.
        """
        run(TimeoutsMachine, 300, Phase.generate)


class BrokenTests(SynchronousTestCase):
    """
    The machines find what is broken on purpose.
    """

    def find(self, machine: type[RuleBasedStateMachine]) -> None:
        """
        See a machine fail.
        """
        self.assertRaises(AssertionError, run, machine, 20_000, Phase.generate)
        self.flushLoggedErrors(AlreadyCalledError)

    def test_waiterLeft(self) -> None:
        """
        A wait that has timed out but stays in a table is found.
        """

        def keep(self: Waiters, waiter: Waiter) -> None:
            if waiter.reservation is None:
                self.entries[waiter] = waiter
            waiter.fail(Failure(OutcomeUnknown("kept", waiter.order)))

        with mock.patch.object(Waiters, "_timedOut", keep):
            self.find(WaitersMachine)

    def test_mixedUp(self) -> None:
        """
        An event that answers another operation's wait is found.
        """
        answered = Waiters._answeredBy

        def oldest(self: Waiters, event: TradeEvent) -> Iterator[Waiter]:
            unmarked = TradeEvent(event.type, {"order": event.order})
            return answered(self, unmarked)

        with mock.patch.object(Waiters, "_answeredBy", oldest):
            self.find(WaitersMachine)

    def test_late(self) -> None:
        """
        What is due exactly now but waits on is found.
        """
        start = EqualTimeouts.start

        def later(self: EqualTimeouts[int], item: int) -> None:
            self._table.seconds = TIMEOUT + 2**-20
            start(self, item)

        with mock.patch.object(EqualTimeouts, "start", later):
            self.find(TimeoutsMachine)

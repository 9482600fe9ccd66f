"""
A state machine over L{EqualTimeouts}, on which the waiters are based.
"""

from typing import ClassVar

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers
from twisted.internet.task import Clock

from creditsync._timeouts import EqualTimeouts
from tests.attack.ends import ANY, DIFFERENCES, PAUSES, TIMEOUT, Ends, Expectations


class TimeoutsMachine(RuleBasedStateMachine):
    """
    Everything that is done to L{EqualTimeouts}, also while they expire.

    @cvar steps: The steps that were executed, in all runs.
    """

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.timeouts: EqualTimeouts[int] = EqualTimeouts(
            self.clock, TIMEOUT, self._expired
        )
        self.due: dict[int, float] = {}
        self.expectations = Expectations()
        self.wrong: list[BaseException] = []

    @rule(item=integers(0, 9))
    def startOrEnd(self, item: int) -> None:
        """
        Start an item, or end it.
        """
        if item in self.due:
            self.end(item)
        else:
            self.timeouts.start(item)
            self.due[item] = self.clock.seconds() + TIMEOUT

    @rule(item=integers(0, 9))
    def end(self, item: int) -> None:
        """
        End an item, if it waits.
        """
        waited = self.due.pop(item, None) is not None
        assert self.timeouts.end(item) == waited

    @rule(quarters=PAUSES)
    def advance(self, quarters: int) -> None:
        """
        Advance the clock.
        """
        self._advance(quarters * 0.25)

    @precondition(lambda self: self.due)
    @rule(which=ANY, difference=DIFFERENCES)
    def advanceToDue(self, which: int, difference: float) -> None:
        """
        Advance the clock to when an item is due, or just before or after.
        """
        due = list(self.due.values())[which % len(self.due)]
        self._advance(max(0.0, due + difference - self.clock.seconds()))

    def _advance(self, seconds: float) -> None:
        now = self.clock.seconds() + seconds
        expired = [item for item, due in self.due.items() if due <= now]
        for item in expired:
            del self.due[item]
        ends = Ends(expired, lambda _: True)
        self.expectations.during(ends, self.clock.advance, seconds)

    def _expired(self, item: int) -> None:
        try:
            self.expectations.ended(item, None)
            # An expiring item may start and end others, and itself.
            if item % 3 == 0:
                self.startOrEnd(item)
            elif item % 3 == 1:
                self.startOrEnd((item + 1) % 10)
        except Exception as e:
            # The timeouts would only log it.
            self.wrong.append(e)

    @invariant()
    def counted(self) -> None:
        """
        The right items wait, in order, with one delayed call at most.
        """
        type(self).steps += 1
        if self.wrong:
            raise self.wrong[0]
        assert self.timeouts.waiting() == list(self.due), "others wait"
        assert len(self.clock.getDelayedCalls()) == bool(self.due), "no one call"
        late = any(due <= self.clock.seconds() for due in self.due.values())
        assert not late, "something is late"

    def teardown(self) -> None:
        """
        At rest nothing is left.
        """
        for item in list(self.due):
            self.end(item)
        assert self.clock.getDelayedCalls() == []

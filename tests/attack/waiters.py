"""
Run state machines over the replies that wait, and the timeouts below them.

Hypothesis does to L{Waiters} whatever can be done to them, at whatever moment,
also from within the callback of a reply; a model of a few lines says which
waits have to end by it, in which order and with what. Time moves by binary
fractions, so that "exactly when it is due" means that.

The oldest of those who wait for one order and event type is the one who was
first to say that it does (L{Waiters.expect}): that is the order in which their
operations were reserved and will be booked.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import define
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import integers, sampled_from
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.errors import OutcomeUnknown, SessionEnded
from creditsync.records import Deferral, Operation, TradeEvent
from tests.attack import command
from tests.attack.ends import (
    ANY,
    DIFFERENCES,
    PAUSES,
    TIMEOUT,
    Ends,
    Expectations,
    isFailure,
)
from tests.attack.timeouts import TimeoutsMachine
from tests.figures import Figures

_STEPS_PER_RUN = 60

# Most of it about one order, so that waits meet.
ORDERS = sampled_from([1, 1, 1, 2])
TYPES = sampled_from([0, 0, 0, 1])
OPERATIONS = integers(0, 2)
REACTIONS = sampled_from(
    ["rest", "rest", "rest", "raise", "wait", "match", "abandon", "end all"]
)


@define(eq=False)
class Wait:
    """
    One wait as the model has it.

    @ivar due: When it has to end at the latest.
    @ivar event: The order and type that it waits for, once it does.
    @ivar operation: The operation whose event, or commit, it waits for.
    @ivar reaction: What the callback of its end does.
    """

    waiter: Waiter
    due: float
    reaction: str
    event: tuple[int, int] | None = None
    operation: Operation | None = None
    durable: "Deferred[None] | None" = None


class WaitersMachine(RuleBasedStateMachine):
    """
    Everything that sessions, runtimes and time do to L{Waiters}.

    @cvar steps: The steps that were executed, in all runs.
    """

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.waiters = Waiters(self.clock, TIMEOUT)
        self.operations = [Operation("CreditInSync", 7, 1001, 1, "x") for _ in range(3)]
        # Those that wait, by when they began, and by when they said for what.
        self.live: dict[Wait, None] = {}
        self.expecting: dict[Wait, None] = {}
        self.past: list[Wait] = []
        self.expectations = Expectations()
        self.wrong: list[BaseException] = []
        self.depth = 0

    # What is done.

    @rule(reaction=REACTIONS)
    def wait(self, reaction: str) -> None:
        """
        A request came.
        """
        self._wait(reaction)

    @rule(which=ANY, order=ORDERS, type=TYPES, operation=OPERATIONS)
    def expect(self, which: int, order: int, type: int, operation: int) -> None:
        """
        Its order was reserved.
        """
        undecided = [wait for wait in self.live if wait.waiter.deferral is None]
        if undecided:
            self._expect(undecided[which % len(undecided)], order, type, operation)

    @rule(order=ORDERS, type=TYPES, operation=OPERATIONS, reaction=REACTIONS)
    def waitFor(self, order: int, type: int, operation: int, reaction: str) -> None:
        """
        A request came, and its order was reserved at once.
        """
        self._expect(self._wait(reaction), order, type, operation)

    @rule(which=ANY, order=ORDERS, isFired=integers(0, 5))
    def expectCommit(self, which: int, order: int, isFired: int) -> None:
        """
        An asynchronous command has its order; sometimes it is durable already.
        """
        undecided = [wait for wait in self.live if wait.waiter.deferral is None]
        if not undecided:
            return
        wait = undecided[which % len(undecided)]
        wait.durable = Deferred()
        if isFired == 0:
            wait.durable.callback(None)
        deferral = Deferral(order, 0, self.operations[0], wait.durable)
        ends = self._ending([wait] if isFired == 0 else [], lambda r: r is None)
        self.expectations.during(ends, self.waiters.expect, wait.waiter, deferral)

    @rule(which=ANY, succeeds=sampled_from([True, True, False]))
    def commit(self, which: int, succeeds: bool) -> None:
        """
        A commit ended, perhaps after its wait did.
        """
        open = [
            wait
            for wait in [*self.live, *self.past[-20:]]
            if wait.durable is not None and not wait.durable.called
        ]
        if not open:
            return
        wait = open[which % len(open)]
        durable = wait.durable
        assert durable is not None
        waits = [wait] if wait in self.live else []
        if succeeds:
            ends = self._ending(waits, lambda result: result is None)
            self.expectations.during(ends, durable.callback, None)
            return
        ends = self._ending(waits, isFailure(OutcomeUnknown))
        self.expectations.during(ends, durable.errback, OutcomeUnknown("lost"))

    @precondition(lambda self: self.past)
    @rule(which=ANY, order=ORDERS, type=TYPES, operation=OPERATIONS)
    def expectLate(self, which: int, order: int, type: int, operation: int) -> None:
        """
        An order was reserved when its wait had ended.
        """
        wait = self.past[which % len(self.past)]
        if wait.waiter.deferral is None:
            deferral = Deferral(order, type, self.operations[operation])
            self.waiters.expect(wait.waiter, deferral)

    @rule(order=ORDERS, type=TYPES, operation=OPERATIONS)
    def matchMarked(self, order: int, type: int, operation: int) -> None:
        """
        An event came with its mark, once more or again.
        """
        self._match(order, type, self.operations[operation])

    @rule(order=ORDERS, type=TYPES)
    def matchUnmarked(self, order: int, type: int) -> None:
        """
        An event came without a mark.
        """
        self._match(order, type, None)

    @rule(order=ORDERS, type=TYPES)
    def matchUnknown(self, order: int, type: int) -> None:
        """
        An event came of an operation, or an order, that nobody asked for.
        """
        self._match(order, type, Operation("CreditInSync", 7, 1001, 1, "x"))
        self._match(order + 10, type, None)

    @rule(which=ANY)
    def abandon(self, which: int) -> None:
        """
        A session has gone, whether its wait had ended or not.
        """
        known = [*self.live, *self.past[-3:]]
        if not known:
            return
        wait = known[which % len(known)]
        waits = [wait] if wait in self.live else []
        ends = self._ending(waits, isFailure(SessionEnded))
        self.expectations.during(ends, self.waiters.abandon, wait.waiter)

    @rule(which=ANY)
    def release(self, which: int) -> None:
        """
        A wait was over for another reason, or had ended already.
        """
        known = [*self.live, *self.past[-3:]]
        if not known:
            return
        wait = known[which % len(known)]
        wasLive = wait in self.live
        self._forget([wait])
        assert self.waiters.release(wait.waiter) == wasLive, "it still waited, or not"

    @rule(sure=integers(0, 15))
    def endAll(self, sure: int) -> None:
        """
        The server stops, now and then.
        """
        if sure == 0:
            ends = self._ending(list(self.live), isFailure(OutcomeUnknown))
            self.expectations.during(ends, self.waiters.endAll, "stopping")

    @rule(quarters=PAUSES)
    def advance(self, quarters: int) -> None:
        """
        Time goes by.
        """
        self._advance(quarters * 0.25)

    @precondition(lambda self: self.live)
    @rule(which=ANY, difference=DIFFERENCES)
    def advanceToDue(self, which: int, difference: float) -> None:
        """
        It is the moment at which a wait has to end, or just before or after.
        """
        due = list(self.live)[which % len(self.live)].due
        self._advance(max(0.0, due + difference - self.clock.seconds()))

    # What has to hold.

    @invariant()
    def counted(self) -> None:
        """
        The tables have who waits and nobody else, and one call is enough.
        """
        type(self).steps += 1
        if self.wrong:
            raise self.wrong[0]
        assert len(self.waiters) == len(self.live), "others wait"
        tabled = [
            each for found in self.waiters._byEvent.values() for each in _of(found)
        ]
        assert len(tabled) == len(self.expecting), "the tables have too many or too few"
        expecting = {wait.waiter for wait in self.expecting}
        assert set(tabled) == expecting, "the tables have others"
        calls = self.clock.getDelayedCalls()
        assert len(calls) == bool(self.live), "a delayed call too many or too few"
        if self.live:
            first = next(iter(self.live))
            assert first.due > self.clock.seconds(), "a wait is late"
            assert calls[0].getTime() <= first.due, "a wait will be late"

    def teardown(self) -> None:
        """
        At rest nothing is left.
        """
        while self.live and not self.wrong:
            self._advance(TIMEOUT)
        if self.wrong:
            return
        assert self.waiters._byEvent == {}, "at rest a table is not empty"
        assert self.clock.getDelayedCalls() == [], "at rest a delayed call is left"

    # How it is done.

    def _wait(self, reaction: str) -> Wait:
        waiter = self.waiters.wait("credit-req-1001", self)
        wait = Wait(waiter, self.clock.seconds() + TIMEOUT, reaction)
        waiter.ended.addBoth(self._ended, wait)
        self.live[wait] = None
        return wait

    def _expect(self, wait: Wait, order: int, type: int, operation: int) -> None:
        wait.event, wait.operation = (order, type), self.operations[operation]
        self.expecting[wait] = None
        deferral = Deferral(order, type, wait.operation)
        self.waiters.expect(wait.waiter, deferral)

    def _match(self, order: int, type: int, operation: Operation | None) -> None:
        same = [wait for wait in self.expecting if wait.event == (order, type)]
        if operation is None:
            same = same[:1]
        else:
            same = [wait for wait in same if wait.operation is operation]
        data = b"%d" % type
        ends = self._ending(same, lambda result: result == data)
        event = TradeEvent(type, {"order": order}, operation)
        self.expectations.during(ends, self.waiters.match, event, data)

    def _advance(self, seconds: float) -> None:
        now = self.clock.seconds() + seconds
        expired = [wait for wait in self.live if wait.due <= now]
        ends = self._ending(expired, isFailure(OutcomeUnknown))
        self.expectations.during(ends, self.clock.advance, seconds)

    def _ending(self, waits: list[Wait], check: Callable[[object], bool]) -> Ends:
        self._forget(waits)
        return Ends(list(waits), check)

    def _forget(self, waits: Sequence[Wait]) -> None:
        for wait in waits:
            if self.live.pop(wait, wait) is None:
                self.past.append(wait)
            self.expecting.pop(wait, None)

    def _ended(self, result: object, wait: Wait) -> None:
        """
        The callback of a reply: judge its end, and react to it.
        """
        try:
            self.expectations.ended(wait, result)
            if self.depth < 3:
                self.depth += 1
                self._react(wait)
                self.depth -= 1
        except Exception as e:
            # The Deferred would keep it to itself.
            self.wrong.append(e)
        if wait.reaction == "raise":
            wait.waiter.ended.addErrback(lambda _: None)
            raise ZeroDivisionError("the callback of a reply has failed")

    def _react(self, wait: Wait) -> None:
        order, type = wait.event or (1, 0)
        if wait.reaction == "wait":
            self._expect(self._wait("match"), order, type, 0)
        elif wait.reaction == "match":
            self._match(order, type, None)
        elif wait.reaction == "abandon":
            self.abandon(0)
        elif wait.reaction == "end all":
            self.endAll(0)


def _of(found: Any) -> list[Waiter]:
    """
    Who waits for one event, as the tables have it.
    """
    if isinstance(found, Waiter):
        return [found]
    byAge = list(found._byAge)
    byOperation = [each for same in found._byOperation.values() for each in same]
    assert byAge, "a table that nobody is in"
    assert set(byAge) == set(byOperation), "two tables differ"
    return byAge


MACHINES = (WaitersMachine, TimeoutsMachine)


def run(machine: Any, steps: int, *phases: Phase) -> None:
    """
    Run a machine for about so many steps more.

    @param phases: Hypothesis's; L{Phase.shrink} makes what it finds short.
    @raise Exception: An invariant is broken; its notes are the steps to it.
    """
    enough = machine.steps + steps
    while machine.steps < enough:
        left = enough - machine.steps
        examples = min(2000, left // _STEPS_PER_RUN + 1)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=_STEPS_PER_RUN,
                deadline=None,
                database=None,
                phases=phases,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the machines, and tell what came of it.
    """
    made = command.parser(__doc__)
    made.add_argument(
        "--steps", type=int, default=10_000, help="of the waiters [%(default)s]"
    )
    options = command.begin(made, arguments)
    started = time.monotonic()
    violations = []
    for machine, steps in zip(
        MACHINES, (options.steps, options.steps // 4), strict=True
    ):
        try:
            run(machine, steps, Phase.generate, Phase.shrink)
        except Exception as e:
            print(*getattr(e, "__notes__", ()), sep="\n")
            violations.append(f"{machine.__name__}: {e!r}")
    seconds = time.monotonic() - started
    figures = Figures()
    figures["steps of the waiters"] = WaitersMachine.steps
    figures["steps of the timeouts"] = TimeoutsMachine.steps
    figures["seconds"] = round(seconds, 1)
    return command.end(
        options, figures, violations, f"{WaitersMachine.steps:,} steps of the waiters"
    )


if __name__ == "__main__":
    sys.exit(main())

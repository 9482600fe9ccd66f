"""
Run state machines over the replies that wait, and the timeouts below them.

Hypothesis does to L{Waiters} whatever can be done to them, at whatever moment,
also while a session is told of a reply; a model of a few lines says which
waits have to end by it, in which order and with what. Time moves by binary
fractions, so that "exactly when it is due" means that.

The oldest of those who wait for one order and event type is the one who was
first whose order was known (L{Waiters.add}, L{Waiters.reserved}): that is the order
in which their operations were reserved and will be booked.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from unittest import mock

from attrs import define
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import booleans, integers, lists, sampled_from, tuples
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from creditsync._conversation.crowds import Crowd
from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.errors import OutcomeUnknown, SessionEnded
from creditsync.records import Operation, Reservation, Trade, TradeEvent
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

# Mostly about one order, so that waits meet.
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
    @ivar reaction: What the session does when it is told of the end.
    @ivar isOpen: Whether its commit has not ended yet, if it waits for one.
    """

    waiter: Waiter
    due: float
    reaction: str
    event: tuple[int, int] | None = None
    operation: Operation | None = None
    isOpen: bool = False


class _Durable(Reservation):
    """
    The reservation of an operation that is on disk already.
    """

    def whenDurable(self) -> "Deferred[None]":
        """
        See L{Reservation.whenDurable}.
        """
        return succeed(None)


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
        # The pending waits, by when they began, and by when their order was
        # known.
        self.live: dict[Wait, None] = {}
        self.expecting: dict[Wait, None] = {}
        self.past: list[Wait] = []
        self.waits: dict[Waiter, Wait] = {}
        self.reserved: list[Reservation] = []
        self.expectations = Expectations()
        self.wrong: list[BaseException] = []
        self.depth = 0

    # What is done.

    @rule(reaction=REACTIONS)
    def wait(self, reaction: str) -> None:
        """
        A request comes.
        """
        self.waiters.add(self._wait(reaction).waiter)

    @rule(which=ANY, order=ORDERS, type=TYPES, operation=OPERATIONS)
    def expect(self, which: int, order: int, type: int, operation: int) -> None:
        """
        Its order is reserved.
        """
        undecided = [wait for wait in self.live if wait.waiter.reservation is None]
        if undecided:
            wait = undecided[which % len(undecided)]
            self._expect(wait, order, type, operation)
            self.waiters.reserved(wait.waiter)

    @rule(order=ORDERS, type=TYPES, operation=OPERATIONS, reaction=REACTIONS)
    def waitFor(self, order: int, type: int, operation: int, reaction: str) -> None:
        """
        A request comes, and its order is reserved at once.
        """
        wait = self._wait(reaction)
        self._expect(wait, order, type, operation)
        self.waiters.add(wait.waiter)

    @rule(which=ANY, reaction=REACTIONS)
    def waitForTheSame(self, which: int, reaction: str) -> None:
        """
        A request is repeated under its key, and gets the same reservation.
        """
        if self.reserved:
            self._repeat(self.reserved[which % len(self.reserved)], reaction)

    @rule(order=ORDERS, isDurable=booleans(), reaction=REACTIONS)
    def waitForCommit(self, order: int, isDurable: bool, reaction: str) -> None:
        """
        An asynchronous command comes, and its order is reserved at once;
        sometimes it is durable already.
        """
        wait = self._wait(reaction)
        self._commits(wait, order, isDurable, self.waiters.add)

    @rule(which=ANY, order=ORDERS, isFired=integers(0, 5))
    def expectCommit(self, which: int, order: int, isFired: int) -> None:
        """
        An asynchronous command gets its order; sometimes it is durable
        already.
        """
        undecided = [wait for wait in self.live if wait.waiter.reservation is None]
        if undecided:
            wait = undecided[which % len(undecided)]
            self._commits(wait, order, isFired == 0, self.waiters.reserved)

    @rule(which=ANY, succeeds=sampled_from([True, True, False]))
    def commit(self, which: int, succeeds: bool) -> None:
        """
        A commit ends, perhaps after its wait did.
        """
        open = [wait for wait in [*self.live, *self.past[-20:]] if wait.isOpen]
        if not open:
            return
        wait = open[which % len(open)]
        wait.isOpen = False
        reservation = wait.waiter.reservation
        assert reservation is not None
        waits = [wait] if wait in self.live else []
        if succeeds:
            ends = self._ending(waits, lambda result: result is None)
            self.expectations.during(ends, reservation.booked)
            return
        ends = self._ending(waits, isFailure(OutcomeUnknown))
        lost = Failure(OutcomeUnknown("lost"))
        self.expectations.during(ends, reservation.lost, lost)

    @precondition(lambda self: self.past)
    @rule(which=ANY, order=ORDERS, type=TYPES, operation=OPERATIONS)
    def expectLate(self, which: int, order: int, type: int, operation: int) -> None:
        """
        An order is reserved after its wait has ended.
        """
        wait = self.past[which % len(self.past)]
        if wait.waiter.reservation is None:
            wait.waiter.reservation = self._reservation(order, type, operation)
            self.waiters.reserved(wait.waiter)

    @rule(order=ORDERS, type=TYPES, operation=OPERATIONS)
    def matchMarked(self, order: int, type: int, operation: int) -> None:
        """
        An event with a mark comes, perhaps again.
        """
        self._match(order, type, self.operations[operation])

    @rule(which=ANY)
    def matchReservation(self, which: int) -> None:
        """
        An event comes that is a reservation, perhaps again.
        """
        if self.reserved:
            self._matchEvents([self.reserved[which % len(self.reserved)]])

    @rule(kinds=lists(tuples(ANY, ORDERS, TYPES, integers(0, 3)), max_size=4))
    def matchBatch(self, kinds: list[tuple[int, int, int, int]]) -> None:
        """
        Several events come together, of all kinds.
        """
        events: list[TradeEvent] = []
        for which, order, type, operation in kinds:
            if which % 2 and self.reserved:
                events.append(self.reserved[which % len(self.reserved)])
            else:
                of = self.operations[operation] if operation < 3 else None
                events.append(TradeEvent(type, {"order": order}, of))
        # What one of them sets off would change what the next one has to end.
        rest = {wait: wait.reaction for wait in self.live}
        for wait in rest:
            if wait.reaction != "raise":
                wait.reaction = "rest"
        self._matchEvents(events)
        for wait, reaction in rest.items():
            wait.reaction = reaction

    @rule(order=ORDERS, type=TYPES)
    def matchUnmarked(self, order: int, type: int) -> None:
        """
        An event without a mark comes.
        """
        self._match(order, type, None)

    @rule(order=ORDERS, type=TYPES)
    def matchUnknown(self, order: int, type: int) -> None:
        """
        An event comes for an operation, or an order, that was never requested.
        """
        self._match(order, type, Operation("CreditInSync", 7, 1001, 1, "x"))
        self._match(order + 10, type, None)

    @rule(which=ANY)
    def abandon(self, which: int) -> None:
        """
        A session ends, whether its wait has ended or not.
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
        A wait ends for another reason, or has ended already.
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
        Time passes.
        """
        self._advance(quarters * 0.25)

    @precondition(lambda self: self.live)
    @rule(which=ANY, difference=DIFFERENCES)
    def advanceToDue(self, which: int, difference: float) -> None:
        """
        Time passes to when a wait must end, or just before or after.
        """
        due = list(self.live)[which % len(self.live)].due
        self._advance(max(0.0, due + difference - self.clock.seconds()))

    # What has to hold.

    @invariant()
    def counted(self) -> None:
        """
        The tables contain exactly the pending waits, with one delayed call at
        most.
        """
        type(self).steps += 1
        if self.wrong:
            raise self.wrong[0]
        assert len(self.waiters) == len(self.live), "others wait"
        live = [wait.waiter for wait in self.live]
        assert list(self.waiters) == live, "the table has another order"
        assert [each.since for each in live] == sorted(each.since for each in live)
        alone = [each for key, each in self.waiters.entries.items() if key is not each]
        crowds = [
            each for crowd in self.waiters._crowds.values() for each in _of(crowd)
        ]
        tabled = alone + crowds
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
        assert self.waiters._crowds == {}, "at rest a table is not empty"
        assert self.clock.getDelayedCalls() == [], "at rest a delayed call is left"

    # How it is done.

    def _wait(self, reaction: str) -> Wait:
        """
        A wait that is still to be added.
        """
        now = self.clock.seconds()
        waiter = Waiter("credit-req-1001", self, "CreditInSync", now)  # type: ignore[arg-type]
        wait = self.waits[waiter] = Wait(waiter, now + TIMEOUT, reaction)
        self.live[wait] = None
        return wait

    def _expect(self, wait: Wait, order: int, type: int, operation: int) -> None:
        wait.event, wait.operation = (order, type), self.operations[operation]
        self.expecting[wait] = None
        wait.waiter.reservation = self._reservation(order, type, operation)

    def _repeat(self, reservation: Reservation, reaction: str) -> None:
        wait = self._wait(reaction)
        wait.event = reservation.order, reservation.type
        wait.operation = reservation.operation  # type: ignore[assignment]
        self.expecting[wait] = None
        wait.waiter.reservation = reservation
        self.waiters.add(wait.waiter)

    def _reservation(self, order: int, type: int, operation: int) -> Reservation:
        trade = Trade(order, 1001, 7, 3, 1, "x", 0, 0, 0)
        reservation = Reservation(type, trade, self.operations[operation])
        self.reserved = [*self.reserved[-5:], reservation]
        return reservation

    def _commits(
        self, wait: Wait, order: int, isDurable: bool, call: Callable[[Waiter], None]
    ) -> None:
        kind = _Durable if isDurable else Reservation
        trade = Trade(order, 1001, 7, 3, 1, "x", 0, 0, 0)
        wait.waiter.reservation = kind(0, trade, self.operations[0])
        wait.waiter.response = {"accepted": True}
        wait.isOpen = not isDurable
        ends = self._ending([wait] if isDurable else [], lambda r: r is None)
        self.expectations.during(ends, call, wait.waiter)

    def _match(self, order: int, type: int, operation: Operation | None) -> None:
        self._matchEvents([TradeEvent(type, {"order": order}, operation)])

    def _matchEvents(self, events: list[TradeEvent]) -> None:
        waits: list[Wait] = []
        wanted: list[bytes] = []
        encoded = [b"%d" % number for number in range(len(events))]
        for event, data in zip(events, encoded, strict=True):
            place, operation = (event.order, event.type), event.operation
            same = [
                wait
                for wait in self.expecting
                if wait.event == place and wait not in waits
            ]
            if operation is None:
                same = same[:1]
            else:
                same = [wait for wait in same if wait.operation is operation]
            waits += same
            wanted += [data] * len(same)
        ends = self._ending(waits, lambda result: result == wanted.pop(0))
        self.expectations.during(ends, self.waiters.match, events, encoded)

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

    def waitEnded(self, waiter: Waiter, data: bytes | None) -> None:
        """
        See L{ISession.waitEnded}.
        """
        self._ended(self.waits[waiter], data)

    def waitFailed(self, waiter: Waiter, why: Failure) -> None:
        """
        See L{ISession.waitFailed}.
        """
        self._ended(self.waits[waiter], why)

    def _ended(self, wait: Wait, result: object) -> None:
        """
        Check the end of a wait, and react to it.
        """
        try:
            assert not wait.waiter.called, "it fired before its session was told"
            self.expectations.ended(wait, result)
            if self.depth < 3:
                self.depth += 1
                self._react(wait)
                self.depth -= 1
        except Exception as e:
            # The waiter would log it.
            self.wrong.append(e)
        if wait.reaction == "raise":
            raise ZeroDivisionError("a session has failed")

    def _react(self, wait: Wait) -> None:
        order, type = wait.event or (1, 0)
        if wait.reaction == "wait":
            begun = self._wait("match")
            self._expect(begun, order, type, 0)
            self.waiters.add(begun.waiter)
        elif wait.reaction == "match":
            self._match(order, type, None)
        elif wait.reaction == "abandon":
            self.abandon(0)
        elif wait.reaction == "end all":
            self.endAll(0)


def _of(crowd: Crowd) -> list[Waiter]:
    """
    The waits for one event, according to the crowds.
    """
    byAge = list(crowd.byAge)
    byOperation = [each for same in crowd.byOperation.values() for each in same]
    assert byAge, "a crowd that nobody is in"
    assert len(byAge) == len(byOperation), "two tables differ"
    assert set(byAge) == set(byOperation), "two tables differ"
    return byAge


MACHINES = (WaitersMachine, TimeoutsMachine)


def run(machine: Any, steps: int, *phases: Phase) -> None:
    """
    Run a machine for about so many more steps.

    @param phases: Hypothesis's; L{Phase.shrink} shortens what it finds.
    @raise Exception: An invariant is broken; its notes are the steps to it.
    """
    # Sessions that fail on purpose are logged.
    with mock.patch("creditsync._conversation.waiter._log"):
        _run(machine, machine.steps + steps, phases)


def _run(machine: Any, enough: int, phases: Sequence[Phase]) -> None:
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
    Run the machines, and print the result.
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

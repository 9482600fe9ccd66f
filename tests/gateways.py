"""
A gateway in front of a L{Platform<tests.platforms.Platform>}, for tests.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from attrs import Factory, define, evolve
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._rulebook import RuleBook
from creditsync.codes import (
    OP_BALANCE_IN,
    OP_BALANCE_OUT,
    OP_CREDIT_IN,
    OP_CREDIT_OUT,
)
from creditsync.errors import OutcomeUnknown, Refusal
from creditsync.events import TradeEvents
from creditsync.gateway._intents import Alarm, Intent
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._tags import Tags
from creditsync.records import Deletion, Operation, Reservation, Trade, TradeEvent
from tests.platforms import NOW, Link, Platform

ONE = 100_000_000

_CMDS = {
    "BalanceIn": OP_BALANCE_IN,
    "CreditIn": OP_CREDIT_IN,
    "BalanceOut": OP_BALANCE_OUT,
    "CreditOut": OP_CREDIT_OUT,
}


def operation(
    amount: int = 300,
    login: int = 1001,
    *,
    key: str | None = None,
    order: int = 0,
    comment: str = "gift",
    method: str = "CreditIn",
    openTime: int | None = None,
    closeTime: int | None = None,
) -> Operation:
    """
    A request of principal 7.
    """
    return Operation(
        f"{method}Sync",
        _CMDS[method],
        login,
        amount * ONE,
        comment,
        order,
        openTime,
        closeTime,
        7,
        key,
        False,
        1,
    )


def deletion(order: int, key: str | None = None) -> Deletion:
    """
    A request of principal 7 to delete a credit.
    """
    return Deletion("DeleteCreditSync", order, frozenset({7, 9}), 7, key, role=1)


@define(eq=False, slots=False)
class Held:
    """
    A log, with another class's way to write, whose writes end when the test calls
    L{release}, while it is held.

    @ivar isHeld: Whether it is.
    """

    isHeld: bool = False
    _writes: "list[tuple[Any, Deferred[None]]]" = Factory(list)

    def write(
        self,
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
        alarms: Sequence[Alarm] = (),
    ) -> "Deferred[None]":
        """
        See L{IIntentLog<creditsync.gateway._intents.IIntentLog>}. What is written is
        what the intents are now.
        """
        copies = {evolve(each): each for each in intents}
        done: Deferred[None] = Deferred()
        self._writes.append(((copies, reservations, mark, alarms), done))
        if not self.isHeld:
            self.release()
        return done

    def release(self) -> None:
        """
        Let the oldest write end.
        """
        if self._writes:
            (copies, reservations, mark, alarms), done = self._writes.pop(0)
            self.writeNow(list(copies), reservations, mark, alarms)
            for copy, original in copies.items():
                original.place = copy.place
            done.callback(None)

    def finish(self) -> None:
        """
        Let the oldest write end on disk, without anybody's learning of it.
        """
        if self._writes:
            write, _ = self._writes[0]
            self._writes[0] = write, Deferred()
            self.release()

    def lose(self) -> None:
        """
        Lose what is not written yet: the process is killed.
        """
        self._writes.clear()

    def writeNow(self, *write: Any) -> None:
        """
        Write.
        """
        raise NotImplementedError


@define(eq=False)
class HeldIntentLog(Held, MemoryIntentLog):
    """
    A log in memory that can be held.
    """

    def writeNow(self, *write: Any) -> None:
        """
        See L{Held.writeNow}.
        """
        MemoryIntentLog.write(self, *write)


class GatewayTestCase(SynchronousTestCase):
    """
    A test with a gateway that is connected.
    """

    isAutomatic = True
    way = "one-shot"
    makeLog: Callable[[], Any] = HeldIntentLog
    isTagged = False
    longest = 255

    def setUp(self) -> None:
        """
        Start the gateway.
        """
        self.clock = Clock()
        self.platform = Platform(self.now)
        self.log = type(self).makeLog()
        self.published: list[TradeEvent] = []
        self.alarms: list[str] = []
        self.begin()

    def begin(self) -> None:
        """
        Start a gateway on the log that there is.
        """
        self.link = Link(self.clock, self.platform, self.isAutomatic)
        events = TradeEvents()
        events.addObserver(self.published.extend)
        self.gateway = GatewayRuntime(
            self.clock,
            self.log,
            self.link,
            events,
            now=self.now,
            maxQueued=100,
            way=self.way,
            alarm=self.alarms.append,
            tags=Tags(self.isTagged, self.longest),
            rules=self.makeRules(),
        )
        self.successResultOf(self.gateway.startService())
        self.turn()

    def makeRules(self) -> RuleBook | None:
        """
        The rules of the site, or L{None} for none.
        """
        return None

    def now(self) -> float:
        """
        The UNIX time.
        """
        return NOW + self.clock.seconds()

    def turn(self, times: int = 12) -> None:
        """
        Let the reactor turn some times.
        """
        for _ in range(times):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """
        Let time pass, in small steps.
        """
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(0.5, end - self.clock.seconds()))
            self.turn(3)

    def kill(self) -> None:
        """
        End the gateway without a word.
        """
        self.link.abandon()
        self.log.lose()
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()

    def request(self, asked: Operation | Deletion) -> "Deferred[Reservation]":
        """
        Have a client request something, and let the gateway do what it can at once.
        """
        reserved = maybeDeferred(self.gateway.submit, asked)
        self.addCleanup(reserved.addErrback, lambda why: why.trap(OutcomeUnknown))
        self.turn()
        return reserved

    def refusalOf(self, reserved: "Deferred[Reservation]") -> Refusal:
        """
        What a request was refused with.
        """
        why: Failure = self.failureResultOf(reserved)
        assert isinstance(why.value, Refusal), why
        return why.value

    def money(self) -> list[tuple[int, int, Any]]:
        """
        What the platform has booked: order, login and amount.
        """
        trades = self.platform.trades
        return [
            (order, trades[order]["login"], int(trades[order]["profit"]))
            for order in self.platform.booked
        ]

    def events(self) -> list[tuple[int, int, int, int]]:
        """
        What was published since this was called last: the type, the order, the state
        and the amount.
        """
        found = []
        for event in self.published:
            assert isinstance(event.data, Trade)
            trade = event.data
            found.append((event.type, trade.order, trade.state, trade.profit // ONE))
        self.published.clear()
        return found

    def only(self) -> Intent:
        """
        The one intent whose outcome is not known.
        """
        [found] = self.log.unfinished()
        return found

    def states(self) -> list[str]:
        """
        The states of the intents whose outcome is not known.
        """
        courses = self.gateway.operations.courses
        return [each.intent.state.value for each in courses if each.intent.isOpen]

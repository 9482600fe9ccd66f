"""
A foreign trading runtime, and its events.

It reserves at once or later, refuses, or fails. Its events come at any time:
before or after the timeout, twice, never, in another order than the
operations, with or without the mark of their operation.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._failing import FailureNotifier
from creditsync.errors import IncorrectOrder, NotFound
from creditsync.events import TradeEvents
from creditsync.interfaces import IAccountGroups, ITradingRuntime
from creditsync.records import Deletion, Operation, Reservation, Trade, TradeEvent
from tests.family import ADD, BOOKED, DELETE, DELETED, REQUESTED, UPDATE, eventData
from tests.simulation.history import Moment, committed
from tests.simulation.world import World

# Seconds for which an account is being moved.
_MOVING = 0.05


@implementer(ITradingRuntime)
class ForeignRuntime:
    """
    A runtime that keeps its own books.

    @ivar reserved: For each operation, when its order was reserved, the type
        of its event, and the order.
    @ivar moved: Told of each move of an account.
    """

    moved: Callable[[int, str, "Deferred[None]"], "Deferred[None]"]

    def __init__(self, world: World, isMarked: bool) -> None:
        self._world = world
        self._random = world.generator()
        self._isMarked = isMarked
        self._nextOrder = 5_000_001
        self._failing = FailureNotifier()
        self._latest: dict[int, tuple[int, Trade]] = {}
        self._booked: dict[int, Trade] = {}
        self.events = TradeEvents()
        self.reserved: dict[Operation | Deletion, tuple[Moment, int, int]] = {}

    def submit(
        self, operation: Operation | Deletion
    ) -> "Reservation | Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.
        """
        world, random = self._world, self._random
        if not world.mayHappen("reserved-later") or random.random() < 0.5:
            reservation = self._reserve(operation)
            world.later(self._delay(), self._book, reservation)
            return reservation
        world.happens("reserved-later")
        later: Deferred[Reservation] = Deferred()
        world.later(random.random() * 0.5, self._reserveLater, operation, later)
        return later

    def _delay(self) -> float:
        random = self._random
        if self._chance("late-event"):
            return 5.0 + random.random() * 3.0
        return random.choice((0.0, random.random() * 0.01, random.random()))

    def _chance(self, fault: str, chance: float = 0.05) -> bool:
        if not self._world.mayHappen(fault) or self._random.random() >= chance:
            return False
        self._world.happens(fault)
        return True

    def _reserveLater(
        self, operation: Operation | Deletion, later: "Deferred[Reservation]"
    ) -> None:
        if self._chance("reservation-fails"):
            later.errback(ConnectionError("the way to the trading core is broken"))
            return
        try:
            if self._chance("refused-later"):
                raise IncorrectOrder("the trading core does not want it")
            reservation = self._reserve(operation)
        except (IncorrectOrder, NotFound) as refusal:
            later.errback(refusal)
            return
        later.callback(reservation)
        delay = self._delay()
        if delay:
            self._world.later(delay, self._book, reservation)
        else:
            # The waiter must be registered by now.
            self._book(reservation)

    def _reserve(self, operation: Operation | Deletion) -> Reservation:
        eventType, trade = self._made(operation)
        self._latest[trade.order] = eventType, trade
        moment = self._world.now, self._world.turn
        self.reserved[operation] = moment, eventType, trade.order
        return Reservation(eventType, trade, operation)

    def _made(self, operation: Operation | Deletion) -> tuple[int, Trade]:
        now = int(self._world.wall())
        found = self._latest.get(operation.order)
        if isinstance(operation, Deletion):
            if found is None or found[0] == DELETE:
                raise NotFound(f"there is no order {operation.order}")
            if found[1].cmd not in operation.cmds:
                raise IncorrectOrder("it is of another kind")
            return DELETE, replace(found[1], state=DELETED, timestamp=now)
        if found is None:
            order, self._nextOrder = self._nextOrder, self._nextOrder + 1
            return ADD, self._trade(order, operation, now)
        if found[0] == DELETE or (found[1].login, found[1].cmd) != (
            operation.login,
            operation.cmd,
        ):
            raise IncorrectOrder("it is of another kind, or deleted")
        return UPDATE, self._trade(operation.order, operation, now)

    def _trade(self, order: int, operation: Operation, now: int) -> Trade:
        return Trade(
            order,
            operation.login,
            operation.cmd,
            BOOKED,
            operation.amount,
            operation.comment,
            now if operation.openTime is None else operation.openTime,
            now if operation.closeTime is None else operation.closeTime,
            now,
        )

    def _book(self, reservation: Reservation) -> None:
        if self._chance("missing-event"):
            return
        trade = reservation.trade
        self._booked[trade.order] = trade
        operation = reservation.operation if self._isMarked else None
        if operation is None:
            self._world.happens("unmarked-event")
        events = [TradeEvent(reservation.eventType, self._data(trade), operation)]
        if self._chance("unasked-event"):
            order, self._nextOrder = self._nextOrder, self._nextOrder + 1
            unasked = self._data(replace(trade, order=order))
            events.insert(0, TradeEvent(ADD, unasked))
        if self._chance("unwritable-event"):
            events.insert(0, TradeEvent(ADD, {"order": 0, "unwritable": object()}))
        if self._chance("repeated-event"):
            delay = self._random.random()
            self._world.later(delay, self.events.publish, events)
        self.events.publish(events)
        reservation.booked()

    def _data(self, trade: Trade) -> Trade | Mapping[str, Any]:
        """
        A trade as our record, or as the members on the wire.
        """
        return trade if self._random.random() < 0.5 else eventData(committed(trade))

    def fail(self) -> None:
        """
        Fail for the running server.
        """
        failing, self._failing = self._failing, FailureNotifier()
        failing.fail(Failure(ConnectionError("the trading core is gone")))

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        found = self._latest.get(order)
        if found is None or self._booked.get(order) is found[1]:
            return succeed(self._booked.get(order))
        return succeed(replace(found[1], state=REQUESTED[found[0]]))

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}.
        """
        return succeed(None)

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failing.whenFailed()


@implementer(IAccountGroups)
class GroupingRuntime(ForeignRuntime):
    """
    A foreign runtime whose accounts have groups.
    """

    def __init__(self, world: World, isMarked: bool, groups: Mapping[int, str]) -> None:
        super().__init__(world, isMarked)
        self._groups = dict(groups)

    def groupOf(self, login: int) -> str:
        """
        See L{IAccountGroups.groupOf}.
        """
        return self._groups.get(login, "")

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{IAccountGroups.setGroup}.
        """
        moved: Deferred[None] = Deferred()
        # Always as long, so that none overtakes another.
        self._world.later(_MOVING, self._move, login, group, moved)
        return self.moved(login, group, moved)

    def _move(self, login: int, group: str, moved: "Deferred[None]") -> None:
        self._groups[login] = group
        moved.callback(None)

"""
The checks of successful replies: what they must contain, and whether it is
true.
"""

from typing import Any

from attrs import define

from tests.family import (
    ADD,
    BOOKED,
    DECLINED,
    REQUESTED,
    WAITS,
    acceptedData,
    eventData,
)
from tests.simulation.audience import Audience
from tests.simulation.blaming import blame
from tests.simulation.causes import Causes
from tests.simulation.history import Attempt, Booking, History, Intent
from tests.simulation.lookups import Lookups
from tests.simulation.permits import Permits
from tests.simulation.places import Places
from tests.simulation.world import Violation

# The state in the reply to an asynchronous command about a finance request, by that
# of its trade: an approval is under way like a new order.
_ACCEPTED = {WAITS: WAITS, BOOKED: REQUESTED[ADD], DECLINED: DECLINED}


@define(eq=False)
class Answers:
    """
    The checks of status 200, and of what was booked after any other.
    """

    _history: History
    _causes: Causes
    _audience: Audience
    _places: Places
    _permits: Permits
    _lookups: Lookups

    def checkBookings(self) -> None:
        """
        Check that nothing was booked that was refused, and that each order has
        one meaning.
        """
        for intent in self._history.intents:
            if intent.isFinance:
                self._checkIntent(intent)
        self._checkOrders()

    def checkAnswer(self, attempt: Attempt) -> None:
        reply, intent = attempt.reply, attempt.intent
        assert reply is not None
        data = reply.value["data"]
        isRight: bool | None
        if intent.command.endswith("ubscribe"):
            isRight = self._isSubscribed(attempt, dict(data))
        elif intent.command == "HealthCheck":
            isRight = self._isHealth(attempt, dict(data))
        elif intent.isMove:
            isRight = data == intent.data and self._permits.isMoved(attempt)
        else:
            isRight = self._lookups.isTrue(attempt, dict(data))
        if isRight is None:
            if not self._history.isForeign:
                self._checkBooked(attempt)
        elif not isRight:
            raise blame("answer", "this is not the answer", attempt)

    def _isSubscribed(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        isHead = self._places.isHead(attempt, data.pop("cursor", None))
        if attempt.intent.resumes and not self._places.mayResume(attempt):
            return False
        return isHead and data == {"chanels": ["trade:event"]}

    def _isHealth(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        isHead = self._places.isHead(attempt, data.pop("cursor", None))
        names = ["status", "version", "uptime", "pending"]
        isRight = list(data) == names and data["pending"] <= self._waiting(attempt)
        return isHead and isRight

    def _waiting(self, attempt: Attempt) -> int:
        """
        How many requests may have been pending when this one was answered:
        none is pending on a closed connection.
        """
        assert attempt.delivered is not None and attempt.reply is not None
        first, last = attempt.delivered, attempt.reply.written
        return sum(
            each.delivered is not None
            and each.delivered <= last
            and (each.reply is None or each.reply.written >= first)
            for talk in self._history.talks
            if talk.generation == attempt.talk.generation and talk.closed >= first
            for each in talk.attempts
        )

    def _taken(self, intent: Intent) -> Booking | None:
        """
        The booking of an intent that was taken for that of an equal one. When the
        ledger was compared, none of their replies had been read yet.
        """
        for other in self._history.intents if intent.isOfOrder else ():
            isEqual = (
                other.isOfOrder
                and other.data == intent.data
                and (other.command, other.key) == (intent.command, intent.key)
                and other.token.principal == intent.token.principal
            )
            isTold = any(attempt.status == 200 for attempt in other.attempts)
            if isEqual and other.bookings and not isTold:
                intent.bookings, other.bookings = other.bookings, []
                intent.bookings[0].intent = intent
                return intent.bookings[0]
        return None

    def _checkBooked(self, attempt: Attempt) -> None:
        """
        A 200 is sent once the operation is on disk, with the booked data.
        """
        reply, intent = attempt.reply, attempt.intent
        assert reply is not None
        booking = intent.bookings[0] if intent.bookings else self._taken(intent)
        if booking is None or booking.applied is None:
            raise blame("durability", "this was never booked", attempt)
        if booking.applied > reply.written:
            raise blame("reply-after-commit", "this was not on disk yet", attempt)
        isReplay = reply.value.get("replayed", False)
        if isReplay and not any(True for _ in self._causes.keysOf(intent)):
            raise blame("answer", "nothing was there to be replayed", attempt)
        if intent.isSync:
            self._checkTrade(attempt, booking)
        else:
            accepted = acceptedData(booking.type, booking.trade)
            if booking.isOfRequests:
                accepted["state"] = _ACCEPTED[booking.trade.state]
            if reply.value["data"] != accepted:
                raise blame("answer", f"accepted is {accepted}", attempt)
        published = booking.published
        position = -1
        if published is not None:
            got = self._audience.positions
            position = got.get((attempt.talk, published), -1)
        if not isReplay and position > reply.position:
            raise blame("event-before-reply", "the reply came first", attempt)

    def _checkTrade(self, attempt: Attempt, booking: Booking) -> None:
        """
        A C{*Sync} reply has the data of its own event.
        """
        reply = attempt.reply
        assert reply is not None
        raw = booking.dataText
        if raw is not None and raw != reply.dataText:
            raise blame("answer", f"the event has {raw!r}", attempt)
        data = dict(reply.value["data"])
        self._places.checkEvent(booking, data.pop("cursor", None), attempt.extID)
        if data != eventData(booking.trade):
            raise blame("answer", f"booked is {booking.trade}", attempt)

    def _checkIntent(self, intent: Intent) -> None:
        """
        A booked operation was not refused each time it was requested.
        """
        for booking in intent.bookings:
            if not any(self._mayHaveBooked(each, booking) for each in intent.attempts):
                raise blame("nothing-happened", "it is booked", intent.attempts[0])

    def _mayHaveBooked(self, attempt: Attempt, booking: Booking) -> bool:
        if attempt.delivered is None or attempt.delivered > booking.handed:
            return False
        return attempt.status in (0, 200, 504)

    def _checkOrders(self) -> None:
        """
        An order number has one meaning, even if it was only sent in a 504.
        """
        owners: dict[int, Intent] = {}
        for intent in self._history.intents:
            for order in self._newOrders(intent):
                owner = owners.setdefault(order, intent)
                if owner is not intent:
                    raise Violation(
                        "order-reused",
                        f"order {order} was told for {owner.data} and {intent.data}",
                        (str(order),),
                    )

    def _newOrders(self, intent: Intent) -> set[int]:
        """
        The numbers of the orders that were made, or were to be made, for an
        intent.
        """
        if not intent.isFinance or intent.isOfOrder:
            return set()
        orders = {b.trade.order for b in intent.bookings if b.type == ADD}
        for attempt in intent.attempts:
            if attempt.reply is None or attempt.status not in (200, 504):
                continue
            order = attempt.reply.value["data"]["order"]
            if order != intent.data.get("order"):
                orders.add(order)
        return orders

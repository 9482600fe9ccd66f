"""
The commands that move no money.
"""

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

import creditsync
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.waiters import Waiters
from creditsync.codes import ALL_SESSIONS, FINANCE_SESSIONS, TRADE_EVENT
from creditsync.errors import NotFound
from creditsync.interfaces import ICommand, ISession, ITradingRuntime
from creditsync.records import Request, Response


@implementer(ICommand)
@define(eq=False)
class HealthCheck:
    """
    Whether the server works, and how many requests are waiting.
    """

    _clock: IReactorTime
    _waiters: Waiters
    _broadcast: Broadcast
    _started: float = field(init=False)
    name = "HealthCheck"
    schema = "health_check"
    roles = ALL_SESSIONS
    needsExtID = False

    def __attrs_post_init__(self) -> None:
        self._started = self._clock.seconds()

    def execute(self, session: ISession, request: Request) -> dict[str, Any]:
        """
        See L{ICommand.execute}.

        @return: C{uptime} is in whole seconds, C{pending} the number of
            requests that are waiting, and C{cursor} the place of the newest event if
            events have places.
        """
        return {
            "status": "ok",
            "version": creditsync.__version__,
            "uptime": int(self._clock.seconds() - self._started),
            "pending": len(self._waiters),
            **self._broadcast.withCursor(),
        }


@implementer(ICommand)
@define(eq=False)
class GetOperation:
    """
    What became of an operation.
    """

    _runtime: ITradingRuntime
    _broadcast: Broadcast
    name = "GetOperation"
    schema = "get_operation"
    roles = FINANCE_SESSIONS
    needsExtID = False

    def execute(self, session: ISession, request: Request) -> "Deferred[Response]":
        """
        See L{ICommand.execute}.

        @return: Fires with the trade as it is now.
        """
        return Deferred.fromCoroutine(self._find(session, request.data))

    async def _find(self, session: ISession, data: dict[str, Any]) -> Response:
        order = data.get("order")
        if order is None:
            assert session.principal is not None
            key = data["idempotencyKey"]
            order = await self._runtime.orderOf(session.principal.id, key)
            if order is None:
                raise NotFound("nothing was booked under data.idempotencyKey")
        trade = await self._runtime.trade(int(order))
        if trade is None:
            raise NotFound(f"there is no order {int(order)}")
        place = self._broadcast.placeOf(int(order))
        return self._broadcast.located(trade, place)


@implementer(ICommand)
@define(eq=False)
class Subscription:
    """
    C{Subscribe} or C{Unsubscribe}: whether this connection receives events.
    """

    name: str
    _subscribed: bool
    _broadcast: Broadcast
    schema = "subscribe"
    roles = ALL_SESSIONS
    needsExtID = False

    def execute(self, session: ISession, request: Request) -> dict[str, Any]:
        """
        See L{ICommand.execute}.

        @return: The channels of the request, and the cursor of the newest event if
            events have places.
        @raise NotFound: There is no such channel; nothing has changed.
        @raise CursorGone: C{since} is no place of this journal; nothing has changed.
        @raise InvalidData: Events have no places here.
        """
        channels = request.data["chanels"]
        for channel in channels:
            if channel != TRADE_EVENT:
                raise NotFound(
                    f"data.chanels names an unknown channel, there is {TRADE_EVENT}"
                )
        since = request.data.get("since") if self._subscribed else None
        after = None if since is None else self._broadcast.placeAt(since)
        session.subscribe(self._subscribed, after)
        return {"chanels": channels, **self._broadcast.withCursor()}

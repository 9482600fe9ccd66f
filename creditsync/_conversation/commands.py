"""
The commands that move no money.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

import creditsync
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.rights import Rights
from creditsync._conversation.waiters import Waiters
from creditsync.codes import (
    ALL_SESSIONS,
    FINANCE_SESSIONS,
    SESSION_ADMIN,
    TRADE_EVENT,
)
from creditsync.errors import NotFound
from creditsync.interfaces import (
    IAccountGroups,
    ICommand,
    IHeldOperations,
    IOperations,
    ISession,
    ITradingRuntime,
)
from creditsync.records import Principal, Request, Response, Trade


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
    isReadOnly = True

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
    _rights: Rights = Factory(Rights)
    name = "GetOperation"
    schema = "get_operation"
    roles = FINANCE_SESSIONS
    needsExtID = False
    isReadOnly = True

    def execute(self, session: ISession, request: Request) -> "Deferred[Response]":
        """
        See L{ICommand.execute}.

        @return: Fires with the trade as it is now.
        """
        return Deferred.fromCoroutine(self._find(session, request.data))

    async def _find(self, session: ISession, data: dict[str, Any]) -> Response:
        principal = session.principal
        assert principal is not None
        if "order" in data:
            order = int(data["order"])
            missing = NotFound(f"there is no order {order}")
        else:
            key = data["idempotencyKey"]
            missing = NotFound("nothing was booked under data.idempotencyKey")
            if IOperations.providedBy(self._runtime):
                trade = await self._runtime.operation(principal.id, key)
                return await self._shown(principal, trade, missing)
            found = await self._runtime.orderOf(principal.id, key)
            if found is None:
                raise missing
            order = found
        trade = await self._runtime.trade(order)
        return await self._shown(principal, trade, missing)

    async def _shown(
        self,
        principal: Principal,
        trade: Trade | Mapping[str, Any] | None,
        missing: NotFound,
    ) -> Response:
        # What the token may not see is refused in the same words as what isn't there.
        maySee = await self._rights.mayLookUp(principal, trade)
        if trade is None or not maySee:
            raise missing
        order = trade.order if isinstance(trade, Trade) else trade["order"]
        place = self._broadcast.placeOf(order)
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
    isReadOnly = True

    def execute(
        self, session: ISession, request: Request
    ) -> "Response | Deferred[Response]":
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
        if since is not None:
            waiting = self._broadcast.whenPublished(session, since)
            if waiting is not None:
                return waiting.addCallback(
                    lambda _: self._subscribe(session, channels, since)
                )
        return self._subscribe(session, channels, since)

    def _subscribe(
        self, session: ISession, channels: Sequence[str], since: str | None
    ) -> Response:
        after = None if since is None else self._broadcast.placeAt(since)
        session.subscribe(self._subscribed, after)
        return {"chanels": channels, **self._broadcast.withCursor()}


@implementer(ICommand)
@define(eq=False)
class ResolveOperation:
    """
    Decides what became of an operation that is held.

    @ivar _decided: Called with the session, the id of the principal and the request of
        each decision, once that is durable.
    """

    _held: IHeldOperations
    _decided: Callable[[ISession, int, Request], object] = lambda *_: None
    name = "MngResolveOperation"
    schema = "resolve_operation"
    roles = frozenset({SESSION_ADMIN})
    needsExtID = False
    isReadOnly = False

    def execute(self, session: ISession, request: Request) -> "Deferred[Response]":
        """
        See L{ICommand.execute}.

        @return: Fires with the number and the outcome of the operation.
        """
        assert session.principal is not None
        data = request.data
        order = int(data["order"]) if data["outcome"] == "booked" else None
        principal = session.principal.id
        resolved = self._held.resolve(int(data["operation"]), order, principal)
        return resolved.addCallback(self._resolved, session, principal, request)

    def _resolved(
        self, response: Response, session: ISession, principal: int, request: Request
    ) -> Response:
        self._decided(session, principal, request)
        return response


@implementer(ICommand)
@define(eq=False)
class SetAccountGroup:
    """
    Moves an account to a group.
    """

    _groups: IAccountGroups
    name = "MngSetAccountGroup"
    schema = "set_account_group"
    roles = frozenset({SESSION_ADMIN})
    needsExtID = False
    isReadOnly = False

    _log = Logger()

    def execute(self, session: ISession, request: Request) -> "Deferred[Response]":
        """
        See L{ICommand.execute}.

        @return: Fires with the data of the request when the group is in force, and on
            disk.
        """
        assert session.principal is not None
        login, group = int(request.data["login"]), request.data["group"]
        moved = self._groups.setGroup(login, group)
        return moved.addCallback(self._moved, session.principal.id, login, group)

    def _moved(self, _: None, principal: int, login: int, group: str) -> Response:
        self._log.info(
            "principal {principal} has moved account {login} to group {group!r}",
            principal=principal,
            login=login,
            group=group,
        )
        return {"login": login, "group": group}

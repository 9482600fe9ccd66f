"""
The commands that move no money.
"""

from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

import creditsync
from creditsync.codes import ALL_SESSIONS, TRADE_EVENT
from creditsync.errors import NotFound
from creditsync.interfaces import ICommand
from creditsync.records import Request
from creditsync.waiters import Waiters

if TYPE_CHECKING:
    from creditsync.session import Session


@implementer(ICommand)
@define(eq=False)
class HealthCheck:
    """
    Whether the server works, and how much waits.
    """

    _clock: IReactorTime
    _waiters: Waiters
    _started: float = field(init=False)
    name = "HealthCheck"
    schema = "health_check"
    roles = ALL_SESSIONS
    needsExtID = False

    def __attrs_post_init__(self) -> None:
        self._started = self._clock.seconds()

    def execute(self, session: "Session", request: Request) -> dict[str, Any]:
        """
        See L{ICommand.execute}.

        @return: C{uptime} is in whole seconds, C{pending} the number of
            replies that wait.
        """
        return {
            "status": "ok",
            "version": creditsync.__version__,
            "uptime": int(self._clock.seconds() - self._started),
            "pending": len(self._waiters),
        }


@implementer(ICommand)
@define(eq=False)
class Subscription:
    """
    C{Subscribe} or C{Unsubscribe}: whether this connection receives events.
    """

    name: str
    _subscribed: bool
    schema = "subscribe"
    roles = ALL_SESSIONS
    needsExtID = False

    def execute(self, session: "Session", request: Request) -> dict[str, Any]:
        """
        See L{ICommand.execute}.

        @return: The channels that were asked for.
        @raise NotFound: There is no such channel; nothing has changed.
        """
        channels = request.data["chanels"]
        for channel in channels:
            if channel != TRADE_EVENT:
                raise NotFound(
                    f"data.chanels names an unknown channel, there is {TRADE_EVENT}"
                )
        session.subscribe(self._subscribed)
        return {"chanels": channels}

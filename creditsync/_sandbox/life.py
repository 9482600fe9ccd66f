"""
One life of the sandbox's process: all that a crash ends.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from creditsync._sandbox.booking import PlatformLedger, PlatformRuntime
from creditsync._sandbox.control import answer
from creditsync._sandbox.script import Script
from creditsync.interfaces import ILedger
from creditsync.records import Principal
from creditsync.service import CreditSync


class Life:
    """
    A server that is a platform, until it is stopped or crashes.

    @ivar server: The server, which is made of L{ledger} and L{runtime}.
    @ivar script: What goes wrong.
    @ivar unknown: Commands that the platform does not have.
    @ivar connections: Those that are open.
    @ivar isOver: Whether it has crashed.
    @ivar downFor: Seconds from a crash to the next life.
    """

    server: CreditSync

    def __init__(
        self,
        clock: IReactorTime,
        script: Script,
        delay: float,
        unknown: Collection[str],
        crashed: Callable[[], None],
        lost: Sequence[int] = (),
    ) -> None:
        """
        @param delay: Seconds from an operation's being accepted to its being booked.
        @param crashed: Called after a crash, when the connections are closed.
        @param lost: The orders that the last crash has lost.
        """
        self._clock = clock
        self.script = script
        self.unknown = unknown
        self.connections: dict[Any, None] = {}
        self.isOver = False
        self.downFor = 0.0
        self._delay = delay
        self._crashed = crashed
        self._ledger: PlatformLedger | None = None
        self._lost = lost
        self._calls: set[IDelayedCall] = set()

    def ledger(self, ledger: ILedger) -> ILedger:
        """
        The ledger for this life.

        @param ledger: What outlives it.
        """
        made = PlatformLedger(ledger, self._clock, self.script, self._delay, self._lost)
        self._ledger = made
        return made

    def runtime(self, *arguments: Any, **named: Any) -> PlatformRuntime:
        """
        The trading runtime for this life, on that ledger.

        @param arguments: Those of a
            L{TradingRuntime<creditsync.runtime.TradingRuntime>}.
        """
        assert self._ledger is not None
        made = PlatformRuntime(*arguments, **named)
        made.script, made.platform = self.script, self._ledger
        return made

    @property
    def lost(self) -> Sequence[int]:
        """
        The orders that are lost, after a crash.
        """
        assert self._ledger is not None
        return self._ledger.lost

    def registerProtocol(self, connection: Any) -> None:
        """
        A connection has begun.
        """
        self.connections[connection] = None

    def authenticate(self, token: str | None) -> Principal:
        """
        The principal of a token.

        @raise Unauthorized: It is not valid.
        """
        return self.server.sessions.authenticator.authenticate(token)

    def control(self, members: dict[str, Any]) -> bytes:
        """
        The reply to C{SandboxFault}.
        """
        return answer(self.script, self.authenticate, members)

    def later(
        self, seconds: float, function: Callable[..., object], *args: Any
    ) -> None:
        """
        Call a function later in this life.
        """

        def call() -> None:
            self._calls.discard(delayed)
            function(*args)

        delayed = self._clock.callLater(seconds, call)
        self._calls.add(delayed)

    def crash(self, seconds: float) -> None:
        """
        Lose all that is only in memory. What was sent so far still leaves.

        @param seconds: How long it is down.
        """
        if self.isOver:
            return
        self.downFor = seconds
        self.isOver = True
        for connection in self.connections:
            connection.stop()
        # Not sooner: this may end a commit, whose events nobody receives any more.
        assert self._ledger is not None
        self._ledger.lose()
        self.stop()
        # The server is in the middle of something.
        self.later(0, self._end)

    def _end(self) -> None:
        for connection in list(self.connections):
            connection.end()
        self._crashed()

    def stop(self) -> None:
        """
        Call nothing any more.
        """
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()

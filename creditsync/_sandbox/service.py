"""
The sandbox as a service: its ports, which outlive a crash, and one life after the
other.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync._failing import FailureNotifier
from creditsync._sandbox.connection import Connection
from creditsync._sandbox.life import Life
from creditsync._sandbox.script import Script
from creditsync._transport import listening
from creditsync.methods import FINANCE_METHODS, REQUEST_METHODS, commands
from creditsync.service import CreditSync

# The commands that only this server has, and no platform.
OURS: Final = frozenset(
    name
    for method in (*FINANCE_METHODS, *REQUEST_METHODS)
    for name in commands(method)
    if name != method.name
) | {"GetOperation"}

# The commands for finance requests.
REQUESTS: Final = frozenset(
    name for method in REQUEST_METHODS for name in commands(method)
)

# Seconds from an operation's being accepted to its being booked, unless it is set.
DELAY: Final = 0.05


class _Refused(Protocol):
    """
    A connection to a platform that is down.
    """

    transport: Any

    def connectionMade(self) -> None:
        """
        Close it at once.
        """
        self.transport.abortConnection()


class Sandbox(Service):
    """
    A platform for tests.

    @ivar script: What goes wrong.
    @ivar unknown: Commands that the platform does not have.
    @ivar crashes: How often it has crashed.
    """

    name = "creditsync sandbox"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        make: Callable[[Life], CreditSync],
        script: Script,
        *,
        listen: Sequence[str] = (),
        delay: float = DELAY,
        unknown: Collection[str] = OURS,
    ) -> None:
        """
        @param reactor: Its clock, and what the endpoints of C{listen} need.
        @param make: Makes the server of a life, which does not listen, on what the
            life makes of a ledger and of a runtime.
        @param listen: As that of L{CreditSync}.
        @param delay: Seconds from an operation's being accepted to its being booked.
        @param unknown: Commands that the platform does not have.
        """
        self._reactor = reactor
        self._make = make
        self.script = script
        self.factory = SandboxFactory(self)
        self._endpoints = [listening.endpoint(reactor, each) for each in listen]
        self._delay = delay
        self.unknown = unknown
        self._life: Life | None = None
        self._lost: Sequence[int] = ()
        self._ending: Deferred[None] | None = None
        self._next: IDelayedCall | None = None
        self._ports: list[IListeningPort] = []
        self._failing = FailureNotifier()
        self._starting: list[Deferred[None]] | None = []
        self.crashes = 0

    @property
    def ports(self) -> list[IListeningPort]:
        """
        The ports it listens on.
        """
        return list(self._ports)

    @property
    def life(self) -> Life | None:
        """
        The present life, or L{None} while it is down.
        """
        return self._life

    def whenReady(self) -> "Deferred[None]":
        """
        Wait until requests are answered for the first time.
        """
        ready: Deferred[None] = Deferred()
        if self._starting is None:
            ready.callback(None)
        else:
            self._starting.append(ready)
        return ready

    def whenFailed(self) -> "Deferred[None]":
        """
        Wait until it can't go on.

        @return: Fails with the cause; never fires otherwise.
        """
        return self._failing.whenFailed()

    def privilegedStartService(self) -> None:
        """
        Take the ports.

        @raise twisted.internet.error.CannotListenError: One is taken.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for endpoint in self._endpoints:
            listened: list[Any] = []
            endpoint.listen(self.factory).addBoth(listened.append)
            for port in listened:
                if isinstance(port, Failure):
                    self._freePorts()
                    port.raiseException()
                self._ports.append(port)

    def _freePorts(self) -> "list[Deferred[Any]]":
        ports, self._ports = self._ports, []
        return [maybeDeferred(port.stopListening) for port in ports]

    def startService(self) -> None:
        """
        Begin the first life.

        @raise creditsync.errors.LedgerProblem: The ledger can't be used.
        """
        if not self._ports:
            self.privilegedStartService()
        try:
            self._begin()
        except BaseException:
            self._freePorts()
            raise
        super().startService()  # type: ignore[no-untyped-call]

    def _begin(self) -> None:
        life = Life(
            self._reactor,
            self.script,
            self._delay,
            self.unknown,
            self._crashed,
            self._lost,
        )
        life.server = server = self._make(life)
        server.startService()
        server.whenFailed().addErrback(self._failing.fail)
        self._life = life
        server.whenReady().addCallback(self._ready)

    def _ready(self, _: object) -> None:
        waiting, self._starting = self._starting or [], None
        for each in waiting:
            each.callback(None)

    def crash(self, seconds: float = 0.5) -> None:
        """
        Lose all that is only in memory, and begin again after a time.
        """
        if self._life is not None:
            self._life.crash(seconds)

    def _crashed(self) -> None:
        life, self._life = self._life, None
        assert life is not None
        self.crashes += 1
        self._log.info("The sandbox crashes, by a fault.")
        self._ending = ended = maybeDeferred(life.server.stopService)
        ended.addCallback(self._ended, life)
        ended.addErrback(self._failing.fail)

    def _ended(self, _: object, life: Life) -> None:
        self._ending = None
        # Not sooner: some of them were just being written.
        self._lost = life.lost
        if self.running:
            self._next = self._reactor.callLater(life.downFor, self._again)

    def _again(self) -> None:
        self._next = None
        try:
            self._begin()
        except Exception:
            self._failing.fail(Failure())

    def stopService(self) -> "Deferred[None]":
        """
        Stop in order: see L{CreditSync.stopService}. What was accepted is booked.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for freed in self._freePorts():
            await freed
        if self._ending is not None:
            await self._ending
        if self._next is not None:
            self._next.cancel()
        life, self._life = self._life, None
        if life is not None:
            life.stop()
            await life.server.stopService()

    def reload(self) -> None:
        """
        Read the certificates of the ports again.
        """
        listening.reload(self._endpoints)


class SandboxFactory(Factory):
    """
    The connections of a sandbox.
    """

    noisy = False

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """
        Take a connection, or close it at once while the platform is down.
        """
        life = self._sandbox.life
        if life is None or life.isOver:
            return _Refused()
        return Connection(life, life.server.factory.buildProtocol(addr))

"""
The server as a process: what fails ends it with a sentence and a status,
systemd is notified, and SIGHUP reloads files.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync._process import signals
from creditsync._process.notify import Supervisor
from creditsync._process.starting import startErrors
from creditsync._sandbox.service import Sandbox
from creditsync.errors import LedgerProblem
from creditsync.service import CreditSync

if TYPE_CHECKING:
    from creditsync.web._service import Web

_log = Logger()


class Server(Service):
    """
    The server and its site. If it can't start or go on, the process ends with
    a sentence and status 1; a second signal ends the process at once.

    @ivar web: The site, or L{None} without one.
    @ivar isReady: Whether requests are answered, or were.
    """

    def __init__(self, reactor: Any, creditSync: CreditSync | Sandbox) -> None:
        self._reactor = reactor
        self.creditSync = creditSync
        self.web: Web | None = None
        self.isReady = False

    def privilegedStartService(self) -> None:
        """
        Bind the ports, before privileges are dropped.

        @raise CannotStart: One of them is taken.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        with startErrors():
            self.creditSync.privilegedStartService()
            if self.web is not None:
                self.web.privilegedStartService()

    def startService(self) -> None:
        """
        Begin to open the ledger. C{twistd} calls this after it has forked: a
        connection to SQLite must not be carried over a fork.

        @raise CannotStart: The ledger can't be used. If that is found out only
            when the reactor runs, the process ends all the same.
        """
        super().startService()  # type: ignore[no-untyped-call]
        with startErrors():
            self.creditSync.startService()
            if self.web is not None:
                self.web.startService()
        self._reactor.callWhenRunning(signals.stopInOrder, self._reactor)
        # The stop may have another cause than a signal.
        self._reactor.addSystemEventTrigger(
            "before", "shutdown", signals.endAtNextSignal
        )
        self.creditSync.whenFailed().addErrback(self._failed)
        ready = self.creditSync.whenReady()
        ready.addCallback(lambda _: self._reactor.callWhenRunning(self.ready))

    def ready(self) -> None:
        """
        Requests are answered from now on.
        """
        self.isReady = True

    def stopService(self) -> "Deferred[None]":
        """
        See L{CreditSync.stopService}. The site stops after that.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        stopped = self.creditSync.stopService()
        web = self.web
        if web is not None:
            stopped.addBoth(lambda _: web.stopService())
        return stopped

    def _failed(self, why: Failure) -> None:
        """
        Stop, as nothing can be booked, or not any more, and have the process end
        with status 1.
        """
        if self.isReady:
            _log.critical(
                "The trading runtime has failed, and the server stops; the next start"
                " finds out what was booked. The cause: {why}",
                why=why.getErrorMessage(),
            )
        elif why.check(LedgerProblem):
            _log.critical("{why}", why=why.getErrorMessage())
        else:
            _log.failure("the server can't start", why)
        # At the very end, when twistd has removed its pid file.
        atexit.register(_exitFailed)
        # It may be stopping already.
        with suppress(ReactorNotRunning):
            self._reactor.stop()


class SupervisedServer(Server):
    """
    A server that notifies systemd of its state, if systemd runs it, and reads
    files again at SIGHUP.
    """

    def __init__(
        self,
        reactor: Any,
        creditSync: CreditSync | Sandbox,
        supervisor: Supervisor,
        reloads: Sequence[Callable[[], object]],
    ) -> None:
        """
        @param reloads: Called at each reload.
        """
        super().__init__(reactor, creditSync)
        self._supervisor = supervisor
        self._reloads = reloads

    def startService(self) -> None:
        """
        Start, and notify systemd.

        @raise CannotStart: See L{Server.startService}.
        """
        super().startService()
        self._supervisor.starting()

    def ready(self) -> None:
        """
        Notify systemd, and reload at each SIGHUP from now on.
        """
        super().ready()
        self._supervisor.ready()
        # A signal may come in the middle of anything, so the reactor reloads
        # when that is done.
        signals.reloadAtHangUp(partial(self._reactor.callFromThread, self.reload))

    def stopService(self) -> "Deferred[None]":
        """
        Notify systemd that the stop has begun, and stop.
        """
        signals.ignoreHangUp()
        self._supervisor.stopping()
        stopped = super().stopService()
        stopped.addCallback(lambda _: self._supervisor.stopped())
        return stopped

    def reload(self) -> None:
        """
        Read again every file that can be read again. One that fails does not
        keep the others from being read.
        """
        if not self.running:
            return
        self._supervisor.reloading()
        for each in self._reloads:
            with _log.failureHandler("a part of the reload failed"):
                each()
        _log.info("Reloaded.")
        self._supervisor.ready()


def _exitFailed() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

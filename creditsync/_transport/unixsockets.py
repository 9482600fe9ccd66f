"""
UNIX sockets that can be listened on again, however the last process ended.

The file of a socket outlives a process that was killed. Twisted keeps a lock file
with the process's id beside it, to tell such a leftover from a socket in use; but in
a container that id is 1, which is always alive, and any other id may belong to
another process by then. Here the socket itself is asked: where nobody accepts
connections, connect() is refused.
"""

import os
import socket
import stat
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import define
from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._locking import ALONE, folderLocked


@define
class UNIXReactor:
    """
    As much of a reactor as an endpoint of a UNIX socket needs.
    """

    _reactor: Any

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> IListeningPort:
        """
        Listen on a UNIX socket.

        @param wantPID: Ignored: no lock file is needed.
        @raise CannotListenError: Another process is listening there, or it
            can't be done.
        """
        path = os.fsencode(address)
        port = _Port(path, factory, backlog, mode, self._reactor)
        port.path = os.fsdecode(path)
        port.startListening()
        return port


class _Port(unix.Port):
    """
    A port that removes the file of a socket on which nobody listens, and at its
    end its own file and no other.
    """

    path = ""
    _file: tuple[int, int] | None = None

    def startListening(self) -> None:
        """
        Begin to listen.

        @raise CannotListenError: It can't.
        """
        path = self.path
        if path.startswith("\0"):
            # Linux's abstract namespace, which has no files.
            super().startListening()  # type: ignore[no-untyped-call]
            return
        with folderLocked(os.path.dirname(path), ALONE):
            try:
                _removeLeftover(path)
                super().startListening()  # type: ignore[no-untyped-call]
            except (CannotListenError, OSError) as e:
                why = getattr(e, "socketError", e)
                text = getattr(why, "strerror", None) or why
                raise CannotListenError("unix", path, text) from e
            self._file = _identity(path)

    def connectionLost(self, reason: Failure) -> None:
        """
        Stop listening.
        """
        path = self.path
        if self._file is not None:
            with folderLocked(os.path.dirname(path), ALONE):
                # It may have been removed, and the name taken by another server.
                if _identity(path) == self._file:
                    _remove(path)
        tcp.Port.connectionLost(self, reason)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: str) -> None:
    # The process may run as another user by now; then it is a leftover.
    with suppress(OSError):
        os.unlink(path)


def _removeLeftover(path: str) -> None:
    """
    Remove the file of a socket on which nobody listens.

    @raise OSError: Somebody listens, or the file is something else, or it can't
        be found out.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError("there is a file that is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            # A full queue of connections would make it wait.
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass
    raise OSError("another process is listening there")


@implementer(IStreamServerEndpoint)
@define(eq=False)
class Inherited:
    """
    An endpoint whose socket was opened by another process, such as systemd.
    """

    _endpoint: IStreamServerEndpoint

    def listen(self, factory: IProtocolFactory) -> "Deferred[IListeningPort]":
        """
        See L{IStreamServerEndpoint.listen}.
        """
        return self._endpoint.listen(factory).addCallback(_keepFile)


def _keepFile(port: IListeningPort) -> IListeningPort:
    """
    Keep Twisted from removing the file of a UNIX socket at its end and from
    shutting the socket down: systemd goes on listening. For TCP it does so itself.
    """
    if isinstance(port, unix.Port):
        port._shouldShutdown = False
        port.connectionLost = partial(  # type: ignore[method-assign]
            tcp.Port.connectionLost, port
        )
    return port

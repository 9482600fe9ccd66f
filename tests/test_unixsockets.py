"""
Tests for L{creditsync._transport.unixsockets}.
"""

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._transport import listening
from creditsync._transport.unixsockets import Inherited


class Reactor(MemoryReactorClock):
    """
    A reactor that runs delayed calls at once.
    """

    def adoptStreamPort(self, fileno: int, family: int, factory: Any) -> Any:
        """
        Adopt a listening UNIX socket, as Twisted's reactors do.
        """
        from twisted.internet.unix import Port

        port = Port._fromListeningDescriptor(self, fileno, factory)
        port.startListening()
        return port


class SocketTestCase(SynchronousTestCase):
    """
    A test with a folder for sockets.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = os.path.join(self.folder, "sock")
        self.reactor: Any = Reactor()

    def listens(self, description: str | None = None) -> Any:
        """
        Listen, and stop in the end.
        """
        endpoint = listening.endpoint(self.reactor, description or f"unix:{self.path}")
        port: Any = self.successResultOf(endpoint.listen(Factory()))
        self.addCleanup(self.stops, port)
        return port

    def stops(self, port: Any) -> None:
        """
        Stop listening.
        """
        if port.connected:
            stopped = port.stopListening()
            self.reactor.advance(0)
            self.successResultOf(stopped)

    def refusal(self, description: str | None = None) -> str:
        """
        The message with which listening fails.
        """
        endpoint = listening.endpoint(self.reactor, description or f"unix:{self.path}")
        failure = self.failureResultOf(endpoint.listen(Factory()), CannotListenError)
        return str(failure.value)

    def bound(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """
        A socket of another process at this path.
        """
        other = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(other.close)
        other.bind(self.path)
        return other

    def canConnect(self) -> bool:
        """
        Whether a process listens there.
        """
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(self.path)
            except OSError:
                return False
        return True


class ListenTests(SocketTestCase):
    """
    Tests for the start.
    """

    def test_new(self) -> None:
        """
        The endpoint creates its socket, and no other file.
        """
        self.listens()
        self.assertTrue(self.canConnect())
        self.assertEqual(os.listdir(self.folder), ["sock"])

    def test_leftover(self) -> None:
        """
        The socket of a killed process is replaced, whether or not the endpoint
        asks for a lock file, and whatever other endpoint wraps it.
        """
        for description in (
            f"unix:{self.path}",
            f"unix:address={self.path}:mode=600",
            f"unix:{self.path}:lockfile=0",
            f"unix:{self.path}:lockfile=1",
            f"haproxy:unix:{self.path}",
        ):
            self.bound().close()
            self.assertFalse(self.canConnect())
            port = self.listens(description)
            self.assertTrue(self.canConnect(), description)
            self.assertEqual(os.listdir(self.folder), ["sock"])
            self.stops(port)

    def test_lockOfTwisted(self) -> None:
        """
        The lock file of an older version is ignored, even if its number is
        that of a living process, as process 1 always is.
        """
        self.bound().close()
        Path(f"{self.path}.lock").symlink_to("1")
        self.listens()
        self.assertTrue(self.canConnect())

    def test_inUse(self) -> None:
        """
        A socket on which another process listens is left alone.
        """
        self.bound().listen()
        self.assertEqual(
            self.refusal(),
            f"Couldn't listen on unix:{self.path}: another process is listening there.",
        )
        self.assertTrue(self.canConnect())

    def test_busy(self) -> None:
        """
        A socket of another process that does not accept at the moment is left
        alone.
        """
        self.bound().listen(0)
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(self.path)
        self.assertIn("another process is listening there", self.refusal())

    def test_second(self) -> None:
        """
        Of two servers the second one is refused, and the first one goes on.
        """
        self.listens()
        self.assertIn("another process is listening there", self.refusal())
        self.assertTrue(self.canConnect())

    def test_noSocket(self) -> None:
        """
        A file that is not a socket is left alone, and so is a link to one.
        """
        Path(self.path).write_text("precious")
        sentence = (
            f"Couldn't listen on unix:{self.path}: there is a file that is not a"
            " socket."
        )
        self.assertEqual(self.refusal(), sentence)
        self.assertEqual(Path(self.path).read_text(), "precious")
        Path(self.path).unlink()
        Path(self.path).symlink_to("elsewhere")
        self.assertEqual(self.refusal(), sentence)
        self.assertTrue(os.path.islink(self.path))

    def test_otherSocket(self) -> None:
        """
        A socket of another type is left alone, in use or not.
        """
        self.bound(socket.SOCK_DGRAM)
        self.assertIn("Protocol wrong type for socket", self.refusal())
        self.assertTrue(os.path.exists(self.path))

    def test_tooLong(self) -> None:
        """
        A path that is too long for a socket is refused with a message.
        """
        self.path = os.path.join(self.folder, "x" * 200)
        self.assertEqual(
            self.refusal(),
            f"Couldn't listen on unix:{self.path}: AF_UNIX path too long.",
        )

    def test_abstract(self) -> None:
        """
        The abstract namespace has no files, and so no leftovers.
        """
        name = f"\0creditsync-test-{os.getpid()}"
        reactor = listening.UNIXReactor(self.reactor)
        port: Any = reactor.listenUNIX(name, Factory())
        self.addCleanup(self.stops, port)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)


class StopTests(SocketTestCase):
    """
    Tests for the end.
    """

    def test_removed(self) -> None:
        """
        The socket's file is removed with the socket.
        """
        self.stops(self.listens())
        self.assertEqual(os.listdir(self.folder), [])

    def test_gone(self) -> None:
        """
        A file that was already removed is not an error.
        """
        port = self.listens()
        os.unlink(self.path)
        self.stops(port)

    def test_others(self) -> None:
        """
        If another server has bound the name since then, its socket stays.
        """
        port = self.listens()
        os.unlink(self.path)
        self.bound().listen()
        self.stops(port)
        self.assertTrue(self.canConnect())

    def test_inherited(self) -> None:
        """
        The file of a socket that systemd has opened is left to systemd, which
        goes on listening.
        """
        systemd = self.bound()
        systemd.listen()
        endpoint = Inherited(
            AdoptedStreamServerEndpoint(
                self.reactor, os.dup(systemd.fileno()), socket.AF_UNIX
            )
        )
        port = self.successResultOf(endpoint.listen(Factory()))
        self.stops(port)
        self.assertTrue(self.canConnect())

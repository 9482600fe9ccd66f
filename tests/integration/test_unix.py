"""
Servers on UNIX sockets, and how they find what another one has left.
"""

import os
import socket
import stat

import pytest
from processes import CONTAINER, SERVE, Client, Server, inContainer
from test_operations import OperationsTestCase, waitUntil

pytestmark = pytest.mark.timeout(60, method="thread")


class LocalClient(Client):
    """
    A client of a UNIX socket.
    """

    def __init__(self, path: str) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        super().__init__(connection)


class UNIXTests(OperationsTestCase):
    """
    A server on a UNIX socket.
    """

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.site.folder / "sock")

    def canConnect(self) -> bool:
        """
        Whether somebody listens.
        """
        try:
            LocalClient(self.path).close()
        except OSError:
            return False
        return True

    def starts(self, *command: str, listen: str = "unix:{}") -> Server:
        """
        Start a server, and see it book a credit.
        """
        listen = listen.format(self.path)
        server = self.launch(*command, *SERVE, "--listen", listen)
        self.waitForConnection(server)
        self.books(self.path)
        return server

    def waitForConnection(self, server: Server) -> None:
        """
        Wait until it listens.
        """
        waitUntil(lambda: self.canConnect() or server.process.poll() is not None)
        assert server.process.poll() is None, self.log(server)

    def books(self, path: str) -> None:
        """
        Have a credit booked.
        """
        client = LocalClient(path)
        client.send("a")
        assert next(client.replies())["status"] == 200
        client.close()

    @inContainer
    def test_killed(self) -> None:
        """
        After a C{kill -9} as process 1 it starts again as process 1, as often as
        it takes, and with either kind of endpoint.
        """
        for listen in ("unix:{}", "unix:{}:lockfile=0", "haproxy:unix:{}", "unix:{}"):
            listen = listen.format(self.path)
            server = self.launch(*CONTAINER, *SERVE, "--listen", listen)
            self.waitForConnection(server)
            server.process.kill()
            server.end()
            waitUntil(lambda: not self.canConnect())
            assert stat.S_ISSOCK(os.stat(self.path).st_mode)
        self.starts(*CONTAINER)

    def test_two(self) -> None:
        """
        Of several that start at once on a leftover one serves, and the others
        are told that another process does.
        """
        with socket.socket(socket.AF_UNIX) as leftover:
            leftover.bind(self.path)
        servers = [
            self.launch(*SERVE, f"--listen=unix:{self.path}", f"--ledger={n}.db")
            for n in range(3)
        ]
        waitUntil(lambda: sum(each.process.poll() is None for each in servers) == 1)
        self.books(self.path)
        sentence = (
            f"creditsync serve: Couldn't listen on unix:{self.path}: another process"
            " is listening there.\n"
        )
        errors = [each.errors.read_text() for each in servers]
        assert sorted(errors) == ["", sentence, sentence]

    def test_stopped(self) -> None:
        """
        An orderly end leaves nothing beside the socket's name.
        """
        server = self.starts()
        server.process.terminate()
        server.end()
        assert not [each for each in os.listdir(self.site.folder) if "sock" in each]

    def test_systemd(self) -> None:
        """
        A UNIX socket that systemd holds is there for the next server too, and
        who connects meanwhile waits.
        """
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen()
            for extID in ("a", "b"):
                early = LocalClient(self.path)
                early.send(extID)
                server = self.activate(listener, "systemd:domain=UNIX:name=creditsync")
                reply = next(early.replies())
                assert (reply["extID"], reply["status"]) == (extID, 200)
                early.close()
                server.process.terminate()
                server.end()

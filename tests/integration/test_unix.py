"""
Tests for servers on UNIX sockets, and for the sockets that a killed server
leaves.
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
    Tests for a server on a UNIX socket.
    """

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.site.folder / "sock")

    def canConnect(self) -> bool:
        """
        Whether a process listens.
        """
        try:
            LocalClient(self.path).close()
        except OSError:
            return False
        return True

    def starts(self, *command: str, listen: str = "unix:{}") -> Server:
        """
        Start a server, and check that it books a credit.
        """
        listen = listen.format(self.path)
        server = self.launch(*command, *SERVE, "--listen", listen)
        self.waitForConnection(server)
        self.books(self.path)
        return server

    def waitForConnection(self, server: Server) -> None:
        """
        Wait until the server listens.
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
        After a C{kill -9} as process 1 the server starts again as process 1,
        repeatedly, and with either kind of endpoint.
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
        Of several servers that start at once on a leftover socket one serves,
        and the others report that another process does.
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
        An orderly stop leaves no file besides the socket.
        """
        server = self.starts()
        server.process.terminate()
        server.end()
        assert not [each for each in os.listdir(self.site.folder) if "sock" in each]

    def test_systemd(self) -> None:
        """
        A UNIX socket that systemd holds stays for the next server, and clients
        that connect meanwhile wait.
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

"""
Tests for L{creditsync._transport.tls} and L{creditsync._transport.listening}.
"""

import contextlib
import os
from calendar import timegm
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase

from creditsync._transport import listening
from creditsync._transport.tls import Files, TLSEndpoint
from tests.certificates import Authority, Issued
from tests.test_tap import logTo


class TLSTestCase(SynchronousTestCase):
    """
    A test with a certificate authority and a folder for its certificates.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.authority = Authority("authority")
        self.pem = self.folder / "server.pem"
        self.issued = self.authority.issue()
        self.issued.write(self.pem)

    def write(self, name: str, data: bytes) -> Path:
        """
        Write a file that only its user can read.
        """
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(data)
        return path


def shown(context: SSL.Context) -> tuple[list[str], SSL.Connection, SSL.Connection]:
    """
    Perform a handshake with a server of this context, in memory.

    @return: The common names that it presented, the client and the server.
    """
    client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    server = SSL.Connection(context, None)
    shakeHands(client, server)
    chain = client.get_peer_cert_chain() or []
    names = [each.to_cryptography().subject.rfc4514_string() for each in chain]
    return names, client, server


def shakeHands(client: SSL.Connection, server: SSL.Connection) -> None:
    """
    Carry bytes between the two until neither sends any.
    """
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))


class FilesTests(TLSTestCase):
    """
    Tests for reading the files.
    """

    def assertUnusable(self, sentence: str, files: Files) -> None:
        """
        Assert that the files are refused with this message.
        """
        e = self.assertRaises(ValueError, files.read)
        self.assertEqual(str(e), sentence)

    def test_oneFile(self) -> None:
        """
        The key and the certificate may be in one file.
        """
        context = Files(self.pem, self.pem).read().getContext()
        self.assertEqual(shown(context)[0], ["CN=localhost"])

    def test_chain(self) -> None:
        """
        Certificates after the first one in the file are sent with it: without
        them clients that know only the authority could not verify it.
        """
        between = self.authority.issue("between", isAuthority=True)
        own = self.authority.issue(by=between)
        own.write(self.pem, between)
        context = Files(self.pem, self.pem).read().getContext()
        self.assertEqual(shown(context)[0], ["CN=localhost", "CN=between"])

    def test_chainElsewhere(self) -> None:
        """
        The chain may be in a file of its own.
        """
        between = self.authority.issue("between", isAuthority=True)
        self.authority.issue(by=between).write(self.pem)
        chain = self.write("chain.pem", between.pem())
        context = Files(self.pem, self.pem, chain).read().getContext()
        self.assertEqual(shown(context)[0], ["CN=localhost", "CN=between"])

    def test_leastVersion(self) -> None:
        """
        TLS 1.2 is accepted, TLS 1.1 is not.
        """
        context = Files(self.pem, self.pem).read().getContext()
        # The library's own minimum for old versions is switched off here.
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        for version, isSpoken in [
            (SSL.TLS1_1_VERSION, False),
            (SSL.TLS1_2_VERSION, True),
        ]:
            old = SSL.Context(SSL.TLS_METHOD)
            old.set_cipher_list(b"ALL:@SECLEVEL=0")
            old.set_min_proto_version(SSL.TLS1_VERSION)
            old.set_max_proto_version(version)
            client, server = SSL.Connection(old, None), SSL.Connection(context, None)
            if isSpoken:
                shakeHands(client, server)
                self.assertEqual(client.get_protocol_version_name(), "TLSv1.2")
            else:
                self.assertRaises(SSL.Error, shakeHands, client, server)

    def test_clientMustShowOne(self) -> None:
        """
        With an authority for clients, a client without a certificate is
        refused, and so is one with a certificate of another authority.
        """
        clientCA = self.write("ca.pem", self.authority.issued.pem())
        context = Files(self.pem, self.pem, clientCA=clientCA).read().getContext()
        stranger = Authority("authority").issue("client")
        friend = self.authority.issue("client")
        for issued in (friend, stranger, None):
            ours = SSL.Context(SSL.TLS_METHOD)
            if issued is not None:
                path = str(issued.write(self.folder / "client.pem"))
                ours.use_certificate_file(path)
                ours.use_privatekey_file(path)
            client, server = SSL.Connection(ours, None), SSL.Connection(context, None)
            if issued is friend:
                shakeHands(client, server)
                peer = server.get_peer_certificate()
                assert peer is not None
                self.assertEqual(peer.to_cryptography(), friend.certificate)
            else:
                self.assertRaises(SSL.Error, shakeHands, client, server)

    def test_notThere(self) -> None:
        """
        A missing file is named.
        """
        nowhere = self.folder / "nowhere"
        for files in (
            Files(nowhere, self.pem),
            Files(self.pem, nowhere),
            Files(self.pem, self.pem, chain=nowhere),
            Files(self.pem, self.pem, clientCA=nowhere),
        ):
            self.assertUnusable(
                f"{nowhere} can't be read (No such file or directory)", files
            )

    def test_noKey(self) -> None:
        """
        A file without a key is named, and so is one whose key needs a
        passphrase.
        """
        for data in (b"", b"rubbish", self.issued.pem(), self.issued.keyPEM(b"secret")):
            path = self.write("key.pem", data)
            self.assertUnusable(
                f"{path} has no private key in PEM without passphrase",
                Files(path, self.pem),
            )

    def test_noCertificate(self) -> None:
        """
        A file without a certificate is named, and so is one with half of one.
        """
        empty = self.write("empty.pem", self.issued.keyPEM())
        self.assertUnusable(
            f"{empty} has no certificate in PEM", Files(self.pem, empty)
        )
        lines = self.issued.pem().splitlines(keepends=True)
        del lines[2]
        half = self.write("half.pem", b"".join(lines))
        self.assertUnusable(
            f"{half} has a certificate that can't be read", Files(self.pem, half)
        )

    def test_ofTwo(self) -> None:
        """
        The key of another certificate is refused, and both files are named.
        """
        other = self.authority.issue().write(self.folder / "other.pem")
        self.assertUnusable(
            f"the key {other} and the certificate {self.pem} can't be used"
            " together: key values mismatch",
            Files(other, self.pem),
        )


class EndpointTests(TLSTestCase):
    """
    Tests for a listening endpoint with TLS.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.log = logTo(self)

    def endpoint(self) -> TLSEndpoint:
        """
        The endpoint for a description with one file.
        """
        made = listening.endpoint(
            self.reactor, f"ssl:8443:interface=127.0.0.1:privateKey={self.pem}"
        )
        assert isinstance(made, TLSEndpoint)
        return made

    def renew(self, issued: Issued, endpoint: TLSEndpoint) -> None:
        """
        Replace the certificate in force by another.
        """
        issued.write(self.pem)
        endpoint.reload()

    def test_listens(self) -> None:
        """
        The endpoint listens on TCP, and the log says how long its certificate
        is valid.
        """
        endpoint = self.endpoint()
        factory = Factory()
        port: Deferred[IListeningPort] = endpoint.listen(factory)
        self.successResultOf(port)
        ((number, tls, backlog, interface),) = self.reactor.tcpServers
        self.assertEqual((number, backlog, interface), (8443, 1024, "127.0.0.1"))
        self.assertIsInstance(tls, TLSMemoryBIOFactory)
        self.assertIs(tls.wrappedFactory, factory)
        until = self.issued.certificate.not_valid_after_utc
        self.assertEqual(
            self.log,
            [
                (
                    "info",
                    f"The certificate {self.pem} is valid until"
                    f" {until:%Y-%m-%dT%H:%M:%SZ}.",
                )
            ],
        )

    def test_plainClient(self) -> None:
        """
        A client that does not speak TLS gets an error at once, in plain text,
        and its connection is closed; nothing that it sends reaches the
        protocol.
        """
        for first in (b'{"command":"HealthCheck"}\r\n', b"\r\n", b"[]\r\n", b" "):
            self.endpoint().listen(Factory.forProtocol(Protocol))
            factory = self.reactor.tcpServers[-1][1]
            connection = factory.buildProtocol(None)
            transport = StringTransport()
            connection.makeConnection(transport)
            connection.dataReceived(first)
            connection.dataReceived(b'{"command":"HealthCheck"}\r\n')
            self.assertEqual(
                transport.value(),
                b'{"status":400,"error":"INVALID_JSON","message":"this port speaks'
                b' TLS, and the client does not"}\r\n',
            )
            self.assertTrue(transport.disconnecting)

    def test_expires(self) -> None:
        """
        The endpoint knows when its certificate expires; an expired one is
        logged as an error, and the server runs on.
        """
        endpoint = self.endpoint()
        self.assertEqual(
            endpoint.expires,
            timegm(self.issued.certificate.not_valid_after_utc.utctimetuple()),
        )
        self.renew(self.authority.issue(seconds=-60), endpoint)
        ((level, text),) = self.log
        self.assertEqual(level, "error")
        self.assertIn("is valid until", text)

    def test_reload(self) -> None:
        """
        After a reload new connections get the new certificate.
        """
        endpoint = self.endpoint()
        self.assertEqual(shown(endpoint.getContext())[0], ["CN=localhost"])
        self.renew(self.authority.issue("renewed"), endpoint)
        self.assertEqual(shown(endpoint.getContext())[0], ["CN=renewed"])

    def test_oldConnectionLives(self) -> None:
        """
        A connection that was opened before the reload stays open.
        """
        endpoint = self.endpoint()
        _, client, server = shown(endpoint.getContext())
        self.renew(self.authority.issue("renewed"), endpoint)
        client.send(b"hello")
        server.bio_write(client.bio_read(65536))
        self.assertEqual(server.recv(100), b"hello")

    def test_failedReload(self) -> None:
        """
        A reload that fails changes nothing, and is logged in one line.
        """
        endpoint = self.endpoint()
        self.pem.write_bytes(self.authority.issue("renewed").pem())
        endpoint.reload()
        self.assertEqual(shown(endpoint.getContext())[0], ["CN=localhost"])
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    "The certificate was not renewed, the old one stays in use:"
                    f" {self.pem} has no private key in PEM without passphrase",
                )
            ],
        )

    def test_othersCanRead(self) -> None:
        """
        A key that others can read is logged as a warning.
        """
        self.pem.chmod(0o640)
        self.endpoint().listen(Factory())
        self.assertEqual(
            self.log[0],
            (
                "warn",
                f"Others can read the key {self.pem}: restrict it with chmod 600.",
            ),
        )


class DescriptionTests(TLSTestCase):
    """
    Tests for how a description becomes an endpoint.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor: Any = MemoryReactorClock()

    def backlog(self, description: str) -> int:
        """
        The backlog of the port that this description opens.
        """
        port: Any = self.successResultOf(
            listening.endpoint(self.reactor, description).listen(Factory())
        )
        if self.reactor.tcpServers:
            backlog: int = self.reactor.tcpServers.pop()[2]
            return backlog
        stopped = port.stopListening()
        self.reactor.advance(0)
        self.successResultOf(stopped)
        return int(port.backlog)

    def refusal(self, description: str) -> str:
        """
        The message with which this description is refused.
        """
        e = self.assertRaises(ValueError, listening.endpoint, self.reactor, description)
        return str(e)

    def test_backlog(self) -> None:
        """
        The listen backlog is long enough for many clients that connect at
        once, unless the description sets it.
        """
        pem = f"privateKey={self.pem}"
        for description in (
            "tcp:80",
            "tcp:port=80",
            "tcp:80:127.0.0.1",
            "tcp6:80",
            "tcp6:80:interface=\\:\\:1",
            f"ssl:80:{pem}",
            f"unix:{self.folder}/sock",
            "haproxy:tcp:80",
            f"ssl:haproxy:tcp:80:{pem}",
            f"haproxy:unix:{self.folder}/sock",
        ):
            self.assertEqual(self.backlog(description), 1024, description)
        for description in (
            "tcp:80:backlog=7",
            "tcp:80:127.0.0.1:7",
            "tcp6:80:7",
            "tcp6:80:interface=\\:\\:1:backlog=7",
            f"ssl:80:{pem}:backlog=7",
            f"unix:{self.folder}/sock:666:7",
        ):
            self.assertEqual(self.backlog(description), 7, description)

    def test_proxiedTLS(self) -> None:
        """
        TLS inside a proxied endpoint is refused with a hint: the proxy's
        header comes first, and a certificate there could not be reloaded.
        """
        self.assertEqual(
            self.refusal(f"haproxy:ssl:80:privateKey={self.pem}"),
            "a PROXY header comes before TLS: write ssl:haproxy:...",
        )
        self.assertEqual(
            self.refusal("haproxy:unix:/nowhere/sock"),
            "the folder /nowhere is not there",
        )

    def test_unixFolder(self) -> None:
        """
        The folder of a UNIX socket must exist.
        """
        for description in ("unix:/nowhere/sock", "unix:address=/nowhere/sock"):
            self.assertEqual(
                self.refusal(description), "the folder /nowhere is not there"
            )
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.assertEqual(self.backlog("unix:sock"), 1024)

    def test_unixFolderOfOthers(self) -> None:
        """
        The folder of a UNIX socket must be writable.
        """
        self.patch(os, "access", lambda path, mode: False)
        self.assertEqual(
            self.refusal(f"unix:{self.folder}/sock"),
            f"the folder {self.folder} can't be written to",
        )

    def test_quoted(self) -> None:
        """
        A file's name may contain a colon.
        """
        self.issued.write(self.folder / "a:b.pem")
        endpoint = listening.endpoint(
            self.reactor, f"ssl:80:privateKey={self.folder}/a\\:b.pem"
        )
        self.assertIsInstance(endpoint, TLSEndpoint)

    def test_onAnyEndpoint(self) -> None:
        """
        TLS can be used on any other endpoint in place of a port.
        """
        description = f"ssl:tcp6:80:interface=\\:\\:1:privateKey={self.pem}"
        endpoint = listening.endpoint(self.reactor, description)
        self.successResultOf(endpoint.listen(Factory()))
        ((number, tls, backlog, interface),) = self.reactor.tcpServers
        self.assertEqual((number, backlog, interface), (80, 1024, "::1"))
        self.assertIsInstance(tls, TLSMemoryBIOFactory)

    def test_noKey(self) -> None:
        """
        TLS without a key is refused.
        """
        self.assertEqual(self.refusal("ssl:80"), "privateKey=FILE is missing")

    def test_noMethod(self) -> None:
        """
        The version of TLS can't be chosen.
        """
        self.assertEqual(
            self.refusal(f"ssl:80:privateKey={self.pem}:sslmethod=TLSv1_METHOD"),
            "sslmethod can't be chosen: TLS 1.2 and 1.3 are spoken",
        )

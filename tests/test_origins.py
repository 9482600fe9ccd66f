"""
Tests for L{creditsync.web._origins}: which origins are accepted, and the
client of a request.
"""

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.test.requesthelper import DummyChannel

from creditsync.web._origins import Origins, normalized

PUBLIC = Origins(frozenset({"https://console.example.com"}))
NONE = Origins()


def made(
    peer: Any = "127.0.0.1", ours: str = "127.0.0.1", tls: bool = False, **headers: str
) -> Request:
    """
    A request with these headers, in whose names C{_} stands for a hyphen.

    @param peer: The client's address.
    @param ours: The address that it connected to.
    """
    channel = DummyChannel()
    channel.transport.peer = (
        IPv4Address("TCP", peer, 1) if isinstance(peer, str) else peer
    )
    channel.transport.getHost = lambda: IPv4Address("TCP", ours, 8081)
    channel.isSecure = lambda: tls
    request = Request(channel)
    request.client = channel.transport.peer
    request.host = IPv4Address("TCP", ours, 8081)
    for name, value in headers.items():
        request.requestHeaders.addRawHeader(name.replace("_", "-"), value)
    return request


class NormalizedTests(SynchronousTestCase):
    """
    Tests for L{normalized}.
    """

    def test_origins(self) -> None:
        """
        An origin is normalized to the form that browsers send.
        """
        for given, expected in (
            ("https://console.example.com", "https://console.example.com"),
            ("HTTPS://Console.Example.com/", "https://console.example.com"),
            ("https://console.example.com:443", "https://console.example.com"),
            ("http://console.example.com:443", "http://console.example.com:443"),
            ("http://10.0.0.1:80", "http://10.0.0.1"),
            ("http://[::1]:8081", "http://[::1]:8081"),
            ("http://localhost:08081", "http://localhost:8081"),
            ("http://creditsync_upstream", "http://creditsync_upstream"),
        ):
            self.assertEqual(normalized(given), expected)

    def test_others(self) -> None:
        """
        A text that is not an origin is refused, and named.
        """
        for text in (
            "",
            "null",
            "console.example.com",
            "ftp://console.example.com",
            "https://console.example.com/creditsync",
            "https://console.example.com?",
            "https://user@console.example.com",
            "https://console.example.com:0",
            "https://console.example.com:65536",
            "https://console.example.com:",
            "https://console.example.com\n",
            "https://a.example https://b.example",
            "https://bücher.example",
            "https://",
        ):
            e = self.assertRaises(ValueError, normalized, text)
            self.assertTrue(str(e).startswith(f"{text} is not an origin such as"))


class SentTests(SynchronousTestCase):
    """
    Tests for L{Origins.hasSent}.
    """

    def test_sent(self) -> None:
        """
        A request is accepted from the host that it is for, whatever a proxy
        did to TLS and to the default port, and from a configured origin.
        """
        for origin, host, known, isOurs in (
            ("http://localhost:9001", "localhost:9001", NONE, True),
            ("http://LocalHost:9001", "localhost:9001", NONE, True),
            ("http://localhost:9001", "localhost:8081", NONE, False),
            ("https://console.example.com", "console.example.com", NONE, True),
            ("https://console.example.com", "console.example.com:443", NONE, True),
            ("https://console.example.com", "console.example.com:80", NONE, False),
            ("https://console.example.com", "127.0.0.1:8081", NONE, False),
            ("https://console.example.com", "127.0.0.1:8081", PUBLIC, True),
            ("http://console.example.com", "127.0.0.1:8081", PUBLIC, False),
            ("https://console.example.com:444", "127.0.0.1:8081", PUBLIC, False),
            ("https://console.example.com.evil", "127.0.0.1:8081", PUBLIC, False),
            ("http://127.0.0.1:8081", "127.0.0.1:8081", PUBLIC, True),
            ("null", "null", PUBLIC, False),
            ("", "", PUBLIC, False),
            ("http://a/b", "a/b", NONE, False),
        ):
            request = made(Origin=origin, Host=host)
            self.assertEqual(
                (origin, host, known.hasSent(request)), (origin, host, isOurs)
            )

    def test_without(self) -> None:
        """
        A request without the header is not accepted.
        """
        self.assertFalse(PUBLIC.hasSent(made(Host="console.example.com")))

    def test_expected(self) -> None:
        """
        The accepted origins are named.
        """
        self.assertEqual(
            PUBLIC.expected(made(Host="127.0.0.1:8081")),
            "http://127.0.0.1:8081 or https://console.example.com",
        )
        self.assertEqual(NONE.expected(made(tls=True, Host="a")), "https://a")


class ClientTests(SynchronousTestCase):
    """
    Tests for L{Origins.client} and L{Origins.isSecure}.
    """

    def test_forwarded(self) -> None:
        """
        The header of a proxy on this machine is trusted for the proxy's own
        entry, and no other.
        """
        here = UNIXAddress(b"/run/console")
        for peer, known, forwarded, client in (
            ("127.0.0.1", PUBLIC, "192.0.2.7", "192.0.2.7"),
            ("127.0.0.1", PUBLIC, "10.9.9.9, 192.0.2.7", "192.0.2.7"),
            ("127.0.0.1", PUBLIC, "2001:db8::7", "2001:db8::7"),
            ("127.0.0.1", PUBLIC, "unknown", "127.0.0.1"),
            ("127.0.0.1", PUBLIC, "\x1b[2J", "127.0.0.1"),
            ("127.0.0.1", PUBLIC, "", "127.0.0.1"),
            ("127.0.0.1", NONE, "192.0.2.7", "127.0.0.1"),
            ("192.0.2.1", PUBLIC, "192.0.2.7", "192.0.2.1"),
            (IPv6Address("TCP", "::1", 1), PUBLIC, "192.0.2.7", "192.0.2.7"),
            (here, PUBLIC, "192.0.2.7", "192.0.2.7"),
            (here, NONE, "192.0.2.7", "here"),
            (here, PUBLIC, "", "here"),
        ):
            request = made(peer, X_Forwarded_For=forwarded)
            self.assertEqual((forwarded, known.client(request)), (forwarded, client))

    def test_twoHeaders(self) -> None:
        """
        If there are several headers the last is the proxy's.
        """
        request = made(X_Forwarded_For="10.9.9.9")
        request.requestHeaders.addRawHeader("X-Forwarded-For", "192.0.2.7")
        self.assertEqual(PUBLIC.client(request), "192.0.2.7")

    def test_secure(self) -> None:
        """
        TLS is known from the connection, the browser or a proxy.
        """
        self.assertTrue(NONE.isSecure(made(tls=True)))
        self.assertTrue(NONE.isSecure(made(Origin="https://console.example.com")))
        self.assertTrue(PUBLIC.isSecure(made(X_Forwarded_Proto="https")))
        self.assertFalse(PUBLIC.isSecure(made(X_Forwarded_Proto="http")))
        self.assertFalse(NONE.isSecure(made(X_Forwarded_Proto="https")))
        self.assertFalse(PUBLIC.isSecure(made("192.0.2.1", X_Forwarded_Proto="https")))


class ReboundTests(SynchronousTestCase):
    """
    Tests for L{Origins.isRebound}.
    """

    def test_names(self) -> None:
        """
        On loopback only names that can't belong to another machine are
        accepted.
        """
        for host, isRebound in (
            ("127.0.0.1:8081", False),
            ("localhost:9001", False),
            ("a.localhost", False),
            ("[::1]:8081", False),
            ("creditsync:8081", False),
            ("console.example.com", False),
            ("Console.Example.com.:443", False),
            ("evil.example:8081", True),
            ("127.0.0.1.evil.example", True),
            ("localhost.evil.example", True),
            ("evil.example/", True),
            ("bad host", True),
        ):
            request = made(Host=host)
            self.assertEqual((host, PUBLIC.isRebound(request)), (host, isRebound))
        self.assertTrue(NONE.isRebound(made(Host="console.example.com")))

    def test_elsewhere(self) -> None:
        """
        On another address any name is accepted, and so is a request without a
        name, which is not from a browser.
        """
        self.assertFalse(
            NONE.isRebound(made(ours="192.0.2.2", Host="host.example.com"))
        )
        self.assertFalse(NONE.isRebound(made()))

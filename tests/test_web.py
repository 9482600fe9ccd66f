"""
Tests for L{creditsync.web}, over HTTP as a browser speaks it.
"""

import json
import os
from collections.abc import Callable
from email.parser import BytesParser
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock
from urllib.parse import quote

from attrs import Factory, define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from creditsync.codes import EV_RECORD_ADD, SESSION_ADMIN, SESSION_MANAGER
from creditsync.counters import SECONDS
from creditsync.ledger import _searching as searching
from creditsync.ledger._copying import backUp
from creditsync.ledger._searching import Found, tradesByKey, tradesOf
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Operation, Principal, Reservation, Trade, TradeEvent
from creditsync.web import _feed as feed
from creditsync.web import _search as search
from creditsync.web import _signing as signing
from creditsync.web._history import quantile
from creditsync.web._service import Web, WebSite, onLoopback
from creditsync.web.root import Root
from tests.lint import problems
from tests.observed import NOW, Client, ObservedTestCase
from tests.totals import withTotals

HERE = "http://localhost:8081"


@define(eq=False)
class Answer:
    """
    A response as a browser gets it.
    """

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """
        The body, as JSON.
        """
        return json.loads(self.body)


class Wire(StringTransport):
    """
    A connection in memory.
    """

    protocol: Any
    disconnected: bool = False

    def abortConnection(self) -> None:
        """
        See L{ITCPTransport.abortConnection}.
        """
        self.goes()

    def goes(self) -> None:
        """
        Lose the connection.
        """
        if not self.disconnected:
            self.disconnected = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


class Page:
    """
    A connection of a browser.
    """

    def __init__(self, site: WebSite) -> None:
        peer = IPv4Address("TCP", "127.0.0.1", 1)
        self.wire = Wire(peerAddress=peer)
        self.wire.protocol = site.buildProtocol(peer)
        self.wire.protocol.makeConnection(self.wire)

    def sends(self, text: bytes) -> None:
        """
        Send bytes.
        """
        self.wire.protocol.dataReceived(text)

    def answer(self) -> Answer:
        """
        Take what has come.
        """
        head, _, body = self.wire.value().partition(b"\r\n\r\n")
        self.wire.clear()
        first, _, rest = head.partition(b"\r\n")
        headers = BytesParser().parsebytes(rest)
        if headers["Transfer-Encoding"] == "chunked":
            body = unchunked(body)
        return Answer(int(first.split()[1]), headers, body)

    def events(self) -> list[tuple[str, Any]]:
        """
        Take the events of a stream that have come.
        """
        value = self.wire.value()
        self.wire.clear()
        _, _, body = value.partition(b"\r\n\r\n")
        body = unchunked(body if value.startswith(b"HTTP") else value)
        return [
            (lines[0].removeprefix("event: "), json.loads(lines[1][len("data: ") :]))
            for part in body.decode().split("\n\n")
            if len(lines := part.split("\n")) == 2
        ]

    def goes(self) -> None:
        """
        Close the connection.
        """
        self.wire.goes()


def unchunked(body: bytes) -> bytes:
    """
    A body without the lengths of its chunks.
    """
    whole = b""
    while body:
        length, _, body = body.partition(b"\r\n")
        size = int(length, 16)
        whole, body = whole + body[:size], body[size + 2 :]
    return whole


@define(eq=False)
class Elsewhere:
    """
    A thread that runs its calls when the test says so.
    """

    work: "list[tuple[Callable[[], Found], Deferred[Found]]]" = Factory(list)

    def run(self, blocking: Callable[[], Found]) -> "Deferred[Found]":
        """
        Queue a call.
        """
        done: Deferred[Found] = Deferred()
        self.work.append((blocking, done))
        return done

    def works(self) -> None:
        """
        Run the oldest call.
        """
        blocking, done = self.work.pop(0)
        execute(blocking).chainDeferred(done)


class WebTestCase(ObservedTestCase):
    """
    A site of a server in memory, and browsers.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        super().setUp()
        self.elsewhere = Elsewhere()
        self.open()

    def open(self, ledger: str | None = None, origins: tuple[str, ...] = ()) -> None:
        """
        Open the site of a server whose ledger is this file.
        """
        self.root = Root(
            self.metrics,
            run=self.elsewhere.run,
            ledger=ledger,
            origins=origins,
            instance="one",
        )
        self.root.start()
        self.site = WebSite(self.root, reactor=self.reactor)
        self.cookie = ""
        self.pages: list[Page] = []

    def ask(
        self, path: str, method: str = "GET", body: str = "", **headers: str
    ) -> Page:
        """
        Send a request.
        """
        page = Page(self.site)
        self.pages.append(page)
        lines = [f"{method} {path} HTTP/1.1"]
        if "Host" not in headers:
            lines.append("Host: localhost:8081")
        if self.cookie:
            lines.append(f"Cookie: {self.cookie}")
        if body:
            lines.append("Content-Type: application/x-www-form-urlencoded")
        lines += (f"{name}: {value}" for name, value in headers.items())
        lines += [f"Content-Length: {len(body)}", "", body]
        page.sends("\r\n".join(lines).encode())
        return page

    def get(self, path: str, **headers: str) -> Answer:
        """
        Get something.
        """
        return self.ask(path, **headers).answer()

    def post(
        self, path: str, body: str = "", Origin: str = HERE, **more: str
    ) -> Answer:
        """
        Post something.
        """
        return self.ask(path, "POST", body, Origin=Origin, **more).answer()

    def signIn(self, token: str = "manager") -> Answer:
        """
        Sign in, and keep the cookie.
        """
        answer = self.post("/session", f"token={token}")
        self.cookie = (answer.headers["Set-Cookie"] or "").partition(";")[0]
        return answer

    def assertAtRest(self) -> None:
        """
        No delayed calls are left but the server's own.
        """
        self.root.stop()
        for page in self.pages:
            page.goes()
        self.reactor.advance(0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ProbeTests(WebTestCase):
    """
    The pages for machines.
    """

    def test_metrics(self) -> None:
        """
        The metrics are in Prometheus' text format, or in OpenMetrics if the
        scraper accepts it.
        """
        answer = self.get("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))
        self.assertEqual(problems(answer.body.decode()), [])
        answer = self.get("/metrics", Accept="application/openmetrics-text")
        self.assertIn("openmetrics", answer.headers["Content-Type"])
        self.assertTrue(answer.body.endswith(b"# EOF\n"))

    def test_rebound(self) -> None:
        """
        A page of another site whose name resolves to this machine can't read
        the metrics, and the name is logged.
        """
        log: list[Any] = []
        globalLogPublisher.addObserver(log.append)
        self.addCleanup(globalLogPublisher.removeObserver, log.append)
        address = IPv4Address("TCP", "127.0.0.1", 8081)
        self.patch(Wire, "getHost", lambda _: address)
        answer = self.get("/metrics", Host="evil.example:8081")
        self.assertEqual((answer.status, answer.json["error"]), (403, "FORBIDDEN"))
        [event] = [each for each in log if "host" in each]
        self.assertEqual(
            formatEvent(event),
            "/metrics for 127.0.0.1 is refused: it was requested under the name"
            " evil.example:8081, which is neither an address nor in --web-origin.",
        )
        for host in ("localhost:8081", "127.0.0.1:8081"):
            self.assertEqual(self.get("/metrics", Host=host).status, 200)

    def test_health(self) -> None:
        """
        The health page answers with the reactor's lag.
        """
        self.reactor.advance(0.35)
        answer = self.get("/health")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json, {"status": "ok", "lag": 0.1})

    def test_ready(self) -> None:
        """
        The readiness page answers 200 as long as requests are served, then
        503.
        """
        answer = self.get("/ready")
        self.assertEqual((answer.status, answer.json), (200, {"status": "ready"}))
        self.server.stopService()
        answer = self.get("/ready")
        self.assertEqual(answer.status, 503)
        self.assertEqual(
            answer.json,
            {
                "status": "not ready",
                "reason": "the server is stopping or has not started",
            },
        )


class PageTests(WebTestCase):
    """
    The console's page, and the headers of every response.
    """

    def test_page(self) -> None:
        """
        The page can be loaded without a sign-in: it contains no data.
        """
        answer = self.get("/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")

    def test_static(self) -> None:
        """
        A file that the browser has already is not sent again.
        """
        folder = Path(feed.__file__).parent / "static"
        for path in folder.iterdir():
            answer = self.get(f"/static/{path.name}")
            self.assertEqual((answer.status, answer.body), (200, path.read_bytes()))
            again = self.get(
                f"/static/{path.name}", **{"If-None-Match": answer.headers["ETag"]}
            )
            self.assertEqual((again.status, again.body), (304, b""))

    def test_nothingElse(self) -> None:
        """
        No other file is served, inside or outside of the folder.
        """
        for path in (
            "/static",
            "/static/",
            "/static/../feed.py",
            "/static/..%2ffeed.py",
            "/nothing",
            "/session/nothing",
            "/health/more",
        ):
            self.assertEqual(self.get(path).status, 404, path)

    def test_headers(self) -> None:
        """
        Every response forbids foreign scripts and framing.
        """
        for answer in (
            self.get("/"),
            self.get("/nothing"),
            self.get("/feed"),
            self.get("/metrics"),
            self.post("/health"),
            self.ask("/", "DELETE").answer(),
            self.post("/session", Origin="http://elsewhere"),
        ):
            self.assertEqual(
                answer.headers["Content-Security-Policy"],
                "default-src 'none'; script-src 'self'; style-src 'self';"
                " connect-src 'self'; img-src 'self'; form-action 'self';"
                " frame-ancestors 'none'; base-uri 'none';"
                " require-trusted-types-for 'script'; trusted-types 'none'",
            )
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(answer.headers["Referrer-Policy"], "same-origin")
            self.assertIn(answer.headers["Cache-Control"], ("no-store", "no-cache"))
            self.assertEqual(answer.headers.get_all("Server"), ["creditsync"])

    def test_head(self) -> None:
        """
        HEAD responds as GET does, without the body, also for missing pages and
        the feed.
        """
        for path, status in (("/", 200), ("/static", 404), ("/session/end", 404)):
            answer = self.ask(path, "HEAD").answer()
            self.assertEqual((answer.status, answer.body), (status, b""))
        self.signIn()
        answer = self.ask("/feed", "HEAD").answer()
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertAtRest()

    def test_anyBytes(self) -> None:
        """
        Headers that are not ASCII don't cause a server error.
        """
        self.open(origins=("https://console.example.com",))
        for name in (
            "Host",
            "Origin",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "Accept",
        ):
            for method, path in (
                ("GET", "/session"),
                ("GET", "/metrics"),
                ("POST", "/session"),
                ("POST", "/session/end"),
            ):
                headers = {"Host": "localhost:8081", "Origin": HERE, name: "\xff\xfe"}
                page = Page(self.site)
                lines = [f"{each}: {value}\r\n" for each, value in headers.items()]
                head = f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n"
                page.sends(head.encode("latin-1"))
                self.assertLess(page.answer().status, 500, (name, method, path))

    def test_methods(self) -> None:
        """
        A method that a page does not have is refused with 405.
        """
        for path in ("/", "/health", "/metrics", "/search"):
            self.signIn()
            answer = self.post(path)
            self.assertEqual(
                (answer.status, answer.headers["Allow"]), (405, "GET, HEAD")
            )

    def test_longBody(self) -> None:
        """
        A body that is too long ends the connection instead of filling the
        disk.
        """
        page = self.ask("/session", "POST", "x" * 16_385, Origin=HERE)
        self.assertTrue(page.wire.disconnected)
        self.assertEqual(page.wire.value(), b"")

    def test_mounted(self) -> None:
        """
        An application can mount the site below a page of its own.
        """
        theirs = Resource()
        theirs.putChild(b"credits", self.root)
        self.site.resource = theirs
        self.assertEqual(self.get("/credits/").status, 200)
        self.assertEqual(self.get("/credits/health").status, 200)


class SignInTests(WebTestCase):
    """
    Sign-ins, and who may use the console.
    """

    def test_signIn(self) -> None:
        """
        A valid token becomes a cookie that scripts and other sites can't read,
        and that contains nothing of the token.
        """
        answer = self.signIn()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json, {"principal": 7, "role": "manager"})
        name, *attributes = answer.headers["Set-Cookie"].split("; ")
        self.assertGreater(len(name), 50)
        self.assertNotIn("manager", name)
        self.assertEqual(
            [each.lower() for each in attributes],
            ["path=/", "httponly", "samesite=strict"],
        )
        again = self.get("/session")
        self.assertEqual((again.status, again.json), (200, answer.json))

    def test_secure(self) -> None:
        """
        If the browser uses TLS, if only to a proxy, the cookie is sent over
        TLS only.
        """
        answer = self.post(
            "/session", "token=manager", Origin=HERE.replace("http:", "https:")
        )
        name, *attributes = answer.headers["Set-Cookie"].split("; ")
        self.assertTrue(name.startswith("__Host-creditsync_session_"), name)
        self.assertEqual(
            [each.lower() for each in attributes],
            ["path=/", "secure", "httponly", "samesite=strict"],
        )
        self.cookie = name
        self.assertEqual(self.get("/session").status, 200)
        # The proxy says that the browser speaks TLS: a plain cookie is not enough.
        self.open(origins=("https://console.example.com",))
        self.signIn()
        self.assertEqual(self.get("/session").status, 200)
        answer = self.get("/session", **{"X-Forwarded-Proto": "https"})
        self.assertEqual(answer.status, 401)
        answer = self.post("/session/end", Origin="https://localhost:8081")
        self.assertTrue(answer.headers["Set-Cookie"].startswith("__Host-"))
        self.assertIn("; secure", answer.headers["Set-Cookie"].lower())

    def test_cookieName(self) -> None:
        """
        Each console has a cookie of its own, which stays the same after a
        restart: browsers send a host's cookies to all its ports, and a proxy
        may serve several consoles on one of them.
        """
        names = []
        for instance, host in (
            ("one", "localhost:9001"),
            ("one", "localhost:9002"),
            ("two", "localhost:9001"),
            (None, "localhost:9001"),
            (None, "localhost:9001"),
            ("one", "LOCALHOST:9001"),
        ):
            root = Root(self.metrics, run=self.elsewhere.run, instance=instance)
            self.site.resource = root
            answer = self.post(
                "/session", "token=manager", Origin=f"http://{host}", Host=host
            )
            names.append(answer.headers["Set-Cookie"].partition("=")[0])
        self.assertEqual(names[5], names[0])
        self.assertEqual(len(set(names)), 5)

    def test_twoConsoles(self) -> None:
        """
        A browser that has the cookies of two consoles is signed in at both, until
        it signs out at one.
        """
        sites, cookies = [self.site], [self.signIn() and self.cookie]
        self.site = WebSite(
            Root(self.metrics, run=self.elsewhere.run, instance="two"),
            reactor=self.reactor,
        )
        self.cookie = cookies[0]
        self.assertEqual(self.get("/session").status, 401)
        cookies.append(self.signIn() and self.cookie)
        sites.append(self.site)
        self.cookie = "; ".join(cookies)
        statuses = []
        for self.site in sites:
            statuses.append(self.get("/session").status)
        self.assertEqual(statuses, [200, 200])
        self.assertEqual(self.post("/session/end").status, 204)
        statuses = []
        for self.site in sites:
            statuses.append(self.get("/session").status)
        self.assertEqual(statuses, [200, 401])

    def test_browser(self) -> None:
        """
        A browser that posts the form without a script is redirected to the
        page.
        """
        answer = self.post("/session", "token=manager", Accept="text/html,*/*")
        self.assertEqual((answer.status, answer.headers["Location"]), (303, "."))
        self.assertIn("creditsync_session", answer.headers["Set-Cookie"])

    def test_refused(self) -> None:
        """
        An invalid token, no token, and a role that may not use finance
        commands are refused.
        """
        for token, status, error in (
            ("nobody", 401, "UNAUTHORIZED"),
            ("", 401, "UNAUTHORIZED"),
            (quote("ü"), 401, "UNAUTHORIZED"),
            ("user", 403, "FORBIDDEN"),
        ):
            answer = self.signIn(token)
            self.assertEqual((answer.status, answer.json["error"]), (status, error))
            self.assertNotIn("Set-Cookie", answer.headers)
        self.assertEqual(self.post("/session").status, 401)

    def test_restricted(self) -> None:
        """
        A token that is restricted to some accounts can't sign in: the console shows
        all of them.
        """
        for name, groups in (("some", "real"), ("any", "*")):
            some = Principal(8, SESSION_MANAGER, inf, groups=groups)
            self.authenticator.accept(name, some)
            answer = self.signIn(name)
            self.assertEqual(answer.status, 403)
            self.assertEqual(
                answer.json["message"],
                "the console needs a token that is not restricted to some accounts",
            )
        chief = Principal(9, SESSION_ADMIN, inf, groups="real")
        self.authenticator.accept("chief", chief)
        self.assertEqual(self.signIn("chief").status, 200)

    def test_withoutSignIn(self) -> None:
        """
        Without a sign-in nothing is shown, whatever the cookie contains.
        """
        name = self.signIn().headers["Set-Cookie"].partition("=")[0]
        for cookie in ("", f"{name}=manager", f"{name}=\xff", "creditsync_session=x"):
            self.cookie = cookie
            for path in ("/session", "/feed", "/search?order=1"):
                answer = self.get(path)
                self.assertEqual(answer.status, 401, (cookie, path))
                self.assertEqual(answer.json["error"], "UNAUTHORIZED")

    def test_revoked(self) -> None:
        """
        A sign-in ends when its token is revoked.
        """
        self.signIn()
        self.authenticator.revoked.add("manager")
        self.assertEqual(self.get("/session").status, 401)
        self.authenticator.revoked.clear()
        self.assertEqual(self.get("/session").status, 401)

    def test_end(self) -> None:
        """
        A sign-out ends the sign-in, and deletes the browser's cookie.
        """
        self.signIn()
        answer = self.post("/session/end")
        self.assertEqual(answer.status, 204)
        self.assertIn("max-age=0", answer.headers["Set-Cookie"].lower())
        self.assertEqual(self.get("/session").status, 401)
        self.assertEqual(self.post("/session/end").status, 204)

    def test_otherSites(self) -> None:
        """
        Pages of other sites can sign nobody in or out.
        """
        self.signIn()
        for origin in ("http://elsewhere", "null", "", "http://localhost:8082"):
            for path in ("/session", "/session/end"):
                answer = self.post(path, "token=manager", Origin=origin)
                self.assertEqual(answer.status, 403, origin)
        without = self.ask("/session/end", "POST").answer()
        self.assertEqual(without.status, 403)
        self.assertEqual(self.get("/session").status, 200)

    def test_proxy(self) -> None:
        """
        A post through a proxy that sets Host to the upstream is refused, and
        the log has the origin received and the one expected; it is accepted
        once the public origin is configured.
        """
        log: list[Any] = []
        globalLogPublisher.addObserver(log.append)
        self.addCleanup(globalLogPublisher.removeObserver, log.append)
        origin = "https://console.example.com"
        for path in ("/session", "/session/end"):
            log.clear()
            answer = self.post(path, "token=manager", Origin=origin)
            self.assertEqual(answer.status, 403)
            self.assertEqual(
                answer.json["message"],
                "the origin https://console.example.com is not this site's; behind a"
                " proxy the server needs --web-origin",
            )
            [event] = [each for each in log if "origin" in each]
            self.assertEqual(
                formatEvent(event),
                f"{path} from 127.0.0.1 is refused: it came from the origin"
                " https://console.example.com, expected http://localhost:8081. If the"
                " console is behind a proxy, start the server with --web-origin and"
                " the origin that browsers show.",
            )
        self.open(origins=("https://Console.example.com:443",))
        answer = self.post("/session", "token=manager", Origin=origin)
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.signIn().status, 200)

    def test_hostileOrigin(self) -> None:
        """
        A long origin, or one with terminal control sequences, is logged short
        and escaped.
        """
        log: list[Any] = []
        globalLogPublisher.addObserver(log.append)
        self.addCleanup(globalLogPublisher.removeObserver, log.append)
        self.post("/session", Origin="\x1b[2J" + "x" * 5000)
        self.post("/session", Origin="")
        texts = [formatEvent(each) for each in log if "origin" in each]
        self.assertIn("the origin \\x1b[2Jxxx", texts[0])
        self.assertLess(len(texts[0]), 1000)
        self.assertIn("the origin none, expected", texts[1])

    def test_attemptsOfOthers(self) -> None:
        """
        A client that tries too often locks out only itself, also behind a
        proxy; all clients together have a limit too.
        """
        self.open(origins=("https://console.example.com",))

        def tries(client: str, token: str = "nobody") -> int:
            return self.post(
                "/session", f"token={token}", **{"X-Forwarded-For": client}
            ).status

        for _ in range(500):
            last = tries("192.0.2.1")
        self.assertEqual(last, 429)
        self.assertEqual(tries("192.0.2.2", "manager"), 200)
        statuses = [tries(f"192.0.3.{number}") for number in range(200)]
        self.assertEqual(statuses, [401] * 179 + [429] * 21)
        self.reactor.advance(0.1)
        self.assertEqual(tries("192.0.2.2", "manager"), 200)
        self.reactor.advance(20.1)
        self.assertEqual(tries("192.0.2.2", "manager"), 200)
        signIns = self.root.children[b"session"]._signIns
        self.assertEqual(list(signIns._attempts._spent), [None, "192.0.2.2"])

    def test_attempts(self) -> None:
        """
        Attempts with invalid tokens are limited, so that verifying signatures
        does not delay the server's clients.
        """
        for _ in range(20):
            self.assertEqual(self.signIn("nobody").status, 401)
        self.assertEqual(self.signIn("manager").status, 429)
        self.reactor.advance(1)
        self.assertEqual(self.signIn("manager").status, 200)
        self.assertEqual(self.signIn("manager").status, 429)

    def test_most(self) -> None:
        """
        Above the limit, a new sign-in ends the oldest.
        """
        self.patch(signing, "_MAX_SIGN_INS", 2)
        cookies = []
        for _ in range(3):
            self.signIn()
            cookies.append(self.cookie)
        statuses = []
        for self.cookie in cookies:
            statuses.append(self.get("/session").status)
        self.assertEqual(statuses, [401, 200, 200])

    def test_over(self) -> None:
        """
        Sign-ins whose tokens have ended don't count against the limit.
        """
        self.patch(signing, "_MAX_SIGN_INS", 2)
        self.signIn("dealer")
        dealer = self.cookie
        self.signIn()
        self.authenticator.revoked.add("manager")
        self.signIn("admin")
        self.cookie = dealer
        self.assertEqual(self.get("/session").status, 200)
        self.assertEqual(len(self.root.children[b"session"]._signIns._principals), 2)


class FeedTests(WebTestCase):
    """
    The live feed.
    """

    def setUp(self) -> None:
        """
        Sign in.
        """
        super().setUp()
        self.signIn()

    def tick(self, seconds: int = 1) -> None:
        """
        Let seconds pass.
        """
        for _ in range(seconds):
            self.reactor.advance(1)

    def test_stream(self) -> None:
        """
        The feed sends the history once, and a snapshot every second.
        """
        self.tick(2)
        page = self.ask("/feed")
        self.assertIn(b"Content-Type: text/event-stream\r\n", page.wire.value())
        [(first, history), (second, snapshot)] = page.events()
        self.assertEqual((first, second), ("history", "snapshot"))
        self.assertEqual(len(history), 2)
        self.assertEqual(snapshot["point"], history[-1])
        self.tick(2)
        self.assertEqual([name for name, _ in page.events()], ["snapshot", "snapshot"])
        page.goes()
        self.tick()
        self.assertAtRest()

    def test_snapshot(self) -> None:
        """
        A snapshot has what has happened, and what is pending.
        """
        client = Client(self.server)
        client.asks()
        self.commits(0.02)
        client.asks("CreditOutSync", extID="b", data={**OUT, "amount": -301.0})
        client.asks(extID=7, data={**OUT, "amount": 1.5, "login": 1002})
        self.turns()
        self.tick()
        page = self.ask("/feed")
        [_, (_, snapshot)] = page.events()
        self.assertEqual(snapshot["time"], NOW + 1.02)
        self.assertEqual(snapshot["health"]["problem"], None)
        point = snapshot["point"]
        self.assertEqual((point["ok"], point["refused"], point["unknown"]), (1, 1, 0))
        self.assertTrue(0.015 < point["p99"] <= 0.02, point)
        self.assertEqual((point["waiters"], point["queued"]), (1, 1))
        self.assertEqual((point["booked"], snapshot["timeout"]), (1, 5.0))
        self.assertEqual(
            snapshot["waiters"],
            {
                "count": 1,
                "oldest": 1.0,
                "shown": [
                    {
                        "order": 2,
                        "login": 1002,
                        "command": "CreditInSync",
                        "extID": 7,
                        "peer": "192.0.2.7:5123",
                        "age": 1.0,
                    }
                ],
            },
        )
        self.assertEqual(snapshot["queue"], {"operations": 1, "oldest": 1.0})
        self.assertEqual(snapshot["commits"]["operations"], 1)
        self.assertEqual(
            snapshot["sessions"]["shown"],
            [
                {
                    "peer": "192.0.2.7:5123",
                    "role": "manager",
                    "principal": 7,
                    "unread": 0,
                    "isStalled": False,
                    "inFlight": 1,
                }
            ],
        )
        self.assertEqual(
            snapshot["trades"],
            [
                {
                    "time": int(NOW),
                    "order": 1,
                    "login": 1001,
                    "cmd": 7,
                    "kind": "credit in",
                    "state": 3,
                    "profit": "300.0",
                    "comment": "Promotion credit",
                    "type": 0,
                    "command": "CreditInSync",
                    "principal": 7,
                }
            ],
        )
        [refusal] = snapshot["refusals"]
        self.assertEqual(refusal["error"], "TRADE_NO_MONEY")
        self.assertEqual(refusal["extID"], "b")
        self.assertEqual(refusal["peer"], "192.0.2.7:5123")
        self.assertEqual(
            snapshot["outcomes"],
            [
                {
                    "command": "CreditInSync",
                    "status": 200,
                    "error": "",
                    "total": 1,
                    "rate": 1.0,
                },
                {
                    "command": "CreditOutSync",
                    "status": 409,
                    "error": "TRADE_NO_MONEY",
                    "total": 1,
                    "rate": 1.0,
                },
            ],
        )
        self.assertEqual(snapshot["totals"]["unbooked"], 0)
        self.tick()
        [(_, snapshot)] = page.events()
        self.assertEqual(snapshot["point"]["ok"], 0)
        self.assertEqual(snapshot["point"]["p99"], None)
        self.commits()

    def test_noApprovals(self) -> None:
        """
        Without finance requests it is known that there are none, unless the server
        doesn't count.
        """
        self.turns()
        nothing = {"count": 0, "oldest": None, "isComplete": True, "shown": []}
        [_, (_, snapshot)] = self.ask("/feed").events()
        self.assertEqual(snapshot["approvals"], nothing)
        self.server.approvals = None
        [_, (_, snapshot)] = self.ask("/feed").events()
        self.assertEqual(snapshot["approvals"], {**nothing, "isComplete": False})

    def test_approvals(self) -> None:
        """
        The finance requests that wait are counted, and the newest of them are shown
        with their makers.
        """
        client = Client(self.server)
        for number in range(51):
            client.asks("MngCreateFinanceRequest", number + 1, REQUEST, "admin")
        self.commits()
        self.tick(3)
        page = self.ask("/feed")
        [_, (_, snapshot)] = page.events()
        approvals = snapshot["approvals"]
        self.assertEqual((approvals["count"], approvals["oldest"]), (51, 3.0))
        self.assertTrue(approvals["isComplete"])
        self.assertEqual(
            [row["order"] for row in approvals["shown"]], list(range(51, 1, -1))
        )
        self.assertEqual(
            approvals["shown"][0],
            {
                "time": int(NOW),
                "order": 51,
                "login": 1001,
                "cmd": 8,
                "kind": "balance out",
                "state": 17,
                "profit": "-25.5",
                "comment": "For the move",
                "type": 0,
                "command": "MngCreateFinanceRequest",
                "principal": 9,
            },
        )
        client.asks("MngDeclineFinanceRequest", "no", {"order": 51})
        self.commits()
        self.tick()
        [(_, snapshot)] = page.events()
        self.assertEqual(snapshot["approvals"]["count"], 50)
        self.assertEqual(snapshot["approvals"]["shown"][0]["order"], 50)

    def test_hostile(self) -> None:
        """
        Text from clients can't break out of its line in the stream.
        """
        evil = 'x\n\nevent: ended\ndata: {}\n\n</script>"\\\u2028'
        client = Client(self.server)
        client.asks(extID="e\n\n", data={**OUT, "amount": 1.0, "comment": evil})
        self.commits()
        [_, (_, snapshot)] = self.ask("/feed").events()
        self.assertEqual(snapshot["trades"][0]["comment"], evil)

    def test_foreignEvents(self) -> None:
        """
        An event of another source is shown as far as its members are known.
        """
        data = {"order": 7, "profit": float("nan"), "comment": {1}}
        event = TradeEvent(EV_RECORD_ADD, data)
        self.counters.recentEvents.append(event)
        [_, (_, snapshot)] = self.ask("/feed").events()
        [trade] = snapshot["trades"]
        self.assertEqual((trade["order"], trade["profit"]), (7, "nan"))
        self.assertEqual((trade["login"], trade["principal"]), (None, None))

    def test_manyReaders(self) -> None:
        """
        Further readers than the limit get 503.
        """
        pages = [self.ask("/feed") for _ in range(feed.READERS)]
        self.assertEqual(self.get("/feed").status, 503)
        pages[0].goes()
        self.assertEqual(self.ask("/feed").events()[0][0], "history")

    def test_slowReader(self) -> None:
        """
        A reader that does not read is sent nothing, and is cut off after a
        while; others get everything.
        """
        slow, other = self.ask("/feed"), self.ask("/feed")
        slow.events(), other.events()
        assert slow.wire.producer is not None
        slow.wire.producer.pauseProducing()
        self.tick(10)
        self.assertEqual(slow.events(), [])
        self.assertFalse(slow.wire.disconnected)
        self.tick()
        self.assertTrue(slow.wire.disconnected)
        self.assertEqual(len(other.events()), 11)
        self.tick()
        self.assertEqual(len(other.events()), 1)

    def test_slowReaderThatReadsAgain(self) -> None:
        """
        A reader that reads again in time gets current snapshots.
        """
        page = self.ask("/feed")
        page.events()
        assert page.wire.producer is not None
        page.wire.producer.pauseProducing()
        self.tick(9)
        page.wire.producer.resumeProducing()
        self.tick(9)
        self.assertEqual(len(page.events()), 9)

    def test_end(self) -> None:
        """
        The stream ends with its sign-in.
        """
        page = self.ask("/feed")
        page.events()
        self.authenticator.revoked.add("manager")
        self.tick()
        self.assertEqual(page.events(), [("ended", {})])
        self.assertEqual(self.get("/feed").status, 401)
        self.tick()
        self.assertAtRest()

    def test_stop(self) -> None:
        """
        The streams end when the site stops.
        """
        page = self.ask("/feed")
        self.root.stop()
        self.assertTrue(page.wire.value().endswith(b"0\r\n\r\n"))
        self.assertAtRest()

    def test_manySessions(self) -> None:
        """
        Of many sessions the busiest are shown, from as many as may be
        examined.
        """
        clients = [Client(self.server) for _ in range(60)]
        clients[41].asks()
        self.turns()
        [_, (_, snapshot)] = self.ask("/feed").events()
        sessions = snapshot["sessions"]
        self.assertEqual((sessions["count"], sessions["isPartial"]), (60, False))
        self.assertEqual(len(sessions["shown"]), 50)
        self.assertEqual(sessions["shown"][0]["inFlight"], 1)
        self.assertEqual((sessions["inFlight"], sessions["stalled"]), (1, 0))
        with mock.patch("creditsync.web._history._LOOKED_AT", 59):
            [_, (_, snapshot)] = self.ask("/feed").events()
        self.assertTrue(snapshot["sessions"]["isPartial"])
        self.assertEqual(snapshot["sessions"]["count"], 60)
        self.commits()

    def test_catchingUp(self) -> None:
        """
        The console shows how many sessions are being sent earlier events.
        """
        client = Client(self.server)
        client.asks()
        self.commits()
        client.asks("Subscribe", "s", {"chanels": ["trade:event"], "since": "first"})
        client.protocol.pauseProducing()
        [_, (_, snapshot)] = self.ask("/feed").events()
        self.assertEqual(snapshot["sessions"]["catchingUp"], 1)
        client.goes()


OUT = {"login": 1001, "amount": -1.0, "comment": "Out"}
REQUEST = {"login": 1001, "cmd": 8, "amount": -25.5, "comment": "For the move"}


class QuantileTests(SynchronousTestCase):
    """
    Quantiles of a histogram.
    """

    def test_quantile(self) -> None:
        """
        A quantile is interpolated between the bounds of its bucket.
        """
        counts = [0] * (len(SECONDS) + 1)
        self.assertEqual(quantile(counts, 0.5), None)
        counts[SECONDS.index(0.2)] = 4
        counts[SECONDS.index(0.5)] = 4
        self.assertEqual(quantile(counts, 0.25), 0.15)
        self.assertEqual(quantile(counts, 0.5), 0.2)
        self.assertEqual(quantile(counts, 1.0), 0.5)
        counts[-1] = 100
        self.assertEqual(quantile(counts, 0.99), SECONDS[-1])


class SearchTests(WebTestCase):
    """
    Searches in a ledger on disk, which other processes could read too.
    """

    def setUp(self) -> None:
        """
        Sign in at a site whose ledger has a few trades.
        """
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "creditsync.db")
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        self.addCleanup(ledger.close)
        for login, key in ((1001, None), (1002, "k"), (1001, "k"), (1003, None)):
            order = ledger.newOrder()
            trade = Trade(order, login, 7, 3, 10**8, f"for {login}", 0, 0, int(NOW))
            asked = Operation("CreditIn", 7, login, 10**8, trade.comment, key=key)
            asked.principal = order
            ledger.commit(
                withTotals(ledger, [Reservation(EV_RECORD_ADD, trade, asked)])
            )
        self.open(self.path)
        self.signIn()

    def search(self, query: str) -> Any:
        """
        Search, and run the calls of the thread.
        """
        page = self.ask(f"/search?{query}")
        while self.elsewhere.work:
            self.elsewhere.works()
        answer = page.answer()
        self.assertEqual(answer.status, 200)
        return answer.json

    def orders(self, query: str) -> list[int]:
        """
        The orders that a search finds.
        """
        return [trade["order"] for trade in self.search(query)["trades"]]

    def test_login(self) -> None:
        """
        A login finds the account's trades, the newest first.
        """
        found = self.search("login=1001")
        self.assertEqual(
            found["trades"][0],
            {
                "time": int(NOW),
                "order": 3,
                "login": 1001,
                "cmd": 7,
                "kind": "credit in",
                "state": 3,
                "profit": "1.0",
                "comment": "for 1001",
            },
        )
        self.assertEqual([trade["order"] for trade in found["trades"]], [3, 1])
        self.assertEqual(found["note"], "the whole ledger was searched")
        self.assertEqual(self.orders("login=1004"), [])

    def test_key(self) -> None:
        """
        An extID finds what was booked under it as an idempotency key, by any
        principal.
        """
        self.assertEqual(self.orders("extID=k"), [3, 2])
        self.assertEqual(self.orders("extID=K"), [])

    def test_extID(self) -> None:
        """
        An extID finds requests that are pending, answered or refused.
        """
        client = Client(self.server)
        client.asks(extID="done")
        self.commits()
        client.asks("CreditOutSync", extID="refused", data={**OUT, "login": 9})
        client.asks(extID=77)
        self.turns()
        self.assertEqual(self.orders("extID=done"), [1])
        [refusal] = self.search("extID=refused")["refusals"]
        self.assertEqual(refusal["error"], "TRADE_NO_MONEY")
        [waiter] = self.search("extID=77")["waiters"]
        self.assertEqual((waiter["extID"], waiter["order"]), (77, 2))
        self.commits()

    def test_order(self) -> None:
        """
        An order finds its trade, booked or pending.
        """
        client = Client(self.server)
        client.asks()
        self.turns()
        found = self.search("order=1")
        self.assertEqual([each["state"] for each in found["trades"]], [10])
        self.assertEqual([each["order"] for each in found["waiters"]], [1])
        self.commits()
        found = self.search("order=1")
        self.assertEqual([each["state"] for each in found["trades"]], [3])
        self.assertEqual(found["waiters"], [])
        found = self.search("order=2")
        self.assertEqual((found["trades"], found["note"]), ([], "there is no order 2"))

    def test_bad(self) -> None:
        """
        A value that is not a valid number, or none at all, is refused.
        """
        for query in (
            "",
            "x=1",
            "order=",
            "order=a",
            "order=0",
            "order=9007199254740992",
            "login=-1",
            "login=%C2%B2",
            "login=1.0",
            "extID=",
            "extID=%20",
        ):
            answer = self.get(f"/search?{query}")
            self.assertEqual(answer.status, 400, query)
            self.assertEqual(answer.json["error"], "INVALID_DATA")

    def test_oneAtATime(self) -> None:
        """
        A second search at the same time is refused.
        """
        first = self.ask("/search?login=1001")
        second = self.get("/search?extID=k")
        self.assertEqual((second.status, second.json["error"]), (503, "BUSY"))
        self.elsewhere.works()
        self.assertEqual(first.answer().status, 200)
        self.assertEqual(self.orders("login=1003"), [4])

    def test_gone(self) -> None:
        """
        A browser that disconnects during a search does no harm.
        """
        self.ask("/search?login=1001").goes()
        self.elsewhere.works()
        self.assertEqual(self.orders("login=1003"), [4])

    def test_unreadable(self) -> None:
        """
        A ledger that can't be read is reported.
        """
        self.open(self.path + ".not")
        self.signIn()
        page = self.ask("/search?login=1001")
        self.elsewhere.works()
        answer = page.answer()
        self.assertEqual(answer.status, 500)
        self.assertIn("there is no ledger", answer.json["message"])
        self.flushLoggedErrors()

    def test_noLedger(self) -> None:
        """
        Without a ledger, only what the server itself knows is found.
        """
        self.open()
        self.signIn()
        self.assertEqual(self.orders("login=1001"), [])

    def test_steps(self) -> None:
        """
        A search in many steps finds the same, stops when it has enough, and
        reports how far it came when its time is over.
        """
        self.patch(searching, "_STEP", 1)
        self.assertEqual(
            [trade.order for trade in tradesOf(self.path, 1001, 9, 1.0).trades], [3, 1]
        )
        one = tradesOf(self.path, 1001, 1, 1.0)
        self.assertEqual(([trade.order for trade in one.trades], one.downTo), ([3], 3))
        times = iter([0.0, 0.1, 0.2, 1.0])
        some = tradesOf(self.path, 1001, 9, 1.0, lambda: next(times))
        self.assertEqual(
            ([trade.order for trade in some.trades], some.downTo), ([3], 3)
        )
        self.assertEqual(tradesOf(self.path, 1001, 9, 1.0).downTo, 0)
        self.assertEqual(len(tradesByKey(self.path, "k", 1).trades), 1)

    def test_farApart(self) -> None:
        """
        A search in a restored copy, whose newer orders have far greater numbers,
        finds the older ones.
        """
        copy = f"{self.path}.copy"
        backUp(self.path, copy)
        ledger = SQLiteLedger(copy, execute)
        ledger.open()
        self.addCleanup(ledger.close)
        order = ledger.newOrder()
        trade = Trade(order, 1001, 7, 3, 10**8, "New", 1, 1, 1)
        asked = Operation("CreditIn", 7, 1001, 10**8, "New")
        ledger.commit(withTotals(ledger, [Reservation(EV_RECORD_ADD, trade, asked)]))
        found = tradesOf(copy, 1001, 9, 10.0)
        self.assertEqual([trade.order for trade in found.trades], [order, 3, 1])
        self.assertEqual(found.downTo, 0)

    def test_note(self) -> None:
        """
        A search that was not complete says so.
        """
        self.patch(search, "MAX_TRADES", 1)
        found = self.search("login=1001")
        self.assertEqual(found["note"], "only orders down to 3 were searched")


class ServiceTests(WebTestCase):
    """
    The site as a service.
    """

    def test_loopback(self) -> None:
        """
        The site listens on loopback unless the endpoint names an interface.
        """
        for given, made in (
            ("tcp:8081", "tcp:8081:interface=127.0.0.1"),
            ("tcp:port=8081", "tcp:port=8081:interface=127.0.0.1"),
            ("tcp:8081:backlog=9", "tcp:8081:backlog=9:interface=127.0.0.1"),
            ("tcp6:8081", r"tcp6:8081:interface=\:\:1"),
            (
                "ssl:8443:privateKey=k.pem",
                "ssl:8443:privateKey=k.pem:interface=127.0.0.1",
            ),
            ("tcp:8081:interface=0.0.0.0", None),
            ("tcp:8081:0.0.0.0", None),
            (r"tcp6:8081:interface=\:\:", None),
            ("unix:/run/web.sock", None),
            ("systemd:domain=INET:index=0", None),
            (
                "ssl:tcp:8443:privateKey=k.pem",
                "ssl:tcp:8443:privateKey=k.pem:interface=127.0.0.1",
            ),
            ("ssl:systemd:domain=INET:index=0:privateKey=k.pem", None),
            ("haproxy:tcp:8081", "haproxy:tcp:8081:interface=127.0.0.1"),
            (
                "ssl:haproxy:tcp:8443:privateKey=k.pem",
                "ssl:haproxy:tcp:8443:privateKey=k.pem:interface=127.0.0.1",
            ),
        ):
            self.assertEqual(onLoopback(given), made or given)

    def test_startAndStop(self) -> None:
        """
        The site takes its port once, and frees it when it stops.
        """
        web = Web(self.reactor, "tcp:8081", self.root)
        self.root.stop()
        web.privilegedStartService()
        web.startService()
        [*_, (port, site, _, interface)] = self.reactor.tcpServers
        self.assertEqual((port, interface), (8081, "127.0.0.1"))
        self.assertIsInstance(site, WebSite)
        self.assertEqual(len(self.reactor.tcpServers), 2)
        web.reload()
        self.successResultOf(web.stopService())
        self.assertAtRest()

    def test_takenPort(self) -> None:
        """
        A port in use fails the start.
        """

        class Taken(MemoryReactorClock):
            def listenTCP(self, *args: Any, **kwargs: Any) -> Any:
                raise CannotListenError("127.0.0.1", 8081, OSError("in use"))

        web = Web(Taken(), "tcp:8081", self.root)
        self.assertRaises(CannotListenError, web.privilegedStartService)

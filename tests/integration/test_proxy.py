"""
Tests for the console of server processes behind a real nginx.
"""

import http.client
import json
import ssl
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority
from tests.integration import chromium, nginx
from tests.integration.chromium import Chromium
from tests.integration.nginx import Nginx, freePort
from tests.integration.processes import CHECKOUT, LISTEN, SERVE, Server, Site
from tests.integration.test_console import token
from tests.integration.test_site import WEB, Browser

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(60, method="thread"),
    pytest.mark.skipif(nginx.FOUND is None, reason="no nginx is installed"),
]

# The headers that nginx sends by default, with the upstream's address as Host.
DEFAULTS = """
server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://{upstream}; }}
}}
"""

PATHS = """
server {{
    listen 127.0.0.1:{port};
    location /one/ {{
        proxy_pass http://{one}/;
        proxy_set_header Host $http_host;
    }}
    location /two/ {{
        proxy_pass http://{two}/;
        proxy_set_header Host $http_host;
    }}
}}
"""


class Visitor:
    """
    A browser at an origin, which keeps cookies for the host.

    @ivar cookies: By their names.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._context = context
        self.name = "localhost"
        self.address = "127.0.0.1"
        self.cookies: dict[str, str] = {}

    @property
    def origin(self) -> str:
        """
        The origin of the requests.
        """
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{self.name}:{self._port}"

    def ask(
        self, path: str, method: str = "GET", **form: str
    ) -> http.client.HTTPResponse:
        """
        Make a request.
        """
        where: Any = {"timeout": 20, "source_address": (self.address, 0)}
        connection = (
            http.client.HTTPConnection("127.0.0.1", self._port, **where)
            if self._context is None
            else http.client.HTTPSConnection(
                "localhost", self._port, context=self._context, **where
            )
        )
        headers = {
            "Host": self.origin.partition("://")[2],
            "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
        }
        if method == "POST":
            headers["Origin"] = self.origin
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, urlencode(form), headers)
        response = connection.getresponse()
        for cookie in response.headers.get_all("Set-Cookie", ()):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def status(self, path: str, method: str = "GET", **form: str) -> int:
        """
        Make a request, and return its status.
        """
        with self.ask(path, method, **form) as response:
            response.read()
            return response.status

    def signIn(self, path: str = "/") -> int:
        """
        Sign in.
        """
        return self.status(f"{path}session", "POST", token=token())


class ProxyTests(SynchronousTestCase):
    """
    Tests with nginx, and servers behind it.
    """

    def setUp(self) -> None:
        """
        Make a place for them.
        """
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.port = freePort()

    def serve(self, *options: str, name: str = "site") -> tuple[Server, str]:
        """
        Start a server.

        @return: The server, and the address of its console.
        """
        folder = self.folder / name
        folder.mkdir()
        site = Site(folder)
        self.addCleanup(site.killAll)
        server = site.start(*SERVE, *LISTEN, *WEB, *options)
        return server, Browser(server).host

    def proxy(self, servers: str) -> None:
        """
        Start nginx.
        """
        started = Nginx(self.folder / "nginx", servers, self.port)
        self.addCleanup(started.close)

    def deployed(self, upstream: str) -> ssl.SSLContext:
        """
        Start nginx with C{deploy/nginx.conf}, with other addresses and files.

        @return: A context that trusts its certificate.
        """
        authority = Authority("a")
        pem = authority.issue().write(self.folder / "server.pem")
        text = (CHECKOUT / "deploy" / "nginx.conf").read_text()
        for old, new in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("    listen [::]:443 ssl;\n", ""),
            ("server_name console.example.com;", "server_name console.localhost;"),
            ("/etc/nginx/tls/fullchain.pem", str(pem)),
            ("/etc/nginx/tls/key.pem", str(pem)),
            ("http://127.0.0.1:8081", f"http://{upstream}"),
        ):
            self.assertEqual(text.count(old), 1, old)
            text = text.replace(old, new)
        self.proxy(text)
        trust = self.folder / "authority.pem"
        trust.write_bytes(authority.issued.pem())
        return ssl.create_default_context(cafile=str(trust))

    def assertStreams(self, visitor: Visitor, path: str = "/") -> None:
        """
        Assert that the feed's events come one by one, as they are made.
        """
        feed = visitor.ask(f"{path}feed")
        self.assertEqual(feed.status, 200)
        times: list[float] = []
        while len(times) < 3:
            line = feed.readline()
            if line.startswith(b"data: {"):
                times.append(json.loads(line[6:])["time"])
                self.assertLess(abs(time.time() - times[-1]), 0.9)
        feed.close()
        self.assertGreaterEqual(times[2] - times[1], 0.9)

    def test_deployed(self) -> None:
        """
        With the recommended configuration everything works over TLS: the
        cookie is restricted to this host, events come at once, the log has the
        client's address, and pages without a sign-in are not exposed.
        """
        origin = f"https://console.localhost:{self.port}"
        server, upstream = self.serve("--web-origin", origin)
        visitor = Visitor(self.port, self.deployed(upstream))
        visitor.name = "console.localhost"
        visitor.address = "127.0.0.9"
        self.assertEqual(visitor.status("/"), 200)
        self.assertEqual(visitor.status("/session"), 401)
        with visitor.ask("/session", "POST", token=token()) as response:
            self.assertEqual(response.status, 200)
            cookie = response.headers["Set-Cookie"]
        self.assertRegex(cookie, "^__Host-creditsync_session_[0-9a-f]{16}=")
        self.assertIn("; secure", cookie.lower())
        self.assertEqual(visitor.status("/session"), 200)
        self.assertStreams(visitor)
        self.assertIn("7 has signed in from 127.0.0.9", server.output.read_text())
        for path in ("/metrics", "/health", "/ready"):
            self.assertEqual(visitor.status(path), 404)
        self.assertEqual(visitor.status("/session/end", "POST"), 204)
        self.assertEqual(visitor.status("/session"), 401)

    def test_hostAlone(self) -> None:
        """
        A proxy that passes the browser's Host on needs no option.
        """
        _, upstream = self.serve()
        visitor = Visitor(self.port, self.deployed(upstream))
        visitor.name = "console.localhost"
        self.assertEqual(visitor.signIn(), 200)
        self.assertStreams(visitor)

    def test_defaults(self) -> None:
        """
        With nginx's default headers a sign-in is refused, and the log has what
        came, what was expected and what to do.
        """
        server, upstream = self.serve()
        self.proxy(DEFAULTS.format(port=self.port, upstream=upstream))
        visitor = Visitor(self.port)
        self.assertEqual(visitor.signIn(), 403)
        self.assertIn(
            "/session from 127.0.0.1 is refused: it came from the origin"
            f" {visitor.origin}, expected http://{upstream}.",
            server.output.read_text(),
        )

    def test_defaultsWithOrigin(self) -> None:
        """
        With the option sign-ins work with nginx's default headers too, from
        each of several origins, and from no other.
        """
        _, upstream = self.serve(
            *("--web-origin", f"http://localhost:{self.port}/"),
            *("--web-origin", f"http://console.localhost:{self.port}"),
        )
        self.proxy(DEFAULTS.format(port=self.port, upstream=upstream))
        for name, status in (
            ("localhost", 200),
            ("console.localhost", 200),
            ("evil.localhost", 403),
        ):
            visitor = Visitor(self.port)
            visitor.name = name
            self.assertEqual((name, visitor.signIn()), (name, status))
        visitor = Visitor(self.port)
        visitor.signIn()
        self.assertEqual(visitor.status("/session"), 200)
        self.assertStreams(visitor)

    def test_paths(self) -> None:
        """
        Two consoles under two paths of one origin don't sign each other out.
        """
        _, one = self.serve(name="one")
        _, two = self.serve(name="two")
        self.proxy(PATHS.format(port=self.port, one=one, two=two))
        visitor = Visitor(self.port)
        for path in ("/one/", "/two/"):
            self.assertEqual(visitor.signIn(path), 200)
        for path in ("/one/", "/two/"):
            self.assertEqual(visitor.status(f"{path}session"), 200)
            self.assertStreams(visitor, path)
        self.assertEqual(visitor.status("/one/session/end", "POST"), 204)
        self.assertEqual(visitor.status("/one/session"), 401)
        self.assertEqual(visitor.status("/two/session"), 200)

    def test_ports(self) -> None:
        """
        Two consoles on two ports of one host don't sign each other out.
        """
        visitors = []
        cookies: dict[str, str] = {}
        for name in ("one", "two"):
            _, host = self.serve(name=name)
            visitor = Visitor(int(host.rpartition(":")[2]))
            visitor.cookies = cookies
            self.assertEqual(visitor.signIn(), 200)
            visitors.append(visitor)
        self.assertEqual(len(cookies), 2)
        for visitor in visitors:
            self.assertEqual(visitor.status("/session"), 200)

    @pytest.mark.skipif(chromium.FOUND is None, reason="no Chromium is installed")
    def test_browser(self) -> None:
        """
        A real browser signs in through the recommended proxy, and sees figures.
        """
        origin = f"https://console.localhost:{self.port}"
        _, upstream = self.serve("--web-origin", origin)
        self.deployed(upstream)
        profile = TemporaryDirectory(ignore_cleanup_errors=True)
        self.addCleanup(profile.cleanup)
        page = Chromium(Path(profile.name))
        self.addCleanup(page.close)
        page.call("Security.setIgnoreCertificateErrors", ignore=True)
        page.open(f"{origin}/")
        page.until("document.querySelector('#entrance:not([hidden])')")
        page.run(f"document.querySelector('#token').value = {json.dumps(token())}; 0")
        page.run("document.querySelector('#sign-in-button').click()")
        page.until("document.body.dataset.state === 'live'")
        # Signed in by the cookie, which no script can read.
        page.open(f"{origin}/")
        page.until("document.body.dataset.state === 'live'")
        self.assertEqual(page.run("document.cookie"), "")
        self.assertEqual(page.complaints, [])

"""
The site of a server process, as Prometheus and a browser see it.
"""

import http.client
import json
import re
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.processes import LISTEN, SERVE, Client, Server, Site
from tests.lint import problems

WEB = ["--web", "tcp:0"]


class Browser:
    """
    Asks the site of a server.
    """

    def __init__(self, server: Server) -> None:
        found = re.search(r"WebSite starting on (\d+)", server.output.read_text())
        assert found is not None
        self.host = f"127.0.0.1:{found[1]}"
        self.cookie = ""

    def ask(
        self, path: str, method: str = "GET", **form: str
    ) -> http.client.HTTPResponse:
        """
        Make a request.
        """
        connection = http.client.HTTPConnection(self.host, timeout=20)
        headers = {"Origin": f"http://{self.host}", "Cookie": self.cookie}
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, urlencode(form), headers)
        return connection.getresponse()

    def json(self, path: str, method: str = "GET", **form: str) -> tuple[int, Any]:
        """
        Make a request, and wait for the whole of the answer.
        """
        with self.ask(path, method, **form) as response:
            return response.status, json.loads(response.read())

    def metrics(self) -> dict[str, float]:
        """
        Scrape, and take the sum over the labels of each series.
        """
        with self.ask("/metrics") as response:
            text = response.read().decode()
        assert problems(text) == []
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums


class WebTests(SynchronousTestCase):
    """
    A server process with C{--web}.
    """

    def setUp(self) -> None:
        """
        Make a place for it.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Site(Path(folder.name))
        self.addCleanup(self.folder.killAll)

    def start(self, *options: str) -> tuple[Server, Browser]:
        """
        Start it.
        """
        server = self.folder.start(*SERVE, *LISTEN, *WEB, *options)
        return server, Browser(server)

    def until(self, browser: Browser, status: int) -> Any:
        """
        Wait until it is ready, or not.
        """
        for _ in range(200):
            found, body = browser.json("/ready")
            if found == status:
                return body
            time.sleep(0.02)
        raise AssertionError(f"/ready is {found}: {body}")

    def answered(self, client: Client, count: int) -> None:
        """
        Wait for so many replies.
        """
        replies = client.replies()
        for _ in range(count):
            self.assertEqual(next(replies)["status"], 200)

    def test_scrape(self) -> None:
        """
        After a hundred credits and a refusal the metrics are well formed, and
        tell of all of them; the money adds up.
        """
        server, browser = self.start()
        client = server.connect()
        client.send(*map(str, range(100)))
        self.answered(client, 100)
        client.send("bad", data={})
        next(client.replies())
        found = browser.metrics()
        # One request was the question whether the server is up.
        self.assertEqual(found["creditsync_requests_total"], 102)
        self.assertEqual(found["creditsync_request_seconds_count"], 102)
        for name in ("acknowledged", "booked", "published"):
            self.assertEqual(found[f"creditsync_operations_{name}_total"], 100)
        self.assertEqual(found["creditsync_operations_unbooked"], 0)
        self.assertEqual(found["creditsync_operations_unpublished"], 0)
        self.assertEqual(found["creditsync_commit_operations_sum"], 100)
        self.assertEqual(found["creditsync_sessions"], 1)
        self.assertEqual(found["creditsync_waiters"], 0)
        self.assertGreater(found["process_cpu_seconds_total"], 0)
        client.close()

    def test_console(self) -> None:
        """
        Who has signed in sees what happens, and finds what was booked.
        """
        server, browser = self.start()
        client = server.connect()
        client.send("one")
        self.answered(client, 1)
        self.assertEqual(browser.json("/search?login=1001")[0], 401)
        with browser.ask("/session", "POST", token=client.token) as response:
            self.assertEqual(response.status, 200)
            self.assertNotIn(client.token, str(response.headers))
            browser.cookie = response.headers["Set-Cookie"].partition(";")[0]
        status, found = browser.json("/search?login=1001")
        self.assertEqual(status, 200)
        self.assertEqual([each["profit"] for each in found["trades"]], ["300.0"])
        feed = browser.ask("/feed")
        snapshots: list[Any] = []
        while len(snapshots) < 2:
            line = feed.readline()
            if line.startswith(b"data: {"):
                snapshots.append(json.loads(line[6:]))
        feed.close()
        self.assertEqual(snapshots[-1]["trades"][0]["comment"], "for one")
        self.assertGreaterEqual(snapshots[1]["time"] - snapshots[0]["time"], 0.9)
        client.close()

    def test_stuckLedger(self) -> None:
        """
        A ledger that can't commit makes the server not ready, until it can.
        """
        server, browser = self.start("--timeout", "0.2")
        self.until(browser, 200)
        other = self.folder.holdLedger()
        client = server.connect()
        client.sendUntilTaken("stuck")
        body = self.until(browser, 503)
        self.assertIn("the ledger has not ended a commit", body["reason"])
        self.assertEqual(browser.json("/health")[0], 200)
        other.close()
        self.until(browser, 200)
        self.assertEqual(browser.metrics()["creditsync_late_events_total"], 1)
        client.close()

    def test_drains(self) -> None:
        """
        While it stops it says that it is not ready, to the end.
        """
        server, browser = self.start()
        other = self.folder.holdLedger()
        client = server.connect()
        client.sendUntilTaken("last")
        server.signal(signal.SIGTERM)
        body = self.until(browser, 503)
        self.assertEqual(body["reason"], "the server is stopping or has not started")
        other.close()
        self.answered(client, 1)
        client.close()
        server.end()
        self.assertRaises(OSError, browser.ask, "/health")

    def test_takenPort(self) -> None:
        """
        A site that can't listen keeps the server from starting.
        """
        _, browser = self.start()
        port = browser.host.partition(":")[2]
        done = self.folder.run(
            *SERVE, *LISTEN, "--ledger", "other.db", "--web", f"tcp:{port}"
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("Address already in use", done.stdout + done.stderr)

    def test_badEndpoint(self) -> None:
        """
        An invalid endpoint is refused as an error in the command line.
        """
        done = self.folder.run(*SERVE, "--web", "nonsense")
        self.assertEqual(done.returncode, 2)
        self.assertIn(
            "--web nonsense is not a valid endpoint", done.stdout + done.stderr
        )

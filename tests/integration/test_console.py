"""
The console in a real browser, at the site of a server process.
"""

import json
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from twisted.trial.unittest import SynchronousTestCase

from creditsync.auth import mint
from creditsync.sandbox import SandboxProcess
from creditsync.web._feed import READERS
from tests.integration.chromium import FOUND, NAMES, Chromium
from tests.integration.processes import LISTEN, SECRET, SERVE, Server, Site
from tests.integration.test_site import WEB, Browser
from tests.postgres import ground

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(
        FOUND is None, reason=f"no Chromium is installed: none of {', '.join(NAMES)}"
    ),
]

EVIL = "<img src=x onerror=document.title='evil'><script>evil()</script>"

# The headline of a quiet server with these changes, after these seconds.
VERDICT = """
(async ([change, points]) => {
  const { recall, verdict } = await import("./static/verdict.js");
  const quiet = {
    time: 10, timeout: 5, commits: { last: 1 }, health: { problem: null },
    gateway: { isConnected: true, since: 1, problem: "gone", states: [] },
    waiters: { count: 0, oldest: 0 }, queue: { operations: 0, oldest: 0 },
    totals: { unbooked: 0, booked: 1, acknowledged: 1, timeouts: 0 },
    point: { time: 10, ok: 0, refused: 0, booked: 0 },
  };
  recall(points.map((each) => ({ ...quiet.point, ...each })));
  for (const [name, members] of Object.entries(change)) {
    Object.assign(quiet[name], members);
  }
  return verdict(quiet)[1];
})(ASKED)
"""


def token(role: int = 1, expires: float = 3600) -> str:
    """
    Mint a token.
    """
    return mint(SECRET, id=7, role=role, expires=expires, now=time.time())


class ConsoleTests(SynchronousTestCase):
    """
    The console, as an operator sees it.
    """

    chromium: ClassVar[Chromium]
    profile: ClassVar["TemporaryDirectory[str]"]

    @classmethod
    def setUpClass(cls) -> None:
        """
        Start the browser.
        """
        cls.profile = TemporaryDirectory(ignore_cleanup_errors=True)
        cls.chromium = Chromium(Path(cls.profile.name))

    @classmethod
    def tearDownClass(cls) -> None:
        """
        End it.
        """
        cls.chromium.close()
        cls.profile.cleanup()

    def setUp(self) -> None:
        """
        Start with a new folder for a server, and without a sign-in.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Site(Path(folder.name))
        self.addCleanup(self.folder.killAll)
        self.page = self.chromium
        self.page.call("Network.clearBrowserCookies")
        self.page.complaints.clear()
        self.page.show(1440, 900)

    def start(self, *options: str) -> Server:
        """
        Start the server, and open its console.
        """
        server = self.folder.start(*SERVE, *LISTEN, *WEB, *options)
        self.address = f"http://{Browser(server).host}/"
        self.page.open(self.address)
        self.page.until("document.querySelector('#entrance:not([hidden])')")
        return server

    def signIn(self, token: str) -> None:
        """
        Sign in with the form.
        """
        self.fill("token", token)
        self.page.run("document.querySelector('#sign-in-button').click()")

    def enter(self, *options: str) -> Server:
        """
        Start the server, sign in, and wait for figures.
        """
        server = self.start(*options)
        self.signIn(token())
        self.live()
        return server

    def live(self) -> None:
        """
        Wait for figures.
        """
        self.page.until("document.body.dataset.state === 'live'")

    def fill(self, name: str, value: str) -> None:
        """
        Fill in a field.
        """
        self.page.run(
            f"document.querySelector('#{name}').value = {json.dumps(value)}; 0"
        )

    def search(self, by: str, wanted: str) -> str:
        """
        Search.

        @return: What the page says of it.
        """
        self.fill("search-by", by)
        self.fill("search-for", wanted)
        self.page.run("document.querySelector('#search-button').click()")
        self.page.until(
            "!document.querySelector('#found').hidden"
            f" && document.querySelector('#found-title').textContent.includes({by!r})"
            " && document.querySelector('#found-what').textContent !== 'Searching…'"
        )
        return self.page.text("#found-what")

    def book(self, server: Server, *comments: str) -> None:
        """
        Have credits booked, each in a commit of its own.
        """
        client = server.connect()
        replies = client.replies()
        for number, comment in enumerate(comments):
            data = {"login": 1001 + number, "amount": 1234567.5, "comment": comment}
            client.send(f"credit-{number}", data=data)
            self.assertEqual(next(replies)["status"], 200)
        client.close()

    def test_node(self) -> None:
        """
        Of a node on PostgreSQL the page has the name, and how well it follows; it finds
        what was booked by login, by key and by order.
        """
        database = ground.database()
        self.addCleanup(database.drop)
        # It ends before its database goes.
        self.addCleanup(self.folder.killAll)
        port = database.server.port
        address = f"postgresql://postgres@127.0.0.1:{port}/{database.name}"
        server = self.enter("--ledger", address, "--node", "node-1")
        self.page.until("document.querySelector('#node-facts').innerText")
        self.assertEqual(self.page.text("#node-title"), "Node node-1")
        facts = self.page.text("#node-facts")
        self.assertIn("connected 1 times · journal read", facts)
        self.assertIn("0 events behind", facts)
        self.assertIn("commits are on one machine", facts)
        client = server.connect()
        client.send("a", idempotencyKey="key-1")
        order = str(next(client.replies())["data"]["order"])
        client.close()
        for by, wanted in (("login", "1001"), ("extID", "key-1"), ("order", order)):
            self.search(by, wanted)
            self.assertIn(order, self.page.text("#found-trades"), by)

    def enterGateway(self, sandbox: SandboxProcess, *options: str) -> Server:
        """
        Start a gateway in front of a sandbox, and sign in as an admin.
        """
        file = self.folder.folder / "platform.token"
        file.write_text(sandbox.token("admin"))
        server = self.start(
            *("--upstream", f"tcp:127.0.0.1:{sandbox.port}"),
            *("--upstream-token", str(file), "--timeout", "2", *options),
        )
        self.signIn(token(3))
        self.live()
        self.page.until(
            "document.querySelector('#platform-since').innerText !== '\u2013'"
        )
        return server

    def hold(self, server: Server, sandbox: SandboxProcess) -> list[int]:
        """
        Have an operation held: its request is lost, and people book two that are alike.

        @return: Their orders.
        """
        second = int(time.time()) - 5
        data = {"login": 1001, "amount": 300, "comment": EVIL, "open_time": second}
        sandbox.fault("lose-request", times=1, commands=["CreditIn"])
        client = server.connect()
        client.send("a", data=data, idempotencyKey="k")
        deadline = time.monotonic() + 10
        while not sandbox.faults()["lose-request"] and time.monotonic() < deadline:
            time.sleep(0.02)
        found = [sandbox.ask("CreditIn", data)["order"] for _ in range(2)]
        self.assertEqual(next(client.replies())["status"], 504)
        client.close()
        return found

    def decide(self, outcome: str, number: str, order: str = "") -> None:
        """
        Fill in a decision, and go as far as the question.
        """
        self.fill("decide-operation", number)
        self.fill("decide-outcome", outcome)
        self.page.run(
            "document.querySelector('#decide-outcome')"
            ".dispatchEvent(new Event('change'))"
        )
        self.fill("decide-order", order)
        self.page.run("document.querySelector('#decide-button').click()")

    def test_gateway(self) -> None:
        """
        Of a gateway the page has the platform's connection, and what is held, on which
        an admin decides after a question.
        """
        with SandboxProcess() as sandbox:
            server = self.enterGateway(sandbox)
            self.page.until(
                "document.querySelector('#platform-p50').innerText !== '\u2013'"
            )
            self.assertEqual(self.page.text("#platform-since-title"), "connected for")
            orders = self.hold(server, sandbox)
            self.page.until("document.querySelector('#unclear').rows.length === 1")
            self.page.until(
                "document.querySelector('#state-held').innerText.startsWith('1, for')"
            )
            row = self.page.text("#unclear")
            self.assertIn("CreditInSync\t300.00\t\u2013\tthe platform has several", row)
            self.assertIn(EVIL, row)
            self.assertEqual(self.page.text("#verdict-word"), "Held")
            self.assertIn("is held", self.page.text("#findings"))
            self.decide("booked", "17", "5")
            self.assertEqual(
                self.page.text("#decide-done"), "Operation 17 is not shown as held."
            )
            self.decide("booked", "1", str(orders[0]))
            self.assertEqual(
                self.page.text("#decide-what"),
                "Operation 1, CreditInSync of 300.00 for account 1001, was booked as"
                f" order {orders[0]}?",
            )
            for width, height in ((1440, 900), (390, 844)):
                self.page.show(width, height)
                scrolled = self.page.run("document.documentElement.scrollWidth")
                self.assertEqual(scrolled, width)
            self.page.run("document.querySelector('#decide-confirm').click()")
            self.page.until("document.querySelector('#unclear').rows.length === 0")
            self.assertEqual(
                self.page.text("#decide-done"), "Operation 1 is booked now."
            )
            self.assertEqual(self.page.complaints, [])

    def test_platformGone(self) -> None:
        """
        That the platform is away is the headline; a manager is not asked to decide, and
        the server refuses it if he does all the same.
        """
        with SandboxProcess() as sandbox:
            self.enterGateway(sandbox)
            self.page.run("document.querySelector('#sign-out').click()")
            self.page.until("!document.querySelector('#entrance').hidden")
            self.signIn(token())
            self.live()
            self.page.until("!document.querySelector('#gateway').hidden")
            self.assertTrue(self.page.run("document.querySelector('#decide').hidden"))
            asked = (
                "fetch('held', {method: 'POST', body: new URLSearchParams("
                "{operation: 1, outcome: 'absent'})}).then((a) => a.status)"
            )
            self.assertEqual(self.page.run(asked), 403)
            sandbox.kill()
            self.page.until(
                "document.querySelector('#verdict-word').textContent === 'No platform'"
            )
            self.assertEqual(
                self.page.text("#platform-since-title"), "not connected for"
            )

    def test_trade(self) -> None:
        """
        A trade appears, with its client's text as nothing but text; the
        bookings are consistent, and the browser reports no errors or policy
        violations.
        """
        server = self.enter()
        self.assertEqual(self.page.text("#verdict-word"), "Ready")
        self.assertIn("No trades", self.page.text("#trades-none"))
        self.book(server, EVIL, "\u202etxt.exe")
        self.page.until("document.querySelector('#trades').rows.length === 2")
        rows = self.page.text("#trades")
        self.assertIn(EVIL, rows)
        self.assertIn("⟨U+202E⟩txt.exe", rows)
        self.assertIn("1,234,567.50", rows)
        self.assertEqual(
            self.page.run(
                "document.querySelectorAll('#console :is(img, script)').length"
            ),
            0,
        )
        self.page.until("document.querySelector('#booked').textContent === '2'")
        self.assertEqual(self.page.text("#acknowledged"), "2")
        self.assertEqual(self.page.text("#consistency"), "Consistent")
        self.assertNotIn("evil", self.page.run("document.title"))
        self.assertEqual(self.page.complaints, [])

    def test_approvals(self) -> None:
        """
        A finance request is shown while it waits for approval, with who has made it,
        also after a restart; its events are not mistaken for bookings.
        """
        server = self.enter()
        self.assertIn("No finance requests", self.page.text("#approvals-none"))
        client = server.connect()
        data = {"login": 1001, "cmd": 9, "amount": -1234567.5, "comment": EVIL}
        client.send("a", command="MngCreateFinanceRequest", data=data)
        order = next(client.replies())["data"]["order"]
        client.close()
        self.page.until("document.querySelector('#approvals').rows.length === 1")
        self.assertRegex(
            self.page.text("#approvals"),
            rf"\t{order}\t1001\tcredit out\t\u22121,234,567.50\t7\t<img",
        )
        self.assertIn("the oldest for", self.page.text("#approvals-count"))
        self.assertIn("\trequested\t7\t", self.page.text("#trades"))
        self.assertEqual(self.search("order", str(order)), "Found: 1 trade.")
        self.assertIn("waits for approval", self.page.text("#found-trades"))
        server.signal(signal.SIGKILL)
        server.end()
        server = self.enter()
        self.page.until("document.querySelector('#approvals').rows.length === 1")
        self.assertRegex(
            self.page.text("#approvals"), rf"\t{order}\t.*\t\u22121,234,567.50\t7\t"
        )
        client = server.connect()
        client.send("b", command="MngDeclineFinanceRequest", data={"order": order})
        self.assertEqual(next(client.replies())["status"], 200)
        client.close()
        self.page.until("document.querySelector('#approvals').rows.length === 0")
        self.assertEqual(self.page.text("#approvals-count"), "")
        self.assertIn("\tdeclined\t7\t", self.page.text("#trades"))
        self.assertEqual(self.page.complaints, [])

    def test_approved(self) -> None:
        """
        The event of an approval says so.
        """
        server = self.enter("--self-approval")
        client = server.connect()
        data = {"login": 1001, "cmd": 6, "amount": 5}
        client.send("a", command="MngCreateFinanceRequest", data=data)
        client.send("b", command="MngApproveFinanceRequestSync", data={"order": 1})
        replies = client.replies()
        self.assertEqual([next(replies)["status"] for _ in "ab"], [200, 200])
        client.close()
        self.page.until("document.querySelector('#trades').rows.length === 2")
        approved, requested = self.page.text("#trades").splitlines()
        self.assertIn("\tapproved\t7\t", approved)
        self.assertIn("\trequested\t7\t", requested)

    def test_refusal(self) -> None:
        """
        A refusal appears, with its hostile extID.
        """
        server = self.enter()
        client = server.connect()
        client.send(EVIL, data={})
        self.assertEqual(next(client.replies())["status"], 400)
        self.page.until("document.querySelector('#refusals').rows.length === 1")
        row = self.page.text("#refusals")
        self.assertIn("400 INVALID_DATA", row)
        self.assertIn(EVIL, row)
        self.assertEqual(self.page.complaints, [])
        client.close()

    def test_signIn(self) -> None:
        """
        A refused sign-in says why; after a good one there is a sign-out. The
        token is left nowhere in the page.
        """
        self.start()
        for bad, why in (
            ("nonsense", "The token is malformed."),
            (token()[:-3] + "AAA", "The token's signature is invalid."),
            (token(expires=-1), "The token has expired."),
            (token(role=0), "This token's role may not use the console."),
        ):
            self.signIn(bad)
            self.page.until(
                "document.querySelector('#sign-in-problem').textContent ==="
                f" {json.dumps(why)}"
            )
        self.assertEqual(self.page.text("#state"), "Signed out")
        self.signIn(token())
        self.live()
        self.assertEqual(self.page.text("#who"), "7, manager")
        self.assertEqual(self.page.run("document.querySelector('#token').value"), "")
        self.assertEqual(self.page.run("document.activeElement.id"), "verdict")
        self.assertEqual(self.page.run("document.cookie + localStorage.length"), "0")
        self.page.run("document.querySelector('#sign-out').click()")
        self.page.until("!document.querySelector('#entrance').hidden")
        self.assertEqual(self.page.run("fetch('feed').then((a) => a.status)"), 401)
        self.assertEqual(self.page.complaints, [])

    def test_search(self) -> None:
        """
        What was booked is found by its order, login and extID, and nothing
        else is.
        """
        server = self.enter()
        self.book(server, "first", "second")
        [order, *_] = self.folder.orders()
        for by, wanted in (
            ("order", str(order)),
            ("login", "1001"),
            ("extID", "credit-0"),
        ):
            self.assertEqual(self.search(by, wanted), "Found: 1 trade.")
            self.assertIn("first", self.page.text("#found-trades"))
        self.assertEqual(self.search("login", "5"), "Nothing was found.")
        self.assertIn("The whole ledger", self.page.text("#found-note"))
        self.assertEqual(
            self.search("order", "x"),
            "Can't search: order must be a whole number.",
        )
        self.assertIn(EVIL, self.searchedTitle("extID", EVIL))
        self.assertEqual(self.page.complaints, [])

    def searchedTitle(self, by: str, wanted: str) -> str:
        """
        The title over the results.
        """
        self.search(by, wanted)
        return self.page.text("#found-title")

    def test_stuck(self) -> None:
        """
        A ledger that does not commit is the headline, and the pending request
        is in the table, until it commits.
        """
        server = self.enter("--timeout", "20")
        other = self.folder.holdLedger()
        client = server.connect()
        client.sendUntilTaken("stuck-1")
        self.page.until(
            "document.querySelector('#verdict-word').textContent === 'Stuck'"
        )
        self.assertIn("1 operation waits", self.page.text("#verdict-why"))
        self.assertIn("stuck-1", self.page.text("#waiting"))
        self.assertEqual(self.page.text("#waits"), "1")
        other.close()
        self.page.until("document.querySelector('#waits').textContent === '0'")
        self.page.until(
            "document.querySelector('#verdict-word').textContent !== 'Stuck'"
        )
        client.close()

    def test_stale(self) -> None:
        """
        Without snapshots the page says that its figures are old, and continues
        when they come again; it says so too when the server is gone.
        """
        server = self.enter()
        server.signal(signal.SIGSTOP)
        self.page.until("document.body.dataset.state === 'stale'")
        self.assertIn("No figures for", self.page.text("#verdict-why"))
        self.assertIn(
            "grayscale",
            self.page.run(
                "getComputedStyle(document.querySelector('#figures')).filter"
            ),
        )
        server.signal(signal.SIGCONT)
        self.live()
        server.signal(signal.SIGKILL)
        self.page.until("document.body.dataset.state === 'stale'")
        self.assertEqual(self.page.text("#verdict-word"), "Stale")
        self.assertEqual(self.page.complaints, [])

    def test_ended(self) -> None:
        """
        A sign-in ends with its token, and nothing that was shown stays.
        """
        server = self.start()
        self.signIn(token(expires=4))
        self.live()
        self.book(server, "seen")
        self.page.until("document.querySelector('#trades').rows.length === 1")
        self.page.until("document.querySelector('#console').hidden")
        self.assertEqual(
            self.page.text("#sign-in-problem"),
            "Your sign-in has ended: its token has expired or was revoked.",
        )
        self.assertEqual(self.page.run("document.querySelectorAll('td').length"), 0)
        self.assertEqual(self.page.complaints, [])

    def test_restart(self) -> None:
        """
        After a restart, which ends all sign-ins, the page asks for a new one.
        """
        server = self.enter()
        port = self.address.rpartition(":")[2].rstrip("/")
        server.signal(signal.SIGKILL)
        server.end()
        self.folder.start(*SERVE, *LISTEN, "--web", f"tcp:{port}")
        self.page.until("document.querySelector('#console').hidden")
        self.assertIn("has restarted", self.page.text("#sign-in-problem"))

    def test_two(self) -> None:
        """
        A browser can be signed in at two consoles of one host, as with two
        forwarded ports.
        """
        self.enter()
        first = self.address
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Site(Path(folder.name))
        self.addCleanup(self.folder.killAll)
        self.enter()
        second = self.address
        for address in (first, second, first):
            self.page.open(address)
            self.live()
        self.page.run("document.querySelector('#sign-out').click()")
        self.page.until("!document.querySelector('#entrance').hidden")
        self.page.open(second)
        self.live()

    def test_full(self) -> None:
        """
        A console above the limit of readers says so, and gets its feed later.
        """
        server = self.start()
        other = Browser(server)
        with other.ask("/session", "POST", token=token()) as response:
            other.cookie = response.headers["Set-Cookie"].partition(";")[0]
        feeds = [other.ask("/feed") for _ in range(READERS)]
        self.signIn(token())
        self.page.until(
            "document.querySelector('#verdict-word').textContent === 'No feed'"
        )
        for feed in feeds:
            feed.close()
        self.live()

    def test_verdicts(self) -> None:
        """
        The headline is the worst problem, and one second without a success is
        not a problem.
        """
        self.enter()
        refusals = [{"time": second, "refused": 9} for second in range(1, 11)]
        for word, change, points in (
            ("Quiet", {}, []),
            ("Money is flowing", {"point": {"booked": 3}}, []),
            ("Quiet", {"point": {"refused": 9}}, []),
            ("Everything is refused", {"point": {"refused": 9}}, refusals),
            ("Money is flowing", {}, [*refusals, {"time": 9.5, "booked": 1}]),
            ("Slow", {"waiters": {"count": 1, "oldest": 2.5}}, []),
            ("Stuck", {"queue": {"operations": 1, "oldest": 1.5}}, []),
            ("Held", {"gateway": {"states": [{"state": "held", "count": 1}]}}, []),
            ("No platform", {"gateway": {"isConnected": False}}, []),
            ("Not ready", {"health": {"problem": "it stops"}}, []),
            ("Mismatch", {"totals": {"unbooked": 1}}, []),
        ):
            asked = json.dumps([change, points])
            found = self.page.run(VERDICT.replace("ASKED", asked))
            self.assertEqual((found, change), (word, change))

    def test_hidden(self) -> None:
        """
        A hidden or paused page requests nothing, and shows current figures
        afterwards.
        """
        self.enter()
        self.look("true")
        before = self.page.text("#facts")
        time.sleep(2.2)
        self.assertEqual(self.page.text("#facts"), before)
        self.look("false")
        self.live()
        self.page.until(f"document.querySelector('#facts').innerText !== {before!r}")
        self.page.run("document.querySelector('#pause').click()")
        before = self.page.text("#facts")
        self.assertEqual(self.page.text("#verdict-word"), "Paused")
        time.sleep(2.2)
        self.assertEqual(self.page.text("#facts"), before)
        self.page.run("document.querySelector('#pause').click()")
        self.live()

    def look(self, isHidden: str) -> None:
        """
        Switch to another tab, or back.
        """
        self.page.run(
            f"Object.defineProperty(document, 'hidden', {{value: {isHidden},"
            " configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )

    def test_bounds(self) -> None:
        """
        On a phone nothing is wider than the screen, and no table grows without
        limit.
        """
        server = self.enter()
        self.page.show(390, 844, "dark")
        self.book(server, *("x" * 128 for _ in range(120)))
        self.page.until("document.querySelector('#trades').rows.length === 50")
        self.assertEqual(self.page.run("document.documentElement.scrollWidth"), 390)
        shown = self.page.run(
            "import('./static/page.js').then(({ Table }) =>"
            " new Table('trades', []).show(Array(1000).fill({})))"
        )
        self.assertEqual(shown, 50)
        self.search("login", "1001")
        self.assertEqual(self.page.run("document.documentElement.scrollWidth"), 390)

    def test_policy(self) -> None:
        """
        The browser refuses markup from scripts and images of other sites, and
        these tests would see it.
        """
        self.start()
        refused = self.page.run(
            "try { document.body.innerHTML = '<b>'; 0 } catch (e) { e.name }"
        )
        self.assertEqual(refused, "TypeError")
        self.page.run(
            "document.body.append(Object.assign(document.createElement('img'),"
            " {src: 'http://127.0.0.1:9/x.png'}))"
        )
        self.page.until("true")
        self.assertIn("Content Security Policy", str(self.page.complaints))

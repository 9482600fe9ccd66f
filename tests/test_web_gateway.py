"""
Tests for L{creditsync.web._gateway}: the gateway on the console, and decisions over
HTTP.
"""

from typing import Any

from twisted.internet.testing import MemoryReactorClock

from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.metrics import Metrics
from creditsync.records import Limits
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.observed import NOW, Client
from tests.platforms import Link, Platform
from tests.test_web import HERE, WebTestCase

CREDIT = {"login": 1001, "amount": 300.5, "comment": "gift"}


class GatewayTestCase(WebTestCase):
    """
    The site of a gateway in memory.
    """

    def serve(self, **limits: Any) -> None:
        """
        See L{ObservedTestCase.serve<tests.observed.ObservedTestCase.serve>}.
        """
        self.reactor = MemoryReactorClock()
        self.counters = Counters(self.reactor, self.now)
        self.authenticator = FakeAuthenticator()
        self.platform = Platform(self.now)
        self.link = Link(self.reactor, self.platform)
        self.log = MemoryIntentLog()
        events = TradeEvents()
        gateway = GatewayRuntime(
            self.reactor,
            self.log,
            self.link,
            events,
            now=self.now,
            maxQueued=100,
            alarm=lambda text: None,
        )
        self.server = CreditSync(
            self.reactor,
            runtime=gateway,
            events=events,
            authenticator=self.authenticator,
            listen=[],
            limits=Limits(**limits),
            counters=self.counters,
        )
        self.server.startService()
        self.metrics = Metrics(self.reactor, self.server, self.counters)
        self.wait(1)

    def now(self) -> float:
        """
        The UNIX time.
        """
        return NOW + self.reactor.seconds()

    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """
        for _ in range(int(seconds * 2)):
            self.reactor.advance(0.5)
            self.turns()
            self.turns()

    def shown(self) -> Any:
        """
        What a snapshot has of the gateway.
        """
        [_, (_, snapshot)] = self.ask("/feed").events()
        return snapshot["gateway"]

    def hold(self) -> None:
        """
        Have the platform lose a request, until the operation is held.
        """
        self.link.losesRequest.append("CreditIn")
        Client(self.server).asks(data=CREDIT, idempotencyKey="k")
        self.wait(181)


class SnapshotTests(GatewayTestCase):
    """
    What the console shows.
    """

    def setUp(self) -> None:
        """
        Sign in.
        """
        super().setUp()
        self.signIn()

    def test_quiet(self) -> None:
        """
        A gateway without operations tells for how long its platform has been connected,
        and what the verification has found that followed.
        """
        self.wait(9)
        self.link.figures.replied(0.5)
        self.link.figures.replied(0.25)
        self.assertEqual(
            self.shown(),
            {
                "isConnected": True,
                "since": 10.0,
                "problem": "",
                "completeUpTo": int(NOW),
                "delay": {"replies": 2, "p50": 0.25, "p99": 0.5},
                "states": [],
                "unclear": {"count": 0, "shown": []},
                "replies": {"lost": 0, "late": 0, "doubled": 0, "overtaking": 0},
                "alarms": {"count": 0, "shown": []},
                "verification": {
                    "time": int(NOW),
                    "looked": 0,
                    "count": 0,
                    "findings": [],
                },
            },
        )

    def test_gone(self) -> None:
        """
        Of a platform that is away it is told for how long, and why; without a reply
        there is no delay.
        """
        self.link.cut()
        self.wait(3)
        shown = self.shown()
        self.assertEqual(
            (shown["isConnected"], shown["since"], shown["problem"], shown["delay"]),
            (
                False,
                3.0,
                "the connection was lost",
                {"replies": 0, "p50": None, "p99": None},
            ),
        )

    def test_unclear(self) -> None:
        """
        What is held is shown one by one, and counted with the age of the oldest; what
        waits behind it is not sent.
        """
        self.hold()
        shown = self.shown()
        age = shown["states"][0]["oldest"]
        self.assertTrue(180 < age <= 182, age)
        self.assertEqual(
            shown["states"], [{"state": "held", "count": 1, "oldest": age}]
        )
        [row] = shown["unclear"]["shown"]
        self.assertEqual(shown["unclear"]["count"], 1)
        self.assertIn("the platform does not show it", row.pop("why"))
        self.assertEqual(
            row,
            {
                "operation": 1,
                "state": "held",
                "command": "CreditInSync",
                "login": 1001,
                "profit": "300.5",
                "comment": "gift",
                "order": None,
                "age": age,
            },
        )
        self.assertEqual(shown["replies"]["lost"], 1)
        [alarm] = shown["alarms"]["shown"]
        self.assertEqual(shown["alarms"]["count"], 1)
        self.assertIn("operation 1 of account 1001 is held", alarm["text"])
        self.assertTrue(NOW < alarm["time"] < self.now())

    def test_states(self) -> None:
        """
        What is under way is counted by its state, in the order of the states; the
        operations of one account wait for each other.
        """
        client = Client(self.server)
        for number, login in enumerate((1001, 1001, 1002)):
            client.asks(extID=number, data={**CREDIT, "login": login})
        self.wait(1)
        self.assertEqual(
            [(each["state"], each["count"]) for each in self.shown()["states"]],
            [("new", 1), ("accepted", 2)],
        )

    def test_overtaking(self) -> None:
        """
        An event that comes before the reply that names its order is counted, and it is
        not shown as unclear.
        """
        self.link.isAutomatic = False
        Client(self.server).asks(data=CREDIT)
        self.turns()
        self.link.deliverRequest()
        self.platform.work()
        self.link.deliverEvent()
        self.assertEqual(self.shown()["replies"]["overtaking"], 0)
        self.link.deliverReply()
        self.turns()
        shown = self.shown()
        self.assertEqual((shown["replies"]["overtaking"], shown["states"]), (1, []))

    def test_verification(self) -> None:
        """
        What the last verification has found is shown, also what an alarm has told
        before.
        """
        Client(self.server).asks(data=CREDIT)
        self.turns()
        self.platform.work()
        self.wait(10)
        del self.platform.trades[5001]
        for _ in range(2):
            self.link.cut()
            self.link.connect()
            self.wait(1)
        shown = self.shown()
        text = "order 5001, which the platform had booked, is not booked there any more"
        self.assertEqual(
            shown["verification"],
            {
                "time": int(self.now()) - 1,
                "looked": 1,
                "count": 1,
                "findings": [text],
            },
        )
        self.assertEqual([each["text"] for each in shown["alarms"]["shown"]], [text])


class DecisionTests(GatewayTestCase):
    """
    C{POST held}.
    """

    def decide(self, form: str, **headers: str) -> tuple[int, Any]:
        """
        Send a decision.

        @return: The status of the response, and its body.
        """
        page = self.ask("/held", "POST", form, **{"Origin": HERE, **headers})
        self.wait(1)
        answer = page.answer()
        return answer.status, answer.json

    def test_booked(self) -> None:
        """
        An admin decides that an operation was booked, as an order that the platform
        shows.
        """
        self.hold()
        order = self.platform.person(1001, 7, 300.5)
        self.signIn("admin")
        self.assertEqual(
            self.decide(f"operation=1&outcome=booked&order={order}"),
            (200, {"operation": 1, "outcome": "booked"}),
        )
        self.assertEqual(self.shown()["unclear"]["count"], 0)
        self.assertEqual(
            self.decide(f"operation=1&outcome=booked&order={order}"),
            (
                404,
                {"error": "NOT_FOUND", "message": "there is no held operation 1"},
            ),
        )

    def test_absent(self) -> None:
        """
        An admin decides that an operation was never booked; who that was is in the log.
        """
        self.hold()
        self.signIn("admin")
        self.assertEqual(
            self.decide("operation=1&outcome=absent"),
            (200, {"operation": 1, "outcome": "absent"}),
        )
        [decided] = [each for each in self.log._rows.values() if each.decidedBy]
        self.assertEqual(decided.decidedBy, "principal 9")

    def test_refused(self) -> None:
        """
        Nothing is decided by a manager, by a page of another site, without a sign-in,
        or by a form that can't be understood.
        """
        self.hold()
        form = "operation=1&outcome=absent"
        self.assertEqual(self.decide(form)[0], 401)
        self.signIn("manager")
        self.assertEqual(self.decide(form)[0], 403)
        self.signIn("admin")
        self.assertEqual(self.decide(form, Origin="http://evil.example")[0], 403)
        for bad in (
            "",
            "operation=1",
            "outcome=absent",
            "operation=1&outcome=booked",
            "operation=1&outcome=maybe",
            "operation=x&outcome=absent",
            "operation=0&outcome=absent",
            "operation=%ff&outcome=absent",
        ):
            status, answer = self.decide(bad)
            self.assertEqual((bad, status, answer["error"]), (bad, 400, "INVALID_DATA"))
        self.assertEqual(self.shown()["unclear"]["count"], 1)

    def test_unreachable(self) -> None:
        """
        While the platform does not answer, nobody can decide that something was booked.
        """
        self.hold()
        self.link.cut()
        self.signIn("admin")
        status, answer = self.decide("operation=1&outcome=booked&order=5")
        self.assertEqual((status, answer["error"]), (503, "BUSY"))

    def test_gone(self) -> None:
        """
        A browser that does not wait for the answer is not answered.
        """
        self.hold()
        self.signIn("admin")
        page = self.ask(
            "/held", "POST", "operation=1&outcome=booked&order=5", Origin=HERE
        )
        page.goes()
        self.wait(1)
        self.assertEqual(page.wire.value(), b"")


class NoGatewayTests(WebTestCase):
    """
    A server that books itself.
    """

    def test_none(self) -> None:
        """
        It shows no gateway, and has nothing to decide.
        """
        self.signIn("admin")
        [_, (_, snapshot)] = self.ask("/feed").events()
        self.assertIsNone(snapshot["gateway"])
        answer = self.post("/held", "operation=1&outcome=absent")
        self.assertEqual(
            (answer.status, answer.json["error"]), (404, "UNKNOWN_COMMAND")
        )

"""
Tests for L{creditsync.metrics}.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, providedBy

from creditsync import __version__
from creditsync._bookingrules import RulesFile
from creditsync._metrics.reactorlag import ReactorLag
from creditsync.auth import KeyFile
from creditsync.counters import Counters
from creditsync.errors import LedgerProblem
from creditsync.events import TradeEvents
from creditsync.interfaces import IReadiness
from creditsync.metrics import Metrics, exposition, registry
from creditsync.records import TradeEvent
from creditsync.revocations import Revocations
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime
from tests.lint import problems
from tests.observed import NOW, Client, ObservedTestCase


def values(metrics: Metrics) -> dict[str, Any]:
    """
    The value of each series, by its name and labels as they are written.
    """
    text, _ = exposition(registry(metrics), "")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


class LintTests(SynchronousTestCase):
    """
    The checks of the exposition find what is wrong.
    """

    GOOD = (
        "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n"
        'a_seconds_bucket{le="1.0"} 1.0\na_seconds_bucket{le="+Inf"} 2.0\n'
        "a_seconds_count 2.0\na_seconds_sum 3.5\n"
        '# HELP b_total Many.\n# TYPE b_total counter\nb_total{c="d"} 1.0\n'
    )

    def test_good(self) -> None:
        """
        Nothing is reported for a correct exposition.
        """
        self.assertEqual(problems(self.GOOD), [])

    def test_bad(self) -> None:
        """
        Each mistake is reported in words that name it.
        """
        for good, bad, word in (
            ("a_seconds", "a_ms", "base unit"),
            ("How long.", "", "help"),
            ("# HELP b_total Many.\n", "", "HELP"),
            ("# TYPE b_total counter\n", "", "type"),
            ('{le="+Inf"}', '{le="2.0"}', "no +Inf"),
            ('{le="1.0"} 1.0', '{le="1.0"} 3.0', "ascend"),
            ("_count 2.0", "_count 1.0", "another _count"),
            ("_sum 3.5", "_sum 0.9", "_sum 0.9"),
            ("a_seconds_sum 3.5\n", "", "_sum -1"),
            ("_sum 3.5\n", "_sum 3.5\na_seconds_sum 4\n", "twice"),
            ('b_total{c="d"} 1.0', 'b_total{c="d"} -1.0', "below zero"),
            ("b_total counter", "b_total gauge", "counter's name"),
        ):
            self.assertIn(good, self.GOOD)
            found = problems(self.GOOD.replace(good, bad))
            self.assertTrue(any(word in each for each in found), (bad, found))


class MetricsTests(ObservedTestCase):
    """
    What a scraper gets.
    """

    def test_lint(self) -> None:
        """
        The exposition is correct before anything has happened and after a lot
        has.
        """
        text, _ = exposition(registry(self.metrics), "")
        self.assertEqual(problems(text.decode()), [])
        self.aLot()
        text, _ = exposition(registry(self.metrics), "")
        self.assertEqual(problems(text.decode()), [])

    def aLot(self) -> None:
        """
        Let something of everything happen.
        """
        client = Client(self.server)
        client.asks()
        client.asks("CreditIn", extID="b")
        client.asks(extID="c", data={})
        client.asks(extID="d", token="nobody")
        client.asks('a"b\n\\', extID="e")
        client.says(b"x" * 70_000)
        self.commits(0.02)
        self.events.publish([TradeEvent(0, {"order": 7})])
        Client(self.server).asks()
        self.turns()

    def test_revocations(self) -> None:
        """
        A file of revoked tokens that can't be read is reported, even without
        requests.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "revoked")
        path.touch()
        name = "creditsync_revocations_stale{}"
        self.assertEqual(values(self.metrics)[name], 0.0)
        self.metrics.revocations = Revocations(path)
        self.assertEqual(values(self.metrics)[name], 0.0)
        path.write_bytes(b"\xff")
        self.assertEqual(values(self.metrics)[name], 1.0)
        path.write_bytes(b"x\n")
        self.assertEqual(values(self.metrics)[name], 0.0)

    def test_keys(self) -> None:
        """
        A JWK Set that can't be used any more is reported, even without requests, and
        logged once.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "keys.json")
        good = '{"keys":[{"kty":"oct","k":"%s"}]}' % ("A" * 43)
        path.write_text(good)
        logged: list[object] = []

        def observe(event: object) -> None:
            assert isinstance(event, dict)
            if event["log_level"] is LogLevel.error:
                logged.append(event["cause"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        name = "creditsync_keys_stale{}"
        self.assertEqual(values(self.metrics)[name], 0.0)
        self.metrics.keys = KeyFile(path)
        self.assertEqual(values(self.metrics)[name], 0.0)
        path.write_text("{")
        for _ in range(3):
            self.assertEqual(values(self.metrics)[name], 1.0)
        self.assertEqual(logged, ["are not valid JSON, as a JWK Set is"])
        path.write_text(good)
        self.assertEqual(values(self.metrics)[name], 0.0)

    def test_rules(self) -> None:
        """
        A file of rules that could not be reloaded is reported until it can.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "limits.toml")
        path.write_text("limit = []")
        name = "creditsync_limits_stale{}"
        self.assertEqual(values(self.metrics)[name], 0.0)
        self.metrics.rules = RulesFile(path)
        for text, isStale in (("", 1.0), ("limit = []", 0.0)):
            path.write_text(text)
            self.metrics.rules.reload()
            self.assertEqual(values(self.metrics)[name], isStale)

    def test_financeRequests(self) -> None:
        """
        Those that wait for approval are counted, and the oldest has its age; both are
        missing as long as those of before the start are not known.
        """
        names = ("finance_requests", "oldest_finance_request_seconds")
        one, other = (f"creditsync_{name}{{}}" for name in names)
        self.assertNotIn(one, values(self.metrics))
        self.assertNotIn(other, values(self.metrics))
        self.turns()
        found = values(self.metrics)
        self.assertEqual((found[one], found[other]), (0.0, 0.0))
        client = Client(self.server)
        for login in (1001, 1002):
            data = {"login": login, "cmd": 6, "amount": 300.0}
            client.asks("MngCreateFinanceRequest", login, data)
            self.commits()
        self.reactor.advance(60)
        found = values(self.metrics)
        self.assertEqual((found[one], found[other]), (2.0, 60.0))
        client.asks("MngApproveFinanceRequest", "b", {"order": 1}, "dealer")
        client.asks("MngDeclineFinanceRequest", "c", {"order": 2}, "dealer")
        self.commits()
        found = values(self.metrics)
        self.assertEqual((found[one], found[other]), (0.0, 0.0))

    def test_openMetrics(self) -> None:
        """
        A scraper that accepts OpenMetrics gets what its stricter parser
        accepts.
        """
        self.aLot()
        text, contentType = exposition(
            registry(self.metrics),
            "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.5",
        )
        self.assertIn("openmetrics-text", contentType)
        families = list(openmetrics.text_string_to_metric_families(text.decode()))
        self.assertIn("creditsync_requests", [family.name for family in families])

    def test_values(self) -> None:
        """
        After one booked, one pending and one refused request of each kind, the
        metrics have these values.
        """
        self.aLot()
        self.reactor.advance(0.5)
        found = values(self.metrics)
        expected = {
            "requests_total{command=CreditInSync,error=,status=200}": 1,
            "requests_total{command=CreditIn,error=,status=200}": 1,
            "requests_total{command=CreditInSync,error=INVALID_DATA,status=400}": 1,
            "requests_total{command=CreditInSync,error=UNAUTHORIZED,status=401}": 1,
            "requests_total{command=unknown,error=UNKNOWN_COMMAND,status=404}": 1,
            "requests_total{command=unknown,error=LINE_TOO_LONG,status=413}": 1,
            "request_seconds_count{command=CreditInSync}": 3,
            "request_seconds_bucket{command=CreditInSync,le=0.015}": 2,
            "request_seconds_bucket{command=CreditInSync,le=0.02}": 3,
            "request_seconds_sum{command=CreditInSync}": 0.02,
            "limit_refusals_total{limit=max-line-length}": 1,
            "token_rejections_total{}": 1,
            "waiters{}": 1,
            "oldest_waiter_seconds{}": 0.5,
            "timeouts_total{}": 0,
            "unmatched_events_total{}": 1,
            "sessions{role=manager}": 2,
            "sessions{role=none}": 0,
            "operations_acknowledged_total{}": 2,
            "operations_booked_total{}": 2,
            "operations_published_total{}": 3,
            "operations_unbooked{}": 0,
            "operations_unpublished{}": -1,
            "commit_operations_count{}": 1,
            "commit_operations_sum{}": 2,
            "queued_operations{}": 1,
            "oldest_queued_seconds{}": 0.5,
            f"build_info{{version={__version__}}}": 1,
        }
        for name, value in expected.items():
            self.assertAlmostEqual(found[f"creditsync_{name}"], value, msg=name)
        self.assertAlmostEqual(
            found["creditsync_last_commit_timestamp_seconds{}"], NOW + 0.02
        )

    def test_requestsAreTimed(self) -> None:
        """
        Each request that is counted is timed too.
        """
        self.aLot()
        found = values(self.metrics)
        for part in ("CreditIn", "CreditInSync", "unknown"):
            counted = [
                value
                for name, value in found.items()
                if name.startswith(f"creditsync_requests_total{{command={part},")
            ]
            timed = found[f"creditsync_request_seconds_count{{command={part}}}"]
            self.assertEqual(sum(counted), timed)

    def test_unread(self) -> None:
        """
        Bytes that a client does not read are shown, and that its connection is
        paused.
        """
        client = Client(self.server)
        client.protocol.pauseProducing()
        client.protocol.send(b"x" * 100)
        found = values(self.metrics)
        self.assertEqual(found["creditsync_unread_bytes{}"], 100)
        self.assertEqual(found["creditsync_stalled_sessions{}"], 1)

    def test_catchingUp(self) -> None:
        """
        A session that subscribes from an earlier place is shown until it has got
        everything.
        """
        client = Client(self.server)
        client.asks()
        self.commits()
        name = "creditsync_catching_up_sessions{}"
        self.assertEqual(values(self.metrics)[name], 0)
        data = {"chanels": ["trade:event"], "since": "first"}
        client.asks("Subscribe", "s", data)
        self.assertEqual(values(self.metrics)[name], 1)
        self.turns()
        self.assertEqual(values(self.metrics)[name], 0)

    def test_otherRegistry(self) -> None:
        """
        An application can register the metrics in a registry of its own.
        """
        theirs = CollectorRegistry(auto_describe=True)
        theirs.register(self.metrics)
        text, contentType = exposition(theirs, "")
        self.assertIn(b"creditsync_waiters 0.0\n", text)
        self.assertNotIn(b"process_", text)
        self.assertTrue(contentType.startswith("text/plain"))
        self.assertRaises(ValueError, theirs.register, self.metrics)

    def test_process(self) -> None:
        """
        Our own registry also has the metrics of the process.
        """
        found = values(self.metrics)
        self.assertGreater(found["process_resident_memory_bytes{}"], 1_000_000)

    def test_foreignRuntime(self) -> None:
        """
        With another trading runtime there are no metrics of queue and commits.
        """
        clock = Clock()
        events = TradeEvents()
        counters = Counters(clock, clock.seconds)
        server = CreditSync(
            clock,
            runtime=FakeTradingRuntime(events),
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
            counters=counters,
        )
        found = values(Metrics(clock, server, counters))
        self.assertIn("creditsync_waiters{}", found)
        for name in ("queued_operations", "operations_booked_total"):
            self.assertNotIn(f"creditsync_{name}{{}}", found)


class ProblemTests(ObservedTestCase):
    """
    Whether requests can be served.
    """

    def test_idle(self) -> None:
        """
        Having booked nothing for a long time is not a problem.
        """
        self.reactor.advance(86400)
        self.assertEqual(self.metrics.problem(), None)

    def test_stuck(self) -> None:
        """
        A commit that lasts longer than the timeout of requests is a problem
        until it ends.
        """
        Client(self.server).asks()
        self.turns()
        self.reactor.advance(5)
        self.assertEqual(self.metrics.problem(), None)
        self.reactor.advance(1)
        self.assertEqual(
            self.metrics.problem(), "the ledger has not ended a commit for 6 s"
        )
        self.commits()
        self.assertEqual(self.metrics.problem(), None)

    def test_failed(self) -> None:
        """
        A ledger that failed is a problem.
        """
        Client(self.server).asks()
        self.turns()
        self.ledger.fail(LedgerProblem("the disk is gone"))
        self.turns()
        self.flushLoggedErrors(LedgerProblem)
        self.server.whenFailed().addErrback(lambda _: None)
        self.assertEqual(self.metrics.problem(), "the trading runtime has failed")

    def test_unreachable(self) -> None:
        """
        So is what a runtime says that recovers by itself.
        """
        runtime: Any = self.server.runtime
        runtime.problem = "PostgreSQL can't be reached"
        self.assertIsNone(self.metrics.problem())
        directlyProvides(runtime, IReadiness, providedBy(runtime))
        self.assertEqual(self.metrics.problem(), "PostgreSQL can't be reached")
        runtime.problem = None
        self.assertIsNone(self.metrics.problem())

    def test_stopping(self) -> None:
        """
        A server that is stopping is a problem.
        """
        self.server.stopService()
        self.assertEqual(
            self.metrics.problem(), "the server is stopping or has not started"
        )


class ReactorLagTests(SynchronousTestCase):
    """
    How late the reactor is.
    """

    def test_lag(self) -> None:
        """
        A reactor that was busy for 0.4 s lags by 0.4 s.
        """
        clock = Clock()
        reactorLag = ReactorLag(clock)
        reactorLag.start()
        clock.advance(0.25)
        self.assertEqual(reactorLag.last, 0)
        clock.advance(0.65)
        self.assertAlmostEqual(reactorLag.last, 0.4)
        self.assertEqual(sum(reactorLag.histogram.counts), 2)
        reactorLag.stop()
        reactorLag.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

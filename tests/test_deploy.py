"""
Tests for C{deploy/} and C{docs/operations.rst}: what they name is there.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docutils.nodes import literal_block, section, title
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from creditsync import errors
from creditsync.auth import KeyFile, TokenAuthenticator
from creditsync.counters import Counters
from creditsync.errors import Refusal
from creditsync.events import TradeEvents
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.interfaces import ITradingRuntime
from creditsync.ledger.memory import MemoryLedger
from creditsync.metrics import Metrics, exposition, registry
from creditsync.postgres._runtime import PostgresRuntime
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.certificates import Authority
from tests.platforms import Link, Platform
from tests.test_readme import CHECKOUT, rendered
from tests.test_tap import InFolder

DEPLOY = CHECKOUT / "deploy"
OPERATIONS = CHECKOUT / "docs" / "operations.rst"

# The limits whose refusals have an error of their own.
LIMITS = {
    "LINE_TOO_LONG": {"max-line-length"},
    "TOO_MANY_REQUESTS": {"max-pending-per-session"},
    "BUSY": {"max-lookups", "max-pending", "max-queued"},
}

_SELECTED = re.compile(r"requests_total\{status=~\"([^\"]+)\"\}")
_LIMITED = re.compile(r"limit_refusals_total\{limit(=~|!~)\"([^\"]+)\"\}")
_NAME = re.compile(r"\b(?:creditsync|process)_[a-z_]+")


def alerts() -> list[str]:
    """
    The names of the alerts.
    """
    return re.findall(r"- alert: (\w+)", (DEPLOY / "alerts.yml").read_text())


def exported() -> set[str]:
    """
    The names of all samples that a server has for Prometheus, with a ledger of its own
    or as one of several.
    """
    reactor, events = MemoryReactorClock(), TradeEvents()
    counters = Counters(reactor, lambda: 0.0)
    common: dict[str, Any] = {"now": lambda: 0.0, "maxQueued": 1}
    platform = Link(reactor, Platform(lambda: 0.0))
    runtimes: list[ITradingRuntime] = [
        TradingRuntime(reactor, MemoryLedger(), events, counters=counters, **common),
        GatewayRuntime(reactor, MemoryIntentLog(), platform, events, **common),
        PostgresRuntime(
            reactor,
            lambda use: Deferred(),
            events,
            node="a",
            counters=counters,
            **common,
        ),
    ]
    return {
        name for each in runtimes for name in _samples(reactor, each, events, counters)
    }


def _samples(
    reactor: MemoryReactorClock,
    runtime: ITradingRuntime,
    events: TradeEvents,
    counters: Counters,
) -> Iterator[str]:
    service = CreditSync(
        reactor,
        runtime=runtime,
        events=events,
        authenticator=FakeAuthenticator(),
        listen=[],
        counters=counters,
    )
    text, _ = exposition(registry(Metrics(reactor, service, counters)), "")
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", text.decode(), re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        yield from (name + suffix for suffix in suffixes)


def told(refusal: type[Refusal]) -> set[str]:
    """
    The alerts that count requests with this refusal.
    """
    text = (DEPLOY / "alerts.yml").read_text()
    found = set()
    for name, rule in re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\Z)", text, re.DOTALL):
        statuses = _SELECTED.search(rule)
        if statuses and re.fullmatch(statuses[1], str(refusal.status)):
            found.add(name)
        limits = _LIMITED.search(rule)
        for limit in LIMITS.get(refusal.error, ()):
            if limits and bool(re.fullmatch(limits[2], limit)) == (limits[1] == "=~"):
                found.add(name)
    return found


class KeySetTests(SynchronousTestCase):
    """
    The example of a JWK Set in the guide.
    """

    def test_runs(self) -> None:
        """
        Its commands make a set, find it in order, and mint a token that a server with
        this set accepts.
        """
        tree, _ = rendered(OPERATIONS)
        [script] = [
            each.astext()
            for each in tree.findall(literal_block)
            if "genpkey" in each.astext()
        ]
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        ran = subprocess.run(
            [
                "sh",
                "-euc",
                f'creditsync() {{ "$PYTHON" -m creditsync "$@"; }}\n{script}',
            ],
            cwd=folder.name,
            env={
                "PATH": os.environ["PATH"],
                "PYTHON": sys.executable,
                "PYTHONPATH": str(CHECKOUT),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        *_, accepted, _, good, token = ran.stdout.splitlines()
        self.assertEqual(
            accepted,
            '# Tokens: EdDSA with kid "2026-01"; any audience; any issuer; iat and nbf'
            " up to 5 s ahead.",
        )
        self.assertEqual(good, "Configuration OK.")
        keys = KeyFile(Path(folder.name) / "keys.json")
        principal = TokenAuthenticator(keys).authenticate(token)
        self.assertEqual((principal.id, principal.role), (7, 1))


class MetricTests(SynchronousTestCase):
    """
    The metrics that dashboards and alerts ask for.
    """

    def test_alerts(self) -> None:
        """
        Each alert uses metrics that exist.
        """
        asked = set(_NAME.findall((DEPLOY / "alerts.yml").read_text()))
        self.assertEqual(asked - exported(), set())
        self.assertGreater(len(asked), 10)

    def test_refusals(self) -> None:
        """
        Business refusals, a client that exceeds a limit, a full server and a
        failing one are reported by different alerts.
        """
        refused, limited = {"CreditsyncRequestsRefused"}, {"CreditsyncLimitReached"}
        full, failing = {"CreditsyncFull"}, {"CreditsyncErrors"}
        expected = {
            "INVALID_JSON": refused,
            "INVALID_DATA": refused,
            # By a metric of its own, CreditsyncInvalidTokens.
            "UNAUTHORIZED": set(),
            "FORBIDDEN": refused,
            "UNKNOWN_COMMAND": refused,
            "USER_NOT_FOUND": refused,
            "NOT_FOUND": refused,
            "TRADE_NOT_FOUND": refused,
            "INCORRECT_ORDER": refused,
            "TRADE_NO_MONEY": refused,
            "LIMIT_EXCEEDED": refused,
            "PLATFORM_REFUSED": refused,
            "DUPLICATE_EXTID": refused,
            "CURSOR_GONE": refused,
            "IDEMPOTENCY_KEY_REUSED": refused,
            "LINE_TOO_LONG": limited,
            "TOO_MANY_REQUESTS": limited,
            "BUSY": full | limited,
            "SHUTDOWN": set(),
            "TECH_PROBLEM": failing,
            "SYNC_TIMEOUT": failing,
        }
        refusals = {
            each.error: each
            for each in vars(errors).values()
            if isinstance(each, type) and issubclass(each, errors.Refusal)
        }
        self.assertEqual({n: told(each) for n, each in refusals.items()}, expected)

    def test_dashboard(self) -> None:
        """
        Each panel of the dashboard uses metrics that exist.
        """
        dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
        asks = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
        asks += [v["query"]["query"] for v in dashboard["templating"]["list"][1:]]
        names = exported()
        for ask in asks:
            self.assertEqual(ask.count("("), ask.count(")"), ask)
            self.assertEqual(set(_NAME.findall(ask)) - names, set(), ask)

    def test_everyMetricIsShown(self) -> None:
        """
        Each metric of the server, except for the version, is on the dashboard
        or in an alert.
        """
        shown = (DEPLOY / "dashboard.json").read_text()
        shown += (DEPLOY / "alerts.yml").read_text()
        hidden = {
            name
            for name in exported()
            if name.startswith("creditsync_")
            and not name.endswith(("_sum", "_count"))
            and name not in shown
        }
        self.assertEqual(hidden, {"creditsync_build_info"})


class DocumentTests(SynchronousTestCase):
    """
    The document for operators.
    """

    def test_everyAlert(self) -> None:
        """
        Each alert has a section on what it means and what to do, in the order
        of the rules, and each section belongs to an alert.
        """
        tree, _ = rendered(OPERATIONS)
        titles = [
            each.next_node(title).astext()  # type: ignore[union-attr]
            for each in tree.findall(section)
        ]
        self.assertEqual(
            [text for text in titles if text.startswith("Creditsync")], alerts()
        )

    def test_files(self) -> None:
        """
        Each file of C{deploy/} is mentioned.
        """
        text = OPERATIONS.read_text("utf-8")
        for path in DEPLOY.iterdir():
            self.assertIn(f"``deploy/{path.name}``", text)


class CommandTests(InFolder):
    """
    The commands that start the server.
    """

    def test_unit(self) -> None:
        """
        The unit starts the server with its configuration file, whose keys are
        options.
        """
        config = (DEPLOY / "creditsync.toml").read_text()
        self.writeKey()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        pem = Authority("a").issue().write(Path(folder.name, "server.pem"))
        for path in ("key.pem", "fullchain.pem"):
            config = config.replace(f"/etc/creditsync/tls/{path}", str(pem))
        config = config.replace("/var/log/creditsync", folder.name)
        # What is commented out must be right too.
        config = re.sub(r"^# (?=[\w-]+ = )", "", config, flags=re.MULTILINE)
        revoked = Path(folder.name, "revoked")
        revoked.touch()
        config = config.replace("/etc/creditsync/revoked", str(revoked))
        limits = Path(folder.name, "limits.toml")
        limits.write_text("limit = []")
        config = config.replace("/etc/creditsync/limits.toml", str(limits))
        Path("c.toml").write_text(config)
        unit = (DEPLOY / "creditsync.service").read_text()
        [command] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
        self.assertTrue(command.startswith("/opt/creditsync/bin/creditsync serve "))
        command = command.replace("/etc/creditsync/creditsync.toml", "c.toml")
        command = command.replace("${CREDENTIALS_DIRECTORY}/key", "creditsync.key")
        options = self.parse(*shlex.split(command)[2:])
        self.assertEqual(len(options["listen"]), 1)
        self.assertLessEqual({"listen", "web", "audit", "log-json"}, options.filed)

    def test_container(self) -> None:
        """
        The container starts the server, and checks its health where it is
        served.
        """
        text = (DEPLOY / "Containerfile").read_text()
        [entry] = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
        [command] = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
        words = json.loads(entry) + json.loads(command)
        self.assertEqual(words[:2], ["creditsync", "serve"])
        options = self.parse(*words[2:])
        self.assertEqual(options["listen"], ["tcp:8080"])
        self.assertEqual(options["web"], "tcp:8081")
        self.assertIn("http://127.0.0.1:8081/ready", text)

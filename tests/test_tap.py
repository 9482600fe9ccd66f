"""
Tests for L{creditsync.tap}, and for what it puts together:
L{creditsync._process.composition} and L{creditsync._process.settling}.
"""

import gc
import os
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import fail
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from creditsync import tap
from creditsync._process.composition import instanceOf
from creditsync.auth import mint
from creditsync.errors import LedgerProblem, ShuttingDown, Unauthorized
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._twophase import TwoPhases
from creditsync.tap import Options
from tests.test_auth import b64
from tests.test_signals import keepSignals

SECRET = "0123456789abcdef0123456789abcdef"


def logTo(test: SynchronousTestCase) -> list[tuple[str, str]]:
    """
    Collect the level and the text of what is logged from now on.
    """
    lines: list[tuple[str, str]] = []

    def observe(event: Any) -> None:
        text = event["log_format"].format(**event)
        lines.append((event["log_level"].name, text))

    globalLogPublisher.addObserver(observe)
    test.addCleanup(globalLogPublisher.removeObserver, observe)
    return lines


class InFolder(SynchronousTestCase):
    """
    A test in an empty folder, without a key in the environment.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        self.patch(os, "environb", {})

    def parse(self, *arguments: str) -> Options:
        """
        Parse these arguments.
        """
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def writeKey(self, text: str = SECRET, mode: int = 0o600) -> None:
        """
        Write the key file where the server looks for it.
        """
        Path("creditsync.key").write_text(text)
        Path("creditsync.key").chmod(mode)


class MakeServiceTests(InFolder):
    """
    What C{twistd} asks for.
    """

    def setUp(self) -> None:
        super().setUp()
        from twisted.internet import reactor

        keepSignals(self)
        self.reactor: Any = reactor
        self.patch(reactor, "seconds", reactor.seconds)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())

    def test_monotonic(self) -> None:
        """
        The reactor's clock is monotonic, so that no step of the wall clock
        moves its timers.
        """
        tap.makeService(self.parse())
        self.assertIs(self.reactor.seconds, time.monotonic)

    def test_collector(self) -> None:
        """
        Requests that wait for a commit do not make the garbage collector run
        again and again.
        """
        tap.makeService(self.parse())
        self.assertEqual(gc.get_threshold(), (50_000, 20, 100))

    def test_service(self) -> None:
        """
        It returns a service that is not yet started: the ledger is not opened.
        """
        service = tap.makeService(self.parse())
        self.assertTrue(IService.providedBy(service))
        self.assertEqual(os.listdir(), ["creditsync.key"])

    def test_instance(self) -> None:
        """
        The name of a server stays the same after a restart, differs if the
        ledger, the key or the machine does, and does not contain the key.
        """
        key = SECRET.encode()
        name = instanceOf("creditsync.db", key)
        self.assertEqual(name, instanceOf(os.path.abspath("creditsync.db"), key))
        self.assertRegex(name, "^[0-9a-f]{32}$")
        others = [instanceOf("other.db", key), instanceOf("creditsync.db", b"")]
        self.patch(socket, "gethostname", lambda: "elsewhere")
        others.append(instanceOf("creditsync.db", key))
        self.assertEqual(len({name, *others}), 4)

    def test_keyIsKept(self) -> None:
        """
        A second start uses the key that the first one made.
        """
        tap.makeService(self.parse())
        key = Path("creditsync.key").read_text()
        tap.makeService(self.parse())
        self.assertEqual(Path("creditsync.key").read_text(), key)

    def test_authenticator(self) -> None:
        """
        The authenticator uses the key in each of its readings, the leeway and
        the revocations of the options.
        """
        binary = bytes(range(200, 240)) + b" "
        Path("creditsync.key").write_bytes(binary)
        Path("revoked").write_text("lost # John\n")
        server = tap.makeService(self.parse("--leeway=60", "--revoked=revoked"))
        authenticate = server.creditSync.sessions.authenticator.authenticate
        now = time.time()
        for key in (binary, binary[:-1]):
            authenticate(mint(key, id=7, role=1, expires=120, now=now + 30))
            token = mint(key, id=7, role=1, expires=120, now=now, jti="lost")
            self.assertRaises(Unauthorized, authenticate, token)
            token = mint(key, id=7, role=1, expires=120, now=now + 90)
            self.assertRaises(Unauthorized, authenticate, token)

    def test_tokens(self) -> None:
        """
        The start logs which tokens are accepted, by the options' key file, audience
        and issuer; a reload reads the file again.
        """
        k, other = (b64(bytes([n]) * 32) for n in (1, 2))
        text = f'{{"keys":[{{"kty":"oct","kid":"k","k":"{k}"}}]}}'
        self.writeKey(text)
        lines = logTo(self)
        server: Any = tap.makeService(self.parse("--audience=a", "--issuer=i"))
        self.assertIn(
            (
                "info",
                'Tokens: HS256 with kid "k"; audience "a"; issuer "i"; iat and nbf up'
                " to 5 s ahead.",
            ),
            lines,
        )
        self.assertIn(
            (
                "info",
                "Rights: a token without groups has all accounts; a finance request may"
                " be approved by anyone but its maker; limits: none.",
            ),
            lines,
        )
        judge = server.creditSync.sessions.authenticator

        def token(**claims: str) -> str:
            return mint(text, id=7, role=1, expires=60, now=time.time(), **claims)

        principal = judge.authenticate(token(audience="a", issuer="i"))
        self.assertRaises(Unauthorized, judge.authenticate, token(audience="a"))
        self.assertRaises(Unauthorized, judge.authenticate, token(issuer="i"))
        self.assertTrue(judge.isCurrent(principal))
        self.writeKey(text.replace(k, other))
        for each in server._reloads[1:]:
            each()
        self.assertFalse(judge.isCurrent(principal))

    def test_rules(self) -> None:
        """
        The runtime applies the rules of the file, which is read again on a reload.
        Without one it has no rules.
        """
        server: Any = tap.makeService(self.parse())
        self.assertIsNone(server.creditSync.runtime._rules)
        Path("l.toml").write_text('[[limit]]\nname = "n"\nmax-amount = 1')
        options = self.parse("--limits=l.toml")
        server = tap.makeService(options)
        self.assertIn(options["rules"].reload, server._reloads)
        rules = server.creditSync.runtime._rules
        self.assertEqual([rule.name for rule in rules._rules], ["n"])
        self.assertIs(rules._ledger, server.creditSync.runtime._ledger)

    def test_rulesAtAStop(self) -> None:
        """
        If the sums of the day can't be read, that is an error; unless the runtime has
        stopped, which closes the ledger.
        """
        Path("l.toml").write_text('[[limit]]\nname = "n"\nmax-amount = 1')
        for running, kind in ((1, LedgerProblem), (0, ShuttingDown)):
            options = self.parse("--limits=l.toml")
            runtime = tap.makeService(options).creditSync.runtime
            runtime.running, rules = running, runtime._rules
            rules._isStarted = True
            rules._read = lambda read: fail(LedgerProblem("closed"))
            self.failureResultOf(options["rules"].use(()), kind)

    def test_upstream(self) -> None:
        """
        With a platform behind it, the server has that book, by the way that the options
        have.
        """
        Path("p.toml").write_text(
            "two-phase = true\ncomment-tag = true\ncomment-length = 31\n"
        )
        options = self.parse(
            "--upstream=tcp:h:1",
            "--upstream-token=token",
            "--upstream-profile=p.toml",
            "--timeout=10",
        )
        runtime = tap.makeService(options).creditSync.runtime
        self.assertIsInstance(runtime, GatewayRuntime)
        self.assertIsInstance(runtime.operations, TwoPhases)
        self.assertEqual(runtime.operations._timing.patience, 8.0)
        tags = runtime.journal.tags
        self.assertEqual((tags.isOn, tags.longest), (True, 31))
        self.assertEqual(runtime._upstream._token._path, Path("token").absolute())

    def test_revocations(self) -> None:
        """
        The file of revoked tokens is read again on a reload, and the metrics
        report its state.
        """
        Path("revoked").touch()
        options = self.parse("--revoked=revoked", "--web=tcp:0")
        server: Any = tap.makeService(options)
        self.assertIn(options["revocations"].reload, server._reloads)
        metrics = server.web._root._metrics
        self.assertIs(metrics.revocations, options["revocations"])

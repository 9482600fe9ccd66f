"""
Tests for L{creditsync.tap}.
"""

import atexit
import io
import os
import signal
import socket
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from creditsync import __version__, tap
from creditsync.auth import mint
from creditsync.errors import LedgerInUse, LedgerProblem, Unauthorized
from creditsync.limits import Limits
from creditsync.tap import CannotStart, Options, Server
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
        The options that these arguments give.
        """
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def writeKey(self, text: str = SECRET, mode: int = 0o600) -> None:
        """
        Put a key where the server looks for it.
        """
        Path("creditsync.key").write_text(text)
        Path("creditsync.key").chmod(mode)


class OptionsTests(InFolder):
    """
    The command line.
    """

    def assertRefused(self, sentence: str, *arguments: str) -> None:
        """
        These arguments are a mistake, and this is what their author is told.
        """
        e = self.assertRaises(UsageError, self.parse, *arguments)
        self.assertEqual(str(e), sentence)

    def test_defaults(self) -> None:
        """
        Without options the server is one for loopback only.
        """
        options = self.parse()
        self.assertEqual(options["listen"], ["tcp:8080:interface=127.0.0.1"])
        self.assertEqual(options["ledger"], "creditsync.db")
        self.assertEqual(options["algorithm"], "HS256")
        self.assertEqual(options["accounts"], "open")
        self.assertEqual(options["timeout"], 5.0)
        self.assertEqual(options["limits"], Limits())
        self.assertIsNone(options["revocations"])
        self.assertIsNone(options["secret"])

    def test_listenRepeats(self) -> None:
        """
        Each --listen is one more place to listen.
        """
        options = self.parse("--listen", "tcp:1", "--listen", "unix:/tmp/x")
        self.assertEqual(options["listen"], ["tcp:1", "unix:/tmp/x"])

    def test_noEndpoint(self) -> None:
        """
        What is no endpoint is refused at once and by its name.
        """
        self.assertRefused(
            "--listen nope:8080 is no endpoint to listen on:"
            " Unknown endpoint type: 'nope'",
            "--listen=nope:8080",
        )
        for description in ("tcp", "tcp:x", "tcp:1:nope=2", "", "ssl:1:privateKey=/x"):
            e = self.assertRaises(UsageError, self.parse, "--listen", description)
            self.assertIn(
                f"--listen {description} is no endpoint to listen on: ", str(e)
            )

    def test_limits(self) -> None:
        """
        Each limit is an option, and reaches the record of limits.
        """
        options = self.parse(
            *("--max-line-length", "1"),
            *("--line-timeout", "2.5"),
            *("--lines-per-turn", "3"),
            *("--max-pending", "4"),
            *("--max-pending-per-session", "5"),
            *("--max-queued", "6"),
            *("--max-unread", "7"),
            *("--max-connections", "8"),
            *("--stop-timeout", "9.5"),
        )
        self.assertEqual(
            options["limits"],
            Limits(
                maxLineLength=1,
                lineTimeout=2.5,
                linesPerTurn=3,
                maxPending=4,
                maxPendingPerSession=5,
                maxQueued=6,
                maxUnread=7,
                maxConnections=8,
                stopTimeout=9.5,
            ),
        )

    def test_noQuantity(self) -> None:
        """
        Every quantity must be a positive number, and finite.
        """
        for text in ("0", "-1", "nan", "inf", "1e400", "x", "", "1s"):
            self.assertRefused(
                f"--timeout must be a positive number: {text}", f"--timeout={text}"
            )

    def test_leeway(self) -> None:
        """
        The leeway for issuers' clocks is 5 seconds, and may be none at all.
        """
        self.assertEqual(self.parse()["leeway"], 5.0)
        self.assertEqual(self.parse("--leeway=0")["leeway"], 0.0)
        self.assertEqual(self.parse("--leeway=1.5")["leeway"], 1.5)
        for text in ("-1", "-0.001", "nan", "inf", "1e400", "x", "", "5s"):
            self.assertRefused(
                f"--leeway must be 0 or a positive number: {text}", f"--leeway={text}"
            )

    def test_noWholeNumber(self) -> None:
        """
        What is counted must be a whole number.
        """
        for text in ("0", "-1", "1.5", "1e3", "x", "", "inf"):
            self.assertRefused(
                f"--max-pending must be a positive whole number: {text}",
                f"--max-pending={text}",
            )

    def test_words(self) -> None:
        """
        Options that are one of a few words take no other.
        """
        self.assertRefused(
            "--algorithm must be HS256 or RS256 or EdDSA: none", "--algorithm=none"
        )
        self.assertRefused("--accounts must be open or known: all", "--accounts=all")

    def test_unknownOption(self) -> None:
        """
        A misspelt option is refused, and so is what is none.
        """
        self.assertRefused("option --timeouts not recognized", "--timeouts=1")
        self.assertRefused("Wrong number of arguments.", "serve")

    def test_schemas(self) -> None:
        """
        A folder of schemas that isn't there is refused.
        """
        self.assertRefused(
            "--schemas: the folder nowhere is not there", "--schemas=nowhere"
        )

    def test_schemasOfTheSite(self) -> None:
        """
        What is wrong with a schema of the site is told as one of the option.
        """
        os.mkdir("site")
        Path("site", "credit_in.json").write_text("{")
        e = self.assertRaises(UsageError, self.parse, "--schemas=site")
        self.assertTrue(str(e).startswith("--schemas: "), str(e))

    def test_revoked(self) -> None:
        """
        A file of revocations that isn't there is refused.
        """
        self.assertRefused(
            "--revoked: the revocations in /nowhere/revoked"
            " can't be read (No such file or directory)",
            "--revoked=/nowhere/revoked",
        )

    def test_emptyNames(self) -> None:
        """
        An empty name of a file, say of a variable that is not set, is refused, and
        not taken for the working folder, or for no file at all.
        """
        for name in ("config", "ledger", "key", "revoked", "audit", "schemas"):
            self.assertRefused(
                f"--{name} is empty: it must name a file or folder", f"--{name}="
            )

    def test_version(self) -> None:
        """
        --version is ours and not Twisted's.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual(said.getvalue(), f"creditsync {__version__}\n")


class KeyTests(InFolder):
    """
    Where the key comes from.
    """

    def refusal(self, *arguments: str) -> str:
        """
        What is told of a mistake in these arguments.
        """
        return str(self.assertRaises(UsageError, self.parse, *arguments))

    def test_file(self) -> None:
        """
        The key is the file's text without its line end.
        """
        self.writeKey(f"{SECRET}\n")
        self.assertEqual(self.parse()["secret"], SECRET.encode())

    def test_environment(self) -> None:
        """
        The environment is before the default file.
        """
        self.writeKey("x" * 32)
        os.environb[b"CREDITSYNC_KEY"] = SECRET.encode()
        self.assertEqual(self.parse()["secret"], SECRET.encode())

    def test_named(self) -> None:
        """
        A file that is named is before the environment.
        """
        self.writeKey()
        os.environb[b"CREDITSYNC_KEY"] = b"x" * 32
        self.assertEqual(self.parse("--key=creditsync.key")["secret"], SECRET.encode())

    def test_short(self) -> None:
        """
        A key that is too short is refused, and not shown.
        """
        self.writeKey("hunter2")
        self.assertEqual(
            self.refusal(), "--key: an HS256 key must have at least 32 bytes"
        )

    def test_twoReadings(self) -> None:
        """
        Where earlier releases read the file differently both readings are
        taken, which the log says, and checked.
        """
        lines = logTo(self)
        Path("creditsync.key").write_bytes(b"\xef\xbb\xbf" + SECRET.encode())
        Path("creditsync.key").chmod(0o600)
        options = self.parse()
        self.assertEqual(options["secret"], SECRET.encode())
        self.assertEqual(options["formerSecrets"], [b"\xef\xbb\xbf" + SECRET.encode()])
        self.assertEqual(
            lines,
            [
                (
                    "warn",
                    "The key creditsync.key begins with a byte order mark, which is"
                    " not part of it, or is binary and begins or ends with white"
                    " space, which is; tokens that an earlier release signed by the"
                    " other reading are accepted too.",
                )
            ],
        )

    def test_variableHasTwoReadings(self) -> None:
        """
        The key in the environment is read as a file's is.
        """
        data = bytes(range(200, 240)) + b"\n"
        self.patch(os, "environb", {b"CREDITSYNC_KEY": data})
        options = self.parse()
        self.assertEqual(options["secret"], data)
        self.assertEqual(options["formerSecrets"], [data[:-1]])

    def test_noPublicKey(self) -> None:
        """
        Only for HS256 a key can be made: of the others the issuer has it.
        """
        self.assertEqual(
            self.refusal("--algorithm=EdDSA"),
            "--key: the public key creditsync.key is not there",
        )

    def test_unreadable(self) -> None:
        """
        A key that is there and can't be read is not one that is not there.
        """
        os.mkdir("creditsync.key")
        self.assertEqual(
            self.refusal(),
            "--key: the key creditsync.key can't be read (Is a directory)",
        )

    def test_othersCanRead(self) -> None:
        """
        A secret that others can read is worth a warning, each time.
        """
        self.writeKey(mode=0o640)
        lines = logTo(self)
        self.parse()
        self.assertEqual(
            lines,
            [
                (
                    "warn",
                    "Others can read the key creditsync.key:"
                    " make it yours alone with chmod 600.",
                )
            ],
        )

    def test_credential(self) -> None:
        """
        Who can read a credential of systemd's is systemd's business.
        """
        self.writeKey(mode=0o440)
        lines = logTo(self)
        self.patch(os, "environ", {"CREDENTIALS_DIRECTORY": os.getcwd()})
        self.parse()
        self.assertEqual(lines, [])
        os.environ["CREDENTIALS_DIRECTORY"] = f"{os.getcwd()}/elsewhere"
        self.parse()
        self.assertEqual(len(lines), 1)

    def test_made(self) -> None:
        """
        A key that is made is random, its user's alone, and read back.
        """
        keys = {tap.makeKey(Path(name)) for name in ("a", "b", "creditsync.key")}
        self.assertEqual(len(keys), 3)
        self.assertEqual(Path("creditsync.key").stat().st_mode & 0o777, 0o600)
        secret = self.parse()["secret"]
        self.assertIn(secret, keys)
        self.assertEqual(len(secret), 64)

    def test_madeSaysHowToMint(self) -> None:
        """
        The log has the command that mints a token, and not the key.
        """
        lines = logTo(self)
        key = tap.makeKey(Path("creditsync.key")).decode()
        ((_, text),) = lines
        self.assertIn("creditsync token --key creditsync.key --id 7", text)
        self.assertNotIn(key, text)

    def test_neverReplaced(self) -> None:
        """
        A key that appeared meanwhile is kept, and no draft is left.
        """
        self.writeKey()
        e = self.assertRaises(CannotStart, tap.makeKey, Path("creditsync.key"))
        self.assertEqual(
            str(e), "--key: no key can be made at creditsync.key: File exists"
        )
        self.assertEqual(Path("creditsync.key").read_text(), SECRET)
        self.assertEqual(os.listdir(), ["creditsync.key"])


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
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())

    def test_monotonic(self) -> None:
        """
        The reactor's clock is one that nobody can set.
        """
        tap.makeService(self.parse())
        self.assertIs(self.reactor.seconds, time.monotonic)

    def test_switchInterval(self) -> None:
        """
        Threads hand the GIL over sooner than usual.
        """
        tap.makeService(self.parse())
        self.assertAlmostEqual(sys.getswitchinterval(), 0.0005)

    def test_service(self) -> None:
        """
        It is a service, and not yet started: the ledger is left alone.
        """
        service = tap.makeService(self.parse())
        self.assertTrue(IService.providedBy(service))
        self.assertEqual(os.listdir(), ["creditsync.key"])

    def test_instance(self) -> None:
        """
        What tells a server from others is the same after a restart, is another
        for another ledger, key or machine, and has nothing of the key.
        """
        key = SECRET.encode()
        name = tap.instanceOf("creditsync.db", key)
        self.assertEqual(name, tap.instanceOf(os.path.abspath("creditsync.db"), key))
        self.assertRegex(name, "^[0-9a-f]{32}$")
        others = [tap.instanceOf("other.db", key), tap.instanceOf("creditsync.db", b"")]
        self.patch(socket, "gethostname", lambda: "elsewhere")
        others.append(tap.instanceOf("creditsync.db", key))
        self.assertEqual(len({name, *others}), 4)

    def test_keyIsKept(self) -> None:
        """
        A second start makes no second key.
        """
        tap.makeService(self.parse())
        key = Path("creditsync.key").read_text()
        tap.makeService(self.parse())
        self.assertEqual(Path("creditsync.key").read_text(), key)

    def test_authenticator(self) -> None:
        """
        Tokens are judged by the key in each of its readings, with the leeway
        and the revocations of the options.
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

    def test_revocations(self) -> None:
        """
        The file of revoked tokens is read again on a reload, and watched by
        the metrics.
        """
        Path("revoked").touch()
        options = self.parse("--revoked=revoked", "--web=tcp:0")
        server: Any = tap.makeService(options)
        self.assertIn(options["revocations"].reload, server._reloads)
        metrics = server.web._root._metrics
        self.assertIs(metrics.revocations, options["revocations"])


class FakeCreditSync:
    """
    A L{CreditSync} whose start fails as it is told to.
    """

    def __init__(self) -> None:
        self.binding: Exception | None = None
        self.starting: Exception | None = None
        self.failed: Deferred[None] = Deferred()
        self.started = False

    def privilegedStartService(self) -> None:
        if self.binding:
            raise self.binding

    def startService(self) -> None:
        if self.starting:
            raise self.starting
        self.started = True

    def stopService(self) -> Deferred[None]:
        self.started = False
        return succeed(None)

    def whenFailed(self) -> Deferred[None]:
        return self.failed


class ServerTests(SynchronousTestCase):
    """
    The server as a process.
    """

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.creditSync: Any = FakeCreditSync()
        self.server = Server(self.reactor, self.creditSync)
        self.log = logTo(self)

    def test_startsAndStops(self) -> None:
        """
        Start and stop are those of the service.
        """
        self.server.privilegedStartService()
        self.server.startService()
        self.assertTrue(self.creditSync.started)
        self.successResultOf(self.server.stopService())
        self.assertFalse(self.creditSync.started)

    def test_takenPort(self) -> None:
        """
        A taken port is a sentence for the end of the process, and an exception
        for a daemon to tell to the process that waits for its start.
        """
        self.creditSync.binding = CannotListenError("127.0.0.1", 8080, OSError("taken"))
        e = self.assertRaises(CannotStart, self.server.privilegedStartService)
        sentence = "Couldn't listen on 127.0.0.1:8080: taken."
        self.assertEqual(e.code, sentence)
        self.assertIsInstance(e, Exception)

    def test_ledgerProblem(self) -> None:
        """
        So is a ledger that can't be used.
        """
        for problem in (LedgerInUse("in use"), LedgerProblem("in use")):
            self.creditSync.starting = problem
            e = self.assertRaises(CannotStart, self.server.startService)
            self.assertEqual(e.code, "in use")

    def test_faultIsNoSentence(self) -> None:
        """
        A fault of ours keeps its traceback.
        """
        self.creditSync.starting = ZeroDivisionError()
        self.assertRaises(ZeroDivisionError, self.server.startService)

    def test_secondSignal(self) -> None:
        """
        Once the stop has begun, the next signal ends the process at once.
        """
        keepSignals(self)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.server.startService()
        ((function, arguments, _),) = self.reactor.triggers["before"]["shutdown"]
        function(*arguments)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

    def test_failureStops(self) -> None:
        """
        When nothing can be booked any more, the reactor stops, the log says
        why, and the process will end with a status that says so.
        """
        atEnd: list[object] = []
        self.patch(atexit, "register", atEnd.append)
        self.server.startService()
        self.creditSync.failed.errback(Failure(OSError("disk full")))
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(atEnd, [tap._exitFailed])
        ((level, text),) = self.log
        self.assertEqual(level, LogLevel.critical.name)
        self.assertIn("disk full", text)

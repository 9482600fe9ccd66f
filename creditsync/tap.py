"""
The face towards C{twistd}: options in, a service out.

This module and L{creditsync._process.signals} are the ones that change their
process: the reactor's clock, signals, the exit status. What is put together here
does not, and can be mounted in any other Twisted application
(L{creditsync.service}).
"""

import atexit
import gc
import math
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import fields
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from creditsync import __version__
from creditsync._process import config, signals
from creditsync._process.notify import Supervisor
from creditsync._transport import listening
from creditsync.audit import AuditTrail, checkKind
from creditsync.auth import ALGORITHMS, TokenAuthenticator, keyReadings
from creditsync.counters import Counters
from creditsync.errors import LedgerProblem, MethodProblem
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.ledger.thread import OwnThread
from creditsync.limits import Limits, optionName
from creditsync.revocations import Revocations
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.validation import Schemas

if TYPE_CHECKING:
    from creditsync.web._service import Web

DEFAULT_LISTEN: Final = "tcp:8080:interface=127.0.0.1"
DEFAULT_LEDGER: Final = "creditsync.db"
DEFAULT_KEY: Final = "creditsync.key"
KEY_VARIABLE: Final = "CREDITSYNC_KEY"

# What is told of a key file that earlier releases read differently.
TWO_READINGS: Final = (
    "begins with a byte order mark, which is not part of it, or is binary and begins"
    " or ends with white space, which is; tokens that an earlier release signed by"
    " the other reading are accepted too"
)

# Seconds after which a thread hands the GIL over. A commit beside a busy
# reactor takes 1.0 ms with it, and 5.6 ms with Python's own 0.005.
_SWITCH_INTERVAL: Final = 0.0005

# What waits for a commit is young but no garbage: with Python's own (700, 10,
# 10) the collector goes through all of it again and again. These give an
# eighth more credits a second, and half the p99.
_GC_THRESHOLDS: Final = (50_000, 20, 100)

_log = Logger()


class CannotStart(SystemExit, Exception):
    """
    The server can't start, and this sentence says why.

    Being a C{SystemExit} it ends the process with the sentence on stderr, which
    C{twistd} has made a part of its log, and without a traceback; being an
    C{Exception} it is noticed by a C{twistd} that became a daemon, which tells
    it to the process that waits for the start.
    """


def _positive(name: str, kind: type[float]) -> Callable[[str], float]:
    """
    What reads the value of an option that is a quantity.
    """

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < math.inf:
            whole = "whole " if kind is int else ""
            raise usage.UsageError(f"--{name} must be a positive {whole}number: {text}")
        return value

    return read


def _seconds(name: str) -> Callable[[str], float]:
    """
    What reads the value of an option that is a time and may be 0.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise usage.UsageError(f"--{name} must be 0 or a positive number: {text}")
        return value

    return read


def _oneOf(name: str, *choices: str) -> Callable[[str], str]:
    """
    What reads the value of an option that is one of a few words.
    """

    def read(text: str) -> str:
        if text not in choices:
            raise usage.UsageError(f"--{name} must be {' or '.join(choices)}: {text}")
        return text

    return read


def _path(name: str) -> Callable[[str], str]:
    """
    What reads the value of an option that names a file or a folder. An empty one,
    say of a variable that is not set, would mean the working folder, or nothing.
    """

    def read(text: str) -> str:
        if not text:
            raise usage.UsageError(f"--{name} is empty: it must name a file or folder")
        return text

    return read


def _limitOptions() -> Iterator[list[Any]]:
    """
    An option for each limit that there is.
    """
    for limit in fields(Limits):
        name, default = optionName(limit.name), limit.default
        kind = int if isinstance(default, int) else float
        yield [name, None, default, limit.metadata["help"], _positive(name, kind)]


class Options(usage.Options):
    """
    The command line of the server.

    After parsing, C{listen} and C{web-origin} are lists, C{limits} the
    L{Limits}, C{site} the compiled L{Schemas}, C{revocations} what was revoked
    or L{None}, and C{secret} the key, or L{None} if it is still to be made.
    C{formerSecrets} is what else the key's file may mean, see L{keyReadings}.

    @ivar given: The options that the command line has.
    @ivar filed: Those that the file of C{--config} decided.
    """

    longdesc = (
        "A server of the CreditInSync family: it books credits and balances"
        " and answers with the booked trade. Paths count from the folder in which"
        " it is started."
    )

    optParameters: list[list[Any]] = [  # noqa: RUF012 - as usage.Options has it
        [
            "config",
            None,
            None,
            "A TOML file with these options, by their names; the command line goes"
            " before it.",
            _path("config"),
        ],
        [
            "ledger",
            None,
            DEFAULT_LEDGER,
            "The ledger's file, made if there is none.",
            _path("ledger"),
        ],
        [
            "key",
            None,
            None,
            f"The file with the key of the tokens; without it {KEY_VARIABLE} in the"
            f" environment is the key itself, or else {DEFAULT_KEY} is the file. With"
            " HS256 a file that is not there is made.",
            _path("key"),
        ],
        [
            "algorithm",
            None,
            "HS256",
            f"How tokens are signed: {', '.join(ALGORITHMS)}.",
            _oneOf("algorithm", *ALGORITHMS),
        ],
        [
            "leeway",
            None,
            5.0,
            "Seconds by which a token's iat and nbf may be ahead of this machine's"
            " clock.",
            _seconds("leeway"),
        ],
        [
            "revoked",
            None,
            None,
            "The file of revoked token ids, one per line.",
            _path("revoked"),
        ],
        [
            "audit",
            None,
            None,
            "Audit trail: one JSON line per money operation, with who requested it"
            " and its outcome. A regular file.",
            _path("audit"),
        ],
        [
            "schemas",
            None,
            None,
            "A folder of JSON Schemas of your own to obey too.",
            _path("schemas"),
        ],
        [
            "accounts",
            None,
            "open",
            "open: an account opens with its first operation; known: it must be"
            " there (see: creditsync account add).",
            _oneOf("accounts", "open", "known"),
        ],
        [
            "timeout",
            None,
            5.0,
            "Seconds to wait for the matching trade event; then 504.",
            _positive("timeout", float),
        ],
        [
            "web",
            None,
            None,
            "Where to serve metrics, health and the console over HTTP, a Twisted"
            " endpoint such as tcp:8081, which is on loopback unless it names an"
            " interface.",
            lambda description: _web(description),
        ],
        *_limitOptions(),
    ]
    optFlags: list[list[Any]] = [  # noqa: RUF012 - as usage.Options has it
        [
            "idempotent-extid",
            None,
            "Take a request's extID for its idempotencyKey where it has none: for"
            " clients whose extIDs never come twice for different requests.",
        ],
        [
            "log-json",
            None,
            "Write the log to the standard output as JSON, one object a line.",
        ],
    ]

    def __init__(self) -> None:
        self._touched: set[str] = set()
        self.given: frozenset[str] = frozenset()
        self.filed: set[str] = set()
        super().__init__()  # type: ignore[no-untyped-call]
        self.update({"listen": [], "web-origin": []})
        self.docs["listen"] = (
            "Where to listen, a Twisted endpoint such as tcp:8080 or"
            " unix:/run/creditsync.sock; may be given several times. [default:"
            f" {DEFAULT_LISTEN}]"
        )
        self.docs["web-origin"] = (
            "Where browsers find the console of --web if a proxy stands before it,"
            " such as https://console.example.com; may be given several times."
        )

    def __setitem__(self, name: str, value: Any) -> None:
        """
        Set an option, and note it: the defaults come by another way.
        """
        super().__setitem__(name, value)
        self._touched.add(name)

    def opt_listen(self, description: str) -> None:
        """
        Note an endpoint, if it is one.

        @raise usage.UsageError: It is none.
        """
        _checkEndpoint("listen", description)
        self["listen"] = [*self["listen"], description]

    def opt_web_origin(self, text: str) -> None:
        """
        Note an origin.

        @raise usage.UsageError: It is not one.
        """
        # As with --web.
        from creditsync.web._origins import normalized

        try:
            self["web-origin"] = [*self["web-origin"], normalized(text)]
        except ValueError as e:
            raise usage.UsageError(f"--web-origin: {e}") from e

    def opt_version(self) -> None:
        """
        Display the version and exit.
        """
        print(f"creditsync {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """
        Make of the texts what they stand for.
        """
        self._takeFile()
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self["limits"] = Limits(
            **{limit.name: self[optionName(limit.name)] for limit in fields(Limits)}
        )
        with _naming("schemas"):
            self["site"] = Schemas(self["schemas"] and _folder(self["schemas"]))
        with _naming("revoked"):
            self["revocations"] = None
            if self["revoked"] is not None:
                # A daemon changes its folder before it reads them again.
                path = Path(self["revoked"]).absolute()
                self["revocations"] = Revocations(path)
        with _naming("audit"):
            self["trail"] = self["audit"] and _trail(self["audit"])
        if self["log-json"] and self.parent is not None:
            # twistd's own, which it reads as soon as this is parsed.
            self.parent["logger"] = "creditsync.logs.json"
        with _naming("key"):
            readings = readKey(self["key"])
            self["secret"] = readings[0] if readings else None
            self["formerSecrets"] = readings[1:]
            if self["secret"] is not None:
                TokenAuthenticator(
                    self["secret"], self["algorithm"], also=self["formerSecrets"]
                )
            elif self["algorithm"] != "HS256":
                raise ValueError(f"the public key {keyPath(self['key'])} is not there")

    def _takeFile(self) -> None:
        """
        Take from C{--config} what the command line left open.
        """
        self.given = frozenset(self._touched)
        if self["config"] is not None:
            self.filed = config.fill(self, Path(self["config"]), self.given)


def _checkEndpoint(option: str, description: str) -> None:
    """
    See that an endpoint is one.

    @raise usage.UsageError: It is none.
    """
    # The reactor was chosen before: twistd's own options come first.
    from twisted.internet import reactor

    try:
        listening.endpoint(reactor, description)
    except Exception as e:
        # Each kind of endpoint, plugins included, complains as it likes.
        raise usage.UsageError(
            f"--{option} {description} is no endpoint to listen on: {e}"
        ) from e


def _web(description: str) -> str:
    """
    What reads the value of C{--web}.
    """
    # It and what it needs are loaded only where they are wanted.
    from creditsync.web._service import onLoopback

    _checkEndpoint("web", onLoopback(description))
    return description


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """
    Say of which option a value is a mistake.
    """
    try:
        yield
    except (ValueError, OSError) as e:
        raise usage.UsageError(f"--{option}: {e}") from e


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise ValueError(f"the folder {path} is not there")
    return path


def _trail(text: str) -> Path:
    """
    The file of an audit trail, which may still be to be made.
    """
    path = Path(text).absolute()
    _folder(str(path.parent))
    checkKind(path)
    return path


def keyPath(named: str | None) -> Path:
    """
    The file of the key, for what C{--key} says.
    """
    return Path(named or DEFAULT_KEY)


def readKey(named: str | None) -> list[bytes]:
    """
    Find the key that tokens are signed or verified with.

    @param named: The value of C{--key}, if there is one. It is before the
        environment, which is before the default file.
    @return: As L{keyReadings} has it; nothing if its file is not there.
    @raise ValueError: Its file can't be read.
    """
    variable = os.environb.get(KEY_VARIABLE.encode())
    if variable and named is None:
        return _understoodKey(KEY_VARIABLE, variable)
    path = keyPath(named)
    try:
        key = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ValueError(f"the key {path} can't be read ({e.strerror})") from e
    if mode & 0o077 and b"PUBLIC KEY" not in key and not _isCredential(path):
        _log.warn(
            "Others can read the key {path}: make it yours alone with chmod 600.",
            path=path,
        )
    return _understoodKey(str(path), key)


def _understoodKey(source: str, data: bytes) -> list[bytes]:
    """
    The readings of a key; if there are two the log says so.
    """
    readings = keyReadings(data)
    if readings[1:]:
        _log.warn(
            "The key {source} {reading}.",
            source=source,
            reading=TWO_READINGS,
        )
    return readings


def _isCredential(path: Path) -> bool:
    """
    Whether systemd has put this file where the service alone can read it, which
    is not to be seen by its mode.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.absolute().is_relative_to(folder)


def makeKey(path: Path) -> bytes:
    """
    Make a new secret for HS256 that only this user can read. It is there as a
    whole or not at all, and one that is there already is never replaced.

    @raise CannotStart: It can't be written.
    """
    key = secrets.token_hex(32).encode()
    try:
        draft, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(draft, "wb") as file:
                file.write(key + b"\n")
                file.flush()
                os.fsync(draft)
            os.link(name, path)
        finally:
            os.unlink(name)
    except OSError as e:
        raise CannotStart(f"--key: no key can be made at {path}: {e.strerror}") from e
    _log.warn(
        "Made a key, {path}. Mint a token with:"
        " creditsync token --key {path} --id 7 --role manager",
        path=path,
    )
    return key


def makeService(options: Options) -> "Server":
    """
    Put the server together, for a process that is its own.
    """
    from twisted.internet import reactor

    signals.prepareServer()
    settleProcess(reactor)
    key = options["secret"] or makeKey(keyPath(options["key"]))
    counters = None if options["web"] is None else Counters(reactor, time.time)
    service = creditSync(reactor, options, key, counters)
    reloads = [service.reload]
    if options["revocations"]:
        reloads.append(options["revocations"].reload)
    server = SupervisedServer(reactor, service, Supervisor(reactor), reloads)
    if counters is not None:
        server.web = web(reactor, options, service, counters, key)
        reloads.append(server.web.reload)
    return server


def settleProcess(reactor: Any) -> None:
    """
    Make this process fit for the server, before its first timer is set.
    """
    # reactor.seconds is time.time: a step of the wall clock would fire
    # timers early or late by as much.
    reactor.seconds = time.monotonic
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.set_threshold(*_GC_THRESHOLDS)


def creditSync(
    reactor: Any, options: Options, key: bytes, counters: Counters | None = None
) -> CreditSync:
    """
    The server as these options want it, not yet started.
    """
    limits: Limits = options["limits"]
    events = TradeEvents()
    ledger = SQLiteLedger(
        # A daemon changes its folder before it opens the ledger.
        os.path.abspath(options["ledger"]),
        OwnThread(reactor),
    )
    return CreditSync(
        reactor,
        runtime=TradingRuntime(
            reactor,
            ledger,
            events,
            now=time.time,
            maxQueued=limits.maxQueued,
            knownAccountsOnly=options["accounts"] == "known",
            counters=counters,
        ),
        events=events,
        authenticator=TokenAuthenticator(
            key,
            options["algorithm"],
            also=options["formerSecrets"],
            leeway=options["leeway"],
            revocations=options["revocations"],
        ),
        schemas=options["site"],
        listen=options["listen"],
        timeout=options["timeout"],
        limits=limits,
        isExtIDIdempotent=bool(options["idempotent-extid"]),
        audit=options["trail"] and AuditTrail(options["trail"], reactor, time.time),
        counters=counters,
    )


def web(
    reactor: Any, options: Options, service: CreditSync, counters: Counters, key: bytes
) -> "Web":
    """
    The site of a server, as these options want it, not yet started.
    """
    from creditsync.metrics import Metrics
    from creditsync.web._service import Web
    from creditsync.web.root import Root

    root = Root(
        Metrics(reactor, service, counters, options["revocations"]),
        run=partial(deferToThreadPool, reactor, reactor.getThreadPool()),
        ledger=os.path.abspath(options["ledger"]),
        origins=options["web-origin"],
        instance=instanceOf(options["ledger"], key),
    )
    return Web(reactor, options["web"], root)


def instanceOf(ledger: str, key: bytes) -> str:
    """
    What tells this server from all others, and stays as it is after a restart.
    On one machine the ledger is enough; machines that were made alike, as
    containers are, should at least not have the same key.
    """
    place = os.fsencode(f"{socket.gethostname()}:{os.path.abspath(ledger)}")
    return blake2b(place, key=blake2b(key).digest(), digest_size=16).hexdigest()


class Server(Service):
    """
    The server as a process: what can't start or go on ends it with a
    sentence and a status, and a second signal ends it at once.
    """

    def __init__(self, reactor: Any, creditSync: CreditSync) -> None:
        self._reactor = reactor
        self.creditSync = creditSync
        self.web: Web | None = None

    def privilegedStartService(self) -> None:
        """
        Bind the ports, while it is still allowed to.

        @raise CannotStart: One of them is taken.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        with _sentence():
            self.creditSync.privilegedStartService()
            if self.web is not None:
                self.web.privilegedStartService()

    def startService(self) -> None:
        """
        Open the ledger: after C{twistd} has forked, as a connection to SQLite
        must not be carried over a fork.

        @raise CannotStart: The ledger can't be used.
        """
        super().startService()  # type: ignore[no-untyped-call]
        with _sentence():
            self.creditSync.startService()
            if self.web is not None:
                self.web.startService()
        self._reactor.callWhenRunning(signals.stopInOrder, self._reactor)
        # The stop may have another cause than a signal.
        self._reactor.addSystemEventTrigger(
            "before", "shutdown", signals.endAtNextSignal
        )
        self.creditSync.whenFailed().addErrback(self._failed)

    def stopService(self) -> "Deferred[None]":
        """
        See L{CreditSync.stopService}. The site goes on until that is done.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        stopped = self.creditSync.stopService()
        web = self.web
        if web is not None:
            stopped.addBoth(lambda _: web.stopService())
        return stopped

    def _failed(self, why: Failure) -> None:
        """
        Nothing more can be booked: stop, and let the status say so.
        """
        _log.critical(
            "The trading runtime has failed and the server stops; start it again"
            " to find out what was booked. The cause: {why}",
            why=why.getErrorMessage(),
        )
        # At the very end, when twistd has removed its pid file.
        atexit.register(_exitFailed)
        # It may be stopping already.
        with suppress(ReactorNotRunning):
            self._reactor.stop()


class SupervisedServer(Server):
    """
    A server that tells systemd, if it is there, how it fares, and that SIGHUP
    makes read again what it can.
    """

    def __init__(
        self,
        reactor: Any,
        creditSync: CreditSync,
        supervisor: Supervisor,
        reloads: Sequence[Callable[[], object]],
    ) -> None:
        super().__init__(reactor, creditSync)
        self._supervisor = supervisor
        self._reloads = reloads

    def startService(self) -> None:
        """
        Start, and tell so when the reactor turns.

        @raise CannotStart: See L{Server.startService}.
        """
        super().startService()
        self._reactor.callWhenRunning(self._supervisor.ready)
        # In the middle of anything: the reactor does it when it is done.
        signals.reloadAtHangUp(partial(self._reactor.callFromThread, self.reload))

    def stopService(self) -> "Deferred[None]":
        """
        Tell that the stop has begun, and stop.
        """
        signals.ignoreHangUp()
        self._supervisor.stopping()
        stopped = super().stopService()
        stopped.addCallback(lambda _: self._supervisor.stopped())
        return stopped

    def reload(self) -> None:
        """
        Read again what can be read again. What fails leaves the rest alone.
        """
        if not self.running:
            return
        self._supervisor.reloading()
        for each in self._reloads:
            with _log.failureHandler("a part of the reload failed"):
                each()
        _log.info("Reloaded.")
        self._supervisor.ready()


@contextmanager
def _sentence() -> Iterator[None]:
    """
    Turn what is wrong with the ports, the ledger or this build into
    L{CannotStart}.
    """
    try:
        yield
    except (
        CannotListenError,
        LedgerProblem,
        MethodProblem,
        OSError,
        OverflowError,
    ) as e:
        raise CannotStart(str(e)) from e


def _exitFailed() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

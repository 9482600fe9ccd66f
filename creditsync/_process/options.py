"""
The options of the server: its command line, and the file of C{--config}.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import fields
from twisted.python import usage

from creditsync import __version__
from creditsync._bookingrules import RulesFile
from creditsync._keys import isJWKSet
from creditsync._process import config
from creditsync._process.address import (
    NEITHER,
    PASSWORD_GIVEN,
    hasPassword,
    isNeither,
    isPostgres,
    withPsycopg,
)
from creditsync._process.defaults import (
    DEFAULT_KEY,
    DEFAULT_LEDGER,
    DEFAULT_LISTEN,
    KEY_VARIABLE,
)
from creditsync._process.keys import isFromEnvironment, keyPath, readKey
from creditsync._process.optiontypes import (
    auditFile,
    folder,
    listenEndpoint,
    namingOption,
    nodeName,
    oneOf,
    path,
    positive,
    seconds,
    text,
    upstreamEndpoint,
    webEndpoint,
    webOrigin,
)
from creditsync._process.profile import profileOf, wayOf
from creditsync.auth import ALGORITHMS, KeyFile, TokenAuthenticator
from creditsync.errors import LedgerProblem
from creditsync.limits import Limits, optionName
from creditsync.revocations import Revocations
from creditsync.validation import Schemas


def _limitOptions() -> Iterator[list[Any]]:
    """
    One option for each limit.
    """
    for limit in fields(Limits):
        name, default = optionName(limit.name), limit.default
        kind = int if isinstance(default, int) else float
        yield [name, None, default, limit.metadata["help"], positive(name, kind)]


class Options(usage.Options):
    """
    The options of the server.

    Once parsed, they also have what their values stand for: C{serverLimits}, the
    L{Limits}; C{rules}, the L{RulesFile} of C{limits} or L{None}; C{site}, the
    compiled L{Schemas}; C{profile}, what is known of the platform behind a
    gateway, and C{way}, how that makes a new trade;
    C{revocations}, the L{Revocations} or L{None}; C{trail}, the path of the audit trail
    or L{None}; C{secret}, the key, or L{None} if it has yet to be made;
    C{formerSecrets}, the other readings of the key file, see L{readKey}; and
    C{keys}, the L{KeyFile} or L{None} if the key is not a file with a JWK Set.

    @ivar given: The names of the options on the command line.
    @ivar filed: The names of those whose value comes from the file of
        C{--config}.
    """

    longdesc = (
        "A server of the CreditInSync family: it books credits and balances"
        " and answers with the booked trade. Paths are relative to the folder in"
        " which it is started."
    )

    optParameters: list[list[Any]] = [  # noqa: RUF012 - as usage.Options has it
        [
            "config",
            None,
            None,
            "A TOML file with these options, under the same names; the command line"
            " takes precedence.",
            path("config"),
        ],
        [
            "ledger",
            None,
            DEFAULT_LEDGER,
            "The ledger's file, created if missing; or the address of a PostgreSQL,"
            " such as postgresql://user@host/database, on which several servers act as"
            " one.",
            path("ledger"),
        ],
        [
            "node",
            None,
            None,
            "With PostgreSQL: the name of this server among those that book there.",
            nodeName("node"),
        ],
        [
            "key",
            None,
            None,
            f"The file with the key of the tokens; without it {KEY_VARIABLE} in the"
            f" environment is the key itself, or else {DEFAULT_KEY} is the file. With"
            " HS256 the file is created if missing. A JWK Set is read again whenever"
            " it changes.",
            path("key"),
        ],
        [
            "algorithm",
            None,
            None,
            f"How tokens are signed: {', '.join(ALGORITHMS)}. The default is HS256, or"
            " with a JWK Set the algorithm of each key.",
            oneOf("algorithm", *ALGORITHMS),
        ],
        [
            "audience",
            None,
            None,
            "What a token's aud must name; without this option aud is ignored.",
            text("audience"),
        ],
        [
            "issuer",
            None,
            None,
            "What a token's iss must be; without this option iss is ignored.",
            text("issuer"),
        ],
        [
            "leeway",
            None,
            5.0,
            "Seconds by which a token's iat and nbf may be ahead of this machine's"
            " clock.",
            seconds("leeway"),
        ],
        [
            "revoked",
            None,
            None,
            "The file of revoked token ids, one per line.",
            path("revoked"),
        ],
        [
            "audit",
            None,
            None,
            "Audit trail: one JSON line per money operation, with who requested it"
            " and its outcome. A regular file.",
            path("audit"),
        ],
        [
            "schemas",
            None,
            None,
            "A folder of your own JSON Schemas, which requests must also pass.",
            path("schemas"),
        ],
        [
            "accounts",
            None,
            "open",
            "open: an account opens with its first operation; known: it must exist"
            " (see: creditsync account add).",
            oneOf("accounts", "open", "known"),
        ],
        [
            "limits",
            None,
            None,
            "A TOML file of rules that bound how much may be booked, in one operation"
            " and on one day.",
            path("limits"),
        ],
        [
            "upstream",
            None,
            None,
            "A platform that books in place of this server: a Twisted endpoint to"
            " connect to, such as tcp:HOST:PORT or tls:HOST:PORT.",
            upstreamEndpoint,
        ],
        [
            "upstream-token",
            None,
            None,
            "The file with the gateway's token for that platform, read again when the"
            " platform refuses it.",
            path("upstream-token"),
        ],
        [
            "upstream-profile",
            None,
            None,
            "What creditsync gateway probe has found out about that platform, and which"
            " of its commands are passed on.",
            path("upstream-profile"),
        ],
        [
            "upstream-way",
            None,
            None,
            "How that platform makes a new trade: one-shot, or two-phase if the profile"
            " allows it, which is the default then.",
            oneOf("upstream-way", "one-shot", "two-phase"),
        ],
        [
            "timeout",
            None,
            5.0,
            "Seconds to wait for the matching trade event; then 504.",
            positive("timeout", float),
        ],
        [
            "web",
            None,
            None,
            "Where to serve metrics, health checks and the console over HTTP: a"
            " Twisted endpoint such as tcp:8081, on loopback unless it names an"
            " interface.",
            webEndpoint,
        ],
        *_limitOptions(),
    ]
    optFlags: list[list[Any]] = [  # noqa: RUF012 - as usage.Options has it
        [
            "require-groups",
            None,
            "Give tokens of managers, dealers and other staff that have no claim groups"
            " no accounts, instead of all.",
        ],
        [
            "upstream-groups",
            None,
            "Take the groups of accounts over from that platform, instead of having"
            " them set here.",
        ],
        [
            "self-approval",
            None,
            "Let a principal approve the finance requests that it has made itself.",
        ],
        [
            "idempotent-extid",
            None,
            "Use a request's extID as its idempotencyKey where it has none: for"
            " clients that never reuse an extID for a different request.",
        ],
        [
            "log-json",
            None,
            "Write the log to standard output as JSON, one object per line.",
        ],
    ]

    def __init__(self) -> None:
        self._touched: set[str] = set()
        self.given: frozenset[str] = frozenset()
        self.filed: set[str] = set()
        super().__init__()  # type: ignore[no-untyped-call]
        self.update({"listen": [], "web-origin": []})
        self.docs["listen"] = (
            "Where to listen: a Twisted endpoint such as tcp:8080 or"
            " unix:/run/creditsync.sock; may be given several times. [default:"
            f" {DEFAULT_LISTEN}]"
        )
        self.docs["web-origin"] = (
            "The address of the console of --web in browsers, if it is behind a proxy,"
            " such as https://console.example.com; may be given several times."
        )

    def __setitem__(self, name: str, value: Any) -> None:
        """
        Set an option, and note that it was given: defaults are not set this
        way.
        """
        super().__setitem__(name, value)
        self._touched.add(name)

    def opt_listen(self, description: str) -> None:
        """
        Add an endpoint.

        @raise usage.UsageError: It is not a valid endpoint.
        """
        self["listen"] = [*self["listen"], listenEndpoint(description)]

    def opt_web_origin(self, text: str) -> None:
        """
        Add an origin.

        @raise usage.UsageError: It is not a valid origin.
        """
        self["web-origin"] = [*self["web-origin"], webOrigin(text)]

    def opt_version(self) -> None:
        """
        Display the version and exit.
        """
        print(f"creditsync {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """
        Add what the values stand for.
        """
        self._fillFromFile()
        self._checkLedger()
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self["serverLimits"] = Limits(
            **{limit.name: self[optionName(limit.name)] for limit in fields(Limits)}
        )
        with namingOption("schemas"):
            self["site"] = Schemas(self["schemas"] and folder(self["schemas"]))
        with namingOption("revoked"):
            self["revocations"] = None
            if self["revoked"] is not None:
                # A daemon changes its folder before it reads them again.
                self["revocations"] = Revocations(Path(self["revoked"]).absolute())
        with namingOption("limits"):
            self["rules"] = None
            if self["limits"] is not None:
                self["rules"] = RulesFile(Path(self["limits"]).absolute())
        with namingOption("upstream-profile"):
            self["profile"] = profileOf(self["upstream-profile"])
            self["way"] = wayOf(self["profile"], self["upstream-way"])
        self._checkUpstream()
        with namingOption("audit"):
            self["trail"] = self["audit"] and auditFile(self["audit"])
        if self["log-json"] and self.parent is not None:
            # An option of twistd's own, which it reads once this is parsed.
            self.parent["logger"] = "creditsync.logs.json"
        with namingOption("key"):
            self._takeKey()

    def _checkUpstream(self) -> None:
        """
        @raise usage.UsageError: An option of the gateway lacks another one, or can't be
            used with it.
        """
        if self["upstream"] is None:
            for name in (
                *("upstream-token", "upstream-profile", "upstream-way"),
                "upstream-groups",
            ):
                if self[name]:
                    raise usage.UsageError(f"--{name} needs --upstream")
        elif self["upstream-token"] is None:
            raise usage.UsageError("--upstream needs --upstream-token")
        elif self["accounts"] == "known":
            raise usage.UsageError(
                "--accounts known can't be used with --upstream: accounts are those of"
                " the platform"
            )

    def _fillFromFile(self) -> None:
        """
        Take from C{--config} what the command line left open.
        """
        self.given = frozenset(self._touched)
        if self["config"] is not None:
            self.filed = config.fill(self, Path(self["config"]), self.given)

    def _checkLedger(self) -> None:
        """
        @raise usage.UsageError: C{--ledger} and C{--node} don't fit together, or
            can't be used.
        """
        address = self["ledger"]
        if isNeither(address):
            raise usage.UsageError(f"--ledger: {NEITHER}")
        if not isPostgres(address):
            if self["node"] is not None:
                raise usage.UsageError(
                    "--node is for servers that share a PostgreSQL, and --ledger names"
                    f" a file: {address}"
                )
            return
        if self["node"] is None:
            raise usage.UsageError(
                "--node is missing: on PostgreSQL each server has a name of its own,"
                " which it keeps when it is started again"
            )
        if "ledger" in self.given and hasPassword(address):
            raise usage.UsageError(f"--ledger: {PASSWORD_GIVEN}")
        try:
            with withPsycopg():
                # What PostgreSQL needs is loaded only where it is used.
                from creditsync.postgres._session import placeOf
            placeOf(address)
        except LedgerProblem as e:
            raise usage.UsageError(str(e)) from e

    def _takeKey(self) -> None:
        """
        Read the key, and check that it can be used with the algorithm.

        @raise ValueError: It can't, or it does not exist and can't be made.
        """
        readings = readKey(self["key"])
        self["secret"] = readings[0] if readings else None
        self["formerSecrets"] = readings[1:]
        self["keys"] = None
        if readings:
            self._checkKey(readings)
        elif self["algorithm"] not in (None, "HS256"):
            raise ValueError(f"the public key {keyPath(self['key'])} does not exist")

    def _checkKey(self, readings: list[bytes]) -> None:
        if isJWKSet(readings[0]) and not isFromEnvironment(self["key"]):
            # A daemon changes its folder before it reads them again.
            path = keyPath(self["key"]).absolute()
            self["keys"] = KeyFile(path, self["algorithm"])
        else:
            TokenAuthenticator(readings[0], self["algorithm"], also=readings[1:])

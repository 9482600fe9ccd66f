"""
How the server is put together from its options: the one place where the
runtime, the ledger, the events, the authenticator and the site meet.
"""

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from creditsync._bookingrules import Rule, RulesFile
from creditsync._jwks import quoted
from creditsync._process.address import isPostgres
from creditsync._process.options import Options
from creditsync._rulebook import RuleBook
from creditsync._sandbox.life import Life
from creditsync.audit import AuditTrail
from creditsync.auth import TokenAuthenticator
from creditsync.counters import Counters
from creditsync.errors import ShuttingDown
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger, ITradingRuntime
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.ledger.thread import OwnThread
from creditsync.limits import Limits
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync

# The part of the timeout for which an operation may wait for its turn: its client is to
# get to know that nothing was sent. A command that is passed on may take as long: its
# client is to get to know that it was sent.
_PATIENCE: Final = 0.8

# The part of it after which a reply of the platform is overdue, so that a look-up can
# still answer the client.
_REPLY: Final = 0.5

if TYPE_CHECKING:
    from creditsync.gateway._intents import IIntentLog
    from creditsync.postgres._connection import Connection
    from creditsync.postgres._runtime import PostgresRuntime
    from creditsync.web._service import Web


def creditSync(
    reactor: Any,
    options: Options,
    key: bytes,
    counters: Counters | None = None,
    sandbox: Life | None = None,
) -> CreditSync:
    """
    Make the server, not yet started.

    @param sandbox: Whose ledger and trading runtime it has, if it is for the sandbox.
    """
    limits: Limits = options["serverLimits"]
    events = TradeEvents()
    if options["upstream"] is not None:
        runtime = _gateway(reactor, options, events)
    elif isPostgres(options["ledger"]):
        runtime = _onPostgres(reactor, options, events, counters)
    else:
        runtime = _onFile(reactor, options, events, counters, sandbox)
    rules: RulesFile | None = options["rules"]
    if rules is not None:
        rules.use = partial(_useUnlessStopped, runtime, rules.use)
    return CreditSync(
        reactor,
        runtime=runtime,
        events=events,
        authenticator=authenticator(options, key),
        schemas=options["site"],
        listen=options["listen"],
        timeout=options["timeout"],
        limits=limits,
        isExtIDIdempotent=bool(options["idempotent-extid"]),
        requireGroups=bool(options["require-groups"]),
        audit=options["trail"] and AuditTrail(options["trail"], reactor, time.time),
        counters=counters,
    )


def _onFile(
    reactor: Any,
    options: Options,
    events: TradeEvents,
    counters: Counters | None,
    sandbox: Life | None,
) -> TradingRuntime:
    """
    Make the trading runtime of a server that has its ledger for itself.
    """
    ledger: ILedger = _sqlite(reactor, options)
    make: Callable[..., TradingRuntime] = TradingRuntime
    if sandbox is not None:
        ledger, make = sandbox.ledger(ledger), sandbox.runtime
    read = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    return make(
        reactor,
        ledger,
        events,
        now=time.time,
        maxQueued=options["serverLimits"].maxQueued,
        knownAccountsOnly=options["accounts"] == "known",
        counters=counters,
        read=read,
        rules=_rules(options, ledger, read),
        selfApproval=bool(options["self-approval"]),
    )


def _onPostgres(
    reactor: Any, options: Options, events: TradeEvents, counters: Counters | None
) -> "PostgresRuntime":
    """
    Make the trading runtime of one server among several.
    """
    # What PostgreSQL needs is loaded only where it is used.
    from creditsync.postgres._connection import connect
    from creditsync.postgres._runtime import PostgresRuntime

    address, node = options["ledger"], options["node"]
    rules = options["rules"]
    runtime = PostgresRuntime(
        reactor,
        lambda use: connect(reactor, address, f"creditsync {node} {use}"),
        events,
        node=node,
        now=time.time,
        maxQueued=options["serverLimits"].maxQueued,
        knownAccountsOnly=options["accounts"] == "known",
        selfApproval=bool(options["self-approval"]),
        rules=() if rules is None else rules.rules,
        counters=counters,
    )
    if rules is not None:
        rules.use = runtime.useRules
    return runtime


def _gateway(reactor: Any, options: Options, events: TradeEvents) -> ITradingRuntime:
    """
    Make the runtime that has another platform book.
    """
    # What --upstream needs is loaded only where it is used.
    from creditsync.gateway._passing import PassThrough
    from creditsync.gateway._runtime import GatewayRuntime
    from creditsync.gateway._settling import Timing
    from creditsync.gateway._tags import Tags
    from creditsync.gateway._tokenfile import TokenFile
    from creditsync.gateway._upstream import REPLY_TIMEOUT, Upstream

    profile = options["profile"]
    read = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    log = _intents(reactor, options, read)
    # A daemon changes its folder before it reads it again.
    token = TokenFile(Path(options["upstream-token"]).absolute())
    passThrough = None
    if profile["pass"]:
        passThrough = PassThrough(
            reactor,
            clientFromString(reactor, options["upstream"]),
            token,
            profile["pass"],
            random=random.random,
            timeout=_PATIENCE * options["timeout"],
        )
    return GatewayRuntime(
        reactor,
        log,
        Upstream(
            reactor,
            clientFromString(reactor, options["upstream"]),
            token,
            random=random.random,
            timeout=min(REPLY_TIMEOUT, _REPLY * options["timeout"]),
            names=profile["commands"],
        ),
        events,
        now=time.time,
        maxQueued=options["serverLimits"].maxQueued,
        way=options["way"],
        timing=Timing(patience=_PATIENCE * options["timeout"]),
        read=read,
        rules=_rules(options, log.ledger, read),
        takesGroups=bool(options["upstream-groups"]),
        tags=Tags(profile["comment-tag"], profile["comment-length"]),
        passThrough=passThrough,
    )


def _intents(
    reactor: Any, options: Options, run: "Callable[[Callable[[], Any]], Deferred[Any]]"
) -> "IIntentLog":
    """
    Make the log of a gateway.
    """
    from creditsync.gateway._sqlitelog import SQLiteIntentLog

    if not isPostgres(options["ledger"]):
        return SQLiteIntentLog(_sqlite(reactor, options))
    from creditsync.gateway._postgreslog import LedgerCopy, PostgresIntentLog
    from creditsync.postgres._booking import Site
    from creditsync.postgres._connection import connect
    from creditsync.postgres._reading import reading
    from creditsync.postgres._recorder import Recorder

    address, node = options["ledger"], options["node"]

    def connecting(use: str) -> "Deferred[Connection]":
        return connect(reactor, address, f"creditsync {node} {use}")

    return PostgresIntentLog(
        # It gets its path when it is opened.
        LedgerCopy("", OwnThread(reactor), isGateways=True),
        Recorder(
            reactor,
            connecting,
            node,
            0,
            token_hex(8),
            time.time,
            random.random,
            Site(),
        ),
        connecting,
        partial(reading, address, f"{node} copy"),
        run,
    )


def _sqlite(reactor: Any, options: Options) -> SQLiteLedger:
    return SQLiteLedger(
        # A daemon changes its folder before it opens the ledger.
        os.path.abspath(options["ledger"]),
        OwnThread(reactor),
        isGateways=options["upstream"] is not None,
    )


def _rules(
    options: Options,
    ledger: ILedger,
    read: "Callable[[Callable[[], Any]], Deferred[Any]]",
) -> RuleBook | None:
    """
    Make the rules of the site, which are read again on SIGHUP.
    """
    if options["rules"] is None:
        return None
    rules = RuleBook(ledger, options["rules"].rules, time.time, read)
    options["rules"].use = rules.use
    return rules


def _useUnlessStopped(
    runtime: Any,
    use: "Callable[[Sequence[Rule]], Deferred[None]]",
    rules: Sequence[Rule],
) -> "Deferred[None]":
    """
    Put rules into force.

    @return: Fails with L{ShuttingDown} if the runtime stops meanwhile, which closes
        what the sums of the day are read from.
    """

    def failed(why: Failure) -> Failure:
        return why if runtime.running else Failure(ShuttingDown())

    return use(rules).addErrback(failed)


def authenticator(options: Options, key: bytes) -> TokenAuthenticator:
    """
    Make what decides which tokens are accepted.
    """
    return TokenAuthenticator(
        options["keys"] or key,
        options["algorithm"],
        also=options["formerSecrets"],
        audience=options["audience"],
        issuer=options["issuer"],
        leeway=options["leeway"],
        revocations=options["revocations"],
    )


def describeRights(options: Options) -> str:
    """
    Which accounts and amounts are allowed, in a sentence for people.
    """
    accounts = "no" if options["require-groups"] else "all"
    approver = "anyone" if options["self-approval"] else "anyone but its maker"
    rules = [] if options["rules"] is None else options["rules"].rules
    names = ", ".join(quoted(rule.name) for rule in rules) or "none"
    return (
        f"a token without groups has {accounts} accounts; a finance request may be"
        f" approved by {approver}; limits: {names}"
    )


def web(
    reactor: Any, options: Options, service: CreditSync, counters: Counters, key: bytes
) -> "Web":
    """
    Make the site of a server, not yet started.
    """
    # What --web needs is loaded only where it is used.
    from creditsync.metrics import Metrics
    from creditsync.web._service import Web
    from creditsync.web.root import Root

    root = Root(
        Metrics(
            reactor,
            service,
            counters,
            options["revocations"],
            options["keys"],
            options["rules"],
        ),
        run=partial(deferToThreadPool, reactor, reactor.getThreadPool()),
        ledger=_ledgerOf(options),
        origins=options["web-origin"],
        instance=instanceOf(options["node"] or options["ledger"], key),
    )
    return Web(reactor, options["web"], root)


def _ledgerOf(options: Options) -> str:
    """
    The ledger that the console searches.
    """
    ledger: str = options["ledger"]
    return ledger if isPostgres(ledger) else os.path.abspath(ledger)


def instanceOf(ledger: str, key: bytes) -> str:
    """
    A name that identifies this server and stays the same after a restart.

    On one machine the ledger identifies it. Machines that are copies of one
    another, such as containers, differ at least in their keys.

    @param ledger: The ledger's file, or the name of a node.
    """
    place = os.fsencode(f"{socket.gethostname()}:{os.path.abspath(ledger)}")
    return blake2b(place, key=blake2b(key).digest(), digest_size=16).hexdigest()

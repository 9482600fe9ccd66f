"""
How the server is put together from its options: the one place where the
runtime, the ledger, the events, the authenticator and the site meet.
"""

import os
import socket
import time
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from twisted.internet.threads import deferToThreadPool

from creditsync._process.address import isPostgres
from creditsync._process.options import Options
from creditsync._rulebook import RuleBook
from creditsync.audit import AuditTrail
from creditsync.auth import TokenAuthenticator
from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.ledger.thread import OwnThread
from creditsync.limits import Limits
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync

if TYPE_CHECKING:
    from creditsync.postgres._runtime import PostgresRuntime
    from creditsync.web._service import Web


def creditSync(
    reactor: Any, options: Options, key: bytes, counters: Counters | None = None
) -> CreditSync:
    """
    Make the server, not yet started.
    """
    limits: Limits = options["serverLimits"]
    events = TradeEvents()
    runtimeOn = _onPostgres if isPostgres(options["ledger"]) else _onFile
    return CreditSync(
        reactor,
        runtime=runtimeOn(reactor, options, events, counters),
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
    reactor: Any, options: Options, events: TradeEvents, counters: Counters | None
) -> TradingRuntime:
    """
    Make the trading runtime of a server that has its ledger for itself.
    """
    ledger = SQLiteLedger(
        # A daemon changes its folder before it opens the ledger.
        os.path.abspath(options["ledger"]),
        OwnThread(reactor),
    )
    read = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    rules = None
    if options["rules"] is not None:
        rules = RuleBook(ledger, options["rules"].rules, time.time, read)
        options["rules"].use = rules.use
    return TradingRuntime(
        reactor,
        ledger,
        events,
        now=time.time,
        maxQueued=options["serverLimits"].maxQueued,
        knownAccountsOnly=options["accounts"] == "known",
        counters=counters,
        read=read,
        rules=rules,
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
        ledger=_fileOf(options),
        origins=options["web-origin"],
        instance=instanceOf(options["node"] or options["ledger"], key),
    )
    return Web(reactor, options["web"], root)


def _fileOf(options: Options) -> str | None:
    """
    The file that the console searches. A ledger on PostgreSQL is none.
    """
    ledger: str = options["ledger"]
    return None if isPostgres(ledger) else os.path.abspath(ledger)


def instanceOf(ledger: str, key: bytes) -> str:
    """
    A name that identifies this server and stays the same after a restart.

    On one machine the ledger identifies it. Machines that are copies of one
    another, such as containers, differ at least in their keys.

    @param ledger: The ledger's file, or the name of a node.
    """
    place = os.fsencode(f"{socket.gethostname()}:{os.path.abspath(ledger)}")
    return blake2b(place, key=blake2b(key).digest(), digest_size=16).hexdigest()

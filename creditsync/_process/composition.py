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
    from creditsync.web._service import Web


def creditSync(
    reactor: Any, options: Options, key: bytes, counters: Counters | None = None
) -> CreditSync:
    """
    Make the server, not yet started.
    """
    limits: Limits = options["serverLimits"]
    events = TradeEvents()
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
            read=read,
            rules=rules,
            selfApproval=bool(options["self-approval"]),
        ),
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
        ledger=os.path.abspath(options["ledger"]),
        origins=options["web-origin"],
        instance=instanceOf(options["ledger"], key),
    )
    return Web(reactor, options["web"], root)


def instanceOf(ledger: str, key: bytes) -> str:
    """
    A name that identifies this server and stays the same after a restart.

    On one machine the ledger identifies it. Machines that are copies of one
    another, such as containers, differ at least in their keys.
    """
    place = os.fsencode(f"{socket.gethostname()}:{os.path.abspath(ledger)}")
    return blake2b(place, key=blake2b(key).digest(), digest_size=16).hexdigest()

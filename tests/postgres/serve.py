"""
A node as a process of its own::

    python -m tests.postgres.serve [--plant BUG] --ledger ADDRESS --node NAME ...
"""

import sys
import time
from argparse import ArgumentParser

from twisted.internet import reactor
from twisted.logger import (
    FileLogObserver,
    formatEventAsClassicLogText,
    globalLogBeginner,
)

from creditsync._process.settling import settleProcess
from creditsync.auth import TokenAuthenticator
from creditsync.events import TradeEvents
from creditsync.postgres._connection import connect
from creditsync.postgres._runtime import PostgresRuntime
from creditsync.service import CreditSync
from tests.integration.processes import SECRET
from tests.planted.bugs import plant


def main() -> None:
    parser = ArgumentParser()
    add = parser.add_argument
    add("--listen")
    add("--ledger")
    add("--node")
    add("--plant")
    add("--timeout", type=float, default=5)
    options = parser.parse_args()
    plant(options.plant)
    globalLogBeginner.beginLoggingTo(
        [FileLogObserver(sys.stdout, formatEventAsClassicLogText)],
        redirectStandardIO=False,
    )
    settleProcess(reactor)
    events = TradeEvents()
    runtime = PostgresRuntime(
        reactor,
        lambda use: connect(
            reactor, options.ledger, f"creditsync {options.node} {use}"
        ),
        events,
        node=options.node,
        now=time.time,
        maxQueued=10000,
    )
    service = CreditSync(
        reactor,
        runtime=runtime,
        events=events,
        authenticator=TokenAuthenticator(SECRET.encode()),
        listen=[options.listen],
        timeout=options.timeout,
    )
    status = []

    def failed(why):
        print("CRITICAL", why.getErrorMessage(), flush=True)
        status.append(1)
        reactor.stop()

    service.whenFailed().addErrback(failed)
    reactor.callWhenRunning(service.startService)
    reactor.run()
    sys.exit(status[0] if status else 0)


if __name__ == "__main__":
    main()

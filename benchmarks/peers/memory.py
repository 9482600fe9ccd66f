"""
creditsync with its ledger in memory: everything that it does except for the
disk.
"""

import sys
import time
from pathlib import Path
from typing import Any

from creditsync._process.settling import settleProcess
from creditsync.auth import TokenAuthenticator
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Limits
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync


def creditSync(reactor: Any, listen: str, key: bytes) -> CreditSync:
    """
    The server, not yet started.
    """
    events = TradeEvents()
    runtime = TradingRuntime(
        reactor, MemoryLedger(), events, now=time.time, maxQueued=Limits().maxQueued
    )
    return CreditSync(
        reactor,
        runtime=runtime,
        events=events,
        authenticator=TokenAuthenticator(key),
        listen=[listen],
    )


def main() -> None:
    """
    Serve on the endpoint and with the key file on the command line.
    """
    from twisted.internet import reactor

    settleProcess(reactor)
    _, listen, key = sys.argv
    service = creditSync(reactor, listen, Path(key).read_bytes().strip())
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main()

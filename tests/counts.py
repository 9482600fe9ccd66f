"""
The counts of one server that go up and down: once nothing is left to do, all
of them are back at zero, however each thing ended.

A count that is not given back does no harm for hours, and then the server is
full for ever. So the tests and the simulation check all of them, including
those that only a private table has.
"""

from collections.abc import Iterator

from creditsync.audit import AuditTrail
from creditsync.counters import Counters
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.web.root import Root

Count = tuple[str, int]


def left(service: CreditSync, isClosed: bool = False) -> dict[str, int]:
    """
    The counts that are not zero.

    @param isClosed: Whether every connection should have been closed too.
    """
    return {what: count for what, count in _counts(service, isClosed) if count}


def _counts(service: CreditSync, isClosed: bool) -> Iterator[Count]:
    yield from _requests(service)
    yield from _connections(service)
    if isClosed:
        yield "connections", len(service.factory.connections)
        yield "sessions that get events", len(service.sessions.broadcast._receivers)
        restricted = service.sessions.broadcast._restricted
        yield "restricted sessions that get events", len(restricted)
        yield "masks of sessions", len(restricted._byMask)
        yield "accounts of sessions", len(restricted._byLogin)
        yield "sessions that catch up", service.sessions.broadcast.catchingUp
    catchUps = service.sessions.broadcast._catchUps
    if catchUps is not None and not len(catchUps):
        yield "catch-ups that can go on", len(catchUps._queue)
        yield "turns of catch-ups", catchUps._call is not None
        yield "pages of the journal", len(catchUps._pages)
    if isinstance(service.runtime, TradingRuntime):
        yield from _operations(service.runtime)
    if service.sessions.counters is not None:
        yield from _tallied(service.sessions.counters)
        if service.running:
            # A server that stops no longer receives what is published.
            yield from _published(service.sessions.counters)
    if service.audit is not None:
        yield from _audited(service.audit)


def _requests(service: CreditSync) -> Iterator[Count]:
    waiters = service.waiters
    yield "requests in flight", len(waiters)
    yield (
        "requests of sessions",
        sum(each.session.inFlight for each in service.factory.connections),
    )
    yield "waits for all requests to be answered", len(waiters._idle)
    yield "events for which several requests are waiting", len(waiters._crowds)
    yield "timers of the waiters", waiters._table._call is not None


def _connections(service: CreditSync) -> Iterator[Count]:
    factory = service.factory
    connections = factory.connections
    yield "connections with something to write", len(factory._unflushed)
    yield "connections that wait for their turn", len(factory.scheduler._queue)
    yield "connections in a line", len(factory.lineTimeouts)
    yield "connections that end", len(factory.finishTimeouts)
    yield "connections that do not read long replies", len(factory.replyTimeouts)
    yield "connections that do not read", sum(each.isStalled for each in connections)
    yield "bytes not read", sum(each.unread for each in connections)
    yield "bytes not written", sum(each._output.size for each in connections)
    yield "bytes of lines", sum(len(each._input.lines) for each in connections)


def _operations(runtime: TradingRuntime) -> Iterator[Count]:
    yield "operations queued", runtime.queued
    yield "operations queued since", runtime.queuedSince is not None
    if runtime._failing.cause is not None:
        # It is unknown what was booked, so pending operations stay pending for
        # good.
        return
    batches = runtime._queue, runtime._committing
    yield "orders under way", sum(len(batch.orders) for batch in batches)
    yield "keys under way", sum(len(batch.keys) for batch in batches)
    accounts = runtime._accounts
    yield (
        "accounts that are ahead of the ledger",
        sum(each.changedIn > accounts.lastOnDisk for each in accounts.cached.values()),
    )


def _tallied(counters: Counters) -> Iterator[Count]:
    yield "answers not settled", len(counters.answered) + len(counters._atOnce)


def _published(counters: Counters) -> Iterator[Count]:
    if counters.books:
        yield "operations not published", counters.booked - counters.published


def _audited(audit: AuditTrail) -> Iterator[Count]:
    yield "lines of the audit trail", len(audit._file._lines)
    yield "operations of which the audit trail has not heard", len(audit._askers)


def leftOfSite(root: Root) -> dict[str, int]:
    """
    The counts of a console that are not zero once it has no readers left.
    """
    feed = root._feed
    counts = {
        "readers": len(feed._readers),
        "timers of the feed": feed._call is not None,
        "searches": root.children[b"search"]._searching._isReading,
    }
    return {what: count for what, count in counts.items() if count}

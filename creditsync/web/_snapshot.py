"""
The state of the server at one moment, as the console's page shows it.

L{snapshot} returns a JSON object. Times are UNIX seconds, durations seconds,
amounts decimal numbers as text, so that JavaScript does not round them; L{None}
stands for what is not known::

    {"time": 1767225600.2, "version": "…", "uptime": 86400,
     "timeout": 5.0,                 after which a pending request is a 504
     "health": {"problem": null or "the server is stopping…", "lag": 0.0004},
     "point": {…},                   the last of creditsync.web._history
     "outcomes": [{"command": "CreditInSync", "status": 200, "error": "",
                   "total": 1234, "rate": 412}, …],
     "waiters": {"count": 16, "oldest": 0.02, "shown": [
         {"order": 1242281, "login": 1001, "command": "CreditInSync",
          "extID": "credit-req-1001", "peer": "127.0.0.1:5123", "age": 0.02}, …]},
     "queue": {"operations": 8, "oldest": 0.002},
     "node": {"name": "node-1", "incarnation": 3, "behind": 0, "readAge": 0.2,
              "isHeard": true, "isSynchronous": true, "unknowns": 0, "retries": 0},
     "gateway": {as in creditsync.web._gateway},
     "commits": {"total": 1234, "operations": 98765, "last": 1767225600.1},
     "sessions": {"count": 2, "isPartial": false, "roles": {"manager": 2, …},
                  "unread": 0, "inFlight": 8, "stalled": 0, "catchingUp": 0, "shown": [
         {"peer": "127.0.0.1:5123", "role": "manager", "principal": 7,
          "unread": 0, "isStalled": false, "inFlight": 8}, …]},
     "trades": [
         {"time": 1767225600, "type": 0, "order": 1242281, "login": 1001, "cmd": 7,
          "kind": "credit in",
          "state": 3, "profit": "300.0", "comment": "Promotion credit",
          "command": "CreditInSync", "principal": 7}, …],
     "refusals": [
         {"time": 1767225600.2, "peer": "127.0.0.1:5123", "principal": 7,
          "command": "CreditOutSync", "extID": "x", "status": 409,
          "error": "TRADE_NO_MONEY", "message": "…", "order": null}, …],
     "approvals": {"count": 2, "oldest": 3600.0, "isComplete": true, "shown": [
         {as in "trades"}, …]},
     "totals": {"acknowledged": 1, "booked": 1, "published": 1, "unbooked": 0,
                "timeouts": 0, "late": 0, "unmatched": 0},
     "limits": {"max-pending-per-session": 3, …}}

The lists are bounded: C{waiters.shown} has the longest waiting,
C{sessions.shown} those with most unread and in flight, C{trades}, C{refusals} and
C{approvals.shown} the newest first. C{isPartial} says that there are more sessions than
were looked at. C{queue} is L{None} where the trading runtime does not tell what it has
queued, C{node} where the server is not one of several, and C{gateway} where it is not
in front of another platform.
C{approvals} are the finance requests that wait for approval; C{isComplete} says that
those made before the server started are among them. C{extID} is a string or a number,
or L{None} if the request had none.

To add a figure, add a member here, and to C{static/index.html} an element whose
C{data-figure} names it.
"""

from itertools import islice
from typing import Final

import creditsync
from creditsync._approvals import Approvals
from creditsync._metrics.reading import SessionSums
from creditsync.interfaces import IClustered
from creditsync.metrics import Metrics
from creditsync.web import _rows as rows
from creditsync.web._gateway import gatewayOf
from creditsync.web._history import History, someConnections
from creditsync.web._rows import JSON

# Rows of each list.
_SHOWN: Final = 50


def snapshot(metrics: Metrics, history: History) -> JSON:
    """
    The state of a server now, and the last point of its history.
    """
    counters = metrics.counters
    return {
        "time": counters.now(),
        "version": creditsync.__version__,
        "uptime": int(metrics.clock.seconds() - history.started),
        "timeout": metrics.service.timeout,
        "health": {
            "problem": metrics.problem(),
            "lag": round(metrics.reactorLag.last, 6),
        },
        # Before the outcomes: it may have to be made first.
        "point": history.last(),
        "outcomes": _outcomes(history),
        "waiters": _waiters(metrics),
        "queue": _queue(metrics),
        "node": _node(metrics),
        "gateway": gatewayOf(metrics.service.runtime, counters.now()),
        "commits": {
            "total": sum(counters.commits.counts),
            "operations": counters.booked,
            "last": counters.lastCommit,
        },
        "sessions": _sessions(metrics),
        "trades": [
            rows.event(each) for each in islice(reversed(counters.recentEvents), _SHOWN)
        ],
        "refusals": [
            rows.refusal(each)
            for each in islice(reversed(counters.recentlyRefused), _SHOWN)
        ],
        "approvals": _approvals(metrics),
        "totals": {
            "acknowledged": counters.acknowledged,
            "booked": counters.booked,
            "published": counters.published,
            "unbooked": counters.unbooked,
            "timeouts": counters.timeouts,
            "late": counters.late,
            "unmatched": counters.unmatched,
        },
        "limits": dict(counters.limits),
    }


def _outcomes(history: History) -> list[JSON]:
    return [
        {
            "command": command,
            "status": int(status),
            "error": error,
            "total": count,
            "rate": history.rates.get((command, status, error), 0.0),
        }
        for (command, status, error), count in sorted(history.requests.items())
    ]


def _waiters(metrics: Metrics) -> JSON:
    waiters, now = metrics.service.waiters, metrics.clock.seconds()
    shown = [rows.waiting(each, now) for each in islice(waiters, _SHOWN)]
    return {
        "count": len(waiters),
        "oldest": shown[0]["age"] if shown else 0.0,
        "shown": shown,
    }


def _queue(metrics: Metrics) -> JSON | None:
    if metrics.runtime is None:
        return None
    reading = metrics.read()
    return {"operations": reading.queued, "oldest": round(reading.oldestQueued, 6)}


def _approvals(metrics: Metrics) -> JSON:
    approvals = metrics.service.approvals
    if approvals is None:
        # The application counts elsewhere.
        approvals = Approvals(metrics.service.runtime)
    since = approvals.since
    return {
        "count": len(approvals),
        "oldest": None if since is None else max(0.0, metrics.counters.now() - since),
        "isComplete": approvals.isComplete,
        "shown": [
            {**rows.event(event), "principal": maker}
            for event, maker in approvals.newest(_SHOWN)
        ],
    }


def _node(metrics: Metrics) -> JSON | None:
    if not IClustered.providedBy(metrics.service.runtime):
        return None
    node = metrics.read().node
    return {
        "name": node.name,
        "incarnation": node.incarnation,
        "behind": node.behind,
        "readAge": round(node.readAge, 3),
        "isHeard": node.isHeard,
        "isSynchronous": node.isSynchronous,
        "unknowns": node.unknowns,
        "retries": node.retries,
    }


def _sessions(metrics: Metrics) -> JSON:
    connections = someConnections(metrics)
    count = len(metrics.service.factory.connections)
    sums = SessionSums.of(connections)
    busiest = sorted(
        connections, key=lambda each: (each.unread, each.session.inFlight), reverse=True
    )
    return {
        "count": count,
        "isPartial": count > len(connections),
        "roles": sums.roles,
        "unread": sums.unread,
        "inFlight": sum(each.session.inFlight for each in connections),
        "stalled": sums.stalled,
        "catchingUp": metrics.service.sessions.broadcast.catchingUp,
        "shown": [rows.session(each) for each in busiest[:_SHOWN]],
    }

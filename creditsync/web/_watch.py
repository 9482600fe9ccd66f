"""
A look at the server once a second, as the console's page shows it.

L{Watch.snapshot} gives a JSON object. Times are UNIX seconds, durations seconds,
amounts decimal numbers as text, so that JavaScript does not round them; L{None}
stands for what is not known::

    {"time": 1767225600.2, "version": "…", "uptime": 86400,
     "timeout": 5.0,                 after which a reply that waits is a 504
     "health": {"problem": null or "the server is stopping…", "lag": 0.0004},
     "point": {                      what the plots show, of the last second
         "time": 1767225600.2,
         "ok": 412, "refused": 3, "unknown": 0,      replies a second: 200, 504,
                                                     and all others
         "p50": 0.003, "p90": 0.004, "p99": 0.012,   from request to reply; null
                                                     without any
         "lag": 0.0004, "waiters": 16, "queued": 8, "unread": 0,
         "booked": 412, "commits": 210,              a second
         "commit_p50": 0.002, "commit_p99": 0.005},
     "outcomes": [{"command": "CreditInSync", "status": 200, "error": "",
                   "total": 1234, "rate": 412}, …],
     "waiters": {"count": 16, "oldest": 0.02, "shown": [
         {"order": 1242281, "login": 1001, "command": "CreditInSync",
          "extID": "credit-req-1001", "peer": "127.0.0.1:5123", "age": 0.02}, …]},
     "queue": {"operations": 8, "oldest": 0.002},
     "commits": {"total": 1234, "operations": 98765, "last": 1767225600.1},
     "sessions": {"count": 2, "isPartial": false, "roles": {"manager": 2, …},
                  "unread": 0, "inFlight": 8, "stalled": 0, "shown": [
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
     "totals": {"acknowledged": 1, "booked": 1, "published": 1, "unbooked": 0,
                "timeouts": 0, "late": 0, "unmatched": 0},
     "limits": {"max-pending-per-session": 3, …}}

The lists are bounded: C{waiters.shown} has the longest waiting,
C{sessions.shown} those with most unread and in flight, C{trades} and C{refusals}
the newest first. C{isPartial} says that there are more sessions than were looked
at. C{queue} is L{None}, and so is C{queued} of a point, where the trading runtime
is not the embedded one. C{extID} is a string or a number, or L{None} without one.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from twisted.internet.interfaces import IDelayedCall

import creditsync
from creditsync._conversation.session import Session
from creditsync._conversation.waiter import Waiter
from creditsync._transport.protocol import LineProtocol
from creditsync.counters import SECONDS, RecentRefusal
from creditsync.errors import OutcomeUnknown
from creditsync.methods import ofCmd
from creditsync.metrics import ROLES, Metrics, requestCounts
from creditsync.records import Operation, Principal, Trade, TradeEvent
from creditsync.wire import fromUnits

# Seconds between two looks.
PERIOD: Final = 1.0
# Points of the plots that are kept.
_HISTORY: Final = 300
# Rows of each list.
_SHOWN: Final = 50
# To go through more connections would hold up everybody's requests.
_LOOKED_AT: Final = 2000

JSON: TypeAlias = dict[str, Any]


class Watch:
    """
    Looks once a second, and remembers for the plots.

    @ivar history: The last points, the oldest first.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counters = metrics.counters
        self._clock = metrics.clock
        self.history: deque[JSON] = deque(maxlen=_HISTORY)
        self._started = self._lookedAt = self._clock.seconds()
        self._requests: Mapping[tuple[str, ...], int] = {}
        self._rates: dict[tuple[str, ...], float] = {}
        self._took = self._commits = (0,) * (len(SECONDS) + 1)
        self._booked = 0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """
        Look from now on.
        """
        self._call = self._clock.callLater(PERIOD, self._look)

    def stop(self) -> None:
        """
        Look no more.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self.start()
        self.history.append(self._point())

    def _point(self) -> JSON:
        """
        What has changed since the last point.
        """
        counters, now = self._counters, self._clock.seconds()
        counters.settle()
        seconds = max(now - self._lookedAt, 0.001)
        self._lookedAt = now
        requests = requestCounts(counters)
        self._rates = {
            key: round((count - self._requests.get(key, 0)) / seconds, 1)
            for key, count in requests.items()
        }
        self._requests = requests
        each = [histogram.counts for histogram in counters.took.values()]
        took = tuple(map(sum, zip(*each, strict=True))) or self._took
        commits = tuple(counters.commits.counts)
        tookNow, commitsNow = _less(took, self._took), _less(commits, self._commits)
        booked = counters.booked - self._booked
        self._took, self._commits, self._booked = took, commits, counters.booked
        runtime = self._metrics.runtime
        return {
            "time": counters.now(),
            **self._outcomeRates(),
            "p50": quantile(tookNow, 0.5),
            "p90": quantile(tookNow, 0.9),
            "p99": quantile(tookNow, 0.99),
            "lag": round(self._metrics.pulse.lag, 6),
            "waiters": len(self._metrics.service.waiters),
            "queued": None if runtime is None else runtime.queued,
            "booked": round(booked / seconds, 1),
            "commits": round(sum(commitsNow) / seconds, 1),
            "unread": sum(each.unread for each in self._connections()),
            "commit_p50": quantile(commitsNow, 0.5),
            "commit_p99": quantile(commitsNow, 0.99),
        }

    def _outcomeRates(self) -> JSON:
        rates = {"ok": 0.0, "refused": 0.0, "unknown": 0.0}
        for (_, status, _), rate in self._rates.items():
            if status == "200":
                rates["ok"] += rate
            elif status == str(OutcomeUnknown.status):
                rates["unknown"] += rate
            else:
                rates["refused"] += rate
        return {name: round(rate, 1) for name, rate in rates.items()}

    def snapshot(self) -> JSON:
        """
        Everything as it is now, and the last point.
        """
        metrics, counters = self._metrics, self._counters
        return {
            "time": counters.now(),
            "version": creditsync.__version__,
            "uptime": int(self._clock.seconds() - self._started),
            "timeout": metrics.service.timeout,
            "health": {
                "problem": metrics.problem(),
                "lag": round(metrics.pulse.lag, 6),
            },
            "point": self.history[-1] if self.history else self._point(),
            "outcomes": [
                {
                    "command": command,
                    "status": int(status),
                    "error": error,
                    "total": count,
                    "rate": self._rates.get((command, status, error), 0.0),
                }
                for (command, status, error), count in sorted(self._requests.items())
            ],
            "waiters": self._waiters(),
            "queue": self._queue(),
            "commits": {
                "total": sum(counters.commits.counts),
                "operations": counters.booked,
                "last": counters.lastCommit,
            },
            "sessions": self._sessions(),
            "trades": [
                trade(e) for e in islice(reversed(counters.recentEvents), _SHOWN)
            ],
            "refusals": [
                refusal(each)
                for each in islice(reversed(counters.recentlyRefused), _SHOWN)
            ],
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

    def _waiters(self) -> JSON:
        waiters, now = self._metrics.service.waiters, self._clock.seconds()
        shown = [waiting(each, now) for each in islice(waiters, _SHOWN)]
        return {
            "count": len(waiters),
            "oldest": shown[0]["age"] if shown else 0.0,
            "shown": shown,
        }

    def _queue(self) -> JSON | None:
        runtime = self._metrics.runtime
        if runtime is None:
            return None
        since = runtime.queuedSince
        age = 0.0 if since is None else self._clock.seconds() - since
        return {"operations": runtime.queued, "oldest": round(age, 6)}

    def _connections(self) -> Sequence[LineProtocol]:
        return list(islice(self._metrics.service.factory.connections, _LOOKED_AT))

    def _sessions(self) -> JSON:
        looked = [
            (each.unread, each.session.inFlight, each) for each in self._connections()
        ]
        looked.sort(key=lambda row: row[:2], reverse=True)
        count = len(self._metrics.service.factory.connections)
        roles: dict[str, int] = {}
        for _, _, each in looked:
            role = ROLES[_role(each.session.principal)]
            roles[role] = roles.get(role, 0) + 1
        return {
            "count": count,
            "isPartial": count > len(looked),
            "roles": roles,
            "unread": sum(unread for unread, _, _ in looked),
            "inFlight": sum(inFlight for _, inFlight, _ in looked),
            "stalled": sum(each.isStalled for _, _, each in looked),
            "shown": [
                {
                    "peer": peer(each.session),
                    "role": ROLES[_role(each.session.principal)],
                    "principal": _id(each.session.principal),
                    "unread": unread,
                    "isStalled": each.isStalled,
                    "inFlight": inFlight,
                }
                for unread, inFlight, each in looked[:_SHOWN]
            ],
        }


def quantile(counts: Sequence[int], part: float) -> float | None:
    """
    The value below which this part of what was counted lies, as far as the
    bounds let it be known; L{None} if nothing was counted.
    """
    wanted = part * sum(counts)
    if not wanted:
        return None
    below, low = 0, 0.0
    for count, bound in zip(counts, SECONDS, strict=False):
        if below + count >= wanted:
            return round(low + (bound - low) * (wanted - below) / count, 6)
        below, low = below + count, bound
    return low


def waiting(waiter: Waiter, now: float) -> JSON:
    """
    Show a reply that waits.
    """
    operation = None if waiter.deferral is None else waiter.deferral.operation
    return {
        "order": waiter.order,
        "login": operation.login if isinstance(operation, Operation) else None,
        "command": waiter.command,
        "extID": waiter.extID,
        "peer": peer(waiter.session),
        "age": round(now - waiter.since, 6),
    }


def trade(event: TradeEvent) -> JSON:
    """
    Show a trade event.
    """
    asked = event.operation
    if isinstance(event.data, Trade):
        shown = tradeMembers(event.data)
    else:
        names = ("order", "login", "cmd", "state", "comment")
        shown = {name: event.data.get(name) for name in names}
        shown["kind"] = kind(event.data.get("cmd"))
        shown["time"] = event.data.get("timestamp")
        shown["profit"] = str(event.data.get("profit"))
    return {
        **shown,
        "type": event.type,
        "command": None if asked is None else asked.command,
        "principal": None if asked is None else asked.principal,
    }


def tradeMembers(trade: Trade) -> JSON:
    """
    Show a trade.
    """
    return {
        "time": trade.timestamp,
        "order": trade.order,
        "login": trade.login,
        "cmd": trade.cmd,
        "kind": kind(trade.cmd),
        "state": trade.state,
        "profit": fromUnits(trade.profit),
        "comment": trade.comment,
    }


def kind(cmd: object) -> str | None:
    """
    What people call a trade of this C{cmd}, if it is one of ours.
    """
    method = ofCmd(cmd)
    return None if method is None else method.label


def refusal(refused: RecentRefusal) -> JSON:
    """
    Show a refusal.
    """
    why = refused.refusal
    return {
        "time": refused.when,
        "peer": peer(refused.session),
        "principal": _id(refused.session.principal),
        "command": refused.command,
        "extID": refused.extID,
        "status": why.status,
        "error": why.error,
        "message": why.message,
        "order": (why.data or {}).get("order"),
    }


def peer(session: object) -> str:
    """
    Where a session's client is.
    """
    return session.peer if isinstance(session, Session) else "local"


def _role(principal: Principal | None) -> int | None:
    return None if principal is None else principal.role


def _id(principal: Principal | None) -> int | None:
    return None if principal is None else principal.id


def _less(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(now, before, strict=True))

"""
The gateway on the console: what it shows, and C{POST held}, by which an admin decides
what became of an operation that is held.

The member C{gateway} of a snapshot::

    {"isConnected": true, "since": 3600.0, "problem": "",
     "completeUpTo": 1767225590,
     "delay": {"replies": 100, "p50": 0.004, "p99": 0.02},
     "states": [{"state": "held", "count": 1, "oldest": 181.5}, …],
     "unclear": {"count": 1, "shown": [
         {"operation": 17, "state": "held", "command": "CreditInSync", "login": 1001,
          "profit": "300.0", "comment": "Promotion credit", "order": null,
          "age": 181.5, "why": "the platform does not show it…"}, …]},
     "replies": {"lost": 1, "late": 0, "doubled": 0, "overtaking": 3},
     "alarms": {"count": 1, "shown": [{"time": 1767225600, "text": "…"}, …]},
     "verification": {"time": 1767225600, "looked": 100, "count": 1,
                      "findings": ["order 1242281… is not booked there any more", …]}}

C{since} is for how long the platform has been connected, or not; C{completeUpTo} is the
UNIX time up to which the journal has all changes at the platform; C{delay} is that of
the last replies, with quantiles that are L{None} if there was no reply. C{states} has
those that operations under way are in (docs/gateway.rst, "What becomes of an
operation"), and C{new} for those that were not sent yet. C{verification} is L{None}
before the first has ended.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request

from creditsync._money import fromUnits
from creditsync.records import Principal
from creditsync.service import CreditSync
from creditsync.web._responses import number, respond, respondError, respondLater
from creditsync.web._rows import JSON
from creditsync.web._signing import SignedIn, SignIns, foreign

if TYPE_CHECKING:
    from creditsync.gateway._intents import Intent
    from creditsync.gateway._overview import Overview

# In the order in which operations pass through them.
_STATES: Final = ("new", "sent", "pending", "accepted", "unseen", "held")

# Findings of a verification that are shown.
_FINDINGS: Final = 50

_log = Logger()


def gatewayOf(runtime: object, now: float) -> JSON | None:
    """
    The state of a gateway, or L{None} if the trading runtime is not one.

    @param now: The UNIX time.
    """
    look: Callable[[], Overview] | None = getattr(runtime, "gatewayOverview", None)
    if look is None:
        return None
    overview = look()
    figures, verified = overview.figures, overview.verified
    states = {state.value: each for state, each in overview.states.items()}
    return {
        "isConnected": overview.isConnected,
        "since": round(overview.since, 3),
        "problem": overview.problem,
        "completeUpTo": int(overview.completeUpTo),
        "delay": _delay(sorted(figures.recent)),
        "states": [
            {"state": name, "count": states[name][0], "oldest": states[name][1]}
            for name in _STATES
            if name in states
        ],
        "unclear": {
            "count": overview.unclear,
            "shown": [_unclear(each, now) for each in overview.shown],
        },
        "replies": {
            "lost": figures.lost,
            "late": figures.late,
            "doubled": figures.doubled,
            "overtaking": overview.overtaking,
        },
        "alarms": {
            "count": overview.alarms,
            "shown": [{"time": when, "text": t} for when, t in overview.recentAlarms],
        },
        "verification": None
        if verified is None
        else {
            "time": verified.time,
            "looked": verified.looked,
            "count": len(verified.findings),
            "findings": verified.findings[:_FINDINGS],
        },
    }


def _delay(replies: Sequence[float]) -> JSON:
    return {
        "replies": len(replies),
        **{
            name: round(replies[ceil(part * len(replies)) - 1], 6) if replies else None
            for name, part in (("p50", 0.5), ("p99", 0.99))
        },
    }


def _unclear(intent: "Intent", now: float) -> JSON:
    return {
        "operation": intent.number,
        "state": intent.state.value,
        "command": intent.operation.command,
        "login": intent.login,
        "profit": fromUnits(intent.amount),
        "comment": intent.comment,
        "order": intent.order or None,
        "age": max(0.0, now - intent.sentAt),
        "why": intent.why,
    }


class HeldPage(SignedIn):
    """
    C{POST held}: decide what became of an operation. A form with C{operation}, its
    number, and C{outcome}, which is C{booked}, with C{order}, or C{absent}. It is the
    command C{MngResolveOperation}, with the rights of the one who is signed in.
    """

    def __init__(self, signIns: SignIns, service: CreditSync) -> None:
        super().__init__(signIns)
        self._service = service

    def render_POST(self, request: Request) -> Any:
        """
        Decide, and respond later: 200 with the data of the command's reply, or with its
        refusal.
        """
        if not self.signIns.origins.hasSent(request):
            return foreign(request, self.signIns.origins)
        principal = self.signIns.of(request)
        assert principal is not None
        return respondLater(request, self._decide(request, principal), _failed)

    async def _decide(self, request: Request, principal: Principal) -> bytes:
        data = _decision(request)
        call = self._service.call("MngResolveOperation", data, principal)
        return respond(request, 200, await call)


def _decision(request: Request) -> JSON:
    """
    The data of the command.

    @raise InvalidData: The form can't be read; what it says is checked by the command.
    """
    form = {
        name.decode("utf-8", "replace"): values[0].decode("utf-8", "replace").strip()
        for name, values in (request.args or {}).items()
    }
    data: JSON = {"outcome": form.get("outcome", "")}
    for name in ("operation", "order"):
        if name in form:
            data[name] = number(name, form[name])
    return data


def _failed(request: Request, why: Failure) -> bytes:
    _log.failure("a decision failed", why)
    return respondError(request, 500, "TECH_PROBLEM", "the decision failed")

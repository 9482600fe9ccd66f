"""
What a gateway's log tells people, read beside the server.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from creditsync.errors import LedgerProblem
from creditsync.gateway._intents import Intent
from creditsync.gateway._sqlitelog import READ, intentOf
from creditsync.ledger._source import Source

_IS_GATEWAYS: Final = "SELECT count(*) FROM sqlite_schema WHERE name = 'intent'"
_COUNTS: Final = "SELECT state, count(*) FROM intent GROUP BY state"
_UNSETTLED: Final = (
    f"{READ} WHERE state IN ('sent', 'pending', 'accepted', 'unseen', 'held')"
    " ORDER BY number"
)
_ALARMS: Final = "SELECT timestamp, text FROM alarm ORDER BY number DESC LIMIT 100"
_DECIDED: Final = f"{READ} WHERE decided_by <> '' ORDER BY number"


def report(ledger: Source, name: str) -> Mapping[str, Any]:
    """
    What a gateway's log has, at one moment.

    @param name: What C{--ledger} names.
    @return: C{counts}, the number of operations by state; C{unsettled} and C{decided},
        the L{Intent}s whose outcome is not known and those that a person has decided;
        C{alarms}, the last hundred, each with its time; C{caughtUp}, the platform's
        time up to which the journal is complete.
    @raise LedgerProblem: It is not a gateway's.
    """
    if ledger.execute(_IS_GATEWAYS).fetchone() == (0,):
        raise LedgerProblem(f"the ledger {name} is not a gateway's")
    [[mark]] = ledger.execute("SELECT update_time FROM caught_up")
    return {
        "counts": dict(ledger.execute(_COUNTS).fetchall()),
        "unsettled": [intentOf(row) for row in ledger.execute(_UNSETTLED)],
        "decided": [intentOf(row) for row in ledger.execute(_DECIDED)],
        "alarms": ledger.execute(_ALARMS).fetchall()[::-1],
        "caughtUp": mark,
    }


def held(ledger: Source, name: str) -> Iterator[Intent]:
    """
    The operations that wait for a person, the oldest first.

    @raise LedgerProblem: See L{report}.
    """
    for intent in report(ledger, name)["unsettled"]:
        if intent.state.value == "held":
            yield intent

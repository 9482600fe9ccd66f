"""
Cursors: places in a ledger's journal, as trade events name them.

A cursor is opaque. All that the protocol says of two of them is that no place is
given twice (C{docs/protocol.rst}, "Trade events").
"""

import re
from collections import deque

from attrs import Factory, define

from creditsync._client.outcomes import Data

# How many events are remembered to recognize one that is repeated. More than a
# server sends in one page of a catch-up.
REMEMBERED = 4096


def checkCursor(since: str) -> str:
    """
    Check where a stream is to begin: a cursor, or C{"first"}.

    @raise ValueError: It can't be a cursor.
    """
    if not re.fullmatch("[A-Za-z0-9.-]{1,64}", since):
        raise ValueError(f"not a cursor: {since!r}")
    return since


def cursorOf(data: Data) -> str | None:
    """
    The cursor of an event, or of a reply; L{None} if the server gives none.
    """
    cursor = data.get("cursor")
    return cursor if isinstance(cursor, str) else None


@define(eq=False)
class Places:
    """
    The places of the events that came last, so that a server's mistakes are
    noticed.
    """

    _order: deque[str] = Factory(deque)
    _known: set[str] = Factory(set)

    def __contains__(self, cursor: str) -> bool:
        return cursor in self._known

    def isBehind(self, cursor: str) -> bool:
        """
        Whether a place comes before that of the last event, as far as this can be
        told: the server's own runtime counts the places of a ledger, and a cursor
        of another kind is taken as it comes.
        """
        if not self._order:
            return False
        ledger, _, place = cursor.rpartition("-")
        lastLedger, _, lastPlace = self._order[-1].rpartition("-")
        isCounted = bool(ledger) and place.isdecimal() and lastPlace.isdecimal()
        return isCounted and ledger == lastLedger and int(place) < int(lastPlace)

    def add(self, cursor: str) -> None:
        """
        An event with this cursor has come.
        """
        self._order.append(cursor)
        self._known.add(cursor)
        if len(self._order) > REMEMBERED:
            self._known.discard(self._order.popleft())

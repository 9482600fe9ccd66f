"""
Cursors: how a place in a ledger's journal is written for clients (docs/ledger.rst,
"Places and cursors").

A cursor is C{EPOCH-PLACE}, such as C{9f3c1a7e-1042}. The epoch is of one life of one
ledger, so a cursor of another one, or of the time before a backup was restored, is
recognized. Place 0 is the beginning.
"""

import os
import re
from typing import Final

_CURSOR: Final = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,15})", re.ASCII)


def newEpoch() -> str:
    """
    A random epoch.
    """
    return os.urandom(4).hex()


def cursorOf(epoch: str, place: int) -> str:
    """
    Write a place.
    """
    return f"{epoch}-{place}"


def placeIn(cursor: str, epoch: str, head: int) -> int | None:
    """
    Read a place.

    @param epoch: The ledger's present one.
    @param head: The ledger's last place.
    @return: L{None} if the cursor is of another ledger or another life, ahead of
        this one, or not a cursor at all.
    """
    match = _CURSOR.fullmatch(cursor)
    if match is None or match[1] != epoch or int(match[2]) > head:
        return None
    return int(match[2])

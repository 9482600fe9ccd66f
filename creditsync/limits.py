"""
What the server bounds, as one table.

A limit is a row of L{Limits}. The command line's option, its help, and the name
under which it is counted and alerted on are made of the row; that the documents
list it is proved by tests, which name a limit that they leave out.
"""

import re
from enum import Enum
from typing import Any

from attrs import define, field


class Scope(Enum):
    """
    Whose use a limit bounds, and so which alert says that it was reached.
    """

    # One client's. The others are served: CreditsyncLimitReached.
    CLIENT = "client"
    # That of all together. Clients are refused who did nothing wrong:
    # CreditsyncFull.
    SERVER = "server"
    # The server's own work. Nobody is refused.
    NONE = "none"


def _limit(default: float, scope: Scope, help: str) -> Any:
    """
    One limit.

    @param default: Whose type is that of the limit.
    @param help: What the command line and the README say of its option.
    """
    return field(default=default, metadata={"scope": scope, "help": help})


@define
class Limits:
    """
    All limits, each with a sensible default.
    """

    maxLineLength: int = _limit(
        65536, Scope.CLIENT, "Bytes in one line; a longer one is 413."
    )
    lineTimeout: float = _limit(
        30.0,
        Scope.CLIENT,
        "Seconds that a line may take to arrive, or a client may pause in reading a"
        " long reply.",
    )
    linesPerTurn: int = _limit(
        32, Scope.NONE, "Lines of one connection handled before others' turn."
    )
    maxPending: int = _limit(
        200_000, Scope.SERVER, "Requests in flight in all; then 503 BUSY."
    )
    maxPendingPerSession: int = _limit(
        1000, Scope.CLIENT, "Requests in flight per session; then 429."
    )
    maxQueued: int = _limit(
        50_000, Scope.SERVER, "Operations not yet committed; then 503 BUSY."
    )
    maxLookups: int = _limit(
        16,
        Scope.CLIENT,
        "Look-ups of one token's id that wait, and commands of it that a gateway has"
        " passed on; then 503 BUSY.",
    )
    maxUnread: int = _limit(
        4 * 1024 * 1024,
        Scope.CLIENT,
        "Bytes that a client may leave unread; then it is cut off.",
    )
    maxConnections: int = _limit(
        10_000, Scope.SERVER, "Connections at once; further ones are closed."
    )
    stopTimeout: float = _limit(
        10.0, Scope.NONE, "Seconds that a stop may take before sessions are cut off."
    )


def optionName(attribute: str) -> str:
    """
    The name of a limit on the command line, without the dashes before it, in
    metrics and in alerts.
    """
    return re.sub(r"(?=[A-Z])", "-", attribute).lower()

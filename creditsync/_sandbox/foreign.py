"""
Commands that a platform has and this server does not. They change nothing; a gateway
may pass them on (docs/gateway.rst, "Commands of the platform").
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from creditsync import _wire as wire
from creditsync._sandbox.lines import extIDOf
from creditsync.codes import ALL_SESSIONS, SESSION_ADMIN, SESSION_MANAGER
from creditsync.errors import Forbidden, InvalidData, Refusal
from creditsync.records import Principal

_SYMBOLS: Final = {
    "symbols": [
        {"symbol": "EURUSD", "digits": 5, "contract_size": 100000},
        {"symbol": "XAUUSD", "digits": 2, "contract_size": 100},
    ]
}
_STATS: Final = {"users": 2, "online": 1}

# The roles that may use each, and what it replies besides asked_by and asked.
COMMANDS: Final[Mapping[str, tuple[frozenset[int], Mapping[str, Any]]]] = {
    "GetSymbols": (ALL_SESSIONS, _SYMBOLS),
    "MngGetUserStats": (frozenset({SESSION_MANAGER, SESSION_ADMIN}), _STATS),
}

_NAMES: Final = tuple(b'"%b"' % name.encode("ascii") for name in COMMANDS)


def mayBeForeign(line: bytes) -> bool:
    """
    Whether a line may ask for one of these. Most lines do not.
    """
    return any(name in line for name in _NAMES)


def answer(
    authenticate: Callable[[str | None], Principal], members: Mapping[str, Any]
) -> bytes:
    """
    Answer a request for one of these.

    @param members: Those of its line.
    @return: The line of the reply. It says whose token the request had, and has its
        data, so that a test sees what came through.
    """
    extID, command = extIDOf(members), members["command"]
    try:
        token, data = members.get("__token"), members.get("data", {})
        principal = authenticate(token if isinstance(token, str) else None)
        roles, reply = COMMANDS[command]
        if principal.role not in roles:
            raise Forbidden(f"this token's role may not use {command}")
        if not isinstance(data, dict):
            raise InvalidData("data must be an object")
    except Refusal as refusal:
        return wire.refusal(extID, refusal)
    return wire.success(extID, {**reply, "asked_by": principal.id, "asked": data})

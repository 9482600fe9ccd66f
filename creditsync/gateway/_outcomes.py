"""
What a reply of the platform proves.

Only three things do: a 200, a refusal by one of a few statuses with the name of an
error, and that no byte was sent. Anything else proves nothing, and what it was a reply
to may be booked (docs/gateway.rst, "What a reply proves").
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from attrs import define, field

from creditsync.codes import EV_RECORD_DELETE, MAX_SAFE_INTEGER
from creditsync.gateway._intents import Intent


class Kind(Enum):
    """
    What is known of a request.

    @cvar DONE: It was accepted, or looked up.
    @cvar REFUSED: It was refused: nothing has happened, and nothing will.
    @cvar TOKEN: The same, because of the token.
    @cvar UNSENT: No byte of it was sent.
    @cvar UNKNOWN: Nothing.
    """

    DONE = "done"
    REFUSED = "refused"
    TOKEN = "token"
    UNSENT = "unsent"
    UNKNOWN = "unknown"


@define(frozen=True)
class Outcome:
    """
    What became of a request to the platform.

    @ivar data: The data of a 200.
    @ivar status: Of a refusal, as C{error}.
    @ivar message: For people: the message of a refusal, or why nothing is known.
    """

    kind: Kind
    data: Mapping[str, Any] = field(factory=dict)
    status: int = 0
    error: str = ""
    message: str = ""

    @property
    def order(self) -> int | None:
        """
        The order that the platform names, if it does.
        """
        order = self.data.get("order")
        isOrder = type(order) is int and 0 < order <= MAX_SAFE_INTEGER
        return order if isOrder else None

    @property
    def isNo(self) -> bool:
        """
        Whether the request was refused.
        """
        return self.kind in (Kind.REFUSED, Kind.TOKEN)


# The statuses that are a definite no, if the reply has the name of an error too.
_DEFINITE: Final = frozenset({400, 403, 404, 409, 423, 429})
_UNAUTHORIZED: Final = 401

# The members of an error that is an object which may have its name.
_NAMES: Final = ("name", "error", "code", "type")

# The errors of status 401 that are about the token; any other is a refusal.
_ABOUT_TOKEN: Final = ("TOKEN", "UNAUTHORIZED", "JWT", "EXPIRED")


def unknown(message: str) -> Outcome:
    """
    Nothing is known of a request.
    """
    return Outcome(Kind.UNKNOWN, message=message)


def unsent(message: str) -> Outcome:
    """
    A request was not sent.
    """
    return Outcome(Kind.UNSENT, message=message)


def outcomeOf(reply: Mapping[str, Any]) -> Outcome:
    """
    What a reply proves.
    """
    status, data = reply.get("status"), reply.get("data")
    error, message = _errorOf(reply)
    if type(status) is not int:
        return unknown("the reply has no status")
    if status == 200 and reply.get("error") in (None, ""):
        if isinstance(data, dict):
            return Outcome(Kind.DONE, data)
        return unknown("the reply has no data")
    if isinstance(error, str) and error:
        text = message if isinstance(message, str) else error
        if status in _DEFINITE:
            return Outcome(Kind.REFUSED, status=status, error=error, message=text)
        if status == _UNAUTHORIZED:
            isAboutToken = any(each in error.upper() for each in _ABOUT_TOKEN)
            kind = Kind.TOKEN if isAboutToken else Kind.REFUSED
            return Outcome(kind, status=status, error=error, message=text)
    return unknown(f"the platform has answered with status {status}")


def ownOutcome(intent: Intent, outcome: Outcome) -> Outcome:
    """
    What a reply proves of an operation: nothing if it names another account or another
    kind of trade, or to a deletion another order. The platform has mixed up two replies
    then, and the order that this one names is another operation's.
    """
    if intent.type == EV_RECORD_DELETE and outcome.order not in (None, intent.order):
        return unknown(f"the reply is about order {outcome.order}")
    for name, own in (("login", intent.login), ("cmd", intent.cmd)):
        named = outcome.data.get(name)
        if type(named) is int and named != own:
            return unknown(f"the reply is about {name} {named}")
    return outcome


def _errorOf(reply: Mapping[str, Any]) -> tuple[Any, Any]:
    """
    The error of a reply, and its message. A platform may have both in one object.
    """
    error, message = reply.get("error"), reply.get("message")
    if not isinstance(error, dict):
        return error, message
    names = (error.get(member) for member in _NAMES)
    name = next((each for each in names if isinstance(each, str) and each), "")
    return name, error.get("message", message)

"""
What can go wrong, by what happened.

A L{Refusal} is an answer: it has its status, its name on the wire and a
sentence for people. Whatever else is raised inside a command is a fault of
ours, which a client sees as one fixed answer while the log has the cause.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final

# How long a client should wait before it tries again, in milliseconds.
RETRY_WHEN_BUSY = 250
RETRY_AFTER_STOP = 5000


class Spoken(Enum):
    """
    When a refusal is sent: before or after the server has looked up the
    request's C{idempotencyKey}. It decides what the refusal says about earlier
    tries of the same request.

    @cvar BEFORE_KEY: Before the look-up, or possibly before it. It says nothing
        about an earlier try.
    @cvar AFTER_KEY: After nothing was found under the key: no earlier try was
        booked, but one that is still on its way to the server may be.
    @cvar BY_KEY: Because another request has the key, which keeps it: no
        other try was or will be booked.
    """

    BEFORE_KEY = "before"
    AFTER_KEY = "after"
    BY_KEY = "by"


class Refusal(Exception):
    """
    The request was not carried out, and this is what its sender is told.

    @cvar spoken: On which side of the key the server decides this. What isn't
        known to come after the look-up counts as coming before it.
    @ivar message: A sentence that names the member or the cause.
    @ivar data: What travels beside the message, where the contract has it.
    @ivar limit: The option of the limit that was reached, if it was one.
    """

    status: ClassVar[int] = 500
    error: ClassVar[str] = "TECH_PROBLEM"
    spoken: ClassVar[Spoken] = Spoken.BEFORE_KEY
    limit: str | None = None

    def __init__(self, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class InvalidJSON(Refusal):
    """
    The line is not one I-JSON object (RFC 7493).
    """

    status, error = 400, "INVALID_JSON"


class InvalidData(Refusal):
    """
    A member breaks its schema, or a rule that no schema can say.

    The schemas come before the key. That a total would pass what the ledger
    holds comes after it, but a client can't tell one from the other.
    """

    status, error = 400, "INVALID_DATA"


class Unauthorized(Refusal):
    """
    The token is missing, malformed, expired, badly signed or revoked.
    """

    status, error = 401, "UNAUTHORIZED"


class Forbidden(Refusal):
    """
    The token is good, but its role may not use this command.
    """

    status, error = 403, "FORBIDDEN"


class UnknownCommand(Refusal):
    """
    There is no such command.
    """

    status, error = 404, "UNKNOWN_COMMAND"


class UserNotFound(Refusal):
    """
    There is no such account, and accounts are not opened on first use.
    """

    status, error = 404, "USER_NOT_FOUND"
    spoken = Spoken.AFTER_KEY


class NotFound(Refusal):
    """
    There is nothing by that order, key or channel.
    """

    status, error = 404, "NOT_FOUND"
    spoken = Spoken.AFTER_KEY


class IncorrectOrder(Refusal):
    """
    The order exists, but is of another login or another kind, or deleted.
    """

    status, error = 409, "INCORRECT_ORDER"
    spoken = Spoken.AFTER_KEY


class NoMoney(Refusal):
    """
    More would be taken out of the account than is in it.
    """

    status, error = 409, "TRADE_NO_MONEY"
    spoken = Spoken.AFTER_KEY


class DuplicateExtID(Refusal):
    """
    The same session already waits for a reply under this C{extID}.
    """

    status, error = 409, "DUPLICATE_EXTID"


class LineTooLong(Refusal):
    """
    The line passes the limit; its connection is closed after this answer.
    """

    status, error = 413, "LINE_TOO_LONG"
    limit = "max-line-length"


class IdempotencyKeyReused(Refusal):
    """
    Another operation was booked, or is under way, under the same key.
    """

    status, error = 422, "IDEMPOTENCY_KEY_REUSED"
    spoken = Spoken.BY_KEY

    def __init__(self, member: str, order: int) -> None:
        super().__init__(
            f"{member} differs from the first request with this idempotencyKey,"
            f" which has order {order}",
            {"order": order},
        )


class TooManyRequests(Refusal):
    """
    This session has as many requests in flight as one session may have.
    """

    status, error = 429, "TOO_MANY_REQUESTS"
    limit = "max-pending-per-session"


class TechProblem(Refusal):
    """
    A fault of the server, before anything was reserved.
    """

    status, error = 500, "TECH_PROBLEM"


class Busy(Refusal):
    """
    The server has as much to do as it may have at once.
    """

    status, error = 503, "BUSY"

    def __init__(self, message: str, limit: str | None = None) -> None:
        super().__init__(message, {"retry_after_ms": RETRY_WHEN_BUSY})
        self.limit = limit


class ShuttingDown(Refusal):
    """
    The server is stopping and takes nothing new.
    """

    status, error = 503, "SHUTDOWN"

    def __init__(self, message: str = "the server is stopping") -> None:
        super().__init__(message, {"retry_after_ms": RETRY_AFTER_STOP})


class OutcomeUnknown(Refusal):
    """
    An order was reserved and nobody knows what became of it.

    Not a kind of failure but a third outcome: the operation may still be
    booked (wire contract, section 3).
    """

    status, error = 504, "SYNC_TIMEOUT"

    def __init__(self, cause: str, order: int | None = None) -> None:
        if order is None:
            super().__init__(f"{cause}: the outcome is unknown")
            return
        super().__init__(
            f"{cause}: the outcome of order {order} is unknown, it may still be"
            " booked; ask with GetOperation, or repeat the request under its"
            " idempotencyKey",
            {"order": order},
        )


# By the name on the wire. A client takes a name that isn't here for one that is
# spoken before the key was looked up.
SPOKEN: Final[Mapping[str, Spoken]] = {
    kind.error: kind.spoken for kind in Refusal.__subclasses__()
}


class SessionEnded(Exception):
    """
    The session that waited is gone; there is nobody to tell.
    """


class MethodProblem(Exception):
    """
    This build can't carry out one of its finance methods; the message names it.
    """


class LedgerProblem(Exception):
    """
    The ledger can't be used; the message says why and what to do.
    """


class LedgerInUse(LedgerProblem):
    """
    Another process has this ledger open for writing.
    """


class LedgerDamaged(LedgerProblem):
    """
    What the ledger holds breaks an invariant, or is no ledger of ours.
    """

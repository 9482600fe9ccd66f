"""
The errors of the server, named for what happened.

A L{Refusal} is sent to the client: it has a status, a name on the wire and a
sentence for people. Any other exception in a command is a fault of the server: the
client gets a fixed reply, and the log has the cause.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final

# How long a client should wait before it sends the request again, in milliseconds.
RETRY_WHEN_BUSY = 250
RETRY_AFTER_STOP = 5000


class Spoken(Enum):
    """
    When a refusal is sent: before or after the server has looked up the
    request's C{idempotencyKey}. A client learns from it whether an earlier attempt
    of the same request can have been booked.

    @cvar BEFORE_KEY: Before the look-up, or possibly before it. An earlier attempt
        may have been booked.
    @cvar AFTER_KEY: After the look-up found nothing. No earlier attempt was booked,
        but one that is still on its way to the server may be.
    @cvar BY_KEY: Because another request has used the key. No other attempt was or
        will be booked.
    """

    BEFORE_KEY = "before"
    AFTER_KEY = "after"
    BY_KEY = "by"


class Refusal(Exception):
    """
    The request was not carried out; its client gets this error.

    @cvar spoken: Whether the server decides this before or after it looks up the
        key; before, if it is not certain.
    @ivar message: A sentence that names the member or the cause.
    @ivar data: The C{data} of the reply, or L{None}.
    @ivar limit: The option of the limit that was reached, or L{None}.
    @ivar rule: The name of the site's rule that was applied, or L{None}.
    """

    status: ClassVar[int] = 500
    error: ClassVar[str] = "TECH_PROBLEM"
    spoken: ClassVar[Spoken] = Spoken.BEFORE_KEY
    limit: str | None = None
    rule: str | None = None

    def __init__(self, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    @property
    def sent(self) -> tuple[int, str]:
        """
        The C{status} and the C{error} of the reply.
        """
        return self.status, self.error


class InvalidJSON(Refusal):
    """
    The line is not one I-JSON object (RFC 7493).
    """

    status, error = 400, "INVALID_JSON"


class InvalidData(Refusal):
    """
    A member breaks its schema, or a rule that a schema can't express.

    Schemas are checked before the key is looked up. That a total would exceed what
    the ledger can store is checked after it, but a client can't tell the two apart.
    """

    status, error = 400, "INVALID_DATA"


class Unauthorized(Refusal):
    """
    The token is missing, malformed, expired or revoked, or its signature is
    invalid.
    """

    status, error = 401, "UNAUTHORIZED"


class Forbidden(Refusal):
    """
    The token is valid, but its role may not use this command.
    """

    status, error = 403, "FORBIDDEN"


class UnknownCommand(Refusal):
    """
    There is no such command.
    """

    status, error = 404, "UNKNOWN_COMMAND"


class UserNotFound(Refusal):
    """
    There is no such account, and accounts are not opened by their first operation.
    """

    status, error = 404, "USER_NOT_FOUND"
    spoken = Spoken.AFTER_KEY


class NotFound(Refusal):
    """
    There is no such order, key or channel.
    """

    status, error = 404, "NOT_FOUND"
    spoken = Spoken.AFTER_KEY


class TradeNotFound(Refusal):
    """
    There is no such order, or it belongs to an account that the token may not see.
    The look-ups that the platform has too call it so.
    """

    status, error = 404, "TRADE_NOT_FOUND"


class IncorrectOrder(Refusal):
    """
    The order exists, but belongs to another login, is a different kind of
    transaction, or was deleted.
    """

    status, error = 409, "INCORRECT_ORDER"
    spoken = Spoken.AFTER_KEY


class NoMoney(Refusal):
    """
    More would be taken out of the account than is in it.
    """

    status, error = 409, "TRADE_NO_MONEY"
    spoken = Spoken.AFTER_KEY


class LimitExceeded(Refusal):
    """
    A rule of the site does not allow the operation.
    """

    status, error = 409, "LIMIT_EXCEEDED"
    spoken = Spoken.AFTER_KEY

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class PlatformRefused(Refusal):
    """
    The platform behind a gateway has refused the operation, with an error that this
    server does not have itself.
    """

    status, error = 409, "PLATFORM_REFUSED"
    spoken = Spoken.AFTER_KEY


class DuplicateExtID(Refusal):
    """
    A request with this C{extID} is already pending on the same connection.
    """

    status, error = 409, "DUPLICATE_EXTID"


class CursorGone(Refusal):
    """
    C{since} is not a place in this server's journal.
    """

    status, error = 410, "CURSOR_GONE"

    def __init__(self, head: str) -> None:
        super().__init__(
            "data.since is not a place in this journal, which may be a restored backup:"
            " look up what you know, and begin at data.head",
            {"head": head},
        )


class LineTooLong(Refusal):
    """
    The line exceeds the limit; the connection is closed after this reply.
    """

    status, error = 413, "LINE_TOO_LONG"
    limit = "max-line-length"


class IdempotencyKeyReused(Refusal):
    """
    Another operation with the same key was booked or is pending.
    """

    status, error = 422, "IDEMPOTENCY_KEY_REUSED"
    spoken = Spoken.BY_KEY

    def __init__(self, member: str, order: int) -> None:
        """
        @param order: That of the first request, or 0 if it is not known.
        """
        if not order:
            super().__init__(
                f"{member} differs from the first request with this idempotencyKey"
            )
            return
        super().__init__(
            f"{member} differs from the first request with this idempotencyKey,"
            f" which has order {order}",
            {"order": order},
        )


class TooManyRequests(Refusal):
    """
    This session has too many pending requests.
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
    The server has reached one of its limits.
    """

    status, error = 503, "BUSY"

    def __init__(
        self,
        message: str,
        limit: str | None = None,
        retryAfter: int = RETRY_WHEN_BUSY,
    ) -> None:
        """
        @param retryAfter: How long a client should wait, in milliseconds.
        """
        super().__init__(message, {"retry_after_ms": retryAfter})
        self.limit = limit


class ShuttingDown(Refusal):
    """
    The server is stopping and accepts no new requests.
    """

    status, error = 503, "SHUTDOWN"

    def __init__(self, message: str = "the server is stopping") -> None:
        super().__init__(message, {"retry_after_ms": RETRY_AFTER_STOP})


class OutcomeUnknown(Refusal):
    """
    An order was reserved, but the outcome of its operation is unknown.

    This is neither success nor failure: the operation may still be booked
    (docs/protocol.rst, "Timeout").
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


# By the name on the wire. Clients treat a name that is not here as BEFORE_KEY.
SPOKEN: Final[Mapping[str, Spoken]] = {
    kind.error: kind.spoken for kind in Refusal.__subclasses__()
}


class TookTooLong(Exception):
    """
    A search was given up, because its time was over.
    """


class SessionEnded(Exception):
    """
    The session that waited has ended, so there is no client to answer.
    """


class MethodProblem(Exception):
    """
    This build can't carry out one of its finance methods; the message names it.
    """


class LedgerProblem(Exception):
    """
    The ledger can't be used; the message says why, and what to do.
    """


class LedgerInUse(LedgerProblem):
    """
    Another process has this ledger open for writing.
    """


class LedgerDamaged(LedgerProblem):
    """
    The ledger breaks an invariant, or the file is not a creditsync ledger.
    """

"""
How a request ends: with an L{Answer}, or with one of three exceptions.

Applications import these from L{creditsync.client}.
"""

from decimal import Decimal
from typing import Any, TypeAlias

from creditsync import errors

Amount: TypeAlias = Decimal | int | float
Data: TypeAlias = dict[str, Any]


class Answer(dict[str, Any]):
    """
    The data of a reply, with its money as C{Decimal}.

    @ivar isReplay: Whether the operation had been booked before, under the same
        key, and was not booked again.
    """

    def __init__(self, data: Data, isReplay: bool) -> None:
        super().__init__(data)
        self.isReplay = isReplay


class Refused(Exception):
    """
    The server refused the request: nothing has happened.

    @ivar status: The status, as in HTTP.
    @ivar error: The name of the error, for instance C{TRADE_NO_MONEY}.
    @ivar message: A sentence that names the member or the cause.
    @ivar data: The data sent with the error, or L{None}.
    """

    def __init__(
        self, status: int, error: str, message: str, data: Data | None = None
    ) -> None:
        super().__init__(f"{status} {error}: {message}")
        self.status = status
        self.error = error
        self.message = message
        self.data = data


class CursorGone(Refused):
    """
    The trade events can't be resumed: the cursor is of another ledger, or ahead of
    this one, which was restored from a backup. Nobody knows which events are missed:
    look up what matters, and go on from C{head}.

    @ivar cursor: The cursor that was refused.
    @ivar head: The cursor of the newest event, or L{None} if the server did not
        report one.
    """

    def __init__(self, cursor: str, refusal: Refused) -> None:
        super().__init__(refusal.status, refusal.error, refusal.message, refusal.data)
        self.cursor = cursor
        head = (refusal.data or {}).get("head")
        self.head: str | None = head if isinstance(head, str) else None


class Unanswered(Exception):
    """
    There is no answer, and nothing has happened: the request was never sent, the
    other side could not understand it, or it only reads.
    """


class OutcomeUnknown(errors.OutcomeUnknown):
    """
    The operation may have been booked, or may still be.

    To find out, call L{CreditClient.getOperation
    <creditsync.client.CreditClient.getOperation>} with its key, or request the
    same operation again with the same key.

    @ivar order: The order that was reserved for it, or L{None} if the server
        did not report one.
    @ivar key: Its C{idempotencyKey}, or L{None} if it has none: what
        L{CreditClient.call<creditsync.client.CreditClient.call>} has sent can't be
        looked up.
    """

    def __init__(self, cause: str, order: int | None, key: str | None) -> None:
        named = cause if key is None else f"{cause} (idempotencyKey {key})"
        super().__init__(named, order)
        self.order = order
        self.key = key

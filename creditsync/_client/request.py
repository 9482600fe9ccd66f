"""
One request over all its tries, and what a reply to one of them means for it.
"""

from typing import ClassVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from creditsync._client.lines import decodePassed, decodeReply
from creditsync._client.outcomes import Answer, OutcomeUnknown, Refused, Unanswered
from creditsync.errors import SPOKEN, Spoken

# Temporary refusals: the same request may be accepted later.
TEMPORARY = frozenset({429, 503})


@define(eq=False)
class Request:
    """
    One request.

    @cvar isOnce: Whether it is sent once, whatever becomes of it.
    @cvar decode: Reads a reply to it.
    @ivar key: Its C{idempotencyKey}, or L{None} if it only reads.
    @ivar body: The members that all tries have in common, as a JSON object.
    @ivar extID: The name of the try that is in flight, if one is.
    @ivar tries: How many tries were answered with "try again".
    @ivar mayBeBooked: Whether the outcome of an earlier try is unknown.
    @ivar wasLost: Whether an earlier try may still reach the server: its
        connection was lost before the reply, or a 504 named no order.
    @ivar order: The order that a try has reserved, if known.
    @ivar refusal: The last temporary refusal.
    @ivar nextTry: The end of the wait for the next try.
    """

    isOnce: ClassVar[bool] = False
    decode = staticmethod(decodeReply)

    command: str
    key: str | None
    body: bytes
    ended: "Deferred[Answer]" = field(init=False)
    extID: str | None = None
    tries: int = 0
    mayBeBooked: bool = False
    wasLost: bool = False
    order: int | None = None
    refusal: Refused | None = None
    nextTry: IDelayedCall | None = None

    def judge(self, reply: Answer | Refused) -> Answer | Exception | float:
        """
        Take the reply to a try that is no longer in flight.

        @return: What ends the request, or the seconds for which the server asks
            not to be tried again.
        """
        if isinstance(reply, Answer):
            return reply
        if reply.status == 504:
            order = _order(reply)
            self.mayBeBooked = True
            self.wasLost = self.wasLost or order is None
            self.order = order or self.order
            return 0.0
        if reply.status in TEMPORARY:
            self.refusal = reply
            return retryAfter(reply)
        if self._isEndedBy(reply):
            return reply
        unfinished = self.unfinished(f"no further try, {reply}")
        unfinished.__cause__ = reply
        return unfinished

    def lose(self) -> None:
        """
        Lose the try that is in flight: it may be booked, now or later.
        """
        self.extID = None
        self.mayBeBooked = self.wasLost = True

    def _isEndedBy(self, refusal: Refused) -> bool:
        """
        Whether a refusal of this try proves that no earlier one was booked, or
        will be.
        """
        if not self.mayHaveHappened:
            return True
        spoken = SPOKEN.get(refusal.error, Spoken.BEFORE_KEY)
        return spoken is Spoken.BY_KEY or (
            spoken is Spoken.AFTER_KEY and not self.wasLost
        )

    @property
    def mayHaveHappened(self) -> bool:
        """
        Whether a try was sent that may be booked; never for a request that only
        reads.
        """
        return self.key is not None and (self.mayBeBooked or self.extID is not None)

    def unfinished(self, cause: str) -> Exception:
        """
        The exception that ends the request if it is not tried again.
        """
        if self.key is not None and self.mayHaveHappened:
            return OutcomeUnknown(f"{self.command}: {cause}", self.order, self.key)
        return self.refusal or Unanswered(f"{self.command}: {cause}")


@define(eq=False)
class Call(Request):
    """
    A request that a gateway passes on to its platform. It has no key, so nobody would
    notice if it was carried out again.
    """

    isOnce: ClassVar[bool] = True
    decode = staticmethod(decodePassed)

    def judge(self, reply: Answer | Refused) -> Answer | Exception | float:
        """
        See L{Request.judge}.
        """
        if isinstance(reply, Refused) and reply.status == 504:
            self.mayBeBooked = True
            # The exception ends in the same words.
            return self.unfinished(
                reply.message.removesuffix(": the outcome is unknown")
            )
        return reply

    @property
    def mayHaveHappened(self) -> bool:
        """
        See L{Request.mayHaveHappened}.
        """
        return self.mayBeBooked or self.extID is not None

    def unfinished(self, cause: str) -> Exception:
        """
        See L{Request.unfinished}.
        """
        if self.mayHaveHappened:
            return OutcomeUnknown(f"{self.command}: {cause}", None, None)
        return Unanswered(f"{self.command}: {cause}")


def _order(refusal: Refused) -> int | None:
    """
    The order that a refusal names, if any.
    """
    order = (refusal.data or {}).get("order")
    return order if isinstance(order, int) else None


def retryAfter(refusal: Refused) -> float:
    """
    Seconds for which the server asks not to be tried again.
    """
    milliseconds = (refusal.data or {}).get("retry_after_ms")
    return max(milliseconds, 0) / 1000 if isinstance(milliseconds, int) else 0.0

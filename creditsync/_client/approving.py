"""
Finance requests, as an application makes them and decides about them.
"""

from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred

from creditsync._client.lines import present
from creditsync._client.outcomes import (
    Amount,
    Answer,
    Data,
    OutcomeUnknown,
    Refused,
    Unanswered,
)
from creditsync.codes import TS_CLOSED_NORMAL, TS_DELETED, TS_FINANCE_DECLINED
from creditsync.errors import IncorrectOrder
from creditsync.methods import BOOKING_METHODS

_CMDS: Final = {method.name: method.cmd for method in BOOKING_METHODS}

# The states of an order that waits no more, on disk.
_DECIDED: Final = frozenset({TS_CLOSED_NORMAL, TS_DELETED, TS_FINANCE_DECLINED})


class FinanceRequests:
    """
    The part of L{CreditClient<creditsync.client.CreditClient>} for finance requests.
    """

    def request(
        self, command: str, data: Mapping[str, Any], key: str | None = None
    ) -> "Deferred[Answer]":
        """
        See L{CreditClient.request<creditsync.client.CreditClient.request>}.
        """
        raise NotImplementedError

    def createFinanceRequest(
        self,
        method: str,
        login: int,
        amount: Amount,
        comment: str | None = None,
        *,
        openTime: int | None = None,
        key: str | None = None,
    ) -> "Deferred[Answer]":
        """
        Ask for an operation that another person has to approve.

        @param method: The booking method, without C{Sync}, such as C{"CreditIn"}.
        @param amount: With the method's sign.
        @param openTime: UNIX seconds; by default the time of booking.
        @return: Fires with C{order} and C{state}, and what was asked for; fails as
            L{CreditClient.creditIn<creditsync.client.CreditClient.creditIn>} does.
        @raise KeyError: There is no such method.
        """
        members = {
            "login": login,
            "cmd": _CMDS[method],
            "amount": amount,
            "comment": comment,
            "open_time": openTime,
        }
        return self.request("MngCreateFinanceRequest", present(members), key)

    def approveFinanceRequest(self, order: int) -> "Deferred[Answer]":
        """
        Approve a finance request of another person, which books it.

        @return: Fires with the trade as it was booked; fails as
            L{CreditClient.creditIn<creditsync.client.CreditClient.creditIn>} does.
        """
        decided = self._decide("MngApproveFinanceRequestSync", {"order": order})
        return Deferred.fromCoroutine(decided)

    def declineFinanceRequest(
        self, order: int, comment: str | None = None
    ) -> "Deferred[Answer]":
        """
        Decline a finance request, which ends it.

        @param comment: Becomes the comment of its trade; by default that stays.
        @return: Fires with its C{order} and C{state}; fails as
            L{approveFinanceRequest} does.
        """
        data = present({"order": order, "comment": comment})
        decided = self._decide("MngDeclineFinanceRequest", data)
        return Deferred.fromCoroutine(decided)

    async def _decide(self, command: str, data: Data) -> Answer:
        try:
            return await self.request(command, data)
        except OutcomeUnknown as e:
            unknown = e
        unknown.order = order = data["order"]
        refusal = unknown.__cause__
        if not isinstance(refusal, Refused) or refusal.error != IncorrectOrder.error:
            raise unknown
        # An earlier try was lost. It had not been carried out, or this one would have
        # had its reply, by the key. Once the order is decided it never can be.
        raise refusal if await self._isDecided(order) else unknown

    async def _isDecided(self, order: int) -> bool:
        """
        Whether a decision about this order is known to be on disk.
        """
        try:
            trade = await self.request("GetOperation", {"order": order})
        except (Refused, Unanswered):
            return False
        return trade.get("state") in _DECIDED

"""
Finance requests, as an application makes them and decides about them.
"""

from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred

from creditsync._client.lines import present
from creditsync._client.outcomes import Amount, Answer
from creditsync.methods import BOOKING_METHODS

_CMDS: Final = {method.name: method.cmd for method in BOOKING_METHODS}


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
        return self.request("MngApproveFinanceRequestSync", {"order": order})

    def declineFinanceRequest(
        self, order: int, comment: str | None = None
    ) -> "Deferred[Answer]":
        """
        Decline a finance request, which ends it.

        @param comment: Why.
        @return: Fires with its C{order} and C{state}; fails as
            L{approveFinanceRequest} does.
        """
        data = present({"order": order, "comment": comment})
        return self.request("MngDeclineFinanceRequest", data)

"""
Tests for the finance requests of L{creditsync.client}.
"""

import json
from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred

from creditsync.client import Answer, OutcomeUnknown, Refused
from tests.test_client import DATA, ClientTestCase


class FinanceRequestTests(ClientTestCase):
    """
    Finance requests are made and decided about safely.
    """

    def reply(self, request: dict[str, Any], data: dict[str, Any]) -> None:
        """
        Reply with this data.
        """
        line = {"extID": request["extID"], "status": 200, "data": data}
        self.server.receive(json.dumps(line).encode() + b"\r\n")

    def test_create(self) -> None:
        """
        A request is made by the name of a booking method, whose C{cmd} it has.
        """
        result = self.client.createFinanceRequest(
            "BalanceOut", 1001, -25, "Payout", openTime=5, key="k"
        )
        request = self.sent()
        self.assertEqual(request["command"], "MngCreateFinanceRequest")
        self.assertEqual(request["idempotencyKey"], "k")
        self.assertEqual(
            request["data"],
            {
                "login": 1001,
                "cmd": 8,
                "amount": -25,
                "comment": "Payout",
                "open_time": 5,
            },
        )
        self.reply(request, {"accepted": True, "order": 5, "amount": -25.0})
        self.assertEqual(self.successResultOf(result)["amount"], Decimal("-25.0"))

    def test_unknownMethod(self) -> None:
        """
        A method that the server can't have is an error of the caller.
        """
        self.assertRaises(
            KeyError, self.client.createFinanceRequest, "CreditInSync", 1001, 1
        )

    def test_approve(self) -> None:
        """
        An approval fires with the booked trade, and has a key.
        """
        result = self.client.approveFinanceRequest(1242281)
        request = self.sent()
        self.assertEqual(request["command"], "MngApproveFinanceRequestSync")
        self.assertEqual(request["data"], {"order": 1242281})
        self.assertEqual(len(request["idempotencyKey"]), 32)
        self.server.answer(request)
        self.assertEqual(self.successResultOf(result), DATA)

    def test_decline(self) -> None:
        """
        A request is declined with a comment, or without one.
        """
        for comment, data in (
            (None, {"order": 5}),
            ("No", {"order": 5, "comment": "No"}),
        ):
            result = self.client.declineFinanceRequest(5, comment)
            request = self.sent()
            self.assertEqual(request["command"], "MngDeclineFinanceRequest")
            self.assertEqual(request["data"], data)
            self.reply(request, {"order": 5, "state": 18})
            self.assertEqual(self.successResultOf(result), {"order": 5, "state": 18})

    def test_refused(self) -> None:
        """
        A refusal of the only try is final, and nothing is looked up.
        """
        result = self.client.approveFinanceRequest(5)
        self.server.refuse(self.sent(), 409, "INCORRECT_ORDER")
        self.assertEqual(self.failureResultOf(result, Refused).value.status, 409)
        self.assertEqual(self.server.requests(), [])

    def lost(self) -> "tuple[Deferred[Answer], dict[str, Any]]":
        """
        An approval whose first try is lost, and its second one.
        """
        result = self.client.approveFinanceRequest(5)
        first = self.sent()
        self.server.lose()
        self.advanceTo(self.clock.seconds() + 1)
        second = self.sent()
        self.assertEqual(second["idempotencyKey"], first["idempotencyKey"])
        return result, second

    def test_lost(self) -> None:
        """
        If the reply of the try that has booked it is lost, the next one has it.
        """
        result, second = self.lost()
        self.server.answer(second)
        self.assertEqual(self.successResultOf(result), DATA)

    def test_decidedByAnother(self) -> None:
        """
        If the order does not wait any more after a lost try, it is looked up. Once that
        is on disk, it is certain that another has decided.
        """
        for state in (3, 6, 18):
            result, second = self.lost()
            self.server.refuse(second, 409, "INCORRECT_ORDER")
            self.assertNoResult(result)
            lookup = self.sent()
            self.assertEqual(lookup["command"], "GetOperation")
            self.assertEqual(lookup["data"], {"order": 5})
            self.reply(lookup, {"order": 5, "state": state})
            refused = self.failureResultOf(result, Refused).value
            self.assertEqual(refused.error, "INCORRECT_ORDER")

    def test_notYetDecided(self) -> None:
        """
        As long as the decision of another is not on disk, a lost try may still count.
        """
        for state in (10, 17):
            result, second = self.lost()
            self.server.refuse(second, 409, "INCORRECT_ORDER")
            self.reply(self.sent(), {"order": 5, "state": state})
            unknown = self.failureResultOf(result, OutcomeUnknown).value
            self.assertEqual(unknown.order, 5)
            self.assertEqual(unknown.key, second["idempotencyKey"])

    def test_cannotLookUp(self) -> None:
        """
        If the order can't be looked up, the outcome is unknown.
        """
        result, second = self.lost()
        self.server.refuse(second, 409, "INCORRECT_ORDER")
        self.server.refuse(self.sent(), 404, "NOT_FOUND")
        self.assertEqual(self.failureResultOf(result, OutcomeUnknown).value.order, 5)
        result, second = self.lost()
        self.server.refuse(second, 409, "INCORRECT_ORDER")
        self.stop()
        self.failureResultOf(result, OutcomeUnknown)

    def test_otherRefusal(self) -> None:
        """
        Another refusal after a lost try leaves the outcome unknown, with the order.
        """
        result, second = self.lost()
        self.server.refuse(second, 409, "TRADE_NO_MONEY")
        unknown = self.failureResultOf(result, OutcomeUnknown).value
        self.assertEqual(unknown.order, 5)
        self.assertIn("TRADE_NO_MONEY", unknown.message)

    def test_silence(self) -> None:
        """
        Without any reply the outcome is unknown when the time is over.
        """
        result = self.client.approveFinanceRequest(5)
        self.advanceTo(29.5)
        self.assertNoResult(result)
        self.advanceTo(31)
        self.assertEqual(self.failureResultOf(result, OutcomeUnknown).value.order, 5)

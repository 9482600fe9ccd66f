"""
Tests for the simulator's rules about finance requests: each can be broken.
"""

import pytest
from attrs import evolve

from tests.family import BOOKED, DECLINED, WAITS
from tests.simulation.breaking import RecordTestCase
from tests.simulation.history import Attempt, Booking
from tests.simulation.limiting import Limiting, SiteRule
from tests.simulation.rights import Rights
from tests.simulation.running import simulate
from tests.simulation.setting import FAULTS, Plan
from tests.simulation.world import Violation

pytestmark = pytest.mark.proof

_KEPT = {"four-eyes", "decided-together"}
# A seed with neither a foreign runtime nor tight limits, in which all of these happen.
DECIDED = Plan(seed=10, requests=150, without=frozenset(FAULTS) - _KEPT)


class RuleTests(RecordTestCase):
    """
    Tests that break the rules of finance requests, in the record of a run in which
    they are made, approved and declined.
    """

    plan = DECIDED

    def refused(self, error: str) -> Attempt:
        """
        The first approval with this error.
        """
        return self.answered(
            lambda each: each.intent.approves and each.reply.error == error  # type: ignore[union-attr]
        )

    def approval(self) -> Booking:
        """
        The first approval that was booked.
        """
        return next(
            each
            for each in self.history.bookings
            if each.isDecision and each.trade.state == BOOKED
        )

    def making(self, order: int) -> Booking:
        """
        The booking that made a finance request.
        """
        [found] = [
            each
            for each in self.history.bookings
            if each.trade.order == order and each.trade.state == WAITS
        ]
        return found

    def limiting(self, rule: SiteRule) -> Limiting:
        """
        The judge of another rule of the site.
        """
        rights = Rights(self.history, False)
        return Limiting(self.course._world, self.history, rights, (rule,))

    def test_sound(self) -> None:
        """
        The record without changes breaks no rule; and all of this has happened.
        """
        self.course.judge()
        states = {each.trade.state for each in self.history.bookings}
        self.assertTrue({WAITS, DECLINED} <= states)
        self.assertTrue(self.approval())
        self.assertTrue(self.refused("FORBIDDEN"))
        self.assertTrue(self.refused("INCORRECT_ORDER"))

    def test_sameHistory(self) -> None:
        """
        The same seed gives the same history.
        """
        self.assertEqual(simulate(self.plan).digest, simulate(self.plan).digest)

    def test_makerApproves(self) -> None:
        """
        An approval by who has made the request is reported.
        """
        approval = self.approval()
        approval.principal = self.making(approval.trade.order).principal
        self.assertLedgerBreaks("four-eyes")

    def test_approvedTwice(self) -> None:
        """
        A second approval of one request is reported.
        """
        bookings, approval = self.history.bookings, self.approval()
        bookings.insert(bookings.index(approval) + 1, evolve(approval))
        self.assertLedgerBreaks("order")

    def test_changedWhileItWaits(self) -> None:
        """
        An update of a request that waits is reported.
        """
        bookings, approval = self.history.bookings, self.approval()
        update = evolve(approval, command="CreditIn")
        bookings.insert(bookings.index(approval), update)
        self.assertLedgerBreaks("order")

    def test_otherAmountApproved(self) -> None:
        """
        An approval that books something else than was asked for is reported.
        """
        approval = self.approval()
        trade = approval.trade
        approval.trade = trade._replace(profit=2 * trade.profit)
        self.assertLedgerBreaks("asked-for")

    def test_forbiddenToAnother(self) -> None:
        """
        An approval that is forbidden to one who has not made the request is reported.
        """
        intent = self.refused("FORBIDDEN").intent
        self.making(intent.data["order"]).principal += 1
        self.assertBreaks("role")

    def test_refusedWhileItWaits(self) -> None:
        """
        A decision that is refused is reported if the request was still waiting.
        """
        requests = {
            each.trade.order
            for each in self.history.bookings
            if each.trade.state == WAITS
        }
        attempt = self.answered(
            lambda each: (
                each.intent.approves
                and each.status == 409
                and each.intent.data["order"] in requests
            )
        )
        order = attempt.intent.data["order"]
        for booking in self.history.bookings:
            if booking.trade.order == order and booking.isDecision:
                assert booking.intent is not None
                for each in booking.intent.attempts:
                    each.delivered = (float("inf"), 0)
        self.assertBreaks("status")

    def test_otherStateAccepted(self) -> None:
        """
        A reply is reported that takes a finance request for a new trade.
        """
        attempt = self.answered(
            lambda each: each.intent.isRequest and each.status == 200
        )
        assert attempt.reply is not None
        attempt.reply.value["data"]["state"] = 10
        self.assertBreaks("answer")

    def test_limits(self) -> None:
        """
        An approval beyond a rule is reported, and so is a request; but not where the
        rule allows what is asked for in this way. What waits counts for no sum.
        """
        approval = self.approval()
        making = self.making(approval.trade.order)
        self.history.bookings[:] = [making, approval]
        least = abs(approval.trade.profit) - 1
        for rule in (SiteRule("one", inOne=least), SiteRule("day", onOneDay=least)):
            violation = self.assertRaises(Violation, self.limiting(rule).check)
            self.assertEqual(violation.rule, "limit")
            self.limiting(evolve(rule, mayAsk=True)).check()
        self.limiting(SiteRule("day", onOneDay=least + 1)).check()
        self.history.bookings[:] = [making]
        self.limiting(SiteRule("day", onOneDay=least)).check()
        violation = self.assertRaises(
            Violation, self.limiting(SiteRule("one", inOne=least)).check
        )
        self.assertEqual(violation.rule, "limit")

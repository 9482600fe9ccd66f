"""
Tests for the rules of a site in front of a platform, which decides later, in another
order, or not at all: L{creditsync._rulebook} and
L{creditsync.gateway._operations}.
"""

from twisted.internet.defer import Deferred

from creditsync._bookingrules import Rule
from creditsync.errors import LimitExceeded
from creditsync.records import Reservation
from tests.gateways import ONE, GatewayTestCase, deletion, operation

DAY = 86_400


class RuleTests(GatewayTestCase):
    """
    What counts for a rule that allows 1000 a day for each principal.
    """

    rules = (Rule("a day", maxPerDay=1000 * ONE),)

    def allows(self, amount: int, login: int = 1009) -> bool:
        """
        Whether one more operation, of an account of its own, is allowed; then it is
        booked.
        """
        reserved: Deferred[Reservation] = self.request(operation(amount, login))
        isRefused: list[bool] = []
        reserved.addCallbacks(
            lambda _: isRefused.append(False),
            lambda why: isRefused.append(bool(why.trap(LimitExceeded))),
        )
        self.platform.work()
        self.turn()
        return isRefused == [False]

    def test_refused(self) -> None:
        """
        What the platform refuses does not count.
        """
        self.platform.refusals[1001] = 409, "TRADE_NO_MONEY"
        self.refusalOf(self.request(operation(1000)))
        self.assertTrue(self.allows(1000))
        self.assertFalse(self.allows(1))

    def test_absent(self) -> None:
        """
        What is held counts until a person decides that it was never booked.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(1000))
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        self.assertFalse(self.allows(1))
        self.successResultOf(self.resolved())
        self.assertTrue(self.allows(1000))

    def resolved(self) -> "Deferred[object]":
        """
        Have a person decide that the first operation was never booked.
        """
        resolved = self.gateway.resolve(1, None, 1)
        self.turn()
        return resolved

    def test_restart(self) -> None:
        """
        What was sent before a start counts, although the ledger does not have it yet.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(900))
        self.kill()
        self.begin()
        self.assertFalse(self.allows(101))
        self.wait(150)
        self.successResultOf(self.resolved())
        self.assertTrue(self.allows(1000))

    def test_restartWithChanges(self) -> None:
        """
        After a start, a change counts with the new amount or with the difference, and a
        deletion with the amount that it takes back.
        """
        for login in (1001, 1002):
            self.assertTrue(self.allows(200, login))
        self.request(operation(50, order=5001))
        self.request(deletion(5002))
        self.kill()
        self.begin()
        # 200 and 200, 150 for the change, and 200 for the deletion.
        self.assertFalse(self.allows(251))
        self.assertTrue(self.allows(250))

    def test_restartAfterDays(self) -> None:
        """
        What has been held for days counts for the day on which it was sent.
        """
        self.link.losesRequest += ["CreditIn"] * 3
        for login in (1001, 1002, 1003):
            self.request(operation(900, login))
            self.wait(2)
            self.clock.advance(DAY)
        self.kill()
        self.begin()
        self.assertTrue(self.allows(900))
        self.assertFalse(self.allows(900))
        self.wait(150)
        self.successResultOf(self.resolved())
        self.assertFalse(self.allows(900))

    def test_reloadAfterARefusal(self) -> None:
        """
        New rules come into force, although what was counted last was refused.
        """
        self.platform.refusals[1001] = 409, "TRADE_NO_MONEY"
        self.refusalOf(self.request(operation(1000)))
        self.successResultOf(self.rulebook.use((Rule("less", maxPerDay=10 * ONE),)))
        self.assertFalse(self.allows(11))

    def test_reloadWhileOneIsHeld(self) -> None:
        """
        New rules come into force at once, although one operation waits for a person,
        and it counts for them. So does what another one has overtaken.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(500))
        self.wait(150)
        self.request(operation(300, login=1002))
        self.assertTrue(self.allows(100))
        self.successResultOf(self.rulebook.use((Rule("new", maxPerDay=1000 * ONE),)))
        self.platform.work()
        self.turn()
        self.assertFalse(self.allows(101))
        self.assertTrue(self.allows(100))

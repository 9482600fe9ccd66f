"""
Tests for the rules of a site that bound what a gateway may have booked.
"""

from creditsync._bookingrules import Rule
from creditsync._rulebook import RuleBook
from creditsync.errors import LimitExceeded, PlatformRefused
from tests.gateways import ONE, GatewayTestCase, operation

DAY = 86_400


class RuleTests(GatewayTestCase):
    """
    At most 500 a day for each principal.
    """

    def makeRules(self) -> RuleBook:
        """
        See L{GatewayTestCase.makeRules}.
        """
        rule = Rule("a day", maxPerDay=500 * ONE)
        self.rules = RuleBook(self.log.ledger, [rule], self.now)
        return self.rules

    def book(self, amount: int) -> None:
        """
        Have an operation of another account booked.
        """
        self.successResultOf(self.request(operation(amount, 1002)))
        self.platform.work()
        self.turn()

    def exceed(self, amount: int) -> None:
        """
        Have an operation refused because of the rule.
        """
        self.failureResultOf(self.request(operation(amount, 1002)), LimitExceeded)

    def hold(self) -> None:
        """
        Have an operation of 300 held.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(300))
        self.wait(160)
        self.assertEqual(self.states(), ["held"])

    def test_refused(self) -> None:
        """
        What the platform refuses does not count.
        """
        self.platform.refusals[1001] = (409, "NO_MONEY")
        self.failureResultOf(self.request(operation(300)), PlatformRefused)
        self.book(500)
        self.exceed(1)

    def test_restart(self) -> None:
        """
        What was sent before a restart counts, whether or not it was booked by then.
        """
        self.link.losesReply.append("CreditIn")
        self.request(operation(300))
        self.kill()
        self.begin()
        self.exceed(300)
        self.platform.work()
        self.wait(3)
        self.assertEqual(self.states(), [])
        self.exceed(300)
        self.book(200)

    def test_update(self) -> None:
        """
        An update that was sent before a restart counts with the difference, if that is
        more than its amount.
        """
        self.book(450)
        self.clock.advance(DAY)
        self.turn()
        self.link.losesReply.append("CreditIn")
        self.request(operation(50, 1002, order=5001))
        self.kill()
        self.begin()
        self.wait(3)
        self.platform.work()
        self.wait(31)
        self.assertEqual(self.states(), [])
        self.exceed(101)
        self.book(100)

    def test_absent(self) -> None:
        """
        What is held counts until a person decides that it was never booked.
        """
        self.hold()
        self.exceed(300)
        self.gateway.resolve(1, None, 8)
        self.turn()
        self.book(500)

    def test_absentLater(self) -> None:
        """
        The sums of today are the same when an old one is decided.
        """
        self.hold()
        self.clock.advance(3 * DAY)
        self.turn()
        self.book(450)
        self.gateway.resolve(1, None, 8)
        self.turn()
        self.exceed(51)
        self.book(50)

    def test_reload(self) -> None:
        """
        New rules come into force although one operation is held and the last one was
        refused. What is held counts for them.
        """
        self.hold()
        self.platform.refusals[1002] = (409, "NO_MONEY")
        self.failureResultOf(self.request(operation(1, 1002)), PlatformRefused)
        self.successResultOf(self.rules.use([Rule("less", maxPerDay=400 * ONE)]))
        self.exceed(101)
        self.book(100)

    def test_absentAfterReload(self) -> None:
        """
        It is taken off the sums of the new rules too.
        """
        self.hold()
        self.successResultOf(self.rules.use([Rule("less", maxPerDay=400 * ONE)]))
        self.gateway.resolve(1, None, 8)
        self.turn()
        self.book(400)

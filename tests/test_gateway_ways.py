"""
Tests for a gateway that is started again with the other way to make a new trade, while
the outcome of an operation is not known.
"""

from tests.gateways import GatewayTestCase, operation

CREATE = "MngCreateFinanceRequest"
APPROVE = "MngApproveFinanceRequest"


class ToTwoPhasesTests(GatewayTestCase):
    """
    Operations that were sent by one shot, in a gateway with two phases.
    """

    def change(self) -> None:
        """
        Start the gateway again, with two phases.
        """
        self.kill()
        self.way = "two-phase"
        self.begin()
        self.wait(5)

    def lose(self) -> None:
        """
        Have an operation sent whose reply is lost, and which the platform does not show
        while it is queued.
        """
        self.platform.showsQueued = False
        self.link.losesReply.append("CreditIn")
        self.request(operation(key="k"))

    def test_queued(self) -> None:
        """
        One that the platform may have queued is not made again by a finance request.
        """
        self.lose()
        self.change()
        self.platform.work()
        self.wait(1)
        self.assertEqual(self.money(), [(5001, 1001, 300)])
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_booked(self) -> None:
        """
        Nor is one that the platform shows as booked.
        """
        self.lose()
        self.platform.work()
        self.change()
        self.platform.work()
        self.wait(1)
        self.assertEqual(self.money(), [(5001, 1001, 300)])
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_held(self) -> None:
        """
        One that is held waits for a person, as before.
        """
        self.lose()
        self.wait(130)
        self.change()
        self.wait(60)
        self.assertEqual(self.states(), ["held"])
        self.assertNotIn(CREATE, [name for name, _ in self.platform.heard])

    def test_pending(self) -> None:
        """
        One that waits for a person's approval at the platform is not approved by the
        gateway.
        """
        self.lose()
        self.platform.trades[5001]["state"] = 17
        self.platform.showsEarly = True
        self.change()
        self.platform.change(5001)
        self.wait(60)
        self.assertEqual(self.states(), ["accepted"])
        self.assertNotIn(APPROVE, [name for name, _ in self.platform.heard])


class ToOneShotTests(GatewayTestCase):
    """
    Finance requests that were made by two phases, in a gateway with one shot.
    """

    way = "two-phase"

    def change(self, way: str) -> None:
        """
        Start the gateway again, with another way.
        """
        self.kill()
        self.way = way
        self.begin()
        self.wait(5)

    def test_pending(self) -> None:
        """
        One that was not approved yet is held, and is approved if two phases are used
        again.
        """
        self.link.losesRequest.append(APPROVE)
        self.request(operation())
        self.change("one-shot")
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(
            self.alarms,
            [
                "operation 1 of account 1001 is held: finance request 5001 has to be"
                " decided at the platform"
            ],
        )
        self.change("two-phase")
        self.platform.work()
        self.turn()
        self.assertEqual((self.states(), self.money()), ([], [(5001, 1001, 300)]))

    def test_notNamed(self) -> None:
        """
        So is one whose order was not known, when it is found.
        """
        self.link.losesReply.append(CREATE)
        self.request(operation())
        self.change("one-shot")
        self.wait(5)
        self.assertEqual(self.states(), ["held"])

    def test_decidedThere(self) -> None:
        """
        It is settled by what a person decides at the platform.
        """
        self.link.losesRequest.append(APPROVE)
        self.request(operation())
        self.change("one-shot")
        self.platform.change(5001, state=3)
        self.turn()
        self.assertEqual(self.states(), [])

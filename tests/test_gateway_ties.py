"""
Tests for L{creditsync.gateway._foreign}: two changes of an order within one second.
"""

from typing import Any

from tests.gateways import GatewayTestCase, operation
from tests.platforms import NOW

ADD, UPDATE, DELETE = 0, 1, 2
BOOKED, DELETED = 3, 6


class TieTests(GatewayTestCase):
    """
    The time of a change is in seconds, and does not tell which of two was first.
    """

    def setUp(self) -> None:
        """
        No event comes by itself.
        """
        super().setUp()
        self.platform.listeners.clear()

    def record(self, profit: int, state: int = BOOKED) -> dict[str, Any]:
        """
        What the event of a change had, of order 5001.
        """
        trade = self.platform.trades[5001]
        return {**trade, "profit": profit, "state": state, "timestamp": NOW}

    def hears(self, *records: dict[str, Any]) -> None:
        """
        Some events come.
        """
        for each in records:
            self.gateway.eventReceived(1, each)
        self.turn()

    def lookUps(self) -> int:
        """
        How often an order was looked up.
        """
        return sum(command == "GetTradeByOrder" for command, _ in self.platform.heard)

    def test_inOrder(self) -> None:
        """
        All changes are published, those too after which the order has changed again.
        """
        self.platform.person(1001, 6, 100)
        for amount in (150, 200):
            self.platform.change(5001, profit=amount)
        self.platform.change(5001, state=DELETED)
        self.hears(
            self.record(100),
            self.record(150),
            self.record(200),
            self.record(200, DELETED),
        )
        self.assertEqual(
            self.events(),
            [
                (ADD, 5001, BOOKED, 100),
                (UPDATE, 5001, BOOKED, 150),
                (UPDATE, 5001, BOOKED, 200),
                (DELETE, 5001, DELETED, 200),
            ],
        )
        self.assertEqual((self.alarms, self.lookUps()), ([], 1))

    def test_lateAfterLookUp(self) -> None:
        """
        If the catch-up has shown the second change, the late event of the first is
        not published, neither then nor when the second is read again.
        """
        self.platform.person(1001, 6, 100)
        first = self.record(100)
        self.platform.change(5001, profit=150)
        self.wait(31)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 150)])
        self.hears(first, self.record(150))
        self.wait(100)
        self.assertEqual(self.events(), [])
        self.assertEqual(self.lookUps(), 1)

    def test_overtaken(self) -> None:
        """
        Nor is it if the event of the second change has come before it.
        """
        self.platform.person(1001, 6, 100)
        first = self.record(100)
        self.platform.change(5001, profit=150)
        self.hears(self.record(150), first)
        self.wait(100)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 150)])

    def test_lateAfterDeletion(self) -> None:
        """
        A late event of what was deleted in the same second is no alarm, whether or not
        the platform shows deleted trades.
        """
        self.platform.person(1001, 6, 100)
        first = self.record(100)
        self.platform.change(5001, state=DELETED, profit=150)
        self.hears(self.record(150, DELETED), first)
        record = self.platform.trades.pop(5001)
        self.hears({**first, "profit": 120})
        self.platform.trades[5001] = record
        self.assertEqual(
            self.events(), [(ADD, 5001, BOOKED, 150), (DELETE, 5001, DELETED, 150)]
        )
        self.assertEqual(self.alarms, [])

    def test_deletion(self) -> None:
        """
        A deletion is the last change: it needs no look-up, which may not show it.
        """
        self.platform.person(1001, 6, 100)
        self.hears(self.record(100))
        record = self.record(100, DELETED)
        del self.platform.trades[5001]
        self.hears(record)
        self.assertEqual(
            self.events(), [(ADD, 5001, BOOKED, 100), (DELETE, 5001, DELETED, 100)]
        )
        self.assertEqual(self.lookUps(), 0)

    def test_lookUpFails(self) -> None:
        """
        If the order can't be looked up, the catch-up shows the change.
        """
        self.platform.person(1001, 6, 100)
        self.hears(self.record(100))
        self.platform.change(5001, profit=150)
        self.platform.lacks.add("GetTradeByOrder")
        self.hears(self.record(150))
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 100)])
        self.platform.lacks.clear()
        self.wait(31)
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 150)])

    def test_changedMeanwhile(self) -> None:
        """
        Events that come while the order is looked up wait for that.
        """
        self.platform.person(1001, 6, 100)
        self.hears(self.record(100))
        self.link.isAutomatic = False
        self.platform.change(5001, profit=150)
        self.hears(self.record(150))
        self.link.deliverRequest()
        self.platform.change(5001, profit=200)
        self.hears(self.record(200))
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 100)])
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.turn()
        self.assertEqual(
            self.events(), [(UPDATE, 5001, BOOKED, 150), (UPDATE, 5001, BOOKED, 200)]
        )

    def test_lateUpdate(self) -> None:
        """
        If somebody has changed a trade after an update of the gateway, and that event
        comes first, the journal has their change last, and without delay.
        """
        self.request(operation(100))
        self.platform.work()
        self.wait(10)
        self.request(operation(200, order=5001, comment="better"))
        self.platform.work()
        update = {**self.platform.trades[5001]}
        self.platform.change(5001, profit=300)
        self.hears({**self.platform.trades[5001]}, update)
        self.assertEqual(
            self.events(),
            [
                (ADD, 5001, BOOKED, 100),
                (UPDATE, 5001, BOOKED, 300),
                (UPDATE, 5001, BOOKED, 200),
                (UPDATE, 5001, BOOKED, 300),
            ],
        )
        self.wait(60)
        self.assertEqual((self.events(), self.states()), ([], []))

    def test_latePage(self) -> None:
        """
        A page of the catch-up that comes late does not undo what was booked since.
        """
        self.platform.person(1001, 6, 100)
        self.hears(self.record(100))
        self.platform.change(5001, profit=150)
        self.wait(29)
        self.link.isAutomatic = False
        self.wait(1)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 100)])
        self.link.deliverRequest()
        self.platform.change(5001, profit=200, update_time=NOW)
        self.platform.trades[5001]["update_time"] = NOW
        self.link.isAutomatic = True
        self.hears(self.record(200))
        self.link.deliverReply()
        self.wait(60)
        self.assertEqual(self.log.ledger.trade(5001).profit, 200 * 10**8)
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 200)])

    def missTie(self) -> None:
        """
        Have a change of an order read after a gap, in the same second as the one before
        it, and with it one that is much later.
        """
        self.platform.person(1001, 6, 100)
        self.hears(self.record(100))
        self.link.cut()
        self.platform.trades[5001]["profit"] = 150
        self.wait(300)
        self.platform.person(1002, 6, 7)
        self.wait(20)
        self.events()
        self.link.connect()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5002, BOOKED, 7)])

    def test_lookUpLostAfterGap(self) -> None:
        """
        If the look-up fails after a gap, it is repeated, although later changes have
        been read. Until then a gateway that is started again would begin before it.
        """
        self.link.losesReply.append("GetTradeByOrder")
        self.missTie()
        self.assertEqual(self.log.mark, NOW)
        self.wait(41)
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 150)])
        self.wait(31)
        self.assertEqual(self.log.mark, NOW + 300)
        self.assertEqual(self.alarms, [])

    def test_noLookUp(self) -> None:
        """
        If the platform answers none, it is an alarm, and the journal goes on.
        """
        self.platform.lacks.add("GetTradeByOrder")
        self.missTie()
        self.wait(180)
        self.assertEqual(
            self.alarms,
            [
                "a change of order 5001 may be missing: the platform does not answer"
                " look-ups of it"
            ],
        )
        self.assertEqual(self.log.mark, NOW + 300)

"""
Platforms that write the same things in another way than creditsync does: numbers,
times, pages and errors.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from creditsync.codes import EV_RECORD_ADD, EV_RECORD_UPDATE, TS_CLOSED_NORMAL
from creditsync.gateway import _looking
from creditsync.gateway._records import rowsOf
from tests.gateways import GatewayTestCase, operation
from tests.platforms import NOW, Platform

ADD, UPDATE, BOOKED = EV_RECORD_ADD, EV_RECORD_UPDATE, TS_CLOSED_NORMAL


class PageTests(GatewayTestCase):
    """
    The pages of a platform's look-ups.
    """

    def missed(self, number: int) -> None:
        """
        Have people book while there is no connection, two trades in each second.
        """
        self.link.cut()
        for each in range(number):
            self.platform.person(2000 + each, 6, 1)
            self.clock.advance(each % 2)
        self.wait(10)
        self.events()

    def test_shortPages(self) -> None:
        """
        A platform may give fewer rows than were asked for. The journal has all changes
        all the same.
        """
        self.platform.mostRows = 3
        self.missed(8)
        self.link.connect()
        self.turn(30)
        orders = [event[1] for event in self.events()]
        self.assertEqual(orders, list(range(5001, 5009)))
        self.assertEqual(self.alarms, [])

    def test_namesThatAreNone(self) -> None:
        """
        A page whose columns have no names has no rows that can be read.
        """

        self.assertEqual(
            list(rowsOf({"structure": [["order"], {}], "rows": [[5001, 3]]})), []
        )

    def test_shortPageOfContent(self) -> None:
        """
        A short page does not hide one of two trades that an operation may have made.
        """
        self.platform.mostRows = 1
        self.link.losesReply.append("CreditIn")
        self.platform.listeners.clear()
        self.request(operation())
        self.platform.work()
        self.platform.person(1001, 7, 300, comment="gift")
        self.wait(12)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(
            self.only().why, "the platform has several such trades: 5001, 5002"
        )

    def test_rowTwice(self) -> None:
        """
        A trade that a page has twice is one trade.
        """
        carryOut = Platform.carryOut

        def twice(
            platform: Platform, command: str, data: Mapping[str, Any]
        ) -> dict[str, Any]:
            reply = carryOut(platform, command, data)
            if command == "MngGetTradesByFilter":
                reply["data"]["rows"] = 2 * reply["data"]["rows"]
            return reply

        self.patch(Platform, "carryOut", twice)
        self.link.losesReply.append("CreditIn")
        self.platform.listeners.clear()
        reserved = self.request(operation())
        self.platform.work()
        self.wait(12)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.states(), [])

    def test_unsorted(self) -> None:
        """
        A platform that does not keep to the order in which it was asked for pages would
        have changes skipped. That is an alarm, and the catch-up is not over.
        """
        self.platform.sorts = False
        self.missed(2)
        self.platform.change(5001, profit=2)
        self.link.connect()
        self.turn(30)
        self.assertFalse(self.gateway.catchUp.isComplete)
        [alarm] = self.alarms
        self.assertIn("or in another order", alarm)
        self.wait(100)
        self.assertEqual(len(self.alarms), 1)

    def test_unfiltered(self) -> None:
        """
        A platform that ignores conditions is not asked for ever.
        """
        self.platform.filters = False
        self.missed(2)
        before = len(self.link.sent)
        self.link.connect()
        self.turn(30)
        self.assertLess(len(self.link.sent) - before, 10)
        [alarm] = self.alarms
        self.assertIn("gives other trades than asked for", alarm)


class TimeTests(GatewayTestCase):
    """
    The resolution of a platform's C{update_time}.
    """

    def catchUpAfter(self, scale: float) -> None:
        """
        Have the platform count in parts of a second, and miss some of its changes.
        """
        self.platform.now = lambda: scale * (self.now() + 0.25)
        self.platform.isExact = scale == 1
        self.patch(_looking, "PAGE", 3)
        self.platform.person(1001, 6, 1, open_time=1767225600, close_time=1767225600)
        self.wait(200)
        self.link.cut()
        for second in range(5):
            for _ in range(2):
                self.platform.person(1001, 6, 1, open_time=1, close_time=1)
            self.clock.advance(second % 2)
        self.wait(5)
        self.platform.change(5001, profit=3)
        self.wait(200)
        self.events()
        before = len(self.link.sent)
        self.link.connect()
        self.turn(40)
        self.assertEqual(
            [event[:2] for event in self.events()],
            [
                *((ADD, order) for order in range(5002, 5012)),
                (UPDATE, 5001),
            ],
        )
        # Not the whole history, and not the same page again and again.
        self.assertLess(len(self.link.sent) - before, 30)
        trade = self.log.ledger.trade(5001)
        assert trade is not None
        self.assertEqual(trade.timestamp, 1767225807)
        self.assertEqual(self.alarms, [])

    def test_fractions(self) -> None:
        """
        Seconds with fractions.
        """
        self.catchUpAfter(1)

    def test_milliseconds(self) -> None:
        """
        Milliseconds.
        """
        self.catchUpAfter(1000)

    def test_farSeconds(self) -> None:
        """
        The end of the year 9999, which may stand for never, is in seconds if the time
        of the change is.
        """
        self.platform.person(1001, 6, 1, open_time=1767225600, close_time=253402300799)
        self.turn()
        trade = self.log.ledger.trade(5001)
        assert trade is not None
        self.assertEqual(trade.closeTime, 253402300799)
        self.assertEqual(self.alarms, [])

    def loseAReply(self, scale: int) -> None:
        """
        Have a platform that counts changes in milliseconds book an operation whose
        reply and events are lost, and assert that it is found.

        @param scale: In what part of a second the platform counts the time of a trade.
        """
        self.platform.now = lambda: 1000 * self.now()
        self.platform.person(1002, 6, 1, open_time=1, close_time=1)
        self.link.cut()
        self.link.connect()
        self.turn(10)
        self.platform.listeners.clear()
        self.link.losesReply.append("CreditIn")
        self.request(operation())
        [order] = set(self.platform.trades) - {5001}
        trade = self.platform.trades[order]
        for name in ("open_time", "close_time"):
            trade[name] *= scale
        self.platform.work()
        asked = int(self.now())
        self.wait(12)
        self.assertEqual(self.states(), [])
        booked = self.log.ledger.trade(order)
        assert booked is not None
        self.assertEqual((booked.openTime, booked.closeTime), (asked, asked))
        self.assertEqual(self.alarms, [])

    def test_milliseconds_ofATrade(self) -> None:
        """
        A platform that counts all times in milliseconds shows an operation by its time.
        """
        self.loseAReply(1000)

    def test_milliseconds_ofChangesOnly(self) -> None:
        """
        So does one that counts only changes in milliseconds.
        """
        self.loseAReply(1)

    def test_milliseconds_ofAGatewayThatBegins(self) -> None:
        """
        A gateway that does not know yet how the platform counts finds an operation all
        the same, and does not hold it.
        """
        self.platform.now = lambda: 1000 * self.now()
        self.link.losesReply.append("CreditIn")
        self.platform.showsQueued = False
        self.request(operation())
        self.wait(20)
        self.assertEqual(self.states(), ["unseen"])
        self.kill()
        trade = self.platform.trades[5001]
        for name in ("open_time", "close_time"):
            trade[name] *= 1000
        self.platform.work()
        self.clock.advance(200)
        self.begin()
        self.turn(30)
        self.assertEqual((self.states(), self.alarms), ([], []))
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])


class AmountTests(GatewayTestCase):
    """
    The doubles of a platform.
    """

    def test_noise(self) -> None:
        """
        What is behind the eighth decimal is the noise of a platform's sums.
        """
        for amount in ("300.0000000001", "299.99999999999994", "3.0E+2"):
            self.request(operation())
            order = self.platform.nextOrder - 1
            self.platform.trades[order]["profit"] = Decimal(amount)
            self.platform.work()
            self.turn()
            self.assertEqual(self.events(), [(ADD, order, BOOKED, 300)])
        self.assertEqual(self.alarms, [])

    def test_account(self) -> None:
        """
        The same of an account's totals.
        """
        self.platform.accounts[1001] = {
            "login": 1001,
            "balance": Decimal("1234.5600000000004"),
            "credit": 0.30000000000000004,
        }
        shown = self.gateway.account(1001)
        self.turn()
        account = self.successResultOf(shown)
        assert account is not None
        self.assertEqual((account.balance, account.credit), (123456000000, 30000000))


class CommentTests(GatewayTestCase):
    """
    The characters of a platform.
    """

    def test_halfCharacters(self) -> None:
        """
        A comment that was cut within a character is kept with another one in its place,
        and so is one with a character that no line may have, or no database.
        """
        for comment in (
            "gif\ud83d",
            "gif\udcff",
            "gif\uffff",
            "gif\U0001fffe",
            "gif\0",
        ):
            self.request(operation())
            order = self.platform.nextOrder - 1
            self.platform.trades[order]["comment"] = comment
            self.platform.work()
            self.turn()
            trade = self.log.ledger.trade(order)
            assert trade is not None
            self.assertEqual(trade.comment, "gif\ufffd")
            self.assertEqual(self.states(), [])
        self.assertEqual(self.alarms, [])


class EventTests(GatewayTestCase):
    """
    Events that do not have all that look-ups have.
    """

    def setUp(self) -> None:
        """
        Events come as the test wants them.
        """
        super().setUp()
        [self.listener] = self.platform.listeners
        self.platform.listeners[:] = [self.hear]
        self.dropped = {"timestamp", "open_time", "close_time"}

    def hear(self, type: int, record: dict[str, Any]) -> None:
        """
        An event comes.
        """
        members = {
            name: value for name, value in record.items() if name not in self.dropped
        }
        self.listener(type, members)

    def test_timeless(self) -> None:
        """
        An event without a time has its order looked up, and no operation is held.
        """
        reserved = self.request(operation())
        self.platform.work()
        self.platform.person(1002, 6, 50)
        self.turn()
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        found = self.events()
        self.assertEqual(found, [(ADD, 5001, BOOKED, 300), (ADD, 5002, BOOKED, 50)])
        self.platform.change(5002, profit=70, update_time=NOW + 1)
        self.platform.change(5001, state=6, update_time=NOW + 1)
        self.turn()
        found = self.events()
        self.assertEqual(found, [(UPDATE, 5002, BOOKED, 70), (2, 5001, 6, 300)])
        self.wait(40)
        self.assertEqual((self.events(), self.states(), self.alarms), ([], [], []))

    def test_partial(self) -> None:
        """
        So does one that lacks only what a trade need not have: otherwise the look-ups
        would show another record.
        """
        self.dropped = {"open_time"}
        self.request(operation())
        self.platform.work()
        self.wait(70)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        trade = self.gateway.journal.current(5001)
        assert trade is not None
        self.assertEqual((trade.openTime, self.states()), (NOW, []))

    def test_queued(self) -> None:
        """
        What such an event shows is not booked before it is final.
        """
        self.platform.showsEarly = True
        self.platform.carryOut(
            "CreditIn", {"login": 1002, "amount": 1, "comment": "by another program"}
        )
        self.turn()
        self.assertEqual(self.events(), [])
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 1)])

    def test_null(self) -> None:
        """
        What a trade does not have may be null.
        """
        self.dropped.clear()
        missing = {"comment": None, "open_time": None, "close_time": None}
        self.platform.person(1001, 6, 50, **missing)
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 50)])
        trade = self.gateway.journal.current(5001)
        assert trade is not None
        self.assertEqual((trade.comment, trade.openTime, trade.closeTime), ("", 0, 0))
        self.assertEqual(self.alarms, [])


class SignTests(GatewayTestCase):
    """
    A platform that writes what is taken out without a sign.
    """

    def setUp(self) -> None:
        """
        Change the sign of what it books.
        """
        super().setUp()
        carryOut = Platform.carryOut

        def unsigned(
            platform: Platform, command: str, data: Mapping[str, Any]
        ) -> dict[str, Any]:
            if command in ("CreditOut", "BalanceOut"):
                data = {**data, "amount": abs(data["amount"])}
            return carryOut(platform, command, data)

        self.patch(Platform, "carryOut", unsigned)

    def test_replyLost(self) -> None:
        """
        An operation whose reply is lost is found. Its record is the platform's own.
        """
        self.platform.listeners.clear()
        self.link.losesReply.append("CreditOut")
        reserved = self.request(operation(-300, method="CreditOut"))
        self.platform.work()
        self.wait(11)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_change(self) -> None:
        """
        So is a change.
        """
        self.platform.person(1001, 9, 100)
        self.turn()
        self.link.losesReply.append("CreditOut")
        self.request(operation(-300, method="CreditOut", order=5001))
        self.platform.work()
        self.wait(11)
        self.assertEqual(self.states(), [])
        self.assertEqual(self.events()[1:], [(UPDATE, 5001, BOOKED, 300)])

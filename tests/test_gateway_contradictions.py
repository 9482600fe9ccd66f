"""
Tests for what a gateway makes of a platform that contradicts itself, or its clock.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred

from creditsync.errors import (
    IncorrectOrder,
    NotFound,
    OutcomeUnknown,
    PlatformRefused,
)
from creditsync.gateway import _looking
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.records import Trade
from tests.gateways import ONE, GatewayTestCase, deletion, operation
from tests.platforms import NOW, Platform

ADD, UPDATE, DELETE = 0, 1, 2
BOOKED, DELETED = 3, 6


class ContradictionTests(GatewayTestCase):
    """
    A platform that says what can't be so.
    """

    def setUp(self) -> None:
        """
        Have the platform book a credit.
        """
        super().setUp()
        self.platform.person(1001, 7, 100)
        self.turn()
        self.events()

    def nameInstead(self, command: str, order: int) -> None:
        """
        Have the platform name another order in its replies to a command.
        """
        carryOut = Platform.carryOut

        def wrong(
            platform: Platform, name: str, data: Mapping[str, Any]
        ) -> dict[str, Any]:
            reply = carryOut(platform, name, data)
            if name == command:
                reply["data"]["order"] = order
            return reply

        self.patch(Platform, "carryOut", wrong)

    def deletions(self) -> list[Any]:
        """
        The orders whose deletion the platform was asked for.
        """
        return [data["order"] for name, data in self.platform.heard if "Delete" in name]

    def test_updateNamesAnothersOrder(self) -> None:
        """
        If the reply to an update names an order that it can't have made, that is not
        deleted: a person has to decide.
        """
        self.platform.person(1002, 7, 100)
        self.turn()
        self.nameInstead("CreditIn", 5002)
        reserved = self.request(operation(200, order=5001))
        self.assertEqual(self.refusalOf(reserved).status, 504)
        self.wait(60)
        self.assertEqual(self.deletions(), [])
        self.assertIn("order 5002 is not deleted", self.alarms[1])

    def test_updateNamesAnEarlierOrder(self) -> None:
        """
        Nor is an earlier trade deleted that is alike in everything.
        """
        self.platform.person(1001, 7, 200, comment="gift")
        self.turn()
        self.wait(500)
        self.nameInstead("CreditIn", 5002)
        self.request(operation(200, order=5001))
        self.wait(60)
        self.assertEqual(self.deletions(), [])

    def test_newInsteadIsNotShownYet(self) -> None:
        """
        What the platform has made instead of an update is deleted as soon as it shows.
        """
        self.platform.makesNew = True
        self.platform.showsQueued = False
        self.request(operation(200, order=5001))
        self.turn()
        self.assertEqual(self.deletions(), [])
        self.platform.work()
        self.wait(5)
        self.platform.work()
        self.assertEqual(self.deletions(), [5002])
        self.assertEqual(self.platform.trades[5002]["state"], DELETED)

    def test_newInsteadIsQueued(self) -> None:
        """
        If the platform refuses to delete what is still queued, it is deleted when it is
        booked.
        """
        self.platform.makesNew = True
        self.platform.deletesQueued = False
        self.request(operation(200, order=5001))
        self.wait(5)
        self.platform.work()
        self.wait(3)
        self.platform.work()
        self.assertEqual(self.platform.trades[5002]["state"], DELETED)
        self.assertEqual(len(self.alarms), 1)

    def test_newInsteadIsNotDeleted(self) -> None:
        """
        If the platform refuses that later too, it is an alarm.
        """
        self.platform.makesNew = True
        self.platform.lacks.add("DeleteCredit")
        self.request(operation(200, order=5001))
        self.platform.work()
        self.wait(60)
        self.assertEqual(
            self.alarms[1:],
            [
                "order 5002 is not deleted: the platform refused it: UNKNOWN_COMMAND,"
                " because"
            ],
        )
        self.assertEqual(self.states(), ["held"])

    def test_anothersTrade(self) -> None:
        """
        A deletion is refused if the platform shows the order as another account's than
        the journal, by which it was permitted.
        """
        self.platform.trades[5001]["login"] = 1002
        self.assertIsInstance(
            self.refusalOf(self.request(deletion(5001))), IncorrectOrder
        )
        self.assertEqual(self.deletions(), [])

    def test_olderTwin(self) -> None:
        """
        An operation whose client gave its time is not taken for a trade of before the
        gateway's beginning that is alike in everything.
        """
        old = {"comment": "gift", "open_time": NOW - 5000, "update_time": NOW - 5000}
        self.platform.trades[4001] = {
            **self.platform.trades[5001],
            **old,
            "order": 4001,
            "profit": 300,
        }
        self.link.losesRequest.append("CreditIn")
        reserved = self.request(operation(openTime=NOW - 5000))
        self.wait(12)
        self.assertNoResult(reserved)
        self.assertEqual(self.states(), ["unseen"])
        self.wait(150)
        self.assertEqual(self.states(), ["held"])

    def test_timeToCome(self) -> None:
        """
        A record whose time is far in the future does not end the catching up.
        """
        self.link.cut()
        order = self.platform.person(1001, 6, 1)
        self.platform.trades[order]["update_time"] = NOW + 1_000_000_000
        self.link.connect()
        self.wait(40)
        self.link.cut()
        self.platform.person(1001, 6, 2)
        self.wait(40)
        self.link.connect()
        self.turn()
        self.assertEqual(
            self.events(), [(ADD, 5002, BOOKED, 1), (ADD, 5003, BOOKED, 2)]
        )

    def test_refusedAndSeen(self) -> None:
        """
        If an event shows what the platform then refuses, as when a proxy in between has
        sent it twice, the client is not told that nothing was booked.
        """
        self.link.isAutomatic = False
        reserved = self.request(operation(key="k"))
        self.link.deliverRequest()
        self.platform.work()
        self.link.deliverEvent()
        self.turn()
        sent, _ = self.link.replies[0]
        self.link.replies[0] = sent, {"status": 409, "error": "DUPLICATE"}
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.refusalOf(reserved).status, 504)
        self.assertIn("refused it, and shows it as order 5002", self.alarms[0])
        self.wait(31)
        replay = self.successResultOf(self.request(operation(key="k")))
        self.assertEqual((replay.order, replay.isReplay), (5002, True))

    def test_refusedAndSeenLater(self) -> None:
        """
        If a trade shows that has the content of a refused operation, that is an alarm.
        """
        self.link.isAutomatic = False
        reserved = self.request(operation())
        self.link.deliverRequest()
        sent, _ = self.link.replies[0]
        self.link.replies[0] = sent, {"status": 409, "error": "DUPLICATE"}
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.refusalOf(reserved).status, 409)
        self.platform.work()
        self.turn()
        self.assertEqual(
            self.alarms, ["operation 1, which is refused, may be booked as order 5002"]
        )

    def test_changeOfWhatIsGone(self) -> None:
        """
        A change of an order that was booked, and that the platform does not show any
        more, is refused: it would make a new trade, and the old one may come back.
        """
        gone = self.platform.trades.pop(5001)
        why = self.refusalOf(self.request(operation(200, order=5001)))
        self.assertEqual((why.status, why.error), (409, "INCORRECT_ORDER"))
        self.assertIn("does not show order 5001 any more", why.message)
        self.assertEqual(self.money(), [])
        self.platform.trades[5001] = gone
        changed = self.request(operation(200, order=5001))
        self.platform.work()
        self.turn()
        self.assertEqual(self.successResultOf(changed).order, 5001)
        # One that neither has ever seen is a new trade.
        other = self.request(operation(100, order=77))
        self.platform.work()
        self.turn()
        self.assertEqual(self.successResultOf(other).order, 5002)

    def test_orderOfAnother(self) -> None:
        """
        If the platform shows the order that it has named as another account's, clients
        are not told that order any more, and a look-up of it shows what it is.
        """
        self.request(operation(key="k"))
        self.platform.trades[5002].update(login=1002, comment="another", state=BOOKED)
        self.wait(5)
        self.assertEqual(self.only().why, "order 5002 is another trade's")
        why = self.refusalOf(self.request(operation(key="k")))
        self.assertEqual((why.status, "5002" in why.message), (504, False))
        shown: Any = self.successResultOf(self.gateway.operation(7, "k"))
        self.assertEqual((shown["order"], shown["held"]), (0, True))
        found = self.gateway.trade(5002)
        self.turn()
        trade = self.successResultOf(found)
        assert isinstance(trade, Trade)
        self.assertEqual((trade.login, trade.comment), (1002, "another"))

    def test_changedUnseen(self) -> None:
        """
        What a person is told of an operation that was changed before the gateway has
        seen it names the trades that have its account, its time, and its comment or
        its amount.
        """
        for number, members in enumerate(({"comment": "x"}, {"profit": 7}), 1):
            self.platform.listeners.clear()
            self.link.losesReply.append("CreditIn")
            self.request(operation(login=2000 + number))
            self.platform.work()
            order = self.platform.nextOrder - 1
            self.platform.change(order, **members)
            self.wait(11)
            [intent] = [each for each in self.log.unfinished() if each.login > 2000]
            self.assertEqual(
                intent.why, f"the platform shows only what differs from it: {order}"
            )
            self.platform.change(order, comment="gift", profit=300)
            self.wait(40)

    def test_changedAfterItsEvent(self) -> None:
        """
        If a reply is lost, and a person changes the trade that an event has shown, the
        event tells which it is.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation())
        self.platform.work()
        self.turn()
        self.platform.change(5002, comment="by a person", profit=400)
        self.turn()
        self.wait(11)
        self.assertEqual(self.successResultOf(reserved).order, 5002)
        self.assertEqual(self.states(), [])
        self.assertEqual(
            self.events()[-2:], [(ADD, 5002, BOOKED, 300), (UPDATE, 5002, BOOKED, 400)]
        )
        self.assertEqual(self.alarms, [])

    def test_bookedOnceMore(self) -> None:
        """
        If another trade shows that is as one of the gateway's in everything, that is an
        alarm: something on the way may have doubled the request.
        """
        self.request(operation())
        self.platform.work()
        self.turn()
        [order] = self.platform.booked
        openTime = self.platform.trades[order]["open_time"]
        self.platform.person(1001, 7, 300, comment="gift", open_time=openTime - 1)
        self.turn()
        self.assertEqual(self.alarms, [])
        self.platform.person(1001, 7, 300, comment="gift", open_time=openTime)
        self.turn()
        self.assertEqual(
            self.alarms,
            [
                f"operation 1, which is order {order}, may be booked once more as order"
                f" {order + 2}"
            ],
        )

    def test_bookedOnceMoreAtOnce(self) -> None:
        """
        So it is if the other trade shows while the gateway's own is only accepted.
        """
        self.request(operation())
        [order] = set(self.platform.trades) - {5001}
        openTime = self.platform.trades[order]["open_time"]
        self.platform.person(1001, 7, 300, comment="gift", open_time=openTime)
        self.platform.work()
        self.turn()
        self.assertEqual(
            self.alarms,
            [
                f"operation 1, which is order {order}, may be booked once more as order"
                f" {order + 1}"
            ],
        )


class StateTests(GatewayTestCase):
    """
    An accepted operation that comes into a state which is not that of a booked one.
    """

    def become(self, state: int, **named: Any) -> "Deferred[Any]":
        """
        Have one accepted, and change its state at the platform.
        """
        reserved = self.request(operation(key="k", **named))
        self.platform.crash()
        order = self.platform.nextOrder - 1
        trade = {"login": 1001, "cmd": 7, "profit": 300, "comment": "gift"}
        times = {"open_time": NOW, "close_time": NOW, "update_time": NOW}
        self.platform.trades[order] = {"order": order, "state": state, **trade, **times}
        return reserved

    def test_declined(self) -> None:
        """
        One that was declined by a person at the platform is refused, and its key is
        free again.
        """
        reserved = self.successResultOf(self.become(18))
        lost = reserved.whenDurable()
        self.wait(3)
        self.assertIsInstance(self.failureResultOf(lost).value, PlatformRefused)
        self.assertEqual((self.states(), self.alarms), ([], []))
        again = self.successResultOf(self.request(operation(key="k")))
        self.assertEqual((again.order, again.isReplay), (5002, False))

    def test_waitsForAPerson(self) -> None:
        """
        One that waits there for a person's approval is not held.
        """
        self.become(17)
        self.wait(200)
        self.assertEqual((self.states(), self.alarms), (["accepted"], []))

    def test_strange(self) -> None:
        """
        One in a state that the gateway does not know is held after two minutes.
        """
        self.become(4)
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        self.assertTrue(self.only().why.startswith("order 5001 has the state 4, "))
        self.platform.change(5001, state=BOOKED)
        self.turn()
        self.assertEqual(
            (self.states(), self.events()), ([], [(ADD, 5001, BOOKED, 300)])
        )

    def test_updateOfWaiting(self) -> None:
        """
        An update of a trade whose approval the platform has lost in a crash is held,
        because it changes nothing any more.
        """
        order = self.platform.person(1001, 7, 100)
        self.turn()
        self.request(operation(order=order))
        self.platform.crash()
        self.platform.trades[order]["state"] = 17
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        self.assertTrue(self.only().why.startswith("order 5001 has the state 17, "))

    def test_updateOfDeleted(self) -> None:
        """
        What is told of an update whose trade was deleted meanwhile is that.
        """
        order = self.platform.person(1001, 7, 100)
        self.turn()
        self.request(operation(order=order))
        self.platform.change(order, state=DELETED)
        self.platform.work()
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        self.assertTrue(self.only().why.startswith("order 5001 is deleted, "))


class PastTests(GatewayTestCase):
    """
    A change to what a trade was before.
    """

    def setUp(self) -> None:
        """
        Have a credit booked and changed.
        """
        super().setUp()
        self.past: list[Any] = []
        self.platform.listeners.append(lambda type, data: self.past.append(data))
        self.request(operation())
        self.platform.work()
        self.wait(1)
        self.request(operation(200, order=5001))
        self.platform.work()
        self.wait(1)
        self.events()

    def test_event(self) -> None:
        """
        An event of then that comes once more does not show that the change is made.
        """
        reserved = self.request(operation(order=5001, key="k"))
        self.gateway.eventReceived(ADD, self.past[0])
        self.turn()
        self.assertEqual((self.states(), self.events()), (["accepted"], []))
        self.platform.work()
        self.turn()
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 300)])
        self.assertEqual(self.states(), [])

    def test_lookUp(self) -> None:
        """
        Nor does a look-up that shows what was before.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(order=5001))
        now = self.platform.trades[5001]
        before = {"profit": 300, "update_time": self.past[0]["timestamp"]}
        self.platform.trades[5001] = {**now, **before}
        self.wait(12)
        self.assertEqual(self.states(), ["unseen"])
        self.assertEqual(self.events(), [])


class UnkeptTests(GatewayTestCase):
    """
    A platform with records that the journal can't keep.
    """

    def told(self, order: int, why: str) -> list[str]:
        """
        The one alarm about a record.
        """
        return [f"a record of order {order} is not kept: {why}"]

    def test_unreadable(self) -> None:
        """
        A record that can't be right is told once, whoever shows it and how often, and
        those around it are kept.
        """
        for number, (name, value, what) in enumerate(
            (
                ("login", 0, "login"),
                ("profit", Decimal("1e30"), "profit"),
                ("profit", Decimal("1e999999999"), "profit"),
                ("profit", "12", "profit"),
                ("comment", 5, "comment"),
                ("cmd", "7", "cmd"),
                ("open_time", 2**53, "time"),
                ("state", -3, "state"),
            )
        ):
            self.alarms.clear()
            members = {"login": 1001, name: value}
            wrong = self.platform.person(1001, 7, 100)
            self.platform.change(wrong, **members)
            good = self.platform.person(1001, 7, 200 + number)
            self.turn()
            self.wait(65)
            self.assertEqual(
                self.alarms, self.told(wrong, f"its {what} can't be right")
            )
            self.assertIsNotNone(self.gateway.journal.current(good))

    def test_catchUp(self) -> None:
        """
        The catch-up goes on behind a page that ends with a record that can't be right,
        and with one that is no finance trade.
        """
        self.patch(_looking, "PAGE", 2)
        self.link.cut()
        orders = []
        for number in range(6):
            orders.append(self.platform.person(1001, 7, 100))
            self.clock.advance(number % 2)
        self.platform.change(orders[1], login=0)
        self.platform.change(orders[3], cmd=2)
        self.link.connect()
        self.wait(2)
        kept = [order for order in orders if self.gateway.journal.current(order)]
        self.assertEqual(kept, [5001, 5003, 5005, 5006])
        self.assertEqual(self.alarms, self.told(orders[1], "its login can't be right"))

    def test_held(self) -> None:
        """
        An operation whose own record can't be right is held with the reason. It is
        booked when the record is right again.
        """
        for members, why in (
            ({"profit": Decimal("1e30")}, "its profit can't be right"),
            (
                {"profit": Decimal(92233720368)},
                "it would take a total beyond what the ledger can store",
            ),
        ):
            self.alarms.clear()
            order = self.successResultOf(self.request(operation())).order
            other = self.successResultOf(self.request(operation(login=1002)))
            self.platform.person(1001, 7, Decimal("92233720368"))
            self.platform.trades[order].update(members)
            self.platform.work()
            self.wait(70)
            held = self.only()
            self.assertEqual(
                (held.state.value, held.why),
                ("held", f"the platform's record of order {order} is not kept: {why}"),
            )
            self.assertEqual(len(self.alarms), 2)
            self.assertEqual(self.alarms[:1], self.told(order, why))
            self.assertIsNotNone(other.place)
            decided = self.gateway.resolve(held.number, order, 8)
            self.turn()
            self.failureResultOf(decided, IncorrectOrder)
            self.platform.change(order + 2, state=6)
            self.platform.change(order, profit=Decimal(300))
            self.wait(40)
            self.assertEqual(self.states(), [])
            self.assertEqual(self.alarms[2:], [])
            trade = self.gateway.journal.current(order)
            assert trade is not None
            self.assertEqual(trade.profit, 300 * ONE)
            self.platform.change(order, state=6)
            self.turn()

    def test_contradiction(self) -> None:
        """
        A known order that has become another account's is told once, and stays as it
        was.
        """
        order = self.platform.person(1001, 7, 100)
        self.turn()
        self.platform.change(order, login=1002)
        self.wait(65)
        why = "it has another login or another cmd than before"
        self.assertEqual(self.alarms, self.told(order, why))
        trade = self.gateway.journal.current(order)
        assert trade is not None
        self.assertEqual(trade.login, 1001)

    def test_update(self) -> None:
        """
        An update whose trade has become another account's is held.
        """
        order = self.platform.person(1001, 7, 100)
        self.turn()
        self.request(operation(200, order=order))
        self.link.cut()
        self.platform.work()
        self.platform.change(order, login=1002)
        self.link.connect()
        self.wait(40)
        self.assertEqual(self.states(), ["held"])
        self.assertIn("another login", self.only().why)


class ClockTests(GatewayTestCase):
    """
    A platform whose clock differs from the gateway's.
    """

    TEXT = (
        ": if the clocks of the two machines differ, changes may be missed that are"
        " made without a connection"
    )

    def differ(self, seconds: int) -> None:
        """
        Have the platform's clock be ahead.
        """
        self.platform.now = lambda: self.now() + seconds

    def test_behind(self) -> None:
        """
        If it is behind, people are told at the first event, and once.
        """
        self.differ(-3600)
        self.platform.person(1001, 6, 1)
        self.platform.person(1001, 6, 2)
        self.turn()
        self.assertEqual(
            self.alarms, [f"an event's time is 3600 seconds ago{self.TEXT}"]
        )

    def test_ahead(self) -> None:
        """
        If it is ahead, people are told too, but nothing is missed.
        """
        self.differ(3600)
        self.platform.person(1001, 6, 1)
        self.turn()
        self.assertEqual(
            self.alarms, [f"an event's time is 3600 seconds ahead{self.TEXT}"]
        )
        self.link.cut()
        self.platform.person(1001, 6, 2)
        self.wait(600)
        self.link.connect()
        self.turn()
        self.assertEqual([event[1] for event in self.events()], [5001, 5002])

    def test_close(self) -> None:
        """
        A minute is what the clocks may differ by.
        """
        self.differ(-60)
        self.platform.person(1001, 6, 1)
        self.turn()
        self.assertEqual(self.alarms, [])

    def test_lostReply(self) -> None:
        """
        An operation whose time the gateway has chosen is found all the same.
        """
        self.differ(-3600)
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation())
        self.platform.work()
        self.wait(11)
        self.assertEqual(self.successResultOf(reserved).order, 5001)


class TwoPhaseClockTests(GatewayTestCase):
    """
    A platform whose clock differs from the gateway's by half a minute, and that refuses
    a finance request with a time that is to come.
    """

    way = "two-phase"

    def sent(self) -> int:
        """
        The time, from the start, of a request that is accepted and booked.
        """
        self.successResultOf(self.request(operation()))
        self.platform.work()
        self.turn()
        self.assertEqual(self.states(), [])
        every = [each for each in self.link.sent if "Create" in each.command]
        return int(every[-1].data["open_time"]) - NOW

    def test_behind(self) -> None:
        """
        If the platform's clock is behind, its own time is sent as soon as an event has
        shown that, and before a time that is surely over. One that is late tells less.
        """
        self.platform.now = lambda: self.now() - 30
        self.assertEqual(self.sent(), -60)
        self.assertEqual(self.sent(), -30)
        self.platform.change(5001, update_time=NOW - 50)
        self.turn()
        self.clock.advance(10)
        self.assertEqual(self.sent(), -20)

    def test_setBack(self) -> None:
        """
        That the platform's clock was set back is known after twenty events.
        """
        self.platform.person(1002, 6, 1)
        self.turn()
        self.assertEqual(self.sent(), 0)
        self.platform.now = lambda: self.now() - 30
        for _ in range(20):
            self.platform.person(1002, 6, 1)
        self.turn()
        self.assertEqual(self.sent(), -30)

    def test_ahead(self) -> None:
        """
        If it is ahead, the gateway's own time is sent.
        """
        self.platform.now = lambda: self.now() + 30
        self.platform.person(1002, 6, 1)
        self.turn()
        self.assertEqual(self.sent(), 0)


class DecisionTests(GatewayTestCase):
    """
    What people decide about an operation that is held.
    """

    def hold(self) -> None:
        """
        Have an operation held.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        self.wait(160)
        self.assertEqual(self.states(), ["held"])

    def test_twoPeople(self) -> None:
        """
        Of two people who decide at the same time, one is told that it was decided.
        """
        self.hold()
        order = self.platform.person(1001, 7, 300)
        self.turn()
        first = self.gateway.resolve(1, order, 8)
        second = self.gateway.resolve(1, None, 9)
        self.turn()
        self.assertEqual(
            self.successResultOf(second), {"operation": 1, "outcome": "absent"}
        )
        self.failureResultOf(first, NotFound)

    def test_absentAndBooked(self) -> None:
        """
        If what a person has decided to be absent is booked later, that is an alarm.
        """
        self.link.isAutomatic = False
        self.request(operation(key="k"))
        self.wait(11)
        late = self.link.requests.pop(0)
        self.link.requests.clear()
        self.link.isAutomatic = True
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.gateway.resolve(1, None, 8)
        self.turn()
        self.platform.carryOut(late.command, late.data)
        self.platform.work()
        self.turn()
        self.assertEqual(
            self.alarms[1:],
            ["operation 1, which is absent, may be booked as order 5001"],
        )

    def decideAbsent(self) -> None:
        """
        Have a person decide that operation 1 is absent, which is not durable yet.
        """
        self.alarms.clear()
        self.log.isHeld = True
        self.gateway.resolve(1, None, 8)
        self.turn()

    def endDecision(self) -> None:
        """
        Let that, and the rest, become durable.
        """
        self.log.isHeld = False
        self.log.release()
        self.turn()

    def test_bookedWhileDecided(self) -> None:
        """
        So it is if its order is known, and shows before the decision is durable.
        """
        self.request(operation(key="k"))
        lost = dict(self.platform.trades[5001])
        self.platform.crash()
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.decideAbsent()
        self.platform.trades[5001] = lost
        self.platform.change(5001, state=BOOKED)
        self.turn()
        self.endDecision()
        self.assertEqual(
            self.alarms,
            ["operation 1, which is absent, may be booked as order 5001"],
        )

    def test_lateReplyWhileDecided(self) -> None:
        """
        A late reply is not overlooked in that time either.
        """
        self.hold()
        self.decideAbsent()
        self.gateway.repliedLate(1, Outcome(Kind.DONE, {"order": 5001}))
        self.endDecision()
        self.assertEqual(
            self.alarms,
            [
                "a late reply names order 5001 for operation 1, which was settled"
                " otherwise"
            ],
        )

    def test_lateReplyWhileBooked(self) -> None:
        """
        One that names the order as which the operation is being booked is no alarm.
        """
        self.platform.showsQueued = False
        self.link.losesReply.append("CreditIn")
        self.request(operation())
        self.wait(11)
        self.log.isHeld = True
        self.platform.work()
        self.turn()
        self.gateway.repliedLate(1, Outcome(Kind.DONE, {"order": 5001}))
        self.endDecision()
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_repeatedWhileDecided(self) -> None:
        """
        One who repeats the request in that time does not wait for ever.
        """
        self.hold()
        self.decideAbsent()
        repeated = self.request(operation(key="k"))
        self.assertNoResult(repeated)
        self.endDecision()
        self.failureResultOf(repeated, OutcomeUnknown)

    def test_anotherOrder(self) -> None:
        """
        An order for which it was held, and which it does not have, is shown as what it
        is.
        """
        self.request(operation(key="k"))
        self.platform.trades[5001].update(
            login=1002, comment="other", open_time=NOW - 1, state=BOOKED
        )
        self.wait(10)
        self.assertEqual(self.states(), ["held"])
        order = self.platform.person(1001, 7, 300)
        self.turn()
        decided = self.gateway.resolve(1, order, 8)
        self.turn()
        self.assertEqual(
            self.successResultOf(decided), {"operation": 1, "outcome": "booked"}
        )
        shown: Deferred[Any] = self.gateway.trade(5001)
        self.turn()
        trade = self.successResultOf(shown)
        assert isinstance(trade, Trade)
        self.assertEqual((trade.order, trade.login), (5001, 1002))

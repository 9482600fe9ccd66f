"""
Tests for replies of a platform that name the order of another operation, and for order
numbers that it gives again.
"""

from collections.abc import Mapping
from typing import Any

from creditsync.gateway._outcomes import unknown
from tests.gateways import GatewayTestCase, deletion, operation
from tests.platforms import Platform

ADD, UPDATE = 0, 1
BOOKED = 3


class MixedUpTests(GatewayTestCase):
    """
    Two operations, each of which gets the reply to the other one.
    """

    def both(self, *named: str) -> list[Any]:
        """
        Send the two, and mix their replies up.

        @param named: The members by which a reply says what it is about.
        """
        self.link.isAutomatic = False
        asked = [operation(100, key="a"), operation(200, 1002, key="b")]
        reserved = [self.request(each) for each in asked]
        for _ in asked:
            self.link.deliverRequest()
        (first, one), (second, other) = self.link.replies
        for reply, each in ((one, asked[0]), (other, asked[1])):
            members = {"login": each.login, "cmd": each.cmd}
            reply["data"].update({name: members[name] for name in named})
        self.link.replies[:] = []
        self.link.isAutomatic = True
        for sent, reply in ((first, other), (second, one)):
            self.link.replies.append((sent, reply))
            self.link.deliverReply()
        return reserved

    def test_named(self) -> None:
        """
        A reply that names another account proves nothing of the operation, which is
        found by a look-up then.
        """
        reserved = self.both("login")
        self.wait(3)
        self.platform.work()
        self.wait(31)
        orders = [self.successResultOf(each).order for each in reserved]
        self.assertEqual((orders, self.states()), ([5001, 5002], []))
        self.assertEqual(self.alarms, [])

    def test_resolved(self) -> None:
        """
        If the replies do not say what they are about, people can decide, and what was
        published before is not published again.
        """
        self.both()
        self.platform.work()
        self.turn()
        self.wait(3)
        self.assertEqual(self.states(), ["held", "held"])
        self.assertEqual(len(self.events()), 2)
        for number, order in ((1, 5002), (2, 5001)):
            refused = self.gateway.resolve(number, order, 8)
            self.turn()
            self.failureResultOf(refused)
        for number, order in ((1, 5001), (2, 5002)):
            decided = self.gateway.resolve(number, order, 8)
            self.turn()
            self.successResultOf(decided)
        self.assertEqual((self.states(), self.events()), ([], []))
        replay = self.successResultOf(self.request(operation(100, key="a")))
        self.assertEqual((replay.order, replay.isReplay), (5001, True))


class TwoPhaseMixedUpTests(MixedUpTests):
    """
    The same with finance requests.
    """

    way = "two-phase"

    def test_resolved(self) -> None:
        """
        Which finance request is chosen then makes no difference to the money.
        """
        self.platform.namesAccounts = False
        self.both()
        self.turn()
        self.platform.work()
        self.wait(3)
        self.assertEqual(self.money(), [(5002, 1002, 200), (5001, 1001, 100)])
        self.assertEqual(self.states(), ["held", "held"])


class LossTestCase(GatewayTestCase):
    """
    Tests with a platform that has lost booked trades in a crash, and gives their
    numbers again.
    """

    def bookAndLose(self) -> None:
        """
        Have what was requested booked, and lost.
        """
        self.platform.work()
        self.turn()
        self.events()
        self.platform.trades.clear()
        self.platform.booked.clear()
        self.platform.nextOrder = 5001
        self.wait(5)


class GivenAgainTests(LossTestCase):
    """
    A platform that has lost a booked trade in a crash, and gives its number again.
    """

    def setUp(self) -> None:
        """
        Have a credit booked, and lost.
        """
        super().setUp()
        self.request(operation(key="lost"))
        self.bookAndLose()

    def test_replied(self) -> None:
        """
        An operation that is given the number is booked when the platform shows it as
        that, although another one has had the number.
        """
        reserved = self.request(operation(key="k"))
        self.assertEqual(self.refusalOf(reserved).status, 504)
        self.assertEqual(self.only().why[-30:], "order 5001, which is another's")
        self.platform.work()
        self.turn()
        self.assertEqual((self.states(), self.money()), ([], [(5001, 1001, 300)]))
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 300)])
        replay = self.successResultOf(self.request(operation(key="k")))
        trade = self.gateway.journal.current(5001)
        self.assertEqual((replay.order, replay.data), (5001, trade))

    def test_eventFirst(self) -> None:
        """
        So is one whose event comes before the reply.
        """
        self.link.isAutomatic = False
        self.request(operation(key="k"))
        self.link.deliverRequest()
        self.platform.work()
        self.link.deliverEvent()
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.states(), [])
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 300)])

    def test_replyLost(self) -> None:
        """
        So is one whose reply is lost.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation(key="k"))
        self.platform.work()
        self.wait(11)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.states(), [])

    def test_resolved(self) -> None:
        """
        A person can't decide that it is a trade of before.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        self.wait(11)
        before = {"order": 5001, "login": 1001, "cmd": 7, "state": BOOKED}
        content = {"profit": 300, "comment": "gift", "close_time": 0}
        trade = self.gateway.journal.current(5001)
        assert trade is not None
        times = {"open_time": trade.openTime, "update_time": trade.timestamp}
        self.platform.trades[5001] = {**before, **content, **times}
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        decided = self.gateway.resolve(2, 5001, 8)
        self.turn()
        self.failureResultOf(decided)


class TwoPhaseGivenAgainTests(LossTestCase):
    """
    The same with finance requests, which move no money.
    """

    way = "two-phase"

    def setUp(self) -> None:
        """
        Have two credits of different accounts booked, and lost.
        """
        super().setUp()
        for login in (1001, 1002):
            self.request(operation(login=login))
        self.bookAndLose()

    def test_newNumber(self) -> None:
        """
        A finance request with the number of an earlier trade is not used, whosever that
        was. Another one is made, and the first is declined.
        """
        reserved = self.request(operation(login=1002, key="k"))
        self.wait(7)
        self.assertEqual(self.successResultOf(reserved).order, 5003)
        self.platform.work()
        self.turn()
        self.assertEqual(self.money(), [(5003, 1002, 300)])
        self.assertEqual(self.states(), [])
        self.wait(60)
        states = {order: each["state"] for order, each in self.platform.trades.items()}
        self.assertEqual(states, {5001: 18, 5002: 18, 5003: BOOKED})

    def test_never(self) -> None:
        """
        If the platform names no other number for two minutes, a person has to decide.
        """
        carryOut = Platform.carryOut

        def stuck(
            platform: Platform, command: str, data: Mapping[str, Any]
        ) -> dict[str, Any]:
            platform.nextOrder = 5001
            return carryOut(platform, command, data)

        self.patch(Platform, "carryOut", stuck)
        self.request(operation(login=1002))
        self.wait(118)
        self.assertEqual(self.states(), ["sent"])
        self.wait(10)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(
            self.only().why, "the platform names order 5001, which is another's"
        )
        self.assertEqual(self.money(), [])


class LostQueueTests(GatewayTestCase):
    """
    A platform that has lost an accepted operation in a crash, and gives its number
    again.
    """

    def test_anothersNumber(self) -> None:
        """
        The operation that has the number now is booked, and the lost one is held.
        """
        self.request(operation(key="lost"))
        self.platform.crash()
        self.platform.nextOrder = 5001
        self.request(operation(200, 1002, key="k"))
        self.platform.work()
        self.wait(31)
        booked = self.log.withKey(7, "k")
        assert booked is not None
        self.assertEqual((booked.state.value, booked.order), ("booked", 5001))
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 200)])
        self.assertEqual(self.only().operation.key, "lost")
        self.assertEqual(self.only().why, "order 5001 is another trade's")


class DeletionTests(GatewayTestCase):
    """
    A deletion that gets the reply to another operation.
    """

    def test_anothersOrder(self) -> None:
        """
        The order that it names is not taken for a trade that was made by mistake, even
        if it is alike in everything: it is not deleted.
        """
        self.request(operation())
        self.platform.work()
        self.wait(10)
        order = self.platform.person(1001, 7, 300, comment="gift")
        self.turn()
        self.link.isAutomatic = False
        reserved = self.request(deletion(5001))
        self.link.deliverRequest()
        self.link.deliverReply()
        self.turn()
        self.link.deliverRequest()
        [(_, reply)] = self.link.replies
        reply["data"]["order"] = order
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.wait(3)
        self.platform.work()
        self.wait(31)
        states = {each: self.platform.trades[each]["state"] for each in (5001, order)}
        self.assertEqual(states, {5001: 6, order: 3})
        self.assertEqual((self.states(), self.alarms), ([], []))
        self.assertEqual(self.successResultOf(reserved).order, 5001)


class HeldTests(GatewayTestCase):
    """
    An operation that is held.
    """

    def test_lostAfterItsEvent(self) -> None:
        """
        If an event has shown it before the platform has lost it, the reason says so.
        """
        self.link.losesReply.append("CreditIn")
        self.request(operation())
        self.platform.work()
        self.turn()
        self.platform.trades.clear()
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        why = "the platform does not show it; events have shown it as order 5001"
        self.assertTrue(self.only().why.startswith(why), self.only().why)

    def test_lateNonsense(self) -> None:
        """
        A late reply that proves nothing does not change why it is held.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation())
        self.wait(150)
        why = self.only().why
        self.gateway.repliedLate(1, unknown("status 500"))
        self.turn()
        self.assertEqual((self.states(), self.only().why), (["held"], why))
        course = self.gateway.operations.courses.withNumber(1)
        assert course is not None
        self.assertEqual(course.intent.why, why)

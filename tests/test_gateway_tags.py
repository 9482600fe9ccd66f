"""
Tests for the tags of comments, L{creditsync.gateway._tags}.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from creditsync.errors import InvalidData, OutcomeUnknown
from creditsync.gateway._tags import Tags
from creditsync.records import Trade
from tests.gateways import GatewayTestCase, deletion, operation
from tests.platforms import NOW

# 195939070 is 116 * 36**4 and 23, 23, 19, 34 to the base of 36.
EPOCH, NAME = "0badcafe", "nnjy"


class TagsTests(SynchronousTestCase):
    """
    Tests for L{Tags}.
    """

    def setUp(self) -> None:
        """
        Have tags of a ledger in its second life.
        """
        self.tags = Tags(isOn=True, longest=20)
        self.tags.use(["00000001", EPOCH])

    def test_put(self) -> None:
        """
        A tag has the name of the present life and the number of the operation. Where
        there is no room for it, there is none.
        """
        self.assertEqual(self.tags.put("gift", 5), "gift ~nnjy.5")
        self.assertEqual(self.tags.put("gift", 36 * 36 + 35), "gift ~nnjy.10z")
        self.assertEqual(self.tags.put("twelve chars", 5), "twelve chars ~nnjy.5")
        self.assertEqual(self.tags.put("thirteen char", 5), "thirteen char")
        self.tags.isOn = False
        self.assertEqual(self.tags.put("gift", 5), "gift")

    def test_off(self) -> None:
        """
        Tags of all lives are taken off, and nothing else is.
        """
        for comment, plain in (
            ("gift ~nnjy.5", "gift"),
            ("gift ~0001.zz", "gift"),
            (" ~nnjy.5", ""),
            ("gift ~abcd.5", "gift ~abcd.5"),
            ("gift ~nnjy.5 ", "gift ~nnjy.5 "),
            ("gift ~nnjy.5\n", "gift ~nnjy.5\n"),
            ("gift~nnjy.5", "gift~nnjy.5"),
            ("gift ~nnjy.05", "gift ~nnjy.05"),
            ("gift ~nnjy.", "gift ~nnjy."),
            ("gift ~nnjy.5 ~nnjy.6", "gift ~nnjy.5"),
            ("gift", "gift"),
        ):
            self.assertEqual(self.tags.off(comment), plain)

    def test_stranger(self) -> None:
        """
        The tag of another gateway is recognized.
        """
        self.assertEqual(self.tags.stranger("gift ~abcd.5"), "abcd")
        self.assertIsNone(self.tags.stranger("gift ~0001.5"))
        self.assertIsNone(self.tags.stranger("gift"))


class TaggedTests(GatewayTestCase):
    """
    A gateway whose operations have tags.
    """

    isTagged = True

    def setUp(self) -> None:
        """
        Start the gateway, on a ledger of a known life.
        """
        super().setUp()
        self.kill()
        self.log.ledger.epoch = EPOCH
        self.begin()

    def comments(self) -> list[str]:
        """
        What the platform has.
        """
        return [each["comment"] for each in self.platform.trades.values()]

    def told(self) -> list[str]:
        """
        The comments of what was published.
        """
        trades = [each.data for each in self.published]
        return [each.comment for each in trades if isinstance(each, Trade)]

    def shown(self, found: Any) -> Any:
        """
        The comment of what a client looks up.
        """
        trade = self.successResultOf(found)
        return trade["comment"] if isinstance(trade, dict) else trade.comment

    def test_otherTime(self) -> None:
        """
        An operation whose reply is lost is found by its tag on a platform that cuts
        times to the minute, by its event or by the catch-up.
        """
        for number, isEventLost in enumerate((False, True)):
            self.link.losesReply.append("CreditIn")
            reserved = self.request(operation(number + 1, 1001 + number))
            order = 5001 + number
            self.platform.trades[order]["open_time"] -= 47
            listeners = list(self.platform.listeners)
            if isEventLost:
                self.platform.listeners.clear()
            self.platform.work()
            self.platform.listeners[:] = listeners
            self.wait(61)
            self.assertEqual(self.successResultOf(reserved).order, order)
        self.assertEqual([each[1] for each in self.events()], [5001, 5002])
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_clients(self) -> None:
        """
        The platform has the tag, and clients never see it: not in what they wait for,
        in what is on its way, in events, in look-ups, in the journal.
        """
        reservation = self.successResultOf(self.request(operation(key="k")))
        self.assertEqual(self.comments(), ["gift ~nnjy.1"])
        self.assertEqual(reservation.trade.comment, "gift")
        gateway, order = self.gateway, reservation.order
        self.assertEqual(self.shown(gateway.operation(7, "k")), "gift")
        self.assertEqual(self.shown(gateway.trade(order)), "gift")
        self.platform.work()
        self.turn()
        self.assertEqual(self.told(), ["gift"])
        self.assertEqual(self.shown(gateway.trade(order)), "gift")
        asked = Deferred.fromCoroutine(gateway._atPlatform(order))
        self.turn()
        self.assertEqual(self.shown(asked), "gift")
        self.wait(100)
        self.assertEqual((self.alarms, self.told()), ([], ["gift"]))

    def test_change(self) -> None:
        """
        An update gives the trade its own tag, by which it is known to have happened. A
        person's change keeps it, and a deletion shows nothing of it.
        """
        order = self.successResultOf(self.request(operation())).order
        self.platform.work()
        self.turn()
        self.link.losesReply.append("CreditIn")
        changed = self.request(operation(500, order=order, comment="more"))
        self.platform.work()
        self.wait(40)
        self.assertEqual(self.comments(), ["more ~nnjy.2"])
        self.assertIsNotNone(self.successResultOf(changed).place)
        self.platform.change(order, profit=600)
        reserved = self.successResultOf(self.request(deletion(order)))
        self.assertEqual(reserved.trade.comment, "more")
        self.platform.work()
        self.turn()
        self.assertEqual(self.told(), ["gift", "more", "more", "more"])
        self.assertEqual((self.alarms, self.states()), ([], []))

    def test_alike(self) -> None:
        """
        Of several trades that are alike in everything, an operation finds its own.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation(openTime=NOW))
        self.link.cut()
        self.platform.person(1001, 7, 300, comment="gift", open_time=NOW)
        self.platform.work()
        self.link.connect()
        self.wait(35)
        reservation = self.successResultOf(reserved)
        self.assertEqual((reservation.order, self.states()), (5001, []))
        self.assertIsNotNone(reservation.place)

    def test_changedByPerson(self) -> None:
        """
        A trade is found although a person has changed its amount before the gateway has
        seen it.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation())
        self.link.cut()
        self.platform.work()
        self.platform.change(5001, profit=200)
        self.link.connect()
        self.wait(35)
        self.assertIsNotNone(self.successResultOf(reserved).place)
        trade = self.gateway.journal.current(5001)
        assert trade is not None
        self.assertEqual((trade.profit, trade.comment), (200 * 10**8, "gift"))

    def test_absent(self) -> None:
        """
        That there is no trade with a tag proves nothing: the operation is held.
        """
        self.link.losesRequest.append("CreditIn")
        reserved = self.request(operation())
        self.wait(200)
        self.failureResultOf(reserved, OutcomeUnknown)
        self.assertEqual(self.states(), ["held"])

    def test_restart(self) -> None:
        """
        After a restart a repeated request is the same as before, also without the
        option, and what is under way is found by its tag.
        """
        order = self.successResultOf(self.request(operation(key="a"))).order
        self.platform.work()
        self.turn()
        self.link.losesReply.append("CreditIn")
        self.request(operation(key="b"))
        self.kill()
        self.platform.work()
        self.isTagged = False
        self.begin()
        again = self.successResultOf(self.request(operation(key="a")))
        self.assertEqual((again.order, again.isReplay), (order, True))
        self.wait(35)
        again = self.successResultOf(self.request(operation(key="b")))
        self.assertEqual((again.order, again.trade.comment), (order + 1, "gift"))
        self.request(operation(key="c"))
        self.assertEqual(self.comments()[2:], ["gift"])

    def test_forged(self) -> None:
        """
        No client can make a trade that has a tag.
        """
        refusal = self.refusalOf(self.request(operation(comment="gift ~nnjy.9")))
        self.assertIsInstance(refusal, InvalidData)
        self.assertEqual(refusal.message, "data.comment ends with a tag of the gateway")

    def test_stranger(self) -> None:
        """
        That another gateway uses this platform identity is told, once, and so is that
        one does with a copy of this log.
        """
        for comment in ("gift ~abcd.1", "gift ~abcd.2", "gift ~nnjy.7", "gift ~nnjy.8"):
            self.platform.person(1001, 7, 300, comment=comment)
        self.turn()
        end = ": does another gateway use this platform identity?"
        self.assertEqual(
            self.alarms,
            [
                f"order 5001 has the tag of another gateway, abcd{end}",
                f"order 5003 has a tag of this gateway, and is not in its log{end}",
            ],
        )

    def test_stray(self) -> None:
        """
        What the platform has made instead of a change is known by the tag of that.
        """
        order = self.successResultOf(self.request(operation())).order
        self.platform.work()
        self.turn()
        self.platform.makesNew = True
        self.request(operation(500, order=order))
        self.platform.work()
        self.wait(5)
        self.platform.work()
        self.wait(5)
        self.assertEqual(self.platform.trades[order + 1]["state"], 6)
        self.assertEqual(len(self.alarms), 1)


class TaggedTwoPhaseTests(TaggedTests):
    """
    The same with two phases.
    """

    way = "two-phase"
    # Its outcome is not unknown for long, and is not learned by content.
    test_alike = test_absent = test_changedByPerson = None  # type: ignore[assignment]
    test_restart = None  # type: ignore[assignment]

"""
Tests for a gateway in front of a platform that cuts comments, and that has a profile
which says so.
"""

from msgspec.structs import replace

from creditsync.errors import IdempotencyKeyReused, InvalidData
from creditsync.gateway._intents import Intent
from creditsync.gateway._tags import Tags
from creditsync.records import Operation, Trade
from tests.gateways import GatewayTestCase, HeldIntentLog, operation
from tests.platforms import NOW

# 40 characters, and the 31 that are kept.
LONG = "Promotion credit of the autumn of 2026-A"
KEPT = "Promotion credit of the autumn "


class WrittenLog(HeldIntentLog):
    """
    A log that, like one on disk, has a comment only as it was sent.
    """

    def withKey(self, principal: int, key: str) -> Intent | None:
        """
        See L{IIntentLog.withKey<creditsync.gateway._intents.IIntentLog.withKey>}.
        """
        intent = super().withKey(principal, key)
        if intent is not None and isinstance(intent.operation, Operation):
            intent.operation = replace(intent.operation, comment=intent.comment)
        return intent


class KeptTests(GatewayTestCase):
    """
    What becomes of operations with comments that the platform cuts.
    """

    makeLog = WrittenLog
    longest = 31

    def setUp(self) -> None:
        """
        Start the gateway, and have the platform cut.
        """
        super().setUp()
        self.platform.longest = 31

    def comments(self) -> list[str]:
        """
        The comments of what was published.
        """
        trades = [each.data for each in self.published]
        return [each.comment for each in trades if isinstance(each, Trade)]

    def test_lostReply(self) -> None:
        """
        An operation whose reply is lost is found by what the platform keeps of its
        comment. The journal has that too.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation(comment=LONG))
        self.platform.work()
        self.wait(10)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.comments(), [KEPT])
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_update(self) -> None:
        """
        So is a change, whose reply may have come.
        """
        self.request(operation())
        self.platform.work()
        self.turn()
        for isLost in (False, True):
            if isLost:
                self.link.losesReply.append("CreditIn")
            changed = self.request(operation(500 + isLost, order=5001, comment=LONG))
            self.platform.work()
            self.wait(40)
            self.assertIsNotNone(self.successResultOf(changed).place)
        self.assertEqual(self.comments(), ["gift", KEPT, KEPT])
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_repeated(self) -> None:
        """
        A request that is repeated under its key is the same one, also after a restart.
        One that differs in what is kept is another.
        """
        order = self.successResultOf(
            self.request(operation(comment=LONG, key="k"))
        ).order
        for isLater in (False, True):
            if isLater:
                self.platform.work()
                self.turn()
                self.kill()
                self.begin()
            again = self.successResultOf(self.request(operation(comment=LONG, key="k")))
            self.assertEqual((again.order, again.isReplay), (order, isLater))
            other = self.refusalOf(self.request(operation(comment="x", key="k")))
            self.assertIsInstance(other, IdempotencyKeyReused)
        self.assertEqual(len(self.platform.trades), 1)

    def test_olderProfile(self) -> None:
        """
        One that was sent before the profile said so is still the same request.
        """
        self.kill()
        self.longest = 255
        self.begin()
        order = self.successResultOf(
            self.request(operation(comment=LONG, key="k"))
        ).order
        self.platform.work()
        self.turn()
        self.kill()
        self.longest = 31
        self.begin()
        again = self.successResultOf(self.request(operation(comment=LONG, key="k")))
        self.assertEqual((again.order, again.isReplay), (order, True))

    def test_corrected(self) -> None:
        """
        If the profile does not say so, an operation whose reply is lost is held, and a
        person decides by its order. A change is held too, and is recognized after a
        start with a profile that does.
        """
        self.kill()
        self.longest = 255
        self.begin()
        self.request(operation())
        self.platform.work()
        self.turn()
        self.request(operation(500, order=5001, comment=LONG))
        self.link.losesReply.append("CreditIn")
        self.request(operation(login=1002, comment=LONG))
        self.platform.work()
        self.wait(200)
        self.assertEqual(self.states(), ["held", "held"])
        self.assertIn("only what differs from it: 5002", self.alarms[1])
        decided = self.gateway.resolve(3, 5002, 9)
        self.turn()
        self.assertEqual(
            self.successResultOf(decided), {"operation": 3, "outcome": "booked"}
        )
        self.assertEqual(self.states(), ["held"])
        self.kill()
        self.longest = 31
        self.begin()
        self.wait(1)
        self.assertEqual(self.states(), [])
        commands = [each.command for each in self.link.sent]
        self.assertNotIn("CreditIn", commands)

    def test_cutTag(self) -> None:
        """
        A tag that was cut is no sign: others begin like it.
        """
        self.kill()
        self.longest, self.isTagged = 255, True
        self.begin()
        self.platform.longest = 29
        self.link.losesReply.append("CreditIn")
        self.request(operation(comment="a comment of 24 letters."))
        self.platform.work()
        self.kill()
        self.longest = 29
        self.begin()
        self.wait(10)
        self.assertEqual(self.states(), ["unseen"])

    def test_alike(self) -> None:
        """
        Operations whose comments differ only in what is cut have different times, by
        which the platform tells them apart.
        """
        for order in (5001, 5002):
            if order == 5002:
                self.link.losesReply.append("CreditIn")
            reserved = self.request(operation(comment=f"{LONG}{order}"))
            self.platform.work()
            self.turn()
        self.wait(10)
        self.assertEqual(self.successResultOf(reserved).order, 5002)
        times = {each["open_time"] for each in self.platform.trades.values()}
        self.assertEqual(len(times), 2)

    def test_anothers(self) -> None:
        """
        Another trade with the beginning of the comment is not taken for the operation.
        """
        self.link.losesRequest.append("CreditIn")
        reserved = self.request(operation(comment=LONG, openTime=NOW))
        for comment in (KEPT[:-1], LONG[:32][1:], "Promotion"):
            self.platform.person(1001, 7, 300, comment=comment, open_time=NOW)
        self.wait(10)
        self.assertNoResult(reserved)
        self.assertEqual(self.states(), ["unseen"])


class TwoPhaseKeptTests(KeptTests):
    """
    The same with two phases.
    """

    way = "two-phase"
    # The request that is lost is made again.
    test_anothers = test_corrected = test_cutTag = None  # type: ignore[assignment]


class ForgedTests(GatewayTestCase):
    """
    Tags where comments are cut.
    """

    isTagged = True
    longest = 31

    def test_forged(self) -> None:
        """
        No client can make a trade that has a tag when its comment is cut.
        """
        tags = self.gateway.journal.tags
        tag = tags.put("", 9)
        comment = "x" * (31 - len(tag)) + tag
        for forged in (comment, comment + " and more", "x" * 40 + tag):
            refusal = self.refusalOf(self.request(operation(comment=forged)))
            self.assertIsInstance(refusal, InvalidData)

    def test_noRoom(self) -> None:
        """
        A comment that is cut has no tag.
        """
        tags = Tags(isOn=True, longest=31)
        tags.use(["0badcafe"])
        self.assertEqual(tags.put(LONG, 5), KEPT)
        self.assertEqual(
            tags.put("a comment of 24 letters.", 5), "a comment of 24 letters."
        )
        self.assertEqual(tags.put("gift", 5), "gift ~nnjy.5")

"""
Tests for L{creditsync.gateway._probe}.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._sandbox.times import FORMS, LOOKUPS
from creditsync.gateway._probe import Arrival, Probe, profileOf
from tests.platforms import NOW, Link, Platform


class ProbeTests(SynchronousTestCase):
    """
    Tests for L{Probe}.
    """

    def setUp(self) -> None:
        """
        Have a platform.
        """
        self.clock = Clock()
        self.platform = Platform(lambda: NOW + self.clock.seconds())
        self.link = Link(self.clock, self.platform)
        self.arrival = Arrival()
        self.link.start(self.arrival)

    def probe(self, longest: int = 255) -> Probe:
        """
        Probe it.
        """
        second = NOW - 3600 + int(self.clock.seconds())
        probe = Probe(self.clock, self.link, 999, second, longest)
        done = Deferred.fromCoroutine(probe.run())
        for _ in range(400):
            for _ in range(4):
                self.clock.advance(0)
            self.platform.work()
            self.clock.advance(0.5)
        self.successResultOf(done)
        return probe

    def failed(self, probe: Probe) -> list[str]:
        """
        What is not so.
        """
        return [each.text for each in probe.findings if not each.isMet]

    def test_sound(self) -> None:
        """
        On a platform that keeps its word both ways are sound, and nothing is left.
        """
        self.successResultOf(self.arrival.arrived)
        probe = self.probe()
        self.assertEqual(self.failed(probe), [])
        self.assertTrue(probe.isSound("one-shot") and probe.isSound("two-phase"))
        self.assertIs(tomllib.loads(profileOf(probe, {}))["two-phase"], True)
        states = [each["state"] for each in self.platform.trades.values()]
        self.assertEqual(states, [6, 6, 18])

    def test_approvesTwice(self) -> None:
        """
        If a second approval books again, two phases are not sound.
        """
        self.platform.approvesTwice = True
        probe = self.probe()
        self.assertEqual(
            self.failed(probe),
            ["a second approval is refused", "one after its booking is refused"],
        )
        self.assertIs(tomllib.loads(profileOf(probe, {}))["two-phase"], False)
        self.assertTrue(probe.isSound("one-shot"))

    def test_minutes(self) -> None:
        """
        If the platform cuts times to the minute, neither way is sound: an operation
        whose reply is lost is not found, nor is a finance request made in vain.
        """
        carryOut = Platform.carryOut

        def cutting(
            platform: Platform, command: str, data: Mapping[str, Any]
        ) -> dict[str, Any]:
            if "open_time" in data:
                data = {**data, "open_time": data["open_time"] // 60 * 60}
            return carryOut(platform, command, data)

        self.patch(Platform, "carryOut", cutting)
        probe = self.probe()
        kept = [each for each in self.failed(probe) if each.endswith("are kept")]
        self.assertEqual(kept, ["its amount, comment and open_time are kept"] * 2)
        self.assertFalse(probe.isSound("one-shot") or probe.isSound("two-phase"))

    def test_milliseconds(self) -> None:
        """
        A platform that counts all times in milliseconds finds what was booked too.
        """
        carryOut, [form, _] = Platform.carryOut, FORMS

        def counting(
            platform: Platform, command: str, data: Mapping[str, Any]
        ) -> dict[str, Any]:
            if command not in LOOKUPS:
                return carryOut(platform, command, data)
            asked = form.asked({"data": dict(data)})
            return form.answered(carryOut(platform, command, asked["data"]))

        self.patch(Platform, "carryOut", counting)
        probe = self.probe()
        self.assertEqual(self.failed(probe), [])
        self.assertTrue(probe.isSound("one-shot") and probe.isSound("two-phase"))

    def test_commentCut(self) -> None:
        """
        If the platform cuts comments, the profile says after how many characters, so
        that those keep their tag. It says so without tags too.
        """
        self.platform.longest = 31
        probe = self.probe()
        self.assertEqual(self.failed(probe), [])
        self.assertIn(
            "a comment of 31 characters keeps the tag at its end; longer ones are cut",
            [each.text for each in probe.findings],
        )
        for former, profile in (
            ({}, {"two-phase": True, "comment-length": 31}),
            (
                {"comment-tag": True, "comment-length": 100},
                {"two-phase": True, "comment-tag": True, "comment-length": 31},
            ),
        ):
            self.assertEqual(tomllib.loads(profileOf(probe, former)), profile)
        self.assertEqual(self.platform.trades[5001]["state"], 6)

    def test_commentLength(self) -> None:
        """
        A length that the profile says, and that is kept, stays.
        """
        self.platform.longest = 31
        probe = self.probe(20)
        self.assertEqual(self.failed(probe), [])
        former = {"comment-tag": True, "comment-length": 20}
        self.assertEqual(
            tomllib.loads(profileOf(probe, former)), {"two-phase": True, **former}
        )

    def test_noTag(self) -> None:
        """
        There is no tag where a comment has no room for it, or where the platform shows
        another comment.
        """
        former = {"comment-tag": True}
        self.platform.longest = 17
        probe = self.probe(12)
        self.assertEqual(
            self.failed(probe), ["a comment of 12 characters keeps the tag at its end"]
        )
        self.assertEqual(
            tomllib.loads(profileOf(probe, former)),
            {"two-phase": True, "comment-tag": False, "comment-length": 12},
        )
        carryOut = Platform.carryOut

        def changing(platform: Platform, command: str, data: dict[str, Any]) -> Any:
            comment = data.get("comment", "").replace("~", "-")
            return carryOut(platform, command, {**data, "comment": comment})

        self.patch(Platform, "carryOut", changing)
        self.platform.longest = 255
        probe = self.probe()
        self.assertEqual(
            self.failed(probe), ["a comment of 255 characters keeps the tag at its end"]
        )
        self.assertEqual(probe.longest, 255)

    def test_noRequests(self) -> None:
        """
        A platform without finance requests has one shot only.
        """
        self.platform.lacks.add("MngCreateFinanceRequest")
        probe = self.probe()
        self.assertEqual(
            self.failed(probe),
            ["a finance request is accepted with an order (UNKNOWN_COMMAND: because)"],
        )
        self.assertFalse(probe.isSound("two-phase"))

    def test_namesNoAccount(self) -> None:
        """
        If the reply to a finance request may be about another one, which would be
        approved, two phases are not sound.
        """
        self.platform.namesAccounts = False
        probe = self.probe()
        unmet = "the reply to that names its account and kind of trade"
        self.assertEqual(self.failed(probe), [unmet, unmet])
        self.assertFalse(probe.isSound("two-phase"))
        self.assertTrue(probe.isSound("one-shot"))

    def test_nothing(self) -> None:
        """
        If not even a credit is accepted, nothing is sound.
        """
        self.platform.lacks |= {"CreditIn", "MngCreateFinanceRequest"}
        probe = self.probe()
        self.assertFalse(probe.isSound("one-shot"))
        self.assertEqual(len(probe.findings), 2)

"""
Tests for L{tests.simulation.rights} and the rules that are about rights: each can be
broken.
"""

from collections.abc import Iterator

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.breaking import RecordTestCase
from tests.simulation.history import (
    NEVER,
    Attempt,
    Booking,
    History,
    Move,
    Reply,
    Talk,
    Token,
)
from tests.simulation.limiting import Limiting, SiteRule
from tests.simulation.permits import Permits
from tests.simulation.rights import Rights, selects
from tests.simulation.setting import FAULTS, Plan
from tests.simulation.world import Violation

pytestmark = pytest.mark.proof

_KEPT = {"restricted", "moved", "token-changed", "expired"}
# A seed with neither a foreign runtime nor tight limits, in which all of these happen.
RESTRICTED = Plan(seed=35, requests=300, without=frozenset(FAULTS) - _KEPT)


class MaskTests(SynchronousTestCase):
    """
    Tests for L{selects}.
    """

    def test_masks(self) -> None:
        """
        The masks that docs/protocol.rst explains select these groups.
        """
        groups = ("", "real", "real-1", "real-vip", "demo", "Real", "unreal")
        for mask, selected in (
            ("*", groups),
            ("real*,demo", ("real", "real-1", "real-vip", "demo")),
            ("!real-vip,real*", ("real", "real-1")),
            ("real*,!real-vip", ("real", "real-1", "real-vip")),
            ("!demo", ()),
            ("!,*", groups[1:]),
            ("", ()),
            (",", ()),
            (" real , demo", ("real", "demo")),
            (" ! demo* , * ", ("", "real", "real-1", "real-vip", "Real", "unreal")),
            ("r*l*1", ("real-1",)),
            ("*real", ("real", "unreal")),
            ("**", groups),
        ):
            found = tuple(group for group in groups if selects(mask, group))
            self.assertEqual(found, selected, mask)


class RightsTests(SynchronousTestCase):
    """
    Tests for L{Rights}.
    """

    def rights(self, *moves: Move, requiresGroups: bool = False) -> Rights:
        """
        Rights where account 1 was moved so.
        """
        history = History(isForeign=False)
        history.moves += moves
        return Rights(history, requiresGroups)

    def token(
        self,
        role: int,
        groups: str | None = None,
        login: int | None = None,
        logins: tuple[int, ...] | None = None,
    ) -> Token:
        """
        A token of principal 2.
        """
        return Token("", 2, role, "", None, None, groups, login, logins)

    def test_groups(self) -> None:
        """
        A move counts from its end on, and may count from its beginning on.
        """
        rights = self.rights(Move(1, "a", (1.0, 3), (2.0, 6)))
        for moment, groups in (
            ((0.5, 1), {""}),
            ((1.0, 2), {""}),
            ((1.0, 3), {"", "a"}),
            ((2.0, 6), {"", "a"}),
            ((2.0, 7), {"a"}),
        ):
            self.assertEqual(rights.groups(1, moment, moment), groups)
            self.assertEqual(rights.groups(9, moment, moment), {""})
        self.assertEqual(rights.groups(1, (0.0, 0), (3.0, 9)), {"", "a"})

    def test_laterMove(self) -> None:
        """
        Of two moves at a time the later one counts in the end, and one without an end
        may count for ever.
        """
        rights = self.rights(
            Move(1, "a", (1.0, 1), (4.0, 5)),
            Move(1, "b", (2.0, 2), (4.0, 5)),
            Move(1, "c", (6.0, 7)),
        )
        self.assertEqual(rights.groups(1, (3.0, 4), (3.0, 4)), {"", "a", "b"})
        self.assertEqual(rights.groups(1, (5.0, 6), (5.0, 6)), {"b"})
        self.assertEqual(rights.groups(1, (9.0, 9), (9.0, 9)), {"b", "c"})

    def test_roles(self) -> None:
        """
        The role of a token decides what selects its accounts.
        """
        rights = self.rights(Move(1, "a", (0.0, 0), (0.0, 0)))
        strict = self.rights(Move(1, "a", (0.0, 0), (0.0, 0)), requiresGroups=True)
        now = 1.0, 1
        for role, accounts, required in (
            (3, {1, 2, 3}, {1, 2, 3}),
            (1, {1, 2, 3}, set()),
            (2, {1, 2, 3}, set()),
            (4, {1, 2, 3}, set()),
            (10, {1, 2, 3}, set()),
            (11, {1, 2, 3}, set()),
            (0, {2}, {2}),
            (9, set(), set()),
            (5, set(), set()),
        ):
            for judge, expected in ((rights, accounts), (strict, required)):
                token = self.token(role)
                found = {
                    login
                    for login in (1, 2, 3)
                    if judge.sees(token, login, now, now) == {True}
                }
                self.assertEqual(found, expected, role)

    def test_claims(self) -> None:
        """
        The claims of a token select its accounts, as far as its role heeds them.
        """
        rights = self.rights(Move(1, "a", (0.0, 0), (0.0, 0)), requiresGroups=True)
        now = 1.0, 1
        for token, accounts in (
            (self.token(1, groups="a"), {1}),
            (self.token(10, groups="!a,*"), {2, 3}),
            (self.token(3, groups="none"), {1, 2, 3}),
            (self.token(0, login=3), {3}),
            (self.token(9, logins=(1, 3)), {1, 3}),
            (self.token(5, groups="*", login=1, logins=(1,)), set()),
        ):
            found = {n for n in (1, 2, 3) if rights.sees(token, n, now, now) == {True}}
            self.assertEqual(found, accounts)

    def test_inBetween(self) -> None:
        """
        While an account is moved a token may be for it, or not.
        """
        rights = self.rights(Move(1, "a", (1.0, 1), (2.0, 2)))
        token, now = self.token(1, groups="a"), (1.5, 1)
        self.assertEqual(rights.sees(token, 1, now, now), {False, True})


class RuleTests(RecordTestCase):
    """
    Tests that break the rules of rights, in the record of a run in which tokens change
    and accounts are moved.
    """

    plan = RESTRICTED

    def restricted(self) -> Iterator[Talk]:
        """
        The connections that did not get all events, with the most events first.
        """
        talks = sorted(self.history.talks, key=lambda talk: -len(talk.events))
        return (each for each in talks if 0 < len(each.events) < len(talks[0].events))

    def permits(self) -> Permits:
        """
        The judge of what tokens may do.
        """
        rights = Rights(self.history, self.course.setting.requiresGroups)
        return Permits(self.history, rights)

    def assertNotPermitted(self, attempt: Attempt, rule: str) -> None:
        """
        Judge one answer, of a request whose token was changed.
        """
        violation = self.assertRaises(Violation, self.permits().check, attempt)
        self.assertEqual(violation.rule, rule)

    def own(self, attempt: Attempt, role: int, groups: str | None = None) -> None:
        """
        Have a request sent with another token than it was.
        """
        intent = attempt.intent
        principal = intent.token.principal
        token = Token("", principal, role, "", None, None, groups)
        attempt.token = intent.token = token

    def refuse(self, attempt: Attempt, status: int, error: str) -> None:
        """
        Have a request refused.
        """
        reply = attempt.reply
        assert reply is not None
        reply.status = status
        reply.value = {"status": status, "error": error, "message": "no"}
        if attempt.extID:
            reply.value["extID"] = attempt.extID

    def test_sound(self) -> None:
        """
        The record without changes breaks no rule; and all of this has happened.
        """
        self.course.judge()
        statuses = {each.status for t in self.history.talks for each in t.attempts}
        self.assertTrue({200, 401, 403, 404, 409} <= statuses)
        self.assertTrue(any(each.ended != NEVER for each in self.history.moves))
        self.assertGreater(len(list(self.restricted())), 3)

    def test_eventNotForItsToken(self) -> None:
        """
        An event that none of a connection's tokens is for is reported.
        """
        talk = next(
            each
            for each in self.restricted()
            if not any(a.intent.resumes for a in each.attempts)
        )
        for attempt in talk.attempts:
            self.own(attempt, role=5)
        self.assertBreaks("no-other-event")

    def test_eventOfJournalNotForItsToken(self) -> None:
        """
        An event of the journal that none of a connection's tokens is for is reported.
        """
        talk = next(
            each
            for each in self.restricted()
            if any(a.intent.resumes and a.status == 200 for a in each.attempts)
        )
        for attempt in talk.attempts:
            self.own(attempt, role=5)
        self.assertBreaks("no-other-event")

    def test_eventForItsTokenMissing(self) -> None:
        """
        A connection with a restricted token that misses an event of its accounts is
        reported.
        """
        talk = next(
            each
            for each in self.restricted()
            if not any(a.intent.resumes for a in each.attempts)
        )
        del talk.events[len(talk.events) // 2]
        self.assertBreaks("every-session")

    def test_eventOfJournalMissing(self) -> None:
        """
        A client that follows the journal with restricted tokens, and lacks an event of
        their accounts in the end, is reported.
        """
        reader = self.course._readers[1]
        self.assertGreater(len(reader.tokens), 1)
        for attempt in reader.talk.attempts:
            self.own(attempt, role=1, groups="*")
        self.assertBreaks("no-seam")

    def test_notMoved(self) -> None:
        """
        A move that is acknowledged, and not carried out, is reported.
        """
        attempt = self.answered(lambda each: each.intent.isMove and each.status == 200)
        data = attempt.intent.data
        self.history.moves = [
            each
            for each in self.history.moves
            if (each.login, each.group) != (data["login"], data["group"])
        ]
        self.assertFalse(self.permits().isMoved(attempt))

    def test_moveByOthers(self) -> None:
        """
        A move by somebody who is no admin is reported.
        """
        attempt = self.answered(lambda each: each.intent.isMove and each.status == 200)
        self.own(attempt, role=1, groups="*")
        self.assertNotPermitted(attempt, "role")

    def test_moveUndone(self) -> None:
        """
        An account that is in another group than that to which it was moved is reported.
        """
        self.course.site.storage.execute("UPDATE account SET \"group\" = 'lost'")
        books = self.course.newBooks()
        violation = self.assertRaises(
            Violation, books._checkGroups, self.course.site.storage
        )
        self.assertRegex(str(violation), "durability: account .* is in group 'lost'")

    def test_bookedForOthers(self) -> None:
        """
        A booking on an account that the token is not for is reported.
        """
        attempt = self.answered(lambda each: each.intent.cmd and each.status == 200)
        self.own(attempt, role=1, groups="nothing")
        self.assertNotPermitted(attempt, "account")

    def test_keyBeforeRight(self) -> None:
        """
        An answer about a key of a booking on another account is reported.
        """
        attempt = self.answered(lambda each: each.intent.cmd and each.status == 200)
        self.refuse(attempt, 422, "IDEMPOTENCY_KEY_REUSED")
        assert attempt.reply is not None
        attempt.reply.value["data"] = {"order": 1}
        self.own(attempt, role=1, groups="nothing")
        self.assertNotPermitted(attempt, "account")

    def test_forbiddenToItsOwner(self) -> None:
        """
        A booking that is forbidden to a token for the account is reported.
        """
        attempt = self.answered(
            lambda each: each.intent.cmd and each.reply.error == "FORBIDDEN"  # type: ignore[union-attr]
        )
        self.own(attempt, role=1, groups="*")
        self.assertNotPermitted(attempt, "role")

    def test_forbiddenAndBooked(self) -> None:
        """
        A booking that was forbidden and is in the ledger is reported.
        """
        attempt = self.answered(
            lambda each: (
                each.intent.cmd
                and each.status == 200
                and len(each.intent.attempts) == 1
            )
        )
        self.own(attempt, role=1, groups="nothing")
        self.refuse(attempt, 403, "FORBIDDEN")
        self.assertBreaks("nothing-happened")

    def test_hiddenOrderTold(self) -> None:
        """
        An order of another account that is looked up is reported.
        """
        for command in ("GetOperation", "GetTradeByOrder"):
            attempt = self.answered(
                lambda each, name=command: (  # type: ignore[misc]
                    each.intent.command == name and each.status == 200
                )
            )
            self.own(attempt, role=1, groups="nothing")
            self.assertNotPermitted(attempt, "account")

    def test_hiddenOrderForbidden(self) -> None:
        """
        An order of another account that is told from one that does not exist is
        reported: by 403 in a look-up, or by 409 in a deletion.
        """
        attempt = self.answered(
            lambda each: each.intent.command == "GetOperation" and each.status == 200
        )
        self.own(attempt, role=1, groups="nothing")
        self.refuse(attempt, 403, "FORBIDDEN")
        self.assertNotPermitted(attempt, "role")
        attempt = self.answered(
            lambda each: (
                each.intent.isDelete and not each.intent.key and each.status == 200
            )
        )
        self.refuse(attempt, 409, "INCORRECT_ORDER")
        self.own(attempt, role=1, groups="nothing")
        self.assertNotPermitted(attempt, "account")

    def test_orderHidden(self) -> None:
        """
        An order of the token's accounts that is not found is reported.
        """
        attempt = self.answered(
            lambda each: (
                each.intent.command in ("GetOperation", "GetTradeByOrder")
                and each.status == 200
                and not self.permits().mayBeHidden(each)
            )
        )
        [error] = attempt.intent.allowed
        self.refuse(attempt, 404, error)
        self.assertBreaks("status")

    def accountShown(self) -> Reply:
        """
        A look-up of an account.
        """
        found = self.answered(
            lambda each: (
                each.intent.command == "GetAccountByLogin" and each.status == 200
            )
        ).reply
        assert found is not None
        return found

    def test_otherGroup(self) -> None:
        """
        A look-up with a group that the account did not have is reported.
        """
        self.accountShown().value["data"]["group"] = "other"
        self.assertBreaks("answer")

    def test_otherTotal(self) -> None:
        """
        A look-up with a total that the account did not have is reported.
        """
        data = self.accountShown().value["data"]
        data["credit"] += 1
        self.assertBreaks("answer")

    def test_accountHidden(self) -> None:
        """
        An account that a token is for and that is not found is reported.
        """
        attempt = self.answered(
            lambda each: (
                each.intent.command == "GetAccountByLogin"
                and each.status == 200
                and each.reply.value["data"]["credit"]  # type: ignore[union-attr]
            )
        )
        self.own(attempt, role=3)
        self.assertTrue(self.permits().isKnown(attempt))

    def limiting(self, *rules: SiteRule) -> Limiting:
        """
        The judge of these rules.
        """
        rights = Rights(self.history, False)
        return Limiting(self.course._world, self.history, rights, rules)

    def assertExceeded(self, rule: SiteRule) -> None:
        """
        Check that what was booked exceeds a rule.
        """
        violation = self.assertRaises(Violation, self.limiting(rule).check)
        self.assertEqual(violation.rule, "limit")

    def test_overRule(self) -> None:
        """
        What is booked beyond a rule of the site is reported.
        """
        self.assertExceeded(SiteRule("in one", inOne=0))
        self.assertExceeded(SiteRule("a day", onOneDay=10**8))
        self.assertExceeded(SiteRule("all", onOneDay=10**8, per="all"))
        self.limiting(
            SiteRule("much", inOne=10**18, onOneDay=10**30),
            SiteRule("others", inOne=0, onOneDay=0, roles=(5,)),
            SiteRule("nothing", inOne=0, onOneDay=0, commands=("Nothing",)),
        ).check()

    def test_counts(self) -> None:
        """
        A new trade counts with its amount, an update with the new one or the
        difference, and a deletion with what it takes back.
        """
        limiting = self.limiting(SiteRule("any", inOne=0))
        for booking, counts in limiting._counted.items():
            trade, [*before] = booking.trade, self.versionsBefore(booking)
            if booking.type == 0:
                self.assertEqual(counts, abs(trade.profit))
            elif booking.type == 2:
                self.assertEqual(counts, abs(before[-1].trade.profit))
            else:
                change = trade.profit - before[-1].trade.profit
                self.assertEqual(counts, max(abs(trade.profit), abs(change)))

    def versionsBefore(self, booking: Booking) -> list[Booking]:
        """
        What was booked on an order before.
        """
        bookings = self.history.bookings
        before = bookings[: bookings.index(booking)]
        return [each for each in before if each.trade.order == booking.trade.order]

    def test_withinRules(self) -> None:
        """
        A refusal by a rule that the operation does not exceed is reported, and so is
        one that names no rule, or another way where there is none.
        """
        attempt = self.answered(
            lambda each: (
                each.intent.cmd
                and each.intent.amount == 30 * 10**9
                and each.status == 200
                and "order" not in each.intent.data
            )
        )
        attempt.intent.bookings = []
        large = 'the limit "large" allows at most 1'
        another = "; ask for it with MngCreateFinanceRequest"
        for most, mayAsk, message, isJustified in (
            (30 * 10**9, False, large, False),
            (30 * 10**9 - 1, False, large, True),
            (30 * 10**9 - 1, False, large + another, False),
            (30 * 10**9 - 1, True, large, False),
            (30 * 10**9 - 1, True, large + another, True),
            (30 * 10**9 - 1, False, "the site does not want it", False),
        ):
            self.refuse(attempt, 409, "LIMIT_EXCEEDED")
            assert attempt.reply is not None
            attempt.reply.value["message"] = message
            limiting = self.limiting(SiteRule("large", inOne=most, mayAsk=mayAsk))
            self.assertEqual(limiting.isJustified(attempt), isJustified, message)

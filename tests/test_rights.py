"""
Tests for L{creditsync._conversation.rights}.
"""

from math import inf

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.rights import Rights
from creditsync.codes import ALL_SESSIONS
from creditsync.records import Principal, Trade

# The groups of the accounts; every other account has none.
GROUPS = {1001: "real\\gold", 1002: "real\\vip", 1003: "demo", 1004: "Real\\gold"}
LOGINS = (1001, 1002, 1003, 1004, 1005)


def groupOf(login: int) -> str:
    """
    The group of an account.
    """
    return GROUPS.get(login, "")


def _principal(
    role: int,
    groups: str | None = None,
    login: int | None = None,
    logins: tuple[int, ...] | None = None,
    id: int = 1001,
) -> Principal:
    return Principal(id, role, inf, None, groups, login, logins)


ALL = LOGINS
NONE: tuple[int, ...] = ()

# A principal, the accounts that it may see, and those with --require-groups.
CASES: list[tuple[Principal, tuple[int, ...], tuple[int, ...]]] = [
    # Staff without the claim.
    *((_principal(role), ALL, NONE) for role in (1, 2, 4, 10, 11)),
    # The others have nothing to do with groups.
    (_principal(3), ALL, ALL),
    (_principal(0), (1001,), (1001,)),
    (_principal(5), NONE, NONE),
    (_principal(9), NONE, NONE),
    # A role that the platform does not have.
    (_principal(6), NONE, NONE),
    # Staff with the claim.
    *(
        (_principal(role, mask), accounts, accounts)
        for role in (1, 2, 4, 10, 11)
        for mask, accounts in (
            ("", NONE),
            ("*", ALL),
            ("real\\*", (1001, 1002)),
            ("real\\gold", (1001,)),
            ("*\\gold", (1001, 1004)),
            ("REAL*", NONE),
            ("demo,real\\vip", (1002, 1003)),
            ("!real\\vip,real*", (1001,)),
            ("real*,!real\\vip", (1001, 1002)),
            ("!real*,!demo", NONE),
            ("!real*,*", (1003, 1004, 1005)),
            ("!,*", (1001, 1002, 1003, 1004)),
        )
    ),
    # Claims of other roles count for nothing.
    (_principal(1, None, 1003, (1003,)), ALL, NONE),
    (_principal(1, "demo", 1001, (1001,)), (1003,), (1003,)),
    (_principal(3, "demo", 1001, (1001,)), ALL, ALL),
    (_principal(0, "*", None, ALL), (1001,), (1001,)),
    (_principal(9, "*", 1001), NONE, NONE),
    (_principal(5, "*", 1001, ALL), NONE, NONE),
    # A user's own account.
    (_principal(0, None, 1003), (1003,), (1003,)),
    (_principal(0, None, 7), NONE, NONE),
    (_principal(0, None, 0), NONE, NONE),
    (_principal(0, id=7), NONE, NONE),
    # A customer's accounts.
    (_principal(9, None, None, (1002, 1005)), (1002, 1005), (1002, 1005)),
    (_principal(9, None, None, ()), NONE, NONE),
]


class RoleTests(SynchronousTestCase):
    """
    Tests for the accounts of each role.
    """

    def test_accounts(self) -> None:
        """
        Each role has the accounts that the protocol gives it.
        """
        free, strict = Rights(groupOf), Rights(groupOf, True)
        for principal, accounts, required in CASES:
            with self.subTest(principal):
                for rights, expected in ((free, accounts), (strict, required)):
                    seen = [each for each in LOGINS if rights.maySee(principal, each)]
                    self.assertEqual(seen, list(expected))

    def test_unknownAccount(self) -> None:
        """
        An event that does not say its account is only for tokens that may see all.
        """
        rights = Rights(groupOf)
        for principal in (_principal(3), _principal(1)):
            self.assertTrue(rights.maySee(principal, None))
        for principal in (_principal(1, "*"), _principal(0), _principal(5)):
            self.assertFalse(rights.maySee(principal, None))

    def test_groups(self) -> None:
        """
        A token sees a group if it may see each account in it.
        """
        rights, strict = Rights(groupOf), Rights(groupOf, True)
        self.assertTrue(rights.seesGroup(_principal(1), "demo"))
        self.assertFalse(strict.seesGroup(_principal(1), "demo"))
        self.assertTrue(strict.seesGroup(_principal(3), "demo"))
        self.assertTrue(rights.seesGroup(_principal(1, "!real*,*"), "demo"))
        self.assertFalse(rights.seesGroup(_principal(1, "!real*,*"), "real"))
        for principal in (_principal(0), _principal(9, None, None, (1003,))):
            self.assertFalse(rights.seesGroup(principal, "demo"))

    def test_movedElsewhere(self) -> None:
        """
        Where others move accounts too, a look-up by a mask waits until that is known,
        and as long for a trade that does not exist. Other tokens do not wait, and no
        look-up waits for another system.
        """
        asked: list[Deferred[object]] = []

        def whenKnown(login: int) -> "Deferred[object]":
            asked.append(Deferred())
            return asked[-1]

        group = "demo"
        rights = Rights(lambda login: group, False, False, whenKnown)
        trade = Trade(1, 1001, 7, 3, 1, "x", 0, 0, 0)
        for found in (trade, None):
            group = "demo"
            seen = Deferred.fromCoroutine(
                rights.mayLookUp(_principal(1, "real"), found)
            )
            self.assertNoResult(seen)
            group = "real"
            asked.pop().callback(None)
            self.assertEqual(self.successResultOf(seen), found is not None)
        for principal in (_principal(3), _principal(1), _principal(0)):
            seen = Deferred.fromCoroutine(rights.mayLookUp(principal, trade))
            self.successResultOf(seen)
        foreign = Rights(lambda login: group, False, True, whenKnown)
        seen = Deferred.fromCoroutine(foreign.mayLookUp(_principal(1, "real"), trade))
        self.assertTrue(self.successResultOf(seen))
        self.assertEqual(asked, [])
        changes = Deferred.fromCoroutine(
            foreign.mayChange(_principal(1, "real"), trade)
        )
        self.assertNoResult(changes)
        asked.pop().callback(None)
        self.assertTrue(self.successResultOf(changes))

    def test_withoutGroups(self) -> None:
        """
        Where nobody says the group of an account, it is "".
        """
        self.assertTrue(Rights().maySee(_principal(1, "*"), 1001))
        self.assertFalse(Rights().maySee(_principal(1, "real*"), 1001))

    def test_everyRole(self) -> None:
        """
        The table above has every role.
        """
        self.assertEqual(ALL_SESSIONS, {0, 1, 2, 3, 4, 5, 9, 10, 11})
        self.assertLess(ALL_SESSIONS, {case[0].role for case in CASES})

"""
Tests for L{creditsync._process.profile}: which commands of a platform are passed on.
"""

from pathlib import Path

from twisted.internet.task import Clock

from creditsync._cli.gateway import table
from creditsync._process.profile import OWN, described, profileOf
from creditsync.codes import ALL_SESSIONS, SESSION_ADMIN, SESSION_MANAGER
from creditsync.events import TradeEvents
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._probe import Probe
from creditsync.gateway._probe import profileOf as written
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.ledger.memory import MemoryLedger
from creditsync.methods import PassedCommand, movesMoney
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.platforms import Link, Platform
from tests.test_tap import InFolder


class PassTests(InFolder):
    """
    The table C{pass}.
    """

    def read(self, text: str) -> list[PassedCommand]:
        """
        Read a profile with this in it.
        """
        Path("p.toml").write_text(f"two-phase = false\n{text}")
        found: list[PassedCommand] = profileOf("p.toml")["pass"]
        return found

    def assertRefused(self, why: str, text: str) -> None:
        """
        A profile with this in it is refused.
        """
        e = self.assertRaises(ValueError, self.read, text)
        self.assertEqual(str(e), f"p.toml is not a profile: {why}")

    def test_none(self) -> None:
        """
        Nothing is passed on that is not named.
        """
        self.assertEqual(profileOf(None)["pass"], [])
        self.assertEqual(self.read(""), [])

    def test_tokens(self) -> None:
        """
        With its own token any client may use a command, and with that of the gateway
        only an admin, unless roles are named.
        """
        found = self.read(
            """
            [pass]
            GetSymbols = "client"
            MngGetUserStats = "service"
            GetUsers = { token = "service", roles = ["manager", "admin"] }
            GetNews = { token = "client", roles = ["admin"] }
            GetBars = { token = "client" }
            """
        )
        self.assertEqual(
            found,
            [
                PassedCommand("GetSymbols", True, ALL_SESSIONS),
                PassedCommand("MngGetUserStats", False, frozenset({SESSION_ADMIN})),
                PassedCommand(
                    "GetUsers", False, frozenset({SESSION_MANAGER, SESSION_ADMIN})
                ),
                PassedCommand("GetNews", True, frozenset({SESSION_ADMIN})),
                PassedCommand("GetBars", True, ALL_SESSIONS),
            ],
        )
        self.assertEqual(
            [described(each) for each in found[:3]],
            [
                "GetSymbols, with the client's token, for all roles",
                "MngGetUserStats, with the gateway's token, for admin",
                "GetUsers, with the gateway's token, for manager, admin",
            ],
        )

    def test_own(self) -> None:
        """
        A command of the gateway itself is not passed on, under none of the names that a
        platform may have for it.
        """
        for name in (
            "GetGroups",
            "MngGetGroups",
            "GetTradesByFilter",
            "healthcheck",
            "Subscribe",
            "MngResolveOperation",
            "CreditInSync",
        ):
            self.assertRefused(
                f"pass.{name} is a command of the gateway itself",
                f'[pass]\n{name} = "client"',
            )

    def test_renamed(self) -> None:
        """
        That goes for the names of the profile, too.
        """
        names = '[commands]\nGetTradeByOrder = "MngReadTrade"\n'
        for name in ("MngReadTrade", "ReadTrade", "mngreadtrade"):
            self.assertRefused(
                f"pass.{name} is a command of the gateway itself",
                f'{names}[pass]\n{name} = "service"',
            )

    def test_unknown(self) -> None:
        """
        What a profile can't have is refused by its name: it would not be done.
        """
        for name, text in (
            ("passes", '[passes]\nGetSymbols = "client"'),
            ("comment_tag", "comment_tag = true"),
        ):
            self.assertRefused(
                f"{name} is unknown, expected two-phase, comment-tag, comment-length,"
                " commands, pass",
                text,
            )
        for name in ("CredtIn", "CreditInSync", "comment-tag"):
            self.assertRefused(
                f"commands.{name} is not a command that the gateway sends",
                f'[commands]\n{name} = "X"',
            )

    def test_probed(self) -> None:
        """
        What a probe writes can be read, with all that it may write.
        """
        clock = Clock()
        link = Link(clock, Platform(lambda: 0))
        former = {"comment-tag": True, "comment-length": 31}
        text = written(Probe(clock, link, 999, 0), former)
        text += table("commands", {"CreditIn": "MngCreditIn"})
        Path("q.toml").write_text(text + table("pass", {"GetSymbols": "client"}))
        found = profileOf("q.toml")
        self.assertEqual((found["comment-tag"], found["comment-length"]), (False, 31))
        self.assertEqual(found["commands"], {"CreditIn": "MngCreditIn"})
        self.assertEqual([each.name for each in found["pass"]], ["GetSymbols"])

    def test_money(self) -> None:
        """
        A command that moves money, by its name, is refused.
        """
        for name in ("MngDeposit", "Withdrawal", "MngAddBalance", "CreditTransfer"):
            self.assertRefused(
                f"pass.{name} moves money, by its name: the gateway could not keep it"
                " from being booked twice",
                f'[pass]\n{name} = "service"',
            )

    def test_values(self) -> None:
        """
        The error names the member with the wrong value.
        """
        expected = (
            'must be "client" or "service", or a table of token and, if need be, roles'
        )
        for value in ('"admin"', "true", "1", "[]", "{}", '{ roles = ["admin"] }'):
            self.assertRefused(
                f"pass.GetSymbols {expected}", f"[pass]\nGetSymbols = {value}"
            )
        for members, why in (
            ("role = 1", "GetSymbols.role is unknown, expected token and roles"),
            ('roles = "admin"', "GetSymbols.roles must be a list of roles"),
            ("roles = []", "GetSymbols.roles must be a list of roles"),
            (
                'roles = ["root"]',
                "GetSymbols.roles has 'root', expected user, manager, dealer, admin,"
                " system, fix, customer, crm-manager, crm-admin",
            ),
            (
                "roles = [{}]",
                "GetSymbols.roles has {}, expected user, manager, dealer, admin,"
                " system, fix, customer, crm-manager, crm-admin",
            ),
        ):
            self.assertRefused(
                f"pass.{why}", f'[pass]\nGetSymbols = {{ token = "client", {members} }}'
            )
        self.assertRefused("pass must be a table", 'pass = ["GetSymbols"]')

    def test_names(self) -> None:
        """
        A name is one that a platform may have.
        """
        for name in ("Get Symbols", "", "9", "a" * 65, "Gét", "a\\n"):
            shown = name.replace("\\n", "\n")
            self.assertRefused(
                f"pass.{shown} must be a name of at most 64 letters, digits and"
                " underscores",
                f'[pass]\n"{name}" = "client"',
            )

    def test_allOwn(self) -> None:
        """
        The commands that are never passed on are all that this server has, on any
        ledger.
        """
        clock, events = Clock(), TradeEvents()
        platform = Platform(lambda: 0.0)
        found = set()
        for runtime in (
            TradingRuntime(
                clock, MemoryLedger(1), events, now=lambda: 0.0, maxQueued=1
            ),
            GatewayRuntime(
                clock,
                MemoryIntentLog(),
                Link(clock, platform),
                events,
                now=lambda: 0.0,
                maxQueued=1,
            ),
        ):
            server = CreditSync(
                clock,
                runtime=runtime,
                events=events,
                authenticator=FakeAuthenticator(),
                listen=[],
            )
            found |= server.sessions.requests.names
        self.assertEqual(found, OWN)

    def test_movesMoney(self) -> None:
        """
        Names that move money, and names that don't.
        """
        for name in (
            *("CreditIn", "MngCreditOutSync", "BalanceIn", "mngBalanceOut", "Deposit"),
            *("DeleteCredit", "MngDeleteBalanceSync", "MngCreateFinanceRequest"),
            *("ApproveFinanceRequest", "MngWithdraw", "MngSetCredit", "ChangeBalance"),
        ):
            self.assertTrue(movesMoney(name), name)
        for name in (
            *("GetSymbols", "MngGetUserStats", "GetCreditHistory", "MngGetBalances"),
            *("GetAccountByLogin", "AccreditUser", "SetSymbol", "Subscribe"),
        ):
            self.assertFalse(movesMoney(name), name)

"""
Tests for L{creditsync.errors}: whether the server refuses before or after it
has looked up the idempotency key.

A credit is booked under a key and then requested again, in circumstances in
which a new one would be refused. A refusal that comes before the look-up is
the answer; if it comes after it, the answer is the replay.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from test_family import SEED, Client
from test_idempotency import KeyCase

from creditsync._bookingrules import Rule
from creditsync._rulebook import RuleBook
from creditsync.errors import SPOKEN, InvalidData, Refusal, Spoken
from creditsync.records import Limits
from creditsync.runtime import TradingRuntime

BEFORE, AFTER, BY = Spoken.BEFORE_KEY, Spoken.AFTER_KEY, Spoken.BY_KEY


class SpokenTests(KeyCase):
    """
    Tests for whether each refusal comes before or after the look-up of the
    key.
    """

    def again(self, extID: object = "b", **others: Any) -> Any:
        """
        Repeat the booked request, and return the reply.
        """
        self.client.heard.clear()
        self.keyed(extID=extID, **others)
        return self.client.reply()

    def assertBefore(
        self, error: str, arrange: Callable[[], object], **others: Any
    ) -> None:
        """
        Assert that in these circumstances the booked request is refused.
        """
        self.assertIs(SPOKEN[error], BEFORE)
        self.done()
        arrange()
        self.assertEqual(self.again(**others)["error"], error)

    def assertAfter(
        self,
        error: str,
        arrange: Callable[[], object],
        command: str = "CreditInSync",
        data: object = SEED,
    ) -> None:
        """
        Assert that in these circumstances the booked request is replayed, and
        a new one is refused.
        """
        self.assertIs(SPOKEN[error], AFTER)
        self.done(command, data)
        arrange()
        reply = self.again(command=command, data=data)
        self.assertEqual((reply["status"], reply["replayed"]), (200, True))
        other = self.again(command=command, data=data, key="another")
        self.assertEqual(other["error"], error)

    def test_table(self) -> None:
        """
        Each refusal has its place in the table.
        """
        self.assertEqual(
            SPOKEN,
            {
                "INVALID_JSON": BEFORE,
                "INVALID_DATA": BEFORE,
                "UNAUTHORIZED": BEFORE,
                "FORBIDDEN": BEFORE,
                "UNKNOWN_COMMAND": BEFORE,
                "USER_NOT_FOUND": AFTER,
                "NOT_FOUND": AFTER,
                "TRADE_NOT_FOUND": BEFORE,
                "INCORRECT_ORDER": AFTER,
                "TRADE_NO_MONEY": AFTER,
                "LIMIT_EXCEEDED": AFTER,
                "DUPLICATE_EXTID": BEFORE,
                "CURSOR_GONE": BEFORE,
                "LINE_TOO_LONG": BEFORE,
                "IDEMPOTENCY_KEY_REUSED": BY,
                "TOO_MANY_REQUESTS": BEFORE,
                "TECH_PROBLEM": BEFORE,
                "BUSY": BEFORE,
                "SHUTDOWN": BEFORE,
                "SYNC_TIMEOUT": BEFORE,
            },
        )

    def test_unknownCommand(self) -> None:
        """
        C{UNKNOWN_COMMAND} comes before the key: an older server does not have
        the command.
        """
        commands = self.sessions.requests._commands
        self.assertBefore("UNKNOWN_COMMAND", lambda: commands.pop("CreditInSync"))

    def test_invalidData(self) -> None:
        """
        C{INVALID_DATA} comes before the key: a schema of the site has become
        stricter.
        """

        def refuse(*arguments: object) -> NoReturn:
            raise InvalidData("data.comment is not one of ours")

        self.assertBefore(
            "INVALID_DATA",
            lambda: self.patch(self.sessions.requests._schemas, "check", refuse),
        )

    def test_unauthorized(self) -> None:
        """
        C{UNAUTHORIZED} comes before the key: the token has expired or was
        revoked.
        """
        revoked = self.sessions.authenticator.revoked  # type: ignore[attr-defined]
        self.assertBefore("UNAUTHORIZED", lambda: revoked.add("manager"))

    def test_forbidden(self) -> None:
        """
        C{FORBIDDEN} comes before the key: the role may not use the command any
        more.
        """
        command = self.sessions.requests._commands["CreditInSync"]
        self.assertBefore(
            "FORBIDDEN", lambda: self.patch(type(command), "roles", frozenset())
        )

    def test_duplicateExtID(self) -> None:
        """
        C{DUPLICATE_EXTID} comes before the key: another request has the
        C{extID}.
        """
        self.assertBefore(
            "DUPLICATE_EXTID", lambda: self.keyed(key="another", extID="b")
        )
        self.book()

    def limit(self, **limits: int) -> None:
        """
        Change the limits of the running server.
        """
        self.client.session._limits = Limits(**limits)

    def test_tooManyRequests(self) -> None:
        """
        C{TOO_MANY_REQUESTS} comes before the key: the session is at its limit.
        """
        self.assertBefore(
            "TOO_MANY_REQUESTS", lambda: self.limit(maxPendingPerSession=0)
        )

    def test_busy(self) -> None:
        """
        C{BUSY} comes before the key: the server is at its limit.
        """
        self.assertBefore("BUSY", lambda: self.limit(maxPending=0))

    def test_shutdown(self) -> None:
        """
        C{SHUTDOWN} comes before the key: the server is stopping.
        """
        self.assertBefore("SHUTDOWN", self.sessions.stop)

    def test_techProblem(self) -> None:
        """
        C{TECH_PROBLEM} comes before the key: the server fails before the look-up.
        """

        def fail(*arguments: object) -> NoReturn:
            raise ZeroDivisionError

        self.assertBefore(
            "TECH_PROBLEM", lambda: self.patch(TradingRuntime, "submit", fail)
        )
        self.flushLoggedErrors(ZeroDivisionError)

    def test_invalidJSON(self) -> None:
        """
        C{INVALID_JSON} comes before the key: the line can't be parsed.
        """
        self.assertIs(SPOKEN["INVALID_JSON"], BEFORE)
        self.done()
        self.client.heard.clear()
        self.client.session.lineReceived(b'{"idempotencyKey":"promo-1","data":NaN}')
        self.assertEqual(self.client.reply()["error"], "INVALID_JSON")

    def test_userNotFound(self) -> None:
        """
        C{USER_NOT_FOUND} comes after the key: the account is gone.
        """

        def close() -> None:
            self.runtime._accounts._knownOnly = True
            self.runtime._accounts.cached.clear()
            self.patch(type(self.ledger), "account", lambda _, login: None)

        self.assertAfter("USER_NOT_FOUND", close)

    def test_noMoney(self) -> None:
        """
        C{TRADE_NO_MONEY} comes after the key: everything was withdrawn.
        """
        self.done(key="first")
        data = {**SEED, "amount": -300}
        self.assertAfter("TRADE_NO_MONEY", lambda: None, "CreditOutSync", data)

    def test_limitExceeded(self) -> None:
        """
        C{LIMIT_EXCEEDED} comes after the key: the site has a new rule.
        """

        def limit() -> None:
            ledger = self.runtime._ledger
            self.runtime._rules = RuleBook(ledger, [Rule("none", 0)], lambda: 0)
            self.successResultOf(self.runtime._rules.start())

        self.assertAfter("LIMIT_EXCEEDED", limit)

    def test_incorrectOrder(self) -> None:
        """
        C{INCORRECT_ORDER} comes after the key: the order was deleted, by this
        very request.
        """
        self.done(key="first")
        self.assertAfter(
            "INCORRECT_ORDER", lambda: None, "DeleteCreditSync", {"order": 1}
        )

    def test_notFound(self) -> None:
        """
        C{NOT_FOUND} comes after the key: the order is gone.
        """
        self.done(key="first")

        def lose() -> None:
            self.patch(type(self.ledger), "trade", lambda _, order: None)

        self.assertAfter("NOT_FOUND", lose, "DeleteCreditSync", {"order": 1})

    def test_keyReused(self) -> None:
        """
        C{IDEMPOTENCY_KEY_REUSED} comes from the key: it belongs to another
        request.
        """
        self.done()
        reply = self.again(data={**SEED, "amount": 1})
        self.assertEqual(reply["error"], "IDEMPOTENCY_KEY_REUSED")

    def test_unknownSide(self) -> None:
        """
        A refusal that is not in the table counts as one before the key, which
        promises nothing.
        """
        self.assertIs(Refusal.spoken, BEFORE)
        self.assertIsInstance(self.client, Client)

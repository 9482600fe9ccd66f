"""
Tests for L{creditsync._conversation.finance}.
"""

from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from creditsync._conversation.finance import financeCommands
from creditsync.errors import InvalidData, NoMoney, OutcomeUnknown
from creditsync.events import TradeEvents
from creditsync.interfaces import ICommand, ITradingRuntime
from creditsync.methods import FINANCE_METHODS
from creditsync.records import (
    Deletion,
    Operation,
    Principal,
    Request,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.testing import FakeTradingRuntime

MANAGER, DEALER, ADMIN = 1, 2, 3


def trade(order: int, profit: int = 300_00000000, cmd: int = 7) -> Trade:
    """
    The trade of C{docs/protocol.rst}, "A credit".
    """
    return Trade(order, 1001, cmd, 3, profit, "Promotion credit", 1700, 1800, 1900)


class AskingSession:
    """
    A session, as far as a finance command needs one.
    """

    principal = Principal(7, MANAGER, float("inf"))


class FinanceCase(SynchronousTestCase):
    """
    A runtime for the tests of L{FinanceCommand} that books when the test says
    so.
    """

    def setUp(self) -> None:
        """
        Make the commands.
        """
        self.events = TradeEvents()
        self.published: list[TradeEvent] = []
        self.events.addObserver(self.published.extend)
        self.runtime = FakeTradingRuntime(self.events)
        self.session: Any = AskingSession()
        self.commands = {
            command.name: command for command in financeCommands(self.runtime)
        }

    def request(
        self, name: str, data: dict[str, Any], key: str | None = None
    ) -> Request:
        """
        A request; by default with the data of C{docs/protocol.rst}, "A credit".
        """
        example = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}
        return Request(name, "credit-req-1001", "manager", {**example, **data}, key)

    def execute(self, name: str, **data: Any) -> dict[str, Any]:
        """
        Execute a command that the runtime accepts at once.
        """
        response: dict[str, Any] = self.successResultOf(
            maybeDeferred(
                self.commands[name].execute, self.session, self.request(name, data)
            )
        )
        return response

    def operation(self, **data: Any) -> Operation:
        """
        The operation that is submitted for this data.
        """
        self.execute("CreditInSync", **data)
        operation = self.runtime.reserved[-1].operation
        assert isinstance(operation, Operation)
        return operation

    def invalid(self, **data: Any) -> str:
        """
        The message with which this data is refused before anything is
        submitted.
        """
        command = self.commands["CreditInSync"]
        why = self.assertRaises(
            InvalidData,
            command.execute,
            self.session,
            self.request("CreditInSync", data),
        )
        self.assertEqual(self.runtime.reserved, [])
        message: str = why.message
        return message


class TableTests(FinanceCase):
    """
    Tests for the table of commands.
    """

    def test_interface(self) -> None:
        """
        Each command provides the whole interface.
        """
        self.assertNotEqual(self.commands, {})
        for command in self.commands.values():
            verifyObject(ICommand, command)

    def test_bothForms(self) -> None:
        """
        Each method has its asynchronous form and its C{Sync} form.
        """
        names = [method.name for method in FINANCE_METHODS]
        self.assertIn("CreditIn", names)
        self.assertEqual(
            list(self.commands),
            [name + form for name in names for form in ("", "Sync")],
        )

    def test_roles(self) -> None:
        """
        The family is for manager, admin and dealer: C{docs/protocol.rst}, "Tokens
        and roles".
        """
        for command in self.commands.values():
            self.assertEqual(command.roles, {MANAGER, ADMIN, DEALER})

    def test_extID(self) -> None:
        """
        Only the C{Sync} forms need an C{extID}.
        """
        self.assertTrue(self.commands["CreditInSync"].needsExtID)
        for name, command in self.commands.items():
            self.assertEqual(command.needsExtID, name.endswith("Sync"), name)

    def test_schema(self) -> None:
        """
        Both forms have the same schema.
        """
        self.assertEqual(self.commands["CreditIn"].schema, "credit_in")
        self.assertEqual(self.commands["DeleteCredit"].schema, "delete")
        for name, command in self.commands.items():
            same = self.commands[name.removesuffix("Sync")].schema
            self.assertEqual(command.schema, same, name)


class OperationTests(FinanceCase):
    """
    Tests for the operations that are submitted to the runtime.
    """

    def test_seed(self) -> None:
        """
        The request of C{docs/protocol.rst}, "A credit", asks for a new credit-in
        of exactly its amount.
        """
        operation = self.operation()
        self.assertEqual(operation.cmd, 7)
        self.assertEqual(operation.login, 1001)
        self.assertEqual(operation.amount, 30000000000)
        self.assertEqual(operation.comment, "Promotion credit")
        self.assertEqual(operation.order, 0)
        self.assertIs(operation.openTime, None)
        self.assertIs(operation.closeTime, None)

    def test_samePath(self) -> None:
        """
        C{CreditIn} submits the same operation as C{CreditInSync}.
        """
        data = {"amount": 0.5, "order": 5, "open_time": 1, "close_time": 2}
        asked = []
        for name in ("CreditIn", "CreditInSync"):
            self.execute(name, **data)
            asked.append(self.runtime.reserved[-1].operation)
        for each in asked:
            self.assertEqual(
                (each.cmd, each.login, each.amount, each.comment, each.order),
                (7, 1001, 50000000, "Promotion credit", 5),
            )
            self.assertEqual((each.openTime, each.closeTime), (1, 2))

    def test_amounts(self) -> None:
        """
        An amount becomes its exact number of units, whatever its form in the
        request.
        """
        for amount, units in (
            (300, 30000000000),
            (0.1, 10000000),
            (19.99, 1999000000),
            (0.00000001, 1),
            (1234567.89012345, 123456789012345),
            (Decimal("9999999999.99999999"), 999999999999999999),
            (10000000000, 1000000000000000000),
        ):
            self.assertEqual(self.operation(amount=amount).amount, units)

    def test_tooFine(self) -> None:
        """
        An amount with more than 8 decimals is refused, not rounded.
        """
        for amount in (0.000000001, 1.123456789, Decimal("300.000000001")):
            self.assertEqual(
                self.invalid(amount=amount), "data.amount must have at most 8 decimals"
            )

    def test_noise(self) -> None:
        """
        Digits beyond the precision of a double are ignored.
        """
        amount = Decimal("3.1800000000000002")
        self.assertEqual(self.operation(amount=amount).amount, 318000000)

    def test_wholeFloats(self) -> None:
        """
        C{1001.0} is an integer, as in JSON Schema, and is accepted as 1001.
        """
        operation = self.operation(
            login=1001.0, order=1242281.0, open_time=1600000000.0, close_time=1.7e9
        )
        taken = [
            operation.login,
            operation.order,
            operation.openTime,
            operation.closeTime,
        ]
        self.assertEqual(taken, [1001, 1242281, 1600000000, 1700000000])
        self.assertEqual([type(each) for each in taken], [int, int, int, int])

    def test_comment(self) -> None:
        """
        A comment is passed on exactly.
        """
        comment = " \tBöni's\r\n,} "
        self.assertEqual(self.operation(comment=comment).comment, comment)

    def test_orderOfZero(self) -> None:
        """
        An order of 0 is the same as none.
        """
        self.assertEqual(self.operation(order=0).order, 0)

    def test_timesOfZero(self) -> None:
        """
        A time of 0 counts as given.
        """
        operation = self.operation(open_time=0, close_time=0)
        self.assertEqual((operation.openTime, operation.closeTime), (0, 0))

    def test_oneTime(self) -> None:
        """
        Either of the two times may be given alone: the runtime knows the
        other.
        """
        operation = self.operation(open_time=5)
        self.assertEqual((operation.openTime, operation.closeTime), (5, None))
        operation = self.operation(close_time=5)
        self.assertEqual((operation.openTime, operation.closeTime), (None, 5))

    def test_closeBeforeOpen(self) -> None:
        """
        A transaction can't close before it opened.
        """
        message = "data.close_time must not be before data.open_time"
        self.assertEqual(self.invalid(open_time=2, close_time=1), message)
        self.assertEqual(self.invalid(open_time=1, close_time=0), message)
        self.assertEqual(self.operation(open_time=2, close_time=2).closeTime, 2)


class FamilyOperationTests(FinanceCase):
    """
    Tests for the operations of the other finance methods.
    """

    def asked(
        self, name: str, data: dict[str, Any], key: str | None = None
    ) -> Operation | Deletion:
        """
        The operation that is submitted for exactly this data.
        """
        request = Request(name, "1", "manager", data, key)
        self.successResultOf(
            maybeDeferred(self.commands[name].execute, self.session, request)
        )
        return self.runtime.reserved[-1].operation

    def test_cmds(self) -> None:
        """
        Each method that books has its operation code, in both its forms.
        """
        for name, amount, cmd in (
            ("BalanceIn", 0.5, 6),
            ("BalanceInSync", 0.5, 6),
            ("CreditIn", 0.5, 7),
            ("CreditInSync", 0.5, 7),
            ("BalanceOut", -0.5, 8),
            ("BalanceOutSync", -0.5, 8),
            ("CreditOut", -0.5, 9),
            ("CreditOutSync", -0.5, 9),
        ):
            data = {"login": 1001, "amount": amount, "comment": "Why"}
            operation: Any = self.asked(name, data)
            self.assertEqual((operation.cmd, operation.command), (cmd, name))
            self.assertEqual(operation.amount, 50000000 if amount > 0 else -50000000)

    def test_comment(self) -> None:
        """
        A balance operation without a comment has the platform's; a given one
        is passed on.
        """
        for name in ("BalanceIn", "BalanceInSync", "BalanceOut", "BalanceOutSync"):
            operation: Any = self.asked(name, {"login": 1001, "amount": 1})
            self.assertEqual(operation.comment, "Finance")
            data = {"login": 1001, "amount": 1, "comment": "Cash desk 3"}
            operation = self.asked(name, data)
            self.assertEqual(operation.comment, "Cash desk 3")

    def test_deletions(self) -> None:
        """
        A deletion names the order, and the kinds that the command may delete:
        credit in and out, or balance in and out.
        """
        self.execute("CreditIn")
        for name, cmds in (
            ("DeleteCredit", {7, 9}),
            ("DeleteCreditSync", {7, 9}),
            ("DeleteBalance", {6, 8}),
            ("DeleteBalanceSync", {6, 8}),
        ):
            deletion = self.asked(name, {"order": 1242281})
            assert isinstance(deletion, Deletion)
            self.assertEqual((deletion.command, deletion.order), (name, 1242281))
            self.assertEqual(deletion.cmds & {6, 7, 8, 9}, cmds)

    def test_deletedOrderAsFloat(self) -> None:
        """
        C{1242281.0} is an integer for a deletion as well.
        """
        self.execute("CreditIn")
        order = self.asked("DeleteCredit", {"order": 1242281.0}).order
        self.assertEqual((order, type(order)), (1242281, int))

    def test_principalAndKey(self) -> None:
        """
        The principal, the role and the key are part of the operation.
        """
        booking = {"login": 1001, "amount": 1, "comment": "Why"}
        for name, data in (("CreditIn", booking), ("DeleteCredit", {"order": 1242281})):
            operation = self.asked(name, data, "promo-1")
            self.assertEqual((operation.principal, operation.key), (7, "promo-1"))
            operation = self.asked(name, data)
            self.assertEqual((operation.principal, operation.key), (7, None))
            self.assertEqual(operation.role, MANAGER)


class KnownOperationTests(FinanceCase):
    """
    Tests for requests whose operation is known already, as that of a plain line is.
    """

    def test_submitted(self) -> None:
        """
        The operation itself is submitted, with the principal and the key of the
        request, and the data is not looked at.
        """
        for name in ("CreditIn", "CreditInSync"):
            known = Operation(name, 7, 1001, 5, "x")
            request = Request(name, "1", "manager", {}, "promo-1", known)
            self.commands[name].execute(self.session, request)
            self.assertIs(self.runtime.reserved[-1].operation, known)
            self.assertEqual((known.principal, known.key), (7, "promo-1"))

    def test_remembered(self) -> None:
        """
        A request whose operation was not known has it afterwards, for the audit
        trail.
        """
        request = self.request("CreditInSync", {})
        self.commands["CreditInSync"].execute(self.session, request)
        self.assertIs(request.operation, self.runtime.reserved[-1].operation)

    def test_rememberedIfRefused(self) -> None:
        """
        It has it also if the runtime refuses it.
        """
        self.runtime.refusal = NoMoney("no")
        request = self.request("CreditInSync", {})
        self.assertRaises(
            NoMoney, self.commands["CreditInSync"].execute, self.session, request
        )
        assert isinstance(request.operation, Operation)
        self.assertEqual(request.operation.login, 1001)

    def test_extIDAsKey(self) -> None:
        """
        Where an C{extID} is a key too, it becomes that of a known operation, unless
        the request has one.
        """
        command = {each.name: each for each in financeCommands(self.runtime, True)}[
            "CreditInSync"
        ]
        keys = []
        for extID, key in (("a", None), (7, None), ("a", "k"), ("a", None)):
            known = Operation("CreditInSync", 7, 1001, 5, "x")
            request = Request("CreditInSync", extID, "manager", {}, key, known)
            command.execute(self.session, request)
            keys.append(known.key)
        self.assertEqual(keys[2], "k")
        self.assertEqual(keys[0], keys[3])
        self.assertEqual(len({*keys, None}), 4)


class ResponseTests(FinanceCase):
    """
    Tests for the response to an accepted command.
    """

    def test_new(self) -> None:
        """
        The response is the usual success, with C{__deferred} beside it.
        """
        response = self.execute("CreditIn")
        response.pop("__deferred")
        self.assertEqual(
            response,
            {
                "accepted": True,
                "order": 1242281,
                "state": 10,
                "login": 1001,
                "cmd": 7,
                "amount": 300.0,
            },
        )

    def test_update(self) -> None:
        """
        The response to an update has the order that was named, and the state
        of an update.
        """
        self.execute("CreditIn")
        response = self.execute("CreditIn", order=1242281, amount=250.0)
        response.pop("__deferred")
        self.assertEqual(
            response,
            {
                "accepted": True,
                "order": 1242281,
                "state": 11,
                "login": 1001,
                "cmd": 7,
                "amount": 250.0,
            },
        )

    def test_amountIsExact(self) -> None:
        """
        The response has the exact amount.
        """
        amount = self.execute("CreditIn", amount=Decimal("9999999999.99999999"))[
            "amount"
        ]
        self.assertEqual(str(amount), "9999999999.99999999")

    def test_sync(self) -> None:
        """
        The C{Sync} form of a new operation waits for the ADD of its own
        operation, and has no other response.
        """
        response = self.execute("CreditInSync")
        [reservation] = self.runtime.reserved
        self.assertEqual(response, {"__deferred": reservation})
        self.assertEqual((reservation.order, reservation.type), (1242281, 0))

    def test_syncUpdate(self) -> None:
        """
        The C{Sync} form of an update waits for the UPDATE.
        """
        self.execute("CreditInSync")
        response = self.execute("CreditInSync", order=1242281)
        _, reservation = self.runtime.reserved
        self.assertEqual(response, {"__deferred": reservation})
        self.assertEqual((reservation.order, reservation.type), (1242281, 1))

    def test_syncOrderNotFound(self) -> None:
        """
        The C{Sync} form of an update whose order is not found waits for the
        ADD of the new order.
        """
        reservation = self.execute("CreditInSync", order=42)["__deferred"]
        self.assertEqual((reservation.order, reservation.type), (1242281, 0))

    def test_async(self) -> None:
        """
        The asynchronous form waits until its operation is durable.
        """
        reservation = self.execute("CreditIn")["__deferred"]
        self.assertIs(reservation, self.runtime.reserved[0])
        durable = reservation.whenDurable()
        self.assertNoResult(durable)
        self.runtime.book(reservation)
        self.assertIs(self.successResultOf(durable), None)

    def test_asyncLost(self) -> None:
        """
        If it is unknown whether an operation is durable, the wait of the
        asynchronous form fails with that.
        """
        runtime = LateRuntime()
        response = self.late(runtime, "CreditIn")
        reservation = Reservation(0, trade(1242281), runtime.operations[0])
        runtime.reserved.callback(reservation)
        self.assertIs(self.successResultOf(response)["__deferred"], reservation)
        durable = reservation.whenDurable()
        why = OutcomeUnknown("the ledger failed", 1242281)
        reservation.lost(Failure(why))
        self.assertIs(self.failureResultOf(durable).value, why)

    def test_delete(self) -> None:
        """
        The response to a deletion has the deleted trade, with the state of a
        deletion.
        """
        self.execute("CreditIn")
        response = self.execute("DeleteCredit", order=1242281)
        response.pop("__deferred")
        self.assertEqual(
            response,
            {
                "accepted": True,
                "order": 1242281,
                "state": 12,
                "login": 1001,
                "cmd": 7,
                "amount": 300.0,
            },
        )

    def test_deleteSync(self) -> None:
        """
        The C{Sync} form of a deletion waits for the DELETE.
        """
        self.execute("CreditIn")
        response = self.execute("DeleteCreditSync", order=1242281)
        _, reservation = self.runtime.reserved
        self.assertEqual(response, {"__deferred": reservation})
        self.assertEqual((reservation.order, reservation.type), (1242281, 2))

    def test_replaySync(self) -> None:
        """
        The C{Sync} form's response to a replayed operation has nothing but the
        reservation, which is marked and has the trade as it was booked.
        """
        data = self.replayed("CreditInSync")
        replay = data.pop("__deferred")
        self.assertEqual(data, {})
        self.assertIs(replay.isReplay, True)
        self.assertEqual(replay.data, trade(77))

    def test_replay(self) -> None:
        """
        The asynchronous form's reply to a replayed operation is its first
        response, with the state that was requested then.
        """
        data = self.replayed("CreditIn")
        replay = data.pop("__deferred")
        self.assertEqual((replay.order, replay.isReplay), (77, True))
        self.assertEqual(
            data,
            {
                "accepted": True,
                "order": 77,
                "state": 11,
                "login": 1001,
                "cmd": 7,
                "amount": 300.0,
            },
        )

    def replayed(self, name: str) -> dict[str, Any]:
        """
        The response if the runtime has booked an update before.
        """
        runtime = LateRuntime()
        response = self.late(runtime, name)
        replay = Reservation(1, trade(77), runtime.operations[0], isReplay=True)
        runtime.reserved.callback(replay)
        data: dict[str, Any] = self.successResultOf(response)
        return data

    def test_refused(self) -> None:
        """
        A refusal by the runtime is passed on with its reason.
        """
        self.runtime.refusal = NoMoney("account 1001 does not have enough credit")
        response = maybeDeferred(
            self.commands["CreditInSync"].execute,
            self.session,
            self.request("CreditInSync", {}),
        )
        why = self.failureResultOf(response, NoMoney).value
        self.assertIs(why, self.runtime.refusal)

    def test_reservedLater(self) -> None:
        """
        A runtime may reserve later; the response comes with the order.
        """
        runtime = LateRuntime()
        response = self.late(runtime, "CreditInSync")
        self.assertNoResult(response)
        operation = runtime.operations[0]
        reservation = Reservation(1, trade(77), operation)
        runtime.reserved.callback(reservation)
        data = self.successResultOf(response)
        self.assertEqual(data, {"__deferred": reservation})

    def late(self, runtime: "LateRuntime", name: str) -> "Deferred[dict[str, Any]]":
        """
        Execute a command on a runtime that reserves later.
        """
        commands = {command.name: command for command in financeCommands(runtime)}
        return commands[name].execute(self.session, self.request(name, {}))


@implementer(ITradingRuntime)
class LateRuntime:
    """
    A runtime that reserves when the test says so.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.reserved: Deferred[Reservation] = Deferred()

    def submit(self, operation: Operation) -> "Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.
        """
        self.operations.append(operation)
        return self.reserved

    def trade(self, order: int) -> "Deferred[Trade | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        return succeed(None)

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}.
        """
        return succeed(None)

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return Deferred()

"""
Tests that all lists of the members of a trade or of a request are complete.

The list is in L{creditsync.records}. A test names the member that is left out
anywhere else.
"""

import csv
import io
import json
import os
import sqlite3
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync import records
from creditsync.__main__ import main
from creditsync._cli import operations
from creditsync._cli.bulk import rows as bulk
from creditsync._conversation.finance import operation
from creditsync._conversation.plain import PlainLines
from creditsync.client import CreditClient
from creditsync.ledger._checking import findings
from creditsync.ledger._journal import MEMBERS
from creditsync.ledger._schema import COLUMNS, columns
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.methods import BOOKING_METHODS
from creditsync.records import (
    DATA_MEMBERS,
    TRADE_MEMBERS,
    Operation,
    Request,
    Reservation,
    Trade,
    difference,
)
from creditsync.validation import load
from tests import family
from tests.totals import withTotals

ATTRIBUTES = Trade.__struct_fields__

# A trade in which no two members have the same value.
TRADE = Trade(1, 1001, 7, 3, 300_00000000, "Promotion credit", 1700, 1800, 1900)
LATER = Trade(1, 1001, 7, 6, 200_00000000, "Less", 1701, 1801, 1901)
# As in DATA_MEMBERS.
DATA: dict[str, Any] = {
    "login": 1001,
    "amount": 300,
    "comment": "Promotion credit",
    "order": 17,
    "open_time": 1700,
    "close_time": 1800,
}
OTHER_DATA: dict[str, Any] = {
    "login": 1002,
    "amount": 301,
    "comment": "Another one",
    "order": 18,
    "open_time": 1701,
    "close_time": 1801,
}


def names(columns: str) -> tuple[str, ...]:
    """
    The names in a list in SQL.
    """
    return tuple(each.strip().strip('"') for each in columns.split(","))


def operationOf(data: Mapping[str, Any] = DATA, command: str = "CreditIn") -> Operation:
    """
    What a request under a key asks for.
    """
    asked = operation(BOOKING_METHODS[0], command, dict(data))
    assert isinstance(asked, Operation)
    asked.principal, asked.key = 7, "key"
    return asked


class MembersCase(SynchronousTestCase):
    """
    Assertions that name the member.
    """

    def assertMembers(
        self, found: tuple[str, ...], wanted: tuple[str, ...], where: str
    ) -> None:
        """
        Assert that a list has these members, in this order.
        """
        missing = [name for name in wanted if name not in found]
        self.assertEqual(missing, [], f"missing in {where}")
        self.assertEqual(found, wanted, where)

    def assertSame(self, found: Any, wanted: Any, where: str) -> None:
        """
        Assert that two records agree in each member.
        """
        for name in wanted.__struct_fields__:
            self.assertEqual(
                getattr(found, name), getattr(wanted, name), f"{name} in {where}"
            )


class SamplesTests(MembersCase):
    """
    Tests for the samples that the other tests use.
    """

    def test_trade(self) -> None:
        """
        The sample has each member of a trade, with a value of its own; an
        update changes all but those that an order keeps.
        """
        self.assertMembers(ATTRIBUTES, tuple(Trade.__annotations__), "the samples")
        kept = [
            name for name in ATTRIBUTES if getattr(TRADE, name) == getattr(LATER, name)
        ]
        self.assertEqual(kept, ["order", "login", "cmd"])

    def test_data(self) -> None:
        """
        The sample has each member of the data of a request, with two values.
        """
        for sample in (DATA, OTHER_DATA):
            self.assertEqual(set(sample), set(DATA_MEMBERS))
        self.assertFalse([name for name in DATA if DATA[name] == OTHER_DATA[name]])


class TradeTests(MembersCase):
    """
    Tests for a trade's members.
    """

    def test_names(self) -> None:
        """
        The members have the platform's names and order.
        """
        self.assertEqual(
            TRADE_MEMBERS,
            (
                "order",
                "login",
                "cmd",
                "state",
                "profit",
                "comment",
                "open_time",
                "close_time",
                "timestamp",
            ),
        )

    def test_event(self) -> None:
        """
        The data of an event has all members, each with its value.
        """
        data = json.loads(wire.encodeData(TRADE))
        for name, attribute in zip(TRADE_MEMBERS, ATTRIBUTES, strict=True):
            value = getattr(TRADE, attribute)
            wanted = value / 10**8 if name == "profit" else value
            self.assertEqual(data.get(name), wanted, f"{name} in an event")

    def test_schema(self) -> None:
        """
        The schema of a trade describes the members of an event, in order.
        """
        described = tuple(load("trade")["properties"])
        sent = tuple(json.loads(wire.encodeData(TRADE, "9f3c1a7e-1")))
        self.assertMembers(described, sent, "schemas/trade.json")

    def test_export(self) -> None:
        """
        An export has a column for each member, with its value.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "ledger.db")
            ledger = SQLiteLedger(path, execute)
            ledger.open()
            ledger.newOrder()
            ledger.commit(
                withTotals(
                    ledger, [Reservation(0, TRADE, Operation("CreditIn", 7, 1, 1, ""))]
                )
            )
            self.patch(sys, "argv", ["creditsync", "export", "--ledger", path])
            out = io.TextIOWrapper(io.BytesIO(), newline="")
            self.patch(sys, "stdout", out)
            main()
            out.seek(0)
            header, row = csv.reader(out)
            ledger.close()
        self.assertMembers(tuple(header), TRADE_MEMBERS, "an export")
        self.assertEqual(
            row,
            [
                "1",
                "1001",
                "7",
                "3",
                "300.0",
                "Promotion credit",
                "1700",
                "1800",
                "1900",
            ],
        )

    def test_model(self) -> None:
        """
        The suites' model of the finance methods has all members.
        """
        where = "tests/family.py"
        self.assertMembers(family.Trade._fields, TRADE_MEMBERS, where)
        self.assertMembers(names(family.COLUMNS), TRADE_MEMBERS, where)
        told = family.tradeOf(json.loads(wire.encodeData(TRADE)))
        for name, attribute in zip(TRADE_MEMBERS, ATTRIBUTES, strict=True):
            self.assertEqual(
                getattr(told, name), getattr(TRADE, attribute), f"{name} in {where}"
            )


class SchemaOfLedgerTests(MembersCase):
    """
    Tests for the columns of a ledger.
    """

    def setUp(self) -> None:
        """
        Make a ledger.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.path = os.path.join(made.name, "ledger.db")
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        ledger.close()

    def columnsOf(self, table: str) -> tuple[str, ...]:
        """
        The columns of a table or a view.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            found = connection.execute(
                "SELECT name FROM pragma_table_info(?)", (table,)
            )
            return tuple(name for (name,) in found)

    def test_trade(self) -> None:
        """
        The table C{trade} has all members, the number of changes and the place of
        the last one.
        """
        self.assertMembers(names(COLUMNS), TRADE_MEMBERS, "COLUMNS")
        self.assertMembers(
            self.columnsOf("trade"),
            (*TRADE_MEMBERS, "revision", "place"),
            "the table trade",
        )

    def test_journal(self) -> None:
        """
        The journal has the members of the trade as it was booked, the totals
        after it, and the members of the request.
        """
        self.assertMembers(
            self.columnsOf("journal"),
            (
                "place",
                "type",
                *TRADE_MEMBERS,
                "balance",
                "credit",
                "principal",
                "role",
                "command",
                "asked_order",
                "key",
                "asked_open_time",
                "asked_close_time",
                "hash",
            ),
            "the table journal",
        )
        self.assertEqual((*MEMBERS, "hash"), self.columnsOf("journal"))

    def test_checked(self) -> None:
        """
        C{check} finds a row of the journal that was changed in any member.
        """
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        ledger.newOrder()
        asked = operationOf()
        self.successResultOf(
            ledger.commit(withTotals(ledger, [Reservation(0, TRADE, asked)]))
        )
        ledger.close()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            self.assertEqual(list(findings(connection)), [])
            [[kept]] = connection.execute(
                "SELECT sql FROM sqlite_schema WHERE name = 'journal_updated'"
            )
            for name in (*MEMBERS, "hash"):
                quoted = columns([name])
                other = {
                    "comment": "'x'",
                    "command": "'x'",
                    "key": "'x'",
                    "hash": "zeroblob(32)",
                }.get(name, f"ifnull({quoted}, 0) + 1")
                if name == "state":
                    other = "6"
                connection.execute("BEGIN")
                connection.execute("DROP TRIGGER journal_updated")
                connection.execute(f"UPDATE journal SET {quoted} = {other}")
                connection.execute(kept)
                rules = [each.rule for each in findings(connection)]
                connection.execute("ROLLBACK")
                self.assertTrue(rules, f"{name} is not checked")

    def test_document(self) -> None:
        """
        C{docs/ledger.rst} has a line for each column of C{trade}.
        """
        text = (
            Path(__file__).parent.parent.joinpath("docs/ledger.rst").read_text("utf-8")
        )
        table = text.split("``trade`` has one row")[1].split("``account`` has")[0]
        for name in TRADE_MEMBERS:
            shown = f'``"{name}"``' if name == "order" else f"``{name}``"
            self.assertIn(f"\n{shown} ", table, f"{name} in docs/ledger.rst")


class BookedTests(MembersCase):
    """
    Tests for the members that each ledger keeps of a trade and of a request.
    """

    def ledgers(self) -> Mapping[str, Any]:
        """
        An open ledger of each kind.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        found: dict[str, Any] = {
            "the memory ledger": MemoryLedger(),
            "the SQLite ledger": SQLiteLedger(os.path.join(made.name, "l.db"), execute),
        }
        for ledger in found.values():
            ledger.open()
            self.addCleanup(ledger.close)
            ledger.newOrder()
        return found

    def test_trade(self) -> None:
        """
        A new trade and its later states are kept member by member, with a key
        and without.
        """
        for hasKey in (False, True):
            for name, ledger in self.ledgers().items():
                where = f"{name}, {'with a' if hasKey else 'without a'} key"
                for type, trade in enumerate((TRADE, LATER)):
                    key = f"key-{type}" if hasKey else None
                    asked = Operation("CreditIn", 7, 1001, 1, "", key=key)
                    self.successResultOf(
                        ledger.commit(
                            withTotals(ledger, [Reservation(type, trade, asked)])
                        )
                    )
                    self.assertSame(ledger.trade(1), trade, where)
                    if hasKey:
                        self.assertSame(ledger.replay(0, key).trade, trade, where)

    def test_asked(self) -> None:
        """
        The request under a key is kept, so a request that differs in any
        member is recognized as another one.
        """
        attributes = Operation.__struct_fields__
        for where, ledger in self.ledgers().items():
            asked = operationOf()
            assert isinstance(asked, Operation)
            self.successResultOf(
                ledger.commit(withTotals(ledger, [Reservation(0, TRADE, asked)]))
            )
            remembered = ledger.replay(7, "key").operation
            for name in attributes:
                if name != "isBooked":
                    self.assertEqual(
                        getattr(remembered, name),
                        getattr(asked, name),
                        f"{name} in {where}",
                    )


class RequestTests(MembersCase):
    """
    Tests for a request's members.
    """

    def test_envelope(self) -> None:
        """
        The schema of a line has the members that the server reads, and no others;
        a request has the operation and the line itself beside them.
        """
        members = Request.__struct_encode_fields__
        self.assertEqual(
            members,
            (
                *("command", "extID", "__token", "data", "idempotencyKey"),
                *("operation", "line"),
            ),
        )
        self.assertMembers(
            tuple(sorted(load("request")["properties"])),
            tuple(sorted(set(members) - {"operation", "line"})),
            "schemas/request.json",
        )

    def test_plain(self) -> None:
        """
        The fast way reads each member of a line and of its data.
        """
        line = {
            "command": "CreditIn",
            "extID": "a",
            "__token": "t",
            "data": DATA,
            "idempotencyKey": "key",
        }
        [request] = PlainLines().read(json.dumps(line).encode() + b"\n") or [None]
        assert request is not None, "the line is not plain"
        for name, attribute in (
            ("command", "command"),
            ("extID", "extID"),
            ("__token", "token"),
            ("idempotencyKey", "key"),
        ):
            self.assertEqual(getattr(request, attribute), line[name], name)
        asked = request.operation
        assert isinstance(asked, Operation)
        wanted = operationOf()
        self.assertIs(difference(asked, wanted), None)
        for name in DATA_MEMBERS:
            data = {**DATA, name: OTHER_DATA[name]}
            other = json.dumps({**line, "data": data}).encode() + b"\n"
            [request] = PlainLines().read(other) or [None]
            assert request is not None, f"a line with another {name} is not plain"
            assert request.operation is not None
            self.assertEqual(difference(request.operation, wanted), f"data.{name}")

    def test_schemas(self) -> None:
        """
        The schema of each booking method has all members of its data,
        including the one that it refuses.
        """
        wanted = (*DATA_MEMBERS, "idempotencyKey")
        for method in BOOKING_METHODS:
            self.assertMembers(
                tuple(sorted(load(method.schema)["properties"])),
                tuple(sorted(wanted)),
                f"schemas/{method.schema}.json",
            )

    def test_operation(self) -> None:
        """
        Each member of the data reaches the operation and distinguishes it.
        """
        one = operationOf()
        for name in DATA_MEMBERS:
            other = operationOf({**DATA, name: OTHER_DATA[name]})
            self.assertEqual(difference(one, other), f"data.{name}")
        self.assertIsNone(difference(one, operationOf()))
        other = operationOf(command="CreditInSync")
        self.assertEqual(difference(one, other), "command")

    def test_model(self) -> None:
        """
        In the suites' model each member distinguishes a request.
        """
        one = family.Request("CreditIn", 7, **DATA)
        for name in DATA_MEMBERS:
            other = one._replace(**{name: OTHER_DATA[name]})
            self.assertNotEqual(
                one.content, other.content, f"{name} in tests/family.py"
            )

    def test_notData(self) -> None:
        """
        The members that are listed as not belonging to the data exist.
        """
        self.assertEqual(
            records._NOT_DATA - set(Operation.__struct_encode_fields__), set()
        )

    def test_subcommand(self) -> None:
        """
        A subcommand sends all members of the data.
        """
        asked: list[Any] = []

        class Client:
            def request(self, command: str, data: Any, key: str) -> None:
                asked.append(data)

        commands = ArgumentParser().add_subparsers()
        operations.addCommand(commands)
        options = commands.choices["credit-in"].parse_args(
            [
                *("1001", "300", "Promotion credit", "--order", "17"),
                *("--open-time", "1700", "--close-time", "1800"),
            ]
        )
        operations._sendBooking(
            BOOKING_METHODS[0], options, cast(CreditClient, Client())
        )
        self.assertEqual(asked, [DATA])

    def test_bulk(self) -> None:
        """
        The columns of a bulk file are the members of the data without the
        times, and those beside the data.
        """
        self.assertEqual(
            set(bulk._COLUMNS),
            set(DATA_MEMBERS) - {"open_time", "close_time"} | {"command", "key"},
        )

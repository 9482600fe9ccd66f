"""
Ledgers that somebody has rewritten, who can write to the file and knows how it is
made::

    python -m tests.crash.tampering [--rounds N] [--seed N] [--plant BUG]

Each round changes one thing past the triggers, which are there again afterwards: a
value, a row that is removed, added or moved, a hash, a trade, a total. In half of the
rounds all hashes are computed anew, so that only the hash that an auditor has noted
gives the change away. C{creditsync check} must find every one. It proves nothing about
an account's group, which is not in the journal (docs/ledger.rst, "The chain of
hashes").
"""

import json
import random
import sqlite3
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from twisted.internet.defer import execute

from creditsync.codes import TS_FINANCE_OPEN_PENDING
from creditsync.ledger._checking import findings
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Deletion, Operation, Reservation, Trade
from tests.figures import Figures
from tests.planted.bugs import BUGS, plant
from tests.totals import withTotals

# Columns whose values are texts; the others are integers.
_TEXTS: Final = ("comment", "command", "key")
_TABLES: Final = ("journal", "trade", "account")

# Columns that are not changed. All but the last are keys, are changed in other ways, or
# have few values that the tables allow.
_LEFT: Final = ("place", "hash", "login", "state", "group")

# Orders, each of which is made, and some of which are changed or deleted.
_ORDERS: Final = 24


def make(path: Path) -> None:
    """
    Make a ledger with operations of every kind, as a server would.
    """
    ledger = SQLiteLedger(str(path), execute)
    ledger.open()
    for number in range(_ORDERS):
        order, login = ledger.newOrder(), 1001 + number % 3
        batch = [_booking(0, order, login, 100 + number, number % 2 == 0)]
        if number % 3 == 0:
            batch.append(_booking(1, order, login, 200 + number, number % 2 == 1))
        if number % 6 == 0:
            trade = Trade(order, login, 7, 6, 200 + number, "Less", 1, 2, 5)
            asked = Deletion("DeleteCredit", order, frozenset({7, 9}), 8)
            batch.append(Reservation(2, trade, asked))
        if number % 4 == 0:
            batch.append(_request(ledger.newOrder(), login, 50 + number))
        ledger.commit(withTotals(ledger, batch))
    ledger.close()


def _booking(
    type: int, order: int, login: int, profit: int, hasKey: bool
) -> Reservation:
    comment = "Less" if type else "Böni"
    trade = Trade(order, login, 7, 3, profit, comment, 1, 2, 3 + type)
    key = f"{order}-{type}" if hasKey else None
    named = order if type else 0
    asked = Operation("CreditIn", 7, login, profit, comment, named, 1, None, 7, key)
    return Reservation(type, trade, asked)


def _request(order: int, login: int, profit: int) -> Reservation:
    trade = Trade(order, login, 7, TS_FINANCE_OPEN_PENDING, profit, "Later", 1, 2, 3)
    command = "MngCreateFinanceRequest"
    asked = Operation(command, 7, login, profit, "Later", 0, 1, None, 9)
    asked.isRequest = True
    return Reservation(0, trade, asked)


class Tamperer:
    """
    Changes one ledger, once.
    """

    def __init__(self, ledger: sqlite3.Connection, chance: random.Random) -> None:
        self._ledger = ledger
        self._chance = chance

    def tamper(self) -> str:
        """
        Change something.

        @return: What was done.
        """
        ways: list[Callable[[], str]] = [
            self._value,
            self._value,
            self._removed,
            self._moved,
            self._hash,
            self._added,
        ]
        triggers = self._ledger.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            self._ledger.execute(f"DROP TRIGGER {name}")
        done = self._chance.choice(ways)()
        if self._chance.random() < 0.5:
            self._computeHashes()
            done += ", with all hashes anew"
        for _, sql in triggers:
            self._ledger.execute(sql)
        return done

    def _do(self, statement: str) -> str:
        self._ledger.execute(statement)
        return statement

    def _value(self) -> str:
        table = self._chance.choice(_TABLES)
        columns = [
            name
            for (name,) in self._ledger.execute(
                f"SELECT name FROM pragma_table_info('{table}')"
            )
            if name not in _LEFT
        ]
        column = self._chance.choice(columns)
        value = "'x'" if column in _TEXTS else f'ifnull("{column}", 0) + 1'
        row = self._anyOf(f"SELECT rowid FROM {table}")
        if column == "type":
            value = "(type + 1) % 3"
        if (table, column) == ("trade", "order"):
            value = f'"{column}" + 1000'
        return self._do(f'UPDATE {table} SET "{column}" = {value} WHERE rowid = {row}')

    def _anyOf(self, numbers: str) -> int:
        """
        One of the numbers that a statement selects.
        """
        found: int = self._chance.choice(self._ledger.execute(numbers).fetchall())[0]
        return found

    def _place(self) -> int:
        return self._anyOf("SELECT place FROM journal")

    def _removed(self) -> str:
        table = self._chance.choice(_TABLES)
        if table == "journal":
            way = self._chance.choice(("=", ">="))
            return self._do(f"DELETE FROM journal WHERE place {way} {self._place()}")
        row = self._anyOf(f"SELECT rowid FROM {table}")
        return self._do(f"DELETE FROM {table} WHERE rowid = {row}")

    def _moved(self) -> str:
        one = self._place()
        other = one + 1 if one == 1 else one - 1
        self._do(f"UPDATE journal SET place = -1 WHERE place = {one}")
        self._do(f"UPDATE journal SET place = {one} WHERE place = {other}")
        self._do(f"UPDATE journal SET place = {other} WHERE place = -1")
        return f"places {one} and {other} are exchanged"

    def _hash(self) -> str:
        place = self._anyOf("SELECT hi FROM link")
        return self._do(f"UPDATE journal SET hash = zeroblob(32) WHERE place = {place}")

    def _added(self) -> str:
        return self._do(
            'INSERT INTO journal SELECT max(place) + 1, 0, max("order") + 1, login,'
            " cmd, 6, profit, comment, open_time, close_time, timestamp, balance,"
            " credit, principal, role, command, 0, NULL, NULL, NULL, hash FROM journal"
        )

    def _computeHashes(self) -> None:
        hash, rows = bytes(32), b""
        found = self._ledger.execute("SELECT * FROM journal ORDER BY place").fetchall()
        for *row, end in found:
            text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
            rows += text.encode() + b"\n"
            if end is not None:
                hash, rows = sha256(hash + rows).digest(), b""
                self._ledger.execute(
                    "UPDATE journal SET hash = ? WHERE place = ?", (hash, row[0])
                )


def content(ledger: sqlite3.Connection) -> list[object]:
    """
    All rows.
    """
    return [
        ledger.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall()
        for table in _TABLES
    ]


def undetected(whole: bytes, path: Path, chance: random.Random) -> str | None:
    """
    Change a ledger and check it.

    @return: What was done, if nobody would notice.
    """
    path.write_bytes(whole)
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute("PRAGMA synchronous = OFF")
        [[noted]] = ledger.execute("SELECT hash FROM link ORDER BY hi DESC LIMIT 1")
        before = content(ledger)
        done = Tamperer(ledger, chance).tamper()
        if content(ledger) == before or next(findings(ledger, noted), None):
            return None
    return done


def main() -> None:
    """
    Run what the command line asks for.
    """
    parser = ArgumentParser(description="Rewrite ledgers, and check them.")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plant", choices=BUGS)
    options = parser.parse_args()
    plant(options.plant)
    chance = random.Random(options.seed)
    with TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        make(path)
        whole = path.read_bytes()
        with closing(sqlite3.connect(path)) as ledger:
            for finding in findings(ledger):
                print(f"VIOLATION: of a sound ledger: {finding.message}")
                sys.exit(1)
        for _ in range(options.rounds):
            done = undetected(whole, path, chance)
            if done is not None:
                print(f"VIOLATION: nobody would notice: {done}")
                sys.exit(1)
    Figures(rounds=options.rounds).show(options.json)
    print(f"sound: {options.rounds} rewritten ledgers are detected")


if __name__ == "__main__":
    main()

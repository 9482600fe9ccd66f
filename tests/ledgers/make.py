"""
How C{v1.db} and C{v2.db} were made: by the creditsync of version 1 of the ledger,
whose code is the commit 8364a08, and by that of version 2, commit 9a6dad4. Nobody has
to run it again::

    git worktree add /tmp/v1 8364a08
    cd /tmp/v1
    PYTHONPATH=. python /path/to/tests/ledgers/make.py v1.db

The ledger is copied while the server has it open, as a killed process leaves
it, so its order mark stands a block above the last order.
"""

import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from twisted.internet.defer import execute

from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Deletion, Operation, Reservation, Trade

BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9
ADD, UPDATE, DELETE = 0, 1, 2
BOOKED, DELETED = 3, 6

_NAMES = {
    BALANCE_IN: "BalanceIn",
    CREDIT_IN: "CreditIn",
    BALANCE_OUT: "BalanceOut",
    CREDIT_OUT: "CreditOut",
}


def change(
    type: int, trade: Trade, key: str | None = None, asked: int = 0, form: str = "Sync"
) -> Reservation:
    """
    A new trade, or the update of one, by principal 7.
    """
    operation = Operation(
        command=_NAMES[trade.cmd] + form,
        cmd=trade.cmd,
        login=trade.login,
        amount=trade.profit,
        comment=trade.comment,
        order=asked,
        openTime=trade.openTime if asked else None,
        closeTime=None,
        principal=7,
        key=key,
    )
    return Reservation(type, trade, operation)


def deletion(trade: Trade, command: str, key: str | None = None) -> Reservation:
    """
    The deletion of a trade, by principal 8.
    """
    operation = Deletion(command, trade.order, frozenset({trade.cmd}), 8, key)
    return Reservation(DELETE, trade, operation)


def fill(ledger: SQLiteLedger) -> None:
    """
    Book every kind of operation.
    """
    ledger.addAccounts([1001, 1009])
    for _ in range(9):
        ledger.newOrder()
    ledger.commit(
        [
            change(
                ADD,
                Trade(
                    1,
                    1001,
                    CREDIT_IN,
                    BOOKED,
                    300_00000000,
                    "Promotion credit",
                    10,
                    20,
                    30,
                ),
            ),
            change(
                ADD,
                Trade(2, 1001, CREDIT_IN, BOOKED, 50_50000000, "Bonus", 11, 21, 31),
                "bonus-1",
            ),
            change(
                ADD,
                Trade(3, 1001, CREDIT_OUT, BOOKED, -100_00000000, "Back", 12, 22, 32),
            ),
            change(
                ADD,
                Trade(
                    4, 1002, BALANCE_IN, BOOKED, 1000_00000001, "Böni 😀\t'", 13, 23, 33
                ),
                "deposit-1",
                form="",
            ),
            change(
                ADD,
                Trade(5, 1002, BALANCE_OUT, BOOKED, -1_00000000, "Finance", 14, 24, 34),
                "fee-1",
            ),
            change(
                ADD,
                Trade(6, 2**53 - 1, BALANCE_IN, BOOKED, 10**18, "Most", 15, 25, 35),
            ),
            change(
                ADD, Trade(7, 1003, CREDIT_IN, BOOKED, 7, "To be deleted", 16, 26, 36)
            ),
            change(
                ADD, Trade(8, 1003, BALANCE_IN, BOOKED, 8, "This one too", 17, 27, 37)
            ),
        ]
    )
    ledger.commit(
        [
            change(
                UPDATE,
                Trade(1, 1001, CREDIT_IN, BOOKED, 200_00000000, "Less", 10, 20, 40),
                "less-1",
                asked=1,
            ),
            change(
                UPDATE,
                Trade(
                    4, 1002, BALANCE_IN, BOOKED, 900_00000001, "Less too", 13, 23, 41
                ),
                asked=4,
            ),
            deletion(
                Trade(7, 1003, CREDIT_IN, DELETED, 7, "To be deleted", 16, 26, 42),
                "DeleteCreditSync",
                "delete-1",
            ),
            deletion(
                Trade(8, 1003, BALANCE_IN, DELETED, 8, "This one too", 17, 27, 43),
                "DeleteBalance",
            ),
        ]
    )


def main(target: str) -> None:
    """
    Make the ledger.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ledger.db")
        ledger = SQLiteLedger(path, execute)
        ledger.open()
        fill(ledger)
        # Everything in one file, with the order mark of an open ledger.
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(path, target)
        ledger.close()


if __name__ == "__main__":
    main(sys.argv[1])

"""
The floor of a durable credit: how long SQLite alone takes to commit one row.
"""

import json
import sqlite3
import sys
import time
from contextlib import closing

from benchmarks.figures import percentile


def measure(path: str, count: int) -> dict[str, float]:
    """
    Commit rows one by one, as durably as the ledger does.
    """
    seconds = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute('CREATE TABLE trade ("order" INTEGER PRIMARY KEY, data)')
        for _ in range(count):
            start = time.perf_counter()
            connection.execute("INSERT INTO trade (data) VALUES (?)", ("x" * 64,))
            seconds.append(time.perf_counter() - start)
    seconds.sort()
    return {
        "p50": percentile(seconds, 50) * 1000,
        "p99": percentile(seconds, 99) * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))

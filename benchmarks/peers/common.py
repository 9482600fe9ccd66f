"""
What the peers in Python share: the usual library for each step.

C{json} of the standard library, a C{jsonschema} validator that is built once,
PyJWT with a cache of verified tokens, C{sqlite3} with WAL and
C{synchronous=FULL}.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from attrs import Factory, define
from jsonschema import Draft202012Validator
from referencing import Registry

from creditsync.validation import load

SCHEMA = Path(__file__).parent / "schema.sql"
TIMEOUT = 5.0
UNITS = 100_000_000
EPOCH = "9f3c1a7e"
SUBSCRIPTIONS = ("Subscribe", "Unsubscribe")


def validator(name: str) -> Draft202012Validator:
    """
    A validator for one of the published schemas.
    """
    common: Registry[Any] = Registry().with_contents([("common.json", load("common"))])
    return Draft202012Validator(load(name), registry=common)


@define
class Tokens:
    """
    Verifies tokens, and caches the good ones.
    """

    _key: bytes
    _remembered: dict[str, float] = Factory(dict)

    @classmethod
    def fromFile(cls, path: str) -> "Tokens":
        """
        Read the key from a file.
        """
        return cls(Path(path).read_bytes().strip())

    def check(self, token: str) -> None:
        """
        @raise ValueError: The token is not valid.
        """
        expires = self._remembered.get(token)
        if expires is None:
            try:
                claims = jwt.decode(token, self._key, ["HS256"])
            except jwt.InvalidTokenError as e:
                raise ValueError(str(e)) from e
            if claims["role"] not in (1, 2, 3):
                raise ValueError("this token's role may not do this")
            expires = self._remembered[token] = claims["exp"]
        if time.time() >= expires:
            raise ValueError("the token has expired")


@define
class Ledger:
    """
    Trades and account totals in an SQLite file.
    """

    _connection: sqlite3.Connection
    _nextOrder: int = 1

    @classmethod
    def create(cls, path: str) -> "Ledger":
        """
        Create a new one.
        """
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(SCHEMA.read_text("utf-8"))
        return cls(connection)

    def trade(self, data: dict[str, Any]) -> dict[str, Any]:
        """
        Make the trade of a request, under the next order number.

        @raise ValueError: The amount has too many decimals.
        """
        units = round(data["amount"] * UNITS)
        if units / UNITS != data["amount"]:
            raise ValueError("data.amount has more than 8 decimals")
        order, self._nextOrder = self._nextOrder, self._nextOrder + 1
        now = int(time.time())
        return {
            "order": order,
            "login": data["login"],
            "cmd": 7,
            "state": 3,
            "profit": units / UNITS,
            "comment": data["comment"],
            "symbol": "",
            "volume": 0,
            "open_price": 0.0,
            "close_price": 0.0,
            "open_time": now,
            "close_time": now,
            "sl": 0.0,
            "tp": 0.0,
            "storage": 0.0,
            "commission": 0.0,
            "reason": 7,
            "timestamp": now,
            # Each order has one event, so this is the event's place as well.
            "cursor": f"{EPOCH}-{order}",
        }

    def book(self, trades: Sequence[dict[str, Any]]) -> None:
        """
        Write trades and totals in one transaction.
        """
        execute = self._connection.executemany
        rows = [trade | {"units": round(trade["profit"] * UNITS)} for trade in trades]
        self._connection.execute("BEGIN IMMEDIATE")
        execute(
            "INSERT INTO trade VALUES (:order, :login, :cmd, :state, :units,"
            " :comment, :open_time, :close_time, :timestamp)",
            rows,
        )
        execute(
            "INSERT INTO account VALUES (:login, :units) ON CONFLICT (login)"
            " DO UPDATE SET credit = credit + excluded.credit",
            rows,
        )
        self._connection.execute("COMMIT")


def event(trade: dict[str, Any]) -> bytes:
    """
    The line of a trade's event, without its line end.
    """
    return encode({"event": "trade:event", "type": 0, "data": trade})


def reply(extID: object, data: dict[str, Any]) -> bytes:
    """
    The line of a reply, without its line end.
    """
    return encode({"extID": extID, "status": 200, "data": data})


def encode(message: object) -> bytes:
    """
    Compact JSON.
    """
    return json.dumps(message, separators=(",", ":")).encode("ascii")

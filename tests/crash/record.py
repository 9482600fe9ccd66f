"""
What a client knows, and whether the ledger agrees.

The L{Record} is the driver's own: each operation that it sent, the replies and
events that it received, over all lives of a server. It shares no logic with
the server; everything in it came over a socket. When the server is dead,
L{Record.check} compares it with the ledger's file.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from itertools import chain
from json import dumps
from typing import Any, Final

from attrs import Factory, define, field

from tests.auditor import Auditor
from tests.crash.asked import PRINCIPAL, Asked
from tests.family import (
    ADD,
    BOOKED,
    COLUMNS,
    DELETE,
    DELETED,
    METHODS,
    REQUESTED,
    Trade,
    tradeOf,
    units,
)

_TRADE: Final = f"{COLUMNS}, revision"


class Violation(Exception):
    """
    The server broke a promise; the message says which.
    """


@define(eq=False)
class Record:
    """
    All requests on one ledger.

    @ivar life: How many lives of the server have ended.
    @ivar acknowledged: How many operations have a 200.
    @ivar resent: How many lines repeated an earlier one.
    @ivar replayed: How many of those got a replay.
    @ivar unknown: How many replies were 504.
    @ivar refused: How many said that nothing was booked.
    @ivar events: How many events were received, each once for each connection.
    """

    life: int = 0
    acknowledged: int = 0
    resent: int = 0
    replayed: int = 0
    unknown: int = 0
    refused: int = 0
    events: int = 0
    asked: list[Asked] = Factory(list)
    # The operations on an order: first the one that made it, or for which it
    # was named; then those that change it.
    _of: dict[int, list[Asked]] = field(init=False, factory=dict)
    # Operations that may be new in the ledger since the last check.
    _touched: set[Asked] = field(init=False, factory=set)
    _told: set[int] = field(init=False, factory=set)
    _highest: int = field(init=False, default=0)
    _auditor: Auditor = field(init=False, factory=Auditor)

    def ask(self, method: str, isSync: bool, hasKey: bool, **data: Any) -> Asked:
        """
        Record a new operation.
        """
        number = len(self.asked)
        if method in METHODS:
            # Characters that one client "repairs", and some that are neither
            # ASCII nor harmless.
            data["comment"] = f'{number} it\'s for \u20ac 5,}} "\\"\t\U0001f4b6'
        key = f"key-{number}" if hasKey else None
        asked = Asked(number, method, isSync, data, key)
        self.asked.append(asked)
        if asked.target:
            self._of[asked.target].append(asked)
        return asked

    def sending(self, asked: Asked) -> None:
        """
        Record that it is sent, perhaps again.
        """
        self.resent += asked.sent > 0
        asked.sent += 1
        self._touched.add(asked)

    def owner(self, order: int) -> Asked:
        """
        The operation that made an order.
        """
        return self._of[order][0]

    # What the server says.

    def event(self, type: int, data: Mapping[str, Any], seen: set[Asked]) -> None:
        """
        Record a trade event.

        @param seen: The operations whose events the same connection has
            received.
        """
        self.events += 1
        trade = tradeOf(data)
        asked = self._cause(type, trade)
        if asked in seen:
            raise Violation(f"a connection saw two events of {asked}")
        seen.add(asked)
        if asked.bookedIn not in (None, self.life):
            raise Violation(f"booked once more after a restart: {asked}")
        self._made(asked, trade)

    def replied(self, asked: Asked, reply: Mapping[str, Any], seen: set[Asked]) -> None:
        """
        Record the reply to one request of an operation.

        @param seen: As in L{event}.
        """
        match reply["status"], reply.get("error"):
            case 200, _:
                self._succeeded(asked, reply, seen)
            case 504, _:
                self.unknown += 1
                self._orderTold(asked, reply.get("data", {}).get("order", 0))
            case 503, _:
                asked.shut += 1
                if asked.key is None:
                    self._nothing(asked, reply)
            case 409, "TRADE_NO_MONEY":
                self._nothing(asked, reply)
            case 409, "INCORRECT_ORDER" if self._mayBeDeleted(asked):
                self._nothing(asked, reply)
            case _:
                raise Violation(f"{asked} was answered {dumps(reply)}")

    def _cause(self, type: int, trade: Trade) -> Asked:
        """
        The operation that an event belongs to.
        """
        isDeletion = type == DELETE
        asked = self._deletion(trade.order) if isDeletion else self._writer(trade)
        if asked is None or asked.type != type or asked.isRefused or not asked.sent:
            raise Violation(f"an event of type {type}, {trade}, is not due to {asked}")
        return asked

    def _succeeded(
        self, asked: Asked, reply: Mapping[str, Any], seen: set[Asked]
    ) -> None:
        data, isReplay = reply["data"], reply.get("replayed", False)
        if isReplay and asked.sent < 2:
            raise Violation(f"a replay of what was not sent before: {asked}")
        if not isReplay and asked.bookedIn not in (None, self.life):
            raise Violation(f"a repetition is answered as if it were new: {asked}")
        if not isReplay and asked not in seen:
            raise Violation(f"a reply came before its event: {asked}")
        if asked.isSync:
            self._made(asked, tradeOf(data))
        else:
            self._accepted(asked, data)
        if asked.answer is None:
            asked.answer = data
            self.acknowledged += 1
        elif asked.answer != data:
            raise Violation(f"answered {asked.answer}, and later {data}: {asked}")
        self.replayed += isReplay

    def _made(self, asked: Asked, trade: Trade) -> None:
        """
        Record the trade that an operation made, which never changes.
        """
        self._booked(asked, trade.order)
        if asked.trade is None:
            wanted = BOOKED
            if asked.type == DELETE:
                wanted = DELETED
            elif not asked.accepts(trade):
                raise Violation(f"made {trade}: {asked}")
            if trade.state != wanted:
                raise Violation(f"made {trade} with a wrong state: {asked}")
            asked.trade = trade
        elif asked.trade != trade:
            raise Violation(f"made {asked.trade}, and later {trade}: {asked}")

    def _accepted(self, asked: Asked, data: Mapping[str, Any]) -> None:
        self._booked(asked, data["order"])
        made = self.owner(data["order"]) if asked.type == DELETE else asked
        wanted = (REQUESTED[asked.type], made.data["login"], METHODS[made.method].cmd)
        if (data["state"], data["login"], data["cmd"]) != wanted or (
            made is asked and units(data["amount"]) != units(made.data["amount"])
        ):
            raise Violation(f"accepted as {data}: {asked}")

    def _booked(self, asked: Asked, order: int) -> None:
        if asked.isRefused or asked.shut == asked.sent:
            raise Violation(f"was refused, and booked as order {order}: {asked}")
        self._orderTold(asked, order)
        if asked.order not in (0, order):
            raise Violation(f"booked as orders {asked.order} and {order}: {asked}")
        asked.order = order
        if asked.bookedIn is None:
            asked.bookedIn = self.life

    def _orderTold(self, asked: Asked, order: int) -> None:
        """
        Record that a number was named as this operation's, which it is for
        ever.
        """
        if not order:
            return
        self._told.add(order)
        if asked.target not in (0, order):
            raise Violation(f"order {order} was made, as if it were new: {asked}")
        owner = asked
        if asked.target:
            owner = self.owner(asked.target)
        known = self._of.setdefault(order, [owner])[0]
        if known is not owner:
            raise Violation(f"order {order} means {known}, and now {owner}")

    def _nothing(self, asked: Asked, reply: Mapping[str, Any]) -> None:
        if asked.bookedIn is not None:
            raise Violation(f"was booked, and then refused with {reply}: {asked}")
        asked.isRefused = True
        self.refused += 1

    def _mayBeDeleted(self, asked: Asked) -> bool:
        """
        Whether this changes an order that may be deleted.
        """
        deletion = self._deletion(asked.target)
        return deletion not in (None, asked) and not deletion.isRefused

    def _deletion(self, order: int) -> Asked | None:
        return next((a for a in self._of.get(order, ()) if a.type == DELETE), None)

    def _writer(self, trade: Trade) -> Asked | None:
        """
        The operation that wrote a trade's comment.
        """
        number = trade.comment.partition(" ")[0]
        if not number.isdecimal() or int(number) >= len(self.asked):
            return None
        return self.asked[int(number)]

    # What the ledger says.

    def check(self, ledger: sqlite3.Connection) -> None:
        """
        Compare the ledger of a dead server with what it did in its last life;
        another one begins.
        """
        touched, self._touched = self._touched, set()
        told, self._told = self._told, set()
        new = self._findNew(ledger)
        self._checkKeys(ledger, touched)
        orders = chain.from_iterable((each.order, each.target) for each in touched)
        self._checkOrders(ledger, new.union(told, orders) - {0})
        flaw = self._auditor.flaw(lambda each: ledger.execute(each).fetchall())
        if flaw is not None:
            raise Violation(f"of its journal: {flaw}")
        self.life += 1

    def checkAll(self, ledger: sqlite3.Connection) -> None:
        """
        Compare the whole ledger with everything that was ever done.
        """
        self._highest = 0
        self._auditor = Auditor()
        self._touched = set(self.asked)
        self._told = set(self._of)
        self.check(ledger)

    def _findNew(self, ledger: sqlite3.Connection) -> set[int]:
        """
        Find what is new in the ledger, including operations without a reply.
        """
        new = set()
        for *row, _ in ledger.execute(
            f'SELECT {_TRADE} FROM trade WHERE "order" > ?', (self._highest,)
        ):
            trade = Trade(*row)
            new.add(trade.order)
            known = self._of.get(trade.order)
            asked = self._writer(trade) if known is None else known[0]
            if asked is None or asked.type != ADD or not asked.sent:
                raise Violation(f"the ledger has what nobody asked for: {trade}")
            self._booked(asked, trade.order)
        self._highest = max(new, default=self._highest)
        return new

    def _checkKeys(self, ledger: sqlite3.Connection, touched: Iterable[Asked]) -> None:
        keyed = {each.key: each for each in touched if each.key is not None}
        rows = ledger.execute(
            f"SELECT k.key, command, k.type, {COLUMNS} FROM json_each(?)"
            " CROSS JOIN journal AS k ON principal = ? AND k.key = value",
            (dumps(list(keyed)), PRINCIPAL),
        )
        for key, command, type, *row in rows:
            asked = keyed.pop(key)
            if (command, type) != (asked.command, asked.type):
                raise Violation(f"the key is of {command}, type {type}: {asked}")
            self._made(asked, Trade(*row))
        for asked in keyed.values():
            if asked.bookedIn is not None:
                raise Violation(f"lost, its key is not in the ledger: {asked}")

    def _checkOrders(self, ledger: sqlite3.Connection, orders: set[int]) -> None:
        rows = ledger.execute(
            f'SELECT {_TRADE} FROM json_each(?) CROSS JOIN trade ON "order" = value',
            (dumps(list(orders)),),
        )
        for *row, revision in rows:
            trade = Trade(*row)
            orders.remove(trade.order)
            self._checkOrder(trade, revision)
        for order in orders:
            for asked in self._of[order]:
                if asked.bookedIn is not None and asked.order == order:
                    raise Violation(f"lost, order {order} is not there: {asked}")

    def _checkOrder(self, trade: Trade, revision: int) -> None:
        """
        Check that a trade is the result of its operations: each known one
        once, and each with an unknown outcome at most once.
        """
        asked = self._of[trade.order]
        least = sum(each.bookedIn is not None for each in asked)
        most = least + sum(each.isOpen for each in asked)
        if not least <= revision + 1 <= most:
            raise Violation(
                f"order {trade.order} was written {revision + 1} times by {least} to"
                f" {most} operations, the first of which is {asked[0]}"
            )
        writer = self._writer(trade)
        if writer not in asked or writer.isRefused or not writer.accepts(trade):
            raise Violation(f"{trade} is not what {writer} makes")
        deletion = self._deletion(trade.order)
        isDeleted = trade.state == DELETED
        if isDeleted and (deletion is None or deletion.isRefused):
            raise Violation(f"{trade} was deleted by nobody")
        if deletion is not None and deletion.bookedIn is not None and not isDeleted:
            raise Violation(f"lost, {trade} is not deleted: {deletion}")
        made = writer.trade
        if made is not None and isDeleted:
            made = made._replace(state=DELETED, timestamp=trade.timestamp)
        if made not in (None, trade):
            raise Violation(f"{trade} is there, where {made} was told: {writer}")

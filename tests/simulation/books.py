"""
The rules of what is booked: what was asked for, once, for ever, and no more.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from attrs import define, field

from tests.simulation.history import Booking, History, Intent
from tests.simulation.storage import Storage
from tests.simulation.world import Violation, World

_ADD, _UPDATE, _DELETE = 0, 1, 2
_CREDIT = (7, 9)
_COLUMNS = (
    "order",
    "login",
    "cmd",
    "state",
    "profit",
    "comment",
    "open_time",
    "close_time",
    "timestamp",
)
_TRADES = (
    f"""SELECT {", ".join(f'"{name}"' for name in _COLUMNS)}, revision FROM trade"""
)


@define(eq=False)
class Books:
    """
    The ledger as it has to be, by what was told and what became of it.
    """

    _world: World
    _history: History
    _isExtIDIdempotent: bool
    _trades: dict[int, tuple[Any, ...]] = field(factory=dict)
    _keys: dict[tuple[int, str], int] = field(factory=dict)
    _seen: int = 0
    # Since when each order is there, and since when it is deleted.
    since: dict[int, tuple[float, int]] = field(factory=dict)
    versions: dict[int, list[Booking]] = field(factory=lambda: defaultdict(list))

    def check(self, storage: Storage) -> None:
        """
        Hold the file that a process has left against what it has to hold.
        """
        bookings = self._history.bookings[self._seen :]
        self._seen = len(self._history.bookings)
        for booking in bookings:
            if booking.applied is not None:
                self._book(booking)
        doubtful = [each for each in bookings if each.isDoubtful]
        rows = {row[0]: row for row in storage.rows(_TRADES)}
        if doubtful and rows != self._trades:
            # All of it was written after all, or none.
            for booking in doubtful:
                booking.applied = self._world.now, self._world.turn
                self._book(booking)
        else:
            for booking in doubtful:
                booking.isLost = True
        self._compare(rows, self._trades, "order")
        keys = 'SELECT principal, key, "order" FROM keyed_operation'
        found = {(row[0], row[1]): row[2] for row in storage.rows(keys)}
        self._compare(found, self._keys, "key")
        self._checkTotals(rows.values(), storage)

    def _compare(
        self, found: dict[Any, Any], wanted: dict[Any, Any], what: str
    ) -> None:
        if found == wanted:
            return
        for name in [*wanted, *found]:
            if found.get(name) != wanted.get(name):
                raise Violation(
                    "durability",
                    f"{what} {name} is {found.get(name)} in the ledger, not"
                    f" {wanted.get(name)}",
                    (str(name),),
                )

    def _checkTotals(self, rows: Iterable[tuple[Any, ...]], storage: Storage) -> None:
        sums: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        for _, login, cmd, state, profit, *_ in rows:
            sums[login][cmd in _CREDIT] += profit if state == 3 else 0
        accounts = {
            login: totals for login, *totals in storage.rows("SELECT * FROM account")
        }
        if accounts != sums:
            raise Violation("totals", f"accounts hold {accounts}, not {dict(sums)}")
        if any(total < 0 for totals in accounts.values() for total in totals):
            raise Violation("totals", f"a total is below zero: {accounts}")

    def _book(self, booking: Booking) -> None:
        """
        Count in what is on disk.
        """
        trade = booking.trade
        order = trade["order"]
        about = (str(order), trade["comment"])
        before = self._trades.get(order)
        if (booking.type == _ADD) != (before is None):
            raise Violation(
                "order", f"type {booking.type} on order {order}: {before}", about
            )
        revision = 0
        if before is not None:
            revision = before[-1] + 1
            if before[3] == 6 or before[1:3] != (trade["login"], trade["cmd"]):
                raise Violation("order", f"{before} can't become {trade}", about)
        self._checkIntent(booking, before)
        self._trades[order] = (*(trade[name] for name in _COLUMNS), revision)
        if booking.key is not None:
            key = booking.principal, booking.key
            if key in self._keys:
                raise Violation("booked-once", f"{key} is booked twice", about)
            self._keys[key] = order
        assert booking.applied is not None
        self.since.setdefault(order, booking.applied)
        self.versions[order].append(booking)

    def _checkIntent(self, booking: Booking, before: Any) -> None:
        intent = self._intentOf(booking)
        trade = booking.trade
        about = (str(trade["order"]), trade["comment"])
        if intent is None:
            raise Violation("asked-for", f"nobody has asked for {trade}", about)
        if intent.bookings and (intent.key is None or not intent.isDelete):
            raise Violation("booked-once", f"{trade} is booked twice", about)
        intent.bookings.append(booking)
        booking.intent = intent
        wanted = self._wanted(booking, intent, before)
        if trade != wanted or booking.command != intent.command:
            raise Violation("as-asked-for", f"booked {trade}, asked {wanted}", about)
        delivered = [a.delivered[0] for a in intent.attempts if a.delivered]
        first, last = self._world.wallBetween(min(delivered), booking.handed[0])
        if not int(first) <= trade["timestamp"] <= last:
            raise Violation("time", f"{trade} is not of {first} to {last}", about)

    def _wanted(self, booking: Booking, intent: Intent, before: Any) -> dict[str, Any]:
        """
        The trade as it has to be.
        """
        now = booking.trade["timestamp"]
        if booking.type == _DELETE:
            wanted = dict(zip(_COLUMNS, before, strict=False))
            return {**wanted, "state": 6, "timestamp": now}
        opened, closed = (now, now) if before is None else before[6:8]
        return {
            "order": booking.trade["order"],
            "login": intent.data["login"],
            "cmd": intent.cmd,
            "state": 3,
            "profit": intent.amount,
            "comment": intent.data["comment"],
            "open_time": intent.data.get("open_time", opened),
            "close_time": intent.data.get("close_time", closed),
            "timestamp": now,
        }

    def _intentOf(self, booking: Booking) -> Intent | None:
        """
        Who asked for it.
        """
        intents = self._history.intents
        if booking.type != _DELETE:
            number = int(booking.trade["comment"].split(" ")[0])
            intent = intents[number]
            return intent if self._isOf(booking, intent) else None
        order = booking.trade["order"]
        fitting = [
            intent
            for intent in intents
            if intent.isDelete
            and intent.data["order"] == order
            and intent.command == booking.command
            and self._isOf(booking, intent)
        ]
        # Of several that ask for the same, it is the one that was told so.
        return max(fitting, key=_likelihood, default=None)

    def _isOf(self, booking: Booking, intent: Intent) -> bool:
        isByExtID = self._isExtIDIdempotent and intent.key is None
        if intent.token.principal != booking.principal:
            return False
        if intent.key != booking.key and not isByExtID:
            return False
        return any(
            attempt.delivered is not None
            and attempt.delivered <= booking.handed
            and (not isByExtID or _keyOf(attempt.extID) == booking.key)
            for attempt in intent.attempts
        )


def _likelihood(intent: Intent) -> int:
    """
    How likely it is that what an intent asks for was done.
    """
    statuses = [attempt.status for attempt in intent.attempts]
    if 200 in statuses:
        return 2
    return int(504 in statuses or 0 in statuses)


def _keyOf(extID: str) -> str | None:
    """
    The key that an C{extID} is where it counts as one: 7 and 7.0 are C{#7}.
    """
    if not extID:
        return None
    return extID[1:-1] if extID.startswith('"') else f"#{float(extID):.0f}"

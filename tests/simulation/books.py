"""
The checks of the ledger: everything that was requested is booked once, for
ever, and nothing else is.
"""

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from tests.auditor import Auditor
from tests.family import (
    ADD,
    BOOKED,
    COLUMNS,
    DELETE,
    WAITS,
    Request,
    Trade,
    made,
    totals,
)
from tests.simulation.history import Booking, History, Intent, Move
from tests.simulation.rights import Rights
from tests.simulation.storage import Storage
from tests.simulation.world import Violation, World

_TRADES = f"SELECT {COLUMNS}, revision FROM trade"


@define(eq=False)
class Books:
    """
    The ledger as it must be, according to the replies and the commits.
    """

    _world: World
    _history: History
    _isExtIDIdempotent: bool
    # Each order's trade, and how often it was changed.
    _trades: dict[int, tuple[Trade, int]] = field(factory=dict)
    _keys: dict[tuple[int, str], int] = field(factory=dict)
    # Who has made each finance request.
    _makers: dict[int, int] = field(factory=dict)
    _seen: int = 0
    # The last place of the journal.
    head: int = 0
    _auditor: Auditor = field(factory=Auditor)

    def check(self, storage: Storage) -> None:
        """
        Compare the file that a process has left with what it must contain.
        """
        bookings = self._history.bookings[self._seen :]
        self._seen = len(self._history.bookings)
        for booking in bookings:
            if booking.applied is not None:
                self._book(booking)
        doubtful = [each for each in bookings if each.isDoubtful]
        rows = {
            row[0]: (Trade(*row), revision) for *row, revision in storage.rows(_TRADES)
        }
        if doubtful and rows != self._trades:
            # Either all of it was written after all, or none.
            for booking in doubtful:
                booking.applied = self._world.now, self._world.turn
                self._book(booking)
        else:
            for booking in doubtful:
                booking.isLost = True
        self._compare(rows, self._trades, "order")
        keys = 'SELECT principal, key, "order" FROM journal WHERE key IS NOT NULL'
        found = {(row[0], row[1]): row[2] for row in storage.rows(keys)}
        self._compare(found, self._keys, "key")
        self._checkTotals((trade for trade, _ in rows.values()), storage)
        self._checkGroups(storage)
        flaw = self._auditor.flaw(storage.rows)
        if flaw is not None:
            raise Violation("journal", flaw)
        self._checkPlaces(storage)

    def _checkPlaces(self, storage: Storage) -> None:
        """
        Each booking has its place, and the journal's places are those of one life.
        """
        [[epoch]] = storage.rows("SELECT epoch FROM life")
        if self._history.epoch not in ("", epoch):
            raise Violation("epoch", f"{self._history.epoch} has become {epoch}")
        self._history.epoch = epoch
        orders = storage.rows('SELECT place, "order" FROM journal ORDER BY place')
        wanted = [
            (each.place, each.trade.order)
            for each in self._history.bookings
            if each.place is not None
        ]
        if orders != wanted:
            raise Violation("places", f"the journal has {orders}, not {wanted}")

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

    def _checkTotals(self, trades: Iterable[Trade], storage: Storage) -> None:
        wanted = totals(trades)
        columns = "SELECT login, balance, credit FROM account"
        accounts = {login: tuple(each) for login, *each in storage.rows(columns)}
        # A move opens the account.
        for move in self._history.moves:
            if accounts.get(move.login) == (0, 0):
                wanted.setdefault(move.login, (0, 0))
        if accounts != wanted:
            raise Violation("totals", f"accounts hold {accounts}, not {wanted}")
        if any(min(each) < 0 for each in accounts.values()):
            raise Violation("totals", f"a total is below zero: {accounts}")

    def _checkGroups(self, storage: Storage) -> None:
        """
        No move is undone, and no account has a group to which nobody has moved it.
        """
        now = self._world.now, self._world.turn
        rights = Rights(self._history, False)
        columns = 'SELECT login, "group" FROM account'
        groups: dict[int, str] = dict(storage.rows(columns))
        moved = {each.login: "" for each in self._history.moves}
        for login, group in {**moved, **groups}.items():
            wanted = rights.groups(login, now, now)
            if group not in wanted:
                raise Violation(
                    "durability",
                    f"account {login} is in group {group!r}, not in {sorted(wanted)}",
                    (str(login),),
                )
            isThere = login in groups
            self._history.moves.append(Move(login, group, now, now, isThere))

    def _book(self, booking: Booking) -> None:
        """
        Add what is on disk.
        """
        trade = booking.trade
        about = (str(trade.order), trade.comment)
        before, revision = self._trades.get(trade.order, (None, -1))
        if before is None and trade.state == WAITS:
            self._makers[trade.order] = booking.principal
        if (booking.type == ADD) != (before is None):
            raise Violation(
                "order", f"type {booking.type} on order {trade.order}: {before}", about
            )
        if before is not None:
            isSame = (before.login, before.cmd) == (trade.login, trade.cmd)
            isOpen = before.state == (WAITS if booking.isDecision else BOOKED)
            if not (isOpen and isSame):
                raise Violation("order", f"{before} can't become {trade}", about)
        isApproval = booking.isDecision and trade.state == BOOKED
        if isApproval and self._makers[trade.order] == booking.principal:
            raise Violation("four-eyes", f"its maker has approved {trade}", about)
        self._checkIntent(booking, before)
        self.head += 1
        booking.place = self.head
        self._trades[trade.order] = trade, revision + 1
        if booking.key is not None:
            key = booking.principal, booking.key
            if key in self._keys:
                raise Violation("booked-once", f"{key} is booked twice", about)
            self._keys[key] = trade.order

    def _checkIntent(self, booking: Booking, before: Trade | None) -> None:
        intent = self._intentOf(booking, before)
        trade = booking.trade
        about = (str(trade.order), trade.comment)
        if intent is None:
            raise Violation("asked-for", f"nobody has asked for {trade}", about)
        if intent.bookings and (intent.key is None or not intent.isOfOrder):
            raise Violation("booked-once", f"{trade} is booked twice", about)
        named = intent.data.get("order", 0)
        if named != trade.order and named in self._trades:
            raise Violation("order", f"{trade} is new, and {named} was named", about)
        intent.bookings.append(booking)
        booking.intent = intent
        wanted = made(_request(intent), before, trade.order, trade.timestamp)
        if trade != wanted or booking.command != intent.command:
            raise Violation("as-asked-for", f"booked {trade}, asked {wanted}", about)
        if not self._isInTime(booking, intent):
            raise Violation("time", f"{trade} came before {intent.command}", about)

    def _intentOf(self, booking: Booking, before: Trade | None) -> Intent | None:
        """
        The intent that a booking belongs to.
        """
        intents = self._history.intents
        if booking.type != DELETE and not booking.isDecision:
            maker = self._history.makerOf(booking.trade.comment)
            return maker if maker is not None and self._isOf(booking, maker) else None
        order = booking.trade.order
        fitting = [
            intent
            for intent in intents
            if intent.isOfOrder
            and intent.data["order"] == order
            and _fits(intent, booking.trade, before)
            and intent.command == booking.command
            and self._isOf(booking, intent)
        ]
        # If several intents are the same, it is the one whose reply said so; or one
        # that had come when the order was changed, and not only when that was booked.
        return max(
            fitting,
            key=lambda intent: (_likelihood(intent), self._isInTime(booking, intent)),
            default=None,
        )

    def _isInTime(self, booking: Booking, intent: Intent) -> bool:
        """
        Whether a trade may have been made after an intent had come.
        """
        delivered = [a.delivered[0] for a in intent.attempts if a.delivered]
        first, last = self._world.wallBetween(min(delivered), booking.handed[0])
        return int(first) <= booking.trade.timestamp <= last

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


def _request(intent: Intent) -> Request:
    """
    The request of an intent, in the model's form.
    """
    data = intent.data
    if intent.isOfOrder:
        comment = data.get("comment", "")
        return Request(
            intent.command,
            order=data["order"],
            comment=comment,
            approves=intent.approves,
        )
    return Request(
        intent.command,
        intent.cmd,
        login=data["login"],
        amount=intent.amount,
        comment=data["comment"],
        open_time=data.get("open_time"),
        close_time=data.get("close_time"),
        isRequest=intent.isRequest,
    )


def _fits(intent: Intent, trade: Trade, before: Trade | None) -> bool:
    """
    Whether an intent with little more than an order may have made this trade.
    """
    if before is None:
        return False
    return trade == made(_request(intent), before, trade.order, trade.timestamp)


def _likelihood(intent: Intent) -> int:
    """
    How likely it is that an intent was booked.
    """
    statuses = [attempt.status for attempt in intent.attempts]
    if 200 in statuses:
        return 2
    return int(504 in statuses or 0 in statuses)


def _keyOf(extID: str) -> str | None:
    """
    The key for an C{extID} that counts as one: 7 and 7.0 are C{#7}.
    """
    if not extID:
        return None
    return extID[1:-1] if extID.startswith('"') else f"#{float(extID):.0f}"

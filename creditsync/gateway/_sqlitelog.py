"""
The intent log in the database of an SQLite ledger.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from attrs import define, field
from msgspec.json import encode
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE
from creditsync.gateway._intents import Alarm, IIntentLog, Intent, firstOf, givePlaces
from creditsync.gateway._states import FREE, OPEN, State
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.methods import DELETING_METHODS
from creditsync.records import Deletion, Operation, Reservation, Trade

COLUMNS: Final = (
    "number",
    "state",
    "type",
    '"order"',
    "login",
    "cmd",
    "amount",
    "comment",
    "open_time",
    "close_time",
    "command",
    "principal",
    "role",
    "key",
    "asked_order",
    "asked_open_time",
    "asked_close_time",
    "attempts",
    "looks",
    "sent_at",
    "why",
    "decided_by",
    "place",
)
# Those that change.
_CHANGING: Final = ("state", '"order"', *COLUMNS[COLUMNS.index("attempts") :])
# All rows of a commit in one statement, as a JSON array: for each statement a thread
# beside a busy reactor may wait 5 ms to get the GIL back.
_WRITE: Final = (
    f"INSERT INTO intent ({', '.join(COLUMNS)}) SELECT "
    + ", ".join(f"json_extract(value, '$[{at}]')" for at in range(len(COLUMNS)))
    + " FROM json_each(?) WHERE true ON CONFLICT (number) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _CHANGING)
)
READ: Final = f"SELECT {', '.join(COLUMNS)} FROM intent"
_IS_FREE: Final = f"({', '.join(repr(state.value) for state in sorted(FREE, key=str))})"
_IS_OPEN: Final = f"({', '.join(repr(state.value) for state in sorted(OPEN, key=str))})"

_CMDS: Final = {method.name: method.cmds for method in DELETING_METHODS}


def rowOf(intent: Intent) -> tuple[Any, ...]:
    """
    The row of an intent.
    """
    asked = intent.operation
    openTime = closeTime = None
    if isinstance(asked, Operation):
        openTime, closeTime = asked.openTime, asked.closeTime
    return (
        intent.number,
        intent.state.value,
        intent.type,
        intent.order,
        intent.login,
        intent.cmd,
        intent.amount,
        intent.comment,
        intent.openTime,
        intent.closeTime,
        asked.command,
        asked.principal,
        asked.role,
        asked.key,
        asked.order,
        openTime,
        closeTime,
        intent.attempts,
        intent.looks,
        intent.sentAt,
        intent.why,
        intent.decidedBy,
        intent.place,
    )


def intentOf(row: Sequence[Any]) -> Intent:
    """
    The intent of a row.
    """
    number, state, type, order, login, cmd, amount, comment = row[:8]
    openTime, closeTime, command, principal, role, key = row[8:14]
    askedOrder, askedOpenTime, askedCloseTime = row[14:17]
    asked: Operation | Deletion
    if type == EV_RECORD_DELETE:
        cmds = _CMDS[command.removesuffix("Sync")]
        asked = Deletion(command, askedOrder, cmds, principal, key, role=role)
    else:
        asked = Operation(
            command,
            cmd,
            login,
            amount,
            comment,
            askedOrder,
            askedOpenTime,
            askedCloseTime,
            principal,
            key,
            role=role,
        )
    return Intent(
        number,
        type,
        asked,
        login,
        cmd,
        amount,
        comment,
        openTime,
        closeTime,
        State(state),
        order,
        *row[17:],
    )


@implementer(IIntentLog)
@define(eq=False)
class SQLiteIntentLog:
    """
    The log in the database of an L{SQLiteLedger}.
    """

    ledger: SQLiteLedger
    mark: int = field(default=0, init=False)
    interrupted: Callable[[], object] = field(default=lambda: None, init=False)
    _number: int = field(default=0, init=False)

    @property
    def problem(self) -> str | None:
        """
        See L{IIntentLog.problem}: a file is always there.
        """
        return None

    def open(self) -> "Deferred[None]":
        """
        See L{IIntentLog.open}.

        @raise creditsync.errors.LedgerProblem: The ledger can't be used.
        """
        return (self.ledger.open() or succeed(None)).addCallback(self._make)

    def _make(self, _: None) -> "Deferred[None]":
        made = self.ledger.commit([], lambda: [(each, ()) for each in script()])
        return made.addCallback(self._made)

    def _made(self, _: None) -> None:
        [[self.mark]] = self.ledger.select("SELECT update_time FROM caught_up")
        [[self._number]] = self.ledger.select(
            "SELECT ifnull(max(number), 0) FROM intent"
        )

    def epochs(self) -> list[str]:
        """
        See L{IIntentLog.epochs}.
        """
        rows = self.ledger.select("SELECT epoch FROM life ORDER BY number")
        return [epoch for [epoch] in rows]

    def close(self) -> None:
        """
        See L{IIntentLog.close}.
        """
        self.ledger.close()

    def setGroups(self, groups: Mapping[int, str]) -> "Deferred[None]":
        """
        See L{IIntentLog.setGroups}.
        """
        return self.ledger.setGroups(groups)

    def nextNumber(self) -> int:
        """
        See L{IIntentLog.nextNumber}.
        """
        self._number += 1
        return self._number

    def unfinished(self) -> list[Intent]:
        """
        See L{IIntentLog.unfinished}.
        """
        return self._find(f"WHERE state IN {_IS_OPEN} ORDER BY number")

    def withKey(self, principal: int, key: str) -> Intent | None:
        """
        See L{IIntentLog.withKey}.
        """
        return firstOf(
            self._find(
                f"WHERE principal = ? AND key = ? AND state NOT IN {_IS_FREE}",
                principal,
                key,
            )
        )

    def withOrder(self, order: int) -> Intent | None:
        """
        See L{IIntentLog.withOrder}.
        """
        return firstOf(
            self._find(
                f'WHERE "order" = ? AND state NOT IN {_IS_FREE}'
                " ORDER BY number DESC LIMIT 1",
                order,
            )
        )

    def isTaken(self, content: tuple[int, int, int, str, int | None]) -> bool:
        """
        See L{IIntentLog.isTaken}.
        """
        return any(each.state not in FREE for each in self._withContent(content))

    def withContent(
        self, content: tuple[int, int, int, str, int | None]
    ) -> Intent | None:
        """
        See L{IIntentLog.withContent}.
        """
        return firstOf(self._withContent(content))

    def _withContent(
        self, content: tuple[int, int, int, str, int | None]
    ) -> list[Intent]:
        login, _, _, _, openTime = content
        assert openTime is not None
        found = self._find(
            f"WHERE login = ? AND open_time = ? AND type = {EV_RECORD_ADD}"
            " ORDER BY number DESC",
            login,
            openTime,
        )
        return [each for each in found if each.content == content]

    def versions(self, order: int) -> list[Trade]:
        """
        See L{IIntentLog.versions}.
        """
        rows = self.ledger.select(
            'SELECT "order", login, cmd, state, profit, comment, open_time, close_time,'
            ' timestamp FROM journal WHERE "order" = ? ORDER BY place',
            order,
        )
        return [Trade(*row) for row in rows]

    def lastBooked(self, limit: int) -> list[Intent]:
        """
        See L{IIntentLog.lastBooked}.
        """
        return self._find("WHERE state = 'booked' ORDER BY number DESC LIMIT ?", limit)

    def noteOrder(self, order: int) -> None:
        """
        See L{IIntentLog.noteOrder}.
        """
        self.ledger.noteOrder(order)

    def write(
        self,
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
        alarms: Sequence[Alarm] = (),
    ) -> "Deferred[None]":
        """
        See L{IIntentLog.write}.
        """

        def statements() -> Iterable[tuple[str, Sequence[Any]]]:
            givePlaces(intents, reservations, self.ledger.placeOf)
            if intents:
                yield _WRITE, (encode([rowOf(each) for each in intents]).decode(),)
            for alarm in alarms:
                yield "INSERT INTO alarm (timestamp, text) VALUES (?, ?)", alarm
            if mark != self.mark:
                yield "UPDATE caught_up SET update_time = ?", (mark,)

        def written(_: None) -> None:
            self.mark = mark

        return self.ledger.commit(reservations, statements).addCallback(written)

    def _find(self, condition: str, *values: int | str) -> list[Intent]:
        rows = self.ledger.select(f"{READ} {condition}", *values)
        return [intentOf(row) for row in rows]


def script() -> Iterable[str]:
    """
    The statements that make the tables, where there are none.
    """
    text = files(__package__).joinpath("intents.sql").read_text("utf-8")
    # Each has its semicolon at the end of a line.
    return filter(str.strip, text.split(";\n"))

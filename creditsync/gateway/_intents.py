"""
The intent log: what was, or may have been, sent to the platform.

A row is durable before its first byte is sent, and it is changed by the same
transaction that appends its booking to the journal. So after a crash at any point the
log names everything that the platform may have, and nothing is booked here twice.

The log stands in the ledger's own database.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

from attrs import Factory, define, evolve, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import Attribute, Interface, implementer

from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE
from creditsync.gateway._states import FREE, OPEN, State, checkMove
from creditsync.interfaces import ILedger
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.methods import DELETING_METHODS
from creditsync.records import Deletion, Operation, Reservation, Trade


@define(eq=False)
class Intent:
    """
    An operation for the platform.

    @ivar number: Its number in the log, from 1.
    @ivar type: Of the trade event that it leads to: one of the C{EV_RECORD_*} codes.
    @ivar operation: As requested. Its own times may lack in it.
    @ivar amount: Signed, in 10⁻⁸ units.
    @ivar openTime: As it is sent, in UNIX seconds.
    @ivar order: The platform's, or 0 while it is not known.
    @ivar attempts: How often it was sent.
    @ivar looks: How many look-ups have not found it since it was sent.
    @ivar sentAt: When it was sent last, in UNIX seconds.
    @ivar why: What led to the state, for people.
    @ivar decidedBy: The person who has decided, or "".
    @ivar place: Of its record in the journal, once that is durable.
    """

    number: int
    type: int
    operation: Operation | Deletion
    login: int
    cmd: int
    amount: int
    comment: str
    openTime: int | None = None
    closeTime: int | None = None
    state: State = State.NEW
    order: int = 0
    attempts: int = 0
    looks: int = 0
    sentAt: int = 0
    why: str = ""
    decidedBy: str = ""
    place: int | None = None

    def move(self, state: State, why: str = "") -> None:
        """
        Change the state.

        @raise IllegalMove: The table of L{creditsync.gateway._states} lacks that.
        """
        checkMove(self.state, state)
        self.state, self.why = state, why

    @property
    def content(self) -> tuple[int, int, int, str, int | None]:
        """
        What identifies it at the platform while its order is not known.
        """
        return self.login, self.cmd, self.amount, self.comment, self.openTime

    @property
    def isOpen(self) -> bool:
        """
        Whether it was sent and its outcome is not known.
        """
        return self.state in OPEN


class IIntentLog(Interface):
    """
    The intents of a gateway, and the ledger in which they stand.

    Except for L{write} everything is about what is durable.
    """

    ledger: ILedger = Attribute("Has the journal.")
    mark: int = Attribute(
        "The platform's greatest update_time up to which the journal has all changes; 0"
        " if that is not known."
    )

    def open() -> "Deferred[None]":
        """
        Open the ledger, and make the log where there is none.
        """

    def nextNumber() -> int:
        """
        A number for a new intent.
        """

    def unfinished() -> Sequence[Intent]:
        """
        The intents whose outcome is not known, in the order of their numbers.
        """

    def withKey(principal: int, key: str) -> Intent | None:
        """
        The one that was sent under a key, unless nothing was booked under it.
        """

    def withOrder(order: int) -> Intent | None:
        """
        The last one of an order that was not refused.
        """

    def isTaken(content: tuple[int, int, int, str, int | None]) -> bool:
        """
        Whether an intent has this content, of those that were not refused.
        """

    def versions(order: int) -> Sequence[Trade]:
        """
        All records of an order in the journal.
        """

    def lastBooked(limit: int) -> Sequence[Intent]:
        """
        The last intents that are booked, the newest first.
        """

    def noteOrder(order: int) -> None:
        """
        An order of the platform is about to be written.
        """

    def write(
        intents: Collection[Intent], reservations: Sequence[Reservation], mark: int
    ) -> "Deferred[None]":
        """
        Make intents and reservations durable, in one transaction. The next may begin
        only when this has ended. An intent without a place that is booked gets the
        place of its order.

        @return: Fires when all of it is on disk. If it fails, it is unknown what is.
        """


_COLUMNS: Final = (
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
_CHANGING: Final = ("state", '"order"', *_COLUMNS[_COLUMNS.index("attempts") :])
_WRITE: Final = (
    f"INSERT INTO intent ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (number) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _CHANGING)
)
_READ: Final = f"SELECT {', '.join(_COLUMNS)} FROM intent"
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
    _number: int = field(default=0, init=False)

    def open(self) -> "Deferred[None]":
        """
        See L{IIntentLog.open}.

        @raise creditsync.errors.LedgerProblem: The ledger can't be used.
        """
        return (self.ledger.open() or succeed(None)).addCallback(self._make)

    def _make(self, _: None) -> "Deferred[None]":
        script = files(__package__).joinpath("intents.sql").read_text("utf-8")
        statements = [(each, ()) for each in _statements(script)]
        made = self.ledger.commit([], lambda: statements)
        return made.addCallback(self._made)

    def _made(self, _: None) -> None:
        [[self.mark]] = self.ledger.select("SELECT update_time FROM caught_up")
        [[self._number]] = self.ledger.select(
            "SELECT ifnull(max(number), 0) FROM intent"
        )

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
        return _first(
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
        return _first(
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
        login, _, _, _, openTime = content
        assert openTime is not None
        found = self._find(
            f"WHERE login = ? AND open_time = ? AND type = {EV_RECORD_ADD}"
            f" AND state NOT IN {_IS_FREE}",
            login,
            openTime,
        )
        return any(each.content == content for each in found)

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
    ) -> "Deferred[None]":
        """
        See L{IIntentLog.write}.
        """

        def statements() -> Iterable[tuple[str, Sequence[Any]]]:
            _givePlaces(intents, reservations, self.ledger.placeOf)
            yield from ((_WRITE, rowOf(intent)) for intent in intents)
            if mark != self.mark:
                yield "UPDATE caught_up SET update_time = ?", (mark,)

        def written(_: None) -> None:
            self.mark = mark

        return self.ledger.commit(reservations, statements).addCallback(written)

    def _find(self, condition: str, *values: int | str) -> list[Intent]:
        rows = self.ledger.select(f"{_READ} {condition}", *values)
        return [intentOf(row) for row in rows]


def _statements(script: str) -> Iterable[str]:
    """
    The statements of a script, each with its semicolon at the end of a line.
    """
    return filter(str.strip, script.split(";\n"))


def _first(found: Sequence[Intent]) -> Intent | None:
    return found[0] if found else None


def _givePlaces(
    intents: Collection[Intent],
    reservations: Sequence[Reservation],
    placeOf: Callable[[int], int | None],
) -> None:
    """
    Give each booked intent the place of its record.
    """
    for intent in intents:
        if intent.state is not State.BOOKED or intent.place is not None:
            continue
        for each in reservations:
            if each.operation is intent.operation:
                intent.place = each.place
                break
        else:
            intent.place = placeOf(intent.order)


@implementer(IIntentLog)
@define(eq=False)
class MemoryIntentLog:
    """
    The log in dictionaries, for tests. What is written survives the gateway that has
    written it, as a file survives its process.
    """

    ledger: MemoryLedger = Factory(MemoryLedger)
    mark: int = field(default=0, init=False)
    _rows: dict[int, Intent] = field(factory=dict, init=False)
    _number: int = field(default=0, init=False)

    def open(self) -> "Deferred[None]":
        """
        See L{IIntentLog.open}.
        """
        self._number = max(self._rows, default=0)
        return succeed(None)

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
        return [evolve(each) for _, each in sorted(self._rows.items()) if each.isOpen]

    def withKey(self, principal: int, key: str) -> Intent | None:
        """
        See L{IIntentLog.withKey}.
        """
        return _first(
            [
                evolve(each)
                for each in self._kept()
                if (each.operation.principal, each.operation.key) == (principal, key)
            ]
        )

    def withOrder(self, order: int) -> Intent | None:
        """
        See L{IIntentLog.withOrder}.
        """
        found = [evolve(each) for each in self._kept() if each.order == order]
        return _first(found[::-1])

    def isTaken(self, content: tuple[int, int, int, str, int | None]) -> bool:
        """
        See L{IIntentLog.isTaken}.
        """
        return any(
            each.content == content and each.type == EV_RECORD_ADD
            for each in self._kept()
        )

    def _kept(self) -> list[Intent]:
        every = [each for _, each in sorted(self._rows.items())]
        return [each for each in every if each.state not in FREE]

    def versions(self, order: int) -> list[Trade]:
        """
        See L{IIntentLog.versions}.
        """
        every = self.ledger.events(0, self.ledger.head)
        trades = [each.data for each in every if each.order == order]
        return [each for each in trades if isinstance(each, Trade)]

    def lastBooked(self, limit: int) -> list[Intent]:
        """
        See L{IIntentLog.lastBooked}.
        """
        booked = [each for each in self._kept() if each.state is State.BOOKED]
        return [evolve(each) for each in booked[: -limit - 1 : -1]]

    def noteOrder(self, order: int) -> None:
        """
        See L{IIntentLog.noteOrder}.
        """
        self.ledger.nextOrder = max(self.ledger.nextOrder, order + 1)

    def write(
        self,
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
    ) -> "Deferred[None]":
        """
        See L{IIntentLog.write}.

        @return: Has already fired.
        """
        if reservations:
            self.ledger.commit(reservations)
        _givePlaces(intents, reservations, self.ledger.placeOf)
        for intent in intents:
            self._rows[intent.number] = evolve(intent)
        self.mark = mark
        return succeed(None)

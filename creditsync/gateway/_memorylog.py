"""
The intent log in dictionaries, for tests.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from attrs import Factory, define, evolve, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from creditsync.codes import EV_RECORD_ADD
from creditsync.gateway._intents import Alarm, IIntentLog, Intent, firstOf, givePlaces
from creditsync.gateway._states import FREE, State
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Reservation, Trade


@implementer(IIntentLog)
@define(eq=False)
class MemoryIntentLog:
    """
    The log in dictionaries, for tests. What is written survives the gateway that has
    written it, as a file survives its process.
    """

    ledger: MemoryLedger = Factory(MemoryLedger)
    mark: int = field(default=0, init=False)
    interrupted: Callable[[], object] = field(default=lambda: None, init=False)
    problem: str | None = field(default=None, init=False)
    _rows: dict[int, Intent] = field(factory=dict, init=False)
    alarms: list[Alarm] = field(factory=list, init=False)
    _number: int = field(default=0, init=False)

    def open(self) -> "Deferred[None]":
        """
        See L{IIntentLog.open}.
        """
        self._number = max(self._rows, default=0)
        return succeed(None)

    def epochs(self) -> list[str]:
        """
        See L{IIntentLog.epochs}.
        """
        return [self.ledger.epoch]

    def close(self) -> None:
        """
        See L{IIntentLog.close}.
        """
        self.ledger.close()

    def setGroups(self, groups: Mapping[int, str]) -> "Deferred[None]":
        """
        See L{IIntentLog.setGroups}.

        @return: Has already fired.
        """
        self.ledger.setGroups(groups)
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
        return firstOf(
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
        return firstOf(found[::-1])

    def isTaken(self, content: tuple[int, int, int, str, int | None]) -> bool:
        """
        See L{IIntentLog.isTaken}.
        """
        return any(
            each.content == content and each.type == EV_RECORD_ADD
            for each in self._kept()
        )

    def withContent(
        self, content: tuple[int, int, int, str, int | None]
    ) -> Intent | None:
        """
        See L{IIntentLog.withContent}.
        """
        found = [
            evolve(each)
            for _, each in sorted(self._rows.items())
            if each.content == content and each.type == EV_RECORD_ADD
        ]
        return firstOf(found[::-1])

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
        alarms: Sequence[Alarm] = (),
    ) -> "Deferred[None]":
        """
        See L{IIntentLog.write}.

        @return: Has already fired.
        """
        self.alarms.extend(alarms)
        if reservations:
            self.ledger.commit(reservations)
        givePlaces(intents, reservations, self.ledger.placeOf)
        for intent in intents:
            self._rows[intent.number] = evolve(intent)
        self.mark = mark
        return succeed(None)

"""
What clients request of a gateway, and what a request gets that was made before.

A request that can't be sent is refused here. Any other one becomes a course, which
L{Operations<creditsync.gateway._operations.Operations>} carries out.
"""

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from creditsync._failing import FailureNotifier
from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE
from creditsync.errors import (
    Busy,
    IdempotencyKeyReused,
    InvalidData,
    NotFound,
    Refusal,
    ShuttingDown,
    UnknownCommand,
)
from creditsync.gateway._courses import Course
from creditsync.gateway._intents import IIntentLog, Intent
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._journal import Journal
from creditsync.gateway._operations import Operations
from creditsync.gateway._settling import isHeld
from creditsync.gateway._states import State
from creditsync.records import (
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Reservation,
    Trade,
    difference,
)


class Requests:
    """
    The part of a gateway that takes requests.
    """

    journal: Journal
    operations: Operations
    running: Any
    _clock: IReactorTime
    _log: IIntentLog
    _upstream: IUpstream
    _failing: FailureNotifier
    _maxQueued: int

    def submit(self, operation: AnyOperation) -> "Reservation | Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.

        @raise InvalidData: The comment ends with a tag of the gateway.
        @raise UnknownCommand: Finance requests are made and decided at the platform.
        @raise IdempotencyKeyReused: The key was used for a different request.
        @raise Busy: Nothing was sent: the platform can't be reached, or the account is
            blocked by an operation whose outcome is unknown.
        @raise ShuttingDown: The gateway is stopping, or has failed.
        """
        if not self.running or self._failing.cause is not None:
            raise ShuttingDown()
        if isinstance(operation, Decision) or getattr(operation, "isRequest", False):
            raise UnknownCommand(
                "finance requests are made and decided at the platform itself"
            )
        if operation.key is not None:
            earlier = self._earlier(operation, operation.key)
            if earlier is not None:
                return earlier
        if isinstance(operation, Operation) and self.journal.tags.isForged(
            operation.comment
        ):
            raise InvalidData("data.comment ends with a tag of the gateway")
        if not self._upstream.isConnected:
            raise Busy(f"the platform can't be reached: {self._upstream.problem}")
        if self._log.problem is not None:
            raise Busy(f"nothing can be sent: {self._log.problem}")
        courses = self.operations.courses
        if len(courses) >= self._maxQueued:
            raise Busy("too many operations are under way", "max-queued")
        if isinstance(operation, Deletion):
            return self._delete(operation)
        self._checkBlocked(operation.login)
        course = Course(self._intentOf(operation), self._clock.seconds())
        return self._requested(course)

    def _requested(self, course: Course) -> "Deferred[Reservation]":
        reserved = course.whenReserved()
        self.operations.request(course)
        return reserved

    def _checkBlocked(self, login: int) -> None:
        blocked = self.operations.blocked(login)
        if blocked is not None:
            raise blocked

    def _intentOf(self, operation: Operation) -> Intent:
        number = self._log.nextNumber()
        return Intent(
            number,
            EV_RECORD_ADD,
            operation,
            operation.login,
            operation.cmd,
            operation.amount,
            self.journal.tags.put(operation.comment, number),
            operation.openTime,
            operation.closeTime,
        )

    def _delete(self, deletion: Deletion) -> "Deferred[Reservation]":
        """
        Find out whose turn a deletion has to wait for, and then request it.
        """
        intent = Intent(
            self._log.nextNumber(),
            EV_RECORD_DELETE,
            deletion,
            login=0,
            cmd=0,
            amount=0,
            comment="",
        )
        course = Course(intent, self._clock.seconds())
        reserved = course.whenReserved()
        self.operations.courses.index(course)
        finding = Deferred.fromCoroutine(self._findOwner(course, deletion.order))
        finding.addErrback(self._notFound, course)
        return reserved

    async def _findOwner(self, course: Course, order: int) -> None:
        trade = self.journal.current(order)
        if trade is None:
            trade = await self.operations.existing(order)
        if trade is None:
            raise NotFound(f"there is no order {order}")
        self._checkBlocked(trade.login)
        course.intent.login = trade.login
        self.operations.request(course)

    def _notFound(self, why: Failure, course: Course) -> None:
        why.trap(Refusal)
        assert isinstance(why.value, Refusal)
        course.intent.move(State.REFUSED, why.value.message)
        self.operations.refuse(course, why.value)

    def _earlier(
        self, operation: Operation | Deletion, key: str
    ) -> "Reservation | Deferred[Reservation] | None":
        """
        What an earlier request with the same key gets, or L{None}.

        @raise IdempotencyKeyReused: That was a different request.
        """
        course = self.operations.courses.withKey(operation.principal, key)
        intent = self._log.withKey(operation.principal, key)
        if course is not None:
            intent = course.intent
        if intent is None:
            return None
        tags = self.journal.tags
        intent.operation = tags.asked(intent.operation)
        member = difference(tags.kept(intent.operation), tags.kept(operation))
        if member is not None:
            raise IdempotencyKeyReused(member, intent.order)
        if course is None:
            return self._replay(intent)
        if intent.state is State.HELD:
            return fail(isHeld(intent))
        if course.reservation is not None:
            return course.reservation
        return course.whenReserved()

    def _replay(self, intent: Intent) -> Reservation:
        assert intent.state is State.BOOKED and intent.place is not None
        [event] = self._log.ledger.events(intent.place - 1, 1)
        assert isinstance(event.data, Trade)
        return Reservation(
            intent.type, event.data, intent.operation, isReplay=True, place=event.place
        )

"""
What was submitted and has no verdict yet.

Each lane takes what has queued since its last batch, and books that. Its requests are
told in the order of submission, in one reactor turn: each then waits for its event
before that can be published.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import psycopg
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.counters import Counters
from creditsync.errors import InvalidData, OutcomeUnknown
from creditsync.postgres._booking import Site, Submission, Verdict, refusal
from creditsync.postgres._connection import ConnectionLost
from creditsync.postgres._feed import Feed
from creditsync.postgres._lane import MAX_BATCH, Lane, NumberTaken
from creditsync.postgres._numbers import SLOTS, Numbers
from creditsync.records import AnyOperation, Operation, Reservation

_log = Logger()

# Seconds after which the reserving of numbers is tried again.
_RETRY: Final = 0.1


@define(eq=False)
class _Queue:
    """
    The operations that one lane is to book.

    @ivar proofs: Fire after the next commit.
    @ivar since: When the first of them was queued.
    @ivar loop: Fires when all are booked; L{None} if there is nothing to do.
    """

    lane: Lane
    waiting: deque[Submission] = field(init=False, factory=deque)
    proofs: "list[Deferred[str]]" = field(init=False, factory=list)
    since: float = field(init=False, default=0.0)
    wake: IDelayedCall | None = field(init=False, default=None)
    loop: Deferred[None] | None = field(init=False, default=None)

    def putBack(self, batch: "_Batch") -> None:
        """
        Have a batch queued again, before all others.
        """
        self.waiting.extendleft(reversed(batch.submissions))
        self.proofs = batch.proofs + self.proofs


@define(eq=False)
class _Batch:
    """
    Operations whose booking has begun. There may be none, if only a proof is wanted.

    @ivar proofs: What waits for its commit.
    @ivar since: When the first of them was queued.
    @ivar started: When the booking has begun.
    @ivar number: Of the batch, when there are verdicts.
    @ivar site: By which they were judged, then.
    @ivar server: Where they were.
    """

    submissions: Sequence[Submission]
    proofs: "list[Deferred[str]]"
    since: float
    started: float
    verdicts: "Deferred[list[Verdict | None]]"
    number: int = field(init=False, default=0)
    site: Site = field(init=False, factory=Site)
    server: str = field(init=False, default="")


@define(eq=False)
class Queues:
    """
    All that a node has yet to book.

    @ivar _booked: Called after each batch of which something was booked.
    @ivar _failed: Called with what keeps a lane from booking.
    @ivar proof: The server of the last batch, and the place up to which that has proven
        what is there.
    @ivar count: How many operations have no verdict.
    @ivar cause: Why no further batch may begin, and none is answered, or L{None}.
    """

    _clock: IReactorTime
    _feed: Feed
    _numbers: Numbers
    _lanes: Sequence[Lane]
    _booked: Callable[[], None]
    _failed: Callable[[Failure], None]
    _counters: Counters | None = None
    proof: tuple[str, int] = field(init=False, default=("", 0))
    count: int = field(init=False, default=0)
    cause: str | None = field(init=False, default=None)
    _queues: list[_Queue] = field(init=False)
    _byOrder: dict[int, Submission] = field(init=False, factory=dict)
    _byKey: dict[tuple[int, str], Submission] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._queues = [_Queue(lane) for lane in self._lanes]

    @property
    def since(self) -> float | None:
        """
        When the oldest operation was queued, by the clock, or L{None}.
        """
        busy = [each.since for each in self._queues if each.loop or each.wake]
        return min(busy, default=None)

    def submit(self, operation: AnyOperation) -> "Deferred[Reservation]":
        """
        Queue an operation.

        @return: Fires with its reservation, or fails with what refuses it.
        @raise Busy: There is no number for it.
        """
        if "\0" in getattr(operation, "comment", ""):
            raise InvalidData("data.comment has a character that can't be stored")
        if not isinstance(operation, Operation):
            fresh, slot = 0, operation.order % SLOTS
        else:
            fresh, slot = self._numbers.take(operation.login), operation.login % SLOTS
            operation.reserved = operation.order or fresh
        submission = Submission(operation, fresh)
        self.count += 1
        if fresh:
            self._byOrder[fresh] = submission
        if operation.key is not None:
            self._byKey[operation.principal, operation.key] = submission
        # All operations of an account are in one lane.
        queue = self._queues[slot % len(self._queues)]
        queue.waiting.append(submission)
        self._wake(queue)
        return submission.reserved

    def prove(self) -> Deferred[str]:
        """
        Make sure that whatever any node has committed so far is where it has to be: by
        the next batch, or by a commit that books nothing.

        @return: Fires when that is so, with the server on which it is. Fails with
            L{OutcomeUnknown}.
        """
        if self.cause is not None:
            return fail(OutcomeUnknown(self.cause))
        proven: Deferred[str] = Deferred()
        [queue, *_] = self._queues
        queue.proofs.append(proven)
        self._wake(queue)
        return proven

    def _wake(self, queue: _Queue) -> None:
        if queue.wake is None and queue.loop is None:
            queue.since = self._clock.seconds()
            # Not now: whatever else arrives in this reactor turn shares the batch.
            queue.wake = self._clock.callLater(0, self._start, queue)

    def settledOrder(self, order: int) -> Deferred[None]:
        """
        Wait for the verdict on the operation for which a number was reserved, if it
        has none yet.
        """
        return _settled(self._byOrder.get(order))

    def settledKey(self, principal: int, key: str) -> Deferred[None]:
        """
        The same for the last operation with a key.
        """
        return _settled(self._byKey.get((principal, key)))

    async def drain(self) -> None:
        """
        Wait until all is booked.
        """
        while any(each.wake or each.loop for each in self._queues):
            for queue in self._queues:
                if queue.wake is not None:
                    queue.wake.cancel()
                    self._start(queue)
            for queue in self._queues:
                if queue.loop is not None:
                    await queue.loop

    def giveUp(self, cause: str) -> None:
        """
        Book nothing more. What is left may be booked all the same.
        """
        self.cause = cause
        for queue in self._queues:
            left, queue.waiting = queue.waiting, deque()
            for each in left:
                unknown = OutcomeUnknown(cause, each.operation.reserved)
                self._end(each, Failure(unknown))
            proofs, queue.proofs = queue.proofs, []
            for proven in proofs:
                proven.errback(OutcomeUnknown(cause))

    def _start(self, queue: _Queue) -> None:
        queue.wake = None
        ended: Deferred[None] = Deferred()
        queue.loop = ended
        looping = Deferred.fromCoroutine(self._mainLoop(queue))
        looping.addErrback(self._failed)

        def end(_: object) -> None:
            queue.loop = None
            ended.callback(None)

        looping.addCallback(end)

    async def _mainLoop(self, queue: _Queue) -> None:
        batch = self._begin(queue)
        while batch is not None:
            try:
                verdicts = await batch.verdicts
            except NumberTaken:
                queue.putBack(batch)
                await self._renumber(batch.submissions)
                batch = self._begin(queue)
                continue
            except BaseException:
                queue.putBack(batch)
                raise
            if self.cause is not None:
                # Meanwhile another lane has found out that nothing is to be trusted.
                queue.putBack(batch)
                self.giveUp(self.cause)
                return
            lane = queue.lane
            batch.number, batch.site = lane.batch, lane.judgedBy
            batch.server = lane.server
            pairs = zip(batch.submissions, verdicts, strict=True)
            again = [each for each, verdict in pairs if verdict is None]
            queue.waiting.extendleft(reversed(again))
            # PostgreSQL books the next batch while requests are told of this one.
            following = self._begin(queue)
            try:
                self._settle(lane, batch, verdicts)
            except BaseException:
                if following is not None:
                    queue.putBack(following)
                    # Nobody waits for it any more.
                    following.verdicts.addErrback(lambda _: None)
                raise
            batch = following or self._begin(queue)

    def _begin(self, queue: _Queue) -> _Batch | None:
        """
        Send the next batch to PostgreSQL, if there is one.
        """
        waiting, proofs, since = queue.waiting, queue.proofs, queue.since
        if not (waiting or proofs) or self.cause is not None:
            return None
        batch = [waiting.popleft() for _ in range(min(len(waiting), MAX_BATCH))]
        queue.proofs = []
        queue.since = started = self._clock.seconds()
        booking = Deferred.fromCoroutine(_bookedBy(queue.lane, batch))
        return _Batch(batch, proofs, since, started, booking)

    async def _renumber(self, batch: Sequence[Submission]) -> None:
        """
        Take other numbers for a batch. A request whose time was over before has been
        told the former one.
        """
        _log.warn(
            "Order numbers of this node were assigned before, as after the loss of"
            " committed work: it takes others."
        )
        while True:
            try:
                await self._numbers.renew()
                break
            except (ConnectionLost, psycopg.Error):
                await deferLater(self._clock, _RETRY)
        for each in batch:
            asked = each.operation
            if isinstance(asked, Operation):
                self._byOrder.pop(each.fresh, None)
                each.fresh = self._numbers.take(asked.login)
                asked.reserved = asked.order or each.fresh
                self._byOrder[each.fresh] = each

    def _settle(
        self, lane: Lane, batch: _Batch, verdicts: Sequence[Verdict | None]
    ) -> None:
        """
        Tell each request what its operation has become, and then publish.
        """
        submissions, reservations = batch.submissions, {}
        for verdict in verdicts:
            if verdict is not None and verdict.verdict == "booked":
                asked = submissions[verdict.item - 1].operation
                asked.isBooked = True
                reservations[verdict.item] = _reservation(verdict, asked)
        for submission, verdict in zip(submissions, verdicts, strict=True):
            if verdict is not None:
                refused = refusal(verdict, submission.operation, batch.site)
                if refused is not None:
                    self._end(submission, Failure(refused))
                else:
                    self._answer(submission, verdict, reservations)
        # A replay is proven as well: its batch was committed after what it found.
        place = max(map(_placeOf, verdicts), default=0)
        if place:
            self.proof = batch.server, place
        self._feed.settled(
            [(each, (lane.node, batch.number, n)) for n, each in reservations.items()],
            batch.server,
            place,
        )
        for proven in batch.proofs:
            proven.callback(batch.server)
        if not reservations:
            return
        self._booked()
        if self._counters is not None:
            count = len(reservations)
            self._counters.committed(count, batch.since, batch.started)

    def _answer(
        self,
        submission: Submission,
        verdict: Verdict,
        reservations: dict[int, Reservation],
    ) -> None:
        assert verdict.seq is not None
        if verdict.verdict == "booked":
            self._end(submission, reservations[verdict.item])
        elif verdict.verdict == "twin":
            self._end(submission, reservations[verdict.seq])
        else:
            replay = _reservation(verdict, submission.operation)
            replay.isReplay = True
            # Not sooner: its client may begin to read at the place that it is told.
            self._feed.whenPublished(verdict.seq, lambda: self._end(submission, replay))

    def _end(self, submission: Submission, outcome: Reservation | Failure) -> None:
        """
        An operation has its verdict.
        """
        self.count -= 1
        asked = submission.operation
        if self._byOrder.get(submission.fresh) is submission:
            del self._byOrder[submission.fresh]
        key = asked.principal, asked.key or ""
        if self._byKey.get(key) is submission:
            del self._byKey[key]
        submission.reserved.callback(outcome)
        for each in submission.settled:
            each.callback(None)


def _settled(submission: Submission | None) -> Deferred[None]:
    if submission is None:
        return succeed(None)
    settled: Deferred[None] = Deferred()
    submission.settled.append(settled)
    return settled


async def _bookedBy(
    lane: Lane, submissions: Sequence[Submission]
) -> list[Verdict | None]:
    if submissions:
        return await lane.book(submissions)
    await lane.prove()
    return []


def _placeOf(verdict: Verdict | None) -> int:
    """
    The place that a verdict tells, or 0.
    """
    if verdict is None or verdict.verdict not in ("booked", "replay"):
        return 0
    return verdict.seq or 0


def _reservation(verdict: Verdict, asked: AnyOperation) -> Reservation:
    assert verdict.type is not None
    return Reservation(
        verdict.type,
        verdict.trade,
        asked,
        balance=verdict.balance,
        credit=verdict.credit,
        place=verdict.seq,
    )

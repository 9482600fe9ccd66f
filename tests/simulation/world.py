"""
Time: one queue of everything that is going to happen, and the clocks.

The monotonic clock is the queue's own. The wall clock differs from it by an
offset that changes in steps. All randomness comes from generators that were
seeded by one: each collaborator has its own, so leaving one of them out
changes little for the others.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

# The wall clock at the beginning: the first second of 2026.
BEGINNING = 1767225600.0


@define
class Violation(Exception):
    """
    A rule of C{docs/protocol.rst} or of the ledger was broken.

    @ivar rule: Which, in a word or two.
    @ivar message: How, in a sentence.
    @ivar about: Texts by which the lines of the trace that belong to it are
        known: an C{extID}, an order, a comment.
    """

    rule: str
    message: str
    about: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@define(eq=False)
class World:
    """
    What time it is, what comes next, and what has happened so far.

    @ivar now: Monotonic seconds.
    @ivar turn: The number of things that have happened: of two moments in one
        second, the earlier one is of the smaller turn.
    @ivar faults: The kinds of fault that may happen.
    @ivar counts: How often each kind has happened.
    """

    seed: int
    faults: frozenset[str]
    now: float = 0.0
    turn: int = 0
    counts: Counter[str] = field(factory=Counter)
    random: Random = field(init=False)
    steps: list[tuple[float, float]] = field(init=False)
    trace: list[tuple[float, str, str, bytes]] = field(init=False, factory=list)
    _queue: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = field(
        init=False, factory=list
    )
    _number: int = field(init=False, default=0)
    _violation: Violation | None = field(init=False, default=None)
    _hash: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.random = Random(self.seed)
        self.steps = [(0.0, BEGINNING)]
        self._hash = blake2b(digest_size=8)

    def generator(self) -> Random:
        """
        A source of randomness for one collaborator.
        """
        return Random(self.random.getrandbits(64))

    def at(self, time: float, function: Callable[..., object], *args: Any) -> None:
        """
        Schedule a function at this time, after those that are already
        scheduled then.
        """
        self._number += 1
        heappush(self._queue, (time, self._number, function, args))

    def later(self, delay: float, function: Callable[..., object], *args: Any) -> None:
        """
        Schedule a function after so many seconds.
        """
        self.at(self.now + delay, function, *args)

    def run(self, until: float) -> None:
        """
        Run everything that is scheduled up to this time.
        """
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, function, args = heappop(queue)
            self.turn += 1
            try:
                function(*args)
            except Violation:
                raise
            except Exception as why:
                where = "".join(traceback.format_tb(why.__traceback__, -3))
                raise Violation("exception", f"{why!r}\n{where}") from why
            if self._violation is not None:
                raise self._violation
        self.now = max(self.now, until)

    def blame(self, rule: str, message: str, *about: str) -> None:
        """
        End the run with a violation, found where it can't be raised.
        """
        self._violation = Violation(rule, message, about)

    def wall(self) -> float:
        """
        The UNIX time.
        """
        return self.now + self.steps[-1][1]

    def wallBetween(self, first: float, last: float) -> tuple[float, float]:
        """
        The earliest and the latest UNIX time between two moments.
        """
        times = []
        for number, (start, offset) in enumerate(self.steps):
            ends = self.steps[number + 1 : number + 2]
            begin, end = max(start, first), min(ends[0][0] if ends else last, last)
            if begin <= end:
                times += [begin + offset, end + offset]
        return min(times), max(times)

    def step(self, seconds: float) -> None:
        """
        Set the wall clock forward, or back.
        """
        self.steps.append((self.now, self.steps[-1][1] + seconds))
        self.happens("clock-step" if seconds > 0 else "clock-step-back")
        self.note("the wall clock", f"steps by {seconds:.3f} s")

    def mayHappen(self, fault: str) -> bool:
        """
        Whether this kind of fault is among those of this seed.
        """
        return fault in self.faults

    def happens(self, fault: str) -> None:
        """
        Count a fault.
        """
        self.counts[fault] += 1

    def note(self, who: str, what: str, data: bytes = b"") -> None:
        """
        Record what happens.
        """
        self.trace.append((self.now, who, what, data))
        self._hash.update(f"{self.now!r} {who} {what} ".encode())
        self._hash.update(data)

    @property
    def digest(self) -> str:
        """
        A digest of everything that happened: the same only for the same
        history.
        """
        return str(self._hash.hexdigest())


@implementer(IReactorTime)
@define(eq=False)
class Reactor:
    """
    The clock that a server is given; it ends with its process.
    """

    _world: World
    _isAlive: bool = True
    _calls: dict[DelayedCall, None] = field(init=False, factory=dict)

    def seconds(self) -> float:
        """
        See L{IReactorTime.seconds}.
        """
        return self._world.now

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],
        *args: object,
        **kwargs: object,
    ) -> DelayedCall:
        """
        See L{IReactorTime.callLater}.
        """
        due = self._world.now + delay
        call = DelayedCall(
            due, callable, args, kwargs, self._forget, self._moved, self.seconds
        )
        self._calls[call] = None
        self._world.at(due, self._call, call)
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        """
        See L{IReactorTime.getDelayedCalls}.
        """
        return list(self._calls)

    def end(self) -> None:
        """
        The process is gone: scheduled calls are dropped.
        """
        self._isAlive = False

    def _forget(self, call: DelayedCall) -> None:
        del self._calls[call]

    def _moved(self, call: DelayedCall) -> None:
        raise NotImplementedError("nobody moves a delayed call here")

    def _call(self, call: DelayedCall) -> None:
        if not self._isAlive or call.cancelled:
            return
        del self._calls[call]
        call.called = 1
        call.func(*call.args, **call.kw)

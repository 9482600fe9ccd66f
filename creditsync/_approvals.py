"""
The finance requests that wait for approval, for the metrics and the console.

Trade events tell of them: one with their state begins the wait, and the next one of
the same order ends it. Those made before the start are found by one search, so that
nothing is read while requests come and go.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from creditsync.codes import EV_RECORD_ADD, TS_FINANCE_OPEN_PENDING
from creditsync.interfaces import IFinanceRequests, ILookups, ITradingRuntime
from creditsync.records import (
    Condition,
    FoundTrades,
    GroupedTrade,
    Trade,
    TradeEvent,
    TradeFilter,
)

# Finance requests that are kept, in some 30 MB: of more, the first ones.
MAX_KEPT: Final = 100_000

_IS_WAITING: Final = (Condition("state", "==", (TS_FINANCE_OPEN_PENDING,)),)

_log = Logger()


def _all(group: str) -> bool:
    return True


def _asMade(trades: Sequence[GroupedTrade]) -> list[TradeEvent]:
    """
    The events that would have made these, in the opposite order.
    """
    return [TradeEvent(EV_RECORD_ADD, trade) for trade, _ in reversed(trades)]


@define(eq=False)
class Approvals:
    """
    The finance requests that wait for approval.

    @ivar isComplete: Whether those made before the start are among them.
    @ivar _makers: Who has made those of them that were asked about.
    @ivar _ended: The orders that may have ended while the search for those of before
        the start runs; L{None} if it doesn't.
    """

    _runtime: ITradingRuntime
    isComplete: bool = field(init=False, default=False)
    _makers: dict[int, int | None] = field(init=False, factory=dict)
    _waiting: dict[int, TradeEvent] = field(init=False, factory=dict)
    _ended: set[int] | None = field(init=False, default=None)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def since(self) -> int | None:
        """
        When the oldest was made, in UNIX seconds, if there is one and it says so.
        """
        oldest = next(iter(self._waiting.values()), None)
        if oldest is None:
            return None
        data = oldest.data
        time = data.timestamp if isinstance(data, Trade) else data.get("timestamp")
        return time if isinstance(time, int) else None

    def newest(self, most: int) -> Iterator[tuple[TradeEvent, int | None]]:
        """
        The newest ones, each with who has made it: the C{id} of the token, or L{None}
        if that is not known.
        """
        for event in islice(reversed(self._waiting.values()), most):
            yield event, self._maker(event)

    def _maker(self, event: TradeEvent) -> int | None:
        if event.operation is not None:
            return event.operation.principal
        if not IFinanceRequests.providedBy(self._runtime):
            return None
        if event.order not in self._makers:
            self._makers[event.order] = self._runtime.makerOf(event.order)
        return self._makers[event.order]

    def observe(self, events: Sequence[TradeEvent]) -> None:
        """
        Observe trade events.
        """
        waiting = self._waiting
        for event in events:
            data = event.data
            state = data.state if isinstance(data, Trade) else data.get("state")
            if state == TS_FINANCE_OPEN_PENDING:
                if len(waiting) < MAX_KEPT:
                    waiting[event.order] = event
            elif event.type != EV_RECORD_ADD:
                if waiting.pop(event.order, None) is not None:
                    self._makers.pop(event.order, None)
                if self._ended is not None:
                    self._ended.add(event.order)

    def find(
        self,
        seconds: float,
        inTurn: "Callable[[Callable[[], Deferred[Any]]], Deferred[Any]]",
    ) -> None:
        """
        Find those that were made before the start, if the trading runtime can.

        @param seconds: How long the search may take.
        @param inTurn: Begins it when it is its turn.
        """
        runtime = self._runtime
        if not ILookups.providedBy(runtime):
            return
        wanted = TradeFilter(
            _IS_WAITING, (("order", True),), MAX_KEPT, 0, _all, seconds
        )
        self._ended = set()
        found = inTurn(lambda: runtime.search(wanted, _asMade))
        found.addCallback(self._found).addErrback(self._notFound)

    def _found(self, found: FoundTrades[list[TradeEvent]]) -> None:
        ended, self._ended = self._ended or set(), None
        events = chain.from_iterable(reversed(found.pages))
        before = {each.order: each for each in events if each.order not in ended}
        self._waiting = {**before, **self._waiting}
        self.isComplete = True

    def _notFound(self, why: Any) -> None:
        self._ended = None
        _log.warn(
            "The finance requests that were made before this start are missing in the"
            " console and the metrics: {why}",
            why=why.value if str(why.value) else why.type.__name__,
        )

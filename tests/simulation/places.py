"""
The rules of places: which cursor each event and each reply has, and from which of
them a client can go on (C{docs/protocol.rst}, "Resuming events").
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict

from attrs import define, field

from tests.simulation.history import Attempt, Booking, History, Moment
from tests.simulation.world import Violation

_CURSOR = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]*)", re.ASCII)


@define(eq=False)
class Places:
    """
    The journal as a list, and how much of it was published at each time.

    @ivar journal: The bookings in their places.
    """

    _history: History
    journal: list[Booking] = field(init=False)
    # When each process published something, and the last place in it.
    _moments: dict[int, list[Moment]] = field(
        init=False, factory=lambda: defaultdict(list)
    )
    _heads: dict[int, list[int]] = field(init=False, factory=lambda: defaultdict(list))

    def __attrs_post_init__(self) -> None:
        booked = self._history.bookings
        self.journal = [each for each in booked if each.place is not None]
        for event in self._history.publications:
            if event.booking is not None and event.booking.place is not None:
                self._moments[event.generation].append(event.at)
                self._heads[event.generation].append(event.booking.place)

    def cursorOf(self, place: int) -> str:
        """
        A place as clients see it.
        """
        return f"{self._history.epoch}-{place}"

    def checkEvent(
        self, booking: Booking | None, cursor: str | None, *about: str
    ) -> None:
        """
        Check that an event has the cursor of its place, if it has one.
        """
        wanted = None
        if booking is not None and booking.place is not None:
            wanted = self.cursorOf(booking.place)
        if cursor != wanted:
            raise Violation(
                "cursor", f"an event has the cursor {cursor}, not {wanted}", about
            )

    def at(self, cursor: str | None) -> int | None:
        """
        The place of a cursor of this ledger, whether it has come to that or not.
        """
        if cursor == "first":
            return 0
        match = None if cursor is None else _CURSOR.fullmatch(cursor)
        if match is None or match[1] != self._history.epoch:
            return None
        return int(match[2])

    def heads(self, attempt: Attempt) -> tuple[int, int]:
        """
        The least and the greatest place that may have been the last one that was
        published, while a request was answered.
        """
        assert attempt.delivered is not None and attempt.reply is not None
        number = attempt.talk.generation
        base = self._history.generations[number].head
        moments, heads = self._moments[number], [base, *self._heads[number]]
        least = heads[bisect_left(moments, attempt.delivered)]
        return least, heads[bisect_right(moments, attempt.reply.written)]

    def isHead(self, attempt: Attempt, cursor: str | None) -> bool:
        """
        Whether a reply may have this cursor as that of the newest event.
        """
        if self._history.isForeign:
            return cursor is None
        place = self.at(cursor)
        least, most = self.heads(attempt)
        return place is not None and least <= place <= most and cursor != "first"

    def mayResume(self, attempt: Attempt) -> bool:
        """
        Whether a client may go on behind the place in this request.
        """
        place = self.at(attempt.intent.data["since"])
        return place is not None and place <= self.heads(attempt)[1]

    def isGone(self, attempt: Attempt) -> bool:
        """
        Whether the place in this request had to be refused with the head that the
        reply has.
        """
        assert attempt.reply is not None
        place = self.at(attempt.intent.data["since"])
        isOther = place is None or place > self.heads(attempt)[0]
        head = attempt.reply.value.get("data", {}).get("head")
        return isOther and self.isHead(attempt, head)

    def isLastChange(
        self, attempt: Attempt, booking: Booking | None, cursor: str | None
    ) -> bool:
        """
        Whether a look-up may have this cursor.

        @param booking: The change whose trade it shows, or L{None} if it shows one
            that is under way.
        """
        place = self.at(cursor)
        if cursor is None:
            # Nothing was booked yet.
            return booking is None or booking.place is None
        least, most = self.heads(attempt)
        if place is None or place > most:
            return False
        if booking is None or booking.place is None:
            return True
        # While it is being published, the place is one before it.
        return place == booking.place or least <= place < booking.place

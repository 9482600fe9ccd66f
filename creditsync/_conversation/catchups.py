"""
Sessions that read the journal until they have caught up with what is published.

A session that subscribes from a place gets every event behind it, and then what is
booked from now on, without a seam (docs/protocol.rst, "Resuming events"). It reads in
pages: the next one only when its client has read the one before, and one page of
one session in each reactor turn, so that nobody else has to wait for it. All sessions
read the same pages, and each is sent the events that its token may see.

While requests wait for their events there is a rest after each page. Without it the
reactor's thread would never sleep as long as anybody is catching up, and the thread
that commits would get the processor, and the GIL, milliseconds after its disk is done.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence, Sized
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync import _wire as wire
from creditsync._conversation.restricted import linesOf
from creditsync._conversation.rights import Rights
from creditsync._cursor import cursorOf
from creditsync.errors import Busy
from creditsync.interfaces import IJournal, ISession
from creditsync.records import Principal, TradeEvent

# Events of a page. All sessions have the same pages, which begin at its multiples.
_PAGE: Final = 128
# Pages that are kept for other sessions, some 45 KB each.
_MAX_PAGES: Final = 64
# Seconds from one page to the next while requests are waiting: the least for which
# epoll sleeps. On one processor and a real disk the p50 of a credit beside 100 sessions
# fell from 6 to 1 ms with it (benchmarks.catchup).
_REST: Final = 0.001
# Seconds until the journal is read again after an error.
_RETRY: Final = 1.0


@define(eq=False)
class _Reading:
    """
    Where one session is.

    @ivar after: The place of the last event that it got.
    """

    principal: Principal
    after: int


@define(eq=False)
class _Page:
    """
    Lines of events.

    @ivar logins: The account of each.
    @ivar last: The place of the last one.
    """

    lines: bytes
    logins: list[int | None]
    last: int


@define(eq=False)
class CatchUps:
    """
    All sessions that are catching up.

    @ivar published: The place of the last event that was published: no session gets
        a later one from here.
    @ivar _waiters: The requests that are waiting for their events.
    """

    clock: IReactorTime
    journal: IJournal
    _isCurrent: Callable[[Principal], bool]
    _rights: Rights
    _caughtUp: Callable[[ISession, Principal], None]
    _waiters: Sized
    published: int = 0
    _readings: dict[ISession, _Reading] = Factory(dict)
    # Those that can go on, in the order of their turns.
    _queue: "OrderedDict[ISession, None]" = Factory(OrderedDict)
    _pages: "OrderedDict[int, _Page]" = Factory(OrderedDict)
    _call: IDelayedCall | None = None
    _isReading: bool = False
    # Whether it was logged that the journal can't be read.
    _isFailing: bool = False

    _log = Logger()

    def __len__(self) -> int:
        return len(self._readings)

    def __contains__(self, session: ISession) -> bool:
        return session in self._readings

    def cursorOf(self, place: int) -> str:
        """
        A place as clients see it.
        """
        return cursorOf(self.journal.epoch, place)

    def begin(self, session: ISession, principal: Principal, after: int) -> None:
        """
        Send a session all events behind a place, and then report that it has caught
        up.
        """
        self._readings[session] = _Reading(principal, after)
        self.readOn(session)

    def renew(self, session: ISession, principal: Principal) -> None:
        """
        Go on for as long as this principal is current.
        """
        self._readings[session].principal = principal

    def stop(self, session: ISession) -> None:
        """
        Send a session nothing more.
        """
        self._readings.pop(session, None)
        self._queue.pop(session, None)
        if not self._queue and self._call is not None:
            self._call.cancel()
            self._call = None
        if not self._readings:
            self._pages.clear()

    def stopAll(self) -> None:
        """
        Send nothing more to any session.
        """
        for session in list(self._readings):
            self.stop(session)

    def readOn(self, session: ISession) -> None:
        """
        The client of a session has read what it was sent.
        """
        if session in self._readings:
            self._queue[session] = None
            self._turnLater()

    def _turnLater(self, seconds: float = 0) -> None:
        if not self._queue or self._call is not None or self._isReading:
            return
        if len(self._waiters):
            seconds = max(seconds, _REST)
        self._call = self.clock.callLater(seconds, self._turn)

    def _turn(self) -> None:
        """
        Send one page to the session whose turn it is.
        """
        self._call = None
        session, _ = self._queue.popitem(last=False)
        try:
            self._goOn(session, self._readings[session])
        finally:
            self._turnLater()

    def _goOn(self, session: ISession, reading: _Reading) -> None:
        if self._isOver(session, reading) or self._hasEnded(session, reading):
            return
        if not session.isStalled:
            # Whoever is stalled reads on later.
            self._queue[session] = None
            self._read(session, reading)

    def _isOver(self, session: ISession, reading: _Reading) -> bool:
        """
        Whether the token of a session is no longer valid; then stop.
        """
        if self._isCurrent(reading.principal):
            return False
        session.principal = None
        self.stop(session)
        return True

    def _hasEnded(self, session: ISession, reading: _Reading) -> bool:
        """
        Whether a session has got everything; then report it.
        """
        if reading.after < self.published:
            return False
        self.stop(session)
        self._caughtUp(session, reading.principal)
        return True

    def _read(self, session: ISession, reading: _Reading) -> None:
        after = reading.after
        page = self._pages.get(after)
        if page is None:
            limit = min(_PAGE - after % _PAGE, self.published - after)
            read: Deferred[Any] = maybeDeferred(self.journal.events, after, limit)
            read.addCallback(self._paged, after)
        else:
            # Accounts may have been moved since it was read.
            waiting = self._rights.whenUpToDate(reading.principal)
            if waiting is None:
                self._send(session, reading, page)
                return
            read = waiting.addCallback(lambda _: page)
        self._isReading = True
        read.addCallbacks(self._pageRead, self._pageFailed, (session, reading))

    def _paged(self, events: Sequence[TradeEvent], after: int) -> _Page:
        """
        Make a page, and keep it if it is whole and somebody may want it.
        """
        if not events:
            raise ValueError(f"the journal has nothing behind place {after}")
        could, encoded = wire.encodeEvents(events, self.journal.epoch)
        lines = b""
        if encoded:
            lines = wire.events([event.type for event in could], encoded)
        last = events[-1].place
        assert last is not None, "an event of the journal has no place"
        page = _Page(lines, [event.login for event in could], last)
        if page.last % _PAGE == 0 and self._readings:
            self._pages[after] = page
            if len(self._pages) > _MAX_PAGES:
                self._pages.popitem(last=False)
        return page

    def _pageRead(self, page: _Page, session: ISession, reading: _Reading) -> None:
        self._isReading = self._isFailing = False
        self._send(session, reading, page)
        self._turnLater()

    def _pageFailed(self, why: Failure) -> None:
        self._isReading = False
        if not self._isFailing:
            self._isFailing = True
            if why.check(Busy):
                # No fault of this server's.
                self._log.warn(
                    "The journal can't be read, trying again each second: {why}",
                    why=why.getErrorMessage(),
                )
            else:
                self._log.failure(
                    "the journal can't be read, trying again each second", why
                )
        self._turnLater(_RETRY)

    def _send(self, session: ISession, reading: _Reading, page: _Page) -> None:
        # Meanwhile it may have ended, or begun from another place.
        if self._readings.get(session) is not reading:
            return
        # A page may take long to read.
        if self._isOver(session, reading):
            return
        reading.after = page.last
        try:
            lines = self._visible(reading.principal, page)
            if lines:
                session.send(lines)
        except Exception:
            self._log.failure("a session can't be sent the journal")
            self.stop(session)
            return
        # At once: until its next turn more could be published, again and again.
        if session in self._readings:
            self._hasEnded(session, reading)

    def _visible(self, principal: Principal, page: _Page) -> bytes:
        """
        The lines of a page that a principal may see.
        """
        rights, logins = self._rights, page.logins
        if rights.accounts(principal) is None:
            return page.lines
        maySee = {login: rights.maySee(principal, login) for login in set(logins)}
        return linesOf(page.lines, [maySee[login] for login in logins])

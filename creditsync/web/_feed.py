"""
The console's feed: C{GET feed}, Server-Sent Events for those who are signed in.

Its events, each with one line of C{data:} that is JSON::

    history    once, at the beginning: an array of points, the oldest first, so
               that plots are full from the start
    snapshot   at the beginning, and then once a second: an object
    ended      the sign-in has ended and the stream ends; opening it again is 401

L{creditsync.web._history} describes a point, L{creditsync.web._snapshot} a
snapshot.

A snapshot is made once for all readers, and only if there are any. At most
L{READERS} are accepted; further ones get 503. A browser that does not read misses
snapshots, and is cut off after L{PATIENCE} seconds.
"""

from typing import Any, Final

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from creditsync.metrics import Metrics
from creditsync.web._history import PERIOD, History
from creditsync.web._responses import encode, respondError
from creditsync.web._signing import SignedIn, SignIns
from creditsync.web._snapshot import snapshot

READERS: Final = 20
PATIENCE: Final = 10.0
# Milliseconds after which a browser reopens a stream that broke.
_RETRY: Final = 2000


@implementer(IPushProducer)
@define(eq=False)
class _Reader:
    """
    One browser that reads the feed.

    @ivar stalledSince: When it stopped reading, if it did.
    """

    _clock: IReactorTime
    request: Any
    signIn: str
    stalledSince: float | None = None

    def pauseProducing(self) -> None:
        """
        It does not read.
        """
        self.stalledSince = self._clock.seconds()

    def resumeProducing(self) -> None:
        """
        It reads again.
        """
        self.stalledSince = None

    def stopProducing(self) -> None:
        """
        It has disconnected; L{Request.notifyFinish} reports that.
        """


class Feed(SignedIn):
    """
    C{GET feed}.
    """

    def __init__(self, metrics: Metrics, signIns: SignIns, history: History) -> None:
        super().__init__(signIns)
        self._metrics = metrics
        self._clock = metrics.clock
        self._history = history
        self._readers: list[_Reader] = []
        self._call: IDelayedCall | None = None

    def render_GET(self, request: Request) -> Any:
        """
        Begin a stream.
        """
        if len(self._readers) >= READERS:
            return respondError(
                request, 503, "BUSY", f"{READERS} others are watching already"
            )
        reader = _Reader(self._clock, request, self.signIns.nameOf(request))
        request.setHeader(b"Content-Type", b"text/event-stream")
        # A proxy in between would otherwise buffer the stream.
        request.setHeader(b"X-Accel-Buffering", b"no")
        request.registerProducer(reader, True)
        request.notifyFinish().addBoth(self._left, reader)
        self._readers.append(reader)
        request.write(b"retry: %d\n\n" % _RETRY)
        request.write(_event(b"history", list(self._history.points)))
        request.write(self._snapshot())
        if self._call is None:
            self._call = self._clock.callLater(PERIOD, self._sendToAll)
        return NOT_DONE_YET

    def render_HEAD(self, request: Request) -> bytes:
        """
        The headers, without a stream that would never end.
        """
        request.setHeader(b"Content-Type", b"text/event-stream")
        return b""

    def _left(self, _: Failure | None, reader: _Reader) -> None:
        self._readers.remove(reader)
        if not self._readers and self._call is not None:
            self._call.cancel()
            self._call = None

    def _sendToAll(self) -> None:
        self._call = self._clock.callLater(PERIOD, self._sendToAll)
        event = self._snapshot()
        now = self._clock.seconds()
        for reader in list(self._readers):
            if self.signIns.principal(reader.signIn) is None:
                self._finish(reader, _event(b"ended", {}))
            elif reader.stalledSince is None:
                reader.request.write(event)
            elif now - reader.stalledSince > PATIENCE:
                reader.request.channel.forceAbortClient()

    def _snapshot(self) -> bytes:
        return _event(b"snapshot", snapshot(self._metrics, self._history))

    def stop(self) -> None:
        """
        End every stream.
        """
        for reader in list(self._readers):
            self._finish(reader, b"")

    def _finish(self, reader: _Reader, last: bytes) -> None:
        reader.request.unregisterProducer()
        reader.request.write(last)
        reader.request.finish()


def _event(name: bytes, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, encode(data))

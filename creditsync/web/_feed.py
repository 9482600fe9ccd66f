"""
The console's feed: C{GET feed}, Server-Sent Events for those who are signed in.

What comes, each as C{event:} and one line of C{data:} that is JSON::

    history    once, at the beginning: an array of points, the oldest first, for
               plots that are full from the start
    snapshot   at the beginning, and then once a second: an object
    ended      the sign-in is over; the stream ends, and to open it again is 401

L{creditsync.web._watch} says what is in a point and in a snapshot.

A snapshot is made once for all readers, and only if there are any. There is
room for L{READERS}; further ones are 503. Who does not read misses snapshots,
and after L{PATIENCE} seconds of it is cut off.
"""

from typing import Any, Final

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from creditsync.web._answers import encode, problem
from creditsync.web._signing import SignedIn, SignIns
from creditsync.web._watch import PERIOD, Watch

READERS: Final = 20
PATIENCE: Final = 10.0
# Milliseconds after which a browser whose stream broke comes back.
_RETRY: Final = 2000


@implementer(IPushProducer)
@define(eq=False)
class _Reader:
    """
    One browser that listens.

    @ivar stalledSince: When it ceased to read, if it did.
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
        It is gone, of which the request tells.
        """


class Feed(SignedIn):
    """
    C{GET feed}.
    """

    def __init__(self, clock: IReactorTime, signIns: SignIns, watch: Watch) -> None:
        super().__init__(signIns)
        self._clock = clock
        self._watch = watch
        self._readers: list[_Reader] = []
        self._call: IDelayedCall | None = None

    def render_GET(self, request: Request) -> Any:
        """
        Begin a stream.
        """
        if len(self._readers) >= READERS:
            return problem(request, 503, "BUSY", f"{READERS} others look already")
        reader = _Reader(self._clock, request, self.signIns.nameOf(request))
        request.setHeader(b"Content-Type", b"text/event-stream")
        # For a proxy in between that would collect what it is given.
        request.setHeader(b"X-Accel-Buffering", b"no")
        request.registerProducer(reader, True)
        request.notifyFinish().addBoth(self._left, reader)
        self._readers.append(reader)
        request.write(b"retry: %d\n\n" % _RETRY)
        request.write(_event(b"history", list(self._watch.history)))
        request.write(_event(b"snapshot", self._watch.snapshot()))
        if self._call is None:
            self._call = self._clock.callLater(PERIOD, self._tell)
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

    def _tell(self) -> None:
        self._call = self._clock.callLater(PERIOD, self._tell)
        line = _event(b"snapshot", self._watch.snapshot())
        now = self._clock.seconds()
        for reader in list(self._readers):
            if self.signIns.principal(reader.signIn) is None:
                self._finish(reader, _event(b"ended", {}))
            elif reader.stalledSince is None:
                reader.request.write(line)
            elif now - reader.stalledSince > PATIENCE:
                reader.request.channel.forceAbortClient()

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

"""
Threads that wait for the disk: one for a ledger's commits, one for the lines of an
audit trail.

The reactor's pool has a coordinator between the caller and its threads. Here there
is only a queue, so a commit starts and is reported sooner. Clients that wait for
each reply before they send the next request notice the difference.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, ClassVar

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


@define(eq=False)
class OwnThread:
    """
    Calls blocking functions one after another in a thread, which begins with the
    first call and ends with the reactor. It is not a daemon thread: Python would
    end that in the middle of a commit.
    """

    _reactor: Any
    _calls: "SimpleQueue[tuple[Callable[[], None], Deferred[None]] | None]" = field(
        default=Factory(SimpleQueue), init=False
    )
    _thread: Thread | None = field(default=None, init=False)
    _isDaemon: ClassVar[bool] = False

    def __call__(self, function: Callable[[], None]) -> Deferred[None]:
        """
        Call a function in the thread.

        @return: Fires in the reactor's thread when the function has returned, or
            fails with the exception that it raised.
        """
        if self._thread is None:
            self._begin()
        done: Deferred[None] = Deferred()
        self._calls.put((function, done))
        return done

    def _begin(self) -> None:
        # Services are stopped in the phase "before" this one, so their last commit
        # is complete by then.
        self._reactor.addSystemEventTrigger("during", "shutdown", self._end)
        self._thread = Thread(
            target=self._work, name=type(self).__name__, daemon=self._isDaemon
        )
        self._thread.start()

    def _work(self) -> None:
        for function, done in iter(self._calls.get, None):
            outcome = None
            try:
                function()
            except BaseException:
                outcome = Failure()
            self._reactor.callFromThread(done.callback, outcome)
            # Otherwise these would keep the whole batch alive until the next call.
            del function, done, outcome

    def _end(self) -> None:
        """
        Wait for the calls so far. Later calls are never made.
        """
        assert self._thread is not None
        self._calls.put(None)
        if not self._isDaemon:
            self._thread.join()


class DaemonThread(OwnThread):
    """
    The same for calls that must not delay the end of the process, such as a write
    to a file system that hangs.
    """

    _isDaemon = True

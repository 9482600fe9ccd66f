"""
A connection to PostgreSQL in the reactor.

psycopg drives libpq by generators, which say what they wait for; here the reactor does
the waiting, without a thread between a statement and its rows. Only the connecting is
done in a thread: it looks names up, reads files, and tries several hosts.

Statements go one at a time, each in a transaction of its own. What can't be known is
told apart from what is certain: an error of the server (a C{psycopg.Error} that has an
C{sqlstate}) means that the statement has done nothing; L{ConnectionLost} says whether
the statement may have been carried out.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from itertools import count
from threading import Thread
from typing import Any, Final, TypeAlias

import psycopg
from attrs import Factory, define, field
from psycopg import generators
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._failing import FailureNotifier
from creditsync.postgres._session import (
    SETTINGS,
    causeOf,
    complete,
    isStandby,
    placeOf,
    tooOld,
    unreachable,
)

Row: TypeAlias = tuple[Any, ...]

# The SQLSTATE of a commit that did not wait for its standby to the end: the server
# returns success, and says so only in a warning.
_WARNING: Final = "01000"
# Seconds for which a statement may be without an answer. A network that swallows what
# is sent, and keeps connections open, is noticed only by this. No statement of a server
# takes that long, unless it waits for a lock or a standby; and if it is given up, what
# has become of it is found out as with any other connection that is lost.
PATIENCE: Final = 15.0
# The server's word that it does not know either; PostgreSQL itself never says so.
_UNKNOWN: Final = "40003"


class ConnectionLost(Exception):
    """
    There is no connection any more, or there never was one.

    @ivar wasSent: Whether the statement may have been carried out. If not, it
        certainly has not been.
    """

    def __init__(self, cause: str, wasSent: bool = False) -> None:
        super().__init__(cause)
        self.wasSent = wasSent


@define
class Notice:
    """
    What the server has said besides.
    """

    sqlstate: str | None
    message: str | None


@define(eq=False)
class _Statement:
    text: bytes
    values: Sequence[Any]
    done: "Deferred[list[Row]]"


@implementer(IReadWriteDescriptor)
@define(eq=False)
class Connection:
    """
    One session of a server.

    @ivar place: The server, its database and the user, for people.
    @ivar backend: The process that serves the connection, as the server has introduced
        it.
    @ivar server: What tells the server from all others, and from itself before it was
        started the last time.
    @ivar version: The major version of the server.
    @ivar notified: Called with the channel, the payload, and the backend that has
        notified, for each notification.
    @ivar isDoubtful: Whether the commit of the last statement may not have reached the
        standby that it should have waited for. A later one that is not doubtful
        proves it.
    @ivar notices: What the server has said besides, at the last statement.
    """

    _reactor: Any
    _session: "psycopg.Connection[Row]"
    _patience: float = PATIENCE
    notified: Callable[[str, str, int], None] = lambda *_: None
    isDoubtful: bool = field(init=False, default=False)
    notices: list[Notice] = field(init=False, factory=list)
    place: str = field(init=False)
    server: str = field(init=False, default="")
    backend: int = field(init=False)
    version: int = field(init=False)
    _descriptor: int = field(init=False)
    _waiting: deque[_Statement] = field(init=False, factory=deque)
    _current: _Statement | None = field(init=False, default=None)
    _steps: "Generator[Wait, Ready, list[PGresult]] | None" = field(
        init=False, default=None
    )
    _timer: IDelayedCall | None = field(init=False, default=None)
    _isClosed: bool = field(init=False, default=False)
    _lost: FailureNotifier = field(init=False, default=Factory(FailureNotifier))

    def __attrs_post_init__(self) -> None:
        """
        Begin to read.
        """
        # libpq closes its descriptor by itself when the connection breaks, and the
        # reactor would not find it any more to forget it: it has one of its own.
        self._descriptor = os.dup(self._session.fileno())
        session = self._session.pgconn
        user, host, port, database = (
            each.decode(errors="replace")
            for each in (session.user, session.host, session.port, session.db)
        )
        self.place = f"postgresql://{user}@{host}:{port}/{database}"
        self.backend = session.backend_pid
        self.version = session.server_version // 10000
        self._session.add_notice_handler(self._noticed)
        self._session.add_notify_handler(self._notifiedBy)
        self._reactor.addReader(self)

    def execute(
        self, statement: str, values: Sequence[Any] = ()
    ) -> Deferred[list[Row]]:
        """
        Execute a statement when those before it are done.

        Cancelling the Deferred takes back a statement that has not been sent; for any
        other it ends the connection.

        @param statement: With C{%s} for each value. Without values it may be several,
            which are one transaction.
        @return: Fires with the rows, of the last statement if there are several. Fails
            with a C{psycopg.Error} that has an C{sqlstate}, or with L{ConnectionLost}.
        """
        done: Deferred[list[Row]] = Deferred(self._cancel)
        if self._isClosed:
            done.errback(ConnectionLost("the connection has ended"))
            return done
        self._waiting.append(_Statement(_numbered(statement), values, done))
        self._next()
        return done

    def whenLost(self) -> "Deferred[None]":
        """
        Wait for the end of the connection.

        @return: Fails with L{ConnectionLost}; never fires otherwise.
        """
        return self._lost.whenFailed()

    def close(self) -> None:
        """
        End the connection.
        """
        self._lose("the connection was closed")

    def _cancel(self, done: "Deferred[list[Row]]") -> None:
        if self._current is not None and self._current.done is done:
            self._lose("the statement was given up")
            return
        self._waiting = deque(each for each in self._waiting if each.done is not done)

    def _next(self) -> None:
        """
        Send the next statement, if none is under way.
        """
        if self._current is not None or not self._waiting:
            return
        self._current = current = self._waiting.popleft()
        self.isDoubtful, self.notices = False, []
        session = self._session.pgconn
        try:
            if current.values:
                transformer = Transformer(self._session)
                values = transformer.dump_sequence(
                    current.values, [PyFormat.AUTO] * len(current.values)
                )
                session.send_query_params(
                    current.text, values, transformer.types, transformer.formats
                )
            else:
                session.send_query(current.text)
        except psycopg.OperationalError as e:
            self._lose(str(e))
            return
        except Exception:
            # A value that can't be sent.
            self._end(Failure())
            return
        self._timer = self._reactor.callLater(self._patience, self._giveUp)
        self._steps = generators.execute(session)
        # A generator that has not begun takes nothing else.
        self._advance(None)

    def _advance(self, ready: Ready | None) -> None:
        assert self._steps is not None
        try:
            wait = self._steps.send(ready)  # type: ignore[arg-type]
        except StopIteration as done:
            results = done.value
        except psycopg.Error as e:
            self._lose(str(e))
            return
        else:
            if wait & Wait.W:
                self._reactor.addWriter(self)
            else:
                self._reactor.removeWriter(self)
            return
        self._steps = None
        self._executed(results)

    def _executed(self, results: "list[PGresult]") -> None:
        """
        The server has answered.
        """
        for result in results:
            if result.status != ExecStatus.FATAL_ERROR:
                continue
            error = error_from_result(result)
            severity = error.diag.severity_nonlocalized
            if severity in ("FATAL", "PANIC") or error.sqlstate == _UNKNOWN:
                self._lose(causeOf(error))
            else:
                self._end(Failure(error))
            return
        if not results or self._session.pgconn.status != ConnStatus.OK:
            self._lose("the server has ended the connection")
            return
        self._end(self._rows(results[-1]))

    def _rows(self, result: PGresult) -> list[Row]:
        if result.status != ExecStatus.TUPLES_OK:
            return []
        transformer = Transformer(self._session)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _giveUp(self) -> None:
        self._timer = None
        self._lose(f"there was no answer within {self._patience:g} s")

    def _calm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _end(self, outcome: list[Row] | Failure) -> None:
        """
        The statement under way is done.
        """
        self._calm()
        current, self._current = self._current, None
        assert current is not None
        current.done.callback(outcome)
        self._next()

    def _lose(self, cause: str) -> None:
        if self._isClosed:
            return
        self._isClosed = True
        self._calm()
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        os.close(self._descriptor)
        self._session.close()
        cause = " ".join(cause.split())
        current, self._current, self._steps = self._current, None, None
        waiting, self._waiting = self._waiting, deque()
        if current is not None:
            current.done.errback(ConnectionLost(cause, wasSent=True))
        for each in waiting:
            each.done.errback(ConnectionLost(cause))
        self._lost.fail(Failure(ConnectionLost(cause)))

    def _noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        # It can be read only now.
        self.notices.append(Notice(notice.sqlstate, notice.message_primary))
        self.isDoubtful |= notice.sqlstate == _WARNING

    def _notifiedBy(self, notify: psycopg.Notify) -> None:
        self.notified(notify.channel, notify.payload, notify.pid)

    # What the reactor calls.

    def fileno(self) -> int:
        """
        The descriptor that the reactor watches.
        """
        return -1 if self._isClosed else self._descriptor

    def logPrefix(self) -> str:
        """
        See L{ILoggingContext<twisted.internet.interfaces.ILoggingContext>}.
        """
        return "PostgreSQL"

    def doRead(self) -> None:
        """
        Something has come.
        """
        if self._steps is not None:
            self._advance(Ready.R)
            return
        session = self._session.pgconn
        try:
            session.consume_input()
            while notification := session.notifies():
                assert session.notify_handler is not None
                # Who is notified may submit a statement, or close this.
                session.notify_handler(notification)
        except psycopg.OperationalError as e:
            self._lose(str(e))

    def doWrite(self) -> None:
        """
        More can be sent.
        """
        if self._steps is not None:
            self._advance(Ready.W)
        else:
            self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """
        The descriptor has failed, or the reactor ends.
        """
        self._lose(reason.getErrorMessage())


def connect(
    reactor: Any,
    conninfo: str,
    applicationName: str = "creditsync",
    patience: float = PATIENCE,
) -> Deferred[Connection]:
    """
    Connect, and make the settings of every session.

    @param conninfo: A connection string as libpq takes it. What it doesn't say comes
        from where libpq finds it: C{PGPASSWORD}, C{~/.pgpass}, a service and so on.
    @param applicationName: What the server's administrator sees.
    @param patience: Seconds after which a statement without an answer ends the
        connection.
    @return: Fires with the connection. Fails with L{ConnectionLost}. Cancelling it
        ends the try.
    @raise LedgerProblem: It is not a connection string.
    """
    placeOf(conninfo)
    whole = complete(conninfo, applicationName)
    connected: Deferred[Connection] = Deferred()

    def inThread() -> None:
        outcome: psycopg.Connection[Row] | Failure
        try:
            outcome = psycopg.connect(whole, autocommit=True)
        except Exception:
            outcome = Failure()
        # At the end of the process nobody asks any more.
        reactor.callFromThread(ended, outcome)

    def ended(outcome: "psycopg.Connection[Row] | Failure") -> None:
        if connected.called:
            if isinstance(outcome, psycopg.Connection):
                outcome.close()
        elif isinstance(outcome, Failure):
            cause = unreachable(conninfo, outcome.getErrorMessage())
            connected.errback(ConnectionLost(cause))
        else:
            connected.callback(Connection(reactor, outcome, patience))

    # It must not delay the end of the process, so it is none of the reactor's.
    Thread(target=inThread, name="PostgreSQL", daemon=True).start()
    connected.addCallback(_settled)
    return connected


def retryDelay(failures: int, jitter: float) -> float:
    """
    Seconds to wait before connecting again.

    @param failures: How many tries in a row have failed before this one.
    @param jitter: From 0 to 1, at random, so that nodes don't come all at once.
    """
    return min(0.1 * 2.0 ** min(failures, 30), 5.0) * (1 + jitter) / 2


def _settled(connection: Connection) -> Deferred[Connection]:
    """
    Make the settings of a new connection.
    """
    problem = tooOld(connection.version)
    if problem is not None:
        connection.close()
        raise ConnectionLost(
            f"PostgreSQL can't be used at {connection.place}: {problem}"
        )

    def failed(why: Failure) -> Failure:
        connection.close()
        if why.check(CancelledError, ConnectionLost):
            return why
        return Failure(ConnectionLost(why.getErrorMessage().strip()))

    def made(rows: list[Row]) -> Connection:
        [(connection.server, isBehind)] = rows
        if isBehind:
            # It may lack what was acknowledged, without having lost it.
            connection.close()
            raise ConnectionLost(isStandby(connection.place))
        return connection

    done = connection.execute(SETTINGS)
    return done.addCallbacks(made, failed)


@lru_cache(maxsize=256)
def _numbered(statement: str) -> bytes:
    """
    A statement with C{$1}, C{$2} ... for each C{%s}.
    """
    numbers = count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement).encode()

"""
A connection to PostgreSQL for commands, which have nothing else to do than to wait.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from attrs import define
from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure

from creditsync.errors import LedgerProblem
from creditsync.postgres._connection import Row
from creditsync.postgres._kinds import makeGateway
from creditsync.postgres._session import (
    SETTINGS,
    complete,
    hinted,
    placeOf,
    tooOld,
    unreachable,
)
from creditsync.postgres._starting import (
    LOSS,
    RIGHTS,
    Rights,
    check,
    checkReadable,
    checkRights,
)

_T = TypeVar("_T")


# The SQLSTATE by which a commit says that it has not waited for its standby.
_WARNING: Final = "01000"


@define(eq=False)
class Commit:
    """
    A transaction, and what is known of its commit once that has ended.

    @ivar isDoubtful: Whether a standby that it should have waited for may lack it.
    """

    isDoubtful: bool = False


@define(eq=False)
class CommandSession:
    """
    A session whose Deferreds have fired already.

    @ivar place: See L{Connection<creditsync.postgres._connection.Connection>}.
    """

    session: "psycopg.Connection[Row]"
    place: str

    @property
    def backend(self) -> int:
        """
        See L{Connection<creditsync.postgres._connection.Connection>}.
        """
        return self.session.pgconn.backend_pid

    def execute(
        self, statement: str, values: Sequence[Any] = ()
    ) -> Deferred[list[Row]]:
        """
        See L{Connection<creditsync.postgres._connection.Connection>}.
        """
        return execute(self.rows, statement, values)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """
        Execute a statement, and wait for its rows.
        """
        cursor = self.session.execute(statement.encode(), values or None)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[Commit]:
        """
        One transaction: all of it, or nothing.
        """
        commit, notices = Commit(), set[str | None]()

        def note(notice: psycopg.errors.Diagnostic) -> None:
            notices.add(notice.sqlstate)

        self.session.add_notice_handler(note)
        try:
            with self.session.transaction():
                self.session.execute("SELECT durable_1()")
                yield commit
                notices.clear()
        finally:
            self.session.remove_notice_handler(note)
        commit.isDoubtful = _WARNING in notices

    def check(self, rights: Rights = RIGHTS, loss: str = LOSS) -> list[str]:
        """
        Check the server as a start does, and make its tables.

        @param rights: What the role has to be allowed.
        @param loss: See L{creditsync.postgres._starting.check}.
        @return: What its operator should know.
        @raise LedgerProblem: It can't be used.
        """
        return _waited(check(self, rights=rights, loss=loss))

    def makeGateway(self) -> None:
        """
        Make the tables that only a gateway has, where there are none.

        @raise LedgerProblem: They can't be made.
        """
        _waited(Deferred.fromCoroutine(makeGateway(self)))

    def checkReadable(self) -> None:
        """
        Check that there is a ledger that this build can read.

        @raise LedgerProblem: There is none.
        """
        _waited(checkReadable(self))

    def checkRights(self, rights: Rights) -> None:
        """
        Check that the role may do what it has to.

        @raise LedgerProblem: It may not, with all the statements that help.
        """
        _waited(checkRights(self, rights))


def _waited(done: Deferred[_T]) -> _T:
    """
    The result of steps that have all waited.
    """
    outcomes: list[_T | Failure] = []
    done.addBoth(outcomes.append)
    [outcome] = outcomes
    if isinstance(outcome, Failure):
        outcome.raiseException()
    return outcome


@contextmanager
def connected(conninfo: str, command: str) -> Iterator[CommandSession]:
    """
    Connect, and turn what fails into a sentence.

    @param command: Who connects, for the server's administrator.
    @raise LedgerProblem: It can't be connected to, or the connection has ended.
    """
    place = placeOf(conninfo)
    try:
        whole = complete(conninfo, f"creditsync {command}")
        session = psycopg.connect(whole, autocommit=True)
    except psycopg.OperationalError as e:
        raise LedgerProblem(unreachable(conninfo, str(e))) from None
    with session:
        problem = tooOld(session.info.server_version // 10000)
        if problem is not None:
            raise LedgerProblem(f"PostgreSQL can't be used at {place}: {problem}")
        try:
            session.execute(SETTINGS.encode())
            yield CommandSession(session, place)
        except psycopg.Error as e:
            cause = " ".join(str(e).split())
            raise LedgerProblem(
                f"PostgreSQL has failed at {place}: {hinted(cause)}"
            ) from e

"""
Connections to a real PostgreSQL that wait for each statement, and that a test can hold,
break, or have the server warn on.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from creditsync._failing import FailureNotifier
from creditsync.postgres._connection import ConnectionLost
from tests.postgres.ground import Database


@define(eq=False)
class Statement:
    """
    A statement that is held.
    """

    line: "Line"
    text: str
    values: Sequence[Any]
    done: "Deferred[list[tuple[Any, ...]]]" = field(factory=Deferred)
    _outcome: Any = None

    def perform(self) -> None:
        """
        Have the server carry it out, and keep the answer.
        """
        self._outcome = self.line.perform(self.text, self.values)

    def answer(self) -> None:
        """
        Deliver the answer.
        """
        if self._outcome is None:
            self.perform()
        self.done.callback(self._outcome)


@define(eq=False)
class Line:
    """
    One connection; see L{creditsync.postgres._connection.Connection}.
    """

    lines: "Lines"
    use: str
    connection: "psycopg.Connection[Any]"
    notified: Any = None
    place: str = "a test's database"
    server: str = "one"
    isDoubtful: bool = False
    _lost: FailureNotifier = field(factory=FailureNotifier)

    @property
    def backend(self) -> int:
        """
        The process that serves it.
        """
        return self.connection.info.backend_pid

    def execute(
        self, statement: str, values: Sequence[Any] = ()
    ) -> "Deferred[list[tuple[Any, ...]]]":
        """
        Carry out a statement, or hold it.
        """
        if self._lost.cause is not None:
            return fail(ConnectionLost("the connection has ended"))
        if self.use in self.lines.held:
            held = Statement(self, statement, values)
            self.lines.statements.append(held)
            return held.done
        outcome = self.perform(statement, values)
        return fail(outcome) if isinstance(outcome, Failure) else succeed(outcome)

    def perform(self, statement: str, values: Sequence[Any]) -> Any:
        """
        The rows, or the failure.
        """
        try:
            cursor = self.connection.execute(statement.encode(), values or None)
            rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error:
            return Failure()
        self.isDoubtful = self.use in self.lines.doubted and self.lines.doubtful > 0
        self.lines.doubtful -= self.isDoubtful
        return rows

    def whenLost(self) -> "Deferred[None]":
        """
        Fails when it is lost.
        """
        return self._lost.whenFailed()

    def lose(self) -> None:
        """
        Break it. Nobody knows what has become of the statements that are held.
        """
        held = [each for each in self.lines.statements if each.line is self]
        self.close()
        for each in held:
            self.lines.statements.remove(each)
            each.done.errback(ConnectionLost("cut", wasSent=True))

    def close(self) -> None:
        """
        End it.
        """
        if self._lost.cause is None:
            self.connection.close()
            self.lines.open.remove(self)
            self._lost.fail(Failure(ConnectionLost("closed")))


@define(eq=False)
class Lines:
    """
    The connections of one node.

    @ivar held: The uses whose statements are held.
    @ivar doubtful: How many commits are to come with a warning.
    @ivar doubted: The uses whose commits these are.
    @ivar isCut: Whether no connection can be made.
    """

    database: Database
    held: set[str] = field(factory=set)
    statements: deque[Statement] = field(factory=deque)
    doubtful: int = 0
    doubted: set[str] = field(factory=lambda: {"writer"})
    isCut: bool = False
    open: list[Line] = field(factory=list)

    def connect(self, use: str) -> Deferred[Any]:
        """
        Make a connection.
        """
        if self.isCut:
            return fail(ConnectionLost("refused"))
        line = Line(self, use, psycopg.connect(self.database.dsn(), autocommit=True))
        self.open.append(line)
        return succeed(line)

    def of(self, use: str) -> Line:
        """
        The connection for a use.
        """
        [line] = [each for each in self.open if each.use == use]
        return line

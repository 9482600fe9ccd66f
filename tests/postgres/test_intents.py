"""
Tests for L{creditsync.gateway._postgreslog} and L{creditsync.postgres._recorder}, on a
real PostgreSQL whose answers come when the test says so.
"""

import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, execute
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import main
from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE, EV_RECORD_UPDATE
from creditsync.errors import LedgerInUse, LedgerProblem
from creditsync.gateway._intents import Intent
from creditsync.gateway._postgreslog import PostgresIntentLog
from creditsync.gateway._sqlitelog import COLUMNS
from creditsync.gateway._states import State
from creditsync.postgres._checking import findings
from creditsync.postgres._lane import Fenced
from creditsync.postgres._reading import reading
from creditsync.records import Deletion, Operation, Reservation
from tests.postgres import ground
from tests.postgres.engine import emptied as plain
from tests.postgres.engine import makeTables
from tests.postgres.gateways import Gateway, emptied, untilFree
from tests.postgres.ground import Database
from tests.postgres.test_runtime import Node
from tests.test_gateway_intents import CREDIT_IN, NOW, ONE, LogTests, booking, intent
from tests.totals import withTotals


class PostgresIntentLogTests(LogTests, SynchronousTestCase):
    """
    Tests for L{PostgresIntentLog}: what every log does.
    """

    def setUp(self) -> None:
        """
        Open a log in a new database.
        """
        self.database = emptied()
        self.begin()

    def begin(self) -> None:
        """
        Open the log.
        """
        gateway = Gateway(self.database)
        self.log = gateway.log
        self.successResultOf(gateway.open())
        self.addCleanup(self.log.close)

    def reopen(self) -> None:
        """
        See L{LogTests.reopen}.
        """
        self.log.close()
        untilFree(self.database)
        self.begin()


class Case(SynchronousTestCase):
    """
    Tests with a database of a gateway, and one gateway that has its log there.
    """

    def setUp(self) -> None:
        """
        Open a log.
        """
        self.database = emptied()
        self.gateway = self.start()
        self.log = self.gateway.log

    def start(self, name: str = "a") -> Gateway:
        """
        Open the log of a gateway, which the end of the test closes.
        """
        gateway = self.make(name)
        self.successResultOf(gateway.open())
        return gateway

    def make(self, name: str = "a", database: Database | None = None) -> Gateway:
        """
        Make the log of a gateway.
        """
        gateway = Gateway(database or self.database, name)
        self.addCleanup(self.close, gateway)
        return gateway

    def close(self, gateway: Gateway) -> None:
        """
        A closed log leaves no connection, no delayed call, and no copy.
        """
        gateway.lines.held.clear()
        gateway.log.close()
        self.assertEqual(gateway.lines.open, [])
        self.assertEqual(gateway.clock.getDelayedCalls(), [])
        if gateway.log.ledger.path:
            self.assertFalse(Path(gateway.log.ledger.path).parent.exists())

    def write(
        self,
        *intents: Intent,
        booked: tuple[Reservation, ...] = (),
        alarms: tuple[tuple[int, str], ...] = (),
        mark: int = 0,
        log: PostgresIntentLog | None = None,
    ) -> "Deferred[None]":
        """
        Begin to make something durable.
        """
        log = log or self.log
        for each in booked:
            log.noteOrder(each.order)
        withTotals(log.ledger, booked)
        return log.write(intents, booked, mark, alarms)

    def booked(self, number: int, order: int, key: str | None = None) -> Any:
        """
        An intent that is booked, and its record.
        """
        made = intent(number, key, openTime=NOW + number)
        made.order = order
        made.move(State.BOOKED)
        return made, booking(made, order)

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """
        What a statement selects.
        """
        return self.database.rows(statement, *parameters)

    def problems(self) -> list[str]:
        """
        What C{creditsync check} finds.
        """
        with reading(self.database.dsn(), "check") as source:
            return [str(each) for each in findings(source)]


class JournalTests(Case):
    """
    Tests for what is written to the tables.
    """

    def test_columns(self) -> None:
        """
        The log has the columns of that on SQLite, and the batch.
        """
        columns = self.rows(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = 'intent' ORDER BY ordinal_position"
        )
        self.assertEqual(
            [each for [each] in columns], [*(c.strip('"') for c in COLUMNS), "batch"]
        )

    def test_sound(self) -> None:
        """
        The journal of a gateway has places, hashes, keys and trades as C{creditsync
        check} has them: with several changes of an order in one commit and in later
        ones, with foreign records, and with totals below zero.
        """
        made, added = self.booked(1, 55, "k1")
        trade = added.data
        changed = Reservation(
            EV_RECORD_UPDATE,
            replace(trade, profit=200 * ONE, comment='less "€"', timestamp=NOW + 5),
            Operation("CreditIn", CREDIT_IN, 1001, 200 * ONE, "less", 55, principal=0),
        )
        out = Reservation(
            EV_RECORD_ADD,
            replace(trade, order=987_654_321, login=1002, cmd=9, profit=-5 * ONE),
            Operation("CreditOut", 9, 1002, -5 * ONE, "gift", 0, principal=0),
        )
        deleted = Reservation(
            EV_RECORD_DELETE,
            replace(changed.data, state=6, timestamp=NOW + 6),
            Deletion("DeleteCredit", 55, frozenset({7, 9}), 0),
        )
        self.successResultOf(self.write(made, booked=(added, changed, out)))
        again = Reservation(
            EV_RECORD_UPDATE,
            replace(changed.data, profit=250 * ONE),
            Operation("CreditIn", CREDIT_IN, 1001, 250 * ONE, "less", 55, principal=0),
        )
        self.successResultOf(self.write(booked=(again, deleted), mark=NOW + 6))
        self.assertEqual(self.problems(), [])
        self.assertEqual(
            self.rows('SELECT seq, type, "order", node, batch, item FROM event'),
            [
                (1, 0, 55, 1, 1, 1),
                (2, 1, 55, 1, 1, 2),
                (3, 0, 987_654_321, 1, 1, 3),
                (4, 1, 55, 1, 2, 1),
                (5, 2, 55, 1, 2, 2),
            ],
        )
        self.assertEqual(
            self.rows('SELECT "order", state, revision, seq FROM trade ORDER BY 1'),
            [(55, 6, 3, 5), (987_654_321, 3, 0, 3)],
        )
        self.assertEqual(
            self.rows("SELECT login, balance, credit FROM account ORDER BY login"),
            [(1001, 0, 0), (1002, 0, -5 * ONE)],
        )
        self.assertEqual(
            self.rows("SELECT principal, key, seq FROM keyed"), [(7, "k1", 1)]
        )
        self.assertEqual(self.rows("SELECT update_time FROM caught_up"), [(NOW + 6,)])

    def test_sameHash(self) -> None:
        """
        A gateway that is started again has a copy with the same journal, whose chain
        goes on.
        """
        made, added = self.booked(1, 55)
        self.successResultOf(self.write(made, booked=(added,)))
        hash = self.log.ledger.hash
        self.close(self.gateway)
        untilFree(self.database)
        second = self.start()
        self.assertEqual(second.log.ledger.hash, hash)
        self.assertEqual(second.log.ledger.epoch, "0a1b2c3d")
        made, added = self.booked(2, 56)
        self.successResultOf(self.write(made, booked=(added,), log=second.log))
        self.assertEqual(self.problems(), [])
        self.assertEqual([e.place for e in second.log.ledger.events(0, 9)], [1, 2])

    def test_whatPostgresCanNotStore(self) -> None:
        """
        What the platform has said may have a character that no text of PostgreSQL has.
        """
        made = intent()
        made.why = "a\0b"
        self.successResultOf(self.write(made, alarms=((NOW, "c\0d"),)))
        self.assertEqual(self.rows("SELECT why FROM intent"), [("a\ufffdb",)])
        self.assertEqual(
            self.rows("SELECT number, timestamp, text FROM alarm"),
            [(1, NOW, "c\ufffdd")],
        )

    def test_foreignHand(self) -> None:
        """
        If another program has appended to the journal, nothing is written.
        """
        self.rows(
            "INSERT INTO link VALUES (1, 1, 1, 9, 1, decode(repeat('11', 32), 'hex'))"
        )
        made, added = self.booked(1, 55)
        why = self.failureResultOf(self.write(made, booked=(added,)))
        self.assertIn("the journal ends at place 1, not at 0", why.getErrorMessage())
        self.assertEqual(self.rows("SELECT FROM intent"), [])

    def test_groups(self) -> None:
        """
        A group is moved on PostgreSQL and in the copy.
        """
        self.successResultOf(self.log.setGroups({1001: "vip"}))
        self.assertEqual(
            self.rows('SELECT login, "group" FROM account'), [(1001, "vip")]
        )
        account = self.log.ledger.account(1001)
        assert account is not None
        self.assertEqual(account.group, "vip")
        self.assertEqual(self.problems(), [])

    def test_changesMeanwhile(self) -> None:
        """
        What an intent becomes while its commit is under way is not durable with that.
        """
        made = intent()
        self.gateway.lines.held.add("writer")
        written = self.write(made)
        made.move(State.ACCEPTED, "queued")
        self.assertIsNone(self.log.withKey(7, "k1"))
        self.gateway.lines.statements.popleft().answer()
        self.successResultOf(written)
        self.assertEqual(self.rows("SELECT state FROM intent"), [("sent",)])
        found = self.log.withKey(7, "k1")
        assert found is not None
        self.assertEqual(found.state, State.SENT)


class UnknownTests(Case):
    """
    Tests for commits whose answer is lost.
    """

    def cut(self, isCarriedOut: bool, written: "Deferred[None]") -> None:
        """
        Lose the connection during a commit.
        """
        self.assertNoResult(written)
        lines = self.gateway.lines
        [statement] = lines.statements
        if isCarriedOut:
            statement.perform()
        lines.held.clear()
        lines.isCut = True
        lines.of("writer").lose()
        self.assertEqual(self.log.problem, "PostgreSQL can't be reached")
        self.assertNoResult(written)
        untilFree(self.database)
        lines.isCut = False
        self.gateway.clock.advance(1)
        self.successResultOf(written)
        self.assertIsNone(self.log.problem)

    def settle(self, isCarriedOut: bool) -> None:
        """
        Lose one commit of each kind, and look for what is in the tables.
        """
        first, second = intent(1, "a", NOW), intent(2, "b", NOW + 1)
        made, added = self.booked(3, 55, "c")
        for what in (
            {"intents": [first, second]},
            {"intents": [made], "booked": (added,)},
            {"alarms": ((NOW, "look"),)},
            {"mark": NOW},
            {},
        ):
            self.gateway.lines.held.add("writer")
            options: dict[str, Any] = {"mark": self.log.mark, **what}
            written = self.write(*options.pop("intents", ()), **options)
            self.cut(isCarriedOut, written)
        self.assertEqual(
            self.rows("SELECT number, state, place FROM intent ORDER BY number"),
            [(1, "sent", None), (2, "sent", None), (3, "booked", 1)],
        )
        self.assertEqual(self.rows("SELECT number, text FROM alarm"), [(1, "look")])
        self.assertEqual(self.rows("SELECT seq FROM event"), [(1,)])
        self.assertEqual(self.rows("SELECT update_time FROM caught_up"), [(NOW,)])
        self.assertEqual(self.log.mark, NOW)
        self.assertEqual([each.number for each in self.log.unfinished()], [1, 2])
        self.assertEqual(self.problems(), [])

    def test_carriedOut(self) -> None:
        """
        What was carried out is found, and not written again.
        """
        self.settle(True)

    def test_notCarriedOut(self) -> None:
        """
        What was not carried out is sent again.
        """
        self.settle(False)

    def test_notReplicated(self) -> None:
        """
        A commit that has not waited for the standby is not durable before a later one
        has.
        """
        self.gateway.lines.doubtful = 2
        written = self.write(intent())
        self.assertNoResult(written)
        self.assertEqual(self.log.unfinished(), [])
        self.gateway.clock.advance(0.1)
        self.assertNoResult(written)
        self.gateway.clock.advance(0.1)
        self.successResultOf(written)
        self.assertEqual([each.number for each in self.log.unfinished()], [1])

    def test_group(self) -> None:
        """
        A move to a group whose answer is lost is made again.
        """
        self.gateway.lines.held.add("writer")
        self.cut(True, self.log.setGroups({1001: "vip"}))
        self.assertEqual(self.rows('SELECT "group" FROM account'), [("vip",)])
        self.assertEqual(self.problems(), [])


class LossTests(Case):
    """
    Tests for a PostgreSQL that has lost what it had acknowledged.
    """

    def lose(self, *statements: str) -> list[str]:
        """
        Fail over to a server that has lost something. What is written then never
        ends.

        @return: What was logged as critical.
        """
        for each in statements:
            self.rows(each)
        lines = self.gateway.lines
        lines.isCut = True
        lines.of("writer").lose()
        untilFree(self.database)
        lines.isCut = False
        logged: list[str] = []

        def observe(event: Any) -> None:
            if event["log_level"] is LogLevel.critical:
                logged.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        written = self.write(intent(9, "later"))
        written.addErrback(lambda _: None)
        self.assertNoResult(written)
        self.assertEqual(
            self.log.problem, "PostgreSQL has lost acknowledged operations"
        )
        self.assertEqual(self.rows("SELECT FROM intent WHERE number = 9"), [])
        return logged

    def test_intent(self) -> None:
        """
        A gateway whose acknowledged intent is lost sends nothing more: its key would
        be taken for a new one by a process that is started now.
        """
        self.successResultOf(self.write(intent(1, "a")))
        self.successResultOf(self.write(intent(2, "b", NOW + 1)))
        [logged] = self.lose("DELETE FROM intent WHERE number = 2")
        self.assertIn("gateway a has recorded batch 2", logged)
        self.assertIn("only up to 1", logged)

    def test_rescue(self) -> None:
        """
        The copy of that gateway has everything, and another one goes on with it.
        """
        self.successResultOf(self.write(intent(1, "a")))
        made, added = self.booked(2, 55, "b")
        self.successResultOf(self.write(made, booked=(added,)))
        [logged] = self.lose("DELETE FROM intent", "TRUNCATE event, link, trade")
        path = self.log.ledger.path
        self.assertIn(f"The copy {path} has them", logged)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        rescued = str(Path(folder.name, "rescued.db"))
        other = ground.database()
        place = f"127.0.0.1:{other.server.port}/{other.name}"
        address = f"postgresql://{ground.SUPERUSER}@{place}"
        for arguments in (
            ["backup", "--ledger", path, rescued],
            ["import", rescued, "--ledger", address],
        ):
            self.patch(sys, "argv", ["creditsync", *arguments])
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                main()
        gateway = self.make("b", other)
        self.successResultOf(gateway.open())
        self.assertEqual([each.number for each in gateway.log.unfinished()], [1])
        found = gateway.log.withKey(7, "b")
        assert found is not None
        self.assertEqual((found.order, found.place), (55, 1))
        self.assertNotEqual(gateway.log.ledger.epoch, self.log.ledger.epoch)

    def test_booking(self) -> None:
        """
        The same goes for an acknowledged record of the journal.
        """
        _, added = self.booked(1, 55)
        self.successResultOf(self.write(booked=(added,)))
        [logged] = self.lose("TRUNCATE event, link, trade, opened, keyed")
        self.assertIn("acknowledged batch 1 with place 1", logged)

    def test_start(self) -> None:
        """
        A server that lacks even the start of a gateway has not shut it out: its copy
        has what was sent since.
        """
        self.successResultOf(self.write(intent(1, "a")))
        [logged] = self.lose("DELETE FROM intent", "DELETE FROM node")
        self.assertIn("node a has incarnation 1, but PostgreSQL knows none", logged)
        self.assertTrue(Path(self.log.ledger.path).exists())

    def test_laterStart(self) -> None:
        """
        The same goes for one whose name another process has had before.
        """
        self.close(self.gateway)
        untilFree(self.database)
        self.gateway = self.start()
        self.log = self.gateway.log
        [logged] = self.lose("UPDATE node SET incarnation = 1, owner = 'former'")
        self.assertIn("incarnation 2, but PostgreSQL knows only 1", logged)

    def test_takenOver(self) -> None:
        """
        A gateway that has taken over meanwhile does not know what was lost.
        """
        made, added = self.booked(1, 55)
        self.successResultOf(self.write(made, booked=(added,)))
        [logged] = self.lose(
            "TRUNCATE event, link, trade, opened, keyed, intent",
            "UPDATE node SET incarnation = incarnation + 1, owner = ''",
        )
        self.assertIn("acknowledged batch 1 with place 1", logged)


class TakeoverTests(Case):
    """
    Tests for several gateways of one ledger.
    """

    def test_second(self) -> None:
        """
        A second gateway is refused as long as the first one lives, and that goes on.
        """
        second = self.make("b")
        opened = second.open()
        self.assertNoResult(opened)
        second.clock.pump([0.2] * 15)
        why = self.failureResultOf(opened, LedgerInUse)
        self.assertIn("the gateway a sends for the ledger at", why.getErrorMessage())
        self.assertIn("stop it first", why.getErrorMessage())
        self.successResultOf(self.write(intent()))

    def test_sameName(self) -> None:
        """
        So is one with the same name, which can only be a mistake.
        """
        second = self.make("a")
        opened = second.open()
        second.clock.pump([0.2] * 15)
        self.failureResultOf(opened, LedgerInUse)
        self.successResultOf(self.write(intent()))

    def test_takeover(self) -> None:
        """
        A gateway that is started after the other one has lost its connection has all
        that the other one has sent, and the other one, which does not know of that,
        can't write anything more.
        """
        self.successResultOf(self.write(intent(1, "a")))
        self.gateway.lines.of("writer").lose()
        untilFree(self.database)
        second = self.start("b")
        self.assertEqual([each.number for each in second.log.unfinished()], [1])
        self.assertEqual(second.log.nextNumber(), 2)
        written = self.write(intent(2, "b", NOW + 1))
        self.failureResultOf(written, Fenced)
        self.assertEqual(self.rows("SELECT number FROM intent"), [(1,)])
        made, added = self.booked(2, 55)
        self.successResultOf(self.write(made, booked=(added,), log=second.log))
        self.assertEqual(self.problems(), [])

    def test_stillConnected(self) -> None:
        """
        What keeps a gateway from sending is not that it lacks the lock: one that has
        its connection, and was shut out, can't write anything either.
        """
        connection = self.gateway.lines.of("writer").connection
        connection.execute("SELECT pg_advisory_unlock_all()")
        second = self.start("b")
        self.failureResultOf(self.write(intent()), Fenced)
        made, added = self.booked(2, 55)
        self.failureResultOf(self.write(made, booked=(added,)), Fenced)
        self.assertEqual(self.rows("SELECT FROM intent"), [])
        self.assertEqual(self.rows("SELECT FROM event"), [])
        self.successResultOf(self.write(intent(), log=second.log))

    def test_interrupted(self) -> None:
        """
        A gateway is told when it loses its connection, but not of its own end.
        """
        told: list[str] = []
        self.log.interrupted = lambda: told.append("interrupted")
        self.gateway.lines.of("writer").lose()
        self.assertEqual(told, ["interrupted"])
        untilFree(self.database)
        self.successResultOf(self.write(intent()))
        self.log.close()
        self.assertEqual(told, ["interrupted"])

    def test_underWay(self) -> None:
        """
        A commit that was under way when the other one took over is carried out before
        that, or never.
        """
        self.gateway.lines.held.add("writer")
        written = self.write(intent(1, "a"))
        # The server has it, but has not begun: the lock goes with its connection.
        [statement] = self.gateway.lines.statements
        self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        )
        untilFree(self.database)
        second = self.start("b")
        self.assertEqual(second.log.unfinished(), [])
        self.assertEqual(statement.text[:15], "SELECT record_1")
        self.gateway.lines.held.clear()
        self.gateway.lines.of("writer").lose()
        self.failureResultOf(written, Fenced)
        self.assertEqual(self.rows("SELECT FROM intent"), [])

    def test_withoutTheLock(self) -> None:
        """
        A gateway that has lost its connection does not go on while another one has the
        lock, and ends when that has taken over.
        """
        self.gateway.lines.of("writer").lose()
        untilFree(self.database)
        other = self.make("b").lines.connect("other").result
        lock = "SELECT pg_advisory_lock('intent'::regclass::oid::integer, 1)"
        other.connection.execute(lock)
        written = self.write(intent())
        self.gateway.clock.pump([1] * 3)
        self.assertNoResult(written)
        self.assertEqual(self.rows("SELECT FROM intent"), [])
        other.close()
        untilFree(self.database)
        self.gateway.clock.pump([5] * 2)
        self.successResultOf(written)

    def test_formerCopies(self) -> None:
        """
        The copies of gateways that were killed are removed, those in use are not.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.patch(tempfile, "tempdir", folder.name)
        self.close(self.gateway)
        untilFree(self.database)
        former = Path(folder.name, "creditsync-gateway-killed")
        other = Path(folder.name, "another")
        for each in (former, other):
            each.mkdir()
            (each / "copy.db").touch()
            (each / "gateway.lock").touch()
        second = self.start()
        inUse = Path(second.log.ledger.path).parent
        self.assertEqual(set(Path(folder.name).iterdir()), {other, inUse})
        self.assertEqual(inUse.stat().st_mode & 0o777, 0o700)
        third = self.make(database=ground.database())
        self.successResultOf(third.open())
        self.assertTrue(inUse.exists())

    def test_copyBeingMade(self) -> None:
        """
        Nor is one that is just being made.
        """
        other = self.make(database=ground.database())

        def run(copy: Any) -> Any:
            third = self.make(database=ground.database())
            self.successResultOf(third.open())
            return execute(copy)

        other.log._run = run
        self.successResultOf(other.open())


class KindTests(SynchronousTestCase):
    """
    Tests for ledgers of the other kind.
    """

    def test_gateways(self) -> None:
        """
        A server that books itself does not start on a gateway's ledger, and shuts
        nobody out.
        """
        database = emptied()
        gateway = Gateway(database)
        self.successResultOf(gateway.open())
        self.addCleanup(gateway.log.close)
        case: Any = self
        case.database = database
        node = Node(case, "a")
        why = self.failureResultOf(node.runtime.startService(), LedgerProblem)
        self.assertIn("start with --upstream", why.getErrorMessage())
        self.successResultOf(gateway.log.write([intent()], [], 0))

    def test_own(self) -> None:
        """
        A gateway does not start on a ledger in which servers have booked.
        """
        database = plain()
        database.rows(
            "INSERT INTO event VALUES (1, 1, 0, 5, 1001, 7, 3, 1, '', 0, 0, 0, 0, 1,"
            " 1, 1, 1)"
        )
        gateway = Gateway(database)
        why = self.failureResultOf(gateway.open(), LedgerProblem)
        self.assertIn("a gateway needs another database", why.getErrorMessage())
        self.assertEqual(database.rows("SELECT to_regclass('intent')"), [(None,)])
        self.assertEqual(gateway.lines.open, [])

    def test_begins(self) -> None:
        """
        A gateway makes its tables beside those of servers that have not booked, and
        shuts these out.
        """
        database = ground.database()
        makeTables(database)
        case: Any = self
        case.database = database
        node = Node(case, "n")
        self.successResultOf(node.runtime.startService())
        gateway = Gateway(database)
        self.successResultOf(gateway.open())
        self.addCleanup(gateway.log.close)
        self.assertEqual(
            database.rows("SELECT name, owner FROM node ORDER BY name"),
            [("a", "owner of a"), ("n", "")],
        )
        stopped = node.runtime.stopService()
        stopped.addErrback(lambda _: None)

    def test_rights(self) -> None:
        """
        A role that may not make the tables, or use them, is told what it lacks.
        """
        database = ground.database()
        makeTables(database)
        role = f"clerk_{database.name}"
        database.rows(f"CREATE ROLE {role} LOGIN")
        database.rows(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
            f" TO {role}"
        )
        restricted = Restricted(database.server, database.name, role)
        why = self.failureResultOf(Gateway(restricted).open(), LedgerProblem)
        self.assertIn("creditsync init --gateway", why.getErrorMessage())
        gateway = Gateway(database)
        self.successResultOf(gateway.open())
        gateway.log.close()
        untilFree(database)
        why = self.failureResultOf(Gateway(restricted).open(), LedgerProblem)
        self.assertIn(
            "GRANT SELECT, INSERT, UPDATE ON intent TO ",
            why.getErrorMessage(),
        )


class Restricted(Database):
    """
    A database as a role that has few rights.
    """

    def __init__(self, server: ground.Server, name: str, role: str) -> None:
        super().__init__(server, name)
        self.role = role

    def dsn(self, **parameters: str | int) -> str:
        """
        See L{Database.dsn}.
        """
        return super().dsn(user=self.role, **parameters)

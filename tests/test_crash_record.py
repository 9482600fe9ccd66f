"""
Tests for L{tests.crash.record}.
"""

import json
import sqlite3
from hashlib import sha256
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from creditsync.ledger._opening import upgrade
from creditsync.ledger._schema import SCRIPTS
from tests.crash.asked import Asked
from tests.crash.record import Record, Violation

NOW = 1_790_000_000


class RecordTests(SynchronousTestCase):
    """
    Tests for L{Record} on made-up ledgers: a sound one, and each violation.
    """

    def setUp(self) -> None:
        """
        Make a ledger, and request one credit of 300.
        """
        self.ledger = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.ledger.close)
        upgrade(self.ledger, ":memory:", SCRIPTS)
        self.hash = bytes(32)
        self.record = Record()
        self.seen: set[Asked] = set()
        self.asked = self.ask("CreditIn", login=1001, amount=300.0)

    def ask(self, method: str, hasKey: bool = True, **data: Any) -> Asked:
        """
        Send a C{Sync} operation.
        """
        asked = self.record.ask(method, True, hasKey, **data)
        self.record.sending(asked)
        return asked

    def data(self, asked: Asked, order: int = 5, **members: Any) -> dict[str, Any]:
        """
        The data of the event of an operation on an account's credit.
        """
        return {
            "order": order,
            "login": 1001,
            "cmd": 7,
            "state": 3,
            "profit": asked.data.get("amount", 300.0),
            "comment": asked.data.get("comment", self.asked.data["comment"]),
            "open_time": NOW,
            "close_time": NOW,
            "timestamp": NOW,
            **members,
        }

    def event(self, asked: Asked, **members: Any) -> None:
        """
        Let the driver receive an event.
        """
        self.record.event(asked.type, self.data(asked, **members), self.seen)

    def reply(self, asked: Asked, **members: Any) -> None:
        """
        Let the driver receive a reply, 200 unless the members say otherwise.
        """
        reply = {"status": 200, "data": self.data(asked), **members}
        self.record.replied(asked, reply, self.seen)

    def book(self, asked: Asked, order: int = 5, profit: int = 300_00000000) -> None:
        """
        Write an operation into the ledger.
        """
        state = 6 if asked.method == "DeleteCredit" else 3
        comment = asked.data.get("comment", self.asked.data["comment"])
        trades = self.ledger.execute(
            'SELECT "order", profit FROM trade WHERE state = 3'
        )
        profits = {**dict(trades), order: profit if state == 3 else 0}
        [[place]] = self.ledger.execute("SELECT count(*) + 1 FROM journal")
        trade = [order, 1001, 7, state, profit, comment, NOW, NOW, NOW]
        totals = [0, sum(profits.values())]
        who = [7, 1, asked.command, 0, asked.key, None, None]
        row = [place, asked.type, *trade, *totals, *who]
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
        self.hash = sha256(self.hash + text.encode()).digest()
        self.ledger.execute(
            f"INSERT INTO journal VALUES ({', '.join('?' * 21)})", [*row, self.hash]
        )

    def acknowledge(self, asked: Asked) -> None:
        """
        Let the driver receive an event and then the reply.
        """
        self.event(asked)
        self.reply(asked)

    def assertViolation(self, words: str) -> None:
        """
        Check, and assert that this violation is found.
        """
        with self.assertRaisesRegex(Violation, words):
            self.record.check(self.ledger)

    def test_sound(self) -> None:
        """
        An acknowledged credit, its update and its deletion that are all in the
        ledger are sound.
        """
        self.acknowledge(self.asked)
        self.book(self.asked)
        self.record.check(self.ledger)
        update = self.ask("CreditIn", login=1001, amount=200.0, order=5)
        delete = self.ask("DeleteCredit", order=5)
        self.acknowledge(update)
        comment = update.data["comment"]
        self.event(delete, profit=200.0, comment=comment, state=6)
        self.book(update, profit=200_00000000)
        delete.data["comment"] = comment
        self.book(delete, profit=200_00000000)
        self.record.check(self.ledger)
        self.record.checkAll(self.ledger)
        self.assertEqual(self.record.acknowledged, 2)

    def test_acknowledgedIsLost(self) -> None:
        """
        An operation with a 200 and no row is reported as lost.
        """
        self.acknowledge(self.asked)
        self.assertViolation("^lost")

    def test_eventIsLost(self) -> None:
        """
        An operation with an event, no reply and no row is reported as lost.
        """
        self.event(self.asked)
        self.assertViolation("^lost")

    def test_withoutKeyIsLost(self) -> None:
        """
        An acknowledged operation without a key and without a row is reported
        as lost.
        """
        other = self.ask("CreditIn", False, login=1001, amount=300.0)
        self.event(other)
        self.assertViolation("^lost, order 5")

    def test_updateIsLost(self) -> None:
        """
        An acknowledged update without a key that is not in the ledger is
        reported.
        """
        self.acknowledge(self.asked)
        self.book(self.asked)
        self.event(self.ask("CreditIn", False, login=1001, amount=200.0, order=5))
        self.assertViolation("was written 1 times by 2 to 2 operations")

    def test_deletionIsLost(self) -> None:
        """
        An acknowledged deletion is reported if the ledger has an update
        instead that was never announced.
        """
        self.acknowledge(self.asked)
        self.book(self.asked)
        self.event(self.ask("DeleteCredit", False, order=5), state=6)
        update = self.ask("CreditIn", False, login=1001, amount=200.0, order=5)
        self.book(update, profit=200_00000000)
        self.assertViolation("is not deleted")

    def test_keyIsLost(self) -> None:
        """
        A trade whose key is missing is reported: a repetition would not be
        recognized.
        """
        self.acknowledge(self.asked)
        self.book(self.asked)
        self.ledger.execute("DROP TRIGGER journal_updated")
        self.ledger.execute("UPDATE journal SET key = NULL")
        self.assertViolation("its key is not in the ledger")

    def test_changed(self) -> None:
        """
        An amount other than the acknowledged one is reported.
        """
        self.acknowledge(self.asked)
        self.book(self.asked, profit=299_99999999)
        self.assertViolation("^made .* and later")

    def test_changedWithoutKey(self) -> None:
        """
        An amount other than the acknowledged one is reported for an operation
        without a key.
        """
        other = self.ask("CreditIn", False, login=1001, amount=300.0)
        self.event(other)
        self.book(other, profit=299_99999999)
        self.assertViolation("is not what")

    def test_renumbered(self) -> None:
        """
        An order number other than the acknowledged one is reported.
        """
        self.acknowledge(self.asked)
        self.book(self.asked, 6)
        self.assertViolation("booked as orders 5 and 6")

    def test_bookedTwice(self) -> None:
        """
        A second booking of an operation with neither a key nor an answer is
        reported.
        """
        other = self.ask("CreditIn", False, login=1001, amount=300.0)
        self.book(other, 5)
        self.book(other, 6)
        self.assertViolation("booked as orders 5 and 6")

    def test_updatedTwice(self) -> None:
        """
        A second booking of an update is reported.
        """
        self.acknowledge(self.asked)
        self.book(self.asked)
        update = self.ask("CreditIn", False, login=1001, amount=200.0, order=5)
        self.book(update, profit=200_00000000)
        self.book(update, profit=200_00000000)
        self.assertViolation("was written 3 times by 1 to 2 operations")

    def test_refusedIsBooked(self) -> None:
        """
        A booking of a refused operation is reported.
        """
        self.reply(self.asked, status=409, error="TRADE_NO_MONEY")
        self.book(self.asked)
        self.assertViolation("was refused, and booked")

    def test_shutIsBooked(self) -> None:
        """
        A booking of an operation that was refused during a stop is reported;
        one with a key is sent again later, and may be booked then.
        """
        self.reply(self.asked, status=503, error="SHUTDOWN")
        self.record.sending(self.asked)
        self.acknowledge(self.asked)
        self.book(self.asked)
        self.record.check(self.ledger)
        other = self.ask("CreditIn", login=1001, amount=300.0)
        self.reply(other, status=503, error="SHUTDOWN")
        self.book(other, 6)
        self.assertViolation("was refused, and booked")

    def test_unasked(self) -> None:
        """
        A trade that was never requested is reported.
        """
        self.ledger.execute(
            "INSERT INTO trade VALUES (5, 1001, 7, 3, 1, 'mine', 0, 0, 0, 0, 1)"
        )
        self.assertViolation("nobody asked for")

    def test_numberMeansAnother(self) -> None:
        """
        The order of a 504 that belongs to another operation is reported.
        """
        self.reply(self.asked, status=504, data={"order": 5})
        other = self.ask("CreditIn", login=1001, amount=300.0)
        with self.assertRaisesRegex(Violation, "^order 5 means operation 0"):
            self.event(other)

    def test_numberOfUnknownIsUnused(self) -> None:
        """
        An order that was named in a 504 and never booked is sound; the
        repetition has another.
        """
        self.reply(self.asked, status=504, data={"order": 5})
        self.record.check(self.ledger)
        self.record.sending(self.asked)
        self.event(self.asked, order=6)
        self.book(self.asked, 6)
        self.record.check(self.ledger)

    def test_repetitionBookedAnew(self) -> None:
        """
        A second booking under a key that the ledger already had is reported.
        """
        self.book(self.asked)
        self.record.check(self.ledger)
        self.record.sending(self.asked)
        with self.assertRaisesRegex(Violation, "once more after a restart"):
            self.event(self.asked, order=6)

    def test_repetitionAnsweredOtherwise(self) -> None:
        """
        A repetition that gets other data is reported.
        """
        self.book(self.asked)
        self.record.check(self.ledger)
        self.record.sending(self.asked)
        other = self.data(self.asked, timestamp=NOW + 1)
        with self.assertRaisesRegex(Violation, "^made"):
            self.reply(self.asked, data=other, replayed=True)

    def test_replyBeforeEvent(self) -> None:
        """
        A reply without an earlier event on the same connection is reported.
        """
        with self.assertRaisesRegex(Violation, "before its event"):
            self.reply(self.asked)

    def test_targetIsGone(self) -> None:
        """
        An update of an acknowledged order that made a new one is reported.
        """
        self.acknowledge(self.asked)
        update = self.ask("CreditIn", login=1001, amount=200.0, order=5)
        with self.assertRaisesRegex(Violation, "as if it were new|not due"):
            self.reply(update, status=504, data={"order": 6})

    def test_twoEvents(self) -> None:
        """
        Two events for one operation are reported.
        """
        self.event(self.asked)
        with self.assertRaisesRegex(Violation, "two events"):
            self.event(self.asked)

    def test_eventOfRefused(self) -> None:
        """
        An event of a refused operation is reported.
        """
        self.reply(self.asked, status=409, error="TRADE_NO_MONEY")
        with self.assertRaisesRegex(Violation, "is not due to"):
            self.event(self.asked)

    def test_eventTellsOtherwise(self) -> None:
        """
        An event with another amount or state than was requested is reported.
        """
        with self.assertRaisesRegex(Violation, "^made"):
            self.event(self.asked, profit=299.99)
        other = self.ask("CreditIn", login=1001, amount=300.0)
        with self.assertRaisesRegex(Violation, "wrong state"):
            self.event(other, order=6, state=10)

    def test_bookedAndRefused(self) -> None:
        """
        A refusal of an operation that had an event is reported.
        """
        self.event(self.asked)
        with self.assertRaisesRegex(Violation, "and then refused"):
            self.reply(self.asked, status=409, error="TRADE_NO_MONEY")

    def test_replayOfWhatWasNotSent(self) -> None:
        """
        A first request that is answered as a replay is reported.
        """
        with self.assertRaisesRegex(Violation, "not sent before"):
            self.reply(self.asked, replayed=True)

    def test_repetitionAsIfNew(self) -> None:
        """
        A replay that is not marked as one is reported.
        """
        self.book(self.asked)
        self.record.check(self.ledger)
        self.record.sending(self.asked)
        with self.assertRaisesRegex(Violation, "as if it were new"):
            self.reply(self.asked)

    def test_acceptedOtherwise(self) -> None:
        """
        An asynchronous command that is accepted for another account is
        reported, and so is a repetition with other members.
        """
        asked = self.record.ask("CreditIn", False, True, login=1001, amount=300.0)
        self.record.sending(asked)
        self.event(asked)
        data = {"order": 5, "login": 1001, "cmd": 7, "state": 10, "amount": 300.0}
        with self.assertRaisesRegex(Violation, "^accepted as"):
            self.reply(asked, data={**data, "login": 1002})
        self.reply(asked, data={**data, "accepted": True})
        self.record.sending(asked)
        with self.assertRaisesRegex(Violation, "^answered"):
            self.reply(asked, data=data, replayed=True)

    def test_keyOfOther(self) -> None:
        """
        A key that is stored with another command is reported.
        """
        self.acknowledge(self.asked)
        self.book(self.asked)
        self.ledger.execute("DROP TRIGGER journal_updated")
        self.ledger.execute("UPDATE journal SET command = 'CreditIn'")
        self.assertViolation("the key is of CreditIn")

    def test_writtenLater(self) -> None:
        """
        A trade known only from its row is reported if it was changed or
        deleted without a request.
        """
        other = self.ask("CreditIn", False, login=1001, amount=300.0)
        self.event(other)
        self.book(other)
        self.ledger.execute("UPDATE trade SET timestamp = timestamp + 1")
        self.assertViolation("is there, where")
        self.record.sending(other)
        self.ledger.execute("UPDATE trade SET state = 6")
        self.assertViolation("deleted by nobody")

    def test_unexpectedRefusal(self) -> None:
        """
        A refusal without a reason is reported.
        """
        with self.assertRaisesRegex(Violation, "was answered"):
            self.reply(self.asked, status=404, error="NOT_FOUND")

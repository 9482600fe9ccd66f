"""
Tests for safe retries: the C{idempotencyKey} of a request.
"""

import os
import tempfile
from typing import Any

from test_family import SEED, Client, FamilyCase
from twisted.internet.defer import execute

from creditsync.ledger.sqlite import SQLiteLedger

NOW = 1767225600
ONE = 100_000_000

# The data of docs/protocol.rst, "A credit", booked as the first order.
SEED_DATA = (
    b'{"order":1,"login":1001,"cmd":7,"state":3,"profit":300.0,'
    b'"comment":"Promotion credit","symbol":"","volume":0,"open_price":0.0,'
    b'"close_price":0.0,"open_time":1767225600,"close_time":1767225600,"sl":0.0,'
    b'"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,"timestamp":1767225600}'
)
ACCEPTED_DATA = (
    b'{"accepted":true,"order":1,"state":10,"login":1001,"cmd":7,"amount":300.0}'
)


def first(data: bytes) -> bytes:
    """
    The line of the first reply, which is to the C{extID} C{"a"}.
    """
    return b'{"extID":"a","status":200,"data":' + data + b"}\r\n"


def replay(data: bytes) -> bytes:
    """
    The line of a replayed reply, which is to the C{extID} C{"b"}.
    """
    return b'{"extID":"b","status":200,"data":' + data + b',"replayed":true}\r\n'


class KeyCase(FamilyCase):
    """
    Helpers for the tests of keys.
    """

    def keyed(
        self,
        command: str = "CreditInSync",
        data: object = SEED,
        key: object = "promo-1",
        extID: object = "a",
        client: Client | None = None,
    ) -> None:
        """
        Send a command under a key.
        """
        (client or self.client).asks(command, data, extID, idempotencyKey=key)

    def done(self, *asked: Any, **others: Any) -> Any:
        """
        Send a command under a key, let it be booked, and return the reply.
        """
        self.keyed(*asked, **others)
        self.book()
        return self.client.reply()

    def replayed(self, *asked: Any, **others: Any) -> bytes:
        """
        Repeat, with the C{extID} C{"b"}, a command that was booked before.

        @return: The one line that is received, at once: nothing is booked.
        """
        self.client.heard.clear()
        events = len(self.published)
        self.keyed(*asked, extID="b", **others)
        [line] = self.client.lines()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.ledger.commits, [])
        self.assertEqual(len(self.published), events)
        return line

    def reused(self, *asked: Any, **others: Any) -> str:
        """
        Send another command under a key of order 1.

        @return: The name of the member that differs.
        """
        self.keyed(*asked, extID="reused", **others)
        reply = self.client.reply()
        self.assertEqual(
            (reply["extID"], reply["status"], reply["error"], reply["data"]),
            ("reused", 422, "IDEMPOTENCY_KEY_REUSED", {"order": 1}),
        )
        member, _, rest = reply["message"].partition(" ")
        self.assertEqual(
            rest,
            "differs from the first request with this idempotencyKey,"
            " which has order 1",
        )
        return str(member)

    def restart(self) -> None:
        """
        Stop the server, and start it again on the same ledger.
        """
        self.successResultOf(self.runtime.stopService())
        self.start()


class ReplayTests(KeyCase):
    """
    Tests for the replay of what was booked under a key, from a ledger in
    memory.
    """

    def test_sync(self) -> None:
        """
        A repetition gets the same data, byte for byte, marked as a replay;
        nothing is booked again.
        """
        self.keyed()
        self.book()
        self.assertEqual(self.client.lines()[1], first(SEED_DATA))
        self.now = NOW + 60
        for _ in range(2):
            self.assertEqual(self.replayed(), replay(SEED_DATA))
        self.assertEqual(self.totals(), (0, 300 * ONE))
        self.assertEqual(self.booked("CreditInSync", amount=1)["order"], 2)

    def test_async(self) -> None:
        """
        A repetition of the asynchronous form gets the data of the accepted
        request, marked as a replay.
        """
        self.keyed("CreditIn")
        self.book()
        self.assertEqual(self.client.lines()[1], first(ACCEPTED_DATA))
        self.assertEqual(self.replayed("CreditIn"), replay(ACCEPTED_DATA))
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_noExtID(self) -> None:
        """
        A replay without an C{extID} has none.
        """
        self.keyed("CreditIn", extID=None)
        self.book()
        self.client.heard.clear()
        self.keyed("CreditIn", extID=None)
        self.assertEqual(
            self.client.lines(),
            [b'{"status":200,"data":' + ACCEPTED_DATA + b',"replayed":true}\r\n'],
        )

    def test_otherSession(self) -> None:
        """
        The retry may come from another connection, and no other session
        receives anything.
        """
        self.keyed()
        self.book()
        self.client.heard.clear()
        again = Client(self.sessions)
        self.keyed(client=again, extID="b")
        self.assertEqual(again.lines(), [replay(SEED_DATA)])
        self.assertEqual(self.client.lines(), [])

    def test_laterUpdate(self) -> None:
        """
        A replay has the data as it was booked then, whatever happened to the
        trade since.
        """
        self.keyed()
        self.keyed("CreditIn", key="promo-2", data={**SEED, "order": 1}, extID="up")
        self.book()
        self.booked("CreditInSync", amount=5, order=1)
        self.assertEqual(self.replayed(), replay(SEED_DATA))
        self.assertEqual(
            self.replayed("CreditIn", {**SEED, "order": 1}, "promo-2"),
            replay(ACCEPTED_DATA.replace(b'"state":10', b'"state":11')),
        )
        self.booked("DeleteCreditSync", order=1)
        self.assertEqual(self.replayed(), replay(SEED_DATA))
        self.assertEqual(self.totals(), (0, 0))

    def test_restart(self) -> None:
        """
        Keys outlive the process.
        """
        self.keyed()
        self.keyed("CreditIn", key="promo-2", data={**SEED, "order": 1}, extID="up")
        self.keyed("DeleteCreditSync", {"order": 1}, "promo-3", "delete")
        self.book()
        deleted = SEED_DATA.replace(b'"state":3', b'"state":6')
        self.restart()
        self.assertEqual(self.replayed(), replay(SEED_DATA))
        self.assertEqual(
            self.replayed("CreditIn", {**SEED, "order": 1}, "promo-2"),
            replay(ACCEPTED_DATA.replace(b'"state":10', b'"state":11')),
        )
        self.assertEqual(
            self.replayed("DeleteCreditSync", {"order": 1}, "promo-3"),
            replay(deleted),
        )
        self.assertEqual(self.reused("CreditIn"), "command")
        self.assertEqual(self.totals(), (0, 0))

    def test_update(self) -> None:
        """
        An update is replayed as an update, and is not made again.
        """
        self.booked("CreditInSync", amount=100)
        self.now = NOW + 60
        data = SEED_DATA.replace(b'timestamp":1767225600', b'timestamp":1767225660')
        self.keyed(data={**SEED, "order": 1})
        self.book()
        [event, reply] = self.client.lines()
        self.assertIn(b'"type":1', event)
        self.assertEqual(reply, first(data))
        self.booked("CreditInSync", amount=100, order=1)
        self.assertEqual(self.replayed(data={**SEED, "order": 1}), replay(data))
        self.assertEqual(self.totals(), (0, 100 * ONE))

    def test_orderNotFound(self) -> None:
        """
        A request whose order was not found is recognized by the order that it
        named, not by the one that it got.
        """
        asked = {**SEED, "order": 42}
        self.assertEqual(self.done(data=asked)["data"]["order"], 1)
        self.assertEqual(self.replayed(data=asked), replay(SEED_DATA))
        self.assertEqual(self.reused(data={**SEED, "order": 1}), "data.order")
        self.assertEqual(self.reused(data=SEED), "data.order")

    def test_delete(self) -> None:
        """
        A deletion is replayed as it was, and does not delete again.
        """
        data = SEED_DATA.replace(b'"state":3', b'"state":6')
        self.booked("CreditInSync", amount=300, comment="Promotion credit")
        self.keyed("DeleteCreditSync", {"order": 1})
        self.book()
        self.assertEqual(self.client.lines()[1], first(data))
        self.assertEqual(self.replayed("DeleteCreditSync", {"order": 1}), replay(data))

    def test_asyncDelete(self) -> None:
        """
        The asynchronous form of a deletion is replayed as it was.
        """
        data = ACCEPTED_DATA.replace(b'"state":10', b'"state":12')
        self.booked("CreditInSync", amount=300)
        self.keyed("DeleteCredit", {"order": 1})
        self.book()
        self.assertEqual(self.client.lines()[1], first(data))
        self.assertEqual(self.replayed("DeleteCredit", {"order": 1}), replay(data))

    def test_exactly(self) -> None:
        """
        A replay has the exact amounts of eighteen digits, every character of a
        comment, and the time 0.
        """
        line = (
            b'{"command":"BalanceInSync","extID":"%s","__token":"manager",'
            b'"idempotencyKey":"promo-1","data":{"login":9007199254740991,'
            b'"amount":9999999999.99999999,"comment":"\\t\\r\\nB\\u00f6ni\'s '
            b'\\ud83d\\ude00\\"\\\\,}","open_time":0,"close_time":0}}'
        )
        data = (
            b'{"order":1,"login":9007199254740991,"cmd":6,"state":3,'
            b'"profit":9999999999.99999999,"comment":"\\t\\r\\nB\\u00f6ni\\u0027s '
            b'\\ud83d\\ude00\\"\\\\\\u002c}","symbol":"","volume":0,"open_price":0.0,'
            b'"close_price":0.0,"open_time":0,"close_time":0,"sl":0.0,"tp":0.0,'
            b'"storage":0.0,"commission":0.0,"reason":7,"timestamp":1767225600}'
        )
        self.client.session.lineReceived(line % b"a")
        self.book()
        self.assertEqual(self.client.lines()[1], first(data))
        self.restart()
        self.client.session.lineReceived(line % b"b")
        self.assertEqual(self.client.lines(), [replay(data)])

    def test_sameContent(self) -> None:
        """
        A request that means the same is the same, however it was written.
        """
        self.done(data={**SEED, "open_time": 1700, "order": 0})
        for same in (
            {**SEED, "open_time": 1700},
            {**SEED, "open_time": 1700.0, "order": 0.0},
            {**SEED, "open_time": 1700, "login": 1001.0, "amount": 300},
            {**SEED, "open_time": 1700, "__access": 3},
        ):
            self.assertIn(b'"replayed":true', self.replayed(data=same))

    def test_defaultComment(self) -> None:
        """
        A balance operation without a comment is the same as one with the
        comment that it gets.
        """
        self.done("BalanceInSync", {"login": 1001, "amount": 1})
        told = self.replayed(
            "BalanceInSync", {"login": 1001, "amount": 1, "comment": "Finance"}
        )
        self.assertIn(b'"replayed":true', told)

    def test_otherContent(self) -> None:
        """
        Other content under the same key is refused with the name of the first
        member that differs, while the first request is pending, when it is
        booked, and after a restart.
        """
        self.keyed(data={**SEED, "open_time": 1700, "close_time": 1800})
        for _ in range(4):
            asked = {**SEED, "open_time": 1700, "close_time": 1800}
            for command in ("CreditIn", "BalanceInSync"):
                self.assertEqual(self.reused(command, asked), "command")
            self.assertEqual(
                self.reused("CreditOutSync", {**asked, "amount": -300}), "command"
            )
            for command in ("DeleteCreditSync", "DeleteBalance"):
                self.assertEqual(self.reused(command, {"order": 1}), "command")
            for name, value in (
                ("login", 1002),
                ("amount", 300.00000001),
                ("comment", "promotion credit"),
                ("order", 1),
                ("order", 1242281),
                ("open_time", 1701),
                ("close_time", 1801),
            ):
                self.assertEqual(
                    self.reused(data={**asked, name: value}), f"data.{name}"
                )
            for name in ("open_time", "close_time"):
                less = {each: asked[each] for each in asked if each != name}
                self.assertEqual(self.reused(data=less), f"data.{name}")
            self.turn()
            if self.ledger.commits:
                continue
            self.book()
            self.client.heard.clear()
            self.restart()

    def test_timesLeftOut(self) -> None:
        """
        An omitted time differs from the time of booking and from the time 0.
        """
        self.done()
        for name in ("open_time", "close_time"):
            for time in (NOW, 0):
                self.assertEqual(self.reused(data={**SEED, name: time}), f"data.{name}")

    def test_firstDifference(self) -> None:
        """
        Of several members that differ, the first one in the documented order
        is named.
        """
        self.done()
        self.assertEqual(
            self.reused(data={"login": 1002, "amount": 1, "comment": "x"}), "data.login"
        )
        self.assertEqual(
            self.reused(data={**SEED, "comment": "x", "order": 5}), "data.comment"
        )

    def test_otherDeletion(self) -> None:
        """
        For another deletion under the same key the order or the command is
        named.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditInSync", amount=300)
        self.keyed("DeleteCreditSync", {"order": 1})
        for _ in range(2):
            self.assertEqual(
                self.reused("DeleteCreditSync", {"order": 2}), "data.order"
            )
            self.assertEqual(self.reused("DeleteCredit", {"order": 1}), "command")
            self.assertEqual(
                self.reused("CreditInSync", {**SEED, "order": 1}), "command"
            )
            self.book()
            self.client.heard.clear()
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_reusedChangesNothing(self) -> None:
        """
        A refused reuse books nothing, and the first request stays known.
        """
        self.done()
        self.reused(data={**SEED, "amount": 1})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.replayed(), replay(SEED_DATA))
        self.assertEqual(self.totals(), (0, 300 * ONE))
        self.assertEqual(self.booked("CreditInSync", amount=1)["order"], 2)

    def test_principals(self) -> None:
        """
        Each principal has keys of its own, even in one batch.
        """
        dealer = Client(self.sessions, "dealer")
        self.keyed()
        self.keyed(client=dealer, data={**SEED, "amount": 5.0})
        self.book()
        self.assertEqual(self.client.reply()["data"]["order"], 1)
        self.assertEqual(dealer.reply()["data"]["order"], 2)
        self.assertEqual(self.replayed(), replay(SEED_DATA))
        self.keyed(client=dealer, data={**SEED, "amount": 5.0})
        reply = dealer.reply()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (2, True))
        admin = Client(self.sessions, "admin")
        self.keyed(client=admin)
        self.book()
        reply = admin.reply()
        self.assertEqual((reply["data"]["order"], "replayed" in reply), (3, False))
        self.assertEqual(self.totals(), (0, 605 * ONE))

    def test_keysAreExact(self) -> None:
        """
        A key is compared character by character.
        """
        keys = (
            "promo-1",
            "Promo-1",
            "promo-1 ",
            " promo-1",
            "1",
            "01",
            "1.0",
            "1e0",
            "null",
            "".join(chr(each) for each in range(0x20, 0x7F)),
            "x" * 128,
            "x" * 127,
        )
        for order, key in enumerate(keys, 1):
            self.assertEqual(self.done(key=key)["data"]["order"], order)
        self.restart()
        for order, key in enumerate(keys, 1):
            line = self.replayed(key=key)
            self.assertIn(b'"data":{"order":%d,' % order, line)
            self.assertIn(b'"replayed":true', line)

    def test_withoutAKey(self) -> None:
        """
        Without a key a request is booked each time it is sent, and is not a
        replay of one that has a key.
        """
        self.done()
        for order in (2, 3):
            reply = self.answered("CreditInSync", **SEED)
            self.assertEqual(reply["data"]["order"], order)
            self.assertNotIn("replayed", reply)
        self.assertEqual(self.totals(), (0, 900 * ONE))

    def test_manyInOneBatch(self) -> None:
        """
        Many keys that share a commit are all known afterwards, each with its
        own operation.
        """
        for number in range(1, 101):
            self.keyed(
                "CreditIn", {**SEED, "amount": number}, f"promo-{number}", number
            )
        self.turn()
        [(batch, _)] = self.ledger.commits
        self.assertEqual(len(batch), 100)
        self.book()
        self.assertEqual(len(self.client.replies()), 100)
        for number in range(1, 101):
            line = self.replayed(
                "CreditIn", {**SEED, "amount": number}, f"promo-{number}"
            )
            data = b'{"accepted":true,"order":%d,"state":10,"login":1001,"cmd":7,'
            amount = b'"amount":%d.0}'
            self.assertEqual(line, replay(data % number + amount % number))
        self.assertEqual(self.totals(), (0, 5050 * ONE))

    def test_mixedBatch(self) -> None:
        """
        Operations on one order, some with a key and some without, share a
        commit in booking order; each key has the data of its own.
        """
        self.keyed(key="k1", extID=1)
        self.client.asks("CreditInSync", {**SEED, "amount": 200, "order": 1}, 2)
        self.keyed(data={**SEED, "amount": 250, "order": 1}, key="k2", extID=3)
        self.client.asks("CreditInSync", {**SEED, "amount": 10}, 4)
        self.keyed("DeleteCreditSync", {"order": 1}, "k3", 5)
        self.keyed("CreditOutSync", {**SEED, "amount": -4}, "k4", 6)
        self.client.asks("CreditOutSync", {**SEED, "amount": -5, "order": 3}, 7)
        self.turn()
        [(batch, _)] = self.ledger.commits
        self.assertEqual([each.order for each in batch], [1, 1, 1, 2, 1, 3, 3])
        self.book()
        lines = self.client.hears()
        self.assertEqual(
            [
                (each["type"], each["data"]["order"], each["data"]["profit"])
                for each in lines[:7]
            ],
            [
                (0, 1, 300.0),
                (1, 1, 200.0),
                (1, 1, 250.0),
                (0, 2, 10.0),
                (2, 1, 250.0),
                (0, 3, -4.0),
                (1, 3, -5.0),
            ],
        )
        self.assertEqual(
            [(each["extID"], each["data"]) for each in lines[7:]],
            [(place, each["data"]) for place, each in enumerate(lines[:7], 1)],
        )
        self.assertEqual(self.totals(), (0, 5 * ONE))
        self.assertEqual(self.ledger.trade(1).state, 6)
        self.assertEqual(self.ledger.trade(3).profit, -5 * ONE)
        for command, data, key, profit, state in (
            ("CreditInSync", SEED, "k1", b"300.0", 3),
            ("CreditInSync", {**SEED, "amount": 250, "order": 1}, "k2", b"250.0", 3),
            ("DeleteCreditSync", {"order": 1}, "k3", b"250.0", 6),
            ("CreditOutSync", {**SEED, "amount": -4}, "k4", b"-4.0", 3),
        ):
            line = self.replayed(command, data, key)
            self.assertIn(b'"state":%d,"profit":%s,' % (state, profit), line)

    def test_refusedBefore(self) -> None:
        """
        A refused request is not remembered: the retry is checked afresh.
        """
        out = {"login": 1001, "amount": -100, "comment": "x"}
        self.keyed("CreditOutSync", out)
        self.assertEqual(self.client.outcome(), (409, "TRADE_NO_MONEY"))
        self.booked("CreditInSync", amount=100)
        reply = self.done("CreditOutSync", out)
        self.assertEqual((reply["status"], reply["data"]["order"]), (200, 2))
        self.assertNotIn("replayed", reply)
        self.assertIn(b'"replayed":true', self.replayed("CreditOutSync", out))
        self.assertEqual(self.totals(), (0, 0))

    def test_refusedAnyhow(self) -> None:
        """
        However a request was refused, its key may be used for another one.
        """
        self.booked("CreditInSync", amount=100)
        for command, data, status in (
            ("CreditInSync", {**SEED, "amount": 1e-9}, 400),
            ("CreditInSync", {**SEED, "open_time": 2, "close_time": 1}, 400),
            ("CreditInSync", {**SEED, "open_time": NOW + 1}, 400),
            ("CreditInSync", {"login": 1001}, 400),
            ("CreditInSync", {**SEED, "login": 1002, "order": 1}, 409),
            ("BalanceIn", {"login": 1001, "amount": 1, "order": 1}, 409),
            ("DeleteCreditSync", {"order": 42}, 404),
            ("DeleteBalanceSync", {"order": 1}, 409),
        ):
            self.keyed(command, data)
            self.assertEqual(self.client.reply()["status"], status)
        reply = self.done()
        self.assertEqual((reply["status"], reply["data"]["order"]), (200, 2))

    def test_deletionRefusedBefore(self) -> None:
        """
        A deletion that was not found may succeed later.
        """
        self.keyed("DeleteCreditSync", {"order": 1})
        self.assertEqual(self.client.outcome(), (404, "NOT_FOUND"))
        self.booked("CreditInSync", amount=100)
        reply = self.done("DeleteCreditSync", {"order": 1})
        self.assertEqual((reply["status"], reply["data"]["state"]), (200, 6))

    def test_noLongerAllowed(self) -> None:
        """
        A replay is not checked again: it is sent even if the request could not
        be booked now.
        """
        self.booked("CreditInSync", amount=100)
        out = {"login": 1001, "amount": -100, "comment": "x"}
        self.done("CreditOutSync", out)
        self.keyed("CreditOutSync", out, "promo-2")
        self.assertEqual(self.client.outcome(), (409, "TRADE_NO_MONEY"))
        self.assertIn(b'"replayed":true', self.replayed("CreditOutSync", out))


class SQLiteReplayTests(ReplayTests):
    """
    The tests of replays, from a ledger on disk.
    """

    def kept(self) -> Any:
        """
        Make a ledger.
        """
        self._folder = tempfile.TemporaryDirectory()
        return SQLiteLedger(os.path.join(self._folder.name, "ledger.db"), execute)

    def tearDown(self) -> None:
        """
        Delete the ledger when the server is stopped: trial would run a cleanup before.
        """
        super().tearDown()
        self._folder.cleanup()


class AttachTests(KeyCase):
    """
    Tests for a repetition while the first request is pending.
    """

    def test_both(self) -> None:
        """
        Both requests get the data of the one event, whether it is queued or
        being committed when the second one comes.
        """
        for turn, order in ((lambda: None, 1), (self.turn, 2)):
            key = f"promo-{order}"
            again = Client(self.sessions)
            self.keyed(key=key)
            turn()
            self.keyed(key=key, client=again, extID="b")
            self.assertEqual(self.client.heard + again.heard, [])
            self.book()
            data = SEED_DATA.replace(b'"order":1', b'"order":%d' % order)
            [event, reply] = self.client.lines()
            self.assertEqual(reply, first(data))
            self.assertEqual(
                again.lines(),
                [event, b'{"extID":"b","status":200,"data":%s}\r\n' % data],
            )
            self.assertEqual(len(self.published), order)
            again.session.ended()

    def test_sameSession(self) -> None:
        """
        One session may repeat a request under another C{extID}.
        """
        self.keyed(extID="a")
        self.keyed(extID="b")
        self.turn()
        [(batch, _)] = self.ledger.commits
        self.assertEqual([each.order for each in batch], [1])
        self.book()
        replies = self.client.replies()
        self.assertEqual([each["extID"] for each in replies], ["a", "b"])
        self.assertEqual(replies[0]["data"], replies[1]["data"])
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_sameExtID(self) -> None:
        """
        A session can't repeat a request under a pending C{extID}, even with a
        key.
        """
        self.keyed()
        self.keyed()
        self.assertEqual(self.client.outcome(), (409, "DUPLICATE_EXTID"))
        self.book()
        self.assertEqual(self.client.outcome(), (200, None))
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_afterTheTimeout(self) -> None:
        """
        A request that is repeated before or after a 504 gets the event's data;
        the first one gets nothing more.
        """
        early, late = Client(self.sessions), Client(self.sessions)
        self.keyed()
        self.turn()
        self.clock.advance(4)
        self.keyed(client=early)
        self.clock.advance(1)
        reply = self.client.reply()
        self.assertEqual(
            (reply["status"], reply["error"], reply["data"]),
            (504, "SYNC_TIMEOUT", {"order": 1}),
        )
        self.keyed(client=late)
        self.book()
        self.assertEqual(early.lines()[1], first(SEED_DATA))
        self.assertEqual(late.lines()[1], first(SEED_DATA))
        self.assertEqual(self.client.replies(), [])
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_ownTimeout(self) -> None:
        """
        A repetition has its own full timeout.
        """
        again = Client(self.sessions)
        self.keyed()
        self.turn()
        self.clock.advance(3)
        self.keyed(client=again)
        self.clock.advance(4.75)
        self.assertEqual(self.client.outcome(), (504, "SYNC_TIMEOUT"))
        self.assertEqual(again.heard, [])
        self.clock.advance(0.25)
        reply = again.reply()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 1}))

    def test_firstIsGone(self) -> None:
        """
        If the session of the first request has ended, the repetition is still
        answered.
        """
        again = Client(self.sessions)
        self.keyed()
        self.client.session.ended()
        self.keyed(client=again)
        self.book()
        self.assertEqual(again.lines()[1], first(SEED_DATA))

    def test_async(self) -> None:
        """
        The asynchronous form attaches too: each request is answered when the
        operation is on disk, even after the first one's 504.
        """
        again, late = Client(self.sessions), Client(self.sessions)
        self.keyed("CreditIn")
        self.keyed("CreditIn", client=again)
        self.turn()
        self.assertEqual(self.client.heard + again.heard, [])
        self.clock.advance(5)
        self.assertEqual(self.client.outcome(), (504, "SYNC_TIMEOUT"))
        self.assertEqual(again.outcome(), (504, "SYNC_TIMEOUT"))
        self.keyed("CreditIn", client=late)
        self.assertEqual(late.heard, [])
        self.book()
        self.assertEqual(late.lines()[1], first(ACCEPTED_DATA))
        self.assertEqual(self.client.replies() + again.replies(), [])
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_asyncBoth(self) -> None:
        """
        Two asynchronous requests get the same data after the one event.
        """
        again = Client(self.sessions)
        self.keyed("CreditIn")
        self.turn()
        self.keyed("CreditIn", client=again)
        self.book()
        for client in (self.client, again):
            [event, reply] = client.lines()
            self.assertTrue(event.startswith(b'{"event":"trade:event"'))
            self.assertEqual(reply, first(ACCEPTED_DATA))

    def test_update(self) -> None:
        """
        An update attaches to its own operation and not to the update under
        another key, although their order and type are the same.
        """
        self.booked("CreditInSync", amount=100)
        one, two = {**SEED, "order": 1}, {**SEED, "amount": 5.0, "order": 1}
        self.keyed(data=one, key="k1", extID="first")
        self.keyed(data=two, key="k2", extID="second")
        self.client.asks("CreditInSync", {**one, "amount": 7}, "third")
        self.keyed(data=one, key="k1", extID="first again")
        self.keyed(data=two, key="k2", extID="second again")
        self.book()
        self.assertEqual(
            {each["extID"]: each["data"]["profit"] for each in self.client.replies()},
            {
                "first": 300.0,
                "first again": 300.0,
                "second": 5.0,
                "second again": 5.0,
                "third": 7.0,
            },
        )
        self.assertEqual(self.totals(), (0, 7 * ONE))

    def test_deletion(self) -> None:
        """
        A deletion attaches to its own operation, and is not refused because of
        it.
        """
        self.booked("CreditInSync", amount=100)
        self.keyed("DeleteCreditSync", {"order": 1}, extID="a")
        self.keyed("DeleteCreditSync", {"order": 1}, extID="b")
        self.book()
        self.assertEqual(
            [(each["extID"], each["data"]["state"]) for each in self.client.replies()],
            [("a", 6), ("b", 6)],
        )

    def test_laterOnTheSameOrder(self) -> None:
        """
        A request attaches to its own operation even if another one on the same
        order came after it.
        """
        self.keyed()
        self.client.asks("CreditInSync", {**SEED, "amount": 7, "order": 1}, "update")
        self.keyed(extID="b")
        self.book()
        self.assertEqual(
            {each["extID"]: each["data"]["profit"] for each in self.client.replies()},
            {"a": 300.0, "b": 300.0, "update": 7.0},
        )

    def test_becauseOfTheEvent(self) -> None:
        """
        A request that is repeated because of the event itself gets a replay:
        it is booked.
        """

        def again(events: object) -> None:
            self.events.removeObserver(again)
            self.keyed(extID="b")

        self.events.addObserver(again)
        self.keyed()
        self.book()
        self.assertEqual(self.client.lines()[1:], [first(SEED_DATA), replay(SEED_DATA)])
        self.assertEqual(len(self.published), 1)

    def test_lost(self) -> None:
        """
        If it is unknown whether the operation is on disk, no request is told
        that nothing happened: neither the first one nor its repetitions,
        before or after.
        """
        again, late = Client(self.sessions), Client(self.sessions)
        self.keyed("CreditIn")
        self.keyed("CreditIn", client=again)
        self.turn()
        self.ledger.fail(OSError("EIO"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.failureResultOf(self.runtime.whenFailed(), OSError)
        self.keyed("CreditIn", client=late)
        self.clock.advance(5)
        for client in (self.client, again, late):
            reply = client.reply()
            self.assertEqual((reply["status"], reply["data"]), (504, {"order": 1}))


class FullQueueTests(KeyCase):
    """
    Tests for keys where the limit of uncommitted operations is one.
    """

    maxQueued = 1

    def test_busy(self) -> None:
        """
        At the limit a request with a known key is answered; another one is
        refused, and not remembered.
        """
        self.done(key="k1")
        self.keyed(key="k2")
        self.keyed(key="k3", extID="b")
        self.assertEqual(self.client.outcome(), (503, "BUSY"))
        self.keyed(key="k1", extID="b")
        self.assertEqual(self.client.reply()["replayed"], True)
        self.keyed(key="k2", extID="b")
        self.book()
        self.assertEqual(
            [(each["extID"], each["data"]["order"]) for each in self.client.replies()],
            [("a", 2), ("b", 2)],
        )
        self.assertEqual(self.done(key="k3")["data"]["order"], 3)


class EnvelopeTests(KeyCase):
    """
    Tests for the member C{idempotencyKey}.
    """

    def test_bad(self) -> None:
        """
        A key has 1 to 128 printable ASCII characters.
        """
        for key in (
            "",
            "x" * 129,
            "b\u00f6se",
            "a\tb",
            "a\n",
            "a\x7f",
            "\u2028",
            7,
            None,
            True,
            ["a"],
        ):
            self.keyed(key=key)
            reply = self.client.reply()
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertTrue(reply["message"].startswith("idempotencyKey "))
            self.assertEqual(reply["extID"], "a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_elsewhere(self) -> None:
        """
        Commands that book nothing ignore a key.
        """
        self.done()
        for command, data in (("HealthCheck", {}), ("GetOperation", {"order": 1})):
            self.keyed(command, data)
            reply = self.client.reply()
            self.assertEqual(reply["status"], 200)
            self.assertNotIn("replayed", reply)

    def test_extIDIsNoKey(self) -> None:
        """
        An C{extID} only correlates the reply, and may be used again.
        """
        for order in (1, 2):
            reply = self.answered("CreditInSync", extID="credit-req-1001", **SEED)
            self.assertEqual(reply["data"]["order"], order)
        self.assertEqual(
            self.answered("CreditInSync", extID="b\u00f6se", **SEED)["status"], 200
        )


class ExtIDTests(KeyCase):
    """
    Tests for a server that uses the C{extID} as the key.
    """

    isExtIDIdempotent = True

    def ask(self, extID: object, **data: object) -> Any:
        """
        Send a command without a key, let it be booked, and return the reply.
        """
        return self.answered("CreditInSync", extID, **{**SEED, **data})

    def test_replay(self) -> None:
        """
        The same request under the same C{extID} is a replay, from another
        session too.
        """
        self.client.asks("CreditInSync", SEED, "a")
        self.book()
        self.assertEqual(self.client.lines()[1], first(SEED_DATA))
        expected = replay(SEED_DATA).replace(b'"b"', b'"a"')
        for client in (self.client, Client(self.sessions)):
            client.asks("CreditInSync", SEED, "a")
            self.assertEqual(client.lines(), [expected])

    def test_integer(self) -> None:
        """
        An integer C{extID} is the key of its digits after a number sign, since
        the text of the same digits is another C{extID}.
        """
        self.assertEqual(self.ask(-7)["data"]["order"], 1)
        reply = self.ask(-7)
        self.assertEqual((reply["extID"], reply["replayed"]), (-7, True))
        self.client.asks("GetOperation", {"idempotencyKey": "#-7"}, 8)
        self.assertEqual(self.client.reply()["data"]["order"], 1)
        self.assertEqual(self.ask("-7")["data"]["order"], 2)

    def test_otherExtID(self) -> None:
        """
        The same request under another C{extID} is another operation.
        """
        self.assertEqual(self.ask("a")["data"]["order"], 1)
        self.assertEqual(self.ask("b")["data"]["order"], 2)

    def test_otherContent(self) -> None:
        """
        Other content under the same C{extID} is refused.
        """
        self.ask("a")
        reply = self.ask("a", amount=1)
        self.assertEqual(
            (reply["status"], reply["error"], reply["data"]),
            (422, "IDEMPOTENCY_KEY_REUSED", {"order": 1}),
        )
        self.assertTrue(reply["message"].startswith("data.amount differs"))

    def test_attach(self) -> None:
        """
        From another session a request attaches to the pending one; in one
        session its C{extID} is in use.
        """
        again = Client(self.sessions)
        self.client.asks("CreditInSync", SEED, "a")
        self.client.asks("CreditInSync", SEED, "a")
        self.assertEqual(self.client.outcome(), (409, "DUPLICATE_EXTID"))
        again.asks("CreditInSync", SEED, "a")
        self.book()
        self.assertEqual(self.client.lines()[1], first(SEED_DATA))
        self.assertEqual(again.lines()[1], first(SEED_DATA))
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_noExtID(self) -> None:
        """
        Without an C{extID} there is no key.
        """
        for order in (1, 2):
            reply = self.answered("CreditIn", extID=None, **SEED)
            self.assertEqual(reply["data"]["order"], order)

    def test_notPrintable(self) -> None:
        """
        An C{extID} that can't be a key is refused, in a reply under itself,
        and nothing is booked.
        """
        for extID in ("b\u00f6se", "a\tb", "a\n", "\u4e2d", "a\x7f"):
            for command, data in (("CreditInSync", SEED), ("CreditIn", SEED)):
                self.client.asks(command, data, extID)
                reply = self.client.reply()
                self.assertEqual(
                    (reply["extID"], reply["status"], reply["error"]),
                    (extID, 400, "INVALID_DATA"),
                )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_badExtID(self) -> None:
        """
        An invalid C{extID} is refused as such.
        """
        for extID, message in (
            ("", "extID must have at least 1 character(s)"),
            ("x" * 129, "extID must have at most 128 characters"),
            (True, "extID must be a string or an integer"),
            (1.5, "extID must be a string or an integer"),
        ):
            self.client.asks("CreditInSync", SEED, extID)
            reply = self.client.reply()
            self.assertEqual((reply["status"], reply["message"]), (400, message))

    def test_keyWins(self) -> None:
        """
        A given key takes precedence over the C{extID}.
        """
        self.keyed(key="k1", extID="a")
        self.book()
        self.assertEqual(self.client.reply()["data"]["order"], 1)
        self.assertEqual(self.done(key="k2", extID="a")["data"]["order"], 2)
        self.assertEqual(self.ask("a")["data"]["order"], 3)
        self.keyed(key="k1", extID="b\u00f6se")
        reply = self.client.reply()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))

    def test_elsewhere(self) -> None:
        """
        Commands that book nothing may use an C{extID} again and again.
        """
        self.ask("a")
        for _ in range(2):
            for command, data in (("HealthCheck", {}), ("GetOperation", {"order": 1})):
                self.client.asks(command, data, "a")
                reply = self.client.reply()
                self.assertEqual(reply["status"], 200)
                self.assertNotIn("replayed", reply)

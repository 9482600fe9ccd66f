"""
Tests for L{creditsync._conversation.requests}, and for the session that reads them.
"""

import tempfile
from pathlib import Path
from typing import Any

from creditsync.errors import Busy
from creditsync.validation import Schemas
from tests.test_session import DATA, SessionTestCase, SlowRuntime


class ExtIDTests(SessionTestCase):
    """
    The client's correlation id.
    """

    def assertEchoed(self, extID: bytes) -> None:
        """
        A success and a refusal both echo this extID as it is written.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","extID":%b,"__token":"manager"}' % extID)
        client.says(b'{"command":"HealthCheck","extID":%b}' % extID)
        success, refusal = client.heard
        self.assertTrue(success.startswith(b'{"extID":%b,"status":200,' % extID))
        self.assertTrue(refusal.startswith(b'{"extID":%b,"status":401,' % extID))

    def test_echoedWithItsType(self) -> None:
        """
        It comes back with its JSON type and value unchanged.
        """
        for extID in (
            b"1",
            b'"1"',
            b"1.0",
            b"0",
            b"-1",
            b"9007199254740991",
            b"-9007199254740991",
            b'"%b"' % (b"x" * 128),
            b'"\\u00e9\\u0027"',
        ):
            self.assertEchoed(extID)

    def test_refused(self) -> None:
        """
        An extID that is none is not echoed, and the refusal names it.
        """
        bad: list[object] = [True, 1.5, "", "x" * 129, [], {}, 9007199254740991.5]
        for extID in bad:
            client = self.client()
            client.asks("HealthCheck", extID, {})
            [reply] = client.hears()
            self.assertNotIn("extID", reply)
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertIn("extID", reply["message"])

    def test_null(self) -> None:
        """
        Null is no extID.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","extID":null,"__token":"manager"}')
        [reply] = client.hears()
        self.assertNotIn("extID", reply)
        self.assertEqual(reply["status"], 400)

    def test_ofABadEnvelope(self) -> None:
        """
        A good extID is echoed whatever is wrong with the other members.
        """
        client = self.client()
        client.says(b'{"extID":"x"}')
        client.says(b'{"extID":"y","command":7}')
        client.says(b'{"extID":"z","command":"HealthCheck","data":[]}')
        client.says(b'{"extID":1,"command":"HealthCheck","__token":7}')
        client.says(b'{"extID":2,"command":"HealthCheck","idempotencyKey":""}')
        replies = client.hears()
        self.assertEqual(
            [reply["extID"] for reply in replies],
            ["x", "y", "z", 1, 2],
        )
        self.assertEqual({reply["error"] for reply in replies}, {"INVALID_DATA"})
        for reply, member in zip(
            replies,
            ["command", "command", "data", "__token", "idempotencyKey"],
            strict=True,
        ):
            self.assertIn(member, reply["message"])

    def test_echoedUnderASiteSchema(self) -> None:
        """
        So it is when a site's schema asks more of the envelope.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        Path(made.name, "request.json").write_text('{"required": ["from"]}')
        self.serve(self.runtime, schemas=Schemas(Path(made.name)))
        client = self.client()
        client.asks("HealthCheck", "x", {})
        self.assertEqual(client.outcomes(), [("x", 400, "INVALID_DATA")])

    def test_ofNoJSON(self) -> None:
        """
        A line that is refused as no I-JSON is answered under its extID if that
        is good in itself.
        """
        for line, extID in (
            (b'{"extID":"x","data":{"amount":NaN}}', "x"),
            (b'{"data":{"comment":"\\ud83d"},"extID":7}', 7),
            (b'{"extID":"x","data":{"comment":"\xff"}}', "x"),
            (b'{"extID":"x","extID":"y"}', None),
            (b'{"extID":1.5,"data":{"amount":NaN}}', None),
            (b'{"extID":"","data":{"amount":NaN}}', None),
            (b'{"extID":true,"data":{"amount":NaN}}', None),
            (b'{"extID":null,"data":{"amount":NaN}}', None),
            (b'{"extID":"%b","data":NaN}' % (b"x" * 128), "x" * 128),
            (b'{"extID":"%b","data":NaN}' % (b"x" * 129), None),
            (b"{", None),
            (b"", None),
        ):
            client = self.client()
            client.says(line)
            self.assertEqual(client.outcomes(), [(extID, 400, "INVALID_JSON")], line)

    def test_unread(self) -> None:
        """
        So is a line that is not read at all, as it is too long.
        """
        client = self.client()
        line = b'{"extID":"x","data":{"comment":"' + b"x" * 70_000
        client.session.refuseUnread(line, Busy("too long"))
        client.session.refuseUnread(b"x" * 70_000, Busy("too long"))
        self.assertEqual(client.outcomes(), [("x", 503, "BUSY"), (None, 503, "BUSY")])

    def test_misplacedKey(self) -> None:
        """
        An idempotency key inside of data is refused, and nothing happens.
        """
        client = self.client()
        client.asks(data={**DATA, "idempotencyKey": "k"})
        client.asks("DeleteCreditSync", "b", {"order": 5, "idempotencyKey": "k"})
        for reply in client.hears():
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertIn("beside data", reply["message"])
        self.assertEqual(self.runtime.reserved, [])

    def test_requiredBySync(self) -> None:
        """
        A C{*Sync} command without an extID is refused, and nothing happens.
        """
        client = self.client()
        client.asks(extID=None)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertIn("extID", reply["message"])
        self.assertEqual(self.runtime.reserved, [])

    def test_duplicate(self) -> None:
        """
        While a request waits, another one under its extID is refused, and the
        first gets its own reply.
        """
        client = self.client()
        client.asks()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])
        self.assertEqual(len(self.runtime.reserved), 1)
        self.bookAll()
        self.assertEqual(client.outcomes(), [("a", 200, None)])
        self.assertAtRest()

    def test_duplicateOfAnotherCommand(self) -> None:
        """
        It is the extID that counts, not the command.
        """
        client = self.client()
        client.asks("CreditIn")
        client.asks("HealthCheck", data={})
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])

    def test_sameNumberIsADuplicate(self) -> None:
        """
        1 and 1.0 are one JSON number, which a client could not tell apart.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID=1.0)
        [line] = client.heard
        self.assertTrue(line.startswith(b'{"extID":1.0,"status":409,'))

    def test_textIsNoNumber(self) -> None:
        """
        1 and "1" are different extIDs, each with its own reply.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID="1")
        self.assertEqual(client.heard, [])
        self.bookAll()
        self.assertEqual(client.outcomes(), [(1, 200, None), ("1", 200, None)])

    def test_duplicateWhileReserving(self) -> None:
        """
        A request waits from the moment when it is taken.
        """
        self.serve(SlowRuntime())
        client = self.client()
        client.asks()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])
        client.session.ended()
        self.clock.advance(5)


class RefusalTests(SessionTestCase):
    """
    What is refused before anything happens.
    """

    def assertRefused(self, status: int, error: str, named: str, **ask: Any) -> None:
        """
        Such a request is refused with this, and the session lives on.
        """
        client = self.client()
        client.asks(**ask)
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["status"], reply["error"]), ("a", status, error)
        )
        self.assertIn(named, reply["message"])
        self.assertEqual(self.runtime.reserved, [])
        client.asks("HealthCheck", "b", {})
        self.assertEqual(client.outcomes(), [("b", 200, None)])

    def test_notJSON(self) -> None:
        """
        What is not I-JSON is 400, and the session lives on.
        """
        client = self.client()
        for line in (b"nonsense", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff"):
            client.says(line)
        self.assertEqual(client.outcomes(), [(None, 400, "INVALID_JSON")] * 5)
        client.asks("HealthCheck", "b", {})
        self.assertEqual(client.outcomes(), [("b", 200, None)])

    def test_data(self) -> None:
        """
        Data that breaks its schema is 400 and names the member.
        """
        for member, value in (
            ("login", True),
            ("login", "1001"),
            ("login", 0),
            ("amount", 0),
            ("amount", -1),
            ("amount", 1.123456789),
            ("comment", ""),
            ("order", -1),
            ("open_time", 1.5),
        ):
            self.assertRefused(
                400, "INVALID_DATA", f"data.{member}", data={**DATA, member: value}
            )

    def test_missing(self) -> None:
        """
        A missing member is named.
        """
        self.assertRefused(
            400, "INVALID_DATA", "data.comment", data={"login": 1, "amount": 1}
        )

    def test_noData(self) -> None:
        """
        Absent data means C{{}}.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","__token":"manager"}')
        self.assertEqual(client.outcomes(), [(None, 200, None)])

    def test_times(self) -> None:
        """
        A transaction can't close before it opens.
        """
        self.assertRefused(
            400,
            "INVALID_DATA",
            "data.close_time",
            data={**DATA, "open_time": 2, "close_time": 1},
        )

    def test_unknownCommand(self) -> None:
        """
        A command that there is not is 404.
        """
        self.assertRefused(404, "UNKNOWN_COMMAND", "command", command="CreditUp")

    def test_noToken(self) -> None:
        """
        Without a token a command is 401, and the connection stays open.
        """
        self.assertRefused(401, "UNAUTHORIZED", "__token", token=None)

    def test_badToken(self) -> None:
        """
        So it is with a bad one.
        """
        self.assertRefused(401, "UNAUTHORIZED", "__token", token="forged")

    def test_strangersLearnNothing(self) -> None:
        """
        Without a good token nobody learns which commands there are.
        """
        self.assertRefused(
            401, "UNAUTHORIZED", "__token", token=None, command="CreditUp"
        )

    def test_forbidden(self) -> None:
        """
        A role that may not use a command is told so before its data is judged.
        """
        self.assertRefused(403, "FORBIDDEN", "CreditInSync", token="user", data={})

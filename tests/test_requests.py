"""
Tests for L{creditsync._conversation.requests} and the session that uses it.
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
        Assert that a success and a refusal both return this extID as it was
        written.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","extID":%b,"__token":"manager"}' % extID)
        client.says(b'{"command":"HealthCheck","extID":%b}' % extID)
        success, refusal = client.heard
        self.assertTrue(success.startswith(b'{"extID":%b,"status":200,' % extID))
        self.assertTrue(refusal.startswith(b'{"extID":%b,"status":401,' % extID))

    def test_echoedWithItsType(self) -> None:
        """
        An extID is returned with its JSON type and value unchanged.
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
        An invalid extID is not returned, and the refusal names the member.
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
        A null extID counts as no extID.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","extID":null,"__token":"manager"}')
        [reply] = client.hears()
        self.assertNotIn("extID", reply)
        self.assertEqual(reply["status"], 400)

    def test_ofABadEnvelope(self) -> None:
        """
        A valid extID is returned whatever is wrong with the other members.
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
        A valid extID is returned even if a site's schema demands more of the
        envelope.
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
        The refusal of a line that is not I-JSON has the line's extID if that is
        valid itself.
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
        The refusal of a line that is not read has the line's extID.
        """
        client = self.client()
        line = b'{"extID":"x","data":{"comment":"' + b"x" * 70_000
        client.session.refuseUnread(line, Busy("too long"))
        client.session.refuseUnread(b"x" * 70_000, Busy("too long"))
        self.assertEqual(client.outcomes(), [("x", 503, "BUSY"), (None, 503, "BUSY")])

    def test_misplacedKey(self) -> None:
        """
        An idempotency key inside C{data} is refused, and nothing is booked.
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
        A C{*Sync} command without an extID is refused, and nothing is booked.
        """
        client = self.client()
        client.asks(extID=None)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertIn("extID", reply["message"])
        self.assertEqual(self.runtime.reserved, [])

    def test_duplicate(self) -> None:
        """
        A second request with the extID of a pending one is refused, and the
        first receives its own reply.
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
        A second request with the extID of a pending one is refused even if its
        command is another.
        """
        client = self.client()
        client.asks("CreditIn")
        client.asks("HealthCheck", data={})
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])

    def test_sameNumberIsADuplicate(self) -> None:
        """
        The extIDs 1 and 1.0 are one JSON number, which a client could not tell
        apart.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID=1.0)
        [line] = client.heard
        self.assertTrue(line.startswith(b'{"extID":1.0,"status":409,'))

    def test_textIsNoNumber(self) -> None:
        """
        The extIDs 1 and "1" are different, and each request receives its own
        reply.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID="1")
        self.assertEqual(client.heard, [])
        self.bookAll()
        self.assertEqual(client.outcomes(), [(1, 200, None), ("1", 200, None)])

    def test_duplicateWhileReserving(self) -> None:
        """
        A request is pending from the moment when it is accepted, before it is
        reserved.
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
    Requests that are refused before anything is booked.
    """

    def assertRefused(self, status: int, error: str, named: str, **ask: Any) -> None:
        """
        Assert that such a request is refused with this error, and the session
        continues.
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
        A line that is not I-JSON is answered with 400, and the session
        continues.
        """
        client = self.client()
        for line in (b"nonsense", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff"):
            client.says(line)
        self.assertEqual(client.outcomes(), [(None, 400, "INVALID_JSON")] * 5)
        client.asks("HealthCheck", "b", {})
        self.assertEqual(client.outcomes(), [("b", 200, None)])

    def test_data(self) -> None:
        """
        Data that violates its schema is answered with 400, which names the
        member.
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
        The refusal for a missing member names it.
        """
        self.assertRefused(
            400, "INVALID_DATA", "data.comment", data={"login": 1, "amount": 1}
        )

    def test_noData(self) -> None:
        """
        Missing data counts as C{{}}.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","__token":"manager"}')
        self.assertEqual(client.outcomes(), [(None, 200, None)])

    def test_times(self) -> None:
        """
        A transaction whose close time is before its open time is refused.
        """
        self.assertRefused(
            400,
            "INVALID_DATA",
            "data.close_time",
            data={**DATA, "open_time": 2, "close_time": 1},
        )

    def test_unknownCommand(self) -> None:
        """
        An unknown command is answered with 404.
        """
        self.assertRefused(404, "UNKNOWN_COMMAND", "command", command="CreditUp")

    def test_noToken(self) -> None:
        """
        A command without a token is answered with 401, and the connection stays
        open.
        """
        self.assertRefused(401, "UNAUTHORIZED", "__token", token=None)

    def test_badToken(self) -> None:
        """
        A command with an invalid token is answered with 401, and the connection
        stays open.
        """
        self.assertRefused(401, "UNAUTHORIZED", "__token", token="forged")

    def test_strangersLearnNothing(self) -> None:
        """
        Without a valid token, the reply does not show whether the command
        exists.
        """
        self.assertRefused(
            401, "UNAUTHORIZED", "__token", token=None, command="CreditUp"
        )

    def test_forbidden(self) -> None:
        """
        A role that may not use a command is refused before the command's data
        is checked.
        """
        self.assertRefused(403, "FORBIDDEN", "CreditInSync", token="user", data={})

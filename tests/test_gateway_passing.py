"""
Tests for L{creditsync.gateway._passing} and L{creditsync._conversation.passing}: what
clients and the platform get of a command that is passed on, line by line.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync.audit import AuditTrail
from creditsync.codes import ALL_SESSIONS, SESSION_ADMIN, SESSION_MANAGER
from creditsync.counters import Counters
from creditsync.errors import Forbidden
from creditsync.events import TradeEvents
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._passing import MAX_IN_FLIGHT, MAX_REPLY, PassThrough
from creditsync.gateway._refusals import PassedRefusal
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._tokenfile import TokenFile
from creditsync.limits import Limits
from creditsync.methods import PassedCommand
from creditsync.records import Principal
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.platforms import NOW, Link, Platform
from tests.test_gateway_upstream import Endpoint

SYMBOLS = PassedCommand("GetSymbols", True, ALL_SESSIONS)
STATS = PassedCommand("MngGetUserStats", False, frozenset({SESSION_ADMIN}))
USERS = PassedCommand("GetUsers", False, frozenset({SESSION_ADMIN, SESSION_MANAGER}))

# Of the timeout of a request, 5 seconds.
OVERDUE = 4.0


class PassingTestCase(SynchronousTestCase):
    """
    A client of a gateway, and the connection by which that passes commands on.
    """

    limits = Limits()

    def setUp(self) -> None:
        """
        Start the gateway, and connect.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tokenFile = Path(folder.name, "token")
        self.tokenFile.write_text("secret-of-the-gateway")
        self.logged: list[Any] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.clock = MemoryReactorClock()
        self.endpoint = Endpoint()
        self.authenticator = FakeAuthenticator()
        self.counters = Counters(self.clock, self.now)
        self.trail = Path(folder.name, "audit")
        events = TradeEvents()
        link = Link(self.clock, Platform(self.now))
        self.upstream = link
        self.server = CreditSync(
            self.clock,
            runtime=GatewayRuntime(
                self.clock,
                MemoryIntentLog(),
                link,
                events,
                now=self.now,
                maxQueued=100,
                passThrough=PassThrough(
                    self.clock,
                    self.endpoint,  # type: ignore[arg-type]
                    TokenFile(self.tokenFile),
                    [SYMBOLS, STATS, USERS],
                    random=lambda: 1.0,
                    timeout=OVERDUE,
                ),
            ),
            events=events,
            authenticator=self.authenticator,
            listen=[],
            limits=self.limits,
            counters=self.counters,
            audit=AuditTrail(self.trail, self.clock, self.now, execute),
        )
        self.server.startService()
        self.connect()

    def now(self) -> float:
        """
        The UNIX time.
        """
        return NOW + self.clock.seconds()

    def connect(self) -> None:
        """
        Open a connection of a client.
        """
        self.connection: Any = self.server.factory.buildProtocol(
            None  # type: ignore[arg-type]
        )
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)
        self.wait(0)

    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """
        self.clock.pump([seconds, 0, 0, 0])

    def sendLine(self, line: str) -> None:
        """
        Have the client send a line.
        """
        self.connection.dataReceived(line.encode() + b"\r\n")
        self.wait(0)

    def send(self, command: str = "GetSymbols", **members: Any) -> None:
        """
        Have the client send a request.
        """
        line = {"command": command, "extID": 7, "__token": "manager", "data": {}}
        self.sendLine(json.dumps(line | members))

    def receivedLines(self) -> list[bytes]:
        """
        The lines that the client got since this was called last.
        """
        lines = self.transport.value().splitlines()
        self.transport.clear()
        return lines

    def received(self) -> list[dict[str, Any]]:
        """
        What they say.
        """
        return [json.loads(line) for line in self.receivedLines()]

    def passedLines(self) -> list[bytes]:
        """
        The lines that the platform got since this was called last.
        """
        lines = self.endpoint.transports[-1].value().splitlines()
        self.endpoint.transports[-1].clear()
        return lines

    def passed(self) -> list[dict[str, Any]]:
        """
        What they say.
        """
        return [json.loads(line) for line in self.passedLines()]

    def reply(self, members: str, extID: str | None = None) -> None:
        """
        Have the platform reply to the only request that it got last.

        @param members: What follows the C{extID}, as it is written.
        """
        if extID is None:
            [asked] = self.passed()
            extID = asked["extID"]
        self.replyLine(f'{{"extID":"{extID}",{members}}}')

    def replyLine(self, line: str) -> None:
        """
        Have the platform send a line.
        """
        self.endpoint.protocols[-1].dataReceived(line.encode() + b"\r\n")
        self.wait(0)

    def lose(self) -> None:
        """
        Lose the connection to the platform.
        """
        self.endpoint.protocols[-1].connectionLost(Failure(ConnectionLost()))
        self.wait(0)

    def recorded(self, *members: str) -> list[tuple[Any, ...]]:
        """
        Members of each line of the audit trail.
        """
        self.wait(1)
        lines = map(json.loads, self.trail.read_text().splitlines())
        return [tuple(line.get(member) for member in members) for line in lines]

    def refusals(self) -> list[tuple[int, str]]:
        """
        The status and the error of each line that the client got.
        """
        return [(each["status"], each.get("error", "")) for each in self.received()]


class ThereAndBackTests(PassingTestCase):
    """
    What the platform and the client get.
    """

    def test_clients(self) -> None:
        """
        A command is sent with the token of its client, with an extID of the gateway,
        and answered with the data of the platform's reply.
        """
        self.send(data={"mask": "EUR*"})
        [asked] = self.passed()
        self.assertEqual(
            (asked["command"], asked["__token"], asked["data"]),
            ("GetSymbols", "manager", {"mask": "EUR*"}),
        )
        self.assertNotEqual(asked["extID"], 7)
        self.assertEqual(len(asked), 4)
        self.assertEqual(self.received(), [])
        self.reply('"status":200,"data":{"symbols":["EURUSD"]}', asked["extID"])
        self.assertEqual(
            self.receivedLines(),
            [b'{"extID":7,"status":200,"data":{"symbols":["EURUSD"]}}'],
        )

    def test_emptyError(self) -> None:
        """
        A platform may write an error that is empty beside a 200.
        """
        self.send()
        self.reply('"status":200,"error":"","data":{"symbols":[]}')
        self.assertEqual(
            self.receivedLines(), [b'{"extID":7,"status":200,"data":{"symbols":[]}}']
        )

    def test_service(self) -> None:
        """
        Another one is sent with the token of the gateway.
        """
        self.send("MngGetUserStats", __token="admin")
        [asked] = self.passed()
        self.assertEqual(asked["__token"], "secret-of-the-gateway")

    def test_unchanged(self) -> None:
        """
        Data goes to the platform as it was written, with what nobody here knows: names,
        numbers and white space.
        """
        data = (
            '{"a":1.10,  "b":[1e2,-0.0,0.30000000000000004],"é":"\\u00e9\'",\r"__x":{}}'
        )
        self.sendLine(
            f'{{"command":"GetSymbols","__token":"user","d\\u0061ta":{data} ,"z":1}}'
        )
        [line] = self.passedLines()
        self.assertIn(b'"data":' + data.replace("\r", " ").encode() + b"}", line)

    def test_noData(self) -> None:
        """
        A request without data is passed on with an empty object.
        """
        self.sendLine('{"command":"GetSymbols","__token":"user"}')
        [asked] = self.passed()
        self.assertEqual(asked["data"], {})
        self.reply('"status":200', asked["extID"])
        self.assertEqual(self.receivedLines(), [b'{"status":200,"data":{}}'])

    def test_replyUnchanged(self) -> None:
        """
        The data of a reply comes back as it was written, but for what some clients
        could not read.
        """
        self.send()
        self.reply('"data":{"a":1.10, "n":1E2,"é":"it\'s,]","l":[\r]},"status":200')
        self.assertEqual(
            self.receivedLines(),
            [
                b'{"extID":7,"status":200,"data":'
                b'{"a":1.10, "n":1E2,"\\u00e9":"it\\u0027s\\u002c]","l":[ ]}}'
            ],
        )

    def test_anyData(self) -> None:
        """
        The data of a reply may be anything.
        """
        for data in ("[1,[2]]", '"x"', "5", "null", "false"):
            self.send()
            self.reply(f'"status":200,"data":{data}')
            self.assertEqual(
                self.receivedLines(),
                [b'{"extID":7,"status":200,"data":%b}' % data.encode()],
            )

    def test_refused(self) -> None:
        """
        A refusal of the platform comes back with its own status, error, message and
        data, also one that this server does not have.
        """
        self.send()
        self.reply('"status":423,"error":"LOCKED","message":"no","data":{"until":5}')
        self.assertEqual(
            self.received(),
            [
                {
                    "extID": 7,
                    "status": 423,
                    "error": "LOCKED",
                    "message": "no",
                    "data": {"until": 5},
                }
            ],
        )
        self.send()
        self.reply('"status":404,"error":"NO_SUCH_SYMBOL","data":[]')
        self.assertEqual(
            self.received(),
            [
                {
                    "extID": 7,
                    "status": 404,
                    "error": "NO_SUCH_SYMBOL",
                    "message": "NO_SUCH_SYMBOL",
                }
            ],
        )

    def test_refusedAtLength(self) -> None:
        """
        Of a refusal only so much is kept.
        """
        self.send()
        self.reply(
            f'"status":400,"error":"{"E" * 200}","message":"{"m" * 2000}",'
            f'"data":{{"x":"{"d" * 66_000}"}}'
        )
        [reply] = self.received()
        self.assertEqual(reply["error"], "E" * 100)
        self.assertEqual(reply["message"], "m" * 1000)
        self.assertNotIn("data", reply)

    def test_several(self) -> None:
        """
        Replies are told apart, in any order, and one that comes again is dropped.
        """
        self.send(extID="a")
        self.send(extID="b")
        first, second = self.passed()
        self.reply('"status":200,"data":{"n":2}', second["extID"])
        self.reply('"status":200,"data":{"n":1}', first["extID"])
        self.reply('"status":200,"data":{"n":3}', first["extID"])
        self.assertEqual(
            [(each["extID"], each["data"]) for each in self.received()],
            [("b", {"n": 2}), ("a", {"n": 1})],
        )

    def test_otherLines(self) -> None:
        """
        What is no reply to a request is dropped: arrays, events, other objects, and
        what is no JSON.
        """
        self.send()
        [asked] = self.passed()
        for line in (
            '["m",7,"boss","secret"]',
            '{"event":"trade:event","type":0,"data":{"order":5}}',
            f'{{"event":"x","extID":"{asked["extID"]}","status":200,"data":{{}}}}',
            '{"extID":"other","status":200,"data":{"secret":1}}',
            '{"status":200}',
            '{"extID":7,"status":200,"data":{}}',
            f'["x",{{"extID":"{asked["extID"]}","status":200}}]',
            '{"extID":"other","status":200,"data":NaN}',
            "secret",
        ):
            self.replyLine(line)
        self.assertEqual(self.received(), [])
        self.reply('"status":200,"data":{}', asked["extID"])
        self.assertEqual(len(self.received()), 1)
        self.assertEqual([each for each in self.logged if "secret" in str(each)], [])


class RefusedTests(PassingTestCase):
    """
    What is not passed on.
    """

    def test_notNamed(self) -> None:
        """
        A command that the configuration does not name is unknown, whoever asks.
        """
        self.send("GetSymbolz", __token="admin")
        self.send("getsymbols", __token="admin")
        self.send("UserStats", __token="admin")
        self.assertEqual(self.refusals(), [(404, "UNKNOWN_COMMAND")] * 3)
        self.assertEqual(self.passed(), [])

    def test_token(self) -> None:
        """
        Only a token that is valid here is passed on.
        """
        self.authenticator.revoked.add("manager")
        self.send()
        self.send(__token="unknown")
        self.send(__token=None)
        self.assertEqual(
            self.refusals(),
            [(401, "UNAUTHORIZED"), (401, "UNAUTHORIZED"), (400, "INVALID_DATA")],
        )
        self.assertEqual(self.passed(), [])

    def test_roles(self) -> None:
        """
        The token of the gateway is lent to the roles of the command only.
        """
        self.send("MngGetUserStats")
        self.send("GetUsers", __token="dealer")
        self.assertEqual(self.refusals(), [(403, "FORBIDDEN")] * 2)
        self.assertEqual(self.passed(), [])
        self.send("GetUsers")
        self.assertEqual(len(self.passed()), 1)

    def test_restricted(self) -> None:
        """
        Nor is it lent to a token for some of the accounts: the platform would show all
        of them. With its own token the platform knows what it may see.
        """
        restricted = Principal(5, SESSION_MANAGER, 1e12, "some", groups="real*")
        self.authenticator.accept("some", restricted)
        self.send("GetUsers", __token="some")
        self.assertEqual(self.refusals(), [(403, "FORBIDDEN")])
        self.assertEqual(self.passed(), [])
        self.send(__token="some")
        self.assertEqual(len(self.passed()), 1)

    def test_key(self) -> None:
        """
        A key is refused: a repetition would not be safe.
        """
        self.send(idempotencyKey="k")
        self.assertEqual(self.refusals(), [(400, "INVALID_DATA")])
        self.assertEqual(self.passed(), [])

    def test_data(self) -> None:
        """
        Data that is no object is refused.
        """
        self.send(data=[1])
        self.assertEqual(self.refusals(), [(400, "INVALID_DATA")])

    def test_tooLong(self) -> None:
        """
        So is data that does not fit into a line to the platform.
        """
        self.tokenFile.write_text("t" * 1000)
        self.send("MngGetUserStats", __token="admin", data={"x": "y" * 64_500})
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["message"]),
            (
                400,
                "data is too long: to the platform a line has at most 65536 bytes, with"
                " its token",
            ),
        )
        self.assertEqual(self.passed(), [])

    def test_away(self) -> None:
        """
        Without a connection nothing is sent, and the client gets to know that.
        """
        self.lose()
        self.send()
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["error"], reply["data"]),
            (503, "BUSY", {"retry_after_ms": 250}),
        )
        self.wait(5)
        self.assertEqual(self.passed(), [])
        self.send()
        self.assertEqual(len(self.passed()), 1)

    def test_notUnderstood(self) -> None:
        """
        A platform that speaks TLS there has understood nothing.
        """
        self.send()
        self.endpoint.protocols[-1].dataReceived(b"\x15\x03\x01\x00\x02")
        self.wait(0)
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["message"]),
            (503, "the platform does not understand the gateway"),
        )

    def test_noToken(self) -> None:
        """
        Nor is anything sent if the gateway has no token.
        """
        self.tokenFile.write_text("")
        self.send("MngGetUserStats", __token="admin")
        self.assertEqual(self.refusals(), [(500, "TECH_PROBLEM")])
        self.assertEqual(self.passed(), [])

    def test_application(self) -> None:
        """
        A request of the application has no token that could be passed on.
        """
        principal = self.authenticator.authenticate("admin")
        asked = self.server.call("GetSymbols", {}, principal)
        self.failureResultOf(asked, Forbidden)
        asked = self.server.call("MngGetUserStats", {"n": 1}, principal)
        self.reply('"status":200,"data":[1.5]')
        self.assertEqual(self.successResultOf(asked), [1.5])

    def test_many(self) -> None:
        """
        One principal has a limited number of commands with the platform, without
        regard to those of others.
        """
        for n in range(17):
            self.send(extID=n)
        [reply] = self.received()
        self.assertEqual((reply["extID"], reply["status"]), (16, 503))
        self.assertEqual(self.counters.limits, {"max-lookups": 1})
        self.send(__token="user", extID="u")
        asked = self.passed()
        self.assertEqual(len(asked), 17)
        self.reply('"status":200,"data":{}', asked[0]["extID"])
        self.reply('"status":404,"error":"X"', asked[1]["extID"])
        self.received()
        for n in range(3):
            self.send(extID=f"again {n}")
        self.assertEqual(self.refusals(), [(503, "BUSY")])


class BoundedTests(PassingTestCase):
    """
    All commands together.
    """

    limits = Limits(maxLookups=1000)

    def test_all(self) -> None:
        """
        All together have a limit too.
        """
        for n in range(MAX_IN_FLIGHT + 1):
            self.send(extID=n)
        [reply] = self.received()
        self.assertEqual((reply["extID"], reply["status"]), (64, 503))
        self.assertEqual(len(self.passed()), 64)


class UnknownTests(PassingTestCase):
    """
    What nobody can tell.
    """

    def assertUnknown(self, why: str) -> None:
        """
        The client gets a 504 that says so, and nothing is sent again.
        """
        [reply] = self.received()
        self.assertEqual((reply["status"], reply["error"]), (504, "SYNC_TIMEOUT"))
        self.assertEqual(
            reply["message"],
            f"{why}; GetSymbols may have been carried out by the platform: the outcome"
            " is unknown",
        )
        self.wait(10)
        self.assertEqual((self.received(), self.passed()), ([], []))

    def test_overdue(self) -> None:
        """
        A reply that does not come in time.
        """
        self.send()
        [asked] = self.passed()
        self.wait(3.9)
        self.assertEqual(self.received(), [])
        self.wait(0.1)
        self.assertUnknown("the platform has not replied in time")
        self.reply('"status":200,"data":{}', asked["extID"])
        self.assertEqual(self.received(), [])

    def test_lost(self) -> None:
        """
        A connection that is lost.
        """
        self.send()
        self.passed()
        self.lose()
        self.assertUnknown("the connection to the platform was lost")

    def test_failed(self) -> None:
        """
        A fault of the platform, which would say here that nothing has happened.
        """
        for status, error in ((500, "TECH_PROBLEM"), (503, "BUSY"), (504, "TIMEOUT")):
            self.send()
            self.reply(f'"status":{status},"error":"{error}","message":"x"')
            self.assertUnknown(f"the platform has answered with status {status}")

    def test_odd(self) -> None:
        """
        A reply of another shape.
        """
        self.send()
        self.reply('"status":200,"error":"X","data":{}')
        self.assertUnknown("the platform has answered with status 200")
        self.send()
        self.reply('"data":{}')
        self.assertUnknown("the reply has no status")
        self.send()
        self.reply('"status":true,"data":{}')
        self.assertUnknown("the reply has no status")

    def test_unreadable(self) -> None:
        """
        A reply that is not JSON as this server understands it.
        """
        for data in ('{"id":9007199254740993}', "NaN", "[" * 20, '{"a":1,"a":2}'):
            self.send()
            self.reply(f'"status":200,"data":{data}')
            self.assertUnknown("the platform's reply can't be read")

    def test_longReply(self) -> None:
        """
        A reply that is too long to be passed on. The connection stays.
        """
        self.send()
        self.reply(f'"status":200,"data":{{"x":"{"y" * MAX_REPLY}"}}')
        self.assertUnknown("the platform's reply has more than 4194304 bytes")
        self.send()
        self.assertEqual(len(self.passed()), 1)

    def test_silence(self) -> None:
        """
        A connection on which nothing comes for ten seconds while replies are awaited
        is given up; one that is only slow is not.
        """
        self.send(extID="a")
        self.wait(4)
        self.replyLine('["t"]')
        for n in range(3):
            self.assertFalse(self.endpoint.transports[0].disconnecting)
            self.send(extID=n)
            self.wait(4)
        self.assertTrue(self.endpoint.transports[0].disconnecting)
        self.assertEqual(self.refusals(), [(504, "SYNC_TIMEOUT")] * 4)

    def test_idle(self) -> None:
        """
        The time in which nothing was awaited does not count for that.
        """
        self.send()
        self.reply('"status":200,"data":{}')
        self.wait(20)
        self.send()
        self.wait(4)
        self.assertEqual(self.refusals(), [(200, ""), (504, "SYNC_TIMEOUT")])
        self.assertFalse(self.endpoint.transports[0].disconnecting)

    def test_stopped(self) -> None:
        """
        A server that stops leaves no request without a reply.
        """
        self.send()
        stopped = self.server.stopService()
        for _ in range(200):
            self.wait(0.1)
        self.successResultOf(stopped)
        self.assertEqual(self.refusals(), [(504, "SYNC_TIMEOUT")])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TokenTests(PassingTestCase):
    """
    What becomes of tokens.
    """

    def test_clientsRefused(self) -> None:
        """
        That the platform refuses the token of a client, the client is told; the
        gateway goes on.
        """
        self.send()
        self.reply('"status":401,"error":"UNAUTHORIZED","message":"expired"')
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["error"], reply["message"]),
            (401, "UNAUTHORIZED", "expired"),
        )
        self.assertTrue(self.upstream.isConnected)

    def test_servicesRefused(self) -> None:
        """
        That it refuses the token of the gateway is no matter of the client's. The
        command is not sent again, but the next one has the token of the file.
        """
        self.send("MngGetUserStats", __token="admin")
        self.tokenFile.write_text("renewed")
        self.reply('"status":401,"error":"TOKEN_EXPIRED","message":"expired"')
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["error"], reply["message"]),
            (500, "TECH_PROBLEM", "the platform refuses the gateway's token"),
        )
        self.assertEqual(self.passed(), [])
        self.send("MngGetUserStats", __token="admin")
        [asked] = self.passed()
        self.assertEqual(asked["__token"], "renewed")

    def test_ownConnection(self) -> None:
        """
        No token of a client comes to the connection for operations and events.
        """
        sent = len(self.upstream.sent)
        self.send()
        self.send("MngGetUserStats", __token="admin", extID=8)
        self.assertEqual(len(self.passed()), 2)
        self.assertEqual(len(self.upstream.sent), sent)

    def test_neverLogged(self) -> None:
        """
        Neither the log nor the trail has a token, whatever happens.
        """
        token = "secret-of-a-client"
        self.authenticator.accept(token, Principal(5, SESSION_ADMIN, 1e12, token))
        for reply in (
            '"status":200,"data":{}',
            '"status":401,"error":"UNAUTHORIZED"',
            '"status":500,"error":"X"',
            '"data":7',
        ):
            for command in ("GetSymbols", "MngGetUserStats"):
                self.send(command, __token=token)
                self.reply(reply)
        self.tokenFile.write_text("secret" * 200)
        self.send("MngGetUserStats", __token=token)
        self.reply('"status":401,"error":"UNAUTHORIZED"')
        self.send("MngGetUserStats", __token=token, data={"x": "y" * 64_500})
        self.send(__token=token)
        self.lose()
        self.assertEqual(len(self.recorded()), 11)
        self.assertNotIn("secret", self.trail.read_text())
        self.assertNotIn("secret", str(self.logged))
        self.assertNotIn("secret", str(self.received()))


class RecordedTests(PassingTestCase):
    """
    What operators see of it.
    """

    def test_trail(self) -> None:
        """
        The trail has each of these commands, with who has sent it and what came of it.
        """
        self.send("MngGetUserStats", __token="admin", extID="a", data={"login": 1001})
        self.reply('"status":200,"data":{}')
        self.send(extID="b")
        self.reply('"status":423,"error":"LOCKED","message":"no"')
        self.send(extID="c")
        self.wait(4)
        self.send("MngGetUserStats", extID="d", data={"login": 1002})
        self.send("GetSymbolz", extID="e")
        self.assertEqual(
            self.recorded(
                *("outcome", "command", "principal", "extID", "login"),
                *("status", "error"),
            ),
            [
                ("passed", "MngGetUserStats", 9, "a", 1001, None, None),
                ("refused", "GetSymbols", 7, "b", None, 423, "LOCKED"),
                ("unknown", "GetSymbols", 7, "c", None, 504, "SYNC_TIMEOUT"),
                ("refused", "MngGetUserStats", 7, "d", 1002, 403, "FORBIDDEN"),
            ],
        )

    def test_clientGone(self) -> None:
        """
        It has one of a client that did not wait for the reply, too, under the token of
        the request.
        """
        self.send("MngGetUserStats", __token="admin")
        [asked] = self.passed()
        self.send("HealthCheck")
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.reply('"status":200,"data":{}', asked["extID"])
        self.assertEqual(
            self.recorded("outcome", "command", "principal"),
            [("passed", "MngGetUserStats", 9)],
        )

    def test_counted(self) -> None:
        """
        Requests are counted by the names of the configuration, and refusals not by
        those of the platform's errors, of which there may be any number.
        """
        for error in ("A", "B", "C"):
            self.send()
            self.reply(f'"status":423,"error":"{error}"')
        self.send()
        self.reply('"status":200,"data":{}')
        self.send("GetSymbolz")
        self.counters.settle()
        self.assertEqual(
            self.counters.refusals,
            {
                ("GetSymbols", 409, "PLATFORM_REFUSED"): 3,
                ("unknown", 404, "UNKNOWN_COMMAND"): 1,
            },
        )
        self.assertEqual(sum(self.counters.took["GetSymbols"].counts), 4)


class BrokenTests(PassingTestCase):
    """
    A fault of the gateway itself.
    """

    def test_unknown(self) -> None:
        """
        It does not say that nothing has happened.
        """
        commands: Sequence[PassedCommand] = self.server.runtime.passed  # type: ignore[attr-defined]
        self.assertEqual(list(commands), [SYMBOLS, STATS, USERS])
        asked: Deferred[bytes] = Deferred()
        self.patch(self.server.runtime, "passOn", lambda *arguments: asked)
        self.send()
        asked.errback(ZeroDivisionError())
        self.wait(0)
        self.assertEqual(self.refusals(), [(504, "SYNC_TIMEOUT")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_error(self) -> None:
        """
        A refusal of the platform is its own, and counts as what this server has.
        """
        refusal = PassedRefusal(423, "LOCKED", "no", None)
        self.assertEqual((refusal.status, refusal.error), (409, "PLATFORM_REFUSED"))
        self.assertEqual(refusal.sent, (423, "LOCKED"))

"""
Tests of L{tests.attack}: its checks detect faults, and a tiny run of each
suite is sound.
"""

import json
import socket
from decimal import Decimal
from random import Random
from typing import Any
from unittest import mock

import pytest
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._conversation.requests import Requests
from creditsync._conversation.session import Session
from creditsync._conversation.waiter import Waiter
from creditsync.auth import TokenAuthenticator
from creditsync.errors import Busy
from creditsync.records import Principal
from tests.attack import tokens
from tests.attack.attackers import _CREDIT, _UNUSUAL, _Conversation
from tests.attack.conversation import Conversation
from tests.attack.coverage import Coverage
from tests.attack.fuzz import Fuzzing, seeds
from tests.attack.judge import verdict
from tests.attack.stack import MANAGER, TOKENS, USER
from tests.attack.token_kinds import ACCEPTED, Keys, kinds
from tests.family import units

pytestmark = pytest.mark.proof

KEYS = Keys()


def request(**members: Any) -> bytes:
    """
    A line that requests a credit, with some members changed.
    """
    data = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}
    asked = {"command": "CreditInSync", "extID": "a", "__token": MANAGER, "data": data}
    return json.dumps({**asked, **members}).encode()


# The token of a CRM manager.
CRM = next(token for token, role in TOKENS.items() if role == 10)


class FuzzTests(SynchronousTestCase):
    """
    Tests for the fuzzer and its checks.
    """

    def wrong(self, line: bytes) -> list[str]:
        """
        The faults that the checks find in a new server's answers to a line.
        """
        return Conversation(Random(0), Coverage()).say(line).wrong

    def test_sound(self) -> None:
        """
        A short run finds no faults, many different answers and many edges.
        """
        fuzzing = Fuzzing(1)
        fuzzing.start(list(seeds()))
        for _ in range(400):
            fuzzing.step()
        self.assertEqual(fuzzing.wrong, [])
        self.assertGreater(len(fuzzing.coverage), 400)
        self.assertGreater(len(fuzzing.statuses), 5)

    def test_verdicts(self) -> None:
        """
        The judge expects what C{docs/protocol.rst}, "Errors", says.
        """
        for line, outcome in [
            (b"{", (400, "INVALID_JSON")),
            (b"{}", (400, "INVALID_DATA")),
            (request(__token="x"), (401, "UNAUTHORIZED")),
            (request(command="X"), (404, "UNKNOWN_COMMAND")),
            (request(__token=USER), (403, "FORBIDDEN")),
            (request(data={}), (400, "INVALID_DATA")),
            (request(command="HealthCheck", data={}), (200, None)),
            (request(command="HealthCheck", __token=CRM, data={}), (200, None)),
            (request(command="GetGroups", __token=CRM), (403, "FORBIDDEN")),
            (
                request(command="MngCreateFinanceRequestSync"),
                (404, "UNKNOWN_COMMAND"),
            ),
            (request(command="MngCreateFinanceRequest"), (400, "INVALID_DATA")),
            (
                request(
                    command="MngCreateFinanceRequest",
                    data={"login": 1001, "cmd": 9, "amount": 1, "comment": "x"},
                ),
                (400, "INVALID_DATA"),
            ),
            (
                request(command="MngApproveFinanceRequest", __token=USER),
                (403, "FORBIDDEN"),
            ),
            (b"x" * 10_000, (413, "LINE_TOO_LONG")),
        ]:
            self.assertEqual(verdict(line, TOKENS, 8192).outcomes, {outcome})

    def test_units(self) -> None:
        """
        The checks compare money exactly.
        """
        self.assertEqual(units(300), 300_00000000)
        for text, expected in [
            ("0.1", 10_000_000),
            ("1e-8", 1),
            ("1e-9", None),
            ("3.1800000000000002", 318_000_000),
            ("434.99999999999994", 43_500_000_000),
            ("3.180000000000001", None),
        ]:
            self.assertEqual(units(json.loads(text, parse_float=Decimal)), expected)

    def test_extIDs(self) -> None:
        """
        The checks know the extID of a refusal: one extID for certain, perhaps
        one where a line is broken, or none.
        """
        for line, extIDs in [
            (b'{"extID":"a","x":NaN}', ["a"]),
            (b'{"x":"\\ud800\xff","extID":7,"y":{"extID":"b"}}', [7]),
            (b'\xef\xbb\xbf{"extID":"a"}', ["a"]),
            (b'{"extID":"a","x":"y', [None, "a"]),
            (b'{"x":[1,,2],"extID":"a"}', [None, "a"]),
            (b'{"extID":"a","extID":"a"}', [None]),
            (b'{"extID":"a","x":"y","extID', [None]),
            (b'{"x":{"extID":"a"},"y":NaN}', [None]),
            (b'{"extID":1.5,"x":NaN}', [None]),
            (b'{"extID":"\\ud800","x":NaN}', [None]),
            (b"[" * 5000, [None]),
        ]:
            self.assertEqual(verdict(line, TOKENS, 8192).extIDs, extIDs, line)

    def test_extIDFromElsewhere(self) -> None:
        """
        A reply under the extID of another object is reported, and so is one
        without an extID that could have one.
        """
        line = b'{"data":{"extID":"b"},"extID":"a","x":NaN}'
        self.assertEqual(self.wrong(line), [])
        for salvaged in ({"extID": "b"}, {}):
            with mock.patch.object(wire, "salvage", lambda line: salvaged):  # noqa: B023
                self.assertTrue(self.wrong(line))

    def test_faultAnswered(self) -> None:
        """
        An internal error that is logged and answered with 500 is reported.
        """
        with mock.patch.object(Requests, "command", lambda *_: 1 / 0):
            self.assertTrue(self.wrong(request()))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_noReply(self) -> None:
        """
        A request that is not answered is reported.
        """
        with mock.patch.object(Session, "waitEnded", lambda *_: None):
            self.assertEqual(self.wrong(request()), ["0 replies"])

    def test_twoReplies(self) -> None:
        """
        A request that is answered twice is reported.
        """
        answer = Session._answer

        def twice(self: Session, asked: Any, line: bytes, *outcome: Any) -> None:
            if isinstance(asked, Waiter):
                self.send(line)
            answer(self, asked, line, *outcome)

        with mock.patch.object(Session, "_answer", twice):
            self.assertEqual(self.wrong(request()), ["2 replies"])

    def test_refusedButBooked(self) -> None:
        """
        A refusal of a request that was booked is reported.
        """

        def refuse(asked: Session, waiter: Any, data: bytes) -> None:
            asked._refuse(Busy("too late"), waiter)

        with mock.patch.object(Session, "waitEnded", refuse):
            wrong = self.wrong(request())
        self.assertTrue(any("were booked" in each for each in wrong), wrong)


class WindowsTests(SynchronousTestCase):
    """
    Tests for the attackers that send a window of lines, and then wait.
    """

    def test_allReplies(self) -> None:
        """
        The next window is sent once each line of this one has its reply, however
        the replies are cut; events are no replies.
        """
        conversation = _Conversation(iter([b"a\nb\n", b"c\n"]))
        client, server = socket.socketpair()
        self.addCleanup(client.close)
        self.addCleanup(server.close)
        self.assertEqual(conversation.say(client), 4)
        self.assertEqual(server.recv(10), b"a\nb\n")
        self.assertFalse(conversation.isOver(b'{"event":"trade:event"}\r\n'))
        self.assertFalse(conversation.isOver(b'{"extID":1,"status":400}\r\n{"sta'))
        self.assertTrue(conversation.isOver(b'tus":400}\r\n'))
        conversation.say(client)
        self.assertEqual(server.recv(10), b"c\n")
        self.assertFalse(conversation.isOver(b'{"event":"trade:event"}\r\n'))
        self.assertTrue(conversation.isOver(b'{"status":'))

    def test_unusualAtTheEnd(self) -> None:
        """
        A window has 8 KB at most, and only what is its last request is unusual.
        """
        for window in _UNUSUAL:
            lines = window.splitlines(keepends=True)
            self.assertLessEqual(len(window), 8192)
            self.assertGreaterEqual(len(lines), 25)
            self.assertEqual(set(lines[:-2]), {_CREDIT})
            self.assertNotEqual(lines[-1], _CREDIT)


class TokenTests(SynchronousTestCase):
    """
    Tests for the kinds of bad tokens and the mutated tokens.
    """

    def test_everyKind(self) -> None:
        """
        Each kind of token has its verdict, for each algorithm.
        """
        for algorithm in KEYS.ours:
            bad = [each for each in kinds(KEYS, algorithm) if each[2] != ACCEPTED]
            self.assertGreaterEqual(len(bad), 60)
            self.assertEqual(list(tokens.judgeKinds(KEYS, algorithm)), [])
            self.assertEqual(list(tokens.judgeRevocation(KEYS, algorithm)), [])

    def test_mutated(self) -> None:
        """
        No mutated token is accepted.
        """
        for signer in KEYS.ours.values():
            verdicts, wrong = tokens.mutated(tokens.Task(signer, 300, 1))
            self.assertEqual(wrong, [])
            self.assertEqual(verdicts.total(), 300)

    def test_takenByMistake(self) -> None:
        """
        An authenticator that does not verify signatures is reported.
        """
        somebody = Principal(7, 1, 1e12)
        with mock.patch.object(TokenAuthenticator, "authenticate", lambda *_: somebody):
            self.assertTrue(list(tokens.judgeKinds(KEYS, "HS256")))
            _, wrong = tokens.mutated(tokens.Task(KEYS.ours["HS256"], 50, 1))
        self.assertTrue(wrong)

    def test_same(self) -> None:
        """
        Two tokens are equivalent only if they have the same text and
        signature.
        """
        good = KEYS.ours["HS256"].claiming()
        self.assertTrue(tokens.isSame(good, good))
        self.assertTrue(tokens.isSame(good + "=", good))
        self.assertFalse(tokens.isSame(good[:-4], good))
        self.assertFalse(tokens.isSame("=" + good, good))

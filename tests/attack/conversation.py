"""
Sends lines to a server in memory, and checks the reply to each.
"""

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from attrs import Factory, define, field

from tests.attack import ijson
from tests.attack.coverage import Coverage
from tests.attack.judge import (
    OK,
    TIMED_OUT,
    Outcome,
    Verdict,
    isValid,
    verdict,
)
from tests.attack.stack import LIMITS, MANAGER, TOKENS, Connection, Stack, problems
from tests.family import units

_REPAIRED = re.compile(rb",\s*[}\]]|'")


@define
class Said:
    """
    A line and what came of it.

    @ivar replies: What this session was sent that is no event.
    @ivar booked: The data of each trade event that another session heard.
    @ivar wrong: What broke the contract.
    @ivar kinds: The replies without what differs from one to the next.
    """

    line: bytes
    verdict: Verdict
    replies: list[dict[str, Any]] = Factory(list)
    booked: list[dict[str, Any]] = Factory(list)
    wrong: list[str] = Factory(list)
    kinds: set[bytes] = Factory(set)

    @property
    def outcomes(self) -> list[Outcome]:
        """
        The status and error of each reply.
        """
        return [(reply["status"], reply.get("error")) for reply in self.replies]


@define
class Conversation:
    """
    A server, a session that sends anything, and one that only receives events.
    """

    _random: Random
    _coverage: Coverage
    stack: Stack = Factory(Stack)
    lines: list[bytes] = Factory(list)
    _speaker: Connection = field(init=False)
    _listener: Connection = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._speaker = self.stack.connect()
        self._listener = self.stack.connect()
        self._listener.say(_health(b"listening"))
        self._listener.hear()

    def say(self, line: bytes) -> Said:
        """
        Send a line, wait for its reply, and check that.
        """
        self.lines.append(line)
        said = Said(line, verdict(line, TOKENS, LIMITS.maxLineLength))
        at = self._random.randrange(len(line) + 1)
        with problems() as logged:
            with self._coverage.watching():
                self._speaker.say(line[:at], line[at:] + b"\r\n")
            if self.stack.ledger.commits and self._random.random() < 0.1:
                self._expire(said)
            with self._coverage.watching():
                self.stack.book()
            self._hear(said)
        said.wrong += logged
        self._judge(said)
        return said

    def _expire(self, said: Said) -> None:
        with self._coverage.watching():
            self.stack.expire()
        self._hear(said)
        if len(said.replies) != 1:
            said.wrong.append("no answer when its time was over")

    def _hear(self, said: Said) -> None:
        for line in _lines(self._speaker.hear()):
            message = _message(line, said)
            if "event" not in message:
                said.replies.append(message)
                said.kinds.add(_kind(line))
        heard = [_message(line, said) for line in _lines(self._listener.hear())]
        said.booked += [event.get("data", {}) for event in heard]

    def _judge(self, said: Said) -> None:
        expected = said.verdict
        if len(said.replies) != bool(expected.outcomes):
            said.wrong.append(f"{len(said.replies)} replies")
            return
        for reply, outcome in zip(said.replies, said.outcomes, strict=True):
            if outcome not in expected.outcomes:
                said.wrong.append(f"{outcome} is not of {sorted(expected.outcomes)}")
            if not any(_isSame(reply.get("extID"), each) for each in expected.extIDs):
                said.wrong.append(f"the reply is under {reply.get('extID')!r}")
            said.wrong += _moneyFaults(said, reply, outcome)
        self._judgeRest((413, "LINE_TOO_LONG") in said.outcomes, said)

    def _judgeRest(self, isClosed: bool, said: Said) -> None:
        """
        The session stays open, except after a line that is too long.
        """
        if self._speaker.isOpen == isClosed:
            said.wrong.append("closed" if not isClosed else "not closed after a 413")
        if isClosed:
            self._speaker.lose()
            self._speaker = self.stack.connect()
        if len(self.stack.service.waiters) or self.stack.service.sessions.pending:
            said.wrong.append("something still waits")


def _health(extID: bytes) -> bytes:
    return b'{"command":"HealthCheck","extID":"%s","__token":"%s"}\n' % (
        extID,
        MANAGER.encode(),
    )


def _lines(heard: bytes) -> list[bytes]:
    return heard.splitlines(keepends=True)


def _message(line: bytes, said: Said) -> dict[str, Any]:
    """
    Parse a line of the server as strictly as the server parses its own input.
    """
    if not line.isascii() or not line.endswith(b"\r\n") or line.count(b"\n") != 1:
        said.wrong.append(f"no line that every client can read: {line!r}")
    if _REPAIRED.search(line):
        said.wrong.append(f"a client would repair this: {line!r}")
    try:
        message = ijson.decode(line)
    except ijson.NotIJSON as e:
        said.wrong.append(f"{e}: {line!r}")
        return {"status": 0}
    kind = _kind(line)
    schema = "event" if "event" in message else "reply"
    if kind not in _RIGHT_KINDS and not isValid(schema, message):
        said.wrong.append(f"not as {schema}.json has it: {line!r}")
    _RIGHT_KINDS.add(kind)
    return message


def _kind(line: bytes) -> bytes:
    """
    A line of the server without the parts that always differ: the extID, the
    comment and the digits of numbers.
    """
    return _DIGITS.sub(b"", _OWN_TEXT.sub(b"", line))


_OWN_TEXT = re.compile(rb'"(?:extID|comment)":(?:"(?:[^"\\]|\\.)*"|[^,]*),')
_DIGITS = re.compile(rb"(?<=\d)\d+")


# Validating each kind once with jsonschema saves most of the time.
_RIGHT_KINDS: set[bytes] = set()


def _isSame(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def _moneyFaults(said: Said, reply: dict[str, Any], outcome: Outcome) -> Iterator[str]:
    """
    The faults in what was booked, given the one reply.
    """
    isBooking = said.verdict.isBooking and outcome in (OK, TIMED_OUT)
    isReplay = reply.get("replayed", False)
    if len(said.booked) != (isBooking and not isReplay):
        yield f"{len(said.booked)} trades were booked, but the answer is {outcome}"
        return
    if not said.booked:
        return
    [trade] = said.booked
    asked = said.verdict.asked
    for name in ("login", "cmd", "comment"):
        if name in asked and trade[name] != asked[name]:
            yield f"{name} was booked as {trade[name]!r}"
    if "amount" in asked and units(trade["profit"]) != units(asked["amount"]):
        yield f"the amount was booked as {trade['profit']}"
    if outcome == OK and said.verdict.members["command"].endswith("Sync"):
        if reply.get("data") != trade:
            yield "the reply's data is not the event's"
    elif reply.get("data", {}).get("order") != trade["order"]:
        yield "the reply names another order"

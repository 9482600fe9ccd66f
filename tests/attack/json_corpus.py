"""
Try what is JSON and what is not, case by case, on the whole server.

Each value of L{tests.attack.json_cases} is tried as a parameter and as a whole
line, and each line as it is. A line that is refused keeps its extID where that
can be read, and only there. Then what clients choose themselves, the extID and
the comment, has to come back unchanged, in lines that every client can read
(C{docs/protocol.rst}, "What the server writes").
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence

from tests.attack import command
from tests.attack.json_cases import (
    ECHOED_NUMBERS,
    ECHOES,
    FINE,
    LINES,
    NO_COMMAND,
    NO_VALUES,
    NOT_JSON,
    VALUES,
    Cases,
)
from tests.attack.stack import MANAGER, Stack, problems
from tests.figures import Figures

Outcome = tuple[int, str | None]
Trial = tuple[str, bytes, Outcome | None]

_TOKEN = MANAGER.encode()
_IN_DATA = b'{"command":"HealthCheck","__token":"%s","data":{"x":%s}}'
_IN_ENVELOPE = b'{"x":%s,"command":"HealthCheck","__token":"%s"}'
# Characters that one client "repairs" before it parses.
_REPAIRED = re.compile(rb",\s*[}\]]|'")


def trials() -> Iterator[Trial]:
    """
    Every line to be tried: its name, the line, and its reply.
    """
    for what, text in _named(VALUES):
        yield f"{what}, as a parameter", _IN_DATA % (_TOKEN, text), FINE
        yield f"{what}, in the envelope", _IN_ENVELOPE % (text, _TOKEN), FINE
        isObject = text.strip().startswith(b"{")
        yield f"{what}, as the line", text, NO_COMMAND if isObject else NOT_JSON
    for what, text in _named(NO_VALUES):
        yield f"no {what}, as a parameter", _IN_DATA % (_TOKEN, text), NOT_JSON
        yield f"no {what}, in the envelope", _IN_ENVELOPE % (text, _TOKEN), NOT_JSON
        if text:
            yield f"no {what}, as the line", text, NOT_JSON
    for what, (line, outcome) in LINES.items():
        yield what, line.replace(b"TOKEN", _TOKEN), outcome


def _named(classes: dict[str, Cases]) -> Iterator[tuple[str, bytes]]:
    for kind, cases in classes.items():
        for what, text in cases.items():
            yield f"{kind}, {what}", text


def cases() -> int:
    """
    How many cases there are, each counted once.
    """
    return (
        sum(1 for _ in _named(VALUES)) + sum(1 for _ in _named(NO_VALUES)) + len(LINES)
    )


def judge(tried: Sequence[Trial]) -> Iterator[str]:
    """
    Send lines in one session, which must stay open.

    @return: The faults.
    """
    connection = Stack().connect()
    with problems() as logged:
        for what, line, expected in tried:
            connection.say(line + b"\n")
            heard = [json.loads(each) for each in connection.hear().splitlines()]
            outcomes = [(reply["status"], reply.get("error")) for reply in heard]
            if outcomes != ([] if expected is None else [expected]):
                yield f"{what}: {outcomes or 'nothing'}"
        if not connection.isOpen:
            yield "the session was closed"
    yield from logged


def judgeExtIDs() -> Iterator[str]:
    """
    Send lines to be refused that have an C{extID}: before the error, after it,
    and in another object.

    @return: The faults.
    """
    connection = Stack().connect()
    for what, text in _named(NO_VALUES):
        inFront = b'{"extID":"c1","data":{"x":%s}}' % text
        behind = b'{"data":{"x":%s},"extID":"c1"}' % text
        nested = b'{"data":{"extID":"c1","x":%s}}' % text
        endsClearly = what.startswith(_ENDING_CLEARLY) and what not in _UNCLEAR
        for line, expected in (
            (inFront, {"c1"}),
            (behind, {"c1"} if endsClearly else {"c1", None}),
            (nested, {None}),
        ):
            connection.say(line + b"\n")
            [reply] = [json.loads(each) for each in connection.hear().splitlines()]
            if reply.get("extID") not in expected:
                yield f"{what}: {line!r} is answered under {reply.get('extID')!r}"


# Kinds of lines that are not I-JSON, but leave no doubt where a value ends; and
# those of them that do.
_ENDING_CLEARLY = (
    "noncharacter,",
    "utf-8,",
    "object, a name twice",
    "number, NaN",
    "number, minus Infinity",
    "number, 2^53",
    "number, five thousand digits",
    "number, 1e400",
    "number, 1001 characters",
    "number, less than the least double",
    "escape, a high surrogate",
    "escape, two high surrogates",
    "escape, a pair",
    "string, a tab",
    "string, a zero",
    "literal, misspelt",
)
_UNCLEAR = ("utf-8, a quotation mark in two bytes", "utf-8, between values")


def judgeEchoes() -> Iterator[str]:
    """
    Have strings and numbers sent back.

    @return: The faults.
    """
    for text in ECHOES:
        yield from _judgeEcho(json.dumps(text).encode(), text)
        yield from _judgeEcho(json.dumps(text, ensure_ascii=False).encode(), text)
    for number in ECHOED_NUMBERS:
        yield from _judgeEcho(number, "x")


def _judgeEcho(extID: bytes, comment: str) -> Iterator[str]:
    text = json.dumps(comment, ensure_ascii=False).encode()
    for name in (b"CreditInSync", b"CreditIn"):
        heard = _say(_CREDIT % (name, extID, _TOKEN, text))
        yield from _unreadable(heard)
        lines = [json.loads(line) for line in heard.splitlines()]
        if [("event" in line, "extID" in line) for line in lines] != _EVENT_AND_REPLY:
            yield f"{comment!r} is answered with {heard!r}"
            continue
        event, reply = lines
        if repr(reply["extID"]) != repr(json.loads(extID)):
            yield f"the extID {extID!r} came back as {reply['extID']!r}"
        for message in (event, reply) if name.endswith(b"Sync") else (event,):
            if message["data"]["comment"] != comment:
                yield f"the comment {comment!r} came back as {message['data']}"
    # A refusal echoes too.
    yield from _unreadable(_say(b'{"command":"X","extID":%s}' % extID))


_CREDIT = (
    b'{"command":"%s","extID":%s,"__token":"%s","data":'
    b'{"login":1001,"amount":1,"comment":%s}}'
)
_EVENT_AND_REPLY = [(True, False), (False, True)]


def _say(line: bytes) -> bytes:
    stack = Stack()
    connection = stack.connect()
    connection.say(line + b"\n")
    stack.book()
    return connection.hear()


def _unreadable(heard: bytes) -> Iterator[str]:
    for line in heard.splitlines(keepends=True):
        if not line.isascii() or not line.endswith(b"\r\n") or _REPAIRED.search(line):
            yield f"no line that every client can read: {line!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Try all cases, and print the result.
    """
    options = command.begin(command.parser(__doc__), arguments)
    tried = list(trials())
    violations = [*judge(tried), *judgeExtIDs(), *judgeEchoes()]
    figures = Figures(cases=cases())
    figures["lines"] = len(tried)
    figures["echoes"] = 2 * len(ECHOES) + len(ECHOED_NUMBERS)
    return command.end(options, figures, violations, f"{cases()} cases and every echo")


if __name__ == "__main__":
    sys.exit(main())

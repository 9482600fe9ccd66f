"""
Tests that the server does what C{docs/protocol.rst} says.

The document's examples are conversations. Each is replayed with the server in
the order of the document, and the answers have to be those in the document, to
the byte.
"""

import inspect
import io
import re
from collections.abc import Callable
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from sqlite3 import connect
from tempfile import TemporaryDirectory
from typing import Any

from docutils.core import publish_doctree
from docutils.nodes import (
    document,
    literal,
    literal_block,
    reference,
    row,
    section,
    table,
    tbody,
    title,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync import codes, errors
from creditsync.auth import TokenAuthenticator, mint
from creditsync.errors import OutcomeUnknown, Refusal
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.methods import FINANCE_METHODS, BookingMethod
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync

CHECKOUT = Path(__file__).parents[1]
PROTOCOL = CHECKOUT / "docs" / "protocol.rst"
SCHEMAS = CHECKOUT / "schemas"

SECRET = "0123456789abcdef0123456789abcdef"
# The time and the first order number of the examples: the first second of
# 2026.
NOW = 1767225600
FIRST_ORDER = 1242281
TOKENS = {
    "MANAGER": mint(SECRET, id=7, role=1, expires=3600, now=NOW),
    "ADMIN": mint(SECRET, id=9, role=3, expires=3600, now=NOW),
    "USER": mint(SECRET, id=8, role=0, expires=3600, now=NOW),
    "EXPIRED": mint(SECRET, id=7, role=1, expires=3600, now=NOW - 7200),
}


def parsed() -> document:
    """
    The document as docutils parses it.
    """
    return publish_doctree(
        PROTOCOL.read_text("utf-8"),
        source_path=str(PROTOCOL),
        settings_overrides={"warning_stream": io.StringIO()},
    )


def conversations() -> list[list[str]]:
    """
    The examples: for each block its steps, which are the lines sent and
    received and, in parentheses, the events in between.
    """
    return [steps(block.astext()) for block in parsed().findall(literal_block)]


def steps(block: str) -> list[str]:
    """
    The lines of a block, unfolded.
    """
    unfolded: list[str] = []
    for line in block.splitlines():
        if line.startswith(("->", "<-", "(")):
            unfolded.append(line)
        else:
            # JSON needs no space where it can be folded, but a sentence does.
            isInString = len(re.findall(r'(?<!\\)"', unfolded[-1])) % 2
            unfolded[-1] += " " * isInString + line.strip()
    return unfolded


def pattern(line: str) -> str:
    """
    A pattern for the lines that a line of an example stands for: C{...} inside
    a string is any text, and elsewhere any members.
    """
    parts = []
    for part in re.findall(r'"(?:[^"\\]|\\.)*"|[^"]+', line):
        gap = r'[^"]*' if part.startswith('"') else ".*"
        parts.append(gap.join(map(re.escape, part.split("..."))))
    return "".join(parts)


class Documented:
    """
    The server of the examples, with one connection.
    """

    def __init__(self, folder: str) -> None:
        path = f"{folder}/creditsync.db"
        self.clock = Clock()
        self._isSlow = False
        self._waiting: list[tuple[Callable[[], None], Deferred[None]]] = []
        ledger = SQLiteLedger(path, self._commit)
        ledger.open()
        ledger.close()
        with closing(connect(path)) as file, file:
            file.execute("UPDATE order_mark SET next_order = ?", (FIRST_ORDER,))
            # The epoch of the examples.
            file.execute(
                "INSERT INTO life VALUES (2, '9f3c1a7e', 0, 'created', ?)", (NOW,)
            )
        events = TradeEvents()
        self.service = CreditSync(
            self.clock,
            runtime=TradingRuntime(
                self.clock, ledger, events, now=lambda: NOW, maxQueued=50_000
            ),
            events=events,
            authenticator=TokenAuthenticator(SECRET, now=lambda: NOW),
            listen=[],
        )
        self.service.startService()

    def stop(self) -> "Deferred[None]":
        """
        Stop the server, and give it the time to read what came at the last
        moment.
        """
        stopped = self.service.stopService()
        self.clock.advance(1)
        return stopped

    def _commit(self, write: Callable[[], None]) -> "Deferred[None]":
        if not self._isSlow:
            write()
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._waiting.append((write, ended))
        return ended

    def connect(self) -> None:
        """
        Open a connection.
        """
        connection = self.service.factory.buildProtocol(None)
        assert connection is not None
        self.connection = connection
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)

    def cut(self) -> None:
        """
        Close the connection.
        """
        self.connection.connectionLost(Failure(connectionDone.value))
        self.clock.advance(0)

    def send(self, line: str) -> None:
        """
        Send a line as it is written in an example.
        """
        for name, token in TOKENS.items():
            line = line.replace(f'"__token":"{name}"', f'"__token":"{token}"')
        self.connection.dataReceived(f"{line}\r\n".encode())
        self.clock.advance(0)

    def received(self) -> list[str]:
        """
        The lines received since the last call.
        """
        data = self.transport.value().decode("ascii")
        self.transport.clear()
        assert data.endswith("\r\n") or not data
        return data.split("\r\n")[:-1]

    def slow(self) -> None:
        """
        From now on let no commit end.
        """
        self._isSlow = True

    def goOn(self) -> None:
        """
        End the waiting commits, and all later ones at once.
        """
        self._isSlow = False
        waiting, self._waiting = self._waiting, []
        for write, ended in waiting:
            write()
            ended.callback(None)
        self.clock.advance(0)


class ExampleTests(SynchronousTestCase):
    """
    Tests for the examples.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.server = Documented(folder.name)

    def tearDown(self) -> None:
        """
        The server can stop, and leaves nothing behind.
        """
        self.successResultOf(self.server.stop())
        self.assertEqual(self.server.clock.getDelayedCalls(), [])

    def test_conversations(self) -> None:
        """
        A client that sends the lines of an example receives the lines of the
        example, in that order and no others.
        """
        examples = conversations()
        self.assertTrue(examples)
        for example in examples:
            self.hold(example)

    def hold(self, conversation: list[str]) -> None:
        """
        Replay one conversation and compare it with the document.
        """
        server = self.server
        server.connect()
        isEvent = None
        expected: list[str] = []
        came: list[str] = []
        for step in conversation:
            if step.startswith("-> "):
                came += server.received()
                server.send(step[3:])
            elif step.startswith("<- "):
                expected.append(step[3:])
            elif step == "(trade events are left out)":
                isEvent = re.compile(r'\{"event":')
            elif step == "(the ledger is slow)":
                server.slow()
            elif step == "(the ledger goes on)":
                server.goOn()
            elif step == "(5 seconds pass)":
                server.clock.advance(5)
            elif step == "(the connection is cut)":
                server.received()
                server.cut()
                server.connect()
            else:
                self.fail(f"what is to happen? {step}")
        came += server.received()
        server.cut()
        if isEvent is not None:
            came = [line for line in came if not isEvent.match(line)]
        for line, seen in zip_longest(expected, came, fillvalue=""):
            self.assertTrue(re.fullmatch(pattern(line), seen), f"{line}\nis: {seen}")


class NotationTests(SynchronousTestCase):
    """
    Tests for how the examples are read.
    """

    def test_pattern(self) -> None:
        """
        The parts that an example leaves out may be anything, the others may
        not.
        """
        written = pattern('{"order":1,"comment":"It\\u0027s ...",...}')
        self.assertTrue(
            re.fullmatch(written, '{"order":1,"comment":"It\\u0027s 2","sl":0.0}')
        )
        for line in (
            '{"order":2,"comment":"It\\u0027s 2","sl":0.0}',
            '{"order":1,"comment":"It\'s 2","sl":0.0}',
            '{"order":1,"comment":"It\\u0027s 2"}',
            '{"order":1,"comment":"It\\u0027s 2","sl":0.0},',
            '{"order":1,"x":0,"comment":"It\\u0027s 2","sl":0.0}',
            "",
        ):
            self.assertFalse(re.fullmatch(written, line), line)

    def test_unfolded(self) -> None:
        """
        A fold is nothing between members, and a space inside a sentence.
        """
        self.assertEqual(
            steps('-> {"a":1,\n    "b":"it is \\"so\n    called"}\n(wait)'),
            ['-> {"a":1,"b":"it is \\"so called"}', "(wait)"],
        )


class TableTests(SynchronousTestCase):
    """
    Tests for the tables and the links.
    """

    def rows(self, heading: str, number: int = 0) -> list[row]:
        """
        The rows of the table in the section with this heading.
        """
        (here,) = (
            each
            for each in parsed().findall(section)
            if next(each.findall(title)).astext() == heading
        )
        (body,) = list(here.findall(table))[number].findall(tbody)
        return list(body.findall(row))

    def texts(self, heading: str, number: int = 0) -> list[list[str]]:
        """
        The texts of a row's entries, unfolded.
        """
        return [
            [" ".join(entry.astext().split()) for entry in each]
            for each in self.rows(heading, number)
        ]

    def test_errors(self) -> None:
        """
        The table has all errors, and only the third outcome leaves open what
        happened.
        """
        refusals = [
            each
            for _, each in inspect.getmembers(errors, inspect.isclass)
            if issubclass(each, Refusal) and each is not Refusal
        ]
        self.assertEqual(
            sorted((status, error, what) for status, error, what, *_ in self.errors()),
            sorted(
                (
                    str(each.status),
                    each.error,
                    "unknown" if each is OutcomeUnknown else "no",
                )
                for each in refusals
            ),
        )

    def errors(self) -> list[list[str]]:
        """
        The rows of the table of errors, none of whose entries is empty.
        """
        rows = self.texts("Errors")
        self.assertTrue(all(text for each in rows for text in each))
        return rows

    def test_retries(self) -> None:
        """
        The decision table has every status exactly once.
        """
        decided = re.findall(
            r"\b[2-5]\d\d\b(?! DUPLICATE_EXTID)",
            " ".join(what for what, *_ in self.texts("Safe retries")),
        )
        statuses = {status for status, *_ in self.errors()}
        self.assertEqual(sorted(decided), sorted({"200", *statuses}))

    def test_family(self) -> None:
        """
        The table of the finance family has all of its commands, with their
        C{cmd}.
        """
        self.assertEqual(
            [row[:3] for row in self.texts("The finance family")],
            [
                [
                    method.name,
                    f"{method.name}Sync",
                    str(method.cmd) if isinstance(method, BookingMethod) else "",
                ]
                for method in FINANCE_METHODS
            ],
        )

    def test_links(self) -> None:
        """
        Every link to a file leads to one, and every schema is linked.
        """
        links: list[Any] = [
            link["refuri"]
            for link in parsed().findall(reference)
            if "refuri" in link and "://" not in link["refuri"]
        ]
        for link in links:
            self.assertTrue((PROTOCOL.parent / link).is_file(), link)
        self.assertEqual(
            sorted(link for link in links if link.startswith("../schemas/")),
            sorted(f"../schemas/{path.name}" for path in SCHEMAS.glob("*.json")),
        )

    def test_codes(self) -> None:
        """
        The codes of an event are those of L{creditsync.codes}.
        """
        prefixes = {"type": "", "cmd": "OP_", "state": "TS_", "reason": "TR_REASON_"}
        documented = {
            f"{prefixes[member]}{name}": int(number)
            for member, text in self.texts("Trade events")
            for number, name in re.findall(r"(\d+) ([A-Z_]+)", text)
        }
        self.assertEqual(
            documented,
            {
                name: number
                for name, number in vars(codes).items()
                if name.startswith(("EV_", "OP_", "TS_", "TR_"))
            },
        )

    def test_commands(self) -> None:
        """
        Every command of the server is in the text.
        """
        with TemporaryDirectory() as folder:
            server = Documented(folder)
            commands = set(server.service.sessions.requests._commands)
            self.successResultOf(server.stop())
        said = {each.astext() for each in parsed().findall(literal)}
        self.assertEqual(commands - said, set())

    def test_names(self) -> None:
        """
        Every name that the text has is that of an error, or of a code in the
        table of codes.
        """
        names = {name for _, name, *_ in self.errors()}
        for _, text in self.texts("Trade events"):
            names.update(re.findall("[A-Z_]+", text))
        said = {
            text
            for text in (each.astext() for each in parsed().findall(literal))
            if re.fullmatch(r"[A-Z]+(_[A-Z]+)+|BUSY|SHUTDOWN", text)
        }
        self.assertEqual(said - names, set())

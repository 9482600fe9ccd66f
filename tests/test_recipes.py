"""
Tests that things are added as C{docs/architecture.rst} says: its recipes are applied
to a copy of the tree, and the tests there name what is still missing.

That of a method is in C{tests/test_added_method.py}.
"""

import ast
import re
from typing import Any

import pytest
from docutils.nodes import literal_block

from tests.copies import CopyCase
from tests.test_architecture import under

pytestmark = pytest.mark.proof

# Asks the server of the copy for a command.
ASK = """
import json
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from creditsync.events import TradeEvents
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime

events = TradeEvents()
clock = Clock()
server = CreditSync(
    clock,
    runtime=FakeTradingRuntime(events),
    events=events,
    authenticator=FakeAuthenticator(),
    listen=[],
)
server.startService()
connection = server.factory.buildProtocol(None)
transport = StringTransport()
connection.makeConnection(transport)
line = {"command": "WhoAmI", "extID": 1, "__token": "manager", "data": {}}
connection.dataReceived(json.dumps(line).encode() + b"\\r\\n")
clock.advance(0)
print(transport.value().decode())
"""


def blocks(heading: str) -> list[str]:
    """
    The code of a recipe.
    """
    return [each.astext() for each in under(heading).findall(literal_block)]


class RecipeCase(CopyCase):
    """
    A copy of the tree, and the ways in which recipes change it.
    """

    copied = ("creditsync", "schemas", "tests", "docs", "deploy", "README.rst")

    def insert(self, file: str, what: tuple[type[ast.AST], str], code: str) -> None:
        """
        Insert code at the end of a class, a function, a tuple or a list, which
        has to be the only one of that name in the file.

        @param what: The kind of node, and its name.
        """
        path = self.root / file
        text = path.read_text("utf-8")
        kind, name = what
        [node] = [
            each
            for each in ast.walk(ast.parse(text))
            if isinstance(each, kind) and _nameOf(each) == name
        ]
        body: Any = getattr(node, "value", node)
        isBracketed = isinstance(body, (ast.Tuple, ast.List))
        first = body.elts[0] if isBracketed else body.body[0]
        end = body.end_lineno - isBracketed
        indent = " " * first.col_offset
        added = [f"{indent}{line}".rstrip() for line in code.splitlines()]
        lines = text.splitlines()
        path.write_text("\n".join([*lines[:end], *added, *lines[end:]]) + "\n", "utf-8")

    def append(self, file: str, text: str) -> None:
        """
        Add to the end of a file.
        """
        with (self.root / file).open("a", encoding="utf-8") as opened:
            opened.write(text)

    def failing(self, *tests: str) -> dict[str, str]:
        """
        Run tests in the copy.

        @return: Those that fail, and why.
        """
        done = self.run_("-m", "unittest", *(f"tests.{name}" for name in tests))
        self.assertRegex(done.stderr, r"\nRan [1-9]\d* tests? in ")
        parts = re.split("^={70}\n", done.stderr, flags=re.MULTILINE)[1:]
        return {part.split()[1]: part for part in parts}


def _nameOf(node: Any) -> str | None:
    """
    What a class, a function, a variable or an argument is called.
    """
    if isinstance(node, ast.Assign):
        node = node.targets[0]
    if isinstance(node, ast.AnnAssign):
        node = node.target
    if isinstance(node, ast.keyword):
        return node.arg
    name: str | None = getattr(node, "name", None) or getattr(node, "id", None)
    return name


class CommandTests(RecipeCase):
    """
    "Adding a command".
    """

    def apply(self) -> None:
        """
        Apply the recipe, but for the documents.
        """
        command, instance, schema, name = blocks("Adding a command")
        self.append("creditsync/_conversation/commands.py", f"\n\n{command}\n")
        path = "creditsync/service.py"
        self.edit(
            path,
            "_conversation.commands import (",
            "_conversation.commands import (WhoAmI, ",
        )
        self.insert(path, (ast.keyword, "commands"), instance)
        (self.root / "schemas" / "who_am_i.json").write_text(schema)
        self.insert("creditsync/validation.py", (ast.Assign, "REQUESTS"), name)

    def test_works(self) -> None:
        """
        The command is carried out.
        """
        self.apply()
        done = self.run_("-c", ASK)
        self.assertEqual(
            done.stdout.strip(), '{"extID":1,"status":200,"data":{"id":7,"role":1}}'
        )

    def test_documents(self) -> None:
        """
        Until the protocol's page names it and links its schema, tests fail that
        name what is missing.
        """
        self.apply()
        found = self.failing("test_protocol_doc")
        self.assertEqual(set(found), {"test_commands", "test_links"})
        self.assertIn("WhoAmI", found["test_commands"])
        self.assertIn("who_am_i.json", found["test_links"])
        self.append(
            "docs/protocol.rst",
            "\n``WhoAmI`` has `who_am_i.json <../schemas/who_am_i.json>`_.\n",
        )
        self.assertEqual(self.failing("test_protocol_doc", "test_schemas"), {})

    def test_schema(self) -> None:
        """
        A schema that isn't among those of requests is named.
        """
        _, _, schema, _ = blocks("Adding a command")
        (self.root / "schemas" / "who_am_i.json").write_text(schema)
        found = self.failing("test_schemas.FileTests")
        self.assertIn("who_am_i", found["test_noOthers"])


class LimitTests(RecipeCase):
    """
    "Adding a limit".
    """

    def test_limit(self) -> None:
        """
        The option is there, and the limit is named as long as it is not counted,
        or one of the documents doesn't list it.
        """
        [row] = blocks("Adding a limit")
        self.insert("creditsync/limits.py", (ast.ClassDef, "Limits"), row)
        shown = self.run_("-m", "creditsync", "serve", "--help").stdout
        self.assertRegex(shown, r"--max-commands=\s+Commands of one connection")
        found = self.failing("test_limits")
        self.assertEqual(
            set(found), {"test_counted", "test_protocol", "test_readme", "test_alerts"}
        )
        for text in found.values():
            self.assertIn("max-commands", text)


class MemberTests(RecipeCase):
    """
    "Adding a member".
    """

    def addTo(self, record: str, after: str) -> dict[str, str]:
        """
        Add a member behind another one, and run what the recipe names.
        """
        path = self.root / "creditsync" / "records.py"
        head, mark, tail = path.read_text("utf-8").partition(f"\nclass {record}(")
        self.assertEqual(mark, f"\nclass {record}(")
        before, line, behind = tail.partition(f"\n    {after}\n")
        self.assertTrue(line)
        added = f'    reference: str = ""\n{behind}'
        path.write_text("".join([head, mark, before, line, added]), "utf-8")
        return self.failing("test_members")

    def test_trade(self) -> None:
        """
        A member of a trade is missing in events, in the ledger and in the suites'
        model.
        """
        found = self.addTo("Trade", "timestamp: int")
        self.assertLessEqual(
            {"test_event", "test_names", "test_journal", "test_checked", "test_model"},
            set(found),
        )
        self.assertIn("reference in an event", found["test_event"])
        self.assertIn("no such column: reference", found["test_checked"])

    def test_request(self) -> None:
        """
        A member of a request's data is missing in the schemas, in what becomes an
        operation by either way of a line, in bulk files and in the suites' model.
        """
        found = self.addTo("Operation", "closeTime: int | None = None")
        self.assertEqual(
            set(found),
            {
                "test_data",
                "test_schemas",
                "test_operation",
                "test_plain",
                "test_bulk",
                "test_model",
            },
        )
        self.assertIn("missing in schemas/credit_in.json", found["test_schemas"])


class FigureTests(RecipeCase):
    """
    "Adding a figure".
    """

    def test_metric(self) -> None:
        """
        A metric that is neither on the dashboard nor in an alert is named.
        """
        metric, _ = blocks("Adding a figure")
        self.insert("creditsync/_metrics/table.py", (ast.AnnAssign, "ALWAYS"), metric)
        found = self.failing("test_deploy.MetricTests", "test_metrics.MetricsTests")
        self.assertEqual(set(found), {"test_everyMetricIsShown"})
        self.assertIn(
            "creditsync_unsubscribed_sessions", found["test_everyMetricIsShown"]
        )

    def test_console(self) -> None:
        """
        A figure of the console's page that no snapshot has is named.
        """
        _, figure = blocks("Adding a figure")
        self.append("creditsync/web/static/index.html", figure)
        found = self.failing("test_page.PageTests.test_figures")
        self.assertIn("totals.unsubscribed", found["test_figures"])


class LedgerTests(RecipeCase):
    """
    "Changing the ledger".
    """

    def test_script(self) -> None:
        """
        A stored ledger of each version is brought up to the one of a new script.
        """
        (self.root / "creditsync/ledger/004.sql").write_text(
            "CREATE TABLE note (text TEXT NOT NULL) STRICT;\n"
        )
        self.edit("creditsync/ledger/_schema.py", '"003.sql")', '"003.sql", "004.sql")')
        self.assertEqual(self.failing("test_upgrade"), {})

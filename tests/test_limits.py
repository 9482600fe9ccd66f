"""
Tests that a limit is added by a row of L{Limits}: what is not made of the row
names the limit that it lacks.
"""

import ast
import re
from pathlib import Path
from typing import Any

import attrs
from docutils.nodes import literal, section, table, tbody, title
from twisted.trial.unittest import SynchronousTestCase

import creditsync
from creditsync import limits, records
from creditsync.limits import Limits, Scope, optionName
from creditsync.tap import Options
from tests.test_readme import CHECKOUT, README, rendered

ALL = {optionName(each.name): each for each in attrs.fields(Limits)}

# The modules that refuse, and so say which limit was reached.
SOURCES = [
    path
    for path in Path(creditsync.__file__).parent.rglob("*.py")
    if path.name not in ("limits.py", "metrics.py")
]


def ofScopes(*scopes: Scope) -> list[str]:
    """
    The options of the limits that bound this.
    """
    return [name for name, each in ALL.items() if each.metadata["scope"] in scopes]


def rows(path: Path, heading: str) -> list[list[Any]]:
    """
    The rows of the first table in a section of a document.
    """
    tree, _ = rendered(path)
    for each in tree.findall(section):
        if each.next_node(title).astext() == heading:  # type: ignore[union-attr]
            (body,) = next(each.findall(table)).findall(tbody)
            return [list(row) for row in body]
    raise ValueError(f"{path.name} has no section {heading}")


def literals(path: Path, heading: str) -> list[str]:
    """
    The names in the first column of that table.
    """
    return [
        name.astext() for row in rows(path, heading) for name in row[0].findall(literal)
    ]


def alerted(alert: str) -> list[str]:
    """
    The limits that the expression of an alert selects.
    """
    text = (CHECKOUT / "deploy" / "alerts.yml").read_text()
    rule = text[text.index(f"- alert: {alert}\n") :]
    found = re.search(r"limit_refusals_total\{limit(=~|!~)\"([^\"]+)\"\}", rule)
    assert found is not None
    return [
        name
        for name in ofScopes(Scope.CLIENT, Scope.SERVER)
        if bool(re.fullmatch(found[2], name)) == (found[1] == "=~")
    ]


class RowTests(SynchronousTestCase):
    """
    What is made of a row.
    """

    def test_place(self) -> None:
        """
        Applications still find the limits where they used to be.
        """
        self.assertIs(records.Limits, limits.Limits)

    def test_names(self) -> None:
        """
        Options are spelled in lower case, with dashes.
        """
        self.assertEqual(
            {optionName(name) for name in ("maxPendingPerSession", "lineTimeout")},
            {"max-pending-per-session", "line-timeout"},
        )

    def test_options(self) -> None:
        """
        Each limit has an option, with its default and its help, whose value
        becomes the limit.
        """
        parameters = {name: rest for name, _, *rest in Options.optParameters}
        options = Options()
        options.parseOptions([f"--{name}=7" for name in ALL])
        for name, limit in ALL.items():
            default, help, _ = parameters[name]
            self.assertEqual((default, help), (limit.default, limit.metadata["help"]))
            value = getattr(options["serverLimits"], limit.name)
            self.assertEqual((value, type(value)), (7, type(limit.default)), name)


class DocumentTests(SynchronousTestCase):
    """
    What is written by hand.
    """

    def assertAll(self, found: list[str], wanted: list[str], where: str) -> None:
        """
        Assert that these limits are there, and no others.
        """
        self.assertEqual(sorted(set(wanted) - set(found)), [], f"missing in {where}")
        self.assertEqual(sorted(found), sorted(wanted), where)

    def test_readme(self) -> None:
        """
        The README's table of options has each limit, in the words of its help.
        """
        documented = {
            name.astext().removeprefix("--"): " ".join(meaning.astext().split())
            for name, _, meaning in rows(README, "Options")
        }
        self.assertEqual([name for name in ALL if name not in documented], [])
        for name, limit in ALL.items():
            self.assertEqual(documented[name], limit.metadata["help"], name)

    def test_protocol(self) -> None:
        """
        The table of the protocol has the default of each limit that a client can
        reach.
        """
        found = [
            float(most.astext())
            for _, most, _ in rows(CHECKOUT / "docs" / "protocol.rst", "Limits")
        ]
        wanted = ofScopes(Scope.CLIENT, Scope.SERVER)
        missing = [name for name in wanted if ALL[name].default not in found]
        self.assertEqual(missing, [])
        self.assertEqual(sorted(found), sorted(ALL[name].default for name in wanted))

    def test_alerts(self) -> None:
        """
        A server that is full and a client that goes too far are told by different
        alerts, whose sections list the limits.
        """
        operations = CHECKOUT / "docs" / "operations.rst"
        for alert, scope in (
            ("CreditsyncFull", Scope.SERVER),
            ("CreditsyncLimitReached", Scope.CLIENT),
        ):
            wanted = ofScopes(scope)
            self.assertAll(alerted(alert), wanted, f"the rule of {alert}")
            self.assertAll(literals(operations, alert), wanted, f"its section {alert}")

    def test_counted(self) -> None:
        """
        Where the server refuses because of a limit, it counts it by the name of
        the option.
        """
        counted = {
            node.value
            for path in SOURCES
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and node.value in ALL
        }
        self.assertAll(
            sorted(map(str, counted)),
            ofScopes(Scope.CLIENT, Scope.SERVER),
            "what is counted",
        )

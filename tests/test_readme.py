"""
Tests that the README's commands run, and that the documents name what exists.
"""

import io
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from docutils.core import publish_doctree
from docutils.nodes import document, literal, literal_block, table, tbody
from twisted.trial.unittest import SynchronousTestCase

from creditsync._process.defaults import DEFAULT_KEY, DEFAULT_LISTEN
from creditsync.tap import Options

CHECKOUT = Path(__file__).parents[1]
README = CHECKOUT / "README.rst"


def rendered(path: Path) -> tuple[document, str]:
    """
    Parse a document.

    @return: Its tree, and the warnings of docutils.
    """
    complaints = io.StringIO()
    tree = publish_doctree(
        path.read_text("utf-8"),
        source_path=str(path),
        settings_overrides={"warning_stream": complaints, "report_level": 1},
    )
    return tree, complaints.getvalue()


def commands() -> list[str]:
    """
    The literal blocks of the README that are commands.
    """
    tree, _ = rendered(README)
    blocks = [block.astext() for block in tree.findall(literal_block)]
    return [block for block in blocks if not re.match("[-<]|from ", block)]


class DocumentTests(SynchronousTestCase):
    """
    Tests for the README and the documents in C{docs}.
    """

    def test_renders(self) -> None:
        """
        The documents at the top and those in C{docs/} render without any
        complaint.
        """
        for path in [*CHECKOUT.glob("*.rst"), *(CHECKOUT / "docs").glob("*.rst")]:
            self.assertEqual((path.name, rendered(path)[1]), (path.name, ""))

    def test_options(self) -> None:
        """
        The README's table of options has every option of the server with its
        default, and no other.
        """
        tree, _ = rendered(README)
        (options,) = tree.findall(table)
        (body,) = options.findall(tbody)
        documented = {}
        for row in body:
            name, default = (entry.astext() for entry in row[:2])
            documented[name.removeprefix("--")] = default
        # Options that may be repeated are not among the parameters, and the
        # defaults of --key, --algorithm and --listen depend on what the key is, or are
        # filled in after the parsing.
        defaults = {
            **{name: default for name, _, default, *_ in Options.optParameters},
            "listen": DEFAULT_LISTEN,
            "web-origin": None,
            "key": DEFAULT_KEY,
            "algorithm": "HS256",
            **{name: "off" for name, *_ in Options.optFlags},
        }
        # By name first: the difference of the whole is cut short.
        self.assertEqual(set(documented) ^ set(defaults), set())
        self.assertEqual(
            documented,
            {
                name: "none" if default is None else str(default)
                for name, default in defaults.items()
            },
        )

    def test_serverCommand(self) -> None:
        """
        The README's command for the server has only options that exist.
        """
        (command,) = [c for c in commands() if c.startswith("twistd ")]
        words = shlex.split(command)
        at = words.index("creditsync")
        self.assertEqual(words[:at], ["twistd", "--nodaemon", "--pidfile="])
        options = Options()
        options.parseOptions(words[at + 1 :])
        self.assertEqual(options["listen"], ["tcp:8080"])
        self.assertEqual(options["ledger"], "/var/lib/creditsync/ledger.db")

    def test_demoCommand(self) -> None:
        """
        The README's command for the demo works, and leaves nothing behind.
        """
        tree, _ = rendered(README)
        self.assertIn(
            "creditsync demo --once", [text.astext() for text in tree.findall(literal)]
        )
        (command,) = [c for c in commands() if c.endswith("/creditsync demo")]
        words = shlex.split(command.rsplit("&& ", 1)[1])
        with TemporaryDirectory() as folder:
            ended = subprocess.run(
                [sys.executable, "-m", "creditsync", *words[1:], "--once"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            self.assertEqual(os.listdir(folder), [])
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertIn('"status":200', ended.stdout)

    def test_suites(self) -> None:
        """
        Each command of the table in C{docs/reliability.rst} is a module that
        exists.
        """
        tree, _ = rendered(CHECKOUT / "docs" / "reliability.rst")
        suites, _ = tree.findall(tbody)
        names = {row[0].astext().split()[0] for row in suites}
        # More options of a command are in a row of their own.
        names = {name for name in names if not name.startswith("--")}
        self.assertIn("crash.kill", names)
        for name in names:
            self.assertIsNotNone(find_spec(f"tests.{name}"), name)

    def test_guards(self) -> None:
        """
        Each test that C{docs/reliability.rst} names exists.
        """
        text = (CHECKOUT / "docs" / "reliability.rst").read_text("utf-8")
        named = re.findall(r"\btest_\w+|\b[A-Z]\w+Tests\b", text)
        self.assertIn("test_folderNotSynced", named)
        tests = "".join(
            path.read_text("utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py")
        )
        defined = set(re.findall(r"^(?:    def|class) (\w+)", tests, re.MULTILINE))
        self.assertEqual(set(named) - defined, set())

    def test_commandsOfCI(self) -> None:
        """
        There is exactly one command for the tests: C{.ci/run} takes it from here.
        """
        self.assertEqual(
            [c for c in commands() if "pytest" in c],
            [
                "python3 -m venv .venv && .venv/bin/pip install -e '.[test]'"
                " && .venv/bin/python -m pytest"
            ],
        )

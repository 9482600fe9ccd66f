"""
The README is run, and not only written.
"""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from docutils.core import publish_doctree
from docutils.nodes import document, literal, literal_block, table, tbody
from twisted.trial.unittest import SynchronousTestCase

from creditsync import tap
from creditsync.tap import Options

CHECKOUT = Path(__file__).parents[1]
README = CHECKOUT / "README.rst"


def rendered(path: Path) -> tuple[document, str]:
    """
    A document as docutils understands it, and what it complains of.
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
    The blocks of the README that are commands.
    """
    tree, _ = rendered(README)
    blocks = [block.astext() for block in tree.findall(literal_block)]
    return [block for block in blocks if not re.match("[-<]|from ", block)]


class DocumentTests(SynchronousTestCase):
    """
    What people read.
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
        The table has every option of the server with its default, and no
        other.
        """
        tree, _ = rendered(README)
        (options,) = tree.findall(table)
        (body,) = options.findall(tbody)
        documented = {}
        for row in body:
            name, default = (entry.astext() for entry in row[:2])
            documented[name.removeprefix("--")] = default
        # Lists are not among the parameters; what the file of the key and the
        # list of endpoints are by default is decided after the parsing.
        defaults = {
            **{name: default for name, _, default, *_ in Options.optParameters},
            "listen": tap.DEFAULT_LISTEN,
            "web-origin": None,
            "key": tap.DEFAULT_KEY,
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
        The command of the server has options that it takes.
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
        The demo that the README names runs, once.
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

    def test_commandsOfCI(self) -> None:
        """
        C{.ci/run} takes the test command from here; there is exactly one.
        """
        self.assertEqual(
            [c for c in commands() if "pytest" in c],
            [
                "python3 -m venv .venv && .venv/bin/pip install -e '.[test]'"
                " && .venv/bin/python -m pytest"
            ],
        )

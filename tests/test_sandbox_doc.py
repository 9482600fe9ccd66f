"""
Tests that C{docs/sandbox.rst} says what is so.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from docutils.nodes import (
    Element,
    bullet_list,
    literal_block,
    section,
    table,
    tbody,
    title,
)
from twisted.trial.unittest import SynchronousTestCase

from creditsync import pytest_plugin
from creditsync._process.options import Options as ServerOptions
from creditsync._process.sandbox import Options
from creditsync._sandbox.script import Script
from creditsync._sandbox.table import FAULTS, SECRET
from creditsync.sandbox import SandboxProcess
from tests.sandboxed import Platform
from tests.test_readme import CHECKOUT, rendered
from tests.test_tap import InFolder

PAGE = CHECKOUT / "docs" / "sandbox.rst"
TREE, _ = rendered(PAGE)


def under(heading: str) -> Element:
    """
    The section of this title.
    """
    [found] = [
        each
        for each in TREE.findall(section)
        if next(each.findall(title)).astext() == heading
    ]
    return found


def blocks(heading: str | None = None) -> list[str]:
    """
    The literal blocks of a section, or of the page.
    """
    where = TREE if heading is None else under(heading)
    return [each.astext() for each in where.findall(literal_block)]


def commands() -> Iterator[list[str]]:
    """
    The words of each command on the page that runs the sandbox.
    """
    for block in blocks():
        for command in block.replace("\\\n", " ").splitlines():
            words = shlex.split(command) if "sandbox" in command else []
            if words[:2] == ["creditsync", "sandbox"]:
                yield words[2:]
            if words[:2] == ["podman", "run"]:
                yield words[words.index("creditsync-sandbox") + 1 :]


class PageTests(InFolder):
    """
    Tests for the page.
    """

    def test_faults(self) -> None:
        """
        Every fault is there, where it acts, in the order of the table and in its words,
        with the time that it takes.
        """
        expected = []
        for fault in FAULTS:
            seconds = f" ({fault.seconds:g} seconds)".replace("(1 seconds", "(1 second")
            time = seconds if fault.seconds else ""
            help = fault.help.replace("``", "")
            expected.append(f"{fault.name}{time}: {help}")
        written = []
        for listed in under("Faults").findall(bullet_list):
            written += [" ".join(item.astext().split()) for item in listed]
        plain = [re.sub(r"\s+", " ", each) for each in written]
        for said, wanted in zip(plain, expected, strict=True):
            if wanted.startswith("approve-twice"):
                self.assertTrue(said.startswith(wanted), said)
            else:
                self.assertEqual(said, wanted)

    def test_lists(self) -> None:
        """
        The faults of one list act at one place.
        """
        whereOf = {fault.name: fault.where for fault in FAULTS}
        lists = list(under("Faults").findall(bullet_list))
        self.assertEqual(len(lists), 6)
        for listed in lists:
            names = [re.match(r"[\w-]+", item.astext()) for item in listed]
            self.assertEqual(len({whereOf[name[0]] for name in names if name}), 1)

    def test_options(self) -> None:
        """
        The table has the options that the server hasn't, and the text those that only
        the server has.
        """
        (options,) = under("Starting it").findall(table)
        (body,) = options.findall(tbody)
        documented = {row[0].astext().split()[0].removeprefix("--") for row in body}
        ours, theirs = (
            {option.removesuffix("=") for option in made().longOpt}
            for made in (Options, ServerOptions)
        )
        self.assertEqual(documented, ours - theirs)
        text = under("Starting it").astext()
        for name in theirs - ours:
            self.assertIn(f"--{name}", text)

    def test_commands(self) -> None:
        """
        The commands have options that exist.
        """
        found = list(commands())
        self.assertEqual(len(found), 2)
        for words in found:
            Options().parseOptions(words)

    def test_file(self) -> None:
        """
        The file of faults can be read, and has every member there is.
        """
        [text] = [block for block in blocks("Faults") if "[[fault]]" in block]
        Path("faults.toml").write_text(text)
        script = Script()
        script.load(Path("faults.toml"))
        self.assertEqual(
            script.commandOf("MngConfirmFinanceRequest"), "MngApproveFinanceRequest"
        )
        members = {name for each in tomllib.loads(text)["fault"] for name in each}
        self.assertEqual(
            members, {"name", "rate", "after", "times", "commands", "seconds"}
        )

    def test_container(self) -> None:
        """
        The recipe starts the sandbox on the port that it names, and its own commands
        are those of the page.
        """
        text = (CHECKOUT / "deploy" / "Containerfile.sandbox").read_text()
        [entry] = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
        words = json.loads(entry)
        self.assertEqual(words[:2], ["creditsync", "sandbox"])
        options = Options()
        options.parseOptions(words[2:])
        self.assertEqual(options["listen"], ["tcp:8080"])
        self.assertIn("EXPOSE 8080\n", text)
        [build, _] = blocks("In a container")
        comment = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        self.assertIn(" ".join(build.split()), " ".join(comment.split()))

    def test_secret(self) -> None:
        """
        The secret to look for is the one that is sent.
        """
        self.assertIn(SECRET.decode(), under("What is different").astext())

    def test_fixtures(self) -> None:
        """
        The fixtures and the attributes that it names are there.
        """
        text = "\n".join(blocks("In the tests of an integrator"))
        for name in re.findall(
            r"def (creditsync_\w+)|\b(creditsync_sandbox\w*)\b", text
        ):
            self.assertTrue(hasattr(pytest_plugin, "".join(name)), name)
        named = set(
            re.findall(
                r"\bsandbox\.(\w+)", under("In the tests of an integrator").astext()
            )
        )
        python = named - {"js", "stop", "py"}
        self.assertLessEqual(
            {"host", "port", "token", "fault", "faults", "kill"}, python
        )
        with TemporaryDirectory() as folder:
            process = SandboxProcess(folder=folder)
        for name in python:
            self.assertTrue(hasattr(process, name), name)
        javascript = (CHECKOUT / "docs" / "examples" / "sandbox.js").read_text()
        for name in ("startSandbox", "fault(", "stop(", "host", "port", "token"):
            self.assertIn(name, javascript)


class ControlTests(SynchronousTestCase):
    """
    Tests for the example of C{SandboxFault}.
    """

    def test_example(self) -> None:
        """
        The request has that reply.
        """
        [block] = blocks("SandboxFault")
        request, reply = (
            json.loads("".join(line.strip() for line in part.split("\n")))
            for part in re.fullmatch(r"-> (.*)\n<- (.*)", block, re.DOTALL).groups()  # type: ignore[union-attr]
        )
        client = Platform().client()
        self.assertEqual(
            client.ask(request["command"], request["extID"], request["data"], "admin"),
            reply,
        )

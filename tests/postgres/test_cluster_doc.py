"""
Tests for C{docs/cluster.rst}, and for the files of C{deploy/} that it describes: its
statements and commands are executed, and what it quotes is said.
"""

import os
import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg
import pytest
from docutils.nodes import literal, literal_block, row, section, title
from twisted.trial.unittest import SynchronousTestCase

from creditsync._process.options import Options
from creditsync.postgres._starting import RIGHTS
from tests.integration.processes import SERVE, Site
from tests.postgres import ground
from tests.test_deploy import DEPLOY, alerts
from tests.test_imports import PACKAGE
from tests.test_readme import CHECKOUT, rendered

pytestmark = [pytest.mark.proof, pytest.mark.timeout(120)]

TREE, _ = rendered(CHECKOUT / "docs" / "cluster.rst")

HAPROXY: Final = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
needsHAProxy: Final = pytest.mark.skipif(HAPROXY is None, reason="no HAProxy")


def blocks(beginning: str) -> list[str]:
    """
    The blocks of code that begin so.
    """
    found = [each.astext() for each in TREE.findall(literal_block)]
    return [each for each in found if each.startswith(beginning)]


def under(heading: str) -> section:
    """
    The section of this title.
    """
    [found] = [
        each
        for each in TREE.findall(section)
        if next(each.findall(title)).astext() == heading
    ]
    return found


class RightsTests(SynchronousTestCase):
    """
    The statements that make the database.
    """

    def setUp(self) -> None:
        """
        Start a server, as roles are of all of it.
        """
        self.server = ground.start()
        self.addCleanup(self.server.kill)

    def run_(self, user: str, database: str, statements: str) -> None:
        """
        Execute statements as one of the roles.
        """
        dsn = self.server.dsn(database, user=user)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in statements.split(";"):
                if statement.strip():
                    connection.execute(statement.encode())

    def test_roles(self) -> None:
        """
        With the rights that the page grants, a node can book, and nothing more.
        """
        [made] = blocks("CREATE ROLE")
        self.run_(ground.SUPERUSER, "postgres", made)
        place = f"127.0.0.1:{self.server.port}/creditsync"
        site = Site(self.folder())
        self.addCleanup(site.killAll)
        [command] = blocks("creditsync init --ledger")
        words = command.replace("db.example.com/creditsync", place).split()
        self.assertEqual(words[:2], ["creditsync", "init"])
        done = site.run(*SERVE[:-1], *words[1:])
        self.assertEqual(done.returncode, 0, done.stderr)
        node = ["--ledger", f"postgresql://creditsync@{place}", "--node", "node-1"]
        listen = ["--listen", "tcp:0:interface=127.0.0.1"]
        refused = site.run(*SERVE, *listen, *node)
        self.assertIn(" GRANT SELECT", refused.stdout + refused.stderr)
        [granted] = blocks("GRANT SELECT")
        self.run_("creditsync_owner", "creditsync", granted)
        server = site.start(*SERVE, *listen, *node)
        client = server.connect()
        client.send("a", idempotencyKey="k")
        self.assertEqual(next(client.replies())["status"], 200)
        client.close()
        rows = self.server.rows(
            "SELECT table_name, privilege_type FROM information_schema.table_privileges"
            " WHERE grantee = 'creditsync' AND table_schema = 'public'",
            database="creditsync",
        )
        needed = {(name, right) for name, rights in RIGHTS.items() for right in rights}
        self.assertEqual(set(rows), needed)
        [watched] = blocks("SELECT application_name")
        names = {row[0] for row in self.server.rows(watched)}
        self.assertIn("creditsync node-1 writer", names)

    def folder(self) -> Path:
        """
        Make a folder that goes with the test.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def test_synchronous(self) -> None:
        """
        What it says of synchronous replication can be executed.
        """
        [made] = blocks("ALTER SYSTEM")
        self.run_(ground.SUPERUSER, "postgres", made.replace("db2, db3", "a, b"))
        ground.until(
            lambda: (
                self.server.rows("SHOW synchronous_standby_names")
                == [("ANY 1 (a, b)",)]
            )
        )


class QuotationTests(SynchronousTestCase):
    """
    What the page quotes.
    """

    def test_sentences(self) -> None:
        """
        What a start is quoted to say stands in its code.
        """
        paths = [*PACKAGE.glob("postgres/*.py"), *PACKAGE.glob("_process/*.py")]
        code = " ".join(path.read_text("utf-8") for path in paths)
        # Texts are broken over lines.
        code = re.sub(r"\"\s+f?[\"']", "", code)
        rows = list(under("When it does not start").findall(row))[1:]
        self.assertGreater(len(rows), 10)
        for each in rows:
            said = next(each.findall(literal)).astext()
            for part in said.split(" ... "):
                self.assertIn(part, code)

    def test_alerts(self) -> None:
        """
        The alerts that it lists as those of nodes are these.
        """
        named = {each.astext() for each in under("Watch it").findall(literal)}
        ofNodes = re.findall(
            r"- alert: (\w+)\n\s+expr: creditsync_node_",
            (DEPLOY / "alerts.yml").read_text(),
        )
        self.assertEqual({each for each in named if each in alerts()}, set(ofNodes))

    def test_metrics(self) -> None:
        """
        So are the metrics.
        """
        text = (PACKAGE / "_metrics" / "table.py").read_text("utf-8")
        for each in TREE.findall(literal):
            found = re.fullmatch(r"creditsync_(node_\w+?)(_total)?", each.astext())
            if found:
                self.assertIn(f'"{found[1]}"', text)

    def test_compose(self) -> None:
        """
        The script of the servers in containers starts them with options that exist.
        """
        folder = self.folder()
        script = inCompose("    - |", "services:").replace("$$", "$")
        script = re.sub("/run/(?=secrets)|/tmp/", f"{folder}/", script)
        (folder / "secrets").mkdir()
        (folder / "secrets" / "key").write_text("0123456789abcdef" * 4)
        (folder / "secrets" / "password").write_text("the password")
        program = folder / "creditsync"
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        program.chmod(0o755)
        done = subprocess.run(
            ["sh", "-ec", script, "node-1"],
            env={"PATH": f"{folder}:{os.defpath}"},
            capture_output=True,
            text=True,
            check=True,
        )
        command, *arguments = done.stdout.splitlines()
        self.assertEqual(command, "serve")
        options = Options()
        options.parseOptions(arguments)
        self.assertEqual(options["node"], "node-1")
        self.assertEqual(
            (folder / "pgpass").read_text(),
            "postgres:5432:creditsync:creditsync:the password\n",
        )
        self.assertEqual((folder / "pgpass").stat().st_mode & 0o777, 0o600)

    def folder(self) -> Path:
        """
        Make a folder that goes with the test.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)


def inCompose(begin: str, end: str) -> str:
    """
    A text that stands in C{compose.yml} as it is, between two of its lines.
    """
    text = (DEPLOY / "compose.yml").read_text()
    return textwrap.dedent(text.partition(f"{begin}\n")[2].partition(f"\n{end}")[0])


@needsHAProxy
def test_haproxyInCompose(tmp_path: Path) -> None:
    """
    HAProxy can use the configuration that is in C{compose.yml}.
    """
    file = tmp_path / "haproxy.cfg"
    file.write_text(inCompose("    content: |", "secrets:"))
    assert HAPROXY is not None
    subprocess.run([HAPROXY, "-c", "-f", file], check=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """
    A folder for servers, which end with the test.
    """
    site = Site(tmp_path)
    yield site
    site.killAll()


@needsHAProxy
def test_haproxy(site: Site) -> None:
    """
    Behind the HAProxy of the example a client reaches a node that can book, the node
    knows its address, and when the node is killed the client comes to the other one.
    """
    database = ground.database()
    ledger = (
        f"postgresql://{ground.SUPERUSER}@127.0.0.1:{database.server.port}"
        f"/{database.name}"
    )
    config = (DEPLOY / "haproxy.cfg").read_text()
    front = ground.freePort()
    config = config.replace("bind :8443", f"bind 127.0.0.1:{front}")
    servers = {}
    for name, host in (("node-1", "10.0.0.11"), ("node-2", "10.0.0.12")):
        port, web = ground.freePort(), ground.freePort()
        here = f"server {name} 127.0.0.1:{port} check port {web}"
        assert config.count(f"server {name} {host}:8090") == 1
        config = config.replace(f"server {name} {host}:8090", here)
        servers[name] = site.start(
            *(*SERVE, "--ledger", ledger, "--node", name),
            *("--listen", f"tcp:{ground.freePort()}:interface=127.0.0.1"),
            *("--listen", f"haproxy:tcp:{port}:interface=127.0.0.1"),
            *("--web", f"tcp:{web}", "--audit", f"{name}.jsonl"),
        )
    # The checks are quicker here, and descriptors may be few.
    config = config.replace("maxconn 20000", "maxconn 100")
    file = site.folder / "haproxy.cfg"
    file.write_text(config.replace("inter 1s fall 15", "inter 100ms fall 2"))
    assert HAPROXY is not None
    haproxy = subprocess.Popen([HAPROXY, "-f", file], stderr=subprocess.DEVNULL)
    try:
        order: dict[str, Any] = {}
        for extID in ("first", "second"):
            client = _patiently(site, front)
            client.send(extID, idempotencyKey="k", data={**DATA})
            reply = next(client.replies())
            assert reply["status"] == 200
            order[extID] = reply["data"]["order"]
            if extID == "second":
                break

            def trails() -> dict[str, str]:
                return {
                    name: (site.folder / f"{name}.jsonl").read_text()
                    for name in servers
                }

            ground.until(lambda: '"first"' in "".join(trails().values()))
            [chosen] = [name for name, trail in trails().items() if trail]
            peer = f"127.0.0.1:{client.socket.getsockname()[1]}"
            assert peer in trails()[chosen]
            servers[chosen].signal(signal.SIGKILL)
            servers[chosen].end()
            # The session has ended with its node.
            assert list(client.messages()) == []
        assert order["first"] == order["second"]
    finally:
        haproxy.kill()
        haproxy.wait(10)
        site.killAll()
        database.drop()


DATA: Final = {"login": 1001, "amount": 300.0, "comment": "again"}


def _patiently(site: Site, port: int) -> Any:
    """
    Connect through HAProxy as a client that tries again.
    """
    from tests.integration.processes import Client

    found = []

    def answers() -> bool:
        try:
            client = Client(port)
            client.send("up", command="HealthCheck", data={})
            next(client.replies())
        except (OSError, StopIteration):
            return False
        found.append(client)
        return True

    ground.until(answers)
    return found[0]

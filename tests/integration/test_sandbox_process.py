"""
Tests for the sandbox as a process: L{creditsync.sandbox}, L{creditsync.pytest_plugin},
and C{docs/examples/sandbox.js}.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import skipUnless

import pytest
from processes import CHECKOUT
from twisted.trial.unittest import SynchronousTestCase

from creditsync.sandbox import SandboxProcess

pytestmark = pytest.mark.proof

NODE = shutil.which("node")

CREDIT = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}

# A test suite of an integrator.
CONFTEST = """
import pytest

pytest_plugins = ["creditsync.pytest_plugin"]


@pytest.fixture(scope="session")
def creditsync_sandbox_options():
    return ["--seed", "7"]
"""

SUITE = """
import json
import socket


def credit(sandbox):
    line = {
        "command": "CreditIn",
        "extID": "a",
        "__token": sandbox.token(),
        "data": {"login": 1001, "amount": 300.0, "comment": "Promotion credit"},
    }
    with socket.create_connection((sandbox.host, sandbox.port), 10) as connection:
        connection.sendall(json.dumps(line).encode() + b"\\r\\n")
        return json.loads(connection.makefile().readline())


def test_accepted(creditsync_sandbox):
    assert credit(creditsync_sandbox)["data"]["state"] == 10


def test_refused(creditsync_sandbox):
    creditsync_sandbox.fault("refuse-429", times=1)
    assert credit(creditsync_sandbox)["status"] == 429
    assert credit(creditsync_sandbox)["status"] == 200
    creditsync_sandbox.fault("refuse-500")


def test_reset(creditsync_sandbox):
    assert credit(creditsync_sandbox)["status"] == 200
    assert creditsync_sandbox.faults()["refuse-429"] == 1
"""

SCRIPT = """
const assert = require('assert');
const net = require('net');
const { startSandbox } = require(process.argv[2]);

(async () => {
  const sandbox = await startSandbox(['--seed', '7']);
  const data = { login: 1001, amount: 300, comment: 'Promotion credit' };
  const line = { command: 'CreditIn', extID: 'a', __token: sandbox.token, data };
  const credit = () => new Promise((resolve) => {
    const socket = net.connect(sandbox.port, sandbox.host).setEncoding('utf8');
    socket.once('data', (text) => {
      resolve(JSON.parse(text.split('\\r\\n')[0]));
      socket.destroy();
    });
    socket.write(JSON.stringify(line) + '\\r\\n');
  });
  assert.equal((await credit()).data.state, 10);
  await sandbox.fault({ name: 'refuse-429', times: 1 });
  assert.equal((await credit()).status, 429);
  await assert.rejects(sandbox.fault({ name: 'nope' }), /there is no fault nope/);
  await sandbox.stop();
  console.log('done', sandbox.folder);
  await assert.rejects(startSandbox(['--nope']), /does not start[^]*--nope/);
})();
"""


class Connection:
    """
    A connection to a sandbox.
    """

    def __init__(self, sandbox: SandboxProcess) -> None:
        place = sandbox.host, sandbox.port
        self.socket = socket.create_connection(place, 20)
        self.lines = self.socket.makefile("rb")
        self.token = sandbox.token()

    def send(self, command: str, extID: int, data: object) -> None:
        """
        Send a request.
        """
        line = {"command": command, "extID": extID, "__token": self.token}
        self.socket.sendall(json.dumps({**line, "data": data}).encode() + b"\r\n")

    def ask(self, command: str, extID: int, data: object) -> Any:
        """
        Send a request, and wait for its reply.
        """
        self.send(command, extID, data)
        for line in self.lines:
            reply = json.loads(line)
            if isinstance(reply, dict) and reply.get("extID") == extID:
                return reply
        raise AssertionError("no reply")

    def close(self) -> None:
        """
        End it.
        """
        self.lines.close()
        self.socket.close()


class ProcessTests(SynchronousTestCase):
    """
    Tests for L{SandboxProcess}.
    """

    def start(self, *options: str) -> SandboxProcess:
        """
        Start one.
        """
        sandbox = SandboxProcess(options)
        sandbox.__enter__()
        self.addCleanup(sandbox.__exit__, None, None, None)
        return sandbox

    def connect(self, sandbox: SandboxProcess) -> Connection:
        """
        Connect to one.
        """
        connection = Connection(sandbox)
        self.addCleanup(connection.close)
        return connection

    def test_books(self) -> None:
        """
        It has an account, accepts a credit, and books it; a second start finds it.
        """
        sandbox = self.start()
        account = sandbox.ask("GetAccountByLogin", {"login": 1001})
        self.assertEqual((account["group"], account["credit"]), ("real", 0.0))
        reply = self.connect(sandbox).ask("CreditIn", 2, CREDIT)
        self.assertEqual((reply["status"], reply["data"]["state"]), (200, 10))
        sandbox.stop()
        port = sandbox.port
        sandbox.start()
        self.assertEqual(sandbox.port, port)
        found = sandbox.ask("GetTradeByOrder", {"order": reply["data"]["order"]})
        self.assertEqual((found["state"], found["profit"]), (3, 300.0))

    def test_killed(self) -> None:
        """
        What was accepted and not booked is lost when the process is killed.
        """
        sandbox = self.start("--delay", "20")
        order = self.connect(sandbox).ask("CreditIn", 2, CREDIT)["data"]["order"]
        sandbox.kill()
        sandbox.start()
        with self.assertRaises(RuntimeError) as raised:
            sandbox.ask("GetTradeByOrder", {"order": order})
        self.assertIn("TRADE_NOT_FOUND", str(raised.exception))

    def test_crash(self) -> None:
        """
        By a fault it crashes without an end of the process: it closes the connection
        behind the reply, and is there again on the same port and ledger.
        """
        sandbox = self.start("--fault", "lost-tail=1", "--fault", "crash-request=0")
        client = self.connect(sandbox)
        lost = client.ask("CreditIn", 2, CREDIT)["data"]["order"]
        sandbox.fault("crash-accepted", times=1, seconds=0.1, commands=["CreditOut"])
        data = {"login": 1001, "amount": -1, "comment": "x"}
        self.assertEqual(client.ask("CreditOut", 3, data)["status"], 200)
        self.assertEqual([line for line in client.lines if b'"event"' in line], [])
        again = self.whenUp(sandbox)
        self.assertEqual(
            again.ask("GetTradeByOrder", 4, {"order": lost})["error"], "TRADE_NOT_FOUND"
        )
        self.assertEqual(again.ask("CreditIn", 5, CREDIT)["status"], 200)
        self.assertEqual(sandbox.faults()["crash-accepted"], 1)

    def whenUp(self, sandbox: SandboxProcess) -> Connection:
        """
        Connect until it stays open.
        """
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError, ConnectionError):
                connection = self.connect(sandbox)
                connection.ask("HealthCheck", 1, {})
                return connection
            time.sleep(0.05)
        raise AssertionError("it does not come back")

    def test_cut(self) -> None:
        """
        A reply that is cut ends the connection behind its first part.
        """
        sandbox = self.start("--seed", "3")
        sandbox.reset()
        sandbox.fault("cut-reply", commands=["CreditIn"])
        client = self.connect(sandbox)
        client.send("CreditIn", 2, CREDIT)
        sent = client.lines.read()
        self.assertNotIn(b"\n", sent)
        self.assertTrue(b'{"extID":2,"status":200,"data":{"acc'.startswith(sent[:30]))

    def test_command(self) -> None:
        """
        With C{--sync} and without lines in between, the command can talk to it.
        """
        between = [f"--fault={name}=0" for name in ("quotes", "notices", "staff")]
        sandbox = self.start("--sync", *between)
        (sandbox.folder / "token").write_text(sandbox.token())
        (sandbox.folder / "token").chmod(0o600)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "creditsync", "credit-in", "1001", "300", "x"),
                *("--connect", f"{sandbox.host}:{sandbox.port}", "--token", "token"),
            ],
            cwd=sandbox.folder,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        account = sandbox.ask("GetAccountByLogin", {"login": 1001})
        self.assertEqual(account["credit"], 300.0)

    def test_noStart(self) -> None:
        """
        If it does not start, the error has its log.
        """
        with self.assertRaises(RuntimeError) as raised, SandboxProcess(["--nope"]):
            pass
        self.assertIn("option --nope not recognized", str(raised.exception))


class FixtureTests(SynchronousTestCase):
    """
    The fixtures in the suite of an integrator.
    """

    def setUp(self) -> None:
        """
        Make an empty folder.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        path = os.pathsep.join([str(CHECKOUT), *filter(None, sys.path)])
        self.environment = {**os.environ, "PYTHONPATH": path}
        self.environment["CREDITSYNC"] = f"{sys.executable} -m creditsync"

    def test_pytest(self) -> None:
        """
        Tests that use the fixture pass.
        """
        (self.folder / "conftest.py").write_text(CONFTEST)
        (self.folder / "test_it.py").write_text(SUITE)
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        self.assertIn("3 passed", ended.stdout, ended.stdout + ended.stderr)

    @skipUnless(NODE, "no Node")
    def test_node(self) -> None:
        """
        The module for Node starts a sandbox, sets a fault, and leaves nothing behind.
        """
        script = self.folder / "it.js"
        script.write_text(SCRIPT)
        ended = subprocess.run(
            [NODE or "", script, CHECKOUT / "docs" / "examples" / "sandbox.js"],
            cwd=self.folder,
            env={**self.environment, "TMPDIR": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        done, folder = ended.stdout.split()
        self.assertEqual(done, "done")
        self.assertFalse(Path(folder).exists())

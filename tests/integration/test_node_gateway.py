"""
Tests for the example client for Node.js, C{docs/examples/client.js}, in front of a
gateway, as it is: the platform is the sandbox, and whatever that does to a request, a
reply or an event, a credit is booked once.
"""

import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import skipUnless

import pytest
from processes import CHECKOUT, LISTEN, SECRET, SERVE, Completed, Server, Site
from twisted.trial.unittest import SynchronousTestCase

from creditsync.auth import mint
from creditsync.sandbox import SandboxProcess

pytestmark = pytest.mark.proof

CLIENT = CHECKOUT / "docs" / "examples" / "client.js"
NODE = shutil.which("node")

# What the client has to get over by itself, and the commands that it happens to.
FAULTS = (
    ("late-reply", {"seconds": 1.0}),
    ("lose-reply", {}),
    ("odd-reply", {}),
    ("failed-reply", {}),
    ("cut-reply", {}),
    ("overtaken-reply", {}),
    ("double-reply", {}),
    ("lose-event", {}),
    ("double-event", {}),
    ("cut-event", {}),
    ("refuse-429", {}),
)


@skipUnless(NODE, "there is no node on PATH")
class NodeGatewayTests(SynchronousTestCase):
    """
    Tests for C{node client.js} with a gateway.
    """

    way = "one-shot"

    def setUp(self) -> None:
        """
        Start a sandbox and a gateway.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name)
        self.sandbox = SandboxProcess()
        self.sandbox.start()
        self.addCleanup(self.sandbox.kill)
        (path / "token").write_text(self.sandbox.token())
        (path / "profile").write_text("two-phase = true\n")
        (path / "site").mkdir()
        self.site = Site(path / "site")
        self.addCleanup(self.site.killAll)
        self.options = [
            *(f"--upstream=tcp:127.0.0.1:{self.sandbox.port}", "--upstream-token"),
            *(str(path / "token"), f"--upstream-profile={path / 'profile'}"),
            f"--upstream-way={self.way}",
        ]
        self.token = mint(SECRET, id=7, role=1, expires=86400, now=time.time())
        self.gateway: Server = self.site.start(*SERVE, *LISTEN, *self.options)

    def credit(self, key: str) -> Completed:
        """
        Run the client to its end.
        """
        assert NODE is not None
        place = f"127.0.0.1:{self.gateway.port}"
        return self.site.run(
            *(NODE, str(CLIENT), place, self.token, "1001", "300.5", key, key)
        )

    def booked(self) -> list[tuple[int, Any]]:
        """
        What the platform has booked: the order and the comment of each trade.
        """
        where = [["login", "==", 1001]]
        found = self.sandbox.ask(
            "MngGetTradesByFilter", {"tradeType": 4, "where": where}
        )
        names = found["structure"]
        rows = [dict(zip(names, row, strict=True)) for row in found["rows"]]
        return [(row["order"], row["comment"]) for row in rows if row["state"] == 3]

    def test_faults(self) -> None:
        """
        Each fault of the platform leaves the client with the one trade.
        """
        for name, members in FAULTS:
            self.sandbox.reset()
            self.sandbox.fault(name, times=1, **members)
            ended = self.credit(name)
            if name == "refuse-429":
                # A definite no, with which the client ends: its next start goes on.
                self.sandbox.reset()
                ended = self.credit(name)
            assert (ended.returncode, ended.stderr) == (0, ""), (name, ended)
            trade = json.loads(ended.stdout)
            assert trade["comment"] == name
            found = [each for each in self.booked() if each[1] == name]
            assert found == [(trade["order"], name)]

    def test_restarts(self) -> None:
        """
        A gateway that is killed after it has booked answers with the same trade, and
        so does one whose platform was killed.
        """
        first = self.credit("k")
        assert first.returncode == 0, first
        self.gateway.process.kill()
        self.gateway.process.wait()
        self.sandbox.kill()
        self.sandbox.start()
        self.gateway = self.site.start(*SERVE, *LISTEN, *self.options)
        assert self.credit("k").stdout == first.stdout
        assert len(self.booked()) == 1


class NodeTwoPhaseTests(NodeGatewayTests):
    """
    The same with the way of two phases.
    """

    way = "two-phase"

"""
C{creditsync sandbox} as a process: its options, and the service that they stand for.
"""

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from twisted.logger import Logger
from twisted.python import usage

from creditsync._process import signals
from creditsync._process.address import isPostgres
from creditsync._process.composition import creditSync
from creditsync._process.keys import keyPath, makeKey
from creditsync._process.notify import Supervisor
from creditsync._process.options import Options as ServerOptions
from creditsync._process.optiontypes import namingOption, path, seconds
from creditsync._process.server import Server, SupervisedServer
from creditsync._process.settling import settleProcess
from creditsync._sandbox.life import Life
from creditsync._sandbox.script import Script, seedOf
from creditsync._sandbox.service import DELAY, OURS, REQUESTS, Sandbox
from creditsync.service import CreditSync

_log = Logger()

# Options of the server that mean nothing for a platform, and flags that have one value
# for it: there are no keys, and who has made a finance request may approve it.
_NOT_TAKEN: Final = (
    *("audit", "limits", "web", "web-origin", "node"),
    *("upstream", "upstream-token", "upstream-profile", "upstream-way"),
)
_DECIDED: Final = {"idempotent-extid": 0, "self-approval": 1, "upstream-groups": 0}


class Options(ServerOptions):
    """
    The options of the sandbox: those of the server, and what goes wrong.

    Once parsed, they also have C{script}, the L{Script}.
    """

    longdesc = (
        "A trading platform for tests: it accepts first and books later, and goes"
        " wrong on demand. Never use it for money."
    )

    optParameters = [  # noqa: RUF012 - as usage.Options has it
        *(each for each in ServerOptions.optParameters if each[0] not in _NOT_TAKEN),
        [
            "delay",
            None,
            DELAY,
            "Seconds from an operation's being accepted to its being booked.",
            seconds("delay"),
        ],
        [
            "faults",
            None,
            None,
            "A TOML file of faults.",
            path("faults"),
        ],
        [
            "seed",
            None,
            None,
            "The seed of the faults; that of the file by default, or 0.",
        ],
    ]
    optFlags = [  # noqa: RUF012 - as usage.Options has it
        [
            "sync",
            None,
            "Have the Sync commands and GetOperation too, which no platform has.",
        ],
        [
            "no-requests",
            None,
            "Have no finance requests, as older platforms.",
        ],
        *(each for each in ServerOptions.optFlags if each[0] not in _DECIDED),
    ]

    def __init__(self) -> None:
        super().__init__()
        # It has collected those of the base class too.
        for name in (*_NOT_TAKEN, *_DECIDED):
            ending = "" if name in _DECIDED else "="
            self.longOpt = [each for each in self.longOpt if each != name + ending]
            self.synonyms.pop(name)
        self.update({**dict.fromkeys(_NOT_TAKEN), **_DECIDED, "fault": []})
        self.docs["fault"] = (
            "A fault and how often it happens, such as lose-reply=0.1; may be given"
            " several times."
        )

    def opt_fault(self, text: str) -> None:
        """
        Add a fault.

        @raise usage.UsageError: It is not valid.
        """
        name, _, rate = text.partition("=")
        try:
            Script().set(name, float(rate or 1))
        except ValueError as e:
            raise usage.UsageError(f"--fault {text}: {e}") from e
        self["fault"] = [*self["fault"], text]

    def _checkLedger(self) -> None:
        """
        @raise usage.UsageError: C{--ledger} does not name a file.
        """
        if isPostgres(self["ledger"]):
            raise usage.UsageError("--ledger must name a file: a sandbox has its own")

    def postOptions(self) -> None:
        """
        Add what the values stand for.
        """
        super().postOptions()
        file = self["faults"] and Path(self["faults"])
        with namingOption("faults"):
            seed = self["seed"]
            if seed is None and file is not None:
                seed = seedOf(file)
            self["script"] = script = Script(seed or "0")
            if file is not None:
                script.load(file)
        for each in self["fault"]:
            name, _, rate = each.partition("=")
            script.set(name, float(rate or 1))


def makeService(options: Options) -> Server:
    """
    Make the sandbox for a process of its own.
    """
    from twisted.internet import reactor

    signals.prepareServer()
    settleProcess(reactor)
    key = options["secret"] or makeKey(keyPath(options["key"]))
    sandbox = sandboxOf(reactor, options, key)
    sandbox.whenReady().addCallback(lambda _: announce(sandbox.ports))
    reloads = [sandbox.reload]
    files = (options["revocations"], options["keys"])
    reloads += [file.reload for file in files if file is not None]
    return SupervisedServer(reactor, sandbox, Supervisor(reactor), reloads)


def sandboxOf(reactor: Any, options: Options, key: bytes) -> Sandbox:
    """
    Make the sandbox, not yet started.
    """
    # The sandbox has the ports itself, as they outlive its crashes.
    within = copy.copy(options)
    dict.__setitem__(within, "listen", [])

    def make(life: Life) -> CreditSync:
        return creditSync(reactor, within, key, sandbox=life)

    unknown = frozenset() if options["sync"] else OURS
    if options["no-requests"]:
        unknown |= REQUESTS
    return Sandbox(
        reactor,
        make,
        options["script"],
        listen=options["listen"],
        delay=options["delay"],
        unknown=unknown,
    )


def announce(ports: Iterable[Any]) -> None:
    """
    Name the ports in the log, for those who wait for them.
    """
    for port in ports:
        host = port.getHost()
        number = getattr(host, "port", None)
        place = f"port {number}" if number else os.fsdecode(getattr(host, "name", "?"))
        _log.info("The sandbox is ready on {place}.", place=place)

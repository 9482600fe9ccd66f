"""
The undocumented behaviour of Twisted and pyOpenSSL that creditsync relies on,
all in one place. When a new version breaks one of these tests, its docstring
says what in creditsync has to be changed.
"""

import ast
import re
import time
from collections.abc import Iterator
from pathlib import Path

from OpenSSL import SSL
from twisted.application.app import ApplicationRunner
from twisted.application.service import IServiceCollection, MultiService
from twisted.internet.abstract import FileDescriptor
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python import usage
from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel

import creditsync
from creditsync._conversation.waiter import _CALLBACKS

PACKAGE = Path(creditsync.__file__).parent

# The owner of an attribute, its name, and which of our modules uses it for
# what.
RELIED_ON = (
    (
        FileDescriptor(MemoryReactorClock()),
        "dataBuffer",
        "output.py counts the unread bytes of --max-unread by it",
    ),
    (
        FileDescriptor(MemoryReactorClock()),
        "offset",
        "output.py counts the unread bytes of --max-unread by it",
    ),
    (
        FileDescriptor(MemoryReactorClock()),
        "_tempDataLen",
        "output.py counts the unread bytes of --max-unread by it",
    ),
    (
        ProtocolWrapper(WrappingFactory(Factory()), Protocol()),
        "transport",
        "output.py finds the socket below TLS by it",
    ),
    (
        HTTPChannel,
        "forceAbortClient",
        "web/ ends the connections of browsers that don't read, or send too much",
    ),
    (SSL, "_lib", "tls.py finds out by it why a certificate was refused"),
    (SSL, "_ffi", "tls.py finds out by it why a certificate was refused"),
    (
        SSL.Connection(SSL.Context(SSL.TLS_METHOD)),
        "_ssl",
        "tls.py finds out by it why a certificate was refused",
    ),
)

# Private names that creditsync uses from other libraries.
OTHERS = {"_exit"}

_PRIVATE = re.compile("_[^_]")


class Descriptor(FileDescriptor):
    """
    A descriptor that sends so many bytes at a time.
    """

    def __init__(self, leave: int) -> None:
        super().__init__(MemoryReactorClock())
        self.connected = True
        self.leave = leave

    def writeSomeData(self, data: bytes) -> "int | ConnectionLost":
        """
        Send a part of it.
        """
        return min(self.leave, len(data))


def privateNames(source: str) -> Iterator[str]:
    """
    The private attributes that a module uses.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _PRIVATE.match(node.attr):
            yield node.attr


def ownNames(source: str) -> Iterator[str]:
    """
    The names that a module defines for itself.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


class TwistedTests(SynchronousTestCase):
    """
    Tests for Twisted as creditsync knows it.
    """

    def test_attributes(self) -> None:
        """
        All attributes that creditsync relies on exist.
        """
        for owner, name, purpose in RELIED_ON:
            kind = owner if isinstance(owner, type) else type(owner)
            self.assertTrue(
                hasattr(owner, name),
                f"{kind.__name__} has no {name} any more: {purpose}",
            )

    def test_callbacks(self) -> None:
        """
        A Deferred has a list of its callbacks, by which C{waiter.py} fires one without
        callbacks in less time. A callback that is added later runs at once.
        """
        deferred: Deferred[int] = Deferred()
        self.assertEqual(getattr(deferred, _CALLBACKS), [])
        deferred.called, deferred.result = True, 7
        self.assertEqual(self.successResultOf(deferred), 7)
        deferred = Deferred().addCallback(lambda result: result)
        self.assertEqual(len(getattr(deferred, _CALLBACKS)), 1)

    def test_noOthers(self) -> None:
        """
        A private attribute of another library that is used and not listed here
        is reported.
        """
        sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
        own = {name for source in sources for name in ownNames(source)}
        used = {name for source in sources for name in privateNames(source)}
        listed = {name for _, name, _ in RELIED_ON if name.startswith("_")}
        self.assertEqual(used - own - OTHERS, listed)

    def test_unwritten(self) -> None:
        """
        Unsent data is in dataBuffer behind offset, and in _tempDataLen.
        """
        descriptor = Descriptor(leave=30_000)

        def unwritten() -> int:
            buffered = len(descriptor.dataBuffer) - descriptor.offset
            return int(buffered + descriptor._tempDataLen)

        why = "output.py counts the unread bytes of --max-unread in another way"
        descriptor.write(b"x" * 100_000)
        self.assertEqual(unwritten(), 100_000, why)
        descriptor.doWrite()
        self.assertEqual(unwritten(), 70_000, why)
        descriptor.write(b"x" * 5_000)
        self.assertEqual(unwritten(), 75_000, why)
        for _ in range(3):
            descriptor.doWrite()
        self.assertEqual(unwritten(), 0, why)

    def test_pullProducer(self) -> None:
        """
        A pull producer is asked for more data at once, and again when all has
        been sent: protocol.py relies on it to resume.
        """
        asked = []

        class Producer:
            def resumeProducing(self) -> None:
                asked.append(None)

        descriptor = Descriptor(leave=100)
        descriptor.registerProducer(Producer(), False)
        self.assertEqual(len(asked), 1)
        descriptor.write(b"x" * 150)
        descriptor.doWrite()
        self.assertEqual(len(asked), 1)
        descriptor.doWrite()
        self.assertEqual(len(asked), 2)

    def test_seconds(self) -> None:
        """
        A reactor uses its own C{seconds} for the time, even if it was
        replaced: this is how tap.py makes timers independent of the wall
        clock.
        """

        class Reactor(ReactorBase):
            def installWaker(self) -> None:
                pass

        reactor = Reactor()
        now = 1_000.0
        reactor.seconds = lambda: now  # type: ignore[method-assign]
        fired: list[None] = []
        call = reactor.callLater(5, fired.append, None)
        self.assertEqual(
            call.getTime(), 1_005.0, "reactor.seconds can't be replaced any more"
        )
        self.assertNotAlmostEqual(time.time(), now)
        now = 1_004.9
        reactor.runUntilCurrent()
        self.assertEqual(fired, [])
        now = 1_005.0
        reactor.runUntilCurrent()
        self.assertEqual(fired, [None])

    def test_loadedPlugins(self) -> None:
        """
        twistd makes its service from the plugin under the command's name in
        C{loadedPlugins}: C{creditsync serve} puts its own there.
        """
        made = MultiService()

        class Maker:
            tapname = "creditsync"

            def makeService(self, options: object) -> MultiService:
                return made

        class Config(twistd.ServerOptions):  # type: ignore[name-defined,misc]
            subCommands = (("serve", None, usage.Options, ""),)
            loadedPlugins = {"serve": Maker()}  # noqa: RUF012

        config = Config()
        config.parseOptions(["--nodaemon", "--pidfile=", "serve"])
        application = ApplicationRunner(config).createOrGetApplication()
        self.assertEqual(list(IServiceCollection(application)), [made])

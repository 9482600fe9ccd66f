"""
Tests that imports go in one direction, and that dangerous or slow libraries
are used in one place.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import creditsync

PACKAGE = Path(creditsync.__file__).parent

# Modules and packages in layers, from the bottom up. Each imports only from
# the layers below its own, and from no module beside it.
LAYERS: list[set[str]] = [
    {
        "codes",
        "limits",
        "_cursor",
        "_filter",
        "_locking",
        "_watching",
        "_masks",
        "_process.defaults",
        "_process.settling",
        "_process.signals",
    },
    {"errors", "methods"},
    {
        "records",
        "_fields",
        "_patterns",
        "_money",
        "_process.address",
        "_process.starting",
    },
    {"_besides"},
    {"interfaces", "_bookingrules"},
    {"_conversation.waiter", "_foreigngroups"},
    {"revocations", "_keys", "_conversation.rights"},
    {"_jwks"},
    {
        "_accounts",
        "_changes",
        "_ledgerreader",
        "_wire",
        "validation",
        "auth",
        "_timeouts",
        "_conversation.crowds",
        "_conversation.restricted",
        "_conversation.lookupqueue",
        "_process.config",
        "_process.notify",
        "_transport.fairness",
        "_transport.output",
        "_transport.states",
        "_transport.tls",
        "_transport.unixsockets",
        "logs",
        "counters",
    },
    {
        "_conversation.catchups",
        "_conversation.filters",
        "_conversation.plain",
        "_approvals",
        "_rulebook",
        "_conversation.waiters",
        "_auditfile",
        "events",
        "_failing",
        "ledger",
        "_client",
        "_transport.framing",
        "_transport.listening",
        "_process.keys",
        "tally",
    },
    {"_conversation.broadcast", "postgres"},
    {
        "runtime",
        "gateway",
        "audit",
        "client",
        "sandbox",
        "_conversation.commands",
        "_conversation.finance",
        "_conversation.lookups",
        "_conversation.requests",
    },
    {"_conversation.session", "_conversation.passing", "pytest_plugin"},
    {"_conversation.calls"},
    {"_conversation.sessions"},
    {"_transport.protocol"},
    {"_transport.factory"},
    {"service", "testing", "_sandbox.lines"},
    {"_sandbox.table", "_sandbox.foreign", "_sandbox.times"},
    {"_sandbox.script"},
    {"_sandbox.booking", "_sandbox.control"},
    {"_sandbox.life"},
    {"_sandbox.connection"},
    {"_sandbox.service"},
    {"_metrics"},
    {"metrics"},
    {"web"},
    {"_process.optiontypes", "_process.profile"},
    {"_process.options"},
    {"_process.composition", "_process.server"},
    {"tap", "_process.sandbox"},
    {"_cli"},
    {"__main__"},
]

# Third-party and standard libraries, and the only modules that import them.
ONLY_IN: dict[str, set[str]] = {
    "sqlite3": {"ledger"},
    "psycopg": {"postgres"},
    "jsonschema": {"validation"},
    "jsonschema_rs": {"validation"},
    "referencing": {"validation"},
    "jwt": {"auth", "_keys", "_jwks"},
    "cryptography": {"_keys"},
    "OpenSSL": {"_transport.tls", "_client"},
    # Schemas and JWK Sets are JSON too, and people's commands read lines as any client
    # does.
    "json": {"_wire", "_jwks", "validation", "logs", "web", "_cli"},
    # Its JSON is for the wire and for plain lines; the others make records with it.
    "msgspec": {
        "gateway",
        "records",
        "_filter",
        "_wire",
        "_timeouts",
        "_conversation.plain",
        "_sandbox.booking",
        "_changes",
        "ledger",
        "postgres",
        "runtime",
        "testing",
    },
    "pytest": {"pytest_plugin"},
    "prometheus_client": {"metrics", "web"},
    "argparse": {"_cli", "__main__"},
    "signal": {"_process.signals", "_cli"},
    "atexit": {"_process.server"},
    "fcntl": {"_locking", "ledger", "_cli"},
}

_LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def place(name: str) -> str | None:
    """
    The layers' name for a dotted name of this package: a module, or the package
    that it is in.
    """
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in _LAYER_OF:
        parts.pop()
    return ".".join(parts) or None


def modules() -> Iterator[tuple[str, ast.Module]]:
    """
    Each module of the package and its source.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("")
        parts = [part for part in relative.parts if part != "__init__"]
        if parts and "schemas" not in parts:
            yield ".".join(["creditsync", *parts]), ast.parse(path.read_text("utf-8"))


def isForTypes(node: ast.AST) -> bool:
    """
    Whether this statement is C{if TYPE_CHECKING:}.
    """
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST, forTypes: bool = False) -> Iterator[str]:
    """
    The dotted names of all that is imported when this code runs.

    @param forTypes: Also of what is imported for annotations only.
    """
    if isForTypes(node) and not forTypes:
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child, forTypes)


def importsAtImport(node: ast.AST) -> Iterator[str]:
    """
    The dotted names of everything that is imported when the module itself is
    imported.
    """
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from imports(node)
    if not isForTypes(node):
        for child in ast.iter_child_nodes(node):
            yield from importsAtImport(child)


class DirectionTests(SynchronousTestCase):
    """
    Tests for the direction of imports.
    """

    def test_everyModuleHasItsLayer(self) -> None:
        """
        Every module has a layer.
        """
        packages = {"_conversation", "_process", "_sandbox", "_transport"}
        names = {name for name, _ in modules() if name.split(".")[-1] not in packages}
        self.assertEqual({name for name in names if place(name) is None}, set())

    def test_downwards(self) -> None:
        """
        No module imports from its own layer or from one above, not even for
        annotations: two modules that need each other's types are one circle.
        """
        wrong = []
        for name, tree in modules():
            for imported in imports(tree, forTypes=True):
                ours, theirs = place(name), place(imported)
                if not imported.startswith("creditsync.") or theirs in (None, ours):
                    continue
                if ours is None or _LAYER_OF[theirs] >= _LAYER_OF[ours]:
                    wrong.append((name, imported))
        self.assertEqual(wrong, [])

    def test_noRelativeImports(self) -> None:
        """
        Every import is absolute, which the table relies on.
        """
        wrong = [
            name
            for name, tree in modules()
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level
        ]
        self.assertEqual(wrong, [])


class LibraryTests(SynchronousTestCase):
    """
    Tests for which module may import which library.
    """

    def test_onlyInTheirPlaces(self) -> None:
        """
        A library with a place of its own is imported nowhere else.
        """
        wrong = [
            (name, imported)
            for name, tree in modules()
            for imported in imports(tree)
            if place(name) not in ONLY_IN.get(imported.split(".")[0], {place(name)})
        ]
        self.assertEqual(wrong, [])

    def test_reactor(self) -> None:
        """
        Only the command line and the plugin import the global reactor, and
        only when they run: an embedding application chooses its own.
        """
        everywhere = {
            place(name)
            for name, tree in modules()
            if "twisted.internet.reactor" in imports(tree)
        }
        self.assertEqual(
            everywhere - {"tap", "_process.optiontypes", "_process.sandbox"}, set()
        )
        atImport = [
            name
            for name, tree in modules()
            if "twisted.internet.reactor" in importsAtImport(tree)
        ]
        self.assertEqual(atImport, [])

    def test_webOnlyWhereWanted(self) -> None:
        """
        A server without C{--web} does not load the libraries for it.
        """
        code = (
            "import sys, creditsync.tap;"
            "sys.exit(any(name in sys.modules for name in"
            " ('creditsync.metrics', 'creditsync.web', 'prometheus_client',"
            " 'twisted.web.server')))"
        )
        done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
        self.assertEqual(done.returncode, 0)

    def test_reactorIsNotInstalled(self) -> None:
        """
        Importing the service does not install a reactor.
        """
        code = (
            "import sys, creditsync.service, creditsync.tap, creditsync.web._service;"
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
        self.assertEqual(done.returncode, 0)

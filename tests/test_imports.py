"""
Imports run one way, and what is dangerous or slow stands in one room.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import creditsync

PACKAGE = Path(creditsync.__file__).parent

# The rooms, from the ground up. A room imports from those on the floors below
# its own, and from nobody beside it.
FLOORS: list[set[str]] = [
    {"codes", "signals", "locking"},
    {"errors", "methods"},
    {"interfaces"},
    {"records", "patterns"},
    {"revocations"},
    {
        "wire",
        "validation",
        "auth",
        "timeouts",
        "turns",
        "tls",
        "config",
        "logs",
        "notify",
        "unixsockets",
        "tally",
    },
    {"waiters", "events", "failing", "ledger", "client", "listening"},
    {"runtime", "finance", "commands"},
    {"session", "audit"},
    {"protocol"},
    {"service", "testing"},
    {"metrics"},
    {"web"},
    {"tap"},
    {"cli"},
    {"__main__"},
]

# Third-party and standard libraries, and the rooms that may import them.
ONLY_IN: dict[str, set[str]] = {
    "sqlite3": {"ledger"},
    "psycopg": {"ledger"},
    "jsonschema": {"validation"},
    "jsonschema_rs": {"validation"},
    "fastjsonschema": {"validation"},
    "referencing": {"validation"},
    "jwt": {"auth"},
    "cryptography": {"auth"},
    "OpenSSL": {"tls"},
    # The schemas and SQLite's parameter are JSON too, and people's commands
    # read lines as any client does.
    "json": {"wire", "validation", "audit", "logs", "web", "cli"},
    # It is JSON in two of these, and makes records in all.
    "msgspec": {"records", "wire", "ledger", "waiters", "runtime", "testing"},
    "orjson": {"wire"},
    "prometheus_client": {"metrics", "web"},
    "argparse": {"cli", "__main__"},
    "signal": {"signals", "cli"},
    "atexit": {"tap"},
    "fcntl": {"locking", "ledger", "cli"},
}


def room(name: str) -> str:
    """
    The room of a dotted module name of ours.
    """
    return name.split(".")[1]


def modules() -> Iterator[tuple[str, ast.Module]]:
    """
    Each module of the package and what it says.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("")
        parts = [part for part in relative.parts if part != "__init__"]
        if parts and "schemas" not in parts:
            yield ".".join(["creditsync", *parts]), ast.parse(path.read_text("utf-8"))


def isForTypes(node: ast.AST) -> bool:
    """
    Whether this is C{if TYPE_CHECKING:}.
    """
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST) -> Iterator[str]:
    """
    The dotted names of all that is imported when this code runs.
    """
    if isForTypes(node):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def importsAtImport(node: ast.AST) -> Iterator[str]:
    """
    The same, of what runs as soon as the module itself is imported.
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
    Which room knows which.
    """

    def test_everyRoomHasItsFloor(self) -> None:
        """
        A new room is put on a floor before anything else.
        """
        known = set().union(*FLOORS)
        self.assertEqual({room(name) for name, _ in modules()} - known, set())

    def test_downwards(self) -> None:
        """
        No room imports from its own floor or from one above.
        """
        floorOf = {name: n for n, floor in enumerate(FLOORS) for name in floor}
        wrong = []
        for name, tree in modules():
            for imported in imports(tree):
                top, _, rest = imported.partition(".")
                # What isn't a room is an attribute of the package itself.
                if top != "creditsync" or rest.split(".")[0] not in floorOf:
                    continue
                if room(imported) == room(name):
                    continue
                if floorOf[room(imported)] >= floorOf[room(name)]:
                    wrong.append((name, imported))
        self.assertEqual(wrong, [])

    def test_noRelativeImports(self) -> None:
        """
        Every import says in full what it takes, which the table relies on.
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
    Which room knows which library.
    """

    def test_onlyInTheirRooms(self) -> None:
        """
        A library that has its room is imported nowhere else.
        """
        wrong = [
            (name, imported)
            for name, tree in modules()
            for imported in imports(tree)
            if room(name) not in ONLY_IN.get(imported.split(".")[0], {room(name)})
        ]
        self.assertEqual(wrong, [])

    def test_reactor(self) -> None:
        """
        The global reactor is imported by the faces alone, and only when they
        run: who embeds us chooses the reactor.
        """
        everywhere = {
            room(name)
            for name, tree in modules()
            if "twisted.internet.reactor" in imports(tree)
        }
        self.assertEqual(everywhere - {"tap", "__main__"}, set())
        atImport = [
            name
            for name, tree in modules()
            if "twisted.internet.reactor" in importsAtImport(tree)
        ]
        self.assertEqual(atImport, [])

    def test_webOnlyWhereWanted(self) -> None:
        """
        A server without C{--web} does not load what that needs.
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
        Importing the service leaves the choice of the reactor open, whatever
        the libraries below do.
        """
        code = (
            "import sys, creditsync.service, creditsync.tap, creditsync.web.service;"
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
        self.assertEqual(done.returncode, 0)

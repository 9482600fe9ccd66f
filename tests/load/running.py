"""
Shared by the commands of this package: a server in a temporary folder, its
memory, and the last line.
"""

import os
import shutil
import sqlite3
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.figures import percentile
from tests.figures import Figures
from tests.integration.processes import LISTEN, SERVE, Server, Site

MIB: Final = 1024 * 1024


def parser(command: str, description: str | None) -> ArgumentParser:
    """
    The command line of C{python -m tests.load.COMMAND}, without its sizes.
    """
    made = ArgumentParser(
        f"python -m tests.load.{command}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
    made.add_argument("--plant", metavar="NAME", help="plant this bug in the server")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


@contextmanager
def site() -> Iterator[Site]:
    """
    A folder for servers that is removed afterwards.
    """
    folder = Path(tempfile.mkdtemp(prefix="creditsync-load-"))
    site = Site(folder)
    try:
        yield site
    finally:
        site.killAll()
        shutil.rmtree(folder, ignore_errors=True)


def start(site: Site, plant: str | None, *options: str) -> Server:
    """
    Start a server, with a planted bug if one is named.
    """
    planted = [sys.executable, "-m", "tests.planted.server", plant or ""]
    return site.start(*(planted if plant else SERVE), *LISTEN, *options)


def rows(site: Site) -> list[tuple[int, str]]:
    """
    Order and comment of each trade in the ledger.
    """
    with closing(sqlite3.connect(f"file:{site.ledger}?mode=ro", uri=True)) as ledger:
        return ledger.execute('SELECT "order", comment FROM trade').fetchall()


def unsound(site: Site) -> list[str]:
    """
    The problems that C{creditsync check} finds.
    """
    check = [sys.executable, "-m", "creditsync", "check", "--ledger", str(site.ledger)]
    done = site.run(*check)
    return [] if done.returncode == 0 else [f"creditsync check: {done.stdout}"]


def memory(server: Server, what: str = "VmRSS") -> int:
    """
    The resident memory of a server in bytes, C{VmHWM} for its peak.
    """
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    for line in status.splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the server has ended")


def busy(server: Server) -> float:
    """
    The seconds of processor time that a server has used.
    """
    # After the command's name, which may have spaces in it.
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2]
    user, system = map(int, fields.split()[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def conclude(options: Namespace, figures: Figures, problems: Sequence[str]) -> None:
    """
    Print the measurements and the verdict, and exit with its status.
    """
    figures.show(options.json)
    for problem in problems[:10]:
        print(f"  {problem}")
    if problems:
        print(f"VIOLATION: {len(problems)} found, the first: {problems[0]}")
        sys.exit(1)
    print(f"sound: {figures['checked']}")


def addLatency(figures: Figures, name: str, ordered: Sequence[float]) -> None:
    """
    Add p50, p99 and the maximum of these seconds, in milliseconds.
    """
    if ordered:
        for percent, label in ((50, "p50"), (99, "p99"), (100, "max")):
            value = percentile(ordered, percent) * 1000
            figures[f"{name} {label} ms"] = round(value, 1)

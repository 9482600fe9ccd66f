"""
C{creditsync serve} on a L{Disk<tests.crash.disk.Disk>}, with a log of all that
the disk was asked to do, and of every byte that came over a socket or went out:

    python -m tests.crash.recording LOG BUG DEATH [options of creditsync serve]

BUG is a planted bug, or none. DEATH is none, or FILE:N, for a process that kills
itself at the n-th write to that file, before it is done. The ledger has to be in
a folder of its own. So that a short run has it all, the WAL is emptied into the
database, and order numbers are reserved, more often than usual.
"""

import os
import pickle
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from creditsync._cli import serve
from creditsync._transport.output import Output
from creditsync._transport.protocol import LineProtocol
from creditsync.ledger import sqlite
from tests.crash.disk import Disk
from tests.crash.platter import SYNC, WRITE, Call
from tests.planted.bugs import plant

# Pages in the WAL after which it is checkpointed.
_CHECKPOINT: Final = 40
# Order numbers reserved at a time; usually 100,000.
_BLOCK: Final = 64

# Seconds that a sync takes: more than the shortest timeout of the run.
_SYNC: Final = 0.002

# The kinds of entries in the log.
FILES: Final = "files"
CALL: Final = "call"
HEARD: Final = "heard"
SAID: Final = "said"


def entries(log: Path) -> Iterator[tuple[str, Any]]:
    """
    The entries of a log: at the start of each process the files as they are;
    each L{Call}; and what each connection sent and received, with its number.
    """
    with log.open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return


class _Log:
    """
    The log of one process.

    @ivar death: After how many more writes to which file the process kills
        itself.
    """

    def __init__(self, path: str, death: str) -> None:
        # Unbuffered: an entry is there once it is made.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - to the end
        self._deadly, _, number = death.partition(":")
        self._left = int(number or 0)

    def add(self, kind: str, what: Any) -> None:
        self._file.write(pickle.dumps((kind, what), pickle.HIGHEST_PROTOCOL))

    def before(self, call: Call) -> None:
        """
        A L{Disk.fault} that is slow, and kills.
        """
        if call.kind == SYNC:
            time.sleep(_SYNC)
        if call.kind == WRITE and call.name == self._deadly:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    def listen(self) -> None:
        """
        Record what goes over sockets from now on, before anything else sees
        it.
        """
        write, dataReceived = Output._write, LineProtocol.dataReceived

        def said(output: Any, data: bytes) -> None:
            self.add(SAID, (os.getpid(), output.transport.sessionno, data))
            write(output, data)

        def heard(protocol: Any, data: bytes) -> None:
            self.add(HEARD, (os.getpid(), protocol.transport.sessionno, data))
            dataReceived(protocol, data)

        Output._write = said  # type: ignore[method-assign]
        LineProtocol.dataReceived = heard  # type: ignore[method-assign]


def hurry(pages: int) -> None:
    """
    Checkpoint the WAL after so many pages, usually 1000, and reserve order
    numbers more often.
    """
    connect = sqlite.connectWriter

    def connectAndHurry(path: str) -> sqlite3.Connection:
        writer = connect(path)
        writer.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        return writer

    sqlite.connectWriter = connectAndHurry
    sqlite.BLOCK = _BLOCK  # type: ignore[misc]


def main(path: str, bug: str, death: str, *options: str) -> None:
    """
    Serve, and record it.
    """
    plant(None if bug == "none" else bug)
    hurry(_CHECKPOINT)
    disk = Disk(Path(options[options.index("--ledger") + 1]).parent)
    log = _Log(path, death)
    log.add(FILES, disk.written())
    log.listen()
    disk.watch = partial(log.add, CALL)
    disk.fault = log.before
    disk.install()
    serve.run(options)


if __name__ == "__main__":
    main(*sys.argv[1:])

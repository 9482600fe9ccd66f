"""
Moments at which a server is killed from outside.

Each is one life: start, drive until so many operations are acknowledged, kill
at some moment, check.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from creditsync.ledger._opening import connectReader
from tests.crash.driver import Trial, prove
from tests.crash.record import Violation
from tests.family import ADD
from tests.integration.processes import SERVE


def underLoad(trial: Trial, count: int) -> None:
    """
    Kill at any moment, after so many acknowledgements.
    """
    trial.start()
    trial.driveUntilAcknowledged(count)
    trial.driveUntilFollowed()
    # Without reading: the server's output meanwhile is read when it is dead.
    time.sleep(trial.random.uniform(0, 0.003))
    trial.kill()


def duringStart(trial: Trial, _: int) -> None:
    """
    Kill at any moment between the fork and the first acknowledgement.
    """
    trial.start()
    usual = sorted(trial.restarts[-9:])[len(trial.restarts[-9:]) // 2]
    trial.driveFor(trial.random.uniform(0, usual))
    trial.kill()


def atFirstAcknowledgement(trial: Trial, _: int) -> None:
    """
    Kill as soon as one operation is acknowledged.
    """
    trial.start()
    trial.driveUntilAcknowledged(1)
    trial.kill()


def duringStop(trial: Trial, count: int) -> None:
    """
    Kill a server that is stopping.
    """
    trial.start()
    trial.driveUntilAcknowledged(count)
    trial.process.send_signal(signal.SIGTERM)
    trial.driveFor(trial.random.uniform(0, 0.35), pause=0.02)
    trial.process.kill()
    # It may have ended just before.
    trial.bury(signal.SIGKILL, signal.SIGTERM)


def whileCommitWaits(trial: Trial, count: int) -> None:
    """
    Kill a server whose commit waits until its clients have received 504.
    """
    trial.start(timeout=0.2)
    trial.driveUntilAcknowledged(count)
    told = trial.record.unknown
    # While this one reads, the other is not the last to close the ledger and
    # does not checkpoint the server's WAL file.
    with (
        closing(connectReader(str(trial.site.ledger))) as reader,
        closing(trial.site.holdLedger()),
    ):
        reader.execute("SELECT 1 FROM trade").fetchone()
        trial.drive(lambda: trial.record.unknown > told + 10, 2)
        trial.kill()


def duringBackup(trial: Trial, count: int) -> None:
    """
    Kill a server whose ledger is being copied; the copy is complete or
    missing.
    """
    trial.start()
    trial.driveUntilAcknowledged(count)
    orders = [a.order for a in trial.record.asked if a.type == ADD and a.answer]
    copy = trial.folder / "copy.db"
    with (trial.folder / "backup").open("w") as output:
        backup = subprocess.Popen(
            [*SERVE[:-1], "backup", "--force", copy.name],
            cwd=trial.folder,
            env=trial.site.environment,
            stdout=output,
            stderr=output,
        )
    trial.driveFor(trial.random.uniform(0.2, 0.8), pause=0.03)
    trial.kill()
    if backup.wait(30) != 0:
        said = (trial.folder / "backup").read_text()
        raise Violation(f"a copy failed because the server was killed: {said}")
    with closing(connectReader(str(copy))) as ledger:
        prove(ledger)
        rows = ledger.execute('SELECT "order" FROM trade')
        missing = set(orders).difference(order for (order,) in rows)
    if missing:
        raise Violation(f"a copy lacks order {min(missing)}, acknowledged before it")


# Their names, and the weight of each.
MOMENTS: Final[dict[Callable[[Trial, int], None], tuple[str, int]]] = {
    underLoad: ("under load", 12),
    atFirstAcknowledgement: ("at the first acknowledgement", 3),
    whileCommitWaits: ("while a commit waits", 1),
    duringStop: ("during a stop", 4),
    duringStart: ("during a start", 4),
    duringBackup: ("during a backup", 1),
}

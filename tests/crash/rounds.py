"""
Self-kills at each of the L{points<tests.crash.points>}, and what is checked
after each.

A round goes through all of them. After the kill the record is held against the
ledger, and the next life, on the same ledger, has to answer what the killed one
has not, with the data that it booked. A point that is not reached is a
violation: it would prove nothing.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from creditsync.ledger._opening import connectReader
from tests.crash.driver import Trial, prove
from tests.crash.points import COPYING, LOAD, NEW, REOPENED, STOPPING, Point
from tests.crash.record import Violation
from tests.integration.processes import SERVE


def hit(trial: Trial, point: Point) -> None:
    """
    Have the process die at a point, and check what it left.

    @raise Violation: It did not pass there, or left something wrong.
    """
    nth = trial.random.randint(point.first, point.last)
    launcher = (sys.executable, "-m", "tests.crash.points", point.name, str(nth))
    try:
        _WAYS[point.during](trial, launcher)
    except Violation as e:
        raise Violation(f"{point.name}, passing it for time {nth}: {e}") from e


def _killItself(trial: Trial, launcher: tuple[str, ...]) -> None:
    trial.start(*launcher, "serve")
    trial.driveFor(60)
    _die(trial)


def _die(trial: Trial) -> None:
    if trial.process.poll() != -signal.SIGKILL:
        raise Violation(f"it was not reached: {trial.complaint()}")
    trial.bury(signal.SIGKILL)


def _stop(trial: Trial, launcher: tuple[str, ...]) -> None:
    trial.start(*launcher, "serve")
    trial.driveUntilAcknowledged(20)
    trial.process.terminate()
    trial.driveFor(20, pause=0.02)
    _die(trial)


def _copy(trial: Trial, launcher: tuple[str, ...]) -> None:
    trial.start()
    trial.driveUntilAcknowledged(20)
    copy = trial.folder / "copy.db"
    copy.unlink(missing_ok=True)
    backup = ["backup", "--force", copy.name]
    status = _run(trial, *launcher, *backup)
    if status != -signal.SIGKILL:
        said = _said(trial).read_text()
        raise Violation(f"it was not reached: the copy ended with {status}: {said}")
    if copy.exists():
        _proveCopy(trial)
    trial.driveUntilAcknowledged(20)
    if _run(trial, *SERVE[:-1], *backup) != 0:
        raise Violation(f"after it no copy can be made: {_said(trial).read_text()}")
    _proveCopy(trial)
    trial.kill()


def _run(trial: Trial, *command: str) -> int:
    """
    Run a command while the server works.

    @return: Its status.
    """
    with (
        _said(trial).open("w") as output,
        subprocess.Popen(
            command,
            cwd=trial.folder,
            env=trial.site.environment,
            stdout=output,
            stderr=output,
        ) as running,
    ):
        trial.drive(lambda: running.poll() is not None, pause=0.03)
        return running.wait(20)


def _said(trial: Trial) -> Path:
    """
    The output of the last command.
    """
    return trial.folder / "said"


def _proveCopy(trial: Trial) -> None:
    with closing(connectReader(str(trial.folder / "copy.db"))) as copy:
        prove(copy)


_WAYS: Final[dict[str, Callable[[Trial, tuple[str, ...]], None]]] = {
    LOAD: _killItself,
    NEW: _killItself,
    REOPENED: _killItself,
    STOPPING: _stop,
    COPYING: _copy,
}

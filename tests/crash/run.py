"""
A real run of the server, recorded: its calls to the disk, and what it had
received and sent by each moment.

A real server gets operations of all finance methods, in several lives: on a
new ledger, stopped and started again, killed in the middle of a commit and of
a checkpoint, and with timeouts so short that some replies are 504.
"""

import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from json import loads
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import define, evolve

from creditsync.auth import mint
from tests.crash.asked import PRINCIPAL
from tests.crash.dialogue import Booking, Dialogue, orderIn
from tests.crash.platter import Call, Platter
from tests.crash.record import Violation
from tests.crash.recording import CALL, FILES, HEARD, entries
from tests.integration.processes import LISTEN, SECRET, Client, Server, Site

LEDGER: Final = "creditsync.db"

# Operations sent at once, and how many may still be pending then.
_BATCHES: Final = (1, 1, 1, 2, 3, 12)
_OUTSTANDING: Final = 4

# The status of a process that was stopped, and of one that was killed.
_ENDS: Final = (-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGKILL)


@define
class Point:
    """
    A moment of the run: the calls to the disk by then, and what the ledger
    must have.

    @ivar calls: How many calls were done.
    @ivar fewest: How many operations were acknowledged.
    @ivar most: How many were requested.
    @ivar last: The highest order number that was sent.
    """

    calls: int
    fewest: int = 0
    most: int = 0
    last: int = 0


@define
class Run:
    """
    A recorded run.

    @ivar booked: The operations that were booked, in their order.
    @ivar unknown: How many replies were 504.
    """

    calls: list[Call]
    points: list[Point]
    booked: list[Booking]
    unknown: int


def record(folder: Path, operations: int, seed: int, bug: str | None) -> Run:
    """
    Have a server do so many operations, and record it.
    """
    site = Site(folder)
    (folder / "ledger").mkdir()
    log = folder / "log"
    token = mint(SECRET, id=PRINCIPAL, role=1, expires=86400, now=time.time())
    dialogue = Dialogue(token, Random(seed))
    some = operations // 4
    lives = (
        ("none", 5.0),
        (f"{LEDGER}-wal:{some}", 5.0),
        (f"{LEDGER}:{some // 4}", 5.0),
        ("none", 0.0005),
    )
    command = [sys.executable, "-m", "tests.crash.recording", str(log), bug or "none"]
    options = [*LISTEN, "--ledger", f"ledger/{LEDGER}"]
    try:
        for death, timeout in lives:
            dialogue.isCareful = death != "none"
            server = _start(site, *command, death, *options, "--timeout", str(timeout))
            _talk(dialogue, server.connect(), some)
            server.signal(signal.SIGTERM)
            if server.end() not in _ENDS:
                raise Violation(f"the server ended by itself: {_complaint(server)}")
    finally:
        site.killAll()
    return _analysed(log, dialogue, folder / "ledger")


def _start(site: Site, *command: str) -> Server:
    """
    @raise Violation: The server ends at once.
    """
    try:
        return site.start(*command)
    except (AssertionError, ConnectionError, StopIteration) as e:
        server = site.started[-1]
        # A slow start breaks no promise.
        if server.process.poll() is None:
            raise
        raise Violation(f"the server does not start: {_complaint(server)}") from e


def _complaint(server: Server) -> str:
    """
    Its last line of output.
    """
    return server.errors.read_text().strip().rpartition("\n")[2]


def _talk(dialogue: Dialogue, client: Client, operations: int) -> None:
    """
    Send so many operations, and receive all replies, until the server dies.
    """
    end = len(dialogue.asked) + operations
    lines = dialogue.askAgain() or dialogue.ask(1)
    isAlive = True
    while isAlive and lines:
        most = dialogue.random.randrange(_OUTSTANDING)
        isEnough = partial(_isAtMost, dialogue, most)
        isAlive = _say(client, lines) and _hear(dialogue, client, isEnough)
        size = dialogue.random.choice(_BATCHES)
        lines = dialogue.ask(min(size, end - len(dialogue.asked))) if isAlive else b""
    _hear(dialogue, client, lambda: dialogue.isQuiet)
    client.close()


def _isAtMost(dialogue: Dialogue, most: int) -> bool:
    return dialogue.waiting <= most


def _say(client: Client, lines: bytes) -> bool:
    """
    @return: Whether the server is alive.
    """
    try:
        client.socket.sendall(lines)
    except ConnectionError:
        return False
    return True


def _hear(dialogue: Dialogue, client: Client, isEnough: Callable[[], bool]) -> bool:
    """
    @return: As L{_say}.
    @raise Violation: The server is silent.
    """
    messages = client.messages()
    while not isEnough():
        try:
            message = next(messages, None)
        except TimeoutError as e:
            raise Violation("there is no answer") from e
        if message is None:
            return False
        dialogue.take(message)
    return True


def _analysed(log: Path, dialogue: Dialogue, folder: Path) -> Run:
    """
    Parse a log.

    @raise Violation: The log lacks a line that was received, or the disk has
        missed a change of the files.
    """
    unknown = sum(each.status == 504 for each in dialogue.asked)
    run = Run([], [Point(0)], dialogue.booked(), unknown)
    numbers = {asked: number for number, asked in enumerate(run.booked, 1)}
    platter = Platter({})
    rests: defaultdict[tuple[Any, ...], bytes] = defaultdict(bytes)
    for kind, what in entries(log):
        point = evolve(run.points[-1])
        if kind == FILES:
            _checkFiles(platter, what)
        elif kind == CALL:
            platter.do(what)
            run.calls.append(what)
            point.calls += 1
        else:
            *connection, data = what
            whose = (kind, *connection)
            *lines, rests[whose] = (rests[whose] + data).split(b"\n")
            for message in map(loads, filter(None, lines)):
                asked = dialogue.about(message)
                number = 0 if asked is None else numbers.get(asked, 0)
                _learn(point, kind, message, number)
        run.points.append(point)
    heard = [numbers[each] for each in run.booked if each.status == 200]
    if run.points[-1].fewest < max(heard):
        raise Violation("the log does not have all that was said")
    _checkFiles(platter, {p.name: p.read_bytes() for p in folder.glob("*.db*")})
    return run


def _checkFiles(platter: Platter, files: dict[str, bytes]) -> None:
    files = {n: data for n, data in files.items() if not n.endswith((".lock", "-shm"))}
    if files != platter.written():
        raise Violation("the files are not what was written to them")


def _learn(point: Point, kind: str, message: dict[str, Any], number: int) -> None:
    """
    Add a line that was received or sent.
    """
    if kind == HEARD:
        point.most = max(point.most, number)
        return
    point.last = max(point.last, orderIn(message))
    if message.get("status", 200) == 200:
        point.fewest = max(point.fewest, number)

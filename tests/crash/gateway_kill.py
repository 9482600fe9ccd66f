"""
kill -9 of a real gateway and of a real sandbox behind it.

    python -m tests.crash.gateway_kill [--kills N] [--way WAY] [--postgres]

A client has credits under way, each under a key and most for accounts of their own. The
gateway is killed at any moment and at named points of its code
(L{tests.crash.gateway_points}), the sandbox at any moment, and each is started again on
its ledger. What had no final answer is sent again. In the end both ledgers are held
against what the client was told: no key has booked twice; each 200 is booked, as it was
told; what was refused is not; each booking is in the gateway's journal, once; and what
is not settled is not booked.

With C{--postgres} the gateway has its log there. Then PostgreSQL is killed under it,
too, its connections are ended, and a second gateway takes over from one that is stopped
for a while and finds out only when it goes on.
"""

import json
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define

from creditsync.auth import mint
from creditsync.postgres._checking import findings
from creditsync.postgres._reading import reading
from creditsync.sandbox import SandboxProcess
from tests.crash.gateway_points import POINTS, POSTGRES, TWO_PHASE
from tests.crash.record import Violation
from tests.figures import Figures
from tests.integration.processes import LISTEN, SECRET, SERVE, Server, Site
from tests.planted.bugs import BUGS
from tests.postgres import ground

WAYS: Final = ("one-shot", "two-phase")

# Requests that are under way together.
AT_ONCE: Final = 12
# Seconds that a process has to reach a point, and in which all is settled in the end
# that can be.
PATIENCE: Final = 40.0
END: Final = 20.0

# How often a request is sent again before the end.
_TRIES: Final = 15

_REFUSED: Final = (400, 403, 404, 409)


@define(eq=False)
class Credit:
    """
    A credit that the client wants.

    @ivar due: When it is sent again, if it has no final answer.
    @ivar told: The data of its 200, or L{None}.
    """

    number: int
    login: int
    amount: int
    tries: int = 0
    due: float = 0.0
    told: dict[str, Any] | None = None
    refusal: int = 0
    last: int = 0

    @property
    def isOver(self) -> bool:
        """
        Whether it has a final answer.
        """
        return self.told is not None or self.refusal != 0


class Client:
    """
    The client, over all lives of the gateway.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.credits: dict[int, Credit] = {}
        self.token = mint(SECRET, id=7, role=1, expires=86_400, now=time.time())
        self._socket: socket.socket | None = None
        self._input = b""
        self._asked: dict[str, Credit] = {}
        self._ids = 0
        self.isEnding = False
        self.statuses: Counter[int] = Counter()

    def connect(self, port: int) -> None:
        """
        Connect. What has no final answer is sent again.
        """
        self.close()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._socket.settimeout(0.02)
        for credit in self.credits.values():
            credit.due = 0.0

    def close(self) -> None:
        """
        Lose the connection.
        """
        if self._socket is not None:
            self._socket.close()
        self._socket, self._input = None, b""
        self._asked.clear()

    def work(self, seconds: float) -> None:
        """
        Send and receive for so long, or until the connection is lost.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._socket is not None:
            self._sendMore()
            self._receive()
            if self.isEnding and not self.open():
                return

    def open(self) -> list[Credit]:
        """
        What has no final answer.
        """
        return [each for each in self.credits.values() if not each.isOver]

    def _sendMore(self) -> None:
        now, asked = time.monotonic(), set(map(id, self._asked.values()))
        # What may never be settled is left for the end.
        waiting = [each for each in self.open() if self.isEnding or each.tries < _TRIES]
        for credit in waiting:
            if credit.due <= now and id(credit) not in asked:
                # In the end hundreds may be left that are never settled.
                if len(self._asked) >= AT_ONCE and not self.isEnding:
                    return
                self._send(credit)
        while not self.isEnding and len(waiting) < 2 * AT_ONCE:
            number = len(self.credits) + 1
            # Few share an account, as one that is unknown blocks it.
            login = 1000 + number - number % 2 * (number % 3 == 0)
            credit = Credit(number, login, self.random.randrange(1, 1000))
            self.credits[number] = credit
            waiting.append(credit)
            if len(self._asked) < AT_ONCE:
                self._send(credit)

    def _send(self, credit: Credit) -> None:
        if self._socket is None:
            return
        self._ids += 1
        extID = f"e{self._ids}"
        self._asked[extID] = credit
        credit.tries += 1
        line = {
            "command": "CreditInSync",
            "extID": extID,
            "__token": self.token,
            "idempotencyKey": f"k{credit.number}",
            "data": {
                "login": credit.login,
                "amount": credit.amount,
                "comment": f"c{credit.number}",
            },
        }
        try:
            self._socket.sendall(json.dumps(line).encode() + b"\r\n")
        except OSError:
            self.close()

    def _receive(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._input = (self._input + data).split(b"\r\n")
        for line in lines:
            self._heard(json.loads(line))

    def _heard(self, line: dict[str, Any]) -> None:
        credit = self._asked.pop(line.get("extID", ""), None)
        if credit is None:
            return
        credit.last = status = line["status"]
        self.statuses[status] += 1
        if status == 200:
            credit.told = line["data"]
        elif status in _REFUSED:
            credit.refusal = status
        credit.due = time.monotonic() + 0.3


@define
class Outcome:
    """
    The outcome for one pair of ledgers.
    """

    violation: str | None = None
    counts: Counter[str] = Factory(Counter)


class Trial:
    """
    One gateway in front of one sandbox.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        way: str,
        command: Sequence[str],
        database: ground.Database | None = None,
    ):
        self.database = database
        self.random = random.Random(seed)
        self.way = way
        self.command = list(command)
        self.counts: Counter[str] = Counter()
        (folder / "sandbox").mkdir(parents=True)
        options = ["--delay", "0.02", "--seed", str(seed)]
        self.sandbox = SandboxProcess(options, folder / "sandbox")
        self.sandbox.start()
        (folder / "gateway").mkdir()
        self.site = Site(folder / "gateway")
        token = folder / "gateway" / "platform.token"
        token.write_text(self.sandbox.token())
        profile = folder / "gateway" / "profile.toml"
        profile.write_text("two-phase = true\n")
        self.options = [
            *(*LISTEN, "--ledger", self._ledger()),
            *("--upstream", f"tcp:127.0.0.1:{self.sandbox.port}"),
            *("--upstream-token", str(token), "--upstream-profile", str(profile)),
            *("--upstream-way", way),
        ]
        self.client = Client(seed)
        self.gateway: Server | None = None

    def _ledger(self) -> str:
        if self.database is None:
            return str(self.site.ledger)
        place = f"127.0.0.1:{self.database.server.port}/{self.database.name}"
        return f"postgresql://{ground.SUPERUSER}@{place}"

    def end(self) -> None:
        """
        End both.
        """
        self.client.close()
        self.site.killAll()
        self.sandbox.kill()

    def start(self, *launcher: str) -> None:
        """
        Start a gateway.
        """
        command = [*(launcher or self.command), *self.options]
        if self.database is not None:
            # Another one each time, as a standby would have it.
            command += ["--node", f"gateway-{len(self.site.started)}"]
        self.gateway = Server(self.site, command)
        self.site.started.append(self.gateway)

    def connect(self) -> bool:
        """
        Have the client connect, if the gateway comes so far.
        """
        assert self.gateway is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.gateway.process.poll() is None:
            if self.gateway.hasPort():
                with suppress(OSError):
                    self.client.connect(self.gateway.port)
                    return True
            time.sleep(0.02)
        if self.gateway.process.poll() is None:
            raise Violation("the gateway does not listen")
        return False

    # Kills.

    def atAnyMoment(self) -> None:
        """
        Kill the gateway.
        """
        self.start()
        self.connect()
        self.client.work(self.random.random() * 0.6)
        self._kill()
        self.counts["kills of the gateway"] += 1

    def _kill(self) -> None:
        assert self.gateway is not None
        self.gateway.process.send_signal(signal.SIGKILL)
        self.gateway.process.wait()
        self.client.close()

    def atAPoint(self) -> None:
        """
        Have the gateway kill itself.
        """
        points = [
            each
            for each in POINTS
            if (self.way == "two-phase" or each.during != TWO_PHASE)
            and (self.database is not None or each.during != POSTGRES)
        ]
        point = self.random.choice(points)
        nth = self.random.randint(point.first, point.last)
        launcher = sys.executable, "-m", "tests.crash.gateway_points", point.name
        self.start(*launcher, str(nth), "serve")
        self.connect()
        assert self.gateway is not None
        deadline = time.monotonic() + PATIENCE
        while self.gateway.process.poll() is None and time.monotonic() < deadline:
            self.client.work(0.2)
            time.sleep(0.02)
        if self.gateway.process.poll() != -signal.SIGKILL:
            errors = self.gateway.errors.read_text()
            raise Violation(f"{point.name}, {nth}: it was not reached: {errors}")
        self.client.close()
        self.counts["kills at points"] += 1
        self.counts[f"point {point.name}"] += 1

    def ofTheSandbox(self) -> None:
        """
        Kill the sandbox under the gateway, and start it again.
        """
        self.start()
        self.connect()
        self.client.work(self.random.random() * 0.6)
        self.sandbox.kill()
        self.client.work(self.random.random() * 0.3)
        self.sandbox.start()
        self.client.work(1.0)
        self._kill()
        self.counts["kills of the sandbox"] += 1
        self.counts["kills of the gateway"] += 1

    def ofPostgres(self) -> None:
        """
        Kill PostgreSQL under the gateway, and start it again.
        """
        self.start()
        self.connect()
        self.client.work(self.random.random() * 1.5)
        self.database.server.kill()
        self.client.work(self.random.random() * 1.0)
        self.database.server.start()
        self.client.work(2.0)
        self._kill()
        self.counts["kills of PostgreSQL"] += 1
        self.counts["kills of the gateway"] += 1

    def ofConnections(self) -> None:
        """
        End all connections of the gateway, some times.
        """
        self.start()
        self.connect()
        for _ in range(5):
            self.client.work(self.random.random() * 0.6)
            self.database.terminateBackends("creditsync gateway-%")
            self.counts["connections ended"] += 1
        self.client.work(0.5)
        self._kill()
        self.counts["kills of the gateway"] += 1

    def _untilAnswered(self) -> None:
        before = self.client.statuses.total()
        deadline = time.monotonic() + PATIENCE
        while self.client.statuses.total() == before and time.monotonic() < deadline:
            self.client.work(0.1)

    def takenOver(self) -> None:
        """
        Stop the gateway for a while, and start another one as soon as PostgreSQL has
        given up the first. That goes on then, and has to end by itself.
        """
        self.start()
        self.connect()
        self._untilAnswered()
        self.client.work(self.random.random() * 1.5)
        former = self.gateway
        assert former is not None
        former.process.send_signal(signal.SIGSTOP)
        self.database.terminateBackends("creditsync gateway-%")
        self.start()
        if not self.connect():
            raise Violation("the second gateway does not take over")
        self._untilAnswered()
        self.client.work(self.random.random() * 0.3)
        former.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while former.process.poll() is None and time.monotonic() < deadline:
            self.client.work(0.2)
        if former.process.poll() != 1:
            raise Violation(f"the first gateway goes on: {former.process.poll()}")
        said = former.output.read_text() + former.errors.read_text()
        if "another gateway has taken over" not in said:
            raise Violation(f"it ends otherwise: {said}")
        self._kill()
        self.counts["taken over"] += 1
        self.counts["kills of the gateway"] += 1

    # The end.

    def finish(self) -> None:
        """
        Let everything come to rest, and judge.

        @raise Violation: A promise is broken.
        """
        self.start()
        self.connect()
        self.settle()
        self.judge()

    def settle(self) -> None:
        """
        Send again what has no final answer, and nothing else, until all is settled that
        can be.
        """
        self.client.isEnding = True
        deadline = time.monotonic() + END
        while time.monotonic() < deadline and self.client.open():
            self.client.work(deadline - time.monotonic())

    def judge(self, mayDouble: Container[str] = ()) -> None:
        """
        Stop both, and compare their ledgers with what the client was told.

        @param mayDouble: The comments of those that may be booked more than once.
        @raise Violation: A promise is broken.
        """
        assert self.gateway is not None
        time.sleep(1)
        self.gateway.process.terminate()
        self.gateway.process.wait()
        self.sandbox.stop()
        booked = self.platform()
        journal = self.gateways(_EVENTS)
        adds: Counter[str] = Counter()
        first: dict[int, tuple[int, int, str]] = {}
        for order, state, login, profit, comment in booked:
            if state == 3 and order not in first:
                first[order] = login, profit, comment
                adds[comment] += 1
        known = Counter(order for order, state, *_ in journal if state == 3)
        states = dict(self.gateways(_INTENTS))
        for credit in self.client.credits.values():
            who, comment = f"credit {credit.number}", f"c{credit.number}"
            self.counts["booked twice"] += adds[comment] > 1
            if adds[comment] > 1 and comment not in mayDouble:
                raise Violation(f"{who} is booked {adds[comment]} times")
            if credit.refusal and adds[comment]:
                raise Violation(f"{who} is told {credit.refusal}, and booked")
            if credit.told is not None:
                want = credit.login, credit.amount * 10**8, comment
                have = first.get(credit.told["order"])
                if have != want:
                    raise Violation(f"{who} is told {credit.told}, booked as {have}")
            elif not credit.refusal:
                state = states.get(comment)
                if adds[comment] or state not in (None, "refused", "unseen", "held"):
                    raise Violation(
                        f"{who} has no final answer ({credit.last}), is {state}, and"
                        f" booked {adds[comment]} times"
                    )
                self.counts["not settled, and not booked"] += 1
        for order, content in first.items():
            if known[order] != 1:
                raise Violation(f"{content} is {known[order]} times in the journal")
        for order in known:
            if order not in first:
                raise Violation(f"order {order} is only in the journal")
        pending = {
            comment: state for order, state, _, _, comment in booked if state == 17
        }
        self.counts["finance requests"] += len(pending)
        self.counts["credits"] += len(self.client.credits)
        self.counts["tries"] += sum(c.tries for c in self.client.credits.values())
        self.counts["booked"] += len(first)
        for status, number in self.client.statuses.items():
            self.counts[f"replies {status}"] += number

    def platform(self) -> list[Any]:
        """
        The events that the sandbox has: order, state, login, profit and comment.
        """
        return _selected(_EVENTS, self.sandbox.folder / "creditsync.db")

    def gateways(self, statement: str) -> list[Any]:
        """
        What the gateway has, which is proved.
        """
        if self.database is None:
            return _selected(statement, self.site.ledger)
        with reading(self.database.dsn(), "judge") as source:
            for finding in findings(source):
                raise Violation(str(finding))
            return source.execute(statement).fetchall()


_EVENTS = 'SELECT "order", state, login, profit, comment FROM journal ORDER BY place'
_INTENTS = "SELECT comment, state FROM intent ORDER BY number"


def _selected(statement: str, path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as ledger:
        return ledger.execute(statement).fetchall()


def _kills(counts: Counter[str]) -> int:
    return sum(n for what, n in counts.items() if what.startswith("kills"))


def run(job: tuple[Path, int, str, Sequence[str], int, bool]) -> Outcome:
    """
    Kill so often.
    """
    folder, seed, way, command, kills, isOnPostgres = job
    outcome = Outcome()
    database = ground.start().database() if isOnPostgres else None
    trial = Trial(folder, seed, way, command, database)
    try:
        ways = [trial.atAnyMoment, trial.atAPoint, trial.atAPoint, trial.ofTheSandbox]
        if database is not None:
            ways += [trial.ofPostgres, trial.ofConnections, trial.takenOver]
        done = 0
        while done < kills:
            trial.random.choice(ways)()
            done = sum(
                n for what, n in trial.counts.items() if what.startswith("kills")
            )
        trial.finish()
    except (Violation, subprocess.TimeoutExpired, RuntimeError) as e:
        outcome.violation = f"{way}, seed {seed}: {e}"
    finally:
        trial.end()
        ground.atEnd.close()
        outcome.counts = trial.counts
    return outcome


def _options() -> Namespace:
    parser = ArgumentParser(description="Kill gateways and what is behind them.")
    add = parser.add_argument
    add("--kills", type=int, default=24, help="so many")
    add("--way", choices=WAYS, help="of the gateway; both by default")
    add("--postgres", action="store_true", help="the log of the gateway is there")
    add("--seed", type=int, default=secrets.randbelow(10**6))
    add("--plant", choices=BUGS, metavar="NAME", help="plant a bug")
    add("--folder", type=Path, help="keep the ledgers in this new folder")
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = _options()
    started = time.monotonic()
    ways = WAYS if options.way is None else (options.way,)
    command = SERVE
    if options.plant is not None:
        command = [sys.executable, "-m", "tests.planted.server", options.plant]
    with tempfile.TemporaryDirectory(prefix="gateway-kill-") as scratch:
        folder = options.folder or Path(scratch)
        jobs = [
            (
                folder / way,
                options.seed + n,
                way,
                command,
                options.kills // len(ways),
                options.postgres,
            )
            for n, way in enumerate(ways)
        ]
        with ProcessPoolExecutor(len(jobs)) as pool:
            outcomes = list(pool.map(run, jobs))
    counts: Counter[str] = sum((each.counts for each in outcomes), Counter())
    kills = _kills(counts)
    figures = Figures(seed=options.seed, **dict(sorted(counts.items())))
    figures["seconds"] = round(time.monotonic() - started, 1)
    figures.show(options.json)
    for outcome in outcomes:
        if outcome.violation is not None:
            print(f"VIOLATION: {outcome.violation}")
            sys.exit(1)
    print(f"sound: {kills} kills, {figures['booked']} booked")


if __name__ == "__main__":
    main()

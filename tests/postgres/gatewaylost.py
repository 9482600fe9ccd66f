"""
Failovers of PostgreSQL under a gateway.

    python -m tests.postgres.gatewaylost --failovers 20 --losses 6

A client books credits at a sandbox through a gateway, each under a key of its own. The
gateway has its log on a primary with a standby, and knows the addresses of both. The
seed decides whether it books in one shot or two phases, and whether comments have tags.

 - The primary is killed, and its synchronous standby is promoted. Sometimes the gateway
   is killed at about the same time, and another one takes over; sometimes the wait of
   its commits for the standby is cancelled, and what they have written is lost.
 - Without synchronous replication a standby is promoted that lacks what was written
   last. The gateway notices: it sends nothing more, its C{/ready} is 503, and its log
   has one critical line. Then the log is rescued from its copy, as docs/gateway.rst has
   it. Sometimes the gateway was started when the standby was cut off already.
 - The same, but the gateway is lost with the primary. The next one can't know what was
   sent: it has said so in a warning, and nothing is booked twice but what was lost.

In the end all keys are sent once more, and the ledger of the sandbox is held against
all that the client was told: no key has booked twice; each 200 is true, and the gateway
still knows it; what was answered 503 and not repeated is not booked; and whatever is
held was sent shortly before a gateway was killed, and is not booked.
"""

import re
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.crash.gateway_kill import PATIENCE, WAYS, Client, Trial
from tests.crash.record import Violation as BrokenPromise
from tests.figures import Figures
from tests.integration.processes import SERVE
from tests.postgres import ground
from tests.postgres.cluster import readiness
from tests.postgres.judge import Violation
from tests.postgres.promoted import Pair
from tests.postgres.suite import parser, run

# Seconds within which a gateway notices that something is lost.
_NOTICED: Final = 15.0
# Seconds before the end of a gateway in which that may have kept something from being
# sent that is in the log: until the failover is over, nothing else becomes durable.
_BEFORE: Final = 15

_CRITICAL: Final = re.compile(
    r"PostgreSQL has lost acknowledged operations.* The copy (\S+) has them"
)
_WARNING: Final = "A gateway that is started after that does not know what was sent"

_TAG: Final = re.compile(r" ~[0-9a-z]{4}\.[0-9a-z]+$")
_ALARM: Final = "has a tag of this gateway, and is not in its log"

_WAITING: Final = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE wait_event = 'SyncRep' AND application_name LIKE '%writer'"
)


class _Client(Client):
    """
    A client that gives up half of what it is told was not sent.
    """

    def _heard(self, line: dict[str, Any]) -> None:
        credit = self._asked.get(line.get("extID", ""))
        super()._heard(line)
        if credit is not None and (credit.tries, credit.last) == (1, 503):
            credit.refusal = self.random.choice([0, 503])

    @property
    def isLost(self) -> bool:
        """
        Whether there is no connection.
        """
        return self._socket is None

    @property
    def acknowledged(self) -> int:
        """
        How many credits had a 200.
        """
        return sum(each.told is not None for each in self.credits.values())

    def askAgain(self, mayDouble: Collection[str]) -> None:
        """
        Send what had a 200 once more.

        @param mayDouble: Comments of those that may be booked once more.
        @raise Violation: One has another answer now.
        """
        told = {each: each.told for each in self.credits.values() if each.told}
        for each in told:
            each.told = None
        deadline = time.monotonic() + PATIENCE
        while any(each.told is None for each in told):
            if time.monotonic() > deadline:
                lost = [each for each in told if each.told is None]
                raise Violation(f"{len(lost)} are not known any more: {lost[0]}")
            self.work(0.1)
            for each in told:
                if each.refusal:
                    raise Violation(f"told {told[each]}, then refused: {each}")
        for each, before in told.items():
            isSame = (each.told or {})["order"] == (before or {})["order"]
            if not isSame and f"c{each.number}" not in mayDouble:
                raise Violation(f"told {before}, and then {each.told}")


class _Trial(Trial):
    """
    One gateway in front of one sandbox, with its log on a primary with a standby.

    @ivar ended: When a gateway was killed.
    """

    def __init__(self, folder: Path, seed: int, command: list[str]) -> None:
        self.pair = Pair()
        self.ended: list[float] = []
        self.web = ground.freePort()
        try:
            # Each with and without tags.
            way = WAYS[seed // 4 % 2]
            super().__init__(folder, seed, way, command, self.pair.database)
        except BaseException:
            self.pair.close()
            raise
        self.site.environment["TMPDIR"] = str(folder / "gateway")
        self.options += ["--web", f"tcp:{self.web}:interface=127.0.0.1"]
        self.client = _Client(seed)
        self.hasTags = seed // 2 % 2 == 1
        profile = f"two-phase = true\ncomment-tag = {str(self.hasTags).lower()}\n"
        (folder / "gateway" / "profile.toml").write_text(profile)

    client: _Client

    def _ledger(self) -> str:
        return self.pair.hosts

    def platform(self) -> list[Any]:
        """
        See L{Trial.platform}. The comments are without tags.
        """
        return [_withoutTags(row) for row in super().platform()]

    def gateways(self, statement: str) -> list[Any]:
        """
        See L{Trial.gateways}. The comments are without tags.
        """
        return [_withoutTags(row) for row in super().gateways(statement)]

    def end(self) -> None:
        """
        End all.
        """
        super().end()
        self.pair.close()

    def say(self) -> str:
        """
        What the gateway has written.
        """
        assert self.gateway is not None
        return self.gateway.output.read_text() + self.gateway.errors.read_text()

    def run(self) -> None:
        """
        Start a gateway, again and again until it runs, and connect.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.start()
            if self.connect():
                return
        raise Violation(f"no gateway takes over: {self.say()}")

    def kill(self) -> None:
        """
        Kill the gateway.
        """
        self._kill()
        self.ended.append(time.time())

    def stop(self) -> None:
        """
        Stop the gateway in order.
        """
        assert self.gateway is not None
        self.gateway.process.terminate()
        self.gateway.process.wait()
        self.client.close()

    def work(
        self, isDone: Callable[[], object], what: str, seconds: float = 40
    ) -> None:
        """
        Go on until something is so.
        """
        deadline = time.monotonic() + seconds
        while not isDone():
            if time.monotonic() > deadline:
                raise Violation(f"not within {seconds} s: {what}: {self.say()[-2000:]}")
            self.client.work(0.05)
            if self.client.isLost:
                time.sleep(0.02)

    def acknowledged(self, count: int) -> None:
        """
        Go on until so many more have a 200.
        """
        wanted = self.client.acknowledged + count
        self.work(lambda: self.client.acknowledged >= wanted, f"{count} are booked")

    def failOver(self) -> None:
        """
        Have the standby take over, while the client goes on.
        """
        with ThreadPoolExecutor(1) as pool:
            failing: Future[None] = pool.submit(self.pair.failOver)
            self.work(failing.done, "the standby is promoted")
            failing.result()
        self.database = self.pair.database

    def booked(self) -> int:
        """
        How many events the sandbox has.
        """
        return len(self.platform())

    def rescue(self, copy: str) -> None:
        """
        Do what docs/gateway.rst says after a loss.
        """
        tool = [*SERVE[:-1]]
        kept = str(self.site.folder / "rescued.db")
        self._command(*tool, "backup", "--ledger", copy, kept)
        self._kill()
        self.pair.database = self.database = self.pair.primary.database()
        self._command(*tool, "import", kept, "--ledger", self._ledger())
        self.options[self.options.index("--ledger") + 1] = self._ledger()

    def _command(self, *command: str) -> None:
        done = self.site.run(*command)
        if done.returncode:
            raise Violation(f"{command}: {done.stdout}{done.stderr}")

    def finish(self, mayDouble: Collection[str] = ()) -> None:
        """
        Have everything settled, send all keys again, and judge.
        """
        self.settle()
        self.client.askAgain(mayDouble)
        self.judge(mayDouble)
        for comment, state, sent in self.gateways(_HELD):
            if not any(0 <= end - sent <= _BEFORE for end in self.ended):
                raise Violation(f"{comment} is {state}, and no gateway was killed")
            self.counts["held"] += 1


def _withoutTags(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_TAG.sub("", v) if isinstance(v, str) else v for v in row)


_HELD: Final = (
    "SELECT comment, state, sent_at FROM intent"
    " WHERE state NOT IN ('booked', 'refused', 'absent')"
)


@contextmanager
def _trial(options: Namespace, number: int) -> Iterator[_Trial]:
    command = SERVE
    if options.plant is not None:
        command = [sys.executable, "-m", "tests.planted.server", options.plant]
    with tempfile.TemporaryDirectory(prefix="gateway-lost-") as folder:
        trial = _Trial(Path(folder), options.seed + number, command)
        try:
            yield trial
        except BrokenPromise as e:
            raise Violation(str(e)) from e
        finally:
            trial.end()


def _count(figures: Figures, trial: _Trial, name: str) -> None:
    for what in ("credits", "booked", "held", "not settled, and not booked"):
        key = f"{name}: {what}"
        figures[key] = figures.get(key, 0) + trial.counts[what]


async def synchronous(options: Namespace, figures: Figures) -> None:
    """
    Fail over to a synchronous standby.
    """
    outages: list[float] = []
    with _trial(options, 0) as trial:
        pair, chance = trial.pair, trial.random
        pair.primary.replicateSynchronously()
        trial.run()
        for number in range(options.failovers):
            if number:
                pair.renew()
            trial.acknowledged(chance.randint(5, 60))
            # At least one of each kind, then any.
            kind = [*_KINDS][number % len(_KINDS)]
            kind(trial)
            began = time.monotonic()
            trial.acknowledged(10)
            outages.append(time.monotonic() - began)
        trial.finish()
        _count(figures, trial, "synchronous")
    figures["failovers"] = options.failovers
    figures["gateways killed with the primary"] = len(trial.ended)
    figures["waits cancelled"] = trial.counts["cancelled"]
    figures["from the promotion to 10 booked, s, at most"] = round(max(outages), 2)


def _alone(trial: _Trial) -> None:
    trial.failOver()


def _withGateway(trial: _Trial) -> None:
    if trial.random.random() < 0.5:
        trial.kill()
        trial.failOver()
    else:
        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(trial.pair.failOver)
            trial.client.work(trial.random.random())
            trial.kill()
            failing.result()
        trial.database = trial.pair.database
    trial.run()


def _cancelled(trial: _Trial) -> None:
    """
    PostgreSQL says of commits that they have succeeded which the standby does not have.
    """
    pair = trial.pair
    pair.part()
    trial.work(lambda: pair.primary.rows(_WAITING), "a commit waits")
    # What was sent before that is booked.
    trial.client.work(1.0)
    before = trial.booked()
    for _ in range(trial.random.randint(1, 3)):
        for [pid] in pair.primary.rows(_WAITING):
            pair.primary.rows("SELECT pg_cancel_backend(%s)", pid)
            trial.counts["cancelled"] += 1
        trial.client.work(0.5)
    if trial.booked() != before:
        raise Violation("something is sent that is not replicated")
    trial.failOver()


_KINDS: Final = (_alone, _withGateway, _cancelled)


async def noticed(options: Namespace, figures: Figures) -> None:
    """
    Promote a standby that lacks something, under a gateway that has it.
    """
    for number in range(options.losses):
        with _trial(options, number) as trial:
            pair, chance = trial.pair, trial.random
            isNew = (options.seed + number) % 2 == 1
            if isNew:
                # The standby has the tables, and nothing of this gateway.
                trial.run()
                trial.acknowledged(5)
                trial.stop()
                pair.part()
            trial.run()
            trial.acknowledged(chance.randint(5, 60))
            if not isNew:
                pair.part()
                trial.acknowledged(chance.randint(1, 60))
            pair.primary.kill()
            # What was sent before is booked.
            trial.client.work(1.0)
            before = trial.booked()
            trial.failOver()
            trial.work(lambda: _CRITICAL.search(trial.say()), "the loss", _NOTICED)
            trial.client.work(1.0)
            found = _CRITICAL.findall(trial.say())
            if len(found) != 1:
                raise Violation(f"the log says {found}")
            if readiness(trial.web) != 503:
                raise Violation("it is ready after a loss")
            # What it has told it knows as well as before.
            trial.client.askAgain(())
            if trial.booked() != before:
                raise Violation("something is sent after a loss")
            trial.rescue(found[0])
            trial.run()
            trial.acknowledged(10)
            trial.finish()
            _count(figures, trial, "noticed")
    figures["losses noticed, and rescued"] = options.losses


async def unknown(options: Namespace, figures: Figures) -> None:
    """
    Promote a standby that lacks something, and lose the gateway that has it.
    """
    lost = doubled = 0
    for number in range(options.losses):
        with _trial(options, number) as trial:
            trial.run()
            trial.acknowledged(20)
            if _WARNING not in trial.say():
                raise Violation(f"it does not warn: {trial.say()}")
            trial.pair.part()
            trial.acknowledged(20)
            trial.kill()
            trial.failOver()
            known = {each for [each] in trial.gateways("SELECT comment FROM intent")}
            sent = {each[-1] for each in trial.platform()}
            trial.run()
            trial.acknowledged(10)
            # What had a 200 is asked again, and booked again if it was lost.
            trial.finish(sent - known)
            isTold = _ALARM in trial.say()
            if isTold != trial.hasTags:
                raise Violation(f"tags: {trial.hasTags}, alarm: {isTold}")
            lost += len(sent - known)
            doubled += trial.counts["booked twice"]
            _count(figures, trial, "unknown")
    figures["losses unknown"] = options.losses
    figures["sent and lost"] = lost
    figures["booked twice of those"] = doubled


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Have PostgreSQL fail over under a gateway.")
    add = options.add_argument
    add("--failovers", type=int, default=3, help="to a synchronous standby")
    add("--losses", type=int, default=1, help="to a standby that lacks something")
    run(options.parse_args(), [synchronous, noticed, unknown])


if __name__ == "__main__":
    main()

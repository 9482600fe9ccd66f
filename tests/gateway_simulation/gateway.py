"""
The gateway: its process, its connection to the platform, and its disk.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from creditsync.codes import SESSION_MANAGER
from creditsync.events import TradeEvents
from creditsync.gateway._intents import Alarm, Intent
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._settling import Timing
from creditsync.gateway._upstream import Upstream
from creditsync.records import Principal, Reservation
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.gateway_simulation.observer import Observer
from tests.gateway_simulation.platform import Platform
from tests.gateway_simulation.setting import SCHEMAS, Setting
from tests.gateway_simulation.wires import End, MovingReactor, Process, Wires
from tests.simulation.world import World

TIMEOUT = 5.0


@define(eq=False)
class Disk(MemoryIntentLog):
    """
    The log and the ledger of the gateway, over all its processes. A write takes a
    moment; a killed process leaves the one that was under way done or not done.

    @ivar gateway: Whose process writes.
    """

    gateway: "Gateway | None" = field(default=None, init=False)
    _writing: "tuple[Callable[[], None], IDelayedCall] | None" = field(
        default=None, init=False
    )

    def write(
        self,
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
        alarms: Sequence[Alarm] = (),
    ) -> "Deferred[None]":
        """
        See L{IIntentLog<creditsync.gateway._intents.IIntentLog>}.
        """
        gateway = self.gateway
        assert gateway is not None and self._writing is None
        done: Deferred[None] = Deferred()
        if not gateway.process.isAlive:
            return done
        copies = {evolve(each): each for each in intents}

        def apply() -> None:
            self._writing = None
            MemoryIntentLog.write(self, list(copies), reservations, mark, alarms)
            for copy, original in copies.items():
                original.place = copy.place
                gateway.world.note("disk", f"{copy.number} {copy.state.value}")

        def written() -> None:
            gateway.point("write")
            if not gateway.process.isAlive:
                return
            apply()
            gateway.point("written")
            if gateway.process.isAlive:
                done.callback(None)

        call = gateway.process.reactor.callLater(gateway.writeTime(), written)
        self._writing = apply, call
        return done

    def killed(self, isDone: bool) -> None:
        """
        The process is gone. The write under way is on disk, or is not.
        """
        if self._writing is not None:
            apply, _ = self._writing
            self._writing = None
            if isDone:
                apply()


# A token for the accounts of some groups.
MASKED: Final = "masked"
_MASKED: Final = Principal(11, SESSION_MANAGER, float("inf"), MASKED, groups="real-*")


class _Token:
    """
    The token for the platform.
    """

    def current(self) -> str:
        """
        See L{creditsync.gateway._upstream.TokenFile.current}.
        """
        return "manager"

    read = current


class Gateway:
    """
    The gateway, over all its processes.

    @ivar disk: What outlives them.
    @ivar alarms: What it has told people.
    @ivar connections: Its connections to the platform.
    """

    def __init__(
        self,
        world: World,
        setting: Setting,
        platform: Platform,
        observer: Observer,
    ) -> None:
        self.world = world
        self.setting = setting
        self.random = world.generator()
        self._points = world.generator()
        self._disk = world.generator()
        self.platform = platform
        self._observer = observer
        self.disk = Disk()
        self.disk.ledger.epoch = "0badcafe"
        platform.tags.use(self.disk.epochs())
        self.disk.gateway = self
        self.alarms: list[str] = []
        self.connections: list[End] = []
        self.isHealthy = False
        self.lives = 0
        self.problem: str | None = None
        self.begin()

    def begin(self) -> None:
        """
        Start its process.
        """
        self.lives += 1
        world = self.world
        reactor = MovingReactor(world)
        process = self.process = Process(world, "gateway", reactor)
        events = TradeEvents()
        endpoint = Wires(process, self.random, self.platform.listening, self._made)
        self.upstream = Upstream(
            reactor,
            endpoint,
            _Token(),  # type: ignore[arg-type]
            random=self.random.random,
            timeout=0.5 * TIMEOUT,
            names=self.platform.names,
        )
        self.runtime = GatewayRuntime(
            reactor,
            self.disk,
            self.upstream,
            events,
            now=lambda: world.wall() + self.setting.skew,
            maxQueued=50,
            way=self.setting.way,
            timing=Timing(patience=0.8 * TIMEOUT),
            alarm=self._alarm,
            takesGroups=self.setting.isGrouped,
            tags=self.platform.tags,
        )
        authenticator = FakeAuthenticator()
        authenticator.accept(MASKED, _MASKED)
        self.runtime.whenFailed().addErrback(self._failed)
        self.server = CreditSync(
            reactor,
            runtime=self.runtime,
            events=events,
            authenticator=authenticator,
            listen=[],
            schemas=SCHEMAS,
            timeout=TIMEOUT,
        )
        self.server.startService()
        world.note("gateway", "starts")

    def _alarm(self, text: str) -> None:
        self.alarms.append(text)
        self.world.note("gateway", f"tells people: {text}")

    def _failed(self, why: Any) -> None:
        self.problem = f"the gateway has failed: {why.value!r}"

    def listening(self) -> tuple[Process, Any] | None:
        """
        Its process and its factory, if that is alive.
        """
        if not self.process.isAlive or not self.server.running:
            return None
        return self.process, self.server.factory

    def _made(self, ours: End, theirs: End) -> None:
        ours.tap = self._sends
        ours.heard = self._hears
        theirs.tap = self._observer.fromPlatform
        self.connections.append(ours)

    def _sends(self, line: bytes) -> None:
        self.point("send")
        if self.process.isAlive:
            self.world.note("gateway", "sends", line)
            self._observer.toPlatform(line)
            # What is written has left, also if this is the end.
            self.world.later(0, self.point, "sent")

    def _hears(self, data: bytes | None) -> None:
        if data is not None:
            self.world.note("gateway", "hears", data)
        self.point("hear" if data is not None else "heard")

    # What goes wrong.

    def writeTime(self) -> float:
        """
        How long the next write takes.
        """
        random = self._disk.random()
        if "slow-disk" in self.setting.own and not self.isHealthy and random < 0.1:
            self.world.happens("slow-disk")
            return 1.0
        return 0.0005 + 0.003 * random

    def point(self, name: str) -> None:
        """
        It passes a point at which it may be killed.
        """
        dice = self._points.random()
        isDeadly = "gateway-point" in self.setting.own and not self.isHealthy
        if isDeadly and dice < 0.004 and self.process.isAlive:
            self.world.happens("gateway-point")
            self.world.note("gateway", f"is to die at {name}")
            self.kill()

    def kill(self, downFor: float | None = None) -> None:
        """
        Kill its process, and start it again, soon by default.
        """
        if self.process.isAlive:
            self.process.kill()
            self.disk.killed(self._disk.random() < 0.5)
            if downFor is None:
                downFor = self._disk.choice((0.1, 1.0, 20.0))
            self.world.later(downFor, self.begin)

    def stop(self) -> None:
        """
        Stop it in order, and start it again.
        """
        if self.process.isAlive and self.server.running:
            self.world.happens("gateway-stop")
            self.world.note("gateway", "stops")
            self.server.stopService().addBoth(self._stopped, self.process)

    def _stopped(self, _: object, process: Process) -> None:
        if process.isAlive:
            process.kill()
            self.world.later(0.5, self.begin)

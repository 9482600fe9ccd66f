"""
The platform: the sandbox in memory, as a process that can be killed, and the people who
work at it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from msgspec.structs import replace

from creditsync._sandbox.life import Life
from creditsync._sandbox.script import Script
from creditsync._sandbox.script import Setting as FaultSetting
from creditsync._sandbox.service import OURS, Sandbox
from creditsync._sandbox.table import Where
from creditsync.codes import MAX_COMMENT, TS_FINANCE_OPEN_PENDING
from creditsync.errors import Refusal
from creditsync.events import TradeEvents
from creditsync.gateway._tags import Tags
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Principal, Trade, TradeEvent
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.gateway_simulation.setting import GROUPS, HABITS, LOGINS, SCHEMAS, Setting
from tests.gateway_simulation.wires import MovingReactor, Process
from tests.simulation.world import Reactor, World

FIRST = 500_001

# What a renamed command is called. One of them at a time is renamed suddenly.
NAMES = {
    "CreditIn": "MngCreditIn",
    "GetTradeByOrder": "MngGetTradeByOrder",
    "MngGetTradesByFilter": "GetTradesByFilter",
    "MngCreateFinanceRequest": "MngAddFinanceRequest",
    "MngApproveFinanceRequest": "MngConfirmFinanceRequest",
}

# How often people approve a request on a platform on which each time may count.
APPROVALS = 6

_DEALER = Principal(8, 2, float("inf"), "dealer")
_ADMIN = Principal(9, 3, float("inf"), "admin")


class _Script(Script):
    """
    The platform's faults.

    @ivar doubled: The command and the data of each request that was carried out twice.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.doubled: list[tuple[str | None, Mapping[str, Any]]] = []

    def first(
        self, where: Where, command: str | None, members: Mapping[str, Any]
    ) -> FaultSetting | None:
        """
        See L{Script.first}.
        """
        found = super().first(where, command, members)
        if found is not None and found.fault.name == "double-request":
            self.doubled.append((command, members.get("data", {})))
        return found


class Platform:
    """
    The platform, over all its processes.

    @ivar ledger: What is on its disk.
    @ivar tags: Those of the gateway, which what is told here of the platform's trades
        lacks, as what clients see does.
    @ivar published: Each change that it has broadcast, on disk or not.
    @ivar times: When it has.
    @ivar groups: Those that each account has had, unless a crash has lost them, each
        with the time of its move.
    @ivar decided: The finance requests of people that they have approved.
    @ivar approved: Those of the gateway, and when.
    """

    def __init__(self, world: World, setting: Setting) -> None:
        self.world = world
        self.random = world.generator()
        self.ledger = MemoryLedger(FIRST)
        self.ledger.epoch = "0badf00d"
        for login in LOGINS:
            self.ledger._accounts[login] = (0, 0)
        self.groups = {login: [(0.0, group)] for login, group in GROUPS.items()}
        if setting.isGrouped:
            self.ledger.setGroups(GROUPS)
        self.script = _Script(self.world.seed)
        self.script.clear()
        self.names = dict(NAMES) if "renamed" in setting.own else {}
        self.script.rename(self.names)
        for name, rate in setting.rates.items():
            self.script.set(name, rate, seconds=setting.seconds[name])
        self._setting = setting
        self.tags = Tags(setting.isTagged, setting.longest)
        self.published: list[tuple[int, int, Trade]] = []
        self.times: list[tuple[float, Trade]] = []
        self.decided: set[int] = set()
        self.approved: dict[int, float] = {}
        self.lives = self.crashes = 0
        self.begin()

    def begin(self) -> None:
        """
        Start its process.
        """
        self.lives += 1
        reactor = MovingReactor(self.world)
        self.process = Process(self.world, "platform", reactor)
        self.sandbox = Sandbox(
            reactor,
            lambda life: self._server(reactor, life),
            self.script,
            delay=self._setting.delay,
            unknown=OURS,
        )
        self.sandbox.startService()

    def _server(self, reactor: Reactor, life: Life) -> CreditSync:
        events = TradeEvents()
        events.addObserver(lambda published: self._published(life, published))
        ledger = life.ledger(self.ledger)
        return CreditSync(
            reactor,
            runtime=life.runtime(
                reactor,
                ledger,
                events,
                now=self.world.wall,
                maxQueued=1000,
                selfApproval=True,
            ),
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
            schemas=SCHEMAS,
            timeout=5.0,
        )

    def _published(self, life: Life, events: Any) -> None:
        if life.isOver:
            # It has crashed: nobody receives them.
            return
        for event in events:
            if isinstance(event.data, Trade):
                trade = self.tags.plain(event.data)
                self.published.append((event.type, trade.order, trade))
                self.times.append((self.world.now, trade))
                self.world.note(
                    "platform",
                    f"books {event.type} {trade.order} {trade.login} {trade.cmd}"
                    f" {trade.state} {trade.profit} {trade.comment}",
                )

    def listening(self) -> tuple[Process, Any] | None:
        """
        Its process and its factory, if that is alive.
        """
        return (self.process, self.sandbox.factory) if self.process.isAlive else None

    def kill(self, downFor: float) -> None:
        """
        Kill its process, and start it again later.
        """
        if self.process.isAlive:
            self.process.kill()
            self.crashes += self.sandbox.crashes
            self.world.happens("platform-kill")
            self.world.later(downFor, self.begin)

    def renameSuddenly(self, seconds: float) -> None:
        """
        Rename a command without notice, for some time.
        """
        name = self.random.choice(sorted(NAMES))
        if name not in self.script.names:
            self.script.rename({name: NAMES[name]})
            self.world.happens("renamed-suddenly")
            self.world.note("platform", f"renames {name}")
            self.world.later(seconds, self.script.names.pop, name, None)

    def heal(self) -> None:
        """
        Let nothing go wrong any more. What the platform always does it still does.
        """
        for setting in self.script.settings():
            if setting.fault.name not in HABITS:
                self.script.set(setting.fault.name, 0.0)
        self.script.names.clear()
        self.script.rename(self.names)

    def counts(self) -> Counter[str]:
        """
        How often each fault of the sandbox has happened.
        """
        return Counter(
            {each.fault.name: each.happened for each in self.script.settings()}
        )

    # The truth.

    def kept(self, comment: str) -> str:
        """
        A comment that the gateway sends, as the platform keeps it, without its tag.
        """
        return self.tags.off(comment)[: self.tags.longest]

    def journal(self) -> list[TradeEvent]:
        """
        All that is on its disk.
        """
        events = self.ledger.events(0, self.ledger.head)
        return [
            replace(each, data=self.tags.plain(each.data))
            if isinstance(each.data, Trade)
            else each
            for each in events
        ]

    # People.

    @property
    def _isThere(self) -> bool:
        life = self.sandbox.life
        return life is not None and not life.isOver and self.process.isAlive

    def _ask(
        self,
        command: str,
        data: dict[str, Any],
        who: Principal = _DEALER,
        then: Callable[[dict[str, Any]], object] = lambda reply: None,
    ) -> None:
        """
        Have somebody ask for something, which may be refused.
        """
        life = self.sandbox.life
        assert life is not None
        asked = life.server.call(command, data, who)
        asked.addCallbacks(then, lambda why: why.trap(Refusal))

    def _inState(self, state: int) -> list[Trade]:
        """
        The trades that are in a state.
        """
        trades = map(self.ledger.trade, self.ledger._places)
        return [each for each in trades if each is not None and each.state == state]

    def changeOld(self, count: int) -> None:
        """
        Have somebody change one of the oldest trades again and again.
        """
        if count and self._isThere:
            old = [
                trade
                for trade in self._inState(3)
                if trade.cmd == 6 and trade.comment.startswith("person")
            ]
            if old:
                trade = self.random.choice(old[:20])
                data = {
                    "login": trade.login,
                    "order": trade.order,
                    # No change is like another one.
                    "amount": 100 + count,
                    "comment": trade.comment,
                }
                self._ask("BalanceIn", data)
            self.world.later(0.003, self.changeOld, count - 1)

    def add(self, comment: str) -> None:
        """
        Have somebody book something.
        """
        self.addFor(self.random.choice(LOGINS), comment)

    def addFor(self, login: int, comment: str) -> None:
        """
        Have somebody book something for an account.
        """
        if self._isThere:
            amount = self.random.randrange(1, 99)
            data = {"login": login, "amount": amount, "comment": comment}
            self._ask("BalanceIn", data)

    def move(self, login: int, group: str) -> None:
        """
        Have somebody move an account to a group.
        """
        if not self._isThere:
            return
        self.world.happens("account-moves")
        self.world.note("person", f"moves {login} to {group}")
        self.groups[login].append((self.world.now, group))
        data = {"login": login, "group": group}
        self._ask("MngSetAccountGroup", data, _ADMIN)

    def decide(self, random: Random) -> None:
        """
        Have somebody approve or decline a finance request of the gateway.
        """
        if not self._isThere:
            return
        pending = [
            trade
            for trade in self._inState(TS_FINANCE_OPEN_PENDING)
            if not trade.comment.startswith("person")
        ]
        if not pending:
            return
        order, what = _one(random, pending).order, "MngDeclineFinanceRequest"
        if random.random() < 0.6:
            what = "MngApproveFinanceRequest"
            self.approved[order] = self.world.now
        self.world.happens("decisions")
        self.world.note("person", f"{what} {order}")
        self._ask(what, {"order": order})

    def person(self, number: int) -> None:
        """
        Have somebody at the platform do something.
        """
        if not self._isThere:
            return
        random, comment = self.random, f"person {number}"
        if self._setting.longest < MAX_COMMENT:
            # The gateway sends no comment that is too long for the platform.
            comment += " says this in many words"
        trades = self._inState(3)
        what = random.choice(("BalanceIn", "CreditIn", "request", "change", "delete"))
        data: dict[str, Any] = {
            "login": random.choice(LOGINS),
            "amount": random.randrange(1, 9),
            "comment": comment,
        }
        if what == "request":
            what, data["cmd"] = "MngCreateFinanceRequest", 7
        elif what in ("change", "delete"):
            if not trades:
                return
            trade = _one(random, trades)
            what = {6: "BalanceIn", 7: "CreditIn"}.get(trade.cmd, "")
            if not what:
                return
            data |= {"login": trade.login, "order": trade.order}
            if not trade.comment.startswith("person") and random.random() < 0.7:
                return
        self.world.happens("person")
        self.world.note("person", f"{what} {data}")
        self._ask(what, data, then=self._done)

    def _done(self, reply: dict[str, Any]) -> None:
        isRequest = reply["state"] == TS_FINANCE_OPEN_PENDING
        if isRequest and "approve-twice" in self._setting.rates:
            # Otherwise they leave it, so that the gateway has to.
            self.decided.add(reply["order"])
            for second in range(1, APPROVALS + 1):
                self.world.later(second, self._approve, reply["order"])

    def _approve(self, order: int) -> None:
        if self._isThere:
            self._ask("MngApproveFinanceRequest", {"order": order})


def _one(random: Random, trades: list[Trade]) -> Trade:
    # Mostly of the last ones.
    return random.choice(trades[-5:])

"""
What the judge sees of the lines between the gateway and the platform: whether each is
allowed, by what is on the gateway's disk at that moment.
"""

import json
from collections import defaultdict
from typing import Any

from creditsync.codes import EV_RECORD_DELETE
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._states import State
from tests.gateway_simulation.platform import NAMES, Platform
from tests.simulation.world import World

_OWN = {new: own for own, new in NAMES.items()}
_BOOKING = ("CreditIn", "CreditOut", "BalanceIn", "BalanceOut")
_DELETING = ("DeleteCredit", "DeleteBalance")


class Observer:
    """
    Reads along.

    @ivar sent: When each comment was sent first, as the platform keeps it.
    @ivar made: When each was sent, first and again.
    @ivar refused: The orders whose approval was refused.
    """

    def __init__(self, world: World, platform: Platform) -> None:
        self._world = world
        self._platform = platform
        self.disk: MemoryIntentLog | None = None
        self.sent: dict[str, float] = {}
        self.made: defaultdict[str, list[float]] = defaultdict(list)
        self.refused: set[int] = set()
        self._approvals: dict[str, int] = {}

    def toPlatform(self, line: bytes) -> None:
        """
        The gateway sends a line.
        """
        members = json.loads(line)
        command, data = members["command"], members.get("data", {})
        command = _OWN.get(command, command)
        if command == "MngCreateFinanceRequest" or command in _BOOKING:
            kept = self._platform.kept(data["comment"])
            self.sent.setdefault(kept, self._world.now)
            self.made[kept].append(self._world.now)
            self._check(f"{command} {data}", self._rows(data["comment"], data))
        elif command in _DELETING:
            order = data["order"]
            rows = [each for each in self._open() if each.order == order]
            rows = [each for each in rows if each.type == EV_RECORD_DELETE]
            self._check(f"{command} {data}", rows)
        elif command == "MngApproveFinanceRequest":
            order = data["order"]
            self._approvals[members["extID"]] = order
            self._check(f"{command} {data}", self._chosen(order))
        elif command == "MngDeclineFinanceRequest":
            order = data["order"]
            if self._chosen(order) and order not in self.refused:
                self._world.blame("chosen", f"order {order} is declined", str(order))

    def fromPlatform(self, line: bytes) -> None:
        """
        The platform sends a line to the gateway.
        """
        if not line.startswith(b"{"):
            return
        members = json.loads(line)
        order = self._approvals.get(members.get("extID", ""))
        if order is not None and members.get("status") not in (200, 500):
            self.refused.add(order)

    def _open(self) -> list[Any]:
        assert self.disk is not None
        return [each for each in self.disk._rows.values() if each.isOpen]

    def _rows(self, comment: str, data: dict[str, Any]) -> list[Any]:
        content = data["login"], comment, data.get("open_time")
        return [
            each
            for each in self._open()
            if (each.login, each.comment, each.openTime) == content
        ]

    def _chosen(self, order: int) -> list[Any]:
        return [
            each
            for each in self._open()
            if each.order == order and each.state is not State.SENT and not each.type
        ]

    def _check(self, what: str, rows: list[Any]) -> None:
        if not rows:
            self._world.blame("durable", f"{what} is sent before it is durable")

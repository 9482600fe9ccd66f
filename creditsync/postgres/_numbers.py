"""
The order numbers that a node may give to new operations.

They are reserved in the database, a block at a time, before the first of them is
assigned: a client may learn a number from a 504 although its trade was never booked. A
number tells the slot of its account, as C{order % 64 == login % 64}, so that trades
could be spread over several servers by their accounts, and found by their orders.

What is left of a block when the node ends is skipped. A server that has failed over and
lost what it had committed may give a block out again; its numbers are then found to be
assigned when the first of them is booked, and L{Numbers.renew} replaces all.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred

from creditsync.errors import Busy

SLOTS: Final = 64
# Numbers of each slot in a block.
SIZE: Final = 1000
# Blocks that are reserved at a time. More are when a slot has used half of them: one
# that is busy alone takes its numbers from all.
_BLOCKS: Final = 8

RESERVE: Final = "UPDATE block SET next = next + %s WHERE id = 1 RETURNING next"


@define(eq=False)
class Numbers:
    """
    The numbers of one node.

    @ivar _reserve: Reserves so many numbers in a row, which begin with a multiple of
        L{SLOTS}, and fires with the first of them.
    """

    _reserve: Callable[[int], Deferred[int]]
    # The first number of each block, and how many blocks went before.
    _blocks: deque[int] = field(init=False, factory=deque)
    _gone: int = field(init=False, default=0)
    # How many numbers of each slot were assigned, counted from the first block.
    _assigned: list[int] = field(init=False, factory=lambda: [0] * SLOTS)
    _reserving: "Deferred[Any] | None" = field(init=False, default=None)

    def start(self) -> Deferred[None]:
        """
        Reserve the first numbers.

        @return: Fires when they are there.
        """
        reserved = self._reserve(_BLOCKS * SLOTS * SIZE)
        return reserved.addCallback(self._reserved)

    def renew(self) -> Deferred[None]:
        """
        Assign none of those that are left.

        @return: Fires when others are there.
        """
        self._gone += len(self._blocks)
        self._blocks.clear()
        self._assigned = [self._gone * SIZE] * SLOTS
        return self.start()

    def take(self, login: int) -> int:
        """
        Assign a number for an account's new operation.

        @raise Busy: None is left at the moment.
        """
        slot = login % SLOTS
        block, number = divmod(self._assigned[slot], SIZE)
        at = block - self._gone
        if at + _BLOCKS // 2 >= len(self._blocks):
            self._more()
        if at >= len(self._blocks):
            raise Busy("all reserved order numbers are assigned")
        self._assigned[slot] += 1
        return self._blocks[at] + number * SLOTS + slot

    def _more(self) -> None:
        if self._reserving is not None:
            return
        self._reserving = self._reserve(_BLOCKS * SLOTS * SIZE)
        # If it fails, the next to take a number tries again.
        self._reserving.addCallbacks(self._reserved, lambda _: None)
        if self._reserving is not None:
            self._reserving.addCallback(self._ended)

    def _ended(self, _: object) -> None:
        self._reserving = None

    def _reserved(self, first: int) -> None:
        for number in range(_BLOCKS):
            self._blocks.append(first + number * SLOTS * SIZE)
        # Blocks of which no slot has anything left.
        done = min(self._assigned) // SIZE
        while self._gone < done and self._blocks:
            self._blocks.popleft()
            self._gone += 1

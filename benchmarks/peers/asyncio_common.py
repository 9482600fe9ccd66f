"""
What the two peers on asyncio share: one commit for everything that was queued
in one turn of the loop, and a future for each request that waits for it.
"""

import asyncio
from typing import Any

from attrs import Factory, define

from benchmarks.peers import common


@define(eq=False)
class Bookings:
    """
    The queue for the ledger.
    """

    _ledger: common.Ledger
    _queue: list[tuple[dict[str, Any], "asyncio.Future[None]"]] = Factory(list)

    async def book(self, data: dict[str, Any]) -> dict[str, Any]:
        """
        Book the credit of a request.

        @return: The trade, once it is on disk.
        """
        loop = asyncio.get_running_loop()
        trade, booked = self._ledger.trade(data), loop.create_future()
        if not self._queue:
            loop.call_soon(self._commit)
        self._queue.append((trade, booked))
        async with asyncio.timeout(common.TIMEOUT):
            await booked
        return trade

    def _commit(self) -> None:
        queue, self._queue = self._queue, []
        self._ledger.book([trade for trade, _ in queue])
        for _, booked in queue:
            if not booked.done():
                booked.set_result(None)

"""
Print each trade event, and go on where it ended when it is started again.

Usage: events.py ENDPOINT TOKEN FILE, where FILE keeps the place; for instance:
events.py tcp:127.0.0.1:8080 ey… place
"""

import sys
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react

from creditsync.client import CreditClient, CursorGone


async def follow(client: CreditClient, place: Path) -> None:
    def observe(type: int, data: dict[str, Any]) -> None:
        print(f"event {type}: order {data['order']}, {data['profit']}")
        draft.write_text(data["cursor"])
        draft.replace(place)

    draft = place.with_suffix(".part")
    since: str | None = place.read_text() if place.exists() else "first"
    while True:
        try:
            await client.events(observe, since)
        except CursorGone as gone:
            print(f"events are missed: {gone.message}")
            since = gone.head


async def main(reactor: Any, endpoint: str, token: str, place: str) -> None:
    client = CreditClient(clientFromString(reactor, endpoint), token, clock=reactor)
    client.startService()
    await follow(client, Path(place))


if __name__ == "__main__":
    react(lambda reactor: main(reactor, *sys.argv[1:]))

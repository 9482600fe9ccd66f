"""
Add 300 to the credit of account 1001.

Usage: client.py ENDPOINT TOKEN, for instance: client.py tcp:127.0.0.1:8080 ey…
"""

import sys
from typing import Any

from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react

from creditsync.client import CreditClient, OutcomeUnknown, Refused


def observe(type: int, data: dict[str, Any]) -> None:
    print(f"event {type}: order {data['order']}")


async def main(reactor: Any, endpoint: str, token: str) -> None:
    client = CreditClient(
        clientFromString(reactor, endpoint),
        token,
        clock=reactor,
        observer=observe,
    )
    client.startService()
    try:
        trade = await client.creditIn(1001, 300, "Promotion credit")
        print(f"booked: order {trade['order']}, {trade['profit']}")
    except Refused as refused:
        print(f"nothing has happened: {refused.message}")
    except OutcomeUnknown as unknown:
        print(f"look up order {unknown.order} or key {unknown.key}")
    finally:
        await client.stopService()


if __name__ == "__main__":
    react(lambda reactor: main(reactor, *sys.argv[1:]))

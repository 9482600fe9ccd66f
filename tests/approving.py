"""
Finance requests that several principals decide at once::

    python -m tests.approving [--rounds N] [--seed N] [--plant BUG]

Each round makes one request. Then two sessions approve it, and with them its maker and
others who approve, decline, change or delete it, in any order, with keys and without.
Turns of the reactor and ends of commits come between them, and in some rounds the
server dies and its clients ask again. Whatever happens, the request is decided once at
most, not by its maker, and everybody was told the truth.
"""

import sys
from argparse import ArgumentParser
from collections import Counter
from random import Random
from typing import Any, Final, NamedTuple

from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Principal
from creditsync.testing import HeldLedger
from tests.planted.bugs import plant
from tests.resuming import EPOCH, Site
from tests.test_session import Client

MAKER: Final = 7
OTHERS: Final = (8, 9, 10)

CREATE: Final = "MngCreateFinanceRequest"
APPROVE: Final = "MngApproveFinanceRequest"
SYNC: Final = "MngApproveFinanceRequestSync"
DECLINE: Final = "MngDeclineFinanceRequest"

LOGIN: Final = 1001

# A command, and the state of the trade after it.
STATES: Final = {APPROVE: 3, SYNC: 3, DECLINE: 18}


class Asked(NamedTuple):
    """
    What somebody has asked for.
    """

    principal: int
    command: str
    data: dict[str, Any]
    key: str | None


class Round:
    """
    The life of one request.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.memory = MemoryLedger(epoch=EPOCH)
        self.asked: dict[str, Asked] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.amount = self.random.randint(1, 10**6)
        self.cmd = self.random.choice((6, 7))
        self.hasCrashed = False
        self._start()

    def _start(self) -> None:
        self.ledger = HeldLedger(self.memory)
        self.site = Site(ledger=self.ledger)
        self.clients = {}
        for id in (MAKER, *OTHERS):
            self.site.authenticator.accept(f"t{id}", Principal(id, 1, float("inf")))
            self.clients[id] = Client(self.site.sessions)

    def ask(self, asked: Asked) -> None:
        """
        Send a request of a principal.
        """
        extID = f"q{len(self.asked)}"
        self.asked[extID] = asked
        key = {} if asked.key is None else {"idempotencyKey": asked.key}
        client = self.clients[asked.principal]
        client.asks(asked.command, extID, asked.data, f"t{asked.principal}", **key)

    def listen(self) -> None:
        """
        Take the replies that have come.
        """
        for client in self.clients.values():
            for line in client.hears():
                if "event" not in line:
                    assert line["extID"] not in self.told, line
                    self.told[line["extID"]] = line

    def settle(self) -> None:
        """
        Let everything be booked and answered.
        """
        self.site.turn()
        while self.ledger.commits:
            self.ledger.release()
            self.site.turn()
        self.listen()

    def run(self) -> Counter[str]:
        """
        Make a request, have it decided, and judge.

        @return: What was told.
        """
        data = {"login": LOGIN, "cmd": self.cmd, "amount": self.amount, "comment": "x"}
        self.ask(Asked(MAKER, CREATE, data, "made"))
        if self.random.random() < 0.7:
            self.settle()
        for each in self._decisions(1):
            self.ask(each)
            self._between()
        if self.random.random() < 0.2:
            self._crash()
        self.settle()
        self._judge()
        return Counter(
            f"{self.asked[extID].command} {line['status']}"
            for extID, line in self.told.items()
        )

    def _decisions(self, order: int) -> list[Asked]:
        random, data = self.random, {"order": order}
        one, other = random.sample(OTHERS, 2)
        asked = [
            Asked(id, random.choice((APPROVE, SYNC)), data, random.choice((None, "k")))
            for id in (one, other)
        ]
        if random.random() < 0.5:
            asked.append(Asked(MAKER, random.choice((APPROVE, SYNC)), data, None))
        if random.random() < 0.2:
            id = random.choice((MAKER, *OTHERS))
            asked.append(Asked(id, DECLINE, {**data, "comment": "No"}, None))
        if random.random() < 0.2:
            asked.append(Asked(one, "DeleteCredit", data, None))
        if random.random() < 0.2:
            change = {"login": LOGIN, "amount": 1, "comment": "y", "order": order}
            asked.append(Asked(other, "CreditIn", change, None))
        if random.random() < 0.3:
            asked.append(random.choice(asked))
        random.shuffle(asked)
        return asked

    def _between(self) -> None:
        if self.random.random() < 0.3:
            self.site.turn()
        if self.ledger.commits and self.random.random() < 0.5:
            self.ledger.release()
        self.listen()

    def _crash(self) -> None:
        """
        The server dies: what is not committed is lost, and so are replies. Then what
        has no reply and has a key is asked for again.
        """
        self._start()
        self.hasCrashed = True
        open = [
            asked
            for extID, asked in self.asked.items()
            if asked.key is not None and extID not in self.told
        ]
        for asked in open:
            self.ask(asked)
            self._between()

    def _judge(self) -> None:
        made, *changes = [
            (trade.state, asked.principal, asked.command)
            for _, trade, asked in self.memory._journal
            if trade.order == 1
        ] or [(17, MAKER, CREATE)]
        if made != (17, MAKER, CREATE):
            raise AssertionError(f"it began with {made}")
        decided = [each for each in changes if each[2] in STATES]
        if len(decided) > 1 or changes[:1] != decided:
            raise AssertionError(f"it was decided and changed by {changes}")
        if not decided and not self.hasCrashed:
            raise AssertionError("nobody has decided it")
        for state, principal, _ in decided:
            if state == 3 and principal == MAKER:
                raise AssertionError("its maker has approved it")
        for extID, line in self.told.items():
            asked = self.asked[extID]
            if asked.command in STATES and line["status"] == 200:
                win = STATES[asked.command], asked.principal, asked.command
                if [win] != decided:
                    raise AssertionError(f"told {win}, booked {decided}")
        self._judgeTotal()

    def _judgeTotal(self) -> None:
        last = {trade.order: trade for _, trade, _ in self.memory._journal}
        expected = sum(each.profit for each in last.values() if each.state == 3)
        account = self.memory.account(LOGIN)
        total = 0 if account is None else account.balance + account.credit
        if total != expected:
            raise AssertionError(f"the account has {total} instead of {expected}")


def main() -> None:
    """
    Run as many rounds as the command line says.
    """
    parser = ArgumentParser(description="Have finance requests decided.")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", metavar="BUG")
    options = parser.parse_args()
    plant(options.plant)
    told: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.rounds):
        try:
            told += Round(seed).run()
        except Exception as e:
            print(f"VIOLATION: seed {seed}: {e!r}")
            sys.exit(1)
    for outcome, times in sorted(told.items()):
        print(f"{outcome}: {times}")
    print(f"{options.rounds} requests, nothing wrong")


if __name__ == "__main__":
    main()

"""
Fuzz lines through the whole server, guided by coverage.

Each line goes through the real protocol, session and runtime to a ledger in
memory. A line that takes a new way through the server's code, or gets a new
kind of answer, is kept and changed further. What comes back is held against
L{tests.attack.judge}, which has read the line by itself: exactly one reply
with a status that the protocol has for such a line, under the same
C{extID}, in ASCII; nothing booked unless the reply says so, and then exactly
what was asked for; nothing logged as a failure; the session lives on. Some
commits are held back until the reply is a 504.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tests.attack import command
from tests.attack.conversation import Conversation, Said
from tests.attack.coverage import Coverage
from tests.attack.judge import FINANCE, OTHERS, REQUESTS
from tests.attack.mutate import Mutator
from tests.attack.stack import MANAGER, TOKENS, USER
from tests.figures import Figures

COMMANDS = [*OTHERS, *REQUESTS, *FINANCE, *(f"{name}Sync" for name in FINANCE)]
# Kept, so that a line that fails only after others can be run again with them.
_LINES_PER_STACK = 200


def seeds() -> Iterator[bytes]:
    """
    A right line for each command.
    """
    data = {
        "delete": '{"order":1}',
        "get_account_by_login": '{"login":1001}',
        "get_groups": "{}",
        "get_operation": '{"order":1}',
        "set_account_group": '{"login":1001,"group":"real"}',
        "get_trade_by_order": '{"order":1}',
        "get_trade_by_orders": '{"orders":[1,2]}',
        "health_check": "{}",
        "mng_approve_finance_request": '{"order":1}',
        "mng_create_finance_request": (
            '{"login":1001,"cmd":7,"amount":300.0,"comment":"Promotion credit",'
            '"open_time":1,"gw_order":1,"gw_source":"a","gw_uuid":"b","api_data":"c"}'
        ),
        "mng_decline_finance_request": '{"order":1,"comment":"No","api_data":"c"}',
        "mng_get_trades_by_filter": (
            '{"where":[["comment","like","P%"]],"whereNotIn":[["cmd",[6]]],'
            '"whereBetween":[["profit",[0,1]]],"orderBy":[["login","desc"]],'
            '"groupFilter":"*","limit":5,"offset":0,"tradeType":4}'
        ),
        "subscribe": '{"chanels":["trade:event"]}',
    }
    for name in COMMANDS:
        finance = FINANCE.get(name.removesuffix("Sync"))
        schema = finance[0] if finance else {**OTHERS, **REQUESTS}[name]
        sign = "-" if schema.endswith("_out") else ""
        amounts = f'{{"login":1001,"amount":{sign}300.0,"comment":"Promotion credit"}}'
        yield (
            f'{{"command":"{name}","extID":"credit-req-1001","__token":"{MANAGER}",'
            f'"data":{data.get(schema, amounts)}}}'
        ).encode()
    yield (
        f'{{"command":"CreditInSync","extID":7,"__token":"{MANAGER}",'
        '"idempotencyKey":"k1","data":{"login":1001,"amount":0.1,"comment":"x",'
        '"order":1,"open_time":1,"close_time":2}}'
    ).encode()
    key = '{"idempotencyKey":"k1"}'
    yield f'{{"command":"GetOperation","__token":"{USER}","data":{key}}}'.encode()
    yield b""


class Fuzzing:
    """
    A run of the fuzzer.

    @ivar corpus: The lines that are worth changing further.
    @ivar wrong: What broke the contract, and after which line.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._mutator = Mutator(self._random, COMMANDS, [*TOKENS])
        self._kinds: set[bytes] = set()
        self.coverage = Coverage()
        self._conversation = Conversation(self._random, self.coverage)
        self.corpus: list[bytes] = []
        self._decodable: list[bytes] = []
        self.statuses: Counter[str] = Counter()
        self.lines = 0
        self.wrong: list[str] = []

    def start(self, lines: Sequence[bytes]) -> None:
        """
        Send these lines, and keep them all.
        """
        for line in lines:
            self._keep(self._say(line))

    def step(self) -> None:
        """
        Send one more line.
        """
        self._say(self._mutator.change(self._pick(), self._pick()))

    def _pick(self) -> bytes:
        """
        Choose a line that was kept: most of the time one that is JSON, and
        half of the time one of the newest.
        """
        lines = self.corpus if self._random.random() < 0.1 else self._decodable
        return self._random.choice(
            lines[-64:] if self._random.random() < 0.5 else lines
        )

    def _say(self, line: bytes) -> Said:
        if len(self._conversation.lines) >= _LINES_PER_STACK:
            self._conversation = Conversation(self._random, self.coverage)
        edges = len(self.coverage)
        said = self._conversation.say(line)
        self.lines += 1
        for status, error in said.outcomes:
            self.statuses[f"{status} {error or ''}".strip()] += 1
        if len(self.coverage) > edges or not said.kinds <= self._kinds:
            self._keep(said)
        self._kinds |= said.kinds
        if said.wrong:
            self._accuse(said)
        return said

    def _keep(self, said: Said) -> None:
        self.corpus.append(said.line)
        if said.verdict.members:
            self._decodable.append(said.line)

    def _accuse(self, said: Said) -> None:
        """
        Record a fault, and whether the line alone causes it.
        """
        alone = Conversation(Random(0), Coverage()).say(said.line).wrong
        before = 0 if alone else len(self._conversation.lines) - 1
        self.wrong.append(f"{said.wrong[0]} after {before} lines and {said.line!r}")
        self._conversation = Conversation(self._random, self.coverage)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Fuzz, and print the result.
    """
    made = command.parser(__doc__)
    made.add_argument("--lines", type=int, default=20_000, help="[%(default)s]")
    made.add_argument("--minutes", type=float, help="instead of --lines")
    made.add_argument("--seed", type=int, help="of this run; random by default")
    made.add_argument(
        "--corpus", type=Path, help="a folder of lines to begin with, and to keep in"
    )
    options = command.begin(made, arguments)
    seed = Random().getrandbits(32) if options.seed is None else options.seed
    fuzzing = Fuzzing(seed)
    kept = sorted(options.corpus.iterdir()) if options.corpus else []
    started = time.monotonic()
    fuzzing.start([*seeds(), *(path.read_bytes() for path in kept)])
    while not fuzzing.wrong and not _isOver(options, fuzzing.lines, started):
        fuzzing.step()
        if fuzzing.lines % 100_000 == 0:
            print(f"{fuzzing.lines:,} lines", file=sys.stderr)
    seconds = time.monotonic() - started
    if options.corpus:
        for line in set(fuzzing.corpus):
            (options.corpus / sha256(line).hexdigest()[:16]).write_bytes(line)
    figures = Figures(seed=str(seed), lines=fuzzing.lines)
    figures["lines a second"] = round(fuzzing.lines / seconds)
    figures["edges"] = len(fuzzing.coverage)
    figures["lines kept"] = len(set(fuzzing.corpus))
    for status, count in sorted(fuzzing.statuses.items()):
        figures[f"answered {status}"] = count
    return command.end(
        options, figures, fuzzing.wrong, f"{fuzzing.lines:,} lines, each judged"
    )


def _isOver(options: Any, lines: int, started: float) -> bool:
    if options.minutes is None:
        return bool(lines >= options.lines)
    return bool(time.monotonic() - started >= options.minutes * 60)


if __name__ == "__main__":
    sys.exit(main())

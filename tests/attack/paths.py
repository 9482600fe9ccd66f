"""
Hold the fast path of a line against the long one, in whole conversations.

Two servers in memory get the same bytes, in the same reads: windows of many lines
(L{tests.attack.lines}), cut anywhere. One of them works as always, the other has its
fast path switched off. What they send, byte for byte and on each connection, what
they book, and what they count must be the same, and so must what they do about
commits that come late and in a stop. At least half of the lines have to take the
fast path, or the comparison would show nothing.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from attrs import Factory, asdict, define, field

from creditsync.counters import Histogram
from tests.attack import command
from tests.attack.lines import Lines
from tests.attack.stack import Connection, Stack, problems
from tests.figures import Figures

_LINES_PER_CONVERSATION = 2000
# Most lines that are sent at once: more than a turn takes, and than may be queued.
_WINDOW = 120
_CONNECTIONS = 2
# Of the lines sent, the share that has to take the fast path.
SHARE = 0.5


def watchFastPath(stack: Stack, isOpen: bool) -> "Counter[str]":
    """
    Count the lines that take the fast path of a server, or switch it off. Nothing
    else here knows how a server does that.

    @return: What is counted, as C{"taken"}.
    """
    requests, counts = stack.service.sessions.requests, Counter[str]()
    take = requests.plain

    def counted(line: bytes) -> Any:
        request = take(line)
        counts["taken"] += len(request)
        return request

    requests.plain = counted if isOpen else lambda lines: []
    return counts


class Server:
    """
    One of the two servers, and its clients.

    @ivar counts: See L{watchFastPath}.
    """

    def __init__(self, isFast: bool) -> None:
        self._stack = Stack()
        self.counts = watchFastPath(self._stack, isFast)
        self._connections = [self._stack.connect() for _ in range(_CONNECTIONS)]

    def say(self, speaker: int, chunks: Sequence[bytes]) -> None:
        """
        Send these reads on one connection.
        """
        self._connections[speaker].say(*chunks)

    def book(self) -> None:
        """
        Let every commit end.
        """
        self._stack.book()

    def expire(self) -> None:
        """
        Let the time of every request be over.
        """
        self._stack.expire()

    def stop(self) -> None:
        """
        Refuse every request from now on.
        """
        self._stack.service.sessions.stop()

    def heard(self) -> list[bytes]:
        """
        What was sent on each connection since the last call. A connection that
        the server has closed is opened again.
        """
        heard = [each.hear() for each in self._connections]
        for at, connection in enumerate(self._connections):
            if not connection.isOpen:
                heard[at] += b"(closed)\r\n"
                self._connections[at] = self._again(connection)
        return heard

    def _again(self, connection: Connection) -> Connection:
        connection.lose()
        return self._stack.connect()

    def books(self) -> Iterator[str]:
        """
        The rows of the ledger and the counts, as text, in which C{1} and C{1.0}
        are different.
        """
        ledger = self._stack.ledger
        logins = set[int]()
        for order in range(1, ledger.newOrder()):
            trade = ledger.trade(order)
            if trade is not None:
                logins.add(trade.login)
            yield repr(trade)
        yield from (repr(ledger.account(login)) for login in sorted(logins))
        counts = asdict(
            self._stack.counters,
            filter=lambda _, value: isinstance(value, int | float | dict | Histogram),
        )
        yield from (f"{name}: {value}" for name, value in counts.items())
        yield f"{len(self._stack.service.waiters)} waiters"
        yield f"{self._stack.service.sessions.pending} pending"


class Difference(Exception):
    """
    The two servers differed; the message says in what.
    """


@define
class Conversation:
    """
    What one seed says to both servers.

    @ivar lines: How many lines were sent.
    """

    _random: Random
    lines: int = 0
    _fast: Server = Factory(lambda: Server(True))
    _long: Server = Factory(lambda: Server(False))
    _lines: Lines = field(init=False)
    _window: Sequence[bytes] = ()

    def __attrs_post_init__(self) -> None:
        self._lines = Lines(self._random)

    @property
    def taken(self) -> int:
        """
        How many lines took the fast path.
        """
        return self._fast.counts["taken"]

    def run(self, lines: int) -> None:
        """
        Say so many lines, and stop.

        @raise Difference: The servers differed.
        """
        with problems() as logged:
            while self.lines < lines:
                self.say(self._lines.window(min(_WINDOW, lines - self.lines)))
                self._pass()
            self.book()
            self._compareBooks()
            self._both(Server.stop)
            self.say(self._lines.window(10))
            self._compareBooks()
        if logged:
            raise Difference(f"a server logged: {logged[0]}")

    def say(self, window: Sequence[bytes]) -> None:
        """
        Send a window of lines to both.

        @raise Difference: They answered differently.
        """
        speaker = int(self._random.random() * _CONNECTIONS)
        ends = self._random.choice(((b"\r\n",), (b"\n",), (b"\r\n", b"\n", b"\n \r\n")))
        text = b"".join(line + self._random.choice(ends) for line in window)
        chunks = self._cut(text)
        self.lines += len(window)
        self._window = window
        self._both(lambda server: server.say(speaker, chunks))
        self._compare()

    def book(self) -> None:
        """
        Let every commit end.

        @raise Difference: The servers sent different lines.
        """
        self._both(Server.book)
        self._compare()

    def _cut(self, text: bytes) -> list[bytes]:
        """
        Cut bytes into the reads in which they arrive.
        """
        cuts = self._random.choice((0, 0, 1, 1, 2, 5))
        at = sorted(int(self._random.random() * len(text)) for _ in range(cuts))
        return [
            text[begin:end]
            for begin, end in zip([0, *at], [*at, len(text)], strict=True)
        ]

    def _pass(self) -> None:
        """
        What happens between two windows: most often the commits end.
        """
        kind = self._random.random()
        if kind < 0.05:
            self._both(Server.expire)
        if kind < 0.9:
            self.book()

    def _both(self, act: Callable[[Server], None]) -> None:
        act(self._fast)
        act(self._long)

    def _compare(self) -> None:
        for fast, long in zip(self._fast.heard(), self._long.heard(), strict=True):
            if fast != long:
                raise Difference(f"{_first(fast, long)}, {_cause(self._window)}")

    def _compareBooks(self) -> None:
        for fast, long in zip(self._fast.books(), self._long.books(), strict=True):
            if fast != long:
                raise Difference(f"the fast path has {fast}, the long one {long}")


def _first(fast: bytes, long: bytes) -> str:
    """
    The first lines of two texts that differ.
    """
    ours, theirs = fast.split(b"\r\n"), long.split(b"\r\n")
    shorter = min(len(ours), len(theirs)) - 1
    at = next((n for n in range(shorter) if ours[n] != theirs[n]), shorter)
    return f"the fast path gives {ours[at]!r}, the long one {theirs[at]!r}"


def _cause(window: Sequence[bytes]) -> str:
    """
    What a difference came after: the line of a window that is enough for it, if
    there is one.
    """
    if len(window) == 1:
        return f"after {window[0]!r}"
    for line in window:
        conversation = Conversation(Random(0))
        try:
            conversation.say([line])
            conversation.book()
        except Difference as e:
            return f"in a window; alone {e}"
    return f"after the window {list(window)!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run conversations, and print the result.
    """
    made = command.parser(__doc__)
    made.add_argument("--lines", type=int, default=50_000, help="[%(default)s]")
    made.add_argument("--seed", type=int, help="of the first conversation")
    options = command.begin(made, arguments)
    first = Random().getrandbits(32) if options.seed is None else options.seed
    violations = list[str]()
    lines = taken = 0
    started = time.monotonic()
    seed = first
    while lines < options.lines and not violations:
        conversation = Conversation(Random(seed))
        try:
            conversation.run(min(_LINES_PER_CONVERSATION, options.lines - lines))
        except Difference as e:
            violations.append(f"--seed {seed}: {e}")
        except Exception as e:
            violations.append(f"--seed {seed}: a server failed: {e!r}")
        lines += conversation.lines
        taken += conversation.taken
        seed += 1
    seconds = time.monotonic() - started
    if taken < SHARE * lines and not violations:
        violations.append(f"only {taken / lines:.0%} of the lines took the fast path")
    figures = Figures(seed=str(first), lines=lines)
    figures["lines a minute"] = round(lines / seconds * 60)
    figures["by the fast path"] = f"{taken / lines:.1%}"
    sound = f"{lines:,} lines, the same by both paths"
    return command.end(options, figures, violations, sound)


if __name__ == "__main__":
    sys.exit(main())

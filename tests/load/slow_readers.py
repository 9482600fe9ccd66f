"""
Sessions that do not read, or read slowly, under a stream of events:

    python -m tests.load.slow_readers [--sessions 200] [--events 10000]

A manager books credits, first beside a good reader only, then beside three
kinds of slow ones too, which have proved who they are and are sent every event:

- C{--sessions} that never read: each is cut off when what waits for it passes
  C{--max-unread}, and not before;
- five that read nine tenths of what is published: what they leave never reaches
  the bound, and they get everything, once and in order;
- five that read a twentieth, and are cut off as they fall behind.

The manager is answered as before all the while, and the server's memory keeps
to what its bounds add up to.
"""

import select
import time
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, field

from benchmarks.figures import percentile
from creditsync.records import Limits
from tests.figures import Figures
from tests.integration.processes import Server
from tests.load.record import Record, compare, decode, health, token
from tests.load.running import (
    MIB,
    addLatency,
    conclude,
    memory,
    parser,
    rows,
    site,
    start,
    unsound,
)
from tests.load.talks import PATIENCE, Conversation, Talks

BOUND: Final = Limits().maxUnread
# Pending requests of the manager.
WINDOW: Final = 16
# The number of readers of each kind that read something.
FEW: Final = 5
# Requested sizes of receive buffers; the kernel doubles them.
TINY: Final = 4096
SMALL: Final = 64 * 1024
# How much Twisted buffers before it pauses the producer.
BUFFER: Final = 64 * 1024
# A comment's letters are six bytes each on the wire: an event has about 1.8 KB.
LETTERS: Final = "\N{CYRILLIC SMALL LETTER ZHE}" * 240
LONGEST: Final = 2048
# What may be unread beyond the bound: the kernel's send buffer at its largest, which
# it passes by a segment, and the receive buffer; the write buffer of the transport,
# which it passes by a publication; and the publication that passes the bound, and
# the one that the good reader has not read yet.
HIDDEN: Final = (
    int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    + 2 * SMALL
    + BUFFER
    + BUFFER
    + 3 * WINDOW * LONGEST
)
# Other memory of each session: its write buffer, which is copied as it grows,
# and its objects.
SESSION: Final = 4 * BUFFER
# Other growth of memory: Python's arenas, SQLite's cache, accounts.
BESIDES: Final = 64 * MIB
# How many times its usual p50 the manager may have, unless it is less than
# that many seconds; and the maximum p99 in seconds, as 200 sessions are
# written to.
FLAT: Final = 5.0
SHORT: Final = 0.05
LONG: Final = 0.5


@define(eq=False)
class Reader:
    """
    A session that receives events.

    @ivar share: The part of what is published that it reads.
    @ivar orders: Those of the events that it has read.
    @ivar unreadAtEnd: The bytes that it had left unread when it was cut off.
    """

    conversation: Conversation
    share: float = 0.0
    orders: list[int] = Factory(list)
    unreadAtEnd: int | None = None

    @property
    def kind(self) -> str:
        """
        What kind of a reader it is.
        """
        if not self.share:
            return "never reading"
        return "steady" if self.share > 0.5 else "falling behind"

    def hear(self, lines: list[bytes]) -> None:
        """
        Receive lines.
        """
        self.orders += [
            decode(line).data.order for line in lines if line.startswith(b'{"event"')
        ]

    def sip(self, published: int) -> None:
        """
        Read its share of so many bytes.
        """
        while (wanted := int(self.share * published) - self.conversation.read) > 0:
            before = self.conversation.read
            self.hear(self.conversation.receive(wanted))
            if self.conversation.read == before:
                return

    def wrong(self, events: list[int], published: int) -> str:
        """
        What it must not have met, or nothing.

        @param events: The orders of all the events that it was to be sent, and
            C{published} is how many bytes they have.
        """
        unread = self.unreadAtEnd
        if self.orders != events[: len(self.orders)]:
            return "did not get the events once, in order"
        if self.kind == "steady":
            if len(self.orders) == len(events) and unread is None:
                return ""
            return f"was steady, and got {len(self.orders)} of {len(events)} events"
        if unread is None:
            return f"is still there after {published:,} bytes were published"
        if unread + WINDOW * LONGEST < BOUND:
            return f"was cut off with only {unread:,} bytes unread"
        if unread > BOUND + HIDDEN:
            return f"was cut off late, with {unread:,} bytes unread"
        return ""


@define(eq=False)
class Run:
    """
    One run on one server.

    @ivar published: The bytes of events since the slow readers came.
    """

    _server: Server
    _record: Record = Factory(lambda: Record(f"event {LETTERS}"))
    _talks: Talks = Factory(Talks)
    _hangUps: Any = Factory(lambda: select.epoll())
    _slow: dict[int, Reader] = Factory(dict)
    _problems: list[str] = Factory(list)
    _token: str = Factory(token)
    _joinedAt: int = 0
    _heard: int = 0
    _manager: Reader = field(init=False)
    _good: Reader = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._manager, self._good = self._reader(), self._reader()
        self._talks.add(self._manager.conversation, self._hearManager)
        self._talks.add(self._good.conversation, self._good.hear)

    def _reader(self, receiveBuffer: int | None = None, **values: Any) -> Reader:
        """
        A session that has authenticated.
        """
        conversation = Conversation(self._server.port, receiveBuffer)
        conversation.send(health(self._token))
        deadline = time.monotonic() + PATIENCE
        while not conversation.receive() and time.monotonic() < deadline:
            time.sleep(0.001)
        conversation.read = 0
        return Reader(conversation, **values)

    @property
    def published(self) -> int:
        return self._good.conversation.read - self._joinedAt

    def join(self, sessions: int) -> None:
        """
        Connect the slow readers.
        """
        readers = [self._reader(TINY) for _ in range(sessions)]
        shares = [0.9] * FEW + [0.05] * FEW
        readers += [self._reader(SMALL, share=share) for share in shares]
        self._joinedAt = self._good.conversation.read
        self._heard = len(self._good.orders)
        for reader in readers:
            number = reader.conversation.socket.fileno()
            self._slow[number] = reader
            # Without any mask epoll still reports a hang-up.
            self._hangUps.register(number, 0)

    def book(self, count: int) -> list[float]:
        """
        Book so many credits.

        @return: How long each took, in ascending order.
        """
        first = len(self._record.sent)
        last = time.monotonic()
        before = self._record.answers
        while self._record.answers < first + count:
            left = first + count - len(self._record.sent)
            for _ in range(min(WINDOW - self._record.inFlight, left)):
                self._manager.conversation.send(self._record.ask())
            self._talks.turn(0.05)
            self._lookAfterSlow()
            if self._record.answers > before:
                before, last = self._record.answers, time.monotonic()
            if time.monotonic() - last > PATIENCE:
                self._problems.append("the manager is not answered any more")
                break
        serials = range(first, self._record.answers)
        return sorted(self._record.arrived[n] - self._record.sent[n] for n in serials)

    def _hearManager(self, lines: list[bytes]) -> None:
        for line in lines:
            message = decode(line)
            if message.event is not None:
                self._manager.orders.append(message.data.order)
                continue
            self._record.answered(message)
            if message.status != 200:
                self._record.wrong(f"the manager is answered {message.status}")
            elif message.data.order > (self._manager.orders or [0])[-1]:
                self._record.wrong(f"order {message.data.order}: reply before event")

    def _lookAfterSlow(self) -> None:
        for number, _ in self._hangUps.poll(0):
            reader = self._slow[number]
            self._hangUps.unregister(number)
            reader.unreadAtEnd = self.published - reader.conversation.read
        published = self.published
        for reader in self._slow.values():
            if reader.share:
                reader.sip(published)

    def settle(self) -> None:
        """
        Let the steady ones read the rest, and the others be cut off.
        """
        for reader in self._slow.values():
            if reader.kind == "steady":
                reader.share = 1.0
        deadline = time.monotonic() + PATIENCE
        while self._isUnsettled() and time.monotonic() < deadline:
            self._talks.turn(0.01)
            self._lookAfterSlow()

    def _isUnsettled(self) -> bool:
        wanted = len(self._record.sent)
        if min(len(self._good.orders), len(self._manager.orders)) < wanted:
            return True
        return any(
            reader.conversation.read < self.published
            if reader.kind == "steady"
            else reader.unreadAtEnd is None
            for reader in self._slow.values()
        )

    def problems(self) -> list[str]:
        """
        The violations found.
        """
        found = self._problems + self._record.problems
        orders = self._good.orders
        if sorted(orders) != sorted(self._record.orders) or sorted(orders) != orders:
            found.append("the good reader did not get each event once, in order")
        if self._manager.orders != orders:
            found.append("the manager got other events than the good reader")
        events = orders[self._heard :]
        for number, reader in self._slow.items():
            wrong = reader.wrong(events, self.published)
            if wrong:
                found.append(f"slow reader {number} {wrong}")
        return found

    def addFigures(self, figures: Figures) -> None:
        """
        Add the outcomes of the slow readers.
        """
        for name in ("never reading", "falling behind", "steady"):
            readers = [each for each in self._slow.values() if each.kind == name]
            unread = [r.unreadAtEnd for r in readers if r.unreadAtEnd is not None]
            figures[f"{name}, sessions"] = len(readers)
            figures[f"{name}, cut off"] = len(unread)
            if unread:
                figures[f"{name}, least unread when cut off"] = min(unread)
                figures[f"{name}, most unread when cut off"] = max(unread)

    def rowsCompared(self, rows: list[tuple[int, str]]) -> list[str]:
        """
        Compare the manager's record with the ledger.
        """
        return compare(rows, [self._record])

    def close(self) -> None:
        """
        Close all.
        """
        self._talks.close()
        for reader in self._slow.values():
            reader.conversation.close()


def measure(options: Namespace, figures: Figures) -> list[str]:
    """
    Run, and return what was wrong.
    """
    with site() as here:
        server = start(here, options.plant)
        run = Run(server)
        run.book(200)
        quiet = run.book(options.events // 5)
        run.settle()
        run.join(options.sessions)
        before = memory(server)
        loud = run.book(options.events)
        run.settle()
        peak, after = memory(server, "VmHWM"), memory(server)
        problems = run.problems() + run.rowsCompared(rows(here))
        # An event is encoded once for all sessions (docs/architecture.rst, "What
        # always holds"): what they leave unread they share.
        allowed = BOUND + (options.sessions + 2 * FEW) * SESSION + BESIDES
        figures["events beside slow readers"] = options.events
        figures["bytes of these events"] = run.published
        run.addFigures(figures)
        addLatency(figures, "manager, quiet", quiet)
        addLatency(figures, "manager, beside slow readers", loud)
        figures["memory before MiB"] = round(before / MIB, 1)
        figures["memory peak MiB"] = round(peak / MIB, 1)
        figures["memory after MiB"] = round(after / MIB, 1)
        figures["memory allowed MiB"] = round((before + allowed) / MIB, 1)
        if peak > before + allowed:
            problems.append(f"memory reached {peak:,} bytes")
        usual, now = percentile(quiet, 50), percentile(loud, 50)
        if now > max(FLAT * usual, SHORT):
            problems.append(f"the manager's p50 grew from {usual:.4f} to {now:.4f} s")
        if percentile(loud, 99) > LONG:
            problems.append(f"the manager's p99 grew to {percentile(loud, 99):.4f} s")
        run.close()
        problems += unsound(here)
    figures["checked"] = (
        f"{options.sessions} readers that never read were cut off at their bound, and"
        " nobody else was hurt"
    )
    return problems


def main() -> None:
    """
    Run what the command line asks for.
    """
    command = parser("slow_readers", __doc__)
    command.add_argument("--sessions", type=int, default=200)
    command.add_argument("--events", type=int, default=10_000)
    options = command.parse_args()
    figures = Figures()
    conclude(options, figures, measure(options, figures))


if __name__ == "__main__":
    main()

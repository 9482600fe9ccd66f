"""
The judge: what the platform has booked, what the clients were told, and what the
gateway's journal has, held against each other when everything has come to rest.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from attrs import define

from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE
from creditsync.gateway._states import State
from creditsync.records import Trade
from tests.gateway_simulation.clients import CMDS, Asked, Attempt, Client, Follower
from tests.gateway_simulation.gateway import Gateway
from tests.gateway_simulation.groups import Groups
from tests.gateway_simulation.observer import Observer
from tests.gateway_simulation.platform import Platform
from tests.gateway_simulation.setting import HARMLESS, SHOWN
from tests.gateway_simulation.verdicts import SOON, broken

ONE = 100_000_000

_FINAL = (3, 6)
_PENDING, _DECLINED = 17, 18

# Replies that say that nothing has happened, and nothing will.
_REFUSED = frozenset({400, 401, 403, 404, 409, 423, 429, 500, 503})

# What people do can be the cause of a hold.
_EXCUSES = HARMLESS - {"person"}


@define(eq=False, slots=False)
class Judge:
    """
    Judges one seed.

    @ivar faults: That may have happened.
    """

    platform: Platform
    gateway: Gateway
    clients: list[Client]
    follower: Follower
    restricted: list[Follower]
    observer: Observer
    faults: Collection[str]

    def judge(self) -> None:
        """
        Compare everything.

        @raise Violation: A rule is broken.
        """
        self._learn()
        self._general()
        for client in self.clients:
            for asked in client.asked:
                self._request(asked)
        self._alike()
        self._orders()
        self._intents()
        self._journal()
        self._gone()
        self._followed()
        self._groups()
        self._leftovers()

    def _learn(self) -> None:
        journal = [(e.type, e.data) for e in self.platform.journal()]
        self._events = [(t, d) for t, d in journal if isinstance(d, Trade)]
        self._now: dict[int, Trade] = {d.order: d for _, d in self._events}
        # Pending requests are no bookings; their approval is an update.
        booked: dict[int, Trade] = {}
        self._bookings: Counter[str] = Counter()
        self._adds: Counter[str] = Counter()
        for _, trade in self._events:
            if trade.state != 3:
                continue
            if trade.order not in booked:
                self._adds[trade.comment] += 1
            self._bookings[trade.comment] += 1
            booked[trade.order] = trade
        self._first = booked
        self._published: dict[int, list[Trade]] = {}
        for _, order, trade in self.platform.published:
            self._published.setdefault(order, []).append(trade)
        self._onDisk: dict[int, list[Trade]] = {}
        for _, trade in self._events:
            self._onDisk.setdefault(trade.order, []).append(trade)
        # What was booked for each comment once more, by the platform itself.
        self._doubled: Counter[str] = Counter()
        self._alikeDoubled: Counter[tuple[int, int, int]] = Counter()
        for command, data in self.platform.script.doubled:
            if command in CMDS:
                self._doubled[self.platform.kept(data["comment"])] += 1
                what = data["login"], CMDS[command], int(data["amount"])
                self._alikeDoubled[what] += 1
        for trade in self._approvedInVain():
            self._doubled[trade.comment] += 1
            what = trade.login, trade.cmd, trade.profit // ONE
            self._alikeDoubled[what] += trade.comment == "alike"
        # The deletions that no look-up shows.
        isHiding = "hidden-deletions" in self.faults
        deleted = {order for order, trade in self._now.items() if trade.state == 6}
        self._hidden = deleted if isHiding else set()
        # The orders of which a crash has lost something.
        self._lost = {
            order
            for order, trades in self._published.items()
            if any(each not in self._onDisk.get(order, ()) for each in trades)
        }

    def _approvedInVain(self) -> Iterator[Trade]:
        """
        What people have approved when another finance request had been made for the
        same operation, or when the platform did not show that.
        """
        for order, at in self.platform.approved.items():
            versions = self._onDisk.get(order, ())
            # As it was booked: people may have changed it since.
            trade = next((each for each in versions if each.state == 3), None)
            own = self.gateway.disk.withOrder(order)
            if trade is None or (own and own.plainComment == trade.comment):
                continue
            # A look-up may have been on its way.
            made = [e for e in self.observer.made[trade.comment] if e < at + 1]
            if len(made) > 1 or not self.faults <= SHOWN:
                yield trade

    def _general(self) -> None:
        if self.gateway.problem:
            raise broken("failure", self.gateway.problem)
        for each in (*self.clients, self.follower, *self.restricted):
            for problem in each.problems:
                raise broken("answer", problem)

    # Requests.

    def _request(self, asked: Asked) -> None:
        who = f"request {asked.number} ({asked.comment}, {asked.kind})"
        about = (asked.kept, asked.key or asked.kept)
        bookings = self._bookings[asked.kept]
        statuses = asked.statuses
        isAlike = asked.comment == "alike"
        if asked.kind == "delete":
            bookings = 0
        if not isAlike and self._adds[asked.kept] > 1:
            stray = self._strays(asked)
            if self._adds[asked.kept] - stray > 1 + self._doubled[asked.kept]:
                raise broken("once", f"{who} is booked {bookings} times", *about)
        for attempt in asked.attempts:
            if attempt.status == 200:
                assert attempt.reply is not None
                self._told(asked, attempt.reply, who)
        isBooked = not isAlike and bookings > self._strays(asked)
        isDoubled = self._doubled[asked.kept] > 0
        if isDoubled and asked.kind == "add" and not isAlike:
            self._known(asked, who)
        elif isBooked and statuses and set(statuses) <= _REFUSED:
            raise broken("refused", f"{who} is refused, and booked", *about)
        if statuses and statuses[0] == 503 and asked.kind != "delete":
            sent = self.observer.sent.get(asked.kept)
            until = asked.attempts[0].until
            assert until is not None
            if not isAlike and sent is not None and sent < until:
                raise broken("503", f"{who} was sent, and is told 503", *about)
        isSafe = self.faults <= HARMLESS and asked.kind == "add" and asked.cmd in (6, 7)
        # Many operations of one account take longer than their clients wait.
        isSafe = isSafe and not any(map(_isQueued, asked.attempts))
        if isSafe and set(statuses) != {200}:
            text = f"{who} is told {statuses} where nothing fails"
            raise broken("harmless", text, *about)
        if isSafe and not isAlike:
            self._prompt(asked, who)

    def _known(self, asked: Asked, who: str) -> None:
        """
        People know of what the platform has booked twice, or has booked and refused.
        """
        for order in self._first:
            versions = self._published.get(order, [])
            isWhole = all(each.comment == asked.kept for each in versions)
            isSeen = order not in self._lost | self._hidden
            if not (versions and isWhole and isSeen):
                continue
            isOwn = self.gateway.disk.withOrder(order) is not None
            if not isOwn and not any(str(order) in e for e in self.gateway.alarms):
                text = f"{who} is booked as order {order} too, and nobody knows"
                raise broken("doubled", text, asked.kept, str(order))

    def _prompt(self, asked: Asked, who: str) -> None:
        """
        The reply to the first try comes as soon as the platform has booked.
        """
        [at, *_] = [
            time
            for time, trade in self.platform.times
            if trade.comment == asked.kept and trade.state == 3
        ]
        until = asked.attempts[0].until
        if until is None or until - at > SOON:
            text = f"{who} is booked at {at}, and its client is told at {until}"
            raise broken("prompt", text, asked.kept)

    def _strays(self, asked: Asked) -> int:
        """
        Trades that the platform has made instead of an update, and that were deleted.
        """
        if asked.kind != "update":
            return 0
        return sum(
            trade.state == 6 and trade.comment == asked.kept
            for order, trade in self._now.items()
            if order != asked.order
        )

    def _told(self, asked: Asked, reply: dict[str, Any], who: str) -> None:
        data = reply["data"]
        order = data["order"]
        versions = self._published.get(order, [])
        about = (asked.kept, str(order))
        if asked.kind == "delete":
            if not any(each.state == 6 for each in versions):
                raise broken("200", f"{who} is told of a deletion", *about)
            return
        fits = [
            each
            for each in versions
            if (each.login, each.cmd) == (asked.login, asked.cmd)
        ]
        if "profit" in data:
            fits = [
                each
                for each in fits
                if (each.state, each.profit, each.comment, each.openTime)
                == (
                    data["state"],
                    round(data["profit"] * ONE),
                    data["comment"],
                    data["open_time"],
                )
            ]
        if not fits:
            raise broken("200", f"{who} is told of {data}", *about)
        if not any(each.comment == asked.kept for each in versions):
            raise broken("200", f"{who} is told of another's {data}", *about)

    def _alike(self) -> None:
        """
        Of those that are alike there are as many bookings as requests, at most.
        """
        wanted: Counter[tuple[int, int, int]] = Counter()
        told: Counter[tuple[int, int, int]] = Counter()
        for asked in self._all():
            if asked.comment != "alike":
                continue
            what = asked.login, asked.cmd, asked.amount
            wanted[what] += not set(asked.statuses) <= _REFUSED
            told[what] += 200 in asked.statuses
        # A crash may have lost some after they were told.
        booked, ever = _alikeOf(self._onDisk), _alikeOf(self._published)
        wanted += self._alikeDoubled
        for what in wanted | told | booked:
            if booked[what] > wanted[what]:
                text = f"{what} is booked {booked[what]} times, not {wanted[what]}"
                raise broken("once", text, "alike")
            if told[what] > ever[what]:
                raise broken(
                    "200",
                    f"{what} is told {told[what]} times, booked {ever[what]} times",
                    "alike",
                )

    def _all(self) -> Iterable[Asked]:
        for client in self.clients:
            yield from client.asked

    def _orders(self) -> None:
        """
        No two new trades were told the same order.
        """
        owners: dict[int, int] = {}
        for asked in self._all():
            if asked.kind != "add":
                continue
            orders = {
                a.reply["data"]["order"]
                for a in asked.attempts
                if a.status == 200 and a.reply
            }
            if len(orders) > 1:
                raise broken(
                    "200", f"request {asked.number} is told {orders}", asked.kept
                )
            for order in orders:
                owner = owners.setdefault(order, asked.number)
                if owner != asked.number and order not in self._lost:
                    raise broken(
                        "200",
                        f"requests {owner} and {asked.number} are told order {order}",
                        str(order),
                    )

    # What is held.

    def _intents(self) -> None:
        for intent in self.gateway.disk.unfinished():
            comment = intent.plainComment
            who = f"operation {intent.number} ({comment})"
            about = (comment, str(intent.order or comment))
            if intent.state is not State.HELD:
                raise broken("settled", f"{who} is {intent.state.value}", *about)
            alarms = [
                each
                for each in self.gateway.alarms
                if f"operation {intent.number} " in each
            ]
            if not intent.why or not alarms:
                raise broken("held", f"{who} is held, nobody knows why", *about)
            if self.faults <= HARMLESS and (
                self.faults <= _EXCUSES or intent.type == EV_RECORD_ADD
            ):
                raise broken("held", f"{who} is held, nothing fails", *about)
            self._held(intent, who, about)

    def _held(self, intent: Any, who: str, about: tuple[str, ...]) -> None:
        unclear = self._lost | self._hidden
        if intent.order in unclear or self._doubled[self.platform.kept(intent.comment)]:
            return
        if intent.type == EV_RECORD_ADD:
            own = [
                trade
                for trade in self._now.values()
                if trade.state in _FINAL
                and (trade.login, trade.cmd, trade.profit) == intent.content[:3]
                and trade.comment == intent.plainComment
                and trade.openTime == intent.openTime
                and self.gateway.disk.withOrder(trade.order) is None
                and trade.order not in unclear
            ]
            if len(own) == 1:
                raise broken("held", f"{who} is held, it is {own[0]}", *about)
            return
        trade = self._now.get(intent.order)
        if trade is None:
            return
        if intent.type == EV_RECORD_DELETE:
            isDone = trade.state == 6
        else:
            content = intent.amount, intent.plainComment
            isDone = (trade.profit, trade.comment) == content
        if isDone:
            raise broken("held", f"{who} is held, it is {trade}", *about)

    # The journal.

    def _journal(self) -> None:
        ledger = self.gateway.disk.ledger
        for order, trade in self._now.items():
            if trade.state not in _FINAL or order in self._lost:
                continue
            have = ledger.trade(order)
            if order in self._hidden and (have is None or have.state == 3):
                continue
            if have is None or not _isSame(have, trade):
                raise broken(
                    "journal", f"it has {have}, the platform {trade}", str(order)
                )
        changes = [
            (each.order, each.type, each.data) for each in ledger.events(0, ledger.head)
        ]
        added = Counter(order for order, type, _ in changes if type == EV_RECORD_ADD)
        for order, times in added.items():
            if times > 1:
                raise broken("journal", f"order {order} is added twice", str(order))
            if order not in self._published:
                raise broken("journal", f"there is no order {order}", str(order))
        for before, after in pairwise(changes):
            if before == after:
                raise broken("journal", f"twice: {after}", str(after[0]))
        for order, trades in self._journaled(changes).items():
            for trade in trades:
                isThere = any(_isSame(trade, e) for e in self._published[order])
                if not isThere and order not in self._lost and trade.state != 3:
                    raise broken("journal", f"never was: {trade}", str(order))
            seen = [
                (each.state, each.profit, each.comment, each.timestamp)
                for each in trades
            ]
            if len(set(seen)) < len(seen) and order not in self._lost:
                raise broken("journal", f"twice: {trades}", str(order))

    def _journaled(self, changes: Iterable[Any]) -> dict[int, list[Trade]]:
        found: dict[int, list[Trade]] = {}
        for order, _, trade in changes:
            found.setdefault(order, []).append(trade)
        return found

    def _gone(self) -> None:
        """
        People know of what was booked and is gone.
        """
        disk = self.gateway.disk
        for intent in disk.lastBooked(90):
            order = intent.order
            have, want = disk.ledger.trade(order), self._now.get(order)
            if have is None or (want is not None and _isSame(have, want)):
                continue
            if have.state == 6 and want is None:
                continue
            if not any(f"order {order}" in each for each in self.gateway.alarms):
                raise broken("gone", f"nobody knows that {have} is {want}", str(order))

    def _followed(self) -> None:
        ledger = self.gateway.disk.ledger
        journal = ledger.events(0, ledger.head)
        have = [
            (place, type, data["order"]) for place, type, data in self.follower.events
        ]
        want = [(each.place, each.type, each.order) for each in journal]
        if have != want:
            at = next(
                (n for n, (a, b) in enumerate(zip(have, want, strict=False)) if a != b),
                min(len(have), len(want)),
            )
            raise broken(
                "followed",
                f"from {at} on it is {have[at : at + 3]}, not {want[at : at + 3]}"
                f" ({len(have)} of {len(want)})",
            )

    def _groups(self) -> None:
        if self.restricted:
            journal = self.gateway.disk.ledger
            isHarmless = self.faults <= HARMLESS
            Groups(self.platform, journal, self.follower, isHarmless).judge(
                self.restricted
            )

    def _leftovers(self) -> None:
        """
        Nothing is left over, and nothing of other people's was touched.
        """
        chosen = {each.order for each in self.gateway.disk.unfinished()}
        for order, trade in self._now.items():
            isPerson = trade.comment.startswith("person")
            isLeft = trade.state == _PENDING and order not in chosen | self._lost
            if isLeft and not isPerson:
                raise broken("leftover", f"{trade} is left", str(order))
        requested = {
            trade.order
            for _, trade in self._events
            if trade.state == _PENDING and trade.comment.startswith("person")
        }
        for order in requested - self.platform.decided:
            trade = self._now[order]
            if trade.state != _PENDING:
                raise broken("another's", f"it was a person's: {trade}", str(order))


def _isSame(one: Trade, other: Trade) -> bool:
    return _content(one) == _content(other)


def _content(trade: Trade) -> tuple[Any, ...]:
    return (
        trade.login,
        trade.cmd,
        trade.state,
        trade.profit,
        trade.comment,
        trade.openTime,
        trade.timestamp,
    )


def _isQueued(attempt: Attempt) -> bool:
    """
    Whether its turn did not come in time.
    """
    reply = attempt.reply or {}
    return str(reply.get("message", "")).endswith("is not finished yet")


def _alikeOf(trades: Mapping[int, list[Trade]]) -> Counter[tuple[int, int, int]]:
    """
    How many trades were booked for requests that are alike, by what these ask for.
    """
    booked: Counter[tuple[int, int, int]] = Counter()
    for versions in trades.values():
        # A number may be given again.
        first: dict[int, Trade] = {}
        for each in versions:
            if (each.state, each.comment) == (3, "alike"):
                first.setdefault(each.openTime, each)
        booked.update((e.login, e.cmd, e.profit // ONE) for e in first.values())
    return booked

"""
A platform for tests of the gateway, by hand: it only accepts and broadcasts, and it has
a ledger of its own, which shares nothing with creditsync.

L{Platform} books. L{Link} is the gateway's connection to it, whose every message the
test may deliver, lose, delay or double.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from creditsync.gateway._figures import Figures
from creditsync.gateway._interfaces import IUpstream, IUpstreamObserver
from creditsync.gateway._outcomes import Outcome, outcomeOf, unknown, unsent

NOW = 1767225600

CMDS = {"BalanceIn": 6, "CreditIn": 7, "BalanceOut": 8, "CreditOut": 9}
COLUMNS = (
    "order",
    "login",
    "cmd",
    "state",
    "profit",
    "comment",
    "open_time",
    "close_time",
    "update_time",
)


@define(eq=False)
class Platform:
    """
    A platform that accepts an operation, and books it when the test calls L{work}.

    @ivar trades: The records, by order.
    @ivar booked: The order of each booking of a new trade, as it was made.
    @ivar refusals: The next operation of a login gets this status and error.
    @ivar showsQueued: Whether look-ups find what is only queued.
    @ivar showsEarly: Whether what is accepted is broadcast, in its state of then.
    @ivar applied: What was booked for requests: the comment of each.
    @ivar approvesTwice: Whether it books a finance request once more that is approved
        again.
    @ivar namesAccounts: Whether the reply to a finance request names its account.
    @ivar lacks: The commands that it does not have.
    @ivar hides: The states of trades that look-ups by a filter do not find.
    @ivar mostRows: Of a page of a look-up, whatever it was asked for.
    @ivar sorts: Whether look-ups keep to the order that they were asked for.
    @ivar filters: Whether they keep to the conditions.
    @ivar isExact: Whether times of changes have fractions.
    @ivar longest: Characters of a comment that it keeps.
    @ivar makesNew: Whether an update makes a new trade, as it does for an order that
        the platform has forgotten.
    @ivar deletesQueued: Whether what is only queued may be deleted.
    """

    now: Callable[[], float]
    nextOrder: int = 5001
    trades: dict[int, dict[str, Any]] = Factory(dict)
    booked: list[int] = Factory(list)
    refusals: dict[int, tuple[int, str]] = Factory(dict)
    showsQueued: bool = True
    showsEarly: bool = False
    applied: list[str] = Factory(list)
    longest: int = 255
    makesNew: bool = False
    deletesQueued: bool = True
    approvesTwice: bool = False
    namesAccounts: bool = True
    lacks: set[str] = Factory(set)
    hides: set[int] = Factory(set)
    mostRows: int = 1_000_000
    sorts: bool = True
    filters: bool = True
    isExact: bool = False
    accounts: dict[int, dict[str, Any]] = Factory(dict)
    heard: list[tuple[str, dict[str, Any]]] = Factory(list)
    _queue: list[Callable[[], None]] = Factory(list)
    listeners: list[Callable[[int, dict[str, Any]], None]] = Factory(list)

    def carryOut(self, command: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Carry a request out.

        @return: The members of the reply.
        """
        self.heard.append((command, dict(data)))
        if command in self.lacks:
            return refused(404, "UNKNOWN_COMMAND")
        if command in CMDS:
            return self._finance(command, data)
        if command in ("DeleteCredit", "DeleteBalance"):
            return self._delete(data["order"])
        if command == "MngCreateFinanceRequest":
            return self._create(data)
        if command in ("MngApproveFinanceRequest", "MngDeclineFinanceRequest"):
            return self._decide(command, data["order"])
        if command == "GetTradeByOrder":
            return self._tradeByOrder(data["order"])
        if command == "MngGetTradesByFilter":
            return self._tradesByFilter(data)
        if command == "GetAccountByLogin":
            account = self.accounts.get(data["login"])
            if account is None:
                return refused(404, "USER_NOT_FOUND")
            return {"status": 200, "data": account}
        if command == "GetGroups":
            return {"status": 200, "data": {"groups": ["real"]}}
        return refused(404, "UNKNOWN_COMMAND")

    def _time(self) -> Any:
        return self.now() if self.isExact else int(self.now())

    def _create(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if data["login"] in self.refusals:
            return refused(*self.refusals.pop(data["login"]))
        if data["open_time"] > self.now():
            return refused(400, "INVALID_DATA")
        order = self.nextOrder
        self.nextOrder += 1
        self.trades[order] = {
            "order": order,
            "login": data["login"],
            "cmd": data["cmd"],
            "state": 17,
            "profit": data["amount"],
            "comment": data["comment"],
            "open_time": data["open_time"],
            "close_time": data["open_time"],
            "update_time": self._time(),
        }
        if self.showsEarly:
            self._change(0, order)
        reply: dict[str, Any] = {"accepted": True, "order": order, "state": 17}
        if self.namesAccounts:
            reply |= {name: data[name] for name in ("login", "cmd", "amount")}
        return {"status": 200, "data": reply}

    def _decide(self, command: str, order: int) -> dict[str, Any]:
        trade = self.trades.get(order)
        isPending = trade is not None and trade["state"] == 17
        isAgain = self.approvesTwice and trade is not None and trade["state"] in (3, 10)
        if not (isPending or (isAgain and command == "MngApproveFinanceRequest")):
            return refused(409, "INCORRECT_ORDER")
        assert trade is not None
        if command == "MngDeclineFinanceRequest":
            self._change(1, order, state=18)
            return {"status": 200, "data": {"accepted": True, "order": order}}
        if trade["login"] in self.refusals:
            return refused(*self.refusals.pop(trade["login"]))
        if self.showsEarly:
            self._change(1, order, state=10)
        trade["state"] = 10
        self._queue.append(lambda: self._book(order))
        return {"status": 200, "data": {"accepted": True, "order": order, "state": 10}}

    def _finance(self, command: str, data: Mapping[str, Any]) -> dict[str, Any]:
        if data["login"] in self.refusals:
            return refused(*self.refusals.pop(data["login"]))
        record = {
            "login": data["login"],
            "cmd": CMDS[command],
            "profit": data["amount"],
            "comment": data["comment"][: self.longest],
        }
        order = data.get("order", 0)
        state = 11
        if self.makesNew or order not in self.trades:
            state, order = 10, self.nextOrder
            self.nextOrder += 1
            now = self._time()
            self.trades[order] = {
                **record,
                "order": order,
                "state": 10,
                "open_time": data.get("open_time", now),
                "close_time": data.get("close_time", data.get("open_time", now)),
                "update_time": now,
            }
            if self.showsEarly:
                self._change(0, order)
            self._queue.append(lambda: self._book(order))
        else:
            changes = {**record}
            for name in ("open_time", "close_time"):
                if name in data:
                    changes[name] = data[name]
            self._queue.append(lambda: self._update(order, changes))
        return {
            "status": 200,
            "data": {"accepted": True, "order": order, "state": state},
        }

    def _book(self, order: int) -> None:
        self.booked.append(order)
        self.applied.append(self.trades[order]["comment"])
        self._change(1 if self.showsEarly else 0, order, state=3)

    def _update(self, order: int, changes: dict[str, Any]) -> None:
        if self.trades[order]["state"] == 3:
            self.applied.append(changes["comment"])
            self._change(1, order, **changes)

    def _delete(self, order: int) -> dict[str, Any]:
        state = self.trades[order]["state"] if order in self.trades else 6
        if state == 6 or (state == 10 and not self.deletesQueued):
            return refused(409, "INCORRECT_ORDER")
        self._queue.append(lambda: self._remove(order))
        return {"status": 200, "data": {"accepted": True, "order": order, "state": 12}}

    def _remove(self, order: int) -> None:
        if self.trades[order]["state"] == 3:
            self._change(2, order, state=6)

    def _change(self, type: int, order: int, **members: Any) -> None:
        record = self.trades[order]
        record.update(members)
        record["update_time"] = max(self._time(), record["update_time"])
        event = {**record, "timestamp": record["update_time"]}
        del event["update_time"]
        for listener in list(self.listeners):
            listener(type, event)

    def person(self, login: int, cmd: int, amount: Any, **members: Any) -> int:
        """
        Have somebody at the platform book something.
        """
        order, now = self.nextOrder, self._time()
        self.nextOrder += 1
        self.trades[order] = {
            "order": order,
            "login": login,
            "cmd": cmd,
            "profit": Decimal(amount),
            "comment": "by hand",
            "open_time": now,
            "close_time": now,
            "update_time": now,
            **members,
        }
        self._change(0, order, state=3)
        return order

    def change(self, order: int, **members: Any) -> None:
        """
        Have somebody at the platform change something.
        """
        self._change(2 if members.get("state") == 6 else 1, order, **members)

    def work(self, most: int = 1_000_000) -> None:
        """
        Do what is queued.
        """
        while self._queue and most:
            most -= 1
            self._queue.pop(0)()

    def crash(self) -> None:
        """
        Lose what is queued.
        """
        self._queue.clear()
        for order in [o for o, each in self.trades.items() if each["state"] == 10]:
            del self.trades[order]

    @property
    def isBusy(self) -> bool:
        """
        Whether something is queued.
        """
        return bool(self._queue)

    def _visible(self) -> list[dict[str, Any]]:
        return [
            each
            for each in self.trades.values()
            if self.showsQueued or each["state"] != 10
        ]

    def _tradeByOrder(self, order: int) -> dict[str, Any]:
        for each in self._visible():
            if each["order"] == order:
                return {"status": 200, "data": dict(each)}
        return refused(404, "TRADE_NOT_FOUND")

    def _tradesByFilter(self, data: Mapping[str, Any]) -> dict[str, Any]:
        compare: dict[str, Callable[[Any, Any], bool]] = {
            "==": lambda a, b: a == b,
            ">": lambda a, b: a > b,
            ">=": lambda a, b: a >= b,
        }
        found = [
            each
            for each in self._visible()
            if each["state"] not in self.hides
            and (
                not self.filters
                or all(compare[by](each[name], to) for name, by, to in data["where"])
            )
        ]
        if self.sorts:
            found.sort(key=lambda each: [each[name] for name, _ in data["orderBy"]])
        first = data.get("offset", 0)
        found = found[first : first + min(data["limit"], self.mostRows)]
        rows = [[each[name] for name in COLUMNS] for each in found]
        return {"status": 200, "data": {"structure": list(COLUMNS), "rows": rows}}


def refused(status: int, error: str) -> dict[str, Any]:
    """
    The members of a refusal.
    """
    return {"status": status, "error": error, "message": "because"}


@define(eq=False)
class Sent:
    """
    A request of the gateway on its way.

    @ivar number: Its number on this link, from 1.
    """

    number: int
    command: str
    data: dict[str, Any]
    tag: object
    done: "Deferred[Outcome]" = Factory(Deferred)


@implementer(IUpstream)
@define(eq=False)
class Link:
    """
    The gateway's connection to a platform.

    @ivar isAutomatic: Whether messages are delivered by themselves, in the next turn.
    @ivar requests: Those that have not reached the platform.
    @ivar replies: Those that have not reached the gateway, with their requests.
    @ivar events: The same of events.
    @ivar loses: Commands whose next request, or next reply, is lost.
    """

    clock: Clock
    platform: Platform
    isAutomatic: bool = True
    timeout: float = 10.0
    isConnected: bool = False
    problem: str = "not connected"
    requests: list[Sent] = Factory(list)
    replies: list[tuple[Sent, dict[str, Any]]] = Factory(list)
    events: list[tuple[int, dict[str, Any]]] = Factory(list)
    losesRequest: list[str] = Factory(list)
    losesReply: list[str] = Factory(list)
    sent: list[Sent] = Factory(list)
    figures: Figures = Factory(Figures)
    _observer: IUpstreamObserver | None = None
    _waiting: dict[Sent, None] = field(factory=dict, init=False)
    _overdue: set[Sent] = field(factory=set, init=False)

    def start(self, observer: IUpstreamObserver) -> None:
        """
        See L{IUpstream.start}. The test calls L{connect}.
        """
        self._observer = observer
        self.platform.listeners.append(self._broadcast)
        if self.isAutomatic:
            self.connect()

    def connect(self) -> None:
        """
        Connect.
        """
        assert self._observer is not None
        self.isConnected, self.problem = True, ""
        self.figures.since = self.clock.seconds()
        self._observer.connected()

    def cut(self) -> None:
        """
        Lose the connection, with all that is on its way to the gateway. What is on its
        way to the platform may still arrive.
        """
        if not self.isConnected:
            return
        self.isConnected, self.problem = False, "the connection was lost"
        self.figures.since = self.clock.seconds()
        waiting, self._waiting = self._waiting, {}
        self.replies.clear()
        self.events.clear()
        if self._observer is not None:
            self._observer.interrupted()
        self._overdue.update(waiting)
        for each in waiting:
            each.done.callback(unknown("the connection was lost"))

    def stop(self) -> "Deferred[None]":
        """
        See L{IUpstream.stop}.
        """
        self._observer = None
        if self._broadcast in self.platform.listeners:
            self.platform.listeners.remove(self._broadcast)
        self.cut()
        return succeed(None)

    def renew(self, why: str) -> None:
        """
        See L{IUpstream.renew}.
        """
        self.cut()
        self.clock.callLater(0, self.connect)

    def abandon(self) -> None:
        """
        End without a word: the gateway's process is killed.
        """
        self._observer = None
        self._waiting.clear()
        self.replies.clear()
        self.events.clear()
        if self._broadcast in self.platform.listeners:
            self.platform.listeners.remove(self._broadcast)

    def request(
        self, command: str, data: Mapping[str, Any], tag: object = None
    ) -> "Deferred[Outcome]":
        """
        See L{IUpstream.request}.
        """
        sent = Sent(len(self.sent) + 1, command, dict(data), tag)
        if not self.isConnected:
            sent.done.callback(unsent("no connection"))
            return sent.done
        self.sent.append(sent)
        self._waiting[sent] = None
        self.clock.callLater(self.timeout, self._timedOut, sent)
        if command in self.losesRequest:
            self.losesRequest.remove(command)
        else:
            self.requests.append(sent)
            self._later(self.requests, sent, self.deliverRequest)
        return sent.done

    def _later(
        self, where: list[Any], message: Any, deliver: Callable[[int], object]
    ) -> None:
        def arrive() -> None:
            for at, each in enumerate(where):
                if each is message:
                    deliver(at)
                    break

        if self.isAutomatic:
            self.clock.callLater(0, arrive)

    def _timedOut(self, sent: Sent) -> None:
        if sent in self._waiting:
            del self._waiting[sent]
            self._overdue.add(sent)
            self.figures.lost += 1
            sent.done.callback(unknown("no reply in time"))

    def deliverRequest(self, at: int = 0) -> None:
        """
        Have a request reach the platform.
        """
        if not self.requests:
            return
        sent = self.requests.pop(at)
        reply = self.platform.carryOut(sent.command, sent.data)
        if sent.command in self.losesReply:
            self.losesReply.remove(sent.command)
        elif self.isConnected and self._observer is not None:
            self.replies.append((sent, reply))
            self._later(self.replies, self.replies[-1], self.deliverReply)

    def deliverReply(self, at: int = 0, isLast: bool = True) -> None:
        """
        Have a reply reach the gateway.

        @param isLast: Whether it does not come once more.
        """
        if not self.replies:
            return
        sent, reply = self.replies.pop(at) if isLast else self.replies[at]
        if sent in self._waiting:
            del self._waiting[sent]
            sent.done.callback(outcomeOf(reply))
        elif sent in self._overdue and self._observer is not None:
            self._overdue.remove(sent)
            if sent.tag is None:
                return
            self._observer.repliedLate(sent.tag, outcomeOf(reply))

    def _broadcast(self, type: int, data: dict[str, Any]) -> None:
        if self.isConnected:
            self.events.append((type, data))
            self._later(self.events, self.events[-1], self.deliverEvent)

    def deliverEvent(self, at: int = 0, isLast: bool = True) -> None:
        """
        Have an event reach the gateway.

        @param isLast: Whether it does not come once more.
        """
        if self.events and self._observer is not None:
            event = self.events.pop(at) if isLast else self.events[at]
            self._observer.eventReceived(*event)

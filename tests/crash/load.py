"""
The operations to be sent, and the connections that send them.
"""

import random
import socket
from collections import deque
from json import dumps
from typing import Any, Final

import msgspec
from attrs import Factory, define

from tests.crash.asked import Asked
from tests.crash.record import Record, Violation
from tests.family import DELETIONS, METHODS

LOGINS: Final = range(1001, 1041)


@define(eq=False)
class Load:
    """
    The operations to be sent.

    @ivar again: Those that must be sent once more, under their keys.
    """

    record: Record
    random: random.Random
    again: deque[Asked] = Factory(deque)
    _alive: list[int] = Factory(list)

    def next(self) -> Asked:
        """
        Choose what is sent next.
        """
        if self.again:
            return self.again.popleft()
        chance = self.random.random()
        if chance < 0.04 and self.record.asked:
            earlier = self.random.choice(self.record.asked)
            if earlier.mayBeTwice and not earlier.isRefused:
                return earlier
        if chance < 0.40 and self._alive:
            asked = self._change(self.random.choice(self._alive))
        elif chance < 0.48 and self._alive:
            asked = self._delete(self.random.randrange(len(self._alive)))
        else:
            asked = self._add()
        if asked.mayBeTwice and self.random.random() < 0.05:
            # Twice at once: the second one finds the first pending.
            self.again.append(asked)
        return asked

    def made(self, order: int) -> None:
        """
        Record an order that can be changed.
        """
        self._alive.append(order)

    def _add(self) -> Asked:
        # More is deposited than withdrawn, but not always on the right
        # account.
        method = self.random.choices(list(METHODS), (4, 4, 1, 1))[0]
        login = self.random.choice(LOGINS)
        return self._ask(method, login=login, amount=self._amount(method))

    def _change(self, order: int) -> Asked:
        made = self.record.owner(order)
        amount = self._amount(made.method)
        login = made.data["login"]
        return self._ask(made.method, login=login, amount=amount, order=order)

    def _delete(self, index: int) -> Asked:
        alive = self._alive
        alive[index], alive[-1] = alive[-1], alive[index]
        order = alive.pop()
        total = METHODS[self.record.owner(order).method].total
        return self._ask(DELETIONS[total], order=order)

    def _ask(self, method: str, **data: Any) -> Asked:
        chance = self.random.random
        if method in METHODS and chance() < 0.1:
            data["open_time"] = 1_700_000_000 + self.random.randrange(10**7)
        return self.record.ask(method, chance() < 0.5, chance() < 0.7, **data)

    def _amount(self, method: str) -> float:
        sign = METHODS[method].sign
        return sign * self.random.randint(1, 1000_00 if sign > 0 else 50_00) / 100


class Connection:
    """
    One connection and its pending requests.

    @ivar waiting: The operations, by C{extID}.
    @ivar seen: The operations whose events it has received.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.waiting: dict[str, Asked] = {}
        self.seen: set[Asked] = set()
        self.isOpen = True
        self._rest = b""

    def line(self, asked: Asked, token: str) -> bytes:
        """
        The line that sends an operation once more; it is pending from now on.
        """
        extID = f"{asked.number}.{asked.sent}"
        self.waiting[extID] = asked
        line = {"command": asked.command, "extID": extID, "__token": token}
        if asked.key is not None:
            line["idempotencyKey"] = asked.key
        return dumps({**line, "data": asked.data}).encode() + b"\r\n"

    def send(self, data: bytes) -> None:
        """
        Write, if the connection is still open.
        """
        try:
            self.socket.sendall(data)
        except ConnectionError:
            # The server's last output can still be read.
            self.isOpen = False

    def receive(self) -> list[dict[str, Any]]:
        """
        Receive complete lines; one that was cut off is dropped.
        """
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            self.isOpen = False
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        try:
            return [msgspec.json.decode(line) for line in lines]
        except msgspec.DecodeError as e:
            raise Violation(f"a line is not JSON, {e}: {lines}") from e

    def drain(self) -> list[dict[str, Any]]:
        """
        Receive everything that a dead server has left.
        """
        messages = []
        self.isOpen = True
        while self.isOpen:
            messages += self.receive()
        self.socket.close()
        return messages

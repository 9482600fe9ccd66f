"""
Windows of lines as clients send them: finance requests in every spelling that the
fast path should take, and among them some that have one flaw or oddity.

Everything is drawn from one C{Random}, so that a seed is enough to repeat it, and
that hypothesis can take its place. Flaws and oddities come by windows and not by
lines: otherwise hardly a window would be without one.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeAlias

from creditsync.codes import MAX_NUMBER
from tests.attack.stack import TOKENS
from tests.family import DELETIONS, METHODS

# A member as it is written: its name and its value, both as JSON.
Members: TypeAlias = list[tuple[str, str]]

_MANAGER, _DEALER, _ADMIN = (
    next(token for token, role in TOKENS.items() if role == wanted)
    for wanted in (1, 2, 3)
)
_BAD_TOKENS: Final = (
    *(f'"{token}"' for token, role in TOKENS.items() if role not in (1, 2, 3)),
    f'"{_MANAGER[:-3]}AAA"', '"x"', '""', "null", "7",
)  # fmt: skip

_DELETIONS: Final = [
    name + suffix for name in DELETIONS.values() for suffix in ("", "Sync")
]
_BOOKINGS: Final = [name + suffix for name in METHODS for suffix in ("", "Sync")]

_AMOUNTS: Final = (
    "200", "200.0", "2e2", "2E+2", "20000e-2", "49.99", "9999999.99999999", "1e7",
    "0.00000001", "1e-8", "0.1", "3.1800000000000002", "434.99999999999994",
    "0.30000000000000004", "300.000000000", "100.5", "1234567.12345678",
)  # fmt: skip
_GREAT_AMOUNTS: Final = ("10000000000", "1e10", "9999999999.99999999", "10000000000.0")
_ODD_AMOUNTS: Final = (
    "0", "0.0", "-0.0", "-0", "0e9", "1e-400", "1e400", "-1e400", "5e-324", "1e-9",
    "0.000000009", "3.180000000000001", "1" * 60, "1" * 1000, "0." + "1" * 62,
    "0." + "0" * 1000 + "1", "1.".ljust(MAX_NUMBER, "0"), "0.1".ljust(MAX_NUMBER, "1"),
    "1.".ljust(MAX_NUMBER + 1, "0"), "0.1".ljust(MAX_NUMBER + 1, "1"),
    "10000000000.00000001", "10000000001", "9007199254740991", "9007199254740992",
    "9007199254740993.5", "18446744073709551616", "1e22", "NaN", "Infinity", "01",
    "1.", ".5", "+1", "1e", "true", "null", '"200"', "[200]", '{"a":200}', "",
)  # fmt: skip
_LOGINS: Final = ("1001", "1002", "1003", "1004")
_FAR_LOGINS: Final = ("1", "2", "9007199254740991", "4294967296")
_TIMES: Final = ("0", "1", "1767225600", "1767225601", "253402300799")
# What is odd where an integer belongs.
_ODD_INTEGERS: Final = (
    "-1", "-0", "9007199254740992", "-9007199254740992", "253402300800", "1001.0",
    "1.001e3", "1001.5", "1e400", "1" * 60, "true", "null", '"1001"', "{}", "[]", "01",
)  # fmt: skip
_ODD_STRINGS: Final = (
    '""', '"' + "x" * 129 + '"', '"' + "x" * 256 + '"', '"a\\u0041"', '"a\\"b"',
    '"\\\\"', '"\\ud800"', '"\\ud83d\\udcb6"', '"\u00e9"', '"\U0001f4b6"', '"\x7f"',
    '"\t"', '"\\t"', '"\\u0000"', '"\ufdd0"', '"it\'s"', '"a:b"', '"[,]"', '"{,}"',
    '"' + "," * 1001 + '"', "null", "true", "7", "7.0", "1.5", "{}", "[]",
)  # fmt: skip
_ODD_EXTIDS: Final = (
    *_ODD_STRINGS, "-0", "1e2", "9007199254740992", "-9007199254740992", "1" * 60,
)  # fmt: skip
_COMMANDS: Final = (
    '"HealthCheck"', '"GetOperation"', '"Subscribe"', '"Unsubscribe"', '"X"', '""',
    '"creditin"', '"CreditIn "', '"CreditInSyncSync"', "null", "7", '"Credit\\u0049n"',
)  # fmt: skip

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 -_"
# All that is printable in ASCII and needs no escape.
_PRINTABLE: Final = (
    "".join(map(chr, range(0x20, 0x7F))).replace('"', "").replace("\\", "")
)
_SPACES: Final = (" ", "  ", "\t", "\r", " \t ")
_BYTES: Final = b"{}[],:\"\\'0e.- \t\r\n\x00\x7fx\xc3\xff"


class Lines:
    """
    Makes windows of lines.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._count = 0
        # How the lines of the present window are written.
        self._hasSpaces = self._isShuffled = self._deletes = False
        self._alphabet = _LETTERS
        self._token = f'"{_MANAGER}"'
        self._flaws = (
            *[self._oddValue] * 4,
            self._without,
            self._twice,
            self._unknown,
            self._badToken,
            self._otherCommand,
            self._changedByte,
            self._twoInOne,
            self._broken,
            self._torn,
        )

    def window(self, most: int) -> list[bytes]:
        """
        Lines without their ends, as a client sends them together.
        """
        chance = self._random.random
        self._hasSpaces = chance() < 0.2
        self._isShuffled = chance() < 0.3
        self._deletes = chance() < 0.1
        self._alphabet = _PRINTABLE if chance() < 0.1 else _LETTERS
        self._token = f'"{self._pick((_MANAGER, _MANAGER, _DEALER, _ADMIN))}"'
        odd = self._pick((0.0, 0.0, 0.0, 0.0, 0.05, 0.3))
        count = int(chance() * most) + 1
        return [self._line(chance() < odd) for _ in range(count)]

    def _pick(self, pool: Sequence[Any]) -> Any:
        # Random.choice takes three times as long.
        return pool[int(self._random.random() * len(pool))]

    def _line(self, isOdd: bool) -> bytes:
        self._count += 1
        envelope, data = self._request()
        write = self._pick(self._flaws) if isOdd else self._text
        line: bytes = write(envelope, data)
        return line

    def _request(self) -> tuple[Members, Members]:
        """
        The members of a request, and those of its data.
        """
        chance = self._random.random
        isDeletion = self._deletes and chance() < 0.3
        command = self._pick(_DELETIONS if isDeletion else _BOOKINGS)
        envelope = [("command", f'"{command}"'), ("__token", self._token)]
        if command.endswith("Sync") or chance() < 0.8:
            envelope.append(("extID", self._extID()))
        if chance() < 0.1:
            envelope.append(("idempotencyKey", self._key()))
        if isDeletion:
            return envelope, [("order", str(self._order()))]
        sign = "-" if "Out" in command else ""
        data = [("login", self._login()), ("amount", sign + self._amount())]
        if command.startswith("Credit") or chance() < 0.8:
            data.append(("comment", self._comment()))
        if chance() < 0.25:
            data.append(("order", str(self._order())))
        if chance() < 0.1:
            data.append(("open_time", self._pick(_TIMES)))
        if chance() < 0.1:
            data.append(("close_time", self._pick(_TIMES)))
        return envelope, data

    def _extID(self) -> str:
        kind = self._random.random()
        if kind < 0.7:
            return f'"credit-req-{self._count}"'
        if kind < 0.95:
            return str(self._count)
        return str(
            self._pick(
                (
                    '"again"', '"x"', "0", "-1", f'"{self._count:0>128}"',
                    "9007199254740991", "-9007199254740991",
                )
            )
        )  # fmt: skip

    def _key(self) -> str:
        kind = self._random.random()
        if kind < 0.6:
            return f'"k{int(kind * 50)}"'
        return f'"{self._count:0>128}"' if kind < 0.65 else f'"key {self._count}"'

    def _login(self) -> str:
        pool = _LOGINS if self._random.random() < 0.95 else _FAR_LOGINS
        return str(self._pick(pool))

    def _order(self) -> int:
        kind = self._random.random()
        if kind < 0.1:
            return 0
        return 9007199254740991 if kind < 0.15 else int(kind * 500)

    def _amount(self) -> str:
        chance = self._random.random
        kind = chance()
        if kind < 0.4:
            return str(self._pick(_AMOUNTS))
        if kind < 0.41:
            return str(self._pick(_GREAT_AMOUNTS))
        units = int(10 ** (chance() * 14)) + 1
        if kind < 0.6:
            return str(units // 10**6 + 1)
        if kind < 0.8:
            return f"{units // 10**8}.{units % 10**8:08}"
        if kind < 0.9:
            return repr(units / 10**8)
        if kind < 0.95:
            return f"{units / 10**8:.17g}"
        # Zeros that change nothing.
        return f"{units // 10**8}.{units % 10**8:08}".ljust(int(chance() * 65), "0")

    def _comment(self) -> str:
        chance = self._random.random
        alphabet = self._alphabet
        if alphabet is _LETTERS and chance() < 0.9:
            return f'"Promotion credit {self._count}"'
        count = 255 if chance() < 0.05 else int(chance() * 40) + 1
        return f'"{"".join([self._pick(alphabet) for _ in range(count)])}"'

    def _text(self, envelope: Members, data: Members) -> bytes:
        """
        Write a request.
        """
        members = [*envelope, ("data", self._object(data))]
        return self._object(members).encode("utf-8", "surrogatepass")

    def _object(self, members: Members) -> str:
        if self._isShuffled:
            self._random.shuffle(members)
        if not self._hasSpaces:
            return "{" + ",".join([f'"{name}":{text}' for name, text in members]) + "}"
        space = self._space
        return (
            f"{space()}{{{space()}"
            + ",".join(
                f'{space()}"{name}"{space()}:{space()}{text}{space()}'
                for name, text in members
            )
            + f"{space()}}}{space()}"
        )

    def _space(self) -> str:
        return str(self._pick(_SPACES)) if self._random.random() < 0.2 else ""

    # One flaw or oddity each. Some make a line that is to be taken all the same.

    def _oddValue(self, envelope: Members, data: Members) -> bytes:
        name = self._pick(_NAMES)
        members = envelope if name in _ENVELOPE else data
        members[:] = [each for each in members if each[0] != name]
        sign = self._pick(("", "-")) if name == "amount" else ""
        members.append((name, sign + self._pick(_ODD.get(name, _ODD_INTEGERS))))
        return self._text(envelope, data)

    def _without(self, envelope: Members, data: Members) -> bytes:
        members = self._pick((envelope, data))
        del members[int(self._random.random() * len(members))]
        return self._text(envelope, data)

    def _twice(self, envelope: Members, data: Members) -> bytes:
        members = self._pick((envelope, data))
        name, text = self._pick(members)
        text = self._pick((text, text, "7", '"x"'))
        if self._random.random() < 0.2:
            name = f"\\u{ord(name[0]):04x}{name[1:]}"
        members.insert(int(self._random.random() * (len(members) + 1)), (name, text))
        return self._text(envelope, data)

    def _unknown(self, envelope: Members, data: Members) -> bytes:
        """
        A member that is ignored, or one at the wrong level.
        """
        name = self._pick(("from", "x", "__access", "login", "idempotencyKey", "extID"))
        text = self._pick(("7", '"x"', "null", "{}", "[]", '{"a":{"b":[1]}}', "1e400"))
        self._pick((envelope, data)).append((name, text))
        return self._text(envelope, data)

    def _badToken(self, envelope: Members, data: Members) -> bytes:
        envelope[1] = "__token", self._pick(_BAD_TOKENS)
        return self._text(envelope, data)

    def _otherCommand(self, envelope: Members, data: Members) -> bytes:
        envelope[0] = "command", self._pick(_COMMANDS)
        if self._random.random() < 0.2:
            data[:] = [("chanels", '["trade:event"]')]
        return self._text(envelope, data)

    def _changedByte(self, envelope: Members, data: Members) -> bytes:
        line = self._text(envelope, data)
        at = int(self._random.random() * len(line))
        other = bytes([self._pick(_BYTES)])
        end = at + self._pick((0, 1))
        return line[:at] + self._pick((other, b"")) + line[end:]

    def _twoInOne(self, envelope: Members, data: Members) -> bytes:
        line = self._text(envelope, data)
        another = self._text(*self._request())
        return line + self._pick((b"", b" ", b",", b"\t", b"\r")) + another

    def _broken(self, envelope: Members, data: Members) -> bytes:
        """
        A request that is broken over two lines, between or inside of its tokens,
        sometimes with another one after it: two requests on two lines.
        """
        line = self._text(envelope, data)
        at = 1 + self._random.choice(
            [at for at, byte in enumerate(line) if byte in b",:{"]
            if self._random.random() < 0.8
            else range(len(line))
        )
        if self._random.random() < 0.5:
            line += self._text(*self._request())
        return line[:at] + self._pick((b"\n", b"\r\n")) + line[at:]

    def _torn(self, envelope: Members, data: Members) -> bytes:
        line = self._text(envelope, data)
        ends = (b"}", b"]", b",", b"{}", b" x", b"null", b"\xef\xbb\xbf")
        if self._random.random() < 0.5:
            return line + self._pick(ends)
        return (
            self._pick((b"\xef\xbb\xbf", b",", b""))
            + line[: self._pick((len(line), -1, -2, -10))]
        )


_ENVELOPE: Final = ("command", "__token", "extID", "idempotencyKey")
_NAMES: Final = (
    *_ENVELOPE, "login", "amount", "comment", "order", "open_time", "close_time",
)  # fmt: skip
_ODD: Final = {
    "command": _COMMANDS,
    "__token": _BAD_TOKENS,
    "extID": _ODD_EXTIDS,
    "idempotencyKey": _ODD_STRINGS,
    "amount": _ODD_AMOUNTS,
    "comment": _ODD_STRINGS,
}

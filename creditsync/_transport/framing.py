"""
From bytes to lines: the input of one connection.

Lines end with LF; a CR before it belongs to the end. A line that has begun must
end in time, and a line that grows past its limit is given out as far as it has
come, so that it can be refused.
"""

from typing import Final, Generic, TypeVar

from creditsync._timeouts import EqualTimeouts
from creditsync._transport.tls import BEGINNINGS

_CR: Final = ord("\r")

_Connection = TypeVar("_Connection")


class LineBuffer(Generic[_Connection]):
    """
    What has arrived on one connection and is not handled yet.

    @ivar lines: Complete lines, up to the end of the last; empty when all are
        taken. They are not split when they arrive: a read may consist of
        nothing but line ends, each of which would then be an object.
    """

    def __init__(
        self,
        connection: _Connection,
        timeouts: "EqualTimeouts[_Connection]",
        maxLength: int,
    ) -> None:
        """
        @param timeouts: Where the connection is while a line has begun and has
            not ended.
        @param maxLength: Bytes that a line may have without its end.
        """
        self.lines = b""
        # Where in them the first one begins that was not taken.
        self._at = 0
        self._partial = bytearray()
        self._connection = connection
        self._timeouts = timeouts
        self._maxPartial = maxLength + len(b"\r")

    def add(self, data: bytes) -> None:
        """
        Take bytes as they arrived.
        """
        partial = self._partial
        end = data.rfind(b"\n") + 1
        if end:
            lines, data = data[:end], data[end:]
            if partial:
                lines = self._takePartial() + lines
            self.lines = self.lines[self._at :] + lines
            self._at = 0
        if not data:
            return
        if not partial:
            self._timeouts.start(self._connection)
        partial += data
        # A client that speaks TLS to a plain port waits for an answer, and gives
        # up at once when what it receives is not TLS.
        if len(partial) > self._maxPartial or partial.startswith(BEGINNINGS):
            self.lines = self.lines[self._at :] + self._takePartial() + b"\n"
            self._at = 0

    def window(self, size: int, most: int) -> tuple[bytes, int]:
        """
        The first of L{lines}, with their ends: at most so many bytes, but at least
        one line, and at most so many lines.

        @return: These lines, and how many they are.
        """
        lines, at = self.lines, self._at
        if at or len(lines) > size:
            end = lines.rfind(b"\n", at, at + size)
            if end < 0:
                end = lines.index(b"\n", at)
            lines = lines[at : end + 1]
        count = lines.count(b"\n")
        if count > most:
            return b"\n".join([*lines.split(b"\n", most)[:most], b""]), most
        return lines, count

    def drop(self, count: int) -> None:
        """
        Forget the first bytes of L{lines}: whole lines.
        """
        self._at += count
        if self._at == len(self.lines):
            self.dropLines()

    def take(self) -> bytes:
        """
        Take the first of L{lines}, without its end.
        """
        lines, at = self.lines, self._at
        end = lines.index(b"\n", at)
        if end + 1 == len(lines):
            self.lines = b""
            self._at = 0
        else:
            self._at = end + 1
        # What stands before an empty line is a line end too, and no CR.
        return lines[at : end - 1 if lines[end - 1] == _CR else end]

    def dropLines(self) -> None:
        """
        Forget the complete lines.
        """
        self.lines = b""
        self._at = 0

    def dropPartial(self) -> None:
        """
        Forget a line that has begun and not ended.
        """
        self._takePartial()

    def _takePartial(self) -> bytes:
        line = bytes(self._partial)
        self._partial.clear()
        self._timeouts.end(self._connection)
        return line
